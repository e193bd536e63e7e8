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

#include "cuda/kernels/many_residual_layers.cuh"
#include "cuda/kernels/sample.cuh"

namespace wavernn_fast::gpu {

// --- a sample ------------------------------------------------------------------------------------

WF_INLINE void run_two_grus(Team& t) {
  first_gates(t);
  stage_done(t.clock, kClockFirstGates);
  receive_columns(t.exchange, state_words(kMessageV), kHiddenTiles, t.shared);
  block_sync(kManyResidualV);
  second_gates(t);
  receive_columns(t.exchange, state_words(kMessageFirst), kHiddenTiles, t.shared);
  block_sync(kManyResidualH1);
  product_ahead(t.gru, 0, kNextStep, t.shared);
  receive_columns(t.exchange, state_words(kMessageW), kHiddenTiles, t.shared);
  block_sync(kManyResidualW);
  stage_done(t.clock, kClockSecondGates);
}

WF_INLINE void run_three_layers(Team& t) {
  multiply_dense(t, 0);
  block_sync(kManyResidualSumsP);
  hand_on_dense(t, 0);
  receive_columns(t.exchange, state_words(kMessageSecond), kHiddenTiles, t.shared);
  block_sync(kManyResidualH2);
  product_ahead(t.gru, 1, kNextStep, t.shared);
  receive_columns(t.exchange, layer_words(0), kFcTiles, t.shared);
  block_sync(kManyResidualP);
  stage_done(t.clock, kClockP);
  multiply_dense(t, 1);
  block_sync(kManyResidualSumsQ);
  hand_on_dense(t, 1);
  receive_columns(t.exchange, layer_words(1), kFcTiles, t.shared);
  block_sync(kManyResidualQ);
  stage_done(t.clock, kClockQ);
  multiply_dense(t, 2);
  block_sync(kManyResidualSumsLogits);
  hand_on_choices(t);
  if (kFc3Whole) block_sync(kManyResidualLogits);
  stage_done(t.clock, kClockLogits);
}

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
  block_sync(kManyResidualAdvanced);
}

// --- streams that end and begin ------------------------------------------------------------------

// The state of each slot's stream has h1 [H], h2 [H], and the last sample of each band; a zero
// behind that of one.
WF_INLINE void end_residual_streams(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < 2 * own_units() * kStreams; i += kThreads) {
    const int s = i % kStreams, unit = i / kStreams % own_units(), gru = i / kStreams / own_units();
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.active || !slot.changes || first_unit() + unit >= kHidden) continue;
    stream_args(t.shared, s).state[gru * kHidden + first_unit() + unit] =
        *hidden_of(t.shared, gru, unit, s);
  }
  WF_ROLLED
  for (int s = thread_index(); rank_in_team() == 0 && s < kStreams; s += kThreads) {
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.active || !slot.changes) continue;
    const KernelArgs& args = stream_args(t.shared, s);
    for (int side = 0; side < input_rows(); ++side)
      args.state[2 * kHidden + side] = side < kBands ? *input_of(t.shared, side, s) : 0.0f;
    args.status->steps_done = slot.step;
  }
  block_sync(kManyResidualStored);
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads)
    if (slot_of(t.shared, s).changes && slot_of(t.shared, s).active) ++slot_of(t.shared, s).stream;
}

// Own units of the streams that begin, and what the first step of those is given by fc1 and fc2.
WF_INLINE void load_residual_states(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < 2 * own_units() * kStreams; i += kThreads) {
    const int s = i % kStreams, unit = i / kStreams % own_units(), gru = i / kStreams / own_units();
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.changes) continue;
    const bool there = slot.active && first_unit() + unit < kHidden;
    *hidden_of(t.shared, gru, unit, s) =
        there ? stream_args(t.shared, s).state[gru * kHidden + first_unit() + unit] : 0.0f;
  }
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
  block_sync(kManyResidualBegun);
  load_residual_states(t);
  for (int gru = 0; gru < 2; ++gru) {
    load_columns(t, gru * kHidden, 8 * kHiddenTiles);
    block_sync(kManyResidualLoadedH1 + gru);
    if (gru == 0)
      product_ahead(t.gru, 0, kChanging, t.shared);
    else
      product_ahead(t.gru, 1, kChanging, t.shared);
  }
}

// --- a launch ------------------------------------------------------------------------------------

WF_INLINE void load_residual_team(const KernelArgs& launch, float* shared) {
  load_expanded(launch, shared);
  for (int layer = 0; layer < 3; ++layer) {
    if (dense_place(layer) != kInShared) continue;
    WF_ROLLED
    for (int i = kTileWords * thread_index(); i < dense_words(layer); i += kTileWords * kThreads) {
      unsigned tile[kTileWords];
      load_tile(packed_dense(launch, layer) + i, tile);
      keep_tile(kept_dense(shared, layer) + i, tile);
    }
  }
  const float* packed = static_cast<const float*>(launch.weights);
  const int rows = kFc3Whole ? kClasses : kFc2Rows, before = kFc3Whole ? 0 : rank_in_team() * rows;
  WF_ROLLED
  for (int i = thread_index(); i < 16 * kFc2Tiles; i += kThreads)
    choice_biases(shared)[i] =
        i < rows && before + i < kClasses ? load_constant(packed + kFcBiasAt + before + i) : 0.0f;
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
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  Team t{launch, {{launch, stop}, kFirstRound}, shared, gru, {}, 0};
  t.clock.sums = kClocks && block_index() == 0 && thread_index() == 0 ? launch.clocks : nullptr;
  const unsigned steps = launch.queues[slots_of_launch(launch) + 1 + team_index()];
  if (kClocks) t.clock.last = clock_ticks();
  bool begins = true;
  for (; t.step < steps; ++t.step, ++t.exchange.round) {
    if (begins) begin_residual_streams(t);
    run_two_grus(t);
    run_three_layers(t);
    draw_outcomes(t);
    block_sync(kManyResidualDrawn);
    advance_slots(t);
    stage_done(t.clock, kClockDraw);
    if (*many_leave_flag(shared, t.step) != 0) return;
    begins = *changed_flag(shared) == t.step + 1;
    if (begins) end_residual_streams(t);
  }
}

}  // namespace wavernn_fast::gpu
