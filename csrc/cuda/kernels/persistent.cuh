// Plan L: one utterance, weights resident, all blocks together for many samples.
//
// A sample costs four exchanges between blocks: y and logits of the coarse half, y and logits of
// the fine half. Blocks do not exchange the state. Each publishes its rows of R h for the next
// step, a whole stage before they are needed, and every block computes all gates from them. The
// product R h, four fifths of the weights, runs in the shadow of the waits for y.
//
// The file that compiles this brings the primitives: entry_device.cuh or the emulator.
#pragma once

#include "cuda/kernels/stage_gates.cuh"
#include "cuda/kernels/stage_output.cuh"
#include "cuda/kernels/stages.h"

namespace wavernn_fast::gpu {

// Ticks of each stage, summed by one thread of block 0.
struct StageClock {
  long long* sums;  // null: off
  long long last;
};

WF_INLINE void stage_done(StageClock& clock, int stage) {
  if (!kClocks || clock.sums == nullptr) return;
  const long long now = clock_ticks();
  clock.sums[stage] += now - clock.last;
  clock.last = now;
}

// Input weights to shared memory, the state from device memory, zeros in the padding.
WF_INLINE void load_shared(const KernelArgs& args, float* shared) {
  const float* packed = static_cast<const float*>(args.weights) + kSampleAt;
  for (int i = thread_index(); i < 15 * kHalf; i += kThreads)
    shared[kSharedSample + i] = load_constant(packed + i);
  const int padded = 64 * kHalfPairs;
  for (int i = thread_index(); i < 2 * padded; i += kThreads) {
    const int side = i >= padded ? 1 : 0, unit = i - side * padded;
    shared[kSharedHidden + i] = unit < kHalf ? args.state[side * kHalf + unit] : 0.0f;
  }
  for (int i = thread_index(); i < 64 * kFcPairs; i += kThreads) shared[kSharedY + i] = 0.0f;
  if (thread_index() < kSharedControl) reinterpret_cast<int*>(shared)[thread_index()] = 0;
}

WF_INLINE void store_state(const KernelArgs& args, const float* shared, Inputs last, unsigned done) {
  if (block_index() != 0) return;
  const float* hidden = shared + kSharedHidden;
  for (int i = thread_index(); i < kHidden; i += kThreads)
    args.state[i] = hidden[i < kHalf ? i : 64 * kHalfPairs + i - kHalf];
  if (thread_index() != 0) return;
  args.state[kHidden] = last.coarse;
  args.state[kHidden + 1] = last.fine;
  args.status->steps_done = done;
}

// 0..255 to [-1, 1].
WF_INLINE float scaled(int k) { return fma(to_float(k), 1.0f / 127.5f, -1.0f); }

// The first warp draws for its block and hands the class on in shared memory. With the fine class
// goes whether this block goes on, so that all its threads leave at the same step.
WF_INLINE void draw(const Poller& poller, int side, unsigned step, unsigned tag,
                    const Chance& chance, float* shared) {
  int* control = reinterpret_cast<int*>(shared);
  const int k = stage_draw(poller, side, step, tag, chance);
  if (lane_index() != 0) return;
  control[side] = k;
  if (side == 1) control[3] = *poller.stop;
}

WF_INLINE void run_persistent(const KernelArgs& args) {
  float* shared = shared_memory();
  volatile int* control = reinterpret_cast<volatile int*>(shared);
  const Poller poller{args, control + 2};
  const bool draws = warp_index() == 0;

  WF_REGISTERS(Weight, gru_weights, kGruPlace == kInRegisters ? 6 * kUnitSlots * kHalfPairs : 0);
  WF_REGISTERS(Weight, fc1_weights, kFc1Place == kInRegisters ? 2 * kFc1Slots * kHalfPairs : 0);
  WF_REGISTERS(Weight, fc2_weights, kCoarseFc2Place == kInRegisters ? kFc2Slots * kFcPairs : 0);
  WF_REGISTERS(Weight, fc4_weights, kFineFc2Place == kInRegisters ? kFc2Slots * kFcPairs : 0);
  float* place = shared + kSharedWeights;
  const Matrix gru = make_resident(args, kGruPlace, kGruAt, 6 * kUnitSlots * kHalfPairs,
                                   gru_weights, place);
  const Matrix fc1 =
      make_resident(args, kFc1Place, kCoarseFc1At, kFc1Slots * kHalfPairs, fc1_weights, place);
  place += shared_words(kFc1Place, kFc1Slots * kHalfPairs);
  const Matrix fc3 = make_resident(args, kFc1Place, kFineFc1At, kFc1Slots * kHalfPairs,
                                   fc1_weights + kFc1Slots * kHalfPairs, place);
  place += shared_words(kFc1Place, kFc1Slots * kHalfPairs);
  const Matrix fc2 =
      make_resident(args, kCoarseFc2Place, kCoarseFc2At, kFc2Slots * kFcPairs, fc2_weights, place);
  place += shared_words(kCoarseFc2Place, kFc2Slots * kFcPairs);
  const Matrix fc4 =
      make_resident(args, kFineFc2Place, kFineFc2At, kFc2Slots * kFcPairs, fc4_weights, place);

  load_shared(args, shared);
  for (int layer = kCoarseFc1; layer <= kFineFc2; ++layer) keep_rows(args, layer, shared);
  keep_gate_row(args, shared);
  Inputs x{args.state[kHidden], args.state[kHidden + 1], 0.0f};
  block_sync(kStartReady);

  const float* hidden = shared + kSharedHidden;
  Cursor at{0, args.phase0};
  Chance chance{{0, 0}};
  WF_REGISTERS(float, sums, 3 * kUnitSlots);
  WF_REGISTERS(float, pre, kPreSize * kGateRounds);
  WF_UNROLL
  for (int i = 0; i < 3 * kUnitSlots; ++i) sums[i] = 0.0f;
  multiply_recurrent(gru, 0, hidden, sums);
  multiply_recurrent(gru, 1, hidden, sums);
  publish_gates(args, sums, at, args.tag0, shared);
  collect_gates(poller, 0, at, args.tag0, pre);
  StageClock clock{kClocks && block_index() == 0 && thread_index() == 0 ? args.clocks : nullptr, 0};
  if (kClocks) clock.last = clock_ticks();

  unsigned step = 0;
  for (; step < args.steps; ++step) {
    const unsigned tag = args.tag0 + step;
    const bool last_step = step + 1 == args.steps;

    stage_gates(0, pre, x, shared);
    block_sync(kCoarseHidden);
    stage_done(clock, kClockCoarseGates);
    stage_y(args, fc1, 0, tag, shared);
    WF_UNROLL
    for (int i = 0; i < 3 * kUnitSlots; ++i) sums[i] = 0.0f;
    multiply_recurrent(gru, 0, hidden, sums);
    if (draws && (step & 31) == 0) refresh(args, step, chance);
    stage_done(clock, kClockCoarseFc1);
    stage_collect_y(poller, 0, tag, shared);
    block_sync(kCoarseY);
    stage_done(clock, kClockCoarseWait);
    stage_logits(args, fc2, 0, step, tag, shared);
    collect_gates(poller, 1, at, tag, pre);
    stage_done(clock, kClockCoarseFc2);
    if (draws) draw(poller, 0, step, tag, chance, shared);
    block_sync(kCoarseDrawn);
    stage_done(clock, kClockCoarseDraw);
    const int coarse = control[0];
    x.now = scaled(coarse);

    stage_gates(1, pre, x, shared);
    block_sync(kFineHidden);
    stage_done(clock, kClockFineGates);
    stage_y(args, fc3, 1, tag, shared);
    const Cursor next_at = next(args, at);
    multiply_recurrent(gru, 1, hidden, sums);
    if (!last_step) publish_gates(args, sums, next_at, tag + 1, shared);
    stage_done(clock, kClockFineFc1);
    stage_collect_y(poller, 1, tag, shared);
    block_sync(kFineY);
    stage_done(clock, kClockFineWait);
    stage_logits(args, fc4, 1, step, tag, shared);
    if (!last_step) collect_gates(poller, 0, next_at, tag + 1, pre);
    at = next_at;
    stage_done(clock, kClockFineFc2);
    if (draws) draw(poller, 1, step, tag, chance, shared);
    block_sync(kFineDrawn);
    stage_done(clock, kClockFineDraw);
    const int fine = control[1];
    if (control[3] != 0) break;
    if (block_index() == 0 && thread_index() == 0) args.labels[step] = 256 * coarse + fine;
    x.coarse = x.now;
    x.fine = scaled(fine);
  }
  store_state(args, shared, x, step);
}

}  // namespace wavernn_fast::gpu
