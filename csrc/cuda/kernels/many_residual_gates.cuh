// Both GRUs of many streams of the residual core. A block has the gates of its own units for all
// streams of the team, and their states in single precision:
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

#include "cuda/kernels/many_gates.cuh"
#include "cuda/kernels/many_team.cuh"
#include "cuda/kernels/residual_gates.cuh"

namespace wavernn_fast::gpu {

// --- where words are: [tile of streams][pair of units][8], and so on -----------------------------

enum StateMessage : int { kMessageV, kMessageFirst, kMessageW, kMessageSecond, kStateMessages };
WF_INLINE int state_words(int message) { return message * kStreamTiles * 64 * kHiddenTiles; }
// p (layer 0) and q (1).
WF_INLINE int layer_words(int layer) {
  return state_words(kStateMessages) + layer * kStreamTiles * 64 * kFcTiles;
}
// Logits of a stream, unless every block has all rows of fc3; its outcomes [band], in two halves.
WF_INLINE int stream_choices(int s) { return layer_words(2) + s * kChoiceWords; }
WF_INLINE int stream_outcome(int s) {
  return layer_words(2) + (kFc3Whole ? 0 : kStreams * kChoiceWords) + 2 * kBands * s;
}

// --- what a block keeps, [..., unit, stream] -----------------------------------------------------

// Of GRU 1 before the activations, without x: reset, update, inner candidate, then conditioning
// alone: the outer candidate and u.
constexpr int kFirstInput = 4;
WF_INLINE float* first_pre(float* shared, int kind, int unit, int s) {
  return shared + kSharedPre + (kind * own_units() + unit) * kStreams + s;
}
// Of GRU 2 without W_ih2 v: reset, update, inner candidate; the outer one is conditioning alone.
WF_INLINE float* second_pre(float* shared, int kind, int unit, int s) {
  return shared + kSharedAhead + (kind * own_units() + unit) * kStreams + s;
}
WF_INLINE float* own_v(float* shared, int unit, int s) {
  return shared + kSharedV + unit * kStreams + s;
}

// Where a stream is in the step that something is wanted for: its next one, or its first. False
// where there is no such step.
WF_INLINE bool wanted_step(float* shared, Wanted wanted, int s, Cursor& at) {
  const Slot& slot = slot_of(shared, s);
  const KernelArgs& args = stream_args(shared, s);
  at = wanted == kNextStep ? next(args, slot.at) : slot.at;
  return slot.active && (wanted == kChanging || slot.step + 1 < args.steps);
}

// --- products ------------------------------------------------------------------------------------

enum UnitMatrix : int { kInputOfSecond, kHiddenOfFirst, kHiddenOfSecond };  // W_ih2, R1, R2

// Sums of this warp's columns of a matrix, all rows of this block, for one tile of streams.
WF_INLINE void multiply_rows(const RecurrentTiles& r, int matrix, int tile, float* shared,
                             float* sums) {
  const int lane = lane_index();
  const Columns own = columns_of(kHiddenTiles, kWarps, warp_index(), false);
  const unsigned* x = activations(shared, tile, lane >> 2) + (lane & 3) + 8 * own.begin;
  WF_UNROLL
  for (int i = 0; i < 12 * kUnitTiles; ++i) sums[i] = 0.0f;
  WF_UNROLL
  for (int j = 0; j < kGruColumns; ++j) {
    if (j >= own.count) continue;  // the same for a whole warp
    const unsigned low = x[8 * j], high = x[8 * j + 4];
    const int column = matrix * kGruColumns + j;
    WF_UNROLL
    for (int m = 0; m < 3 * kUnitTiles; ++m) {
      const int i = column * 3 * kUnitTiles + m;
      if (column < kGruKept) {
        multiply_tile(r.kept + kTileWords * i, low, high, sums + 4 * m);
      } else {
        unsigned weights[kTileWords];
        shared_tile(r.shared + 32 * kTileWords * (i - kGruKept * 3 * kUnitTiles), weights);
        multiply_tile(weights, low, high, sums + 4 * m);
      }
    }
  }
}

// Two tiles of streams have places of their own by turns, so that a barrier each is enough: whoever
// writes for the second next one has met all who read for this.
WF_INLINE int unit_sums(int tile) { return (tile & 1) * kWarps * 3 * kUnitTiles; }

WF_INLINE void store_unit_sums(float* shared, int tile, const float* sums) {
  WF_UNROLL
  for (int m = 0; m < 3 * kUnitTiles; ++m)
    store_sums(shared, unit_sums(tile) + warp_index() * 3 * kUnitTiles + m, sums + 4 * m);
}
WF_INLINE float unit_sum(const float* shared, int tile, int gate, int unit, int s) {
  return total(shared, unit_sums(tile) + gate * kUnitTiles + unit / 16, 3 * kUnitTiles, kWarps,
               unit % 16, s);
}

// --- for the next step ---------------------------------------------------------------------------

// What a thread has of a tile of streams: a unit, a stream, and of GRU 1 [reset, update,
// candidate, u], of GRU 2 [reset, update, candidate].
struct UnitOfStream {
  int kind, unit, s;  // s: of all streams
};
WF_INLINE UnitOfStream unit_of_stream(int tile, int i) {
  const int streams = streams_of_tile(), of_kind = own_units() * streams;
  return {i / of_kind, i % of_kind / streams, tile * streams + i % streams};
}

WF_INLINE float unit_condition(float* shared, Wanted wanted, int gru, const UnitOfStream& r) {
  Cursor at;
  const int unit = first_unit() + r.unit;
  if (unit >= kHidden || !wanted_step(shared, wanted, r.s, at)) return 0.0f;
  const KernelArgs& args = stream_args(shared, r.s);
  if (gru == 1) return held(args, at, (4 + r.kind) * kHidden + unit);
  return condition_of(args, at, (r.kind == 3 ? 0 : 1 + r.kind) * kHidden + unit);
}

// Of GRU `gru` (0 or 1): its recurrent rows in this block times its state, which stands as
// activations, for every stream's next step, or the first of those that have just begun.
WF_INLINE void product_ahead(const RecurrentTiles& tiles, int gru, Wanted wanted, float* shared) {
  const int count = (gru == 0 ? 4 : 3) * own_units() * streams_of_tile();
  WF_REGISTERS(float, sums, 12 * kUnitTiles);
  // Loaded before they are wanted.
  WF_REGISTERS(float, conditions, kGateRounds);
  WF_ROLLED
  for (int n = 0; n < kStreamTiles; ++n) {
    WF_UNROLL
    for (int j = 0; j < kGateRounds; ++j) {
      const int i = thread_index() + j * kThreads;
      conditions[j] = i < count ? unit_condition(shared, wanted, gru, unit_of_stream(n, i)) : 0.0f;
    }
    multiply_rows(tiles, gru == 0 ? kHiddenOfFirst : kHiddenOfSecond, n, shared, sums);
    store_unit_sums(shared, n, sums);
    block_sync(kManyResidualSumsH1 + gru);
    WF_UNROLL
    for (int j = 0; j < kGateRounds; ++j) {
      const int i = thread_index() + j * kThreads;
      const UnitOfStream r = unit_of_stream(n, i);
      if (i >= count || (wanted == kChanging && !slot_of(shared, r.s).changes)) continue;
      const auto pre = [&](int kind) {
        return gru == 0 ? first_pre(shared, kind, r.unit, r.s)
                        : second_pre(shared, kind, r.unit, r.s);
      };
      if (r.kind == 3) {
        *pre(kFirstInput) = conditions[j];
        continue;
      }
      const float sum = unit_sum(shared, n, r.kind, r.unit, i % streams_of_tile());
      if (r.kind < kInner) {
        *pre(r.kind) = add(sum, conditions[j]);
      } else {
        *pre(kInner) = add(sum, shared[kSharedInnerBias + gru * own_units() + r.unit]);
        *pre(kOuter) = conditions[j];
      }
    }
  }
}

// --- gates ---------------------------------------------------------------------------------------

// h1 and v of one unit of one stream, which are also stored. Columns times x: [band][u, reset,
// update, candidate][own units].
WF_INLINE Float2 first_unit_of_stream(int unit, int s, float* shared) {
  const float* columns = shared + kSharedSample + unit;
  const auto pre = [&](int kind, int column) {
    float sum = *first_pre(shared, kind, unit, s);
    WF_ROLLED
    for (int band = 0; band < kBands; ++band)
      sum = fma(columns[(4 * band + column) * own_units()], *input_of(shared, band, s), sum);
    return sum;
  };
  float* hidden = hidden_of(shared, 0, unit, s);
  *hidden = next_state(pre(0, 1), pre(1, 2), *first_pre(shared, kInner, unit, s), pre(kOuter, 3),
                       *hidden);
  const float v = add(pre(kFirstInput, 0), *hidden);
  *own_v(shared, unit, s) = v;
  return {*hidden, v};
}

WF_INLINE void send_units(const Team& t, int message, int s, int unit, float even, float odd) {
  const int tile = s / streams_of_tile(), pair = (first_unit() + unit) / 2;
  send_pair(t.exchange, state_words(message) + (tile * 8 * kHiddenTiles + pair) * 8,
            s % streams_of_tile(), even, odd);
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
    multiply_rows(t.gru, kInputOfSecond, n, t.shared, sums);
    store_unit_sums(t.shared, n, sums);
    block_sync(kManyResidualSumsV);
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
