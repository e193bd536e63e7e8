// Pre-activations of the gates in a pruned model: made by the warps that multiply R, in one block
// or dealt to the blocks of a cluster, and pushed to the shared memory of each.
//
// A cluster has two buffers by parity of the step, since a block's chain may be behind a peer's.
// For step t + 2 a peer pushes only when it has the fine half of t + 1, which takes rows of every
// block, and those are made after the fine half of t: all of step t has then been read here. An
// Arrivals counts what has come to one buffer of one half.
#pragma once

#include "cuda/kernels/arrivals.cuh"
#include "cuda/kernels/stage_gates.cuh"

namespace wavernn_fast::gpu {

WF_INLINE float* pre_place(float* shared, int side, unsigned step) {
  const int buffer = kCluster > 1 ? 3 * kHidden * static_cast<int>(step & 1) : 0;
  return shared + kSharedPre + buffer + 3 * kHalf * side;
}

WF_INLINE Arrivals* pre_arrivals(float* shared, int side, unsigned step) {
  return reinterpret_cast<Arrivals*>(shared + kSharedArrivals) + 2 * side + (step & 1);
}

// One thread of every block, before anybody can push.
WF_INLINE void begin_pre_arrivals(float* shared) {
  for (int i = 0; i < 4; ++i)
    init_arrivals(reinterpret_cast<Arrivals*>(shared + kSharedArrivals) + i);
  publish_arrivals();
}

// Rows `row` to `row` + 3 [gate H/2 + unit] of one half of R h, to every block of the team. What is
// added here is as in publish_gates.
WF_INLINE void publish_rows(const KernelArgs& args, Cursor at, int side, unsigned step, int row,
                            const float* sums, float* shared) {
  const int gate = row / kHalf, unit = side * kHalf + row - gate * kHalf;
  const float* inner = static_cast<const float*>(args.weights) + kInnerBiasAt + unit;
  WF_REGISTERS(float, values, 4);
  WF_UNROLL
  for (int e = 0; e < 4; e += 2) {
    const Float2 bias =
        gate < 2 ? condition2(args, at, gate * kHidden + unit + e) : load_constant2(inner + e);
    values[e] = add(sums[e], bias.x);
    values[e + 1] = add(sums[e + 1], bias.y);
  }
  float* place = pre_place(shared, side, step) + row;
  if (kCluster == 1) {
    store4(place, values);
    return;
  }
  WF_UNROLL
  for (int rank = 0; rank < kCluster; ++rank)
    push4(place, pre_arrivals(shared, side, step), rank, values);
}

// Waits until all rows of a half have been pushed here.
WF_INLINE void wait_for_pre(const Poller& poller, int side, unsigned step, float* shared) {
  await_bytes(poller, pre_arrivals(shared, side, step), thread_index() == 0, 12 * kHalf,
              step >> 1 & 1, poller.args.words + side, step);
}

// The outer candidate of a thread's units: it does not wait for anything.
WF_INLINE void collect_outer(const KernelArgs& args, int side, Cursor at, float* pre) {
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHalf) continue;
    const Float2 outer = condition2(args, at, 2 * kHidden + side * kHalf + unit);
    pre[kPreSize * n + 6] = outer.x;
    pre[kPreSize * n + 7] = outer.y;
  }
}

// And what the recurrent product gave, once it is there.
WF_INLINE void collect_pre(int side, unsigned step, float* shared, float* pre) {
  const float* from = pre_place(shared, side, step);
  WF_UNROLL
  for (int n = 0; n < kGateRounds; ++n) {
    const int unit = pair_of_units(n);
    if (unit >= kHalf) continue;
    WF_UNROLL
    for (int gate = 0; gate < 3; ++gate) {
      const Float2 pair = load2(from + gate * kHalf + unit);
      pre[kPreSize * n + 2 * gate] = pair.x;
      pre[kPreSize * n + 2 * gate + 1] = pair.y;
    }
  }
}

}  // namespace wavernn_fast::gpu
