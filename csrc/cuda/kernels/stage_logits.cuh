// The second output layer with four exchanges: every block collects all of y, multiplies its own
// rows of O2 or O4, and publishes their logits. In a cluster y comes by itself, and logits go to
// the cluster's blocks.
#pragma once

#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/stage_dense.cuh"
#include "cuda/kernels/stage_y.cuh"

namespace wavernn_fast::gpu {

// All of y from its owners to shared memory.
WF_INLINE void stage_collect_y(const Poller& poller, int side, unsigned tag, float* shared) {
  const Word* words = buffer(poller.args, tag) + y_words(side);
  WF_UNROLL
  for (int n = 0; n < kFcRounds; ++n) {
    const int i = 2 * (thread_index() + n * kThreads);
    if (i >= kFc) continue;
    WF_REGISTERS(float, y, 2);
    poll_pairs(poller, words + i, 0, 1, tag, y);
    store2(shared + kSharedY + i, {y[0], y[1]});
  }
}

// Own rows of O2 or O4 over y: publishes logits.
WF_INLINE void stage_logits(const KernelArgs& args, const Matrix& m, int side, unsigned step,
                            unsigned tag, float* shared) {
  const OutputRow own = own_row(side == 0 ? kCoarseFc2 : kFineFc2, shared);
  const float logit = add(dense(m, kFc2Slots, kFcPairs, shared + kSharedY), own.bias);
  if (own.row < 0) return;
  if (kCluster > 1)
    push_to_peers(shared + kSharedLogits + logit_place(own.row), logit_arrivals(shared), kFc2Slots,
                  logit);
  else
    publish(buffer(args, tag) + logit_words(side) + logit_place(own.row), logit, tag);
  if (kFull && args.logits != nullptr && (kCluster == 1 || block_index() < kCluster))
    args.logits[static_cast<long long>(step) * 512 + side * 256 + own.row] = logit;
}

// The words of classes 8 lane + 0..7, as they come.
WF_INLINE void collect_logits(const Poller& poller, int side, unsigned tag, float* l) {
  const Word* words = buffer(poller.args, tag) + logit_words(side) + 2 * lane_index();
  poll_pairs(poller, words, 64, 4, tag, l);
}

}  // namespace wavernn_fast::gpu
