// The loops of benchmarks/exchange.cu on threads of the host, one a CUDA thread: that every payload
// arrives, that the tags and the two buffers hold, and that a missing block ends the run with a
// report instead of a hang. Prints "<transport> ... ok" lines; exit code 1 on any error.
#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "cuda/kernels/args.h"

#define WF_INLINE [[maybe_unused]] static inline
#define WF_UNROLL
#define WF_REGISTERS(type, name, count) type name[(count) > 0 ? (count) : 1]
#define EXCHANGE_HOST

namespace wavernn_fast::gpu {

struct Float2 {
  float x, y;
};

struct Block {
  explicit Block(int threads, int floats) : meet(threads), shared(floats) {}
  std::barrier<> meet;
  std::vector<float> shared;
};
struct Grid {
  std::vector<std::unique_ptr<Block>> blocks;
  std::unique_ptr<std::barrier<>> cluster;
  int threads = 0;
};
static Grid* grid;
static int missing_block = -1;  // publishes nothing
static thread_local int t_block, t_thread;

WF_INLINE int thread_index() { return t_thread; }
WF_INLINE int lane_index() { return t_thread & 31; }
WF_INLINE int warp_index() { return t_thread >> 5; }
WF_INLINE int block_index() { return t_block; }
WF_INLINE int block_count() { return static_cast<int>(grid->blocks.size()); }
WF_INLINE int thread_count() { return grid->threads; }
WF_INLINE float* shared_memory() { return grid->blocks[t_block]->shared.data(); }
WF_INLINE long long clock_ticks() { return 0; }
WF_INLINE long long nanoseconds() { return 0; }
WF_INLINE float add(float a, float b) { return a + b; }
WF_INLINE unsigned bits_of_float(float x) { return __builtin_bit_cast(unsigned, x); }
WF_INLINE void store2(float* at, Float2 v) {
  at[0] = v.x;
  at[1] = v.y;
}
WF_INLINE void block_sync(int) { grid->blocks[t_block]->meet.arrive_and_wait(); }
WF_INLINE void cluster_sync() { grid->cluster->arrive_and_wait(); }
WF_INLINE void count_error(int* errors) { std::atomic_ref<int>(*errors)++; }

WF_INLINE Word make_word(float value, unsigned tag) {
  return static_cast<Word>(tag) << 32 | bits_of_float(value);
}
WF_INLINE float payload(Word word) {
  return __builtin_bit_cast(float, static_cast<unsigned>(word));
}
// Relaxed, as on the device: nothing but the word itself is ordered.
WF_INLINE void store_word(Word* at, Word word) {
  if (t_block != missing_block) std::atomic_ref<Word>(*at).store(word, std::memory_order_relaxed);
}
WF_INLINE Word load_word(const Word* at) {
  return std::atomic_ref<Word>(*const_cast<Word*>(at)).load(std::memory_order_relaxed);
}
WF_INLINE void publish(Word* at, float value, unsigned tag) { store_word(at, make_word(value, tag)); }

struct Poller {
  const KernelArgs& args;
  volatile int* stop;
};
WF_INLINE void report(KernelStatus* status, int word, unsigned tag) {
  int running = kRunning;
  if (!std::atomic_ref<int>(status->code).compare_exchange_strong(running, kStalled)) return;
  status->block = block_index();
  status->word = word;
  status->tag = tag;
}
WF_INLINE void poll_pairs(const Poller& poller, const Word* at, int stride, int count, unsigned tag,
                          float* out) {
  for (unsigned tries = 0;;) {
    bool ready = true;
    for (int i = 0; i < count; ++i)
      for (int e = 0; e < 2; ++e) {
        const Word word = load_word(at + i * stride + e);
        ready = ready && static_cast<unsigned>(word >> 32) == tag;
        out[2 * i + e] = payload(word);
      }
    if (ready) return;
    if ((++tries & 63) == 0) std::this_thread::yield();
    if ((tries & 63) == 0 && (tries >= poller.args.poll_limit || *poller.stop)) {
      report(poller.args.status, static_cast<int>(at - poller.args.words), tag);
      *poller.stop = 1;
      return;
    }
  }
}
WF_INLINE void push_word(Word* at, int rank, float value, unsigned tag) {
  const std::ptrdiff_t offset = reinterpret_cast<float*>(at) - shared_memory();
  store_word(reinterpret_cast<Word*>(grid->blocks[rank]->shared.data() + offset),
             make_word(value, tag));
}
WF_INLINE void load_words(const Word* at, Word& a, Word& b) {
  a = load_word(at);
  b = load_word(at + 1);
  std::this_thread::yield();
}

}  // namespace wavernn_fast::gpu

#include "exchange.cu"

namespace {

using Loop = void (*)(Word*, Result*, int n, int replicas, unsigned steps, unsigned tag0,
                      unsigned poll_limit);

template <int kPairs, bool kMeets>
void l2(Word* w, Result* r, int n, int replicas, unsigned steps, unsigned tag0, unsigned limit) {
  through_l2<kPairs, kMeets>(w, r, n, replicas, steps, tag0, limit);
}
template <int kBlocks>
void cluster(Word*, Result* r, int n, int, unsigned steps, unsigned tag0, unsigned limit) {
  through_cluster<kBlocks>(r, n, steps, tag0, limit);
}

Result run(Loop loop, int blocks, int threads, int n, int replicas, unsigned steps, unsigned tag0,
           std::vector<Word>& words, unsigned limit) {
  Grid own;
  own.threads = threads;
  own.cluster = std::make_unique<std::barrier<>>(blocks * threads);
  for (int b = 0; b < blocks; ++b)
    own.blocks.push_back(std::make_unique<Block>(threads, 4 + 4 * n));
  grid = &own;
  Result result{};
  std::vector<std::thread> all;
  for (int b = 0; b < blocks; ++b)
    for (int t = 0; t < threads; ++t)
      all.emplace_back([=, &result, &words] {
        t_block = b;
        t_thread = t;
        loop(words.data(), &result, n, replicas, steps, tag0, limit);
      });
  for (std::thread& thread : all) thread.join();
  return result;
}

int failures = 0;

void expect(bool good, const char* name, const Result& r) {
  std::printf("%s: code %d, %d errors, %u steps: %s\n", name, r.status.code, r.errors, r.steps,
              good ? "ok" : "FAILED");
  failures += !good;
}

void check(Loop loop, const char* name, int blocks, int n, int replicas) {
  constexpr unsigned kSteps = 300, kLimit = 1u << 30;
  std::vector<Word> words(8 * n, 0);
  unsigned tag0 = 1;
  for (int launch = 0; launch < 2; ++launch, tag0 += kSteps + 1) {  // tags go on, nothing is cleared
    const Result r = run(loop, blocks, 32, n, replicas, kSteps, tag0, words, kLimit);
    expect(r.status.code == kRunning && r.errors == 0 && r.steps == kSteps, name, r);
  }
}

}  // namespace

int main() {
  check(l2<1, true>, "l2 1 pair", 3, 56, 1);
  check(l2<4, true>, "l2 4 pairs", 4, 224, 1);
  check(l2<7, true>, "l2 7 pairs, 4 copies", 4, 448, 4);
  check(l2<21, true>, "l2 21 pairs, 2 copies", 2, 1344, 2);
  check(l2<4, false>, "none", 2, 224, 1);
  check(cluster<4>, "cluster", 4, 224, 1);
  missing_block = 1;
  std::vector<Word> words(8 * 224, 0);
  Result r = run(l2<4, true>, 3, 32, 224, 1, 100, 1, words, 1 << 12);
  expect(r.status.code == kStalled && r.status.tag == 1 && r.steps == 0, "l2, a block is silent", r);
  r = run(cluster<4>, 4, 32, 224, 1, 100, 1, words, 1 << 12);
  expect(r.status.code == kStalled && r.status.tag == 1, "cluster, a block is silent", r);
  return failures ? 1 : 0;
}
