// Both GRUs of the residual core. GRU 1 is computed by every block for all units: its input is
// linear in the last sample, W_ih1 (I [x; mel; a1] + b) = conditioning + x times a column, and R1
// h1 comes in words. GRU 2 is computed by the owner of a unit, who has its rows of W_ih2 and R2.
#pragma once

#include "cuda/kernels/math.cuh"
#include "cuda/kernels/residual_rows.cuh"

namespace wavernn_fast::gpu {

// Interpolated channels `channel` and the next, of 4 H, with biases and held conditioning.
WF_INLINE Float2 mixed2(const KernelArgs& args, Cursor at, int channel) {
  Float2 sum =
      load_constant2(args.base + static_cast<long long>(at.frame) * args.base_stride + channel);
  WF_UNROLL
  for (int j = 0; j < kTaps; ++j) {
    const float scale = load_constant(args.upsample + at.phase * kTaps + j);
    const Float2 v =
        load_constant2(args.interp + static_cast<long long>(at.frame + j) * 4 * kHidden + channel);
    sum.x = fma(scale, v.x, sum.x);
    sum.y = fma(scale, v.y, sum.y);
  }
  return sum;
}

// sums[kSums slot + at[gate]] += rows of this warp's units times x.
template <int kSums>
WF_INLINE void multiply_units(const Matrix& m, const float* x, int candidate, float* sums) {
  WF_UNROLL
  for (int i = 0; i < kHiddenPairs; ++i) {
    const Float2 v = load2(x + 64 * i + 2 * lane_index());
    WF_UNROLL
    for (int row = 0; row < 3 * kUnitSlots; ++row) {
      const Float2 w = weight(m, row * kHiddenPairs + i);
      float& sum = sums[row / 3 * kSums + (row % 3 == 2 ? candidate : row % 3)];
      sum = fma(w.y, v.y, fma(w.x, v.x, sum));
    }
  }
}

// --- GRU 1 ---------------------------------------------------------------------------------------

// R1 h1 of own units to all blocks, for the step `at`. Bias and conditioning of reset and update
// are added here, once; those of the candidate stand outside the reset product.
WF_INLINE void publish_first(const KernelArgs& args, const Matrix& m, Cursor at, unsigned tag,
                             float* shared) {
  WF_REGISTERS(float, sums, 3 * kUnitSlots);
  WF_UNROLL
  for (int i = 0; i < 3 * kUnitSlots; ++i) sums[i] = 0.0f;
  multiply_units<3>(m, shared + kSharedFirst, 2, sums);
  const int i = sum_of_lane(3 * kUnitSlots);
  const Owned own = i < 0 ? Owned{-1, 0.0f} : owned(shared, first_sums() + i);
  const float sum = warp_sums(sums, 3 * kUnitSlots);
  if (own.row < 0) return;
  float bias = own.bias;
  if (i % 3 < 2) {
    const Float2 pair = mixed2(args, at, (1 + i % 3) * kHidden + (own.row & ~1));
    bias = own.row & 1 ? pair.y : pair.x;
  }
  publish(step_words(args, tag) + i % 3 * kHidden + own.row, add(sum, bias), tag);
}

// What a thread needs of the units (2 j, 2 j + 1): reset, update and inner candidate of both as
// published, then the outer candidate and u without x.
constexpr int kFirstSize = 10;

WF_INLINE void collect_first(const Poller& poller, Cursor at, unsigned tag, float* pre) {
  const KernelArgs& args = poller.args;
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHidden) continue;
    const Float2 outer = mixed2(args, at, 3 * kHidden + unit), u = mixed2(args, at, unit);
    poll_pairs(poller, step_words(args, tag) + unit, kHidden, 3, tag, pre + kFirstSize * n);
    pre[kFirstSize * n + 6] = outer.x;
    pre[kFirstSize * n + 7] = outer.y;
    pre[kFirstSize * n + 8] = u.x;
    pre[kFirstSize * n + 9] = u.y;
  }
}

// r = sigmoid(R_r h + W_r u + b), z = sigmoid(R_z h + W_z u + b),
// e = tanh(r (R_e h + b_inner) + W_e u + b), h' = h + (1 - z) (e - h) (Cho et al. 2014, as
// torch.nn.GRU). 1 - z is sigmoid of the negative: where z is near 1 and a unit keeps its state for
// long, z itself has lost the digits that count (docs/numerics.md).
WF_INLINE float next_state(float reset, float update, float inner, float outer, float h) {
  const float e = tanh_near_zero(fma(sigmoid(reset), inner, outer));
  return fma(sigmoid(-update), sub(e, h), h);
}

WF_INLINE Float2 plus_column(Float2 sum, const float* column, float x) {
  const Float2 c = kSamplePlace == kInL2 ? load_constant2(column) : load2(column);
  return {fma(c.x, x, sum.x), fma(c.y, x, sum.y)};
}

// h1 and v = u + h1 of all units, from the last sample x of every band. Columns times x: [bands][u,
// reset, update, candidate][H].
WF_INLINE void stage_first(const KernelArgs& args, const float* pre, const float* x,
                           float* shared) {
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHidden) continue;
    const float* p = pre + kFirstSize * n;
    const float* columns = kSamplePlace == kInL2
                               ? static_cast<const float*>(args.weights) + kSampleAt + unit
                               : shared + kSharedSample + unit;
    Float2 reset = {p[0], p[1]}, update = {p[2], p[3]}, outer = {p[6], p[7]}, u = {p[8], p[9]};
    WF_UNROLL
    for (int band = 0; band < kBands; ++band, columns += 4 * kHidden) {
      u = plus_column(u, columns, x[band]);
      reset = plus_column(reset, columns + kHidden, x[band]);
      update = plus_column(update, columns + 2 * kHidden, x[band]);
      outer = plus_column(outer, columns + 3 * kHidden, x[band]);
    }
    const Float2 h = load2(shared + kSharedFirst + unit);
    const Float2 next = {next_state(reset.x, update.x, p[4], outer.x, h.x),
                         next_state(reset.y, update.y, p[5], outer.y, h.y)};
    store2(shared + kSharedFirst + unit, next);
    store2(shared + kSharedV + unit, {add(u.x, next.x), add(u.y, next.y)});
  }
}

// --- GRU 2 ---------------------------------------------------------------------------------------

// sums [unit slot][reset, update, inner, outer]: R2 h2, from zero.
WF_INLINE void begin_second(const Matrix& m, const float* shared, float* sums) {
  WF_UNROLL
  for (int i = 0; i < 4 * kUnitSlots; ++i) sums[i] = 0.0f;
  multiply_units<4>(m, shared + kSharedSecond, 2, sums);
}

// What is added to this lane's sum of GRU 2 at a step.
WF_INLINE float second_bias(const KernelArgs& args, Cursor at, float* shared) {
  const int i = sum_held(4 * kUnitSlots);
  const Owned own = i < 0 ? Owned{-1, 0.0f} : owned(shared, second_sums() + i);
  if (own.row < 0 || i % 4 == 2) return own.bias;
  return held(args, at, (4 + (i % 4 == 3 ? 2 : i % 4)) * kHidden + own.row);
}

// Adds W_ih2 v to the sums, and publishes h2 of own units.
WF_INLINE void stage_second(const KernelArgs& args, const Matrix& m, float bias, float* sums,
                            unsigned tag, float* shared) {
  const int lanes = lanes_of_sum(4 * kUnitSlots), i = sum_of_lane(4 * kUnitSlots);
  const int unit = i < 0 || i % 4 != 0 ? -1 : owned(shared, second_sums() + i).row;
  const float h = unit < 0 ? 0.0f : shared[kSharedSecond + unit];
  multiply_units<4>(m, shared + kSharedV, 3, sums);
  const float reset = add(warp_sums(sums, 4 * kUnitSlots), bias);
  // The four sums of a unit are in neighbouring groups of lanes.
  const float update = from_lane(reset, lanes), inner = from_lane(reset, 2 * lanes);
  const float outer = from_lane(reset, 3 * lanes);
  if (unit < 0) return;
  publish(step_words(args, tag) + second_words() + unit, next_state(reset, update, inner, outer, h),
          tag);
}

}  // namespace wavernn_fast::gpu
