// The recurrent product of many streams and their gates. A block has the gates of its own units for
// all streams of the team, and their state in single precision; what goes to the other blocks is
// rounded to fp16.
//
// Arrays of a block are [..., unit, stream]: neighbouring threads have neighbouring streams.
#pragma once

#include "cuda/kernels/many_product.cuh"
#include "cuda/kernels/math.cuh"

namespace wavernn_fast::gpu {

WF_INLINE int first_unit() { return rank_in_team() * own_units(); }  // of a half

// Reset, update, inner and outer candidate of a half before the activations.
constexpr int kInner = 2, kOuter = 3;
WF_INLINE float* pre_of(float* shared, int side, int kind, int unit, int s) {
  return shared + kSharedPre + ((4 * side + kind) * own_units() + unit) * kStreams + s;
}
// What the fine half of the next step has of the coarse half of the state, while this one waits.
WF_INLINE float* ahead_of(float* shared, int gate, int unit, int s) {
  return shared + kSharedAhead + (gate * own_units() + unit) * kStreams + s;
}
WF_INLINE float* hidden_of(float* shared, int side, int unit, int s) {
  return shared + kSharedHidden + (side * own_units() + unit) * kStreams + s;
}

// Whose rows are wanted.
enum Wanted { kNextStep, kChanging };

// One row of R times half `part` of the state of one stream. After the fine half it is complete:
// biases and conditioning of the step that it is for are added.
WF_INLINE void take_gate_sum(float* shared, int part, Wanted wanted, int m, int row, int s,
                             float sum) {
  const int side = m / (3 * kUnitTiles), gate = m / kUnitTiles % 3;
  const int unit = m % kUnitTiles * 16 + row;
  float* stored = side == 1 && part == 0 ? ahead_of(shared, gate, unit, s)
                                         : pre_of(shared, side, gate, unit, s);
  if (part == 0) {
    *stored = sum;
    return;
  }
  float all = add(side == 1 ? *ahead_of(shared, gate, unit, s) : *stored, sum);
  const Slot& slot = slot_of(shared, s);
  const KernelArgs& args = stream_args(shared, s);
  const bool ends = wanted == kNextStep && slot.step + 1 >= args.steps;
  float condition = 0.0f;
  if (slot.active && !ends && first_unit() + unit < kHalf) {
    const Cursor at = wanted == kNextStep ? next(args, slot.at) : slot.at;
    condition = condition_of(args, at, gate * kHidden + side * kHalf + first_unit() + unit);
  }
  if (gate < kInner) {
    *stored = add(all, condition);
  } else {
    *stored = add(all, shared[kSharedInnerBias + side * own_units() + unit]);
    *pre_of(shared, side, kOuter, unit, s) = condition;
  }
}

// Rows of R in this block times half `part` of the state of all streams, for the pre-activations
// of every stream's next step, or of the first step of those that have just begun.
WF_INLINE void recurrent_product(const RecurrentTiles& r, int part, Wanted wanted, float* shared) {
  WF_REGISTERS(float, sums, 12 * kUnitTiles);
  const int tiles = gate_tiles(), streams = streams_of_tile();
  WF_ROLLED
  for (int n = 0; n < kStreamTiles; ++n) {
    multiply_gates(r, part, n, shared, sums);
    if (n > 0) block_sync(kManyTakenGates + part);
    WF_UNROLL
    for (int m = 0; m < 3 * kUnitTiles; ++m)
      store_sums(shared, gate_group() * tiles + gate_side() * 3 * kUnitTiles + m, sums + 4 * m);
    block_sync(kManySumsGates + part);
    WF_ROLLED
    for (int i = thread_index(); i < 16 * tiles * streams; i += kThreads) {
      const int column = i % streams, row = i / streams, s = n * streams + column;
      if (wanted == kChanging && !slot_of(shared, s).changes) continue;
      take_gate_sum(shared, part, wanted, row / 16, row % 16, s,
                    total(shared, row / 16, tiles, gate_groups(), row % 16, column));
    }
  }
}

// Equation 2 of Kalchbrenner et al. 2018 for one unit of one stream, as in stage_gates: the new
// state, which is also stored.
WF_INLINE float update_unit(int side, int unit, int s, float* shared) {
  const float* weights = shared + kSharedSample + side * 6 * own_units() + unit;
  const float coarse = *input_of(shared, 0, s), fine = *input_of(shared, 1, s);
  const float now = side == 0 ? 0.0f : scaled(*class_of(shared, 0, s));
  WF_REGISTERS(float, in, 3);
  WF_UNROLL
  for (int gate = 0; gate < 3; ++gate) {
    const float p = *pre_of(shared, side, gate < kInner ? gate : kOuter, unit, s);
    in[gate] =
        fma(weights[(3 + gate) * own_units()], fine, fma(weights[gate * own_units()], coarse, p));
    if (side == 1) in[gate] = fma(weights[(6 + gate) * own_units()], now, in[gate]);
  }
  float* hidden = hidden_of(shared, side, unit, s);
  const float inner = *pre_of(shared, side, kInner, unit, s);
  const float candidate = tanh_of(fma(sigmoid(in[0]), inner, in[2]));
  return *hidden = fma(sigmoid(in[1]), sub(*hidden, candidate), candidate);
}

}  // namespace wavernn_fast::gpu
