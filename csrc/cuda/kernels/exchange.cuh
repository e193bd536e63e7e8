// The exchange area: one tagged word a value, two buffers by parity of the tag.
//
// Why two buffers are enough: the gates of step t + 1 need words from every block, and a block
// publishes those only after it has read everything of step t up to that point. So nobody is more
// than one step ahead, and what is overwritten at t + 2 was read at t. It rests on a rule of the
// planner: every block owns at least one unit of each half.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

// Words of one buffer: pre-activations of the next step [2 halves][reset, update, candidate][H/2],
// then, with four exchanges, what O1, O2, O3 and O4 give. Behind both buffers are the sums of the
// two halves [2][256], used with two exchanges.
WF_INLINE int gate_words(int side) { return 3 * kHalf * side; }
WF_INLINE int y_words(int side) { return 3 * kHidden + (kFc + 256) * side; }
WF_INLINE int logit_words(int side) { return y_words(side) + kFc; }
WF_INLINE int buffer_words() { return 3 * kHidden + 2 * (kFc + 256); }

// Not words, but numbers that reports of a stall have for what a block of a cluster waits for: they
// follow the sums. See stage_cluster.cuh.
WF_INLINE int arrival_word(int side, int kind) {
  return 2 * buffer_words() + 512 + 2 * side + kind;
}

WF_INLINE Word* buffer(const KernelArgs& args, unsigned tag) {
  return args.words + static_cast<int>(tag & 1) * buffer_words();
}

// The warp that draws reads 8 neighbouring classes a lane, a pair with every load; this order
// makes each of its loads one line.
WF_INLINE int logit_place(int k) { return (k >> 1 & 3) * 64 + (k >> 3) * 2 + (k & 1); }

// Waits until `count` pairs of words, `stride` words apart, carry `tag`; their payloads go to
// out [2 count]. Gives up after args.poll_limit looks: out is then undefined and *stop is set.
WF_INLINE void poll_pairs(const Poller& poller, const Word* at, int stride, int count, unsigned tag,
                          float* out) {
  for (unsigned tries = 0;;) {
    WF_REGISTERS(Word, words, 8);
    load_words(poller, at, stride, count, words);
    unsigned wrong = 0;
    WF_UNROLL
    for (int i = 0; i < 2 * count; ++i) {
      wrong |= static_cast<unsigned>(words[i] >> 32) ^ tag;
      out[i] = float_of_bits(static_cast<int>(words[i]));
    }
    if (checked(wrong == 0) || !keep_polling(poller, tries, at, tag)) return;
  }
}

}  // namespace wavernn_fast::gpu
