// The draw of a class from 256 logits.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

// Random words of 32 steps from `step` on, a multiple of 32: by the first warp, one step a lane,
// off the critical path. Kept for 64 steps, so that they can be made before the last of those
// before are used; a barrier of the block lies between making and using.
WF_INLINE void refresh(const KernelArgs& args, unsigned step, float* shared) {
  const unsigned own = step + lane_index();
  unsigned* kept = reinterpret_cast<unsigned*>(shared + kSharedChance) + (own & 63);
  WF_REGISTERS(unsigned, words, 2);
  if (!kFull || args.uniforms == nullptr) {
    philox(args, args.step0 + own, words);
  } else {
    if (own >= args.steps) return;
    words[0] = args.uniforms[2 * own];
    words[1] = args.uniforms[2 * own + 1];
  }
  kept[0] = words[0];
  kept[64] = words[1];
}

// First class of 256 whose cumulative weight exceeds floor(word * total / 2^32), with weights
// w = round(exp((l - max l) / T) 2^23): docs/decisions/0001. l [8]: classes 8 lane + 0..7. The lane
// that has it returns it, all others return -1.
WF_INLINE int draw_class(const KernelArgs& args, const float* l, float top, unsigned word) {
  WF_REGISTERS(unsigned, sums, 8);  // of weights, within the lane
  WF_UNROLL
  for (int e = 0; e < 8; ++e) {
    sums[e] = weight_of(sub(l[e], top), args.inv_temperature);
    if (e > 0) sums[e] += sums[e - 1];
  }
  const unsigned threshold = multiply_high(word, warp_total(sums[7]));
  const unsigned before = warp_prefix_sum(sums[7]) - sums[7];
  if (threshold < before || threshold - before >= sums[7]) return -1;
  // How many of sums[0..6] are at most `rest`, by halves.
  const unsigned rest = threshold - before;
  const bool upper4 = sums[3] <= rest;
  const bool upper2 = (upper4 ? sums[5] : sums[1]) <= rest;
  const unsigned odd4 = upper2 ? sums[6] : sums[4], odd0 = upper2 ? sums[2] : sums[0];
  const bool upper1 = (upper4 ? odd4 : odd0) <= rest;
  return 8 * lane_index() + (upper4 ? 4 : 0) + (upper2 ? 2 : 0) + (upper1 ? 1 : 0);
}

// First class with the largest logit, in the lane that has it; -1 in all others.
WF_INLINE int first_largest(const float* l, float top) {
  int k = 8;
  WF_UNROLL
  for (int e = 7; e >= 0; --e)
    if (l[e] == top) k = e;
  const unsigned ballot = warp_ballot(k < 8);
  return first_lane(ballot) == lane_index() ? 8 * lane_index() + k : -1;
}

// The class that a forced run takes, or `otherwise`.
WF_INLINE int forced_class(const KernelArgs& args, int side, unsigned step, int otherwise) {
  if (!kFull || args.forced == nullptr) return otherwise;
  return side == 0 ? args.forced[step] >> 8 : args.forced[step] & 255;
}

// Whether this block speaks for its stream: the first of its team, or of all.
WF_INLINE bool speaks() {
  return kChainWarps > 0 ? block_index() % kCluster == 0 : block_index() == 0;
}

// One warp draws from the logits l [8] of classes 8 lane + 0..7; every block comes to the same
// class by itself. The lane that has the class returns it, all others return -1.
WF_INLINE int stage_draw(const KernelArgs& args, int side, unsigned step, const float* shared,
                         const float* l) {
  float top = l[0], probe = 0.0f;  // probe: NaN as soon as one logit is NaN or infinite
  WF_UNROLL
  for (int e = 0; e < 8; ++e) {
    top = largest(l[e], top);
    probe = fma(l[e], 0.0f, probe);
  }
  top = warp_max(top);
  const unsigned word =
      reinterpret_cast<const unsigned*>(shared + kSharedChance)[64 * side + (step & 63)];
  if (warp_ballot(!(probe == 0.0f)) != 0) {
    if (speaks() && lane_index() == 0 && args.status->failed_step < 0)
      args.status->failed_step = static_cast<int>(step);
    return lane_index() == 0 ? forced_class(args, side, step, 128) : -1;
  }
  if (kFull && args.forced != nullptr)
    return lane_index() == 0 ? forced_class(args, side, step, 0) : -1;
  return kFull && args.greedy ? first_largest(l, top) : draw_class(args, l, top, word);
}

}  // namespace wavernn_fast::gpu
