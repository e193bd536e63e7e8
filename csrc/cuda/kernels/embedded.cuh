// Plan L of the embedded core: one utterance, weights resident, all blocks together for many
// samples.
//
//   h = GRU(embedding of the last label; conditioning)    p = relu(fc1 h)    logits = fc2 p
//
// A sample costs two exchanges between blocks: p and the logits. The state does not travel: every
// block computes all of it from words of R h, which their owners publish in the shadow of the first
// exchange of the step before, and from one row of a table (embedded_gates.cuh).
//
// The file that compiles this brings the primitives: entry_embedded.cuh or the emulator.
#pragma once

#include "cuda/kernels/embedded_gates.cuh"
#include "cuda/kernels/embedded_rows.cuh"
#include "cuda/kernels/residual_draw.cuh"
#include "cuda/kernels/sample.cuh"
#include "cuda/kernels/stages.h"

namespace wavernn_fast::gpu {

// Rows that this warp keeps for the whole launch.
struct EmbeddedMatrices {
  Matrix gru, fc1, fc2;
};

// What a thread carries from stage to stage.
struct EmbeddedRun {
  const KernelArgs& args;
  Poller poller;
  float* shared;
  EmbeddedMatrices m;
  float* pre;  // [kGateRounds][kRecurrentSize], see collect_recurrent
  int label;   // the last one
  Cursor at;
  StageClock clock;
  unsigned step, tag;
};

// The state to shared memory; zeros in the padding.
WF_INLINE void load_embedded(const KernelArgs& args, float* shared) {
  for (int i = thread_index(); i < 64 * kHiddenPairs; i += kThreads)
    shared[kSharedHidden + i] = i < kHidden ? args.state[i] : 0.0f;
  for (int i = thread_index(); i < 64 * kFcPairs; i += kThreads) shared[kSharedP + i] = 0.0f;
  for (int i = thread_index(); i < kChoiceWords; i += kThreads) shared[kSharedLogits + i] = 0.0f;
  if (thread_index() < kSharedControl) reinterpret_cast<int*>(shared)[thread_index()] = 0;
}

WF_INLINE void store_embedded(const EmbeddedRun& r) {
  if (block_index() != 0) return;
  for (int i = thread_index(); i < kHidden; i += kThreads)
    r.args.state[i] = r.shared[kSharedHidden + i];
  if (thread_index() != 0) return;
  r.args.state[kHidden] = to_float(r.label);
  r.args.state[kHidden + 1] = 0.0f;
  r.args.status->steps_done = r.step;
}

// The state, fc1 and fc2. In the shadow of the first exchange: R h for the next step; in that of
// the second: what its gates need.
WF_INLINE void run_outputs(EmbeddedRun& r) {
  const bool goes_on = r.step + 1 < r.args.steps;
  stage_units(r.args, r.pre, r.label, r.shared);
  block_sync(kEmbeddedHidden);
  stage_done(r.clock, kClockUnits);
  stage_hidden_layer(r.args, r.m.fc1, r.tag, r.shared);
  if (goes_on) publish_recurrent(r.args, r.m.gru, next(r.args, r.at), r.tag + 1, r.shared);
  collect_hidden_layer(r.poller, r.tag, r.shared);
  block_sync(kEmbeddedP);
  stage_done(r.clock, kClockHiddenLayer);
  stage_labels(r.args, r.m.fc2, r.step, r.tag, r.shared);
  if (warp_index() == draw_warp() && (r.step & 31) == 31) refresh(r.args, r.step + 1, r.shared);
  if (goes_on) collect_recurrent(r.poller, next(r.args, r.at), r.tag + 1, r.pre);
  collect_labels(r.poller, r.tag, r.shared);
  block_sync(kEmbeddedLogits);
  stage_done(r.clock, kClockLabels);
}

// One warp draws for its block. With the label goes whether this block goes on, so that all its
// threads leave at the same step.
WF_INLINE int run_label(EmbeddedRun& r) {
  int* control = reinterpret_cast<int*>(r.shared);
  if (warp_index() == draw_warp()) {
    stage_outcome(r.args, r.step, 0, r.shared, control);
    if (lane_index() == 0) control[3] = *r.poller.stop;
  }
  block_sync(kEmbeddedDrawn);
  stage_done(r.clock, kClockLabel);
  return reinterpret_cast<volatile int*>(r.shared)[0];
}

WF_INLINE void run_embedded_samples(EmbeddedRun& r) {
  for (r.step = 0; r.step < r.args.steps; ++r.step, ++r.tag) {
    run_outputs(r);
    const int label = run_label(r);
    if (reinterpret_cast<volatile int*>(r.shared)[3] != 0) return;
    if (block_index() == 0 && thread_index() == 0) r.args.labels[r.step] = label;
    r.label = label;
    r.at = next(r.args, r.at);
  }
}

// Before the first sample: R times the state as it is.
WF_INLINE void begin_embedded(EmbeddedRun& r) {
  publish_recurrent(r.args, r.m.gru, r.at, r.tag, r.shared);
  if (warp_index() == draw_warp()) refresh(r.args, 0, r.shared);
  // A thread waits for words of its own units only: others may still read the state.
  block_sync(kEmbeddedRead);
  collect_recurrent(r.poller, r.at, r.tag, r.pre);
  if (kClocks) r.clock.last = clock_ticks();
}

WF_INLINE void run_embedded(const KernelArgs& args) {
  float* shared = shared_memory();
  const int gru_pairs = 3 * kUnitSlots * kHiddenPairs;
  const int fc1_pairs = kFc1Slots * kHiddenPairs, fc2_pairs = kFc2Slots * kFcPairs;
  WF_REGISTERS(Weight, gru, kGruPlace == kInRegisters ? gru_pairs : 0);
  WF_REGISTERS(Weight, fc1, kFc1Place == kInRegisters ? fc1_pairs : 0);
  WF_REGISTERS(Weight, fc2, kFc2Place == kInRegisters ? fc2_pairs : 0);
  float* place = shared + kSharedWeights;
  const int part = block_index();
  const EmbeddedMatrices m{make_resident(args, kGruPlace, kGruAt, gru_pairs, gru, place, part),
                           make_resident(args, kFc1Place, kFc1At, fc1_pairs, fc1, place, part),
                           make_resident(args, kFc2Place, kFc2At, fc2_pairs, fc2, place, part)};
  load_embedded(args, shared);
  keep_embedded(args, shared);
  block_sync(kEmbeddedReady);

  WF_REGISTERS(float, pre, kRecurrentSize* kGateRounds);
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  EmbeddedRun r{args, {args, stop}, shared, m, pre, 0, {0, 0}, {}, 0, 0};
  r.label = round_to_int(args.state[kHidden]);
  r.at.phase = args.phase0;
  r.tag = args.tag0;
  r.clock.sums = kClocks && block_index() == 0 && thread_index() == 0 ? args.clocks : nullptr;
  begin_embedded(r);
  run_embedded_samples(r);
  store_embedded(r);
}

}  // namespace wavernn_fast::gpu
