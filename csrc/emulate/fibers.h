// Runs all threads of a launch on one processor thread: every CUDA thread is a fiber that goes on
// until it must wait. Barriers and warp collectives are rendezvous; a poll that fails lets the
// others go on. Nothing here knows the kernel.
//
// A launch that can never end is reported at once, not after a time-out: when every fiber that can
// run is polling and none of them has seen anything new, or when none can run at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "emulate/counts.h"
#include "emulate/options.h"

namespace wavernn_fast::emulate {

struct Fiber {
  void* context = nullptr;
  char* stack = nullptr;
  void* sanitizer = nullptr;  // of AddressSanitizer, which must know about stacks
  int block = 0, thread = 0;
  int depth = 0, looked = 0;  // see counts.h; of the words it has looked at since the last poll
  bool finished = false;
};

inline constexpr int kLanes = 32;

// What a lane has of a product of tiles: see multiply_tile.
struct TileWork {
  uint32_t weights[4], activations[2];
  float sums[4];
};

// A warp collective: lanes put their values in, the last to come fills what all take out. In and
// out are apart, since a quick lane puts its next value in before a slow one has taken this out.
struct Warp {
  int arrived = 0;
  int kind = -1;
  float in[kLanes][kLanes];  // [value][lane]
  float out[kLanes];
  uint32_t words_in[kLanes];
  uint32_t words_out[kLanes];
  TileWork tile_in[kLanes];
  float tile_out[kLanes][4];
  Fiber* waiting[kLanes];
};

// A barrier of some warps of a block.
struct Part {
  int arrived = 0;
  int barrier = -1;  // as below
  int depth = 0;     // of those who have come
  std::vector<Fiber*> waiting;
};
inline constexpr int kParts = 16;  // as a device has

struct Block {
  int arrived = 0;
  int barrier = -1;  // at which its fibers wait
  int depth = 0;     // of those who have come
  Part parts[kParts];
  int finished = 0;  // fibers
  std::vector<Fiber*> waiting;
  std::vector<Warp> warps;
  std::vector<float> shared;
};

struct Cluster {
  int arrived = 0;
  int depth = 0;
  std::vector<Fiber*> waiting;
};

struct Launch {
  int blocks, threads;  // threads of a block
  int cluster;          // blocks that reach each other's shared memory; they follow each other
  int shared_floats;
  size_t stack_bytes;  // of a fiber
  bool counting;
};

class Machine {
 public:
  Machine(const Launch& launch, const Options& options);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Runs `body` as every thread to its end. EngineError, saying who waits where, if the threads
  // wait for each other for ever; a poll that can never succeed returns false instead.
  void run(void (*body)(void*), void* argument);

  // --- what primitives call, from inside a fiber ---
  const Fiber& current() const { return *current_; }
  Block& block() { return blocks_[size_t(current_->block)]; }
  Warp& warp() { return block().warps[size_t(current_->thread / kLanes)]; }
  const Fault& fault() const { return options_.fault; }
  void meet_block(int barrier);
  // At a barrier of `threads` threads of the block; without `waits` this one goes on at once.
  void meet_part(int barrier, int number, int threads, bool waits);
  void meet_cluster(int barrier);
  float* shared_of(int rank);  // of a block of this cluster; EngineError if that has ended
  // Waits until all lanes of the warp have come with the same `kind`; the last runs `combine`.
  void meet_warp(int kind, void (*combine)(Warp&, int), int argument);
  void progressed() { idle_ = unseen_ = 0; }  // a word was published, or a poll succeeded
  // A poll failed: lets the others go on. False if nothing can ever change.
  bool wait_for_word();
  // Of counts.h: what is sent, looked at and, if a poll has found it there, taken.
  void sent(const void* at, int64_t Counts::* kind) {
    if (!launch_.counting) return;
    ++(counts_.*kind);
    depths_.sent(at, current_->depth);
  }
  void looked_at(const void* at) {
    if (launch_.counting) current_->looked = std::max(current_->looked, depths_.at(at));
  }
  void polled(bool found) {
    if (found) current_->depth = std::max(current_->depth, current_->looked);
    current_->looked = 0;
  }
  const Counts& counts() const { return counts_; }  // after run()

 private:
  template <class Place>
  void meet(Place& place, int count);
  void share_depth(Warp& w);  // of lanes that have all come
  static void fiber_main();
  void enter(Fiber& fiber);         // from run(), which goes on when no fiber does any more
  void suspend();                   // to whoever is next
  void leave(Fiber& self);          // to run()
  void arrived(const Fiber& self);  // what a sanitizer is told after a switch to `self`
  void make_ready(Fiber* fiber);
  void release(Fiber* fiber);  // from a barrier or a collective
  Fiber* pick();
  [[noreturn]] void report_deadlock() const;

  Launch launch_;
  Options options_;
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<Fiber> fibers_;
  std::vector<Fiber*> ready_, starved_;  // queues; [head, end) wait
  size_t ready_head_ = 0, starved_head_ = 0;
  size_t left_ = 0;  // fibers that have not finished
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  Fiber* current_ = nullptr;
  Fiber scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_bytes_ = 0;
  std::exception_ptr error_;
  uint64_t random_;
  size_t idle_ = 0;    // failed polls in a row in which nothing happened
  size_t unseen_ = 0;  // the same, but for threads that met: pollers do not see that
  bool hopeless_ = false;
  Counts counts_;
  Depths depths_;
};

// The machine whose fiber is running, for the primitives. One launch at a time in a process.
extern Machine* machine;

}  // namespace wavernn_fast::emulate
