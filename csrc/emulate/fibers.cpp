#include "emulate/fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "common/error.h"
#include "emulate/context.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define WF_ASAN 1
#else
#define WF_ASAN 0
#endif

namespace wavernn_fast::emulate {

Machine* machine = nullptr;

namespace {

// Stacks of a launch, kept for the next: fresh pages would have to be cleared, one by one, each
// time. One launch at a time in a process, so one piece of memory serves all.
class Stacks {
 public:
  ~Stacks() { drop(); }
  char* room(size_t bytes) {
    if (bytes > bytes_) {
      drop();
      const size_t whole = (bytes + kPage - 1) / kPage * kPage;
      at_ = static_cast<char*>(std::aligned_alloc(kPage, whole));
      if (at_ == nullptr) throw std::bad_alloc();
      bytes_ = whole;
#if defined(MADV_HUGEPAGE)
      madvise(at_, whole, MADV_HUGEPAGE);  // a small page a fiber would miss at every switch
#endif
    }
    return at_;
  }
  void drop() {
    std::free(at_);
    at_ = nullptr;
    bytes_ = 0;
  }

 private:
  static constexpr size_t kPage = 2 * 1024 * 1024;
  char* at_ = nullptr;
  size_t bytes_ = 0;
};

constexpr size_t kKept = 64 * 1024 * 1024;  // of stacks, between launches
Stacks stacks;

}  // namespace

Machine::Machine(const Launch& launch, const Options& options)
    : launch_(launch), options_(options), random_(options.schedule.seed * 2 + 1) {
  if (!has_contexts())
    fail<DeviceError>("The emulator has no fibers for this processor (x86-64 and AArch64 have).");
  blocks_.resize(size_t(launch.blocks));
  for (Block& b : blocks_) {
    b.warps.resize(size_t(launch.threads / kLanes));
    b.shared.assign(size_t(launch.shared_floats), 0.0f);
    b.waiting.reserve(size_t(launch.threads));
  }
  clusters_.resize(size_t(launch.blocks / launch.cluster));
  const size_t count = size_t(launch.blocks) * size_t(launch.threads);
  fibers_.resize(count);
  char* const room = stacks.room(count * launch.stack_bytes);
  for (size_t i = 0; i < count; ++i) {
    fibers_[i].block = int(i) / launch.threads;
    fibers_[i].thread = int(i) % launch.threads;
    fibers_[i].stack = room + i * launch.stack_bytes;
  }
}

Machine::~Machine() {
  if (WF_ASAN || fibers_.size() * launch_.stack_bytes > kKept) stacks.drop();
}

void Machine::run(void (*body)(void*), void* argument) {
  body_ = body;
  argument_ = argument;
  machine = this;
  for (Fiber& f : fibers_) {
    f.context = make_context(f.stack, launch_.stack_bytes, &Machine::fiber_main);
    make_ready(&f);
  }
  left_ = fibers_.size();
  enter(*pick());
  machine = nullptr;
  if (left_ > 0 && !error_) report_deadlock();
  counts_.launches = 1;
  for (const Fiber& f : fibers_) counts_.hops = std::max<int64_t>(counts_.hops, f.depth);
  if (error_) std::rethrow_exception(error_);
}

void Machine::fiber_main() {
  Machine& m = *machine;
  m.arrived(*m.current_);
  try {
    m.body_(m.argument_);
  } catch (...) {
    m.error_ = std::current_exception();  // it must not leave this stack
  }
  m.current_->finished = true;
  ++m.block().finished;
  --m.left_;
  m.progressed();
  m.suspend();
  __builtin_unreachable();
}

void Machine::enter(Fiber& fiber) {
  current_ = &fiber;
#if WF_ASAN
  __sanitizer_start_switch_fiber(&scheduler_.sanitizer, fiber.stack, launch_.stack_bytes);
#endif
  switch_context(&scheduler_.context, fiber.context);
#if WF_ASAN
  __sanitizer_finish_switch_fiber(scheduler_.sanitizer, nullptr, nullptr);
#endif
}

void Machine::leave([[maybe_unused]] Fiber& self) {
#if WF_ASAN
  __sanitizer_start_switch_fiber(self.finished ? nullptr : &self.sanitizer, scheduler_stack_,
                                 scheduler_bytes_);
#endif
  switch_context(&self.context, scheduler_.context);
}

void Machine::arrived([[maybe_unused]] const Fiber& self) {
#if WF_ASAN
  const void* from = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self.sanitizer, &from, &bytes);
  if (scheduler_stack_ == nullptr) scheduler_stack_ = from, scheduler_bytes_ = bytes;  // the first
#endif
}

// Straight to the next fiber: by way of run() every wait would take two switches.
void Machine::suspend() {
  Fiber& self = *current_;
  Fiber* const next = error_ || left_ == 0 ? nullptr : pick();
  if (next == &self) return;
  if (next == nullptr) return leave(self);
  current_ = next;
#if WF_ASAN
  __sanitizer_start_switch_fiber(self.finished ? nullptr : &self.sanitizer, next->stack,
                                 launch_.stack_bytes);
#endif
  switch_context(&self.context, next->context);
  arrived(self);
}

// --- the order -----------------------------------------------------------------------------------

void Machine::make_ready(Fiber* fiber) {
  const Schedule& s = options_.schedule;
  const bool starved = (s.kind == Schedule::Kind::starve && fiber->block == s.block) ||
                       (s.kind == Schedule::Kind::slow && fiber->thread / kLanes == s.block);
  (starved ? starved_ : ready_).push_back(fiber);
}

void Machine::release(Fiber* fiber) {
  const size_t before = ready_.size();
  make_ready(fiber);
  if (ready_.size() > before) unseen_ = 0;  // it is no poller: what it does is not known
}

namespace {

// Who is next unless the order is random: its stack has left the cache, and is fetched while
// another one runs.
void expect(const Fiber* fiber) {
  const char* const at = static_cast<const char*>(fiber->context);
  for (int line = 0; line < 4; ++line) __builtin_prefetch(at + 64 * line);
}

Fiber* take(std::vector<Fiber*>& queue, size_t& head) {
  Fiber* first = queue[head++];
  if (head == queue.size() || head > (1u << 16)) {
    queue.erase(queue.begin(), queue.begin() + long(head));
    head = 0;
  }
  return first;
}

}  // namespace

Fiber* Machine::pick() {
  const size_t ready = ready_.size() - ready_head_, starved = starved_.size() - starved_head_;
  if (ready + starved == 0) return nullptr;
  // All others have polled since a word last changed: they cannot go on by themselves.
  if (starved > 0 && (ready == 0 || unseen_ > ready)) return take(starved_, starved_head_);
  if (options_.schedule.kind == Schedule::Kind::random) {
    random_ = random_ * 6364136223846793005ull + 1442695040888963407ull;
    // A division of 64 bits would take twice as long.
    const size_t chosen = uint32_t(random_ >> 33) % uint32_t(ready);
    std::swap(ready_[ready_head_], ready_[ready_head_ + chosen]);
  }
  Fiber* const taken = take(ready_, ready_head_);
  if (ready > 1) expect(ready_[ready_head_]);
  return taken;
}

// --- waiting -------------------------------------------------------------------------------------

// The last of `count` threads to come lets the others go on.
template <class Place>
void Machine::meet(Place& place, int count) {
  place.depth = std::max(place.depth, current_->depth);
  if (++place.arrived < count) {
    place.waiting.push_back(current_);
    suspend();
    return;
  }
  place.arrived = 0;
  ++counts_.barriers;
  current_->depth = place.depth;
  for (Fiber* f : place.waiting) {
    f->depth = place.depth;
    release(f);
  }
  place.depth = 0;
  place.waiting.clear();
}

void Machine::meet_block(int barrier) {
  if (options_.fault.barrier == barrier) return;
  Block& b = block();
  idle_ = 0;
  WF_CHECK(b.arrived == 0 || b.barrier == barrier, "block ", current_->block, ": thread ",
           current_->thread, " is at barrier ", barrier, " while others wait at ", b.barrier);
  b.barrier = barrier;
  meet(b, launch_.threads);
}

void Machine::meet_part(int barrier, int number, int threads, bool waits) {
  if (options_.fault.barrier == barrier) return;
  Part& p = block().parts[number];
  idle_ = 0;
  WF_CHECK(p.arrived == 0 || p.barrier == barrier, "block ", current_->block, ": thread ",
           current_->thread, " is at barrier ", barrier, " while others are at ", p.barrier);
  p.barrier = barrier;
  if (waits || p.arrived + 1 == threads)
    meet(p, threads);
  else
    p.depth = std::max(p.depth, current_->depth), ++p.arrived;
}

void Machine::meet_cluster(int barrier) {
  if (options_.fault.barrier == barrier) return;
  Cluster& c = clusters_[size_t(current_->block / launch_.cluster)];
  idle_ = 0;
  meet(c, launch_.threads * launch_.cluster);
}

float* Machine::shared_of(int rank) {
  const int block = current_->block / launch_.cluster * launch_.cluster + rank;
  Block& peer = blocks_[size_t(block)];
  if (peer.finished == launch_.threads)
    fail<EngineError>("Emulation: block ", current_->block, " pushes to block ", block,
                      ", which has left.");
  return peer.shared.data();
}

void Machine::share_depth(Warp& w) {
  int depth = current_->depth;
  for (int i = 0; i < kLanes - 1; ++i) depth = std::max(depth, w.waiting[i]->depth);
  for (int i = 0; i < kLanes - 1; ++i) w.waiting[i]->depth = depth;
  current_->depth = depth;
}

void Machine::meet_warp(int kind, void (*combine)(Warp&, int), int argument) {
  Warp& w = warp();
  idle_ = 0;
  WF_CHECK(w.arrived == 0 || w.kind == kind, "block ", current_->block, ": thread ",
           current_->thread, " is at warp collective ", kind, " while others wait at ", w.kind);
  w.kind = kind;
  if (++w.arrived < kLanes) {
    w.waiting[w.arrived - 1] = current_;
    suspend();
    return;
  }
  w.arrived = 0;
  combine(w, argument);
  if (launch_.counting) share_depth(w);
  for (int i = 0; i < kLanes - 1; ++i) release(w.waiting[i]);
}

bool Machine::wait_for_word() {
  if (hopeless_) return false;
  const size_t others = ready_.size() - ready_head_ + starved_.size() - starved_head_;
  // A random order needs more rounds until surely everybody has looked.
  const size_t rounds = options_.schedule.kind == Schedule::Kind::random ? 60 : 4;
  ++unseen_;
  if (++idle_ > rounds * (others + 1)) {
    hopeless_ = true;
    return false;
  }
  make_ready(current_);
  suspend();
  return !hopeless_;
}

void Machine::report_deadlock() const {
  for (const Block& b : blocks_) {
    if (b.arrived > 0)
      fail<EngineError>("Emulation: ", b.arrived, " of ", launch_.threads, " threads of block ",
                        &b - blocks_.data(), " wait at barrier ", b.barrier, " for ever.");
    for (const Part& p : b.parts)
      if (p.arrived > 0)
        fail<EngineError>("Emulation: ", p.arrived, " threads of block ", &b - blocks_.data(),
                          " are at barrier ", p.barrier, " and others never come.");
    for (const Warp& w : b.warps)
      if (w.arrived > 0)
        fail<EngineError>("Emulation: ", w.arrived, " of 32 lanes of warp ", &w - b.warps.data(),
                          " of block ", &b - blocks_.data(), " wait at a collective for ever.");
  }
  for (const Cluster& c : clusters_)
    if (c.arrived > 0)
      fail<EngineError>("Emulation: ", c.arrived, " of ", launch_.threads * launch_.cluster,
                        " threads of cluster ", &c - clusters_.data(),
                        " wait at its barrier for ever.");
  fail<EngineError>("Emulation: no thread can go on.");
}

}  // namespace wavernn_fast::emulate
