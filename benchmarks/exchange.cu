// How long one exchange between blocks takes, apart from all arithmetic: every block publishes its
// share of n tagged words, waits for all n, and goes on to the next step. The loads, the stores, the
// tags and the two buffers are those of the persistent kernel (csrc/cuda/kernels), which is
// included for that; tests/exchange_host.cpp runs the same loops on threads of the host.
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

// --- through L2 -----------------------------------------------------------------------------------

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
      if (kMeets) poll_pairs(poller, buffer + replica * n + at, stride, kPairs, tag, got);
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

// --- between the shared memories of a cluster -----------------------------------------------------

#if defined(EXCHANGE_HOST) || __CUDA_ARCH__ >= 900
#ifndef EXCHANGE_HOST
WF_INLINE unsigned shared_address(const void* at) {
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
}
WF_INLINE unsigned peer_address(const void* at, int rank) {
  unsigned address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(at)), "r"(rank));
  return address;
}
WF_INLINE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;"
               : : : "memory");
}
WF_INLINE void push_word(Word* at, int rank, float value, unsigned tag) {
  const Word word = static_cast<Word>(tag) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;"
               : : "r"(peer_address(at, rank)), "l"(word) : "memory");
}
WF_INLINE void load_words(const Word* at, Word& a, Word& b) {
  asm volatile("ld.relaxed.cluster.shared::cta.v2.u64 {%0, %1}, [%2];"
               : "=l"(a), "=l"(b) : "r"(shared_address(at)) : "memory");
}
WF_INLINE void report(KernelStatus* status, int word, unsigned tag) {
  if (atomicCAS(&status->code, static_cast<int>(kRunning), static_cast<int>(kStalled)) != 0) return;
  status->block = block_index();
  status->word = word;
  status->tag = tag;
}
WF_INLINE float payload(Word word) { return __uint_as_float(static_cast<unsigned>(word)); }
#endif

// One cluster of kBlocksOf blocks: every word goes to all of them, each polls its own copy.
template <int kBlocksOf>
WF_INLINE void through_cluster(Result* result, int n, unsigned steps, unsigned tag0,
                               unsigned poll_limit) {
  float* shared = shared_memory();  // [4] control, then Word [2 buffers][n]
  volatile int* control = reinterpret_cast<volatile int*>(shared);
  Word* words = reinterpret_cast<Word*>(shared + 4);
  const int begin = n * block_index() / kBlocksOf;
  const int own = n * (block_index() + 1) / kBlocksOf - begin;
  for (int i = thread_index(); i < n; i += thread_count()) {
    words[static_cast<int>(tag0 & 1) * n + i] = 0;
    words[static_cast<int>(~tag0 & 1) * n + i] = bits_of_float(static_cast<float>(i));
  }
  if (thread_index() < 4) control[thread_index()] = 0;
  cluster_sync();

  Clock clock{0, 0};
  unsigned step = 0;
  for (; step < steps; ++step) {
    start(clock, step);
    const unsigned tag = tag0 + step;
    const Word* before = words + static_cast<int>(~tag & 1) * n;
    Word* now = words + static_cast<int>(tag & 1) * n;
    for (int k = thread_index(); k < own * kBlocksOf; k += thread_count()) {
      const int i = begin + k / kBlocksOf;
      push_word(now + i, k % kBlocksOf, add(payload(before[i + 1 < n ? i + 1 : 0]), 1.0f), tag);
    }
    for (int i = 2 * thread_index(); i < n; i += 2 * thread_count()) {
      Word a, b;
      for (unsigned tries = 0;;) {
        load_words(now + i, a, b);
        if (static_cast<unsigned>(a >> 32) == tag && static_cast<unsigned>(b >> 32) == tag) break;
        if ((++tries & 63) != 0 || (tries < poll_limit && control[0] == 0)) continue;
        report(&result->status, i, tag);
        control[0] = 1;
        break;
      }
    }
    if (thread_index() == 0) control[2 + (step & 1)] = control[0];
    block_sync(1);
    if (control[2 + (step & 1)] != 0) break;
  }
  finish(result, clock, step, block_index() == 0);
  const Word* last = words + static_cast<int>((tag0 + steps - 1) & 1) * n;
  for (int i = thread_index(); i < n; i += thread_count())
    if (payload(last[i]) != expected(i, n, steps)) count_error(&result->errors);
  cluster_sync();  // nobody leaves while a peer may still write here
}
#endif

// --- the same with the bytes counted by a barrier in shared memory --------------------------------

#if !defined(EXCHANGE_HOST) && __CUDA_ARCH__ >= 900
WF_INLINE void push_counted(float* at, unsigned long long* barrier, int rank, float value) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
               : : "r"(peer_address(at, rank)), "r"(__float_as_uint(value)),
                   "r"(peer_address(barrier, rank)) : "memory");
}
WF_INLINE bool phase_done(unsigned long long* barrier, unsigned parity) {
  unsigned done;
  asm volatile("{.reg .pred p;\n\t"
               "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
               "selp.u32 %0, 1, 0, p;}"
               : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
  return done != 0;
}

// Payloads without tags. Only threads that push take part in the loop, and thread 0, which says how
// many bytes a step has: a thread that pushes nothing could miss a phase.
template <int kBlocksOf>
WF_INLINE void through_counted(Result* result, int n, unsigned steps) {
  constexpr long long limit_ns = 1000000000;
  float* shared = shared_memory();  // [4] two barriers, then what came in [2 buffers][n]
  unsigned long long* barriers = reinterpret_cast<unsigned long long*>(shared);
  const int begin = n * block_index() / kBlocksOf;
  const int own = n * (block_index() + 1) / kBlocksOf - begin;
  for (int i = thread_index(); i < n; i += thread_count()) shared[4 + n + i] = static_cast<float>(i);
  if (thread_index() == 0) {
    for (int p = 0; p < 2; ++p)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" : : "r"(shared_address(barriers + p)));
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
  }
  cluster_sync();

  Clock clock{0, 0};
  unsigned step = 0;
  for (; step < steps && thread_index() < own * kBlocksOf; ++step) {
    start(clock, step);
    const int parity = step & 1;
    const float* before = shared + 4 + (1 - parity) * n;
    float* now = shared + 4 + parity * n;
    if (thread_index() == 0)
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                   : : "r"(shared_address(barriers + parity)), "r"(4 * n) : "memory");
    for (int k = thread_index(); k < own * kBlocksOf; k += thread_count()) {
      const int i = begin + k / kBlocksOf;
      push_counted(now + i, barriers + parity, k % kBlocksOf,
                   add(before[i + 1 < n ? i + 1 : 0], 1.0f));
    }
    // The wait itself sleeps for a while, so time bounds it, not a count.
    unsigned tries = 0;
    bool done;
    long long deadline = 0;
    while (!(done = phase_done(barriers + parity, step >> 1 & 1))) {
      if ((++tries & 15) != 0) continue;
      if (deadline == 0) deadline = nanoseconds() + limit_ns;
      if (nanoseconds() > deadline) break;
    }
    if (done) continue;
    report(&result->status, parity * n, step);
    break;
  }
  finish(result, clock, step, block_index() == 0);
  block_sync(2);
  for (int i = thread_index(); i < n; i += thread_count())
    if (shared[4 + ((steps + 1) & 1) * n + i] != expected(i, n, steps)) count_error(&result->errors);
  cluster_sync();
}
#endif

// --- entries --------------------------------------------------------------------------------------

#ifndef EXCHANGE_HOST
#define EXCHANGE_L2(pairs)                                                                         \
  extern "C" __global__ void __launch_bounds__(512, 1)                                             \
      exchange_l2_##pairs(Word* words, Result* result, int n, int replicas, unsigned steps,        \
                          unsigned tag0, unsigned poll_limit) {                                    \
    through_l2<pairs, true>(words, result, n, replicas, steps, tag0, poll_limit);                  \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(512, 1)                                             \
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

#if __CUDA_ARCH__ >= 900
#define EXCHANGE_CLUSTER(blocks)                                                                   \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(512, 1)              \
      exchange_cluster_##blocks(Word*, Result* result, int n, int, unsigned steps, unsigned tag0,  \
                                unsigned poll_limit) {                                             \
    through_cluster<blocks>(result, n, steps, tag0, poll_limit);                                   \
  }                                                                                                \
  extern "C" __global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(512, 1)              \
      exchange_counted_##blocks(Word*, Result* result, int n, int, unsigned steps, unsigned,       \
                                unsigned) {                                                        \
    through_counted<blocks>(result, n, steps);                                                     \
  }
EXCHANGE_CLUSTER(8)
EXCHANGE_CLUSTER(16)
#endif
#endif
