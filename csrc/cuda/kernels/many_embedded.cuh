// Plan M of the embedded core: many streams, 8 for the price of one, as many_residual.cuh for the
// residual core.
//
//   h = GRU(embedding of the last label; conditioning)    p = relu(fc1 h)    logits = fc2 p
//
// A block has some units with all their gates, and some rows of both layers. Messages of a sample,
// each from all blocks to all: h, p, the logits; then the labels, where streams are so many that
// each is drawn by one block only. R h is multiplied while p is on its way: three trips a sample
// follow each other, four with labels.
#pragma once

#include "cuda/kernels/many_embedded_gates.cuh"
#include "cuda/kernels/many_streams.cuh"
#include "cuda/kernels/sample.cuh"

namespace wavernn_fast::gpu {

// --- a sample ------------------------------------------------------------------------------------

WF_INLINE void run_labelled_sample(Team& t) {
  label_gates(t);
  stage_done(t.clock, kClockUnits);
  sync_to_push(kManyUnitsH1);
  push_message(state_message(kMessageHidden), t.shared);
  take_message(t.exchange, state_message(kMessageHidden), t.shared);
  sync_taken(kManyUnitsH1);
  multiply_dense(t, 0);
  block_sync(kManyUnitsSumsP);
  hand_on_dense(t, 0, [&](int row, int) { return t.shared[kSharedBiases + row]; }, [](int, int) {});
  sync_to_push(kManyUnitsTakenP);
  push_message(layer_message(0), t.shared);
  hidden_ahead(t, kNextStep);
  take_message(t.exchange, layer_message(0), t.shared);
  block_sync(kManyUnitsP);
  stage_done(t.clock, kClockHiddenLayer);
  multiply_dense(t, 1);
  block_sync(kManyUnitsSumsLogits);
  hand_on_choices(t);
  stage_done(t.clock, kClockLabels);
}

// --- streams that begin --------------------------------------------------------------------------

// The next stream of every slot whose stream has ended: its state, and R times it. The same for the
// first of all slots.
WF_INLINE void begin_labelled_streams(const Team& t) {
  begin_in_slots(t);
  block_sync(kManyUnitsBegun);
  load_unit_states(t);
  load_columns(t, 0, 8 * kHiddenTiles);
  block_sync(kManyUnitsLoadedH1);
  hidden_ahead(t, kChanging);
  block_sync(kManyUnitsReady);
}

// --- a launch ------------------------------------------------------------------------------------

// Packed biases: of fc1 [F], then of fc2.
WF_INLINE void load_labelled_team(const KernelArgs& launch, float* shared) {
  load_layers(launch, kFcBiasAt + kFc, shared);
  const float* packed = static_cast<const float*>(launch.weights);
  WF_ROLLED
  for (int i = thread_index(); i < 16 * kFc1Tiles; i += kThreads) {
    const int row = rank_in_team() * 16 * kFc1Tiles + i;
    shared[kSharedBiases + i] = row < kFc ? load_constant(packed + kFcBiasAt + row) : 0.0f;
  }
  WF_ROLLED
  for (int i = thread_index(); i < own_units(); i += kThreads) {
    const int unit = first_unit() + i;
    shared[kSharedInnerBias + i] =
        unit < kHidden ? load_constant(packed + kInnerBiasAt + unit) : 0.0f;
  }
}

WF_INLINE void run_many_embedded(const KernelArgs& launch) {
  float* shared = shared_memory();
  WF_REGISTERS(unsigned, kept, kGruKept * 3 * kUnitTiles * kTileWords);
  const RecurrentTiles gru = load_recurrent(launch, kept, shared);
  load_labelled_team(launch, shared);
  load_slots(launch, shared);
  start_team(shared);
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  Team t{launch, {{launch, stop}, kFirstRound}, shared, gru, {}, 0};
  run_slots(
      t, [](Team& team) { begin_labelled_streams(team); },
      [](Team& team) { run_labelled_sample(team); });
  end_team();
}

}  // namespace wavernn_fast::gpu
