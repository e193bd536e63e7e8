// Recurrent units of many streams of the residual and the embedded core. A block has some units
// with all their gates, for all streams of the team; a matrix of gates is multiplied by all its
// warps, which share the columns.
#pragma once

#include "cuda/kernels/many_gates.cuh"
#include "cuda/kernels/many_team.cuh"

namespace wavernn_fast::gpu {

// --- words: [tile of streams][pair of units][8] --------------------------------------------------

// Messages that carry a value of all units: v, h1, w and h2 of the residual core, h of the embedded
// one.
WF_INLINE int state_messages() { return kResidual ? 4 : 1; }
WF_INLINE int state_words(int message) { return message * kStreamTiles * 64 * kHiddenTiles; }

// v, w, h1 and h2 have areas 0 to 3.
WF_INLINE Message state_message(int message) {
  const int area = message == 1 ? 2 : message == 2 ? 1 : message;
  return {message, state_words(message), kHiddenTiles, kUnitTiles, area};
}

WF_INLINE void send_units(const Team& t, int message, int s, int unit, float even, float odd) {
  send_pair(t.exchange, state_message(message), s / streams_of_tile(), (first_unit() + unit) / 2,
            s % streams_of_tile(), even, odd, t.shared);
}

// --- what a block keeps, [..., unit, stream] -----------------------------------------------------

// Before the activations, of the first GRU: reset, update, inner and outer candidate, as in
// many_gates.cuh, and then what else a core wants of a unit.
WF_INLINE float* unit_pre(float* shared, int kind, int unit, int s) {
  return shared + kSharedPre + (kind * own_units() + unit) * kStreams + s;
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

// Sums of this warp's columns of a matrix, all rows of this block, for one tile of streams.
WF_INLINE void multiply_rows(const RecurrentTiles& r, int matrix, int area, int tile, float* shared,
                             float* sums) {
  const int lane = lane_index();
  const Columns own = columns_of(kHiddenTiles, kWarps, warp_index(), false);
  const unsigned* x = activations(shared, area, tile, lane >> 2) + (lane & 3) + 8 * own.begin;
  WF_UNROLL
  for (int i = 0; i < 12 * kUnitTiles; ++i) sums[i] = 0.0f;
  WF_UNROLL
  for (int j = 0; j < kGruColumns; ++j) {
    if (j >= own.count) continue;  // the same for a whole warp
    multiply_column(r, matrix * kGruColumns + j, x[8 * j], x[8 * j + 4], sums);
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

// What a thread has of a tile of streams in a round: a unit, a stream, and what of it: a gate, or
// conditioning.
struct UnitOfStream {
  int kind, unit, s;  // s: of all streams
};
WF_INLINE UnitOfStream unit_of_stream(int tile, int round) {
  const int streams = streams_of_tile(), of_kind = own_units() * streams;
  const int thread = thread_index(), i = thread + round * kThreads;
  const int s = tile * streams + thread % streams;  // threads are a multiple of streams
  if (of_kind % kThreads != 0) return {i / of_kind, i % of_kind / streams, s};
  // The round says what: places of all rounds are a known distance apart.
  const int rounds = of_kind / kThreads;
  return {round / rounds, (thread + round % rounds * kThreads) / streams, s};
}

// A matrix of gates, and what its product is for.
struct GateProduct {
  int matrix;   // of those that RecurrentTiles has
  int area;     // of the activations, for the next step
  int gru;      // whose inner biases are added
  int kinds;    // reset, update, candidate; and one more if there is conditioning beside them
  int barrier;  // for sums of all warps
  int taken;    // before them: where they go has been read; -1: that is known
};

// The product with what stands as activations, for every stream's next step, or the first of those
// that have just begun. condition(args, at, kind, unit): of a unit of the model, for the step that
// is wanted; what is beyond the gates is conditioning alone. pre(kind, unit, s): the places.
template <class Condition, class Pre>
WF_INLINE void product_ahead(const Team& t, const GateProduct& product, Wanted wanted,
                             const Condition& condition, const Pre& pre) {
  float* shared = t.shared;
  const int area = wanted == kChanging ? kBeginArea : product.area;
  const auto condition_of_thread = [&](const UnitOfStream& r) {
    Cursor at;
    const int unit = first_unit() + r.unit;
    if (unit >= kHidden || !wanted_step(shared, wanted, r.s, at)) return 0.0f;
    return condition(stream_args(shared, r.s), at, r.kind, unit);
  };
  WF_REGISTERS(float, sums, 12 * kUnitTiles);
  // Loaded before they are wanted.
  WF_REGISTERS(float, conditions, kGateRounds);
  WF_ROLLED
  for (int n = 0; n < kStreamTiles; ++n) {
    WF_UNROLL
    for (int j = 0; j < kGateRounds; ++j) {
      const UnitOfStream r = unit_of_stream(n, j);
      conditions[j] = r.kind < product.kinds ? condition_of_thread(r) : 0.0f;
    }
    multiply_rows(t.gru, product.matrix, area, n, shared, sums);
    if (n == 0 && product.taken >= 0) block_sync(product.taken);
    store_unit_sums(shared, n, sums);
    block_sync(product.barrier);
    WF_UNROLL
    for (int j = 0; j < kGateRounds; ++j) {
      const UnitOfStream r = unit_of_stream(n, j);
      if (r.kind >= product.kinds || (wanted == kChanging && !slot_of(shared, r.s).changes))
        continue;
      if (r.kind == 3) {
        *pre(kOuter + 1, r.unit, r.s) = conditions[j];
        continue;
      }
      const float sum = unit_sum(shared, n, r.kind, r.unit, r.s - n * streams_of_tile());
      if (r.kind < kInner) {
        *pre(r.kind, r.unit, r.s) = add(sum, conditions[j]);
      } else {
        *pre(kInner, r.unit, r.s) =
            add(sum, shared[kSharedInnerBias + product.gru * own_units() + r.unit]);
        *pre(kOuter, r.unit, r.s) = conditions[j];
      }
    }
  }
}

}  // namespace wavernn_fast::gpu
