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
WF_INLINE void cluster_sync(int) { grid->cluster->arrive_and_wait(); }
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
WF_INLINE float float_of_bits(int x) { return __builtin_bit_cast(float, x); }
WF_INLINE void set_once(unsigned long long* at, unsigned long long value) {
  unsigned long long none = 0;
  std::atomic_ref<unsigned long long>(*at).compare_exchange_strong(none, value);
}
WF_INLINE void load_words(const Poller&, const Word* at, int stride, int count, Word* out) {
  for (int i = 0; i < 2 * count; ++i) out[i] = load_word(at + i / 2 * stride + i % 2);
}
WF_INLINE bool keep_polling(const Poller& poller, unsigned& tries, const Word* at, unsigned tag) {
  if ((++tries & 63) == 0) std::this_thread::yield();
  if ((tries & 63) != 0 || (tries < poller.args.poll_limit && !*poller.stop)) return true;
  const unsigned place = static_cast<unsigned>(block_index()) << kStallWordBits |
                         static_cast<unsigned>(at - poller.args.words);
  set_once(&poller.args.status->stall, static_cast<unsigned long long>(place) << 32 | tag);
  *poller.stop = 1;
  return false;
}
WF_INLINE void add_to_word(Word* at, Word value) {
  if (t_block != missing_block)
    std::atomic_ref<Word>(*at).fetch_add(value, std::memory_order_relaxed);
}
WF_INLINE void push_word(Word* at, int rank, float value, unsigned tag) {
  const std::ptrdiff_t offset = reinterpret_cast<float*>(at) - shared_memory();
  store_word(reinterpret_cast<Word*>(grid->blocks[rank]->shared.data() + offset),
             make_word(value, tag));
}
WF_INLINE void load_own(const Word* at, Word& a, Word& b) {
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
template <int kCopies, bool kMeets>
void sums(Word* w, Result* r, int, int, unsigned steps, unsigned tag0, unsigned limit) {
  through_sums<kCopies, kMeets>(w, r, steps, tag0, limit);
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
    own.blocks.push_back(std::make_unique<Block>(threads, 4 + 20 * n));
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
  std::printf("%s: stall %llx, %d errors, %u steps: %s\n", name, r.status.stall, r.errors, r.steps,
              good ? "ok" : "FAILED");
  failures += !good;
}

void check(Loop loop, const char* name, int blocks, int threads, int n, int copies, bool clear) {
  constexpr unsigned kLimit = 1u << 30;
  const unsigned n_steps = threads > 32 ? 12 : 100;  // of two buffers each
  std::vector<Word> words(8 * n, 0);
  unsigned tag0 = 1;
  for (int launch = 0; launch < 2; ++launch, tag0 += n_steps + 1) {
    if (clear) words.assign(words.size(), 0);  // tags go on and need no clearing, sums do
    const Result r = run(loop, blocks, threads, n, copies, n_steps, tag0, words, kLimit);
    expect(r.status.stall == 0 && r.errors == 0 && r.steps == n_steps, name, r);
  }
}

}  // namespace

int main() {
  check(l2<1, true>, "l2 1 pair", 3, 32, 56, 1, false);
  check(l2<4, true>, "l2 4 pairs", 4, 32, 224, 1, false);
  check(l2<7, true>, "l2 7 pairs, 4 copies", 4, 32, 448, 4, false);
  check(l2<21, true>, "l2 21 pairs, 2 copies", 2, 32, 1344, 2, false);
  check(l2<4, false>, "none", 2, 32, 224, 1, false);
  check(sums<1, true>, "sums", 3, 256, 256, 1, true);
  check(sums<2, true>, "sums, 2 copies", 3, 256, 256, 2, true);
  check(sums<4, true>, "sums, 4 copies", 5, 256, 256, 4, true);
  check(sums<1, false>, "no sums", 2, 256, 256, 1, true);
  check(cluster<4>, "cluster", 4, 32, 224, 1, false);
  missing_block = 1;
  const auto silent = [](Loop loop, const char* name, int threads, int n) {
    std::vector<Word> words(8 * n, 0);
    const Result r = run(loop, 4, threads, n, 1, 100, 1, words, 1 << 12);
    expect(static_cast<unsigned>(r.status.stall) == 1 && r.steps == 0 && r.errors > 0, name, r);
  };
  silent(l2<4, true>, "l2, a block is silent", 32, 224);
  silent(sums<1, true>, "sums, a block is silent", 256, 256);
  silent(cluster<4>, "cluster, a block is silent", 32, 224);
  return failures ? 1 : 0;
}
