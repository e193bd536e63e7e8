// The recurrent product, and the gates that every block computes for itself.
#pragma once

#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/stage_dense.cuh"

namespace wavernn_fast::gpu {

// Position of a step in the frames of its conditioning.
struct Cursor {
  unsigned frame, phase;
};

WF_INLINE Cursor next(const KernelArgs& args, Cursor at) {
  if (++at.phase == args.hop) return {at.frame + 1, 0};
  return at;
}

// Bias and conditioning of rows `row` and `row + 1` (of 3H) at a step:
//   base[frame] + sum over j of upsample[phase, j] * interp[frame + j].
WF_INLINE Float2 condition2(const KernelArgs& args, Cursor at, int row) {
  Float2 sum =
      load_constant2(args.base + static_cast<long long>(at.frame) * args.base_stride + row);
  WF_UNROLL
  for (int j = 0; j < kTaps; ++j) {
    const float scale = load_constant(args.upsample + at.phase * kTaps + j);
    const Float2 v =
        load_constant2(args.interp + static_cast<long long>(at.frame + j) * 3 * kHidden + row);
    sum.x = fma(scale, v.x, sum.x);
    sum.y = fma(scale, v.y, sum.y);
  }
  return sum;
}

// Adds columns of half `side` of the state to this warp's recurrent rows:
// sums[slot, gate] += R[row, half] h[half].
WF_INLINE void multiply_recurrent(const Matrix& m, int side, const float* hidden, float* sums) {
  const float* x = hidden + side * 64 * kHalfPairs;
  WF_UNROLL
  for (int i = 0; i < kHalfPairs; ++i) {
    const Float2 v = load2(x + 64 * i + 2 * lane_index());
    WF_UNROLL
    for (int row = 0; row < 3 * kUnitSlots; ++row) {
      const Float2 w = weight(m, (2 * row + side) * kHalfPairs + i);
      sums[row] = fma(w.y, v.y, fma(w.x, v.x, sums[row]));
    }
  }
}

// What one lane publishes of the recurrent product: nothing, or one row. Kept in shared memory,
// where it costs no register between the stages that need it.
struct GateRow {
  int row;           // gate H + unit, or -1
  int word;          // its place in a buffer
  float inner_bias;  // of a candidate row: added inside the reset product
};

WF_INLINE GateRow gate_row_of_lane(const KernelArgs& args, int sum) {
  const int unit = unit_of_slot(sum / 3), gate = sum % 3;
  if (unit < 0) return {-1, 0, 0.0f};
  const int side = unit >= kHalf ? 1 : 0;
  const float* inner = static_cast<const float*>(args.weights) + kInnerBiasAt;
  return {gate * kHidden + unit, gate_words(side) + gate * kHalf + unit - side * kHalf,
          gate == 2 ? load_constant(inner + unit) : 0.0f};
}

WF_INLINE float* gate_row_place(float* shared, int sum) {
  return shared + kSharedGateRows + 4 * (warp_index() * 3 * kUnitSlots + sum);
}

WF_INLINE void keep_gate_row(const KernelArgs& args, float* shared) {
  const int sum = sum_of_lane(3 * kUnitSlots);
  if (sum < 0) return;
  const GateRow own = gate_row_of_lane(args, sum);
  float* place = gate_row_place(shared, sum);
  store2(place, {float_of_bits(own.row), float_of_bits(own.word)});
  store2(place + 2, {own.inner_bias, 0.0f});
}

WF_INLINE GateRow own_gate_row(float* shared) {
  const int sum = sum_of_lane(3 * kUnitSlots);
  if (sum < 0) return {-1, 0, 0.0f};
  const float* place = gate_row_place(shared, sum);
  const Float2 a = load2(place), b = load2(place + 2);
  return {bits_of_float(a.x), bits_of_float(a.y), b.x};
}

// Bias and conditioning of reset and update are added by the one who publishes; those of the
// candidate stand outside the reset product and are added by the readers.
WF_INLINE void publish_gates(const KernelArgs& args, const float* sums, Cursor at, unsigned tag,
                             float* shared) {
  const GateRow own = own_gate_row(shared);
  const float sum = warp_sums(sums, 3 * kUnitSlots);
  if (own.row < 0) return;
  float bias = own.inner_bias;
  if (own.row < 2 * kHidden) {
    const Float2 pair = condition2(args, at, own.row & ~1);
    bias = own.row & 1 ? pair.y : pair.x;
  }
  publish(buffer(args, tag) + own.word, add(sum, bias), tag);
}

// What a thread needs of the units (2 j, 2 j + 1) of a half: reset, update and inner candidate of
// both as published, then the outer candidate.
constexpr int kPreSize = 8;

// First of the two neighbouring units of a half whose gates this thread computes in round n; H / 2
// or more: none.
WF_INLINE int pair_of_units(int n) { return 2 * (thread_index() + n * kGateThreads); }

WF_INLINE void collect_gates(const Poller& poller, int side, Cursor at, unsigned tag, float* pre) {
  const KernelArgs& args = poller.args;
  const Word* words = buffer(args, tag) + gate_words(side);
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHalf) continue;
    const Float2 outer = condition2(args, at, 2 * kHidden + side * kHalf + unit);
    poll_pairs(poller, words + unit, kHalf, 3, tag, pre + kPreSize * n);
    pre[kPreSize * n + 6] = outer.x;
    pre[kPreSize * n + 7] = outer.y;
  }
}

// Scaled samples that the gates of one half see.
struct Inputs {
  float coarse, fine;  // of the last step
  float now;           // coarse of this step; the fine half alone sees it
};

// Input weights: coarse half [c, f][gate][H/2], fine half [c, f, c now][gate][H/2]; in shared
// memory, those of the coarse half in L2 where it is full.
WF_INLINE Float2 sample_weights(const KernelArgs& args, int side, int at, const float* shared) {
  if (side == 0 && kCoarseSamplePlace == kInL2)
    return load_constant2(static_cast<const float*>(args.weights) + kSampleAt + at);
  const int kept_coarse = kCoarseSamplePlace == kInShared ? 6 * kHalf : 0;
  return load2(shared + kSharedSample + side * kept_coarse + at);
}

// r = sigmoid(R_r h + I_r x + b), u = sigmoid(R_u h + I_u x + b),
// e = tanh(r * (R_e h + b_inner) + I_e x + b), h' = u h + (1 - u) e
// (Kalchbrenner et al. 2018, equation 2). Half `side` of the state: h as it is at `hidden`, h' goes
// to `next`, which may be the same place.
WF_INLINE void stage_gates(const KernelArgs& args, int side, const float* pre, Inputs x,
                           const float* hidden, float* next, const float* shared) {
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHalf) continue;
    WF_REGISTERS(Float2, in, 3);
    WF_UNROLL
    for (int gate = 0; gate < 3; ++gate) {
      const float* p = pre + kPreSize * n + (gate < 2 ? 2 * gate : 6);
      const Float2 w0 = sample_weights(args, side, gate * kHalf + unit, shared);
      const Float2 w1 = sample_weights(args, side, (3 + gate) * kHalf + unit, shared);
      in[gate].x = fma(w1.x, x.fine, fma(w0.x, x.coarse, p[0]));
      in[gate].y = fma(w1.y, x.fine, fma(w0.y, x.coarse, p[1]));
      if (side == 0) continue;
      const Float2 w2 = sample_weights(args, side, (6 + gate) * kHalf + unit, shared);
      in[gate].x = fma(w2.x, x.now, in[gate].x);
      in[gate].y = fma(w2.y, x.now, in[gate].y);
    }
    const Float2 h = load2(hidden + unit);
    const float* inner = pre + kPreSize * n + 4;
    const float ex = tanh_of(fma(sigmoid(in[0].x), inner[0], in[2].x));
    const float ey = tanh_of(fma(sigmoid(in[0].y), inner[1], in[2].y));
    store2(next + unit,
           {fma(sigmoid(in[1].x), sub(h.x, ex), ex), fma(sigmoid(in[1].y), sub(h.y, ey), ey)});
  }
}

}  // namespace wavernn_fast::gpu
