// How long one exchange between blocks takes, apart from all arithmetic. Gathering: every block
// publishes its share of n tagged words, waits for all n, and goes on to the next step. Summing:
// every block adds to all of 256 words and waits until all blocks have. The loads, the stores, the
// additions and the tags are the primitives of the persistent kernel (csrc/cuda/kernels), included
// here; tests/exchange_host.cpp runs the same loops on threads of the host.
//
// The payloads rotate and count: word i of step t carries word i + 1 of step t - 1, plus one. So no
// step can begin before the one before it has arrived, and one look at the end proves them all.
#ifndef EXCHANGE_HOST
#include "cuda/kernels/primitives_device.cuh"

WF_INLINE int block_count() { return gridDim.x; }
WF_INLINE int thread_count() { return blockDim.x; }
WF_INLINE long long nanoseconds() {
  long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
WF_INLINE void count_error(int* errors) { atomicAdd(errors, 1); }
WF_INLINE void set_once(unsigned long long* at, unsigned long long value) {
  atomicCAS(at, 0ull, value);
}
#endif

using namespace wavernn_fast::gpu;

struct Result {
  KernelStatus status;   // of the poll that gave up, if one did
  int errors;            // payloads at the end that are not what they must be
  unsigned steps;        // done by block 0
  long long ticks, ns;   // of block 0 for the steps after the first kWarmUp
};

constexpr unsigned kWarmUp = 64;  // steps before the clock starts

struct Clock {
  long long ticks, ns;
};

// Starts in step kWarmUp, on one thread.
WF_INLINE void start(Clock& clock, unsigned step) {
  if (step != kWarmUp || thread_index() != 0) return;
  clock.ns = nanoseconds();
  clock.ticks = clock_ticks();
}

WF_INLINE void finish(Result* result, const Clock& clock, unsigned step, bool first_block) {
  if (!first_block || thread_index() != 0) return;
  result->ticks = clock_ticks() - clock.ticks;
  result->ns = nanoseconds() - clock.ns;
  result->steps = step;
}

WF_INLINE float expected(int i, int n, unsigned steps) {
  return static_cast<float>((i + steps) % n + steps);  // exact: below 2^24
}

// As stall_report of the kernel: block, word, tag.
WF_INLINE void give_up(Result* result, int word, unsigned tag) {
  const unsigned place = static_cast<unsigned>(block_index()) << kStallWordBits | word;
  set_once(&result->status.stall, static_cast<unsigned long long>(place) << 32 | tag);
}

// --- gathering through L2 -------------------------------------------------------------------------

// poll_pairs of the kernel, for any number of pairs.
template <int kPairs>
WF_INLINE void wait_for_pairs(const Poller& poller, const Word* at, int stride, unsigned tag,
                              float* out) {
  for (unsigned tries = 0;;) {
    WF_REGISTERS(Word, words, 2 * kPairs);
    load_words(poller, at, stride, kPairs, words);
    unsigned wrong = 0;
    WF_UNROLL
    for (int i = 0; i < 2 * kPairs; ++i) {
      wrong |= static_cast<unsigned>(words[i] >> 32) ^ tag;
      out[i] = float_of_bits(static_cast<int>(words[i]));
    }
    if (wrong == 0 || !keep_polling(poller, tries, at, tag)) return;
  }
}

// kPairs: pairs of words that a polling thread waits for. kMeets: false leaves the exchange out and
// keeps everything else, for the difference.
template <int kPairs, bool kMeets>
WF_INLINE void through_l2(Word* words, Result* result, int n, int replicas, unsigned steps,
                          unsigned tag0, unsigned poll_limit) {
  KernelArgs args{};
  args.words = words;
  args.status = &result->status;
  args.poll_limit = poll_limit;
  float* shared = shared_memory();  // [4] control, then what came in [2 buffers][n]
  volatile int* control = reinterpret_cast<volatile int*>(shared);
  const Poller poller{args, control};
  const int begin = static_cast<int>(static_cast<long long>(n) * block_index() / block_count());
  const int own =
      static_cast<int>(static_cast<long long>(n) * (block_index() + 1) / block_count()) - begin;
  const int warps = thread_count() / 32;
  const int first = warp_index() + lane_index() * warps;  // as rows are dealt in the kernel
  const int stride = n / kPairs;                          // words between the pairs of a thread
  const bool polls = 2 * thread_index() < stride;
  const int replica = block_index() % replicas;
  for (int i = thread_index(); i < n; i += thread_count()) shared[4 + n + i] = static_cast<float>(i);
  if (thread_index() < 4) control[thread_index()] = 0;
  block_sync(0);

  Clock clock{0, 0};
  unsigned step = 0;
  for (; step < steps; ++step) {
    start(clock, step);
    const unsigned tag = tag0 + step;
    const float* before = shared + 4 + ((step + 1) & 1) * n;
    float* now = shared + 4 + (step & 1) * n;
    Word* buffer = words + static_cast<int>(tag & 1) * replicas * n;
    for (int k = first; kMeets && k < own; k += thread_count()) {
      const int i = begin + k;
      const float value = add(before[i + 1 < n ? i + 1 : 0], 1.0f);
      for (int r = 0; r < replicas; ++r) publish(buffer + r * n + i, value, tag);
    }
    if (polls) {
      WF_REGISTERS(float, got, 2 * kPairs);
      const int at = 2 * thread_index();
      if (kMeets) wait_for_pairs<kPairs>(poller, buffer + replica * n + at, stride, tag, got);
      WF_UNROLL
      for (int p = 0; p < kPairs; ++p) {
        const int i = at + p * stride;
        if (!kMeets) {
          got[2 * p] = add(before[i + 1], 1.0f);
          got[2 * p + 1] = add(before[i + 2 < n ? i + 2 : 0], 1.0f);
        }
        store2(now + i, {got[2 * p], got[2 * p + 1]});
      }
    }
    // All threads leave at the same step: what the barrier orders is what they look at.
    if (thread_index() == 0) control[2 + (step & 1)] = control[0];
    block_sync(1);
    if (control[2 + (step & 1)] != 0) break;
  }
  finish(result, clock, step, block_index() == 0);
  for (int i = thread_index(); i < n; i += thread_count())
    if (shared[4 + ((steps + 1) & 1) * n + i] != expected(i, n, steps)) count_error(&result->errors);
}

// --- summing in L2 --------------------------------------------------------------------------------

constexpr Word kOneBlock = 1ull << 56;  // as in stage_sums.cuh: above it blocks, below it the sum
constexpr int kPlaces = 256;

// What every block adds to class k in a step.
WF_INLINE int share_of(int k, unsigned step) {
  return static_cast<int>(((k + step) & (kPlaces - 1)) + step);
}

// 256 threads. kCopies: copies of the sums, of which a block adds to one; the readers add them up.
template <int kCopies, bool kMeets>
WF_INLINE void through_sums(Word* words, Result* result, unsigned steps, unsigned tag0,
                            unsigned poll_limit) {
  KernelArgs args{};
  args.words = words;
  args.status = &result->status;
  args.poll_limit = poll_limit;
  float* shared = shared_memory();  // [4] control, Word seen [2][copies][256], int sums [2][256]
  volatile int* control = reinterpret_cast<volatile int*>(shared);
  Word* seen = reinterpret_cast<Word*>(shared + 4);
  int* sums = reinterpret_cast<int*>(seen + 2 * kCopies * kPlaces);
  const Poller poller{args, control};
  const int k = thread_index(), next = (k + 1) & (kPlaces - 1), blocks = block_count();
  for (int i = k; i < 2 * kCopies * kPlaces; i += thread_count()) seen[i] = 0;
  sums[kPlaces + k] = blocks * share_of(k, 0);  // what step -1 left; step s adds share_of(k, s + 1)
  if (k < 4) control[k] = 0;
  block_sync(0);

  Clock clock{0, 0};
  unsigned step = 0;
  for (; step < steps; ++step) {
    start(clock, step);
    const int side = static_cast<int>(step & 1);
    const int* before = sums + (1 - side) * kPlaces;
    int* now = sums + side * kPlaces;
    Word* area = words + side * kCopies * kPlaces;
    // Zero, if the sum of the last step is right; so nothing can be added before it is there.
    const int wrong = before[next] - blocks * share_of(next, step);
    const int own = share_of(k, step + 1) + wrong;
    if (kMeets)
      add_to_word(area + block_index() % kCopies * kPlaces + k, kOneBlock + static_cast<Word>(own));
    if (warp_index() == 0) {
      WF_REGISTERS(Word, got, 8 * kCopies);
      Word* mine = seen + side * kCopies * kPlaces + 2 * lane_index();
      const Word* at = area + 2 * lane_index();
      for (unsigned tries = 0; kMeets;) {
        load_words(poller, at, 64, 4 * kCopies, got);
        bool all = true;
        WF_UNROLL
        for (int i = 0; i < 8 * kCopies; ++i) {
          const int copy = i / 8, adders = (blocks - copy + kCopies - 1) / kCopies;
          all = all && static_cast<int>((got[i] - mine[i / 2 * 64 + i % 2]) >> 56) == adders;
        }
        if (all || !keep_polling(poller, tries, at, tag0 + step)) break;
      }
      WF_UNROLL
      for (int i = 0; i < 8; ++i) {
        int sum = 0;
        WF_UNROLL
        for (int copy = 0; copy < kCopies; ++copy) {
          Word& last = mine[(8 * copy + i) / 2 * 64 + i % 2];
          if (kMeets) sum += static_cast<int>(got[8 * copy + i] - last);
          if (kMeets) last = got[8 * copy + i];
        }
        const int place = i / 2 * 64 + 2 * lane_index() + i % 2;
        now[place] = kMeets ? sum : blocks * share_of(place, step + 1) + wrong;
      }
    }
    if (k == 0) control[2 + side] = control[0];
    block_sync(1);
    if (control[2 + side] != 0) break;
  }
  finish(result, clock, step, block_index() == 0);
  if (sums[((steps + 1) & 1) * kPlaces + k] != blocks * share_of(k, steps))
    count_error(&result->errors);
}

#include "exchange_cluster.cuh"

// --- entries --------------------------------------------------------------------------------------

#ifndef EXCHANGE_HOST
#define EXCHANGE_L2(pairs)                                                                         \
  extern "C" __global__ void __launch_bounds__(256, 1)                                             \
      exchange_l2_##pairs(Word* words, Result* result, int n, int replicas, unsigned steps,        \
                          unsigned tag0, unsigned poll_limit) {                                    \
    through_l2<pairs, true>(words, result, n, replicas, steps, tag0, poll_limit);                  \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(256, 1)                                             \
      exchange_none_##pairs(Word* words, Result* result, int n, int replicas, unsigned steps,      \
                            unsigned tag0, unsigned poll_limit) {                                  \
    through_l2<pairs, false>(words, result, n, replicas, steps, tag0, poll_limit);                 \
  }
EXCHANGE_L2(1)
EXCHANGE_L2(2)
EXCHANGE_L2(3)
EXCHANGE_L2(4)
EXCHANGE_L2(7)
EXCHANGE_L2(14)
EXCHANGE_L2(21)

#define EXCHANGE_SUMS(copies)                                                                      \
  extern "C" __global__ void __launch_bounds__(256, 1)                                             \
      exchange_sums_##copies(Word* words, Result* result, int, int, unsigned steps, unsigned tag0, \
                             unsigned poll_limit) {                                                \
    through_sums<copies, true>(words, result, steps, tag0, poll_limit);                            \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(256, 1)                                             \
      exchange_nosums_##copies(Word* words, Result* result, int, int, unsigned steps,              \
                               unsigned tag0, unsigned poll_limit) {                               \
    through_sums<copies, false>(words, result, steps, tag0, poll_limit);                           \
  }
EXCHANGE_SUMS(1)
EXCHANGE_SUMS(2)
EXCHANGE_SUMS(4)

#if __CUDA_ARCH__ >= 900
#define EXCHANGE_CLUSTER(blocks)                                                                   \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(256, 1)              \
      exchange_cluster_##blocks(Word*, Result* result, int n, int, unsigned steps, unsigned tag0,  \
                                unsigned poll_limit) {                                             \
    through_cluster<blocks>(result, n, steps, tag0, poll_limit);                                   \
  }                                                                                                \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(256, 1)              \
      exchange_counted_##blocks(Word*, Result* result, int n, int, unsigned steps, unsigned,       \
                                unsigned) {                                                        \
    through_counted<blocks>(result, n, steps);                                                     \
  }
EXCHANGE_CLUSTER(8)
EXCHANGE_CLUSTER(16)
#endif
#endif
