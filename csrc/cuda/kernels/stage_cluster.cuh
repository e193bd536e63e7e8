// Exchanges within a cluster of blocks, compute capability 9.0 and up: y and logits go straight
// into the shared memory of every block of the cluster, and each cluster has both output layers
// whole.
//
// One place for y and one for logits serve both halves. An Arrivals counts what has come; a phase
// of it is one half of a sample, so its parity is the side. A peer sends the next half's values
// only when it has drawn this half, which takes a logit of every row of this block, and those are
// sent after y was read; and it sends its logits only after it has y of this block, which comes
// from gates that follow this block's draw. The next sample's values wait for the gate words of
// every block. All this rests on the rule of exchange.cuh.
#pragma once

#include "cuda/kernels/arrivals.cuh"
#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/stage_dense.cuh"

namespace wavernn_fast::gpu {

WF_INLINE Arrivals* y_arrivals(float* shared) {
  return reinterpret_cast<Arrivals*>(shared + kSharedArrivals);
}
WF_INLINE Arrivals* logit_arrivals(float* shared) { return y_arrivals(shared) + 1; }

// One thread of every block, before anybody can push.
WF_INLINE void begin_arrivals(float* shared) {
  init_arrivals(y_arrivals(shared));
  init_arrivals(logit_arrivals(shared));
  publish_arrivals();
}

// This lane's sum, one of `count` of its warp, to the same place in every block of the cluster,
// this one too. The lanes that hold it share the work.
WF_INLINE void push_to_peers(float* at, Arrivals* arrivals, int count, float value) {
  const int lanes = lanes_of_sum(count);
  WF_UNROLL
  for (int n = 0; n < kCluster; n += lanes) {
    const int rank = n + lane_index() % lanes;
    if (rank < kCluster) push(at, arrivals, rank, value);
  }
}

// Waits for all of this half's y (kind 0) or logits (kind 1).
WF_INLINE void wait_for_peers(const Poller& poller, int side, int kind, unsigned tag,
                              float* shared) {
  await_bytes(poller, kind == 0 ? y_arrivals(shared) : logit_arrivals(shared),
              thread_index() == (kind == 0 ? 0 : 32 * draw_warp()), 4 * (kind == 0 ? kFc : 256),
              static_cast<unsigned>(side), poller.args.words + arrival_word(side, kind), tag);
}

// The logits of classes 8 lane + 0..7, once all have come.
WF_INLINE void wait_for_logits(const Poller& poller, int side, unsigned tag, float* shared,
                               float* l) {
  wait_for_peers(poller, side, 1, tag, shared);
  WF_UNROLL
  for (int i = 0; i < 4; ++i) {  // in the order of logit_place
    const Float2 pair = load2(shared + kSharedLogits + 64 * i + 2 * lane_index());
    l[2 * i] = pair.x;
    l[2 * i + 1] = pair.y;
  }
}

}  // namespace wavernn_fast::gpu
