// Names of what happens in a sample, for clocks and for the emulator's reports.
#pragma once

namespace wavernn_fast::gpu {

// Barriers of a block, one after each stage that shared memory carries to the next.
enum Barrier : int {
  kStartReady,    // the state, before the first product
  kCoarseHidden,  // coarse half of the new state
  kCoarseY,
  kCoarseDrawn,
  kFineHidden,
  kFineY,
  kFineDrawn,
  kBarriers
};

// Stretches of a sample whose ticks are summed when kClocks is set, in order.
enum Stage : int {
  kClockCoarseGates,  // gates of the coarse half, barrier
  kClockCoarseFc1,    // O1, and R times the coarse half in the shadow
  kClockCoarseWait,   // for y of the coarse half, barrier
  kClockCoarseFc2,    // O2, and collecting the fine half's gate words
  kClockCoarseDraw,   // waiting for logits and drawing, barrier
  kClockFineGates,
  kClockFineFc1,  // O3, R times the fine half, publishing the next step's gate words
  kClockFineWait,
  kClockFineFc2,
  kClockFineDraw,
  kClockStages
};

constexpr const char* kStageNames[kClockStages] = {"coarse gates",
                                                   "coarse fc1, recurrent product",
                                                   "coarse y wait",
                                                   "coarse fc2",
                                                   "coarse logits wait, draw",
                                                   "fine gates",
                                                   "fine fc1, recurrent product",
                                                   "fine y wait",
                                                   "fine fc2",
                                                   "fine logits wait, draw"};

}  // namespace wavernn_fast::gpu
