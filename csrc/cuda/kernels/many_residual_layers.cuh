// The output layers of many streams of the residual core: p = relu(fc1 w), q = relu(fc2 p),
// logits = fc3 q.
#pragma once

#include "cuda/kernels/many_layers.cuh"

namespace wavernn_fast::gpu {

// What a row of fc1 or fc2 is given in a step: its bias comes with the frames. Those of the next
// step are loaded by the thread that has used the last ones.
WF_INLINE float* dense_bias(float* shared, int layer, int row, int s) {
  return shared + kSharedBiases + (layer * 16 * kFc1Tiles + row) * kStreams + s;
}
// Rows `row` and the next of this block.
WF_INLINE void load_dense_biases(float* shared, int layer, int row, int s, Wanted wanted) {
  const int global = rank_in_team() * 16 * kFc1Tiles + row;
  Cursor at;
  Float2 bias{0.0f, 0.0f};
  if (wanted_step(shared, wanted, s, at) && global < kFc) {
    const KernelArgs& args = stream_args(shared, s);
    bias = load_constant2(args.base + static_cast<long long>(at.frame) * args.base_stride +
                          7 * kHidden + layer * kFc + global);
  }
  *dense_bias(shared, layer, row, s) = bias.x;
  *dense_bias(shared, layer, row + 1, s) = bias.y;
}

WF_INLINE void hand_on_hidden_layer(const Team& t, int layer) {
  hand_on_dense(
      t, layer, [&](int row, int s) { return *dense_bias(t.shared, layer, row, s); },
      [&](int row, int s) { load_dense_biases(t.shared, layer, row, s, kNextStep); });
}

}  // namespace wavernn_fast::gpu
