// What the loops over samples of all plans share.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"
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

// 0..255 to [-1, 1].
WF_INLINE float scaled(int k) { return fma(to_float(k), 1.0f / 127.5f, -1.0f); }

}  // namespace wavernn_fast::gpu
