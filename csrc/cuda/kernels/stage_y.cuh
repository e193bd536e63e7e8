// The first output layer of a half, O1 or O3: y = relu(O h + b).
#pragma once

#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/stage_cluster.cuh"
#include "cuda/kernels/stage_dense.cuh"

namespace wavernn_fast::gpu {

// Sums of two exchanges are in fixed point: so many units are 1.0 (2^24).
constexpr float kFixedOne = 16777216.0f;

enum Layer : int { kCoarseFc1, kCoarseFc2, kFineFc1, kFineFc2 };

// With two exchanges, rows of O2 and O4 belong to nobody: see stage_sums.cuh.
WF_INLINE int layer_slots(int layer) { return layer & 1 ? kFc2Slots : kFc1Slots; }

// Row and bias of a slot of this warp, kept in shared memory: there they cost no register between
// the stages that need them.
struct OutputRow {
  int row;  // or -1
  float bias;
};

WF_INLINE float* row_place(float* shared, int layer, int slot) {
  return shared + kSharedRows + 2 * ((layer * kWarps + warp_index()) * kRowSlots + slot);
}

WF_INLINE void keep_rows(const KernelArgs& args, int layer, float* shared) {
  const int slot = sum_of_lane(layer_slots(layer));
  if (slot < 0) return;
  const int row = row_of_slot(layer & 1 ? 256 : kFc, layer_slots(layer), slot);
  const int bias_at = kFcBiasAt + (layer >> 1) * (kFc + 256) + (layer & 1) * kFc;
  const float bias =
      row < 0 ? 0.0f : load_constant(static_cast<const float*>(args.weights) + bias_at + row);
  store2(row_place(shared, layer, slot), {float_of_bits(row), bias});
}

// What this lane publishes of a layer. In a cluster all lanes that hold the row's sum take part.
WF_INLINE OutputRow own_row(int layer, float* shared) {
  const int slots = layer_slots(layer), slot = kCluster > 1 ? sum_held(slots) : sum_of_lane(slots);
  if (slot < 0) return {-1, 0.0f};
  const Float2 kept = load2(row_place(shared, layer, slot));
  return {bits_of_float(kept.x), kept.y};
}

// Own rows of O1 or O3 over the new half of the state. With four exchanges y goes to every block,
// or to every block of the cluster; with two it stays in this block's shared memory, in the units
// of the sums.
WF_INLINE void stage_y(const KernelArgs& args, const Matrix& m, int side, unsigned tag,
                       float* shared) {
  const OutputRow own = own_row(side == 0 ? kCoarseFc1 : kFineFc1, shared);
  const float* h = shared + kSharedHidden + side * 64 * kHalfPairs;
  const float y = largest(add(dense(m, kFc1Slots, kHalfPairs, h), own.bias), 0.0f);
  if (own.row < 0) return;
  if (kCluster > 1)
    push_to_peers(shared + kSharedY + own.row, y_arrivals(shared), kFc1Slots, y);
  else if (kExchanges == 4)
    publish(buffer(args, tag) + y_words(side) + own.row, y, tag);
  else
    shared[kSharedY + own.row - dealt(kFc, block_index())] = mul(y, kFixedOne);
}

}  // namespace wavernn_fast::gpu
