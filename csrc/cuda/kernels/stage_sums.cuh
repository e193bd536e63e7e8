// The second output layer with two exchanges: every block multiplies all rows of O2 or O4 with the
// few values of y that it has computed itself, and adds the products to sums in L2.
//
// A sum is one 64-bit word: the number of blocks that have added in its upper 8 bits, below it the
// logit in fixed point. Integer additions give the same sum in any order, so the order of arrival
// does not matter, and each product is rounded by itself, so neither does the number of blocks.
// Sums are never cleared within a launch: a reader subtracts what it read a step ago. Nobody adds
// for step t + 1 before all have read step t, for the reason given in exchange.cuh.
#pragma once

#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/stage_dense.cuh"
#include "cuda/kernels/stage_y.cuh"

namespace wavernn_fast::gpu {

constexpr long long kFixedLimit = 1ll << 46;   // of a logit: 2^22
constexpr long long kFixedPoison = 1ll << 47;  // a block's contribution that is not a number
constexpr unsigned long long kOneBlock = 1ull << 56;

// Bias of a class, in units of the sums: block 0 adds it for all. A thread of the last round may
// have a class beyond 255, and no bias.
WF_INLINE float class_bias(const KernelArgs& args, int side, int k) {
  const int at = kFcBiasAt + side * (kFc + 256) + kFc + k;
  const float* bias = static_cast<const float*>(args.weights);
  return block_index() == 0 && k < 256 ? mul(load_constant(bias + at), kFixedOne) : 0.0f;
}

WF_INLINE Word* sum_words(const KernelArgs& args, int side) {
  return args.words + 2 * buffer_words() + 256 * side;
}

// Class of this thread in round n, or one beyond 255.
WF_INLINE int class_of_round(int n) { return n * kThreads + thread_index(); }

// Adds O[k, own rows] y[own rows], each product rounded to a unit, to the sum of every class k.
WF_INLINE void stage_partial(const KernelArgs& args, const Matrix& m, int side, const float* bias,
                             const float* shared) {
  // So many blocks of so much cannot leave the fixed-point range together.
  const float most = static_cast<float>(kFixedLimit) / to_float(kBlocks);
  WF_UNROLL
  for (int n = 0; n < kClassRounds; ++n) {
    long long sum = to_fixed(bias[n]);
    float size = absolute(bias[n]);
    WF_UNROLL
    for (int i = 0; i < kYPairs; ++i) {
      const Float2 y = load2(shared + kSharedY + 2 * i);
      const Float2 w = weight(m, n * kYPairs + i);
      const float a = mul(w.x, y.x), b = mul(w.y, y.y);
      size = add(size, add(absolute(a), absolute(b)));
      sum += to_fixed(a) + to_fixed(b);
    }
    if (!(size < most)) sum = kFixedPoison;
    const int k = class_of_round(n);
    if (k < 256)
      add_to_word(sum_words(args, side) + logit_place(k), static_cast<Word>(sum) + kOneBlock);
  }
}

// What the reader saw a step ago, in shared memory: [side][4][32 lanes] pairs of words.
WF_INLINE Word* seen_words(float* shared, int side) {
  return reinterpret_cast<Word*>(shared + kSharedSeen) + 256 * side + 2 * lane_index();
}

// High half of now - before - blocks * kOneBlock; the low half is that of now - before.
WF_INLINE int high_of_sum(Word now, Word before) {
  return static_cast<int>((now - before) >> 32) - (kBlocks << 24);
}

// Waits until every block has added to classes 8 lane + 0..7, and takes their logits. If one is
// beyond the range, the first of the lane is NaN.
WF_INLINE void collect_sums(const Poller& poller, int side, unsigned tag, float* shared, float* l) {
  Word* seen = seen_words(shared, side);
  const Word* at = sum_words(poller.args, side) + 2 * lane_index();
  WF_REGISTERS(Word, now, 8);
  for (unsigned tries = 0;;) {
    load_words(poller, at, 64, 4, now);
    // A value takes 24 bits of the high half, with its sign; all have added if that is all.
    unsigned high = 0;
    WF_UNROLL
    for (int i = 0; i < 8; ++i)
      high |= static_cast<unsigned>(high_of_sum(now[i], seen[i / 2 * 64 + i % 2]) + (1 << 23));
    if (checked(high < 1u << 24) || !keep_polling(poller, tries, at, tag)) break;
  }
  unsigned outside = 0;  // of the limit: 15 bits of the high half
  WF_UNROLL
  for (int i = 0; i < 8; ++i) {
    Word& before = seen[i / 2 * 64 + i % 2];
    const int high = high_of_sum(now[i], before);
    const Word value = static_cast<Word>(static_cast<unsigned>(high)) << 32 |
                       static_cast<unsigned>(now[i] - before);
    outside |= static_cast<unsigned>(high + (1 << 14));
    l[i] = mul(of_fixed(static_cast<long long>(value)), 1.0f / kFixedOne);
    before = now[i];
  }
  if (outside >= 1u << 15) l[0] = float_of_bits(0x7fc00000);
}

}  // namespace wavernn_fast::gpu
