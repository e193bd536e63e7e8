// Exchanges between the shared memories of the blocks of one cluster, compute capability 9.0 and up.
// Part of exchange.cu.
#pragma once

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
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;"
               : : : "memory");
}
WF_INLINE void push_word(Word* at, int rank, float value, unsigned tag) {
  const Word word = static_cast<Word>(tag) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;"
               : : "r"(peer_address(at, rank)), "l"(word) : "memory");
}
WF_INLINE void load_own(const Word* at, Word& a, Word& b) {
  asm volatile("ld.relaxed.cluster.shared::cta.v2.u64 {%0, %1}, [%2];"
               : "=l"(a), "=l"(b) : "r"(shared_address(at)) : "memory");
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
        load_own(now + i, a, b);
        if (static_cast<unsigned>(a >> 32) == tag && static_cast<unsigned>(b >> 32) == tag) break;
        if ((++tries & 63) != 0 || (tries < poll_limit && control[0] == 0)) continue;
        give_up(result, i, tag);
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
    give_up(result, parity * n, step + 1);
    break;
  }
  finish(result, clock, step, block_index() == 0);
  block_sync(2);
  for (int i = thread_index(); i < n; i += thread_count())
    if (shared[4 + ((steps + 1) & 1) * n + i] != expected(i, n, steps)) count_error(&result->errors);
  cluster_sync();
}
#endif
