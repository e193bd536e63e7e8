// Exchanges between the shared memories of the blocks of one cluster, compute capability 9.0 and up.
// Part of exchange.cu.
#pragma once

// --- between the shared memories of a cluster -----------------------------------------------------

#if defined(EXCHANGE_HOST) || __CUDA_ARCH__ >= 900
#ifndef EXCHANGE_HOST
WF_INLINE void push_word(Word* at, int rank, float value, unsigned tag) {
  const Word word = static_cast<Word>(tag) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;"
               : : "r"(peer_memory(rank) + shared_offset(at)), "l"(word) : "memory");
}
WF_INLINE void load_own(const Word* at, Word& a, Word& b) {
  asm volatile("ld.relaxed.cluster.shared::cta.v2.u64 {%0, %1}, [%2];"
               : "=l"(a), "=l"(b) : "r"(shared_address(at)) : "memory");
}
WF_INLINE float payload(Word word) { return __uint_as_float(static_cast<unsigned>(word)); }
#endif

// In a cluster of kBlocksOf blocks every word goes to all of them, each polls its own copy. Clusters
// of a launch have nothing to do with each other, but share the paths between multiprocessors.
//
// Three buffers: a block that has all words of a step may push those of the next while another has
// threads that still read the step before, to push to somebody else.
template <int kBlocksOf>
WF_INLINE void through_cluster(Result* result, int n, unsigned steps, unsigned tag0,
                               unsigned poll_limit) {
  float* shared = shared_memory();  // [4] control, then Word [3 buffers][n]
  volatile int* control = reinterpret_cast<volatile int*>(shared);
  Word* words = reinterpret_cast<Word*>(shared + 4);
  const int rank = block_index() % kBlocksOf;  // in its cluster
  const int begin = n * rank / kBlocksOf, own = n * (rank + 1) / kBlocksOf - begin;
  for (int i = thread_index(); i < n; i += thread_count()) {
    words[i] = words[n + i] = 0;
    words[2 * n + i] = bits_of_float(static_cast<float>(i));
  }
  if (thread_index() < 4) control[thread_index()] = 0;
  cluster_sync(0);

  Clock clock{0, 0};
  unsigned step = 0;
  for (; step < steps; ++step) {
    start(clock, step);
    const unsigned tag = tag0 + step;
    const Word* before = words + static_cast<int>((step + 2) % 3) * n;
    Word* now = words + static_cast<int>(step % 3) * n;
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
  const Word* last = words + static_cast<int>((steps + 2) % 3) * n;
  for (int i = thread_index(); i < n; i += thread_count())
    if (payload(last[i]) != expected(i, n, steps)) count_error(&result->errors);
  cluster_sync(0);  // nobody leaves while a peer may still write here
}
#endif

// --- the same with the bytes counted, as the persistent kernel does --------------------------------

#if !defined(EXCHANGE_HOST) && __CUDA_ARCH__ >= 900
// Payloads without tags. Only threads that push take part in the loop, and thread 0, which says how
// many bytes a step has: a thread that pushes nothing could miss a phase.
template <int kBlocksOf>
WF_INLINE void through_counted(Result* result, int n, unsigned steps) {
  constexpr long long limit_ns = 1000000000;
  float* shared = shared_memory();  // [4] two counters, then what came in [3 buffers][n]
  Arrivals* arrivals = reinterpret_cast<Arrivals*>(shared);
  const int rank = block_index() % kBlocksOf;  // in its cluster
  const int begin = n * rank / kBlocksOf, own = n * (rank + 1) / kBlocksOf - begin;
  for (int i = thread_index(); i < n; i += thread_count()) shared[4 + 2 * n + i] = static_cast<float>(i);
  if (thread_index() == 0) {
    for (int p = 0; p < 2; ++p) init_arrivals(arrivals + p);
    publish_arrivals();
  }
  cluster_sync(0);

  Clock clock{0, 0};
  unsigned step = 0;
  for (; step < steps && thread_index() < own * kBlocksOf; ++step) {
    start(clock, step);
    const int parity = step & 1;
    const float* before = shared + 4 + static_cast<int>((step + 2) % 3) * n;
    float* now = shared + 4 + static_cast<int>(step % 3) * n;
    if (thread_index() == 0) expect_bytes(arrivals + parity, 4 * n);
    for (int k = thread_index(); k < own * kBlocksOf; k += thread_count()) {
      const int i = begin + k / kBlocksOf;
      push(now + i, arrivals + parity, k % kBlocksOf, add(before[i + 1 < n ? i + 1 : 0], 1.0f));
    }
    // The wait itself sleeps for a while, so time bounds it, not a count.
    unsigned tries = 0;
    bool done;
    long long deadline = 0;
    while (!(done = phase_over(arrivals + parity, step >> 1 & 1))) {
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
    if (shared[4 + (steps + 2) % 3 * n + i] != expected(i, n, steps)) count_error(&result->errors);
  cluster_sync(0);
}
#endif
