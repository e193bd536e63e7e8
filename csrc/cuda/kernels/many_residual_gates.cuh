// Both GRUs of many streams of the residual core. A block has the gates of its own units of each,
// and their states in single precision:
//
//   u = I [x; mel; a1] + b      h1 = GRU1(u)      v = u + h1
//   h2 = GRU2([v; a2])          w = v + h2
//
// The input layer is linear, W_ih1 u = conditioning + x times a column, so GRU 1 needs no product
// of this step. A conditioning value is loaded by the one block that owns its unit: in a sample a
// team reads what belongs to a stream once.
//
// Messages: v, which W_ih2 is multiplied with, and w of fc1; h1 and h2, which R1 and R2 are
// multiplied with for the next step while others are on their way.
#pragma once

#include "cuda/kernels/many_units.cuh"
#include "cuda/kernels/residual_gates.cuh"

namespace wavernn_fast::gpu {

enum StateMessage : int { kMessageV, kMessageFirst, kMessageW, kMessageSecond };

enum UnitMatrix : int { kInputOfSecond, kHiddenOfFirst, kHiddenOfSecond };  // W_ih2, R1, R2

// --- what a block keeps, [..., unit, stream] -----------------------------------------------------

// Of GRU 1, behind unit_pre's candidates without x: u without x, which is conditioning alone.
constexpr int kFirstInput = 4;
// Of GRU 2 without W_ih2 v: reset, update, inner candidate; the outer one is conditioning alone.
WF_INLINE float* second_pre(float* shared, int kind, int unit, int s) {
  return shared + kSharedAhead + (kind * own_units() + unit) * kStreams + s;
}
WF_INLINE float* own_v(float* shared, int unit, int s) {
  return shared + kSharedV + unit * kStreams + s;
}

// --- for the next step ---------------------------------------------------------------------------

// R1 times h1, which stands as activations. Rows of conditioning: u, reset, update, candidate.
WF_INLINE void first_ahead(const Team& t, Wanted wanted) {
  product_ahead(
      t, {kHiddenOfFirst, state_message(kMessageFirst).area, 0, 4, kManyUnitsSumsH1, -1}, wanted,
      [](const KernelArgs& args, Cursor at, int kind, int unit) {
        return condition_of(args, at, (kind == 3 ? 0 : 1 + kind) * kHidden + unit);
      },
      [&](int kind, int unit, int s) { return unit_pre(t.shared, kind, unit, s); });
}

// R2 times h2.
WF_INLINE void second_ahead(const Team& t, Wanted wanted) {
  product_ahead(
      t, {kHiddenOfSecond, state_message(kMessageSecond).area, 1, 3, kManyUnitsSumsH2, -1}, wanted,
      [](const KernelArgs& args, Cursor at, int kind, int unit) {
        return held(args, at, (4 + kind) * kHidden + unit);
      },
      [&](int kind, int unit, int s) { return second_pre(t.shared, kind, unit, s); });
}

// --- gates ---------------------------------------------------------------------------------------

// h1 and v of one unit of one stream, which are also stored. Columns times x: [band][u, reset,
// update, candidate][own units].
WF_INLINE Float2 first_unit_of_stream(int unit, int s, float* shared) {
  const float* columns = shared + kSharedSample + unit;
  const auto pre = [&](int kind, int column) {
    float sum = *unit_pre(shared, kind, unit, s);
    WF_ROLLED
    for (int band = 0; band < kBands; ++band)
      sum = fma(columns[(4 * band + column) * own_units()], *input_of(shared, band, s), sum);
    return sum;
  };
  float* hidden = hidden_of(shared, 0, unit, s);
  *hidden =
      next_state(pre(0, 1), pre(1, 2), *unit_pre(shared, kInner, unit, s), pre(kOuter, 3), *hidden);
  const float v = add(pre(kFirstInput, 0), *hidden);
  *own_v(shared, unit, s) = v;
  return {*hidden, v};
}

// Two units of one stream a thread.
WF_INLINE void first_gates(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < own_units() / 2 * kStreams; i += kThreads) {
    const int s = i % kStreams, unit = i / kStreams * 2;
    if (first_unit() + unit >= kHidden) continue;
    const Float2 a = first_unit_of_stream(unit, s, t.shared);
    const Float2 b = first_unit_of_stream(unit + 1, s, t.shared);
    send_units(t, kMessageV, s, unit, a.y, b.y);
    send_units(t, kMessageFirst, s, unit, a.x, b.x);
  }
}

// W_ih2 v and the gates of GRU 2, a unit of one stream a thread, whose neighbour has the next unit.
WF_INLINE void second_gates(const Team& t) {
  const int streams = streams_of_tile(), count = own_units() * streams;  // of whole warps
  WF_REGISTERS(float, sums, 12 * kUnitTiles);
  WF_ROLLED
  for (int n = 0; n < kStreamTiles; ++n) {
    multiply_rows(t.gru, kInputOfSecond, state_message(kMessageV).area, n, t.shared, sums);
    store_unit_sums(t.shared, n, sums);
    block_sync(kManyUnitsSumsV);
    WF_ROLLED
    for (int i = thread_index(); i < count; i += kThreads) {
      const int unit = i / streams, s = n * streams + i % streams;
      if (first_unit() + unit >= kHidden) continue;  // the same for a whole warp
      const auto pre = [&](int gate, int kind) {
        return add(unit_sum(t.shared, n, gate, unit, i % streams),
                   *second_pre(t.shared, kind, unit, s));
      };
      float* hidden = hidden_of(t.shared, 1, unit, s);
      const float h = next_state(pre(0, 0), pre(1, 1), *second_pre(t.shared, kInner, unit, s),
                                 pre(2, kOuter), *hidden);
      *hidden = h;
      const float w = add(*own_v(t.shared, unit, s), h);
      const float next_h = from_lane(h, streams), next_w = from_lane(w, streams);
      if (unit % 2 != 0) continue;
      send_units(t, kMessageW, s, unit, w, next_w);
      send_units(t, kMessageSecond, s, unit, h, next_h);
    }
  }
}

}  // namespace wavernn_fast::gpu
