// Plan M of the residual core: many streams, 8 for the price of one, as many.cuh for the dual core.
//
// A team of kBlocks blocks runs kStreams streams side by side. A block has some units of both GRUs
// with all their gates, and some rows of each layer, all as tiles of weights that stay where they
// are for the whole launch. Messages of a sample, each from all blocks to all: v and h1, w and h2,
// p, q and the logits; then the outcomes, where streams are so many that each is drawn by one block
// only. R1 h1 and R2 h2 are multiplied while w and p are on their way, h1 and h2 are awaited then
// only: five trips a sample follow each other, six with outcomes, one less where every block has
// all rows of fc3.
#pragma once

#include "cuda/kernels/many_residual_gates.cuh"
#include "cuda/kernels/many_residual_layers.cuh"
#include "cuda/kernels/many_streams.cuh"
#include "cuda/kernels/sample.cuh"

namespace wavernn_fast::gpu {

// --- a sample ------------------------------------------------------------------------------------

WF_INLINE void take_state(const Team& t, int message) {
  take_message(t.exchange, state_message(message), t.shared);
}
WF_INLINE void push_state(const Team& t, int message) {
  push_message(state_message(message), t.shared);
}

WF_INLINE void run_two_grus(Team& t) {
  first_gates(t);
  stage_done(t.clock, kClockFirstGates);
  sync_to_push(kManyUnitsV);
  push_state(t, kMessageV);
  push_state(t, kMessageFirst);
  take_state(t, kMessageV);
  sync_taken(kManyUnitsV);
  second_gates(t);
  sync_to_push(kManyUnitsH1);
  push_state(t, kMessageW);
  push_state(t, kMessageSecond);
  take_state(t, kMessageFirst);
  sync_taken(kManyUnitsH1);
  first_ahead(t, kNextStep);
  take_state(t, kMessageW);
  block_sync(kManyUnitsW);
  stage_done(t.clock, kClockSecondGates);
}

WF_INLINE void run_three_layers(Team& t) {
  multiply_dense(t, 0);
  block_sync(kManyUnitsSumsP);
  hand_on_hidden_layer(t, 0);
  sync_to_push(kManyUnitsH2);
  push_message(layer_message(0), t.shared);
  take_state(t, kMessageSecond);
  sync_taken(kManyUnitsH2);
  second_ahead(t, kNextStep);
  take_message(t.exchange, layer_message(0), t.shared);
  block_sync(kManyUnitsP);
  stage_done(t.clock, kClockP);
  multiply_dense(t, 1);
  block_sync(kManyUnitsSumsQ);
  hand_on_hidden_layer(t, 1);
  sync_to_push(kManyUnitsQ);
  push_message(layer_message(1), t.shared);
  take_message(t.exchange, layer_message(1), t.shared);
  sync_taken(kManyUnitsQ);
  stage_done(t.clock, kClockQ);
  multiply_dense(t, 2);
  block_sync(kManyUnitsSumsLogits);
  hand_on_choices(t);
  if (kFc3Whole) block_sync(kManyUnitsLogits);
  stage_done(t.clock, kClockLogits);
}

// --- streams that begin --------------------------------------------------------------------------

// Own units of the streams that begin, and what the first step of those is given by fc1 and fc2.
WF_INLINE void load_residual_states(const Team& t) {
  load_unit_states(t);
  WF_ROLLED
  for (int i = thread_index(); i < 2 * 8 * kFc1Tiles * kStreams; i += kThreads) {
    const int s = i % kStreams, row = i / kStreams % (8 * kFc1Tiles) * 2;
    if (slot_of(t.shared, s).changes)
      load_dense_biases(t.shared, i / kStreams / (8 * kFc1Tiles), row, s, kChanging);
  }
}

// The next stream of every slot whose stream has ended: its states, and R1 and R2 times them. The
// same for the first of all slots. What the first gates read was written before the last barrier.
WF_INLINE void begin_residual_streams(const Team& t) {
  begin_in_slots(t);
  block_sync(kManyUnitsBegun);
  load_residual_states(t);
  load_columns(t, 0, 8 * kHiddenTiles);
  block_sync(kManyUnitsLoadedH1);
  first_ahead(t, kChanging);
  load_columns(t, kHidden, 8 * kHiddenTiles);
  block_sync(kManyUnitsLoadedH2);
  second_ahead(t, kChanging);
}

// --- a launch ------------------------------------------------------------------------------------

WF_INLINE void load_residual_team(const KernelArgs& launch, float* shared) {
  load_expanded(launch, shared);
  load_layers(launch, kFcBiasAt, shared);
  const float* packed = static_cast<const float*>(launch.weights);
  WF_ROLLED
  for (int i = thread_index(); i < 4 * kBands * own_units(); i += kThreads) {
    const int unit = first_unit() + i % own_units(), row = i / own_units();
    const bool there = unit < kHidden;
    shared[kSharedSample + i] =
        there ? load_constant(packed + kSampleAt + row * kHidden + unit) : 0.0f;
    if (row < 2)
      shared[kSharedInnerBias + i] =
          there ? load_constant(packed + kInnerBiasAt + row * kHidden + unit) : 0.0f;
  }
}

WF_INLINE void run_many_residual(const KernelArgs& launch) {
  float* shared = shared_memory();
  WF_REGISTERS(unsigned, kept, kGruKept * 3 * kUnitTiles * kTileWords);
  const RecurrentTiles gru = load_recurrent(launch, kept, shared);
  load_residual_team(launch, shared);
  load_slots(launch, shared);
  start_team(shared);
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  Team t{launch, {{launch, stop}, kFirstRound}, shared, gru, {}, 0};
  run_slots(
      t, [](Team& team) { begin_residual_streams(team); },
      [](Team& team) {
        run_two_grus(team);
        run_three_layers(team);
      });
  end_team();
}

}  // namespace wavernn_fast::gpu
