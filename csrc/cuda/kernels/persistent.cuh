// Plan L: one utterance, weights resident, all blocks together for many samples.
//
// A sample costs four exchanges between blocks, y and logits of either half (stage_logits.cuh),
// through L2 or within clusters (stage_cluster.cuh); or two, the sums of the coarse logits and
// those of the fine ones (stage_sums.cuh). Blocks do not exchange the state. Each publishes its
// rows of R h for the next step, a stage before they are needed, and every block computes all gates
// from them. The product R h, four fifths of the weights, runs in the shadow of the waits.
//
// The file that compiles this brings the primitives: entry_device.cuh or the emulator.
#pragma once

#include "cuda/kernels/sample.cuh"
#include "cuda/kernels/stage_cluster.cuh"
#include "cuda/kernels/stage_draw.cuh"
#include "cuda/kernels/stage_gates.cuh"
#include "cuda/kernels/stage_logits.cuh"
#include "cuda/kernels/stage_sums.cuh"
#include "cuda/kernels/stage_y.cuh"
#include "cuda/kernels/stages.h"

namespace wavernn_fast::gpu {

// Input weights to shared memory, the state from device memory, zeros in the padding.
WF_INLINE void load_shared(const KernelArgs& args, float* shared) {
  const int skipped = kCoarseSamplePlace == kInShared ? 0 : 6 * kHalf;
  const float* packed = static_cast<const float*>(args.weights) + kSampleAt + skipped;
  for (int i = thread_index(); i < 15 * kHalf - skipped; i += kThreads)
    shared[kSharedSample + i] = load_constant(packed + i);
  const int padded = 64 * kHalfPairs;
  for (int i = thread_index(); i < 2 * padded; i += kThreads) {
    const int side = i >= padded ? 1 : 0, unit = i - side * padded;
    shared[kSharedHidden + i] = unit < kHalf ? args.state[side * kHalf + unit] : 0.0f;
  }
  const int y_size = kExchanges == 4 ? 64 * kFcPairs : 2 * kYPairs;
  for (int i = thread_index(); i < y_size; i += kThreads) shared[kSharedY + i] = 0.0f;
  if (kExchanges == 2)  // the host has cleared the sums
    for (int i = thread_index(); i < 1024; i += kThreads) shared[kSharedSeen + i] = 0.0f;
  if (kCluster > 1 && thread_index() == 0) begin_arrivals(shared);
  if (thread_index() < kSharedControl) reinterpret_cast<int*>(shared)[thread_index()] = 0;
}

WF_INLINE void store_state(const KernelArgs& args, const float* shared, Inputs last,
                           unsigned done) {
  if (block_index() != 0) return;
  const float* hidden = shared + kSharedHidden;
  for (int i = thread_index(); i < kHidden; i += kThreads)
    args.state[i] = hidden[i < kHalf ? i : 64 * kHalfPairs + i - kHalf];
  if (thread_index() != 0) return;
  args.state[kHidden] = last.coarse;
  args.state[kHidden + 1] = last.fine;
  args.status->steps_done = done;
}

// One warp draws for its block and hands the class on in shared memory. With the fine class
// goes whether this block goes on, so that all its threads leave at the same step.
WF_INLINE void draw(const Poller& poller, int side, unsigned step, unsigned tag, float* shared) {
  const KernelArgs& args = poller.args;
  int* control = reinterpret_cast<int*>(shared);
  WF_REGISTERS(float, l, 8);
  if (kCluster > 1)
    wait_for_logits(poller, side, tag, shared, l);
  else if (kExchanges == 4)
    collect_logits(poller, side, tag, l);
  else
    collect_sums(poller, side, tag, shared, l);
  if (kFull && kExchanges == 2 && args.logits != nullptr && block_index() == 0)
    for (int e = 0; e < 8; ++e)
      args.logits[static_cast<long long>(step) * 512 + side * 256 + 8 * lane_index() + e] = l[e];
  const int k = stage_draw(args, side, step, shared, l);
  if (k >= 0) control[side] = k;
  if (side == 1 && lane_index() == 0) control[3] = *poller.stop;
}

// Rows that this warp keeps for the whole launch: R, O1, O2, O3, O4.
struct Resident {
  Matrix gru, fc1, fc2, fc3, fc4;
};

// What a thread carries from stage to stage.
struct Run {
  const KernelArgs& args;
  Poller poller;
  float* shared;
  Resident m;
  float* sums;           // [3 kUnitSlots] of the recurrent product of the next step
  float* pre;            // [kGateRounds][kPreSize], see collect_gates
  const float* bias[2];  // [kClassRounds] of either half, with two exchanges
  Inputs x;
  Cursor at;
  StageClock clock;
  unsigned step, tag;
};

// R times the half of the new state that is there. After the fine half it is complete: the words of
// the next step's gates go out.
WF_INLINE void shadow_product(Run& r, int side) {
  if (side == 0) {
    WF_UNROLL
    for (int i = 0; i < 3 * kUnitSlots; ++i) r.sums[i] = 0.0f;
  }
  multiply_recurrent(r.m.gru, side, r.shared + kSharedHidden, r.sums);
  if (side == 1 && r.step + 1 < r.args.steps)
    publish_gates(r.args, r.sums, next(r.args, r.at), r.tag + 1, r.shared);
}

// Words of the gates that come next: the fine half of this step, or the coarse half of the next.
WF_INLINE void collect_next_gates(Run& r, int side) {
  if (side == 0)
    collect_gates(r.poller, 1, r.at, r.tag, r.pre);
  else if (r.step + 1 < r.args.steps)
    collect_gates(r.poller, 0, next(r.args, r.at), r.tag + 1, r.pre);
}

// One half of a sample, coarse (0) or fine (1): gates, output layers, draw. Returns the class.
WF_INLINE int run_half(Run& r, int side) {
  const int barrier = side * kBarriersOfHalf, stage = side * kStagesOfHalf;
  const Matrix& fc1 = side == 0 ? r.m.fc1 : r.m.fc3;
  const Matrix& fc2 = side == 0 ? r.m.fc2 : r.m.fc4;
  float* hidden = r.shared + kSharedHidden + side * 64 * kHalfPairs;
  stage_gates(r.args, side, r.pre, r.x, hidden, hidden, r.shared);
  block_sync(kCoarseHidden + barrier);
  stage_done(r.clock, kClockCoarseGates + stage);
  stage_y(r.args, fc1, side, r.tag, r.shared);
  if (kExchanges == 4) shadow_product(r, side);
  if (kCluster > 1) {  // every thread waits for itself
    wait_for_peers(r.poller, side, 0, r.tag, r.shared);
  } else {
    if (kExchanges == 4) stage_collect_y(r.poller, side, r.tag, r.shared);
    block_sync(kCoarseY + barrier);
  }
  stage_done(r.clock, kClockCoarseY + stage);
  if (kExchanges == 4) {
    stage_logits(r.args, fc2, side, r.step, r.tag, r.shared);
  } else {
    stage_partial(r.args, fc2, side, r.bias[side], r.shared);
    shadow_product(r, side);
  }
  const bool draws = warp_index() == draw_warp();
  if (draws && side == 1 && (r.step & 31) == 31) refresh(r.args, r.step + 1, r.shared);
  collect_next_gates(r, side);
  stage_done(r.clock, kClockCoarseLogits + stage);
  if (draws) draw(r.poller, side, r.step, r.tag, r.shared);
  block_sync(kCoarseDrawn + barrier);
  stage_done(r.clock, kClockCoarseDraw + stage);
  return reinterpret_cast<volatile int*>(r.shared)[side];
}

// Before the first sample: R times the state as it is, and the words of the first gates.
WF_INLINE void begin(Run& r) {
  WF_UNROLL
  for (int i = 0; i < 3 * kUnitSlots; ++i) r.sums[i] = 0.0f;
  multiply_recurrent(r.m.gru, 0, r.shared + kSharedHidden, r.sums);
  multiply_recurrent(r.m.gru, 1, r.shared + kSharedHidden, r.sums);
  publish_gates(r.args, r.sums, r.at, r.tag, r.shared);
  if (warp_index() == draw_warp()) refresh(r.args, 0, r.shared);
  // A thread waits for the words of its own units only: others may still be reading the state that
  // it is about to change.
  block_sync(kStartRead);
  collect_gates(r.poller, 0, r.at, r.tag, r.pre);
  if (kClocks) r.clock.last = clock_ticks();
}

WF_INLINE void run_samples(Run& r) {
  for (r.step = 0; r.step < r.args.steps; ++r.step, ++r.tag) {
    const int coarse = run_half(r, 0);
    r.x.now = scaled(coarse);
    const int fine = run_half(r, 1);
    if (reinterpret_cast<volatile int*>(r.shared)[3] != 0) return;
    if (block_index() == 0 && thread_index() == 0) r.args.labels[r.step] = 256 * coarse + fine;
    r.x.coarse = r.x.now;
    r.x.fine = scaled(fine);
    r.at = next(r.args, r.at);
  }
}

WF_INLINE void run_persistent(const KernelArgs& args) {
  constexpr Cursor kStart{0, 0};
  float* shared = shared_memory();
  const int gru_pairs = 6 * kUnitSlots * kHalfPairs, fc1_pairs = kFc1Slots * kHalfPairs;
  const int fc2_pairs = kExchanges == 4 ? kFc2Slots * kFcPairs : kClassRounds * kYPairs;
  WF_REGISTERS(Weight, gru_weights, kGruPlace == kInRegisters ? gru_pairs : 0);
  WF_REGISTERS(Weight, fc1_weights, kFc1Place == kInRegisters ? fc1_pairs : 0);
  WF_REGISTERS(Weight, fc2_weights, kCoarseFc2Place == kInRegisters ? fc2_pairs : 0);
  WF_REGISTERS(Weight, fc3_weights, kFc1Place == kInRegisters ? fc1_pairs : 0);
  WF_REGISTERS(Weight, fc4_weights, kFineFc2Place == kInRegisters ? fc2_pairs : 0);
  float* place = shared + kSharedWeights;
  const int part = output_part();
  const Resident m{
      make_resident(args, kGruPlace, kGruAt, gru_pairs, gru_weights, place, block_index()),
      make_resident(args, kFc1Place, kCoarseFc1At, fc1_pairs, fc1_weights, place, part),
      make_resident(args, kCoarseFc2Place, kCoarseFc2At, fc2_pairs, fc2_weights, place, part),
      make_resident(args, kFc1Place, kFineFc1At, fc1_pairs, fc3_weights, place, part),
      make_resident(args, kFineFc2Place, kFineFc2At, fc2_pairs, fc4_weights, place, part)};
  WF_REGISTERS(float, coarse_bias, kClassRounds);
  WF_REGISTERS(float, fine_bias, kClassRounds);
  WF_UNROLL
  for (int n = 0; n < kClassRounds; ++n) {
    coarse_bias[n] = class_bias(args, 0, class_of_round(n));
    fine_bias[n] = class_bias(args, 1, class_of_round(n));
  }

  load_shared(args, shared);
  for (int layer = kCoarseFc1; layer <= kFineFc2; ++layer) keep_rows(args, layer, shared);
  keep_gate_row(args, shared);
  if (kCluster > 1)
    cluster_sync(kStartCluster);  // nobody pushes before its peers count
  else
    block_sync(kStartReady);

  WF_REGISTERS(float, sums, 3 * kUnitSlots);
  WF_REGISTERS(float, pre, kPreSize* kGateRounds);
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  Run r{args, {args, stop}, shared, m, sums, pre, {coarse_bias, fine_bias}, {}, kStart, {}, 0, 0};
  r.x = {args.state[kHidden], args.state[kHidden + 1], 0.0f};
  r.at.phase = args.phase0;
  r.tag = args.tag0;
  r.clock.sums = kClocks && block_index() == 0 && thread_index() == 0 ? args.clocks : nullptr;
  begin(r);
  run_samples(r);
  store_state(args, shared, r.x, r.step);
  if (kCluster > 1) cluster_sync(kEndCluster);  // nobody leaves while a peer may push to it
}

}  // namespace wavernn_fast::gpu
