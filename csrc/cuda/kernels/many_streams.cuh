// Streams in the slots of a team of the residual or the embedded core: from sample to sample, and
// from one stream to the next.
#pragma once

#include "cuda/kernels/many_layers.cuh"

namespace wavernn_fast::gpu {

// A thread a slot: what its stream drew, and on to its next step.
WF_INLINE void advance_slots(const Team& t) {
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads) {
    Slot& slot = slot_of(t.shared, s);
    slot.changes = 0;
    if (!slot.active) continue;
    const KernelArgs& args = stream_args(t.shared, s);
    for (int band = 0; band < kBands; ++band) {
      const int outcome = *class_of(t.shared, band, s);
      if (rank_in_team() == 0) args.labels[slot.step * kBands + band] = outcome;
      *input_of(t.shared, band, s) = fed_back(t.shared, outcome);
    }
    slot.at = next(args, slot.at);
    if (++slot.step < args.steps) continue;
    slot.changes = 1;
    *changed_flag(t.shared) = t.step + 1;
  }
  if (thread_index() == 0) *many_leave_flag(t.shared, t.step) = *t.exchange.poller.stop;
  block_sync(kManyUnitsAdvanced);
}

// --- streams that end and begin ------------------------------------------------------------------

// A value of the state of own units: of GRU `gru`, of slot s.
struct OwnState {
  int gru, unit, s;
};
WF_INLINE int own_states() { return states_of_stream() * own_units() * kStreams; }
WF_INLINE OwnState own_state(int i) {
  return {i / kStreams / own_units(), i / kStreams % own_units(), i % kStreams};
}
WF_INLINE int place_in_state(const OwnState& own) {
  return own.gru * kHidden + first_unit() + own.unit;
}

// The states of the streams that end: units [GRU][H], and what the stream heard last of each band;
// a zero behind that of one.
WF_INLINE void end_unit_streams(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < own_states(); i += kThreads) {
    const OwnState own = own_state(i);
    const Slot& slot = slot_of(t.shared, own.s);
    if (!slot.active || !slot.changes || first_unit() + own.unit >= kHidden) continue;
    stream_args(t.shared, own.s).state[place_in_state(own)] =
        *hidden_of(t.shared, own.gru, own.unit, own.s);
  }
  WF_ROLLED
  for (int s = thread_index(); rank_in_team() == 0 && s < kStreams; s += kThreads) {
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.active || !slot.changes) continue;
    const KernelArgs& args = stream_args(t.shared, s);
    for (int side = 0; side < input_rows(); ++side)
      args.state[states_of_stream() * kHidden + side] =
          side < kBands ? *input_of(t.shared, side, s) : 0.0f;
    args.status->steps_done = slot.step;
  }
  block_sync(kManyUnitsStored);
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads)
    if (slot_of(t.shared, s).changes && slot_of(t.shared, s).active) ++slot_of(t.shared, s).stream;
}

// Own units of the streams that begin.
WF_INLINE void load_unit_states(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < own_states(); i += kThreads) {
    const OwnState own = own_state(i);
    const Slot& slot = slot_of(t.shared, own.s);
    if (!slot.changes) continue;
    const bool there = slot.active && first_unit() + own.unit < kHidden;
    *hidden_of(t.shared, own.gru, own.unit, own.s) =
        there ? stream_args(t.shared, own.s).state[place_in_state(own)] : 0.0f;
  }
}

// --- before the first sample ---------------------------------------------------------------------

// Layers that stay in shared memory, and the biases of logits, which are packed from `biases` on.
WF_INLINE void load_layers(const KernelArgs& launch, int biases, float* shared) {
  for (int layer = 0; layer < layers(); ++layer) {
    if (dense_place(layer) != kInShared) continue;
    WF_ROLLED
    for (int i = kTileWords * thread_index(); i < dense_words(layer); i += kTileWords * kThreads) {
      unsigned tile[kTileWords];
      load_tile(packed_dense(launch, layer) + i, tile);
      keep_tile(kept_dense(shared, layer) + i, tile);
    }
  }
  const float* packed = static_cast<const float*>(launch.weights) + biases;
  const int rows = kFc3Whole ? kClasses : kFc2Rows, before = kFc3Whole ? 0 : rank_in_team() * rows;
  WF_ROLLED
  for (int i = thread_index(); i < 16 * kFc2Tiles; i += kThreads)
    choice_biases(shared)[i] =
        i < rows && before + i < kClasses ? load_constant(packed + before + i) : 0.0f;
}

// --- a launch ------------------------------------------------------------------------------------

// All steps of a team. begin(t): of slots that have a new stream; sample(t): up to the logits.
template <class Begin, class Sample>
WF_INLINE void run_slots(Team& t, const Begin& begin, const Sample& sample) {
  const unsigned steps = t.launch.queues[slots_of_launch(t.launch) + 1 + team_index()];
  t.clock.sums = kClocks && block_index() == 0 && thread_index() == 0 ? t.launch.clocks : nullptr;
  if (kClocks) t.clock.last = clock_ticks();
  bool begins = true;
  for (; t.step < steps; ++t.step, ++t.exchange.round) {
    if (begins) begin(t);
    sample(t);
    draw_outcomes(t);
    block_sync(kManyUnitsDrawn);
    advance_slots(t);
    stage_done(t.clock, kResidual ? int{kClockDraw} : int{kClockLabel});
    if (*many_leave_flag(t.shared, t.step) != 0) return;
    begins = *changed_flag(t.shared) == t.step + 1;
    if (begins) end_unit_streams(t);
  }
}

}  // namespace wavernn_fast::gpu
