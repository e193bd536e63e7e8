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

// A row of this block and a stream of tile `tile` of them, of those that a thread has one of in
// every round.
struct GateRowOfStream {
  int m, row, s;         // tile of rows, row in it
  int side, gate, unit;  // unit of this block
  bool there;
};
WF_INLINE GateRowOfStream gate_row(int tile, int round) {
  const int streams = streams_of_tile(), half = 3 * kUnitTiles;
  const int thread = thread_index(), i = thread + round * kThreads;
  const int s = tile * streams + thread % streams;  // threads are a multiple of streams
  if (kThreads == 2 * 16 * streams) {
    // A thread has rows of one half, and the round says which gate and tile of units: so places of
    // all rounds are a known distance apart, and one register has them all.
    const int side = thread / (16 * streams), row = thread / streams % 16;
    return {side * half + round,           row, s, side, round / kUnitTiles,
            round % kUnitTiles * 16 + row, true};
  }
  const int m = i / (16 * streams), row = i / streams % 16;
  return {m, row, s, m / half, m / kUnitTiles % 3, m % kUnitTiles * 16 + row, m < 2 * half};
}

// Conditioning and biases of a row outside the reset product, of the step that its pre-activation
// is for. Zero where there is no such step.
WF_INLINE float gate_condition(float* shared, Wanted wanted, const GateRowOfStream& r) {
  const Slot& slot = slot_of(shared, r.s);
  const KernelArgs& args = stream_args(shared, r.s);
  const bool ends = wanted == kNextStep && slot.step + 1 >= args.steps;
  if (!slot.active || ends || first_unit() + r.unit >= kHalf) return 0.0f;
  const Cursor at = wanted == kNextStep ? next(args, slot.at) : slot.at;
  return condition_of(args, at, r.gate * kHidden + r.side * kHalf + first_unit() + r.unit);
}

// One row of R times half `part` of the state of one stream. After the fine half it is complete.
WF_INLINE void take_gate_sum(float* shared, int part, const GateRowOfStream& r, float sum,
                             float condition) {
  float* ahead = ahead_of(shared, r.gate, r.unit, r.s);
  float* stored = pre_of(shared, r.side, r.gate, r.unit, r.s);
  if (part == 0) {
    *(r.side == 1 ? ahead : stored) = sum;
    return;
  }
  const float all = add(r.side == 1 ? *ahead : *stored, sum);
  if (r.gate < kInner) {
    *stored = add(all, condition);
  } else {
    *stored = add(all, shared[kSharedInnerBias + r.side * own_units() + r.unit]);
    *pre_of(shared, r.side, kOuter, r.unit, r.s) = condition;
  }
}

// Rows of R in this block times half `part` of the state of all streams, for the pre-activations
// of every stream's next step, or of the first step of those that have just begun.
WF_INLINE void recurrent_product(const RecurrentTiles& gru, int part, Wanted wanted,
                                 float* shared) {
  const int tiles = gate_tiles(), area = wanted == kChanging ? kBeginArea : 0;
  WF_REGISTERS(float, sums, 12 * kUnitTiles);
  // Loaded before they are wanted.
  WF_REGISTERS(float, conditions, kGateRounds);
  WF_ROLLED
  for (int n = 0; n < kStreamTiles; ++n) {
    WF_UNROLL
    for (int j = 0; j < kGateRounds; ++j) {
      const GateRowOfStream r = gate_row(n, j);
      conditions[j] = part == 1 && r.there ? gate_condition(shared, wanted, r) : 0.0f;
    }
    multiply_gates(gru, part, area, n, shared, sums);
    if (n > 0) block_sync(kManyTakenGates + part);
    WF_UNROLL
    for (int m = 0; m < 3 * kUnitTiles; ++m)
      store_sums(shared, gate_group() * tiles + gate_side() * 3 * kUnitTiles + m, sums + 4 * m);
    block_sync(kManySumsGates + part);
    WF_UNROLL
    for (int j = 0; j < kGateRounds; ++j) {
      const GateRowOfStream r = gate_row(n, j);
      if (!r.there || (wanted == kChanging && !slot_of(shared, r.s).changes)) continue;
      take_gate_sum(shared, part, r,
                    total(shared, r.m, tiles, gate_groups(), r.row, r.s - n * streams_of_tile()),
                    conditions[j]);
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
