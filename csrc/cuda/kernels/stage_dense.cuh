// Products of resident rows with a vector in shared memory. A lane holds columns
// {64 i + 2 lane, 64 i + 2 lane + 1} of its warp's rows; the order of every sum depends on this
// layout only, never on the number of blocks.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

// Rows of one matrix that this warp owns.
struct Matrix {
  int place;
  const Weight* registers;  // [pairs], if kInRegisters
  const unsigned* memory;   // [pairs][32 lanes] packed pairs, in shared memory or L2
};

WF_INLINE Float2 weight(const Matrix& m, int index) {
  if (m.place == kInRegisters) return widen(m.registers[index]);
  const unsigned* at = m.memory + (index * 32 + lane_index()) * kPairWords;
  return widen(m.place == kInShared ? shared_weight(at) : load_weight(at));
}

// Brings `pairs` pairs a lane to where they stay: `at` is the packed matrix, `part` which part of
// it is this block's; `shared`, the next free shared memory, moves on if they stay there. Every
// lane copies what it alone will read.
WF_INLINE Matrix make_resident(const KernelArgs& args, int place, int at, int pairs,
                               Weight* registers, float*& shared, int part) {
  const int words = pairs * 32 * kPairWords;
  const unsigned* source = static_cast<const unsigned*>(args.weights) + at +
                           static_cast<long long>(part * kWarps + warp_index()) * words;
  if (place == kInL2) return {place, nullptr, source};
  if (place == kInRegisters) {
    WF_UNROLL
    for (int i = 0; i < pairs; ++i)
      registers[i] = load_weight(source + (i * 32 + lane_index()) * kPairWords);
    return {place, registers, nullptr};
  }
  unsigned* target = reinterpret_cast<unsigned*>(shared) + warp_index() * words;
  shared += kWarps * words;
  for (int i = 0; i < pairs * kPairWords; ++i) {
    // [pairs][32][kPairWords]: word i of this lane, counted over all its pairs
    const int word = (i / kPairWords * 32 + lane_index()) * kPairWords + i % kPairWords;
    target[word] = source[word];
  }
  return {place, nullptr, target};
}

// How many neighbouring lanes hold each of `count` sums of `warp_sums`.
WF_INLINE int lanes_of_sum(int count) {
  int lanes = 32;
  WF_UNROLL
  for (int padded = 1; padded < 32; padded *= 2)
    if (padded < count) lanes /= 2;
  return lanes;
}

// Which of `count` sums of `warp_sums` this lane holds, or -1; and the same for the first lane of
// those that hold it, -1 in all others.
WF_INLINE int sum_held(int count) {
  const int j = lane_index() / lanes_of_sum(count);
  return j < count ? j : -1;
}
WF_INLINE int sum_of_lane(int count) {
  return lane_index() % lanes_of_sum(count) == 0 ? sum_held(count) : -1;
}

// First of this block's `n` units, or of its `n` values of y, dealt as evenly as possible.
WF_INLINE int dealt(int n, int block) { return n * block / kBlocks; }

// The output layers are dealt to all blocks, or to those of every cluster: so many parts, and which
// of them is this block's.
WF_INLINE int output_parts() { return kCluster > 1 ? kCluster : kBlocks; }
WF_INLINE int output_part() { return kCluster > 1 ? block_index() % kCluster : block_index(); }

// The warp that draws. In a cluster it polls nothing on the way of a sample, so it is the last one,
// which has the fewest gates.
WF_INLINE int draw_warp() { return kCluster > 1 ? kWarps - 1 : 0; }

// Row of an output layer in slot `slot` of this warp, of `slots`, or -1. Rows go first to the warps
// that do not draw; in a cluster those of a warp are neighbours, so that they travel together.
WF_INLINE int row_of_slot(int n_rows, int slots, int slot) {
  if (slot < 0) return -1;
  const int begin = n_rows * output_part() / output_parts();
  const int end = n_rows * (output_part() + 1) / output_parts();
  const int row = begin + (kCluster > 1 ? warp_index() * slots + slot
                                        : slot * kWarps + kWarps - 1 - warp_index());
  return row < end ? row : -1;
}

// Unit of the GRU in slot `slot` of this warp, or -1: coarse units first, then fine ones, which
// count from H / 2.
WF_INLINE int unit_of_slot(int slot) {
  if (slot < 0) return -1;
  const int begin = dealt(kHalf, block_index()), end = dealt(kHalf, block_index() + 1);
  const int i = slot * kWarps + warp_index(), own = end - begin;
  if (i < own) return begin + i;
  return i < 2 * own ? kHalf + begin + i - own : -1;
}

// This lane's sum (see sum_of_lane) of `slots` rows times x[64 pairs]. Even and odd columns are
// summed apart: two short chains instead of a long one.
WF_INLINE float dense(const Matrix& m, int slots, int pairs, const float* x) {
  WF_REGISTERS(float, even, 32);
  WF_REGISTERS(float, odd, 32);
  WF_UNROLL
  for (int s = 0; s < slots; ++s) even[s] = odd[s] = 0.0f;
  WF_UNROLL
  for (int i = 0; i < pairs; ++i) {
    const Float2 v = load2(x + 64 * i + 2 * lane_index());
    WF_UNROLL
    for (int s = 0; s < slots; ++s) {
      const Float2 w = weight(m, s * pairs + i);
      even[s] = fma(w.x, v.x, even[s]);
      odd[s] = fma(w.y, v.y, odd[s]);
    }
  }
  WF_UNROLL
  for (int s = 0; s < slots; ++s) even[s] = add(even[s], odd[s]);
  return warp_sums(even, slots);
}

}  // namespace wavernn_fast::gpu
