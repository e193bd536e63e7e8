// The GRU of the embedded core, computed by every block for all units. Its input is the embedding
// of the last label, of which there are as many as labels: W_label e(k) + b is row k of a table. R
// h comes in words, with the conditioning of reset and update added by who publishes it.
#pragma once

#include "cuda/kernels/embedded_rows.cuh"
#include "cuda/kernels/residual_gates.cuh"

namespace wavernn_fast::gpu {

// R h of own units to all blocks, for the step `at`. The conditioning of the candidate stands
// outside the reset product: the readers add it.
WF_INLINE void publish_recurrent(const KernelArgs& args, const Matrix& m, Cursor at, unsigned tag,
                                 float* shared) {
  WF_REGISTERS(float, sums, 3 * kUnitSlots);
  WF_UNROLL
  for (int i = 0; i < 3 * kUnitSlots; ++i) sums[i] = 0.0f;
  multiply_units<3>(m, shared + kSharedHidden, 2, sums);
  const int i = sum_of_lane(3 * kUnitSlots);
  const Owned own = i < 0 ? Owned{-1, 0.0f} : embedded_owned(shared, i);
  const float sum = warp_sums(sums, 3 * kUnitSlots);
  if (own.row < 0) return;
  float bias = own.bias;
  if (i % 3 < 2) {
    const Float2 pair = mixed2(args, at, i % 3 * kHidden + (own.row & ~1));
    bias = own.row & 1 ? pair.y : pair.x;
  }
  publish(step_words(args, tag) + i % 3 * kHidden + own.row, add(sum, bias), tag);
}

// What a thread needs of the units (2 j, 2 j + 1): reset, update and inner candidate of both as
// published, then the outer candidate without the label.
constexpr int kRecurrentSize = 8;

WF_INLINE void collect_recurrent(const Poller& poller, Cursor at, unsigned tag, float* pre) {
  const KernelArgs& args = poller.args;
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHidden) continue;
    const Float2 outer = mixed2(args, at, 2 * kHidden + unit);
    poll_pairs(poller, step_words(args, tag) + unit, kHidden, 3, tag, pre + kRecurrentSize * n);
    pre[kRecurrentSize * n + 6] = outer.x;
    pre[kRecurrentSize * n + 7] = outer.y;
  }
}

// The new state of all units, from the last label. Its row of the table is asked for as a whole
// before anything is computed: it comes from L2, or from memory.
WF_INLINE void stage_units(const KernelArgs& args, const float* pre, int label, float* shared) {
  const float* row = static_cast<const float*>(args.weights) + kTableAt +
                     static_cast<long long>(label) * 3 * kHidden;
  WF_REGISTERS(Float2, in, 3 * kGateRounds);
  WF_UNROLL
  for (int i = 0; i < 3 * kGateRounds; ++i) {
    const int unit = pair_of_units(i / 3);
    if (unit < kHidden) in[i] = load_constant2(row + i % 3 * kHidden + unit);
  }
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHidden) continue;
    const float* p = pre + kRecurrentSize * n;
    const Float2 r = in[3 * n], z = in[3 * n + 1], e = in[3 * n + 2];
    const Float2 h = load2(shared + kSharedHidden + unit);
    store2(shared + kSharedHidden + unit,
           {next_state(add(p[0], r.x), add(p[2], z.x), p[4], add(p[6], e.x), h.x),
            next_state(add(p[1], r.y), add(p[3], z.y), p[5], add(p[7], e.y), h.y)});
  }
}

}  // namespace wavernn_fast::gpu
