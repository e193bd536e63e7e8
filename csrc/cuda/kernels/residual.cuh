// Plan L of the residual core: one utterance, weights resident, all blocks together for many
// samples.
//
//   u = I [x; mel; a1] + b      h1 = GRU1(u)      v = u + h1
//   h2 = GRU2([v; a2])          w = v + h2
//   p = relu(fc1 [w; a3])       q = relu(fc2 [p; a4])       logits = fc3 q
//
// A sample costs four exchanges between blocks: h2, p, q and the logits; one less for each layer
// that every block has whole. Every block computes all of h1 from words of R1 h1, which their
// owners publish a whole sample before they are needed (docs/decisions/0013-residual-kernel.md).
//
// The file that compiles this brings the primitives: entry_residual.cuh or the emulator.
#pragma once

#include "cuda/kernels/residual_draw.cuh"
#include "cuda/kernels/residual_gates.cuh"
#include "cuda/kernels/residual_rows.cuh"
#include "cuda/kernels/sample.cuh"
#include "cuda/kernels/stages.h"

namespace wavernn_fast::gpu {

// Rows that this warp keeps for the whole launch.
struct ResidualMatrices {
  Matrix gru1, gru2, gru2_input, fc1, fc2, fc3;
};

// What a thread carries from stage to stage.
struct ResidualRun {
  const KernelArgs& args;
  Poller poller;
  float* shared;
  ResidualMatrices m;
  float* sums;          // [4 kUnitSlots] R2 h2 of own units, for the next step
  float* pre;           // [kGateRounds][kFirstSize], see collect_first
  float biases[3];      // of GRU 2, fc1 and fc2 at the next step, see second_bias and layer_bias
  float x[kMostBands];  // the last sample of every band
  Cursor at;
  StageClock clock;
  unsigned step, tag;
};

// Columns times x and the states to shared memory; zeros in the padding.
WF_INLINE void load_residual(const KernelArgs& args, float* shared) {
  const float* packed = static_cast<const float*>(args.weights) + kSampleAt;
  if (kSamplePlace == kInShared)
    for (int i = thread_index(); i < 4 * kBands * kHidden; i += kThreads)
      shared[kSharedSample + i] = load_constant(packed + i);
  for (int i = thread_index(); i < 64 * kHiddenPairs; i += kThreads) {
    shared[kSharedFirst + i] = i < kHidden ? args.state[i] : 0.0f;
    shared[kSharedSecond + i] = i < kHidden ? args.state[kHidden + i] : 0.0f;
    shared[kSharedV + i] = shared[kSharedW + i] = 0.0f;
  }
  for (int i = thread_index(); i < 64 * kFcPairs; i += kThreads)
    shared[kSharedP + i] = shared[kSharedQ + i] = 0.0f;
  for (int i = thread_index(); i < kChoiceWords; i += kThreads) shared[kSharedLogits + i] = 0.0f;
  load_expanded(args, shared);
  if (thread_index() < kSharedControl) reinterpret_cast<int*>(shared)[thread_index()] = 0;
}

WF_INLINE void store_residual(const ResidualRun& r) {
  if (block_index() != 0) return;
  for (int i = thread_index(); i < kHidden; i += kThreads) {
    r.args.state[i] = r.shared[kSharedFirst + i];
    r.args.state[kHidden + i] = r.shared[kSharedSecond + i];
  }
  if (thread_index() != 0) return;
  r.args.state[2 * kHidden + 1] = 0.0f;
  WF_UNROLL
  for (int band = 0; band < kBands; ++band) r.args.state[2 * kHidden + band] = r.x[band];
  r.args.status->steps_done = r.step;
}

// What the step at `at` is given, as it comes.
WF_INLINE void collect_step(ResidualRun& r, Cursor at, unsigned tag) {
  r.biases[0] = second_bias(r.args, at, r.shared);
  r.biases[1] = layer_bias(r.args, 0, at, r.shared);
  r.biases[2] = layer_bias(r.args, 1, at, r.shared);
  collect_first(r.poller, at, tag, r.pre);
}

// GRU 1, GRU 2. In the shadow of the exchange: R1 h1 for the next step.
WF_INLINE void run_states(ResidualRun& r) {
  stage_first(r.args, r.pre, r.x, r.shared);
  block_sync(kResidualV);
  stage_done(r.clock, kClockFirstGates);
  stage_second(r.args, r.m.gru2_input, r.biases[0], r.sums, r.tag, r.shared);
  if (r.step + 1 < r.args.steps)
    publish_first(r.args, r.m.gru1, next(r.args, r.at), r.tag + 1, r.shared);
  collect_second(r.poller, r.tag, r.shared);
  block_sync(kResidualW);
  stage_done(r.clock, kClockSecondGates);
}

// The three layers. In the shadow of the first exchange: R2 h2 for the next step.
WF_INLINE void run_layers(ResidualRun& r) {
  stage_layer(r.args, r.m.fc1, 0, r.biases[1], r.tag, r.shared);
  begin_second(r.m.gru2, r.shared, r.sums);
  if (!is_whole(0)) collect_layer(r.poller, 0, r.tag, r.shared);
  block_sync(kResidualP);
  stage_done(r.clock, kClockP);
  stage_layer(r.args, r.m.fc2, 1, r.biases[2], r.tag, r.shared);
  if (warp_index() == draw_warp() && (r.step & 31) == 31)
    refresh_words(r.args, r.step + 1, r.shared);
  if (!is_whole(1)) collect_layer(r.poller, 1, r.tag, r.shared);
  block_sync(kResidualQ);
  stage_done(r.clock, kClockQ);
  stage_choices(r.args, r.m.fc3, r.step, r.tag, r.shared);
  if (r.step + 1 < r.args.steps) collect_step(r, next(r.args, r.at), r.tag + 1);
  if (!is_whole(2)) collect_choices(r.poller, r.tag, r.shared);
  block_sync(kResidualLogits);
  stage_done(r.clock, kClockLogits);
}

// One warp draws for its block, or one each band. With the outcome goes whether this block goes on,
// so that all its threads leave at the same step.
WF_INLINE void run_draw(ResidualRun& r) {
  int* control = reinterpret_cast<int*>(r.shared);
  WF_UNROLL
  for (int first = 0; first < kBands; first += kWarps) {
    const int band = kBands > 1 ? first + warp_index() : 0;
    if (kBands > 1 ? band < kBands : warp_index() == draw_warp())
      stage_outcome(r.args, r.step, band, r.shared, control + kSharedOutcomes + band);
  }
  if (warp_index() == draw_warp() && lane_index() == 0) control[3] = *r.poller.stop;
  block_sync(kResidualDrawn);
  stage_done(r.clock, kClockDraw);
}

// What was drawn goes out, and is heard at the next step.
WF_INLINE void take_outcomes(ResidualRun& r) {
  const bool speaks = block_index() == 0 && thread_index() == 0;
  WF_UNROLL
  for (int band = 0; band < kBands; ++band) {
    int outcome = reinterpret_cast<volatile int*>(r.shared)[kSharedOutcomes + band];
    if (kBands > 1 && outcome & kFailedBand) {
      outcome ^= kFailedBand;
      if (speaks) report_band(r.args, r.step, band);
    }
    if (speaks) r.args.labels[r.step * kBands + band] = outcome;
    r.x[band] = fed_back(r.shared, outcome);
  }
}

// Before the first sample: products with the states as they are.
WF_INLINE void begin_residual(ResidualRun& r) {
  begin_second(r.m.gru2, r.shared, r.sums);
  publish_first(r.args, r.m.gru1, r.at, r.tag, r.shared);
  if (warp_index() == draw_warp()) refresh_words(r.args, 0, r.shared);
  // A thread waits for words of its own units only: others may still read the states.
  block_sync(kResidualRead);
  collect_step(r, r.at, r.tag);
  if (kClocks) r.clock.last = clock_ticks();
}

WF_INLINE void run_residual_samples(ResidualRun& r) {
  for (r.step = 0; r.step < r.args.steps; ++r.step, ++r.tag) {
    run_states(r);
    run_layers(r);
    run_draw(r);
    if (reinterpret_cast<volatile int*>(r.shared)[3] != 0) return;
    take_outcomes(r);
    r.at = next(r.args, r.at);
  }
}

WF_INLINE void run_residual(const KernelArgs& args) {
  float* shared = shared_memory();
  const int unit_pairs = 3 * kUnitSlots * kHiddenPairs, fc1_pairs = kFc1Slots * kHiddenPairs;
  const int fc2_pairs = kFc2Slots * kFcPairs, fc3_pairs = kFc3Slots * kFcPairs;
  WF_REGISTERS(Weight, gru1, kGru1Place == kInRegisters ? unit_pairs : 0);
  WF_REGISTERS(Weight, gru2, kGru2Place == kInRegisters ? unit_pairs : 0);
  WF_REGISTERS(Weight, gru2_input, kGru2InputPlace == kInRegisters ? unit_pairs : 0);
  WF_REGISTERS(Weight, fc1, kFc1Place == kInRegisters ? fc1_pairs : 0);
  WF_REGISTERS(Weight, fc2, kFc2Place == kInRegisters ? fc2_pairs : 0);
  WF_REGISTERS(Weight, fc3, kFc3Place == kInRegisters ? fc3_pairs : 0);
  float* place = shared + kSharedWeights;
  const int part = block_index();
  const ResidualMatrices m{
      make_resident(args, kGru1Place, kGru1At, unit_pairs, gru1, place, part),
      make_resident(args, kGru2Place, kGru2At, unit_pairs, gru2, place, part),
      make_resident(args, kGru2InputPlace, kGru2InputAt, unit_pairs, gru2_input, place, part),
      make_resident(args, kFc1Place, kFc1At, fc1_pairs, fc1, place, is_whole(0) ? 0 : part),
      make_resident(args, kFc2Place, kFc2At, fc2_pairs, fc2, place, is_whole(1) ? 0 : part),
      make_resident(args, kFc3Place, kFc3At, fc3_pairs, fc3, place, is_whole(2) ? 0 : part)};
  load_residual(args, shared);
  keep_owned(args, shared);
  block_sync(kResidualReady);

  WF_REGISTERS(float, sums, 4 * kUnitSlots);
  WF_REGISTERS(float, pre, kFirstSize* kGateRounds);
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  ResidualRun r{args, {args, stop}, shared, m, sums, pre, {}, {}, {0, 0}, {}, 0, 0};
  WF_UNROLL
  for (int band = 0; band < kBands; ++band) r.x[band] = args.state[2 * kHidden + band];
  r.at.phase = args.phase0;
  r.tag = args.tag0;
  r.clock.sums = kClocks && block_index() == 0 && thread_index() == 0 ? args.clocks : nullptr;
  begin_residual(r);
  run_residual_samples(r);
  store_residual(r);
}

}  // namespace wavernn_fast::gpu
