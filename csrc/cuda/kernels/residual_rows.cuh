// Rows of the residual core that a warp owns, and its output layers: p = relu(fc1 w),
// q = relu(fc2 p), logits = fc3 q.
#pragma once

#include "cuda/kernels/residual_exchange.cuh"
#include "cuda/kernels/stage_gates.cuh"

namespace wavernn_fast::gpu {

// Sums of a warp, in the order in which shared memory has what belongs to each: those of GRU 1
// [unit slot][reset, update, candidate], of GRU 2 [unit slot][reset, update, inner and outer
// candidate], then rows of the three layers.
WF_INLINE int first_sums() { return 0; }
WF_INLINE int second_sums() { return 3 * kUnitSlots; }
WF_INLINE int layer_sums(int layer) {
  return 7 * kUnitSlots + (layer > 0 ? kFc1Slots : 0) + (layer > 1 ? kFc2Slots : 0);
}
WF_INLINE int all_sums() { return layer_sums(2) + kFc3Slots; }

// What a sum is, kept in shared memory, where it costs no register: its row, unit or -1, and what
// is always added to it.
struct Owned {
  int row;
  float bias;
};

WF_INLINE float* owned_place(float* shared, int sum) {
  return shared + kSharedOwn + 2 * (warp_index() * all_sums() + sum);
}
WF_INLINE Owned owned(float* shared, int sum) {
  const Float2 kept = load2(owned_place(shared, sum));
  return {bits_of_float(kept.x), kept.y};
}

// Unit of both GRUs in slot `slot` of this warp, or -1.
WF_INLINE int residual_unit(int slot) {
  const int unit = dealt(kHidden, block_index()) + slot * kWarps + warp_index();
  return unit < dealt(kHidden, block_index() + 1) ? unit : -1;
}

WF_INLINE int layer_slots_of(int layer) {
  return layer == 0 ? kFc1Slots : layer == 1 ? kFc2Slots : kFc3Slots;
}
// Whether every block has all rows of a layer: then none of its values travels.
WF_INLINE bool is_whole(int layer) {
  return (layer == 0 ? kFc1Whole : layer == 1 ? kFc2Whole : kFc3Whole) != 0;
}

// Row of a layer in a slot of this warp, or -1.
WF_INLINE int layer_row(int layer, int slot) {
  const int rows = layer == 2 ? kClasses : kFc;
  if (!is_whole(layer)) return row_of_slot(rows, layer_slots_of(layer), slot);
  const int row = slot * kWarps + kWarps - 1 - warp_index();
  return row < rows ? row : -1;
}

// Packed are inner biases [GRU 1, GRU 2][H] and those of fc3; all others come with the frames.
WF_INLINE Owned owned_at_first(const KernelArgs& args, int sum) {
  const float* packed = static_cast<const float*>(args.weights);
  if (sum >= layer_sums(0)) {
    const int layer = sum >= layer_sums(2) ? 2 : sum >= layer_sums(1) ? 1 : 0;
    const int row = layer_row(layer, sum - layer_sums(layer));
    return {row, layer == 2 && row >= 0 ? load_constant(packed + kFcBiasAt + row) : 0.0f};
  }
  const bool second = sum >= second_sums();
  const int i = second ? sum - second_sums() : sum, of_unit = second ? 4 : 3;
  const int unit = residual_unit(i / of_unit);
  const bool inner = unit >= 0 && i % of_unit == 2;
  return {unit,
          inner ? load_constant(packed + kInnerBiasAt + (second ? kHidden : 0) + unit) : 0.0f};
}

WF_INLINE void keep_owned(const KernelArgs& args, float* shared) {
  for (int sum = lane_index(); sum < all_sums(); sum += 32) {
    const Owned own = owned_at_first(args, sum);
    store2(owned_place(shared, sum), {float_of_bits(own.row), own.bias});
  }
}

// Channels of a frame's conditioning that are not interpolated: biases and what `hold` brings.
WF_INLINE float held(const KernelArgs& args, Cursor at, int channel) {
  return load_constant(args.base + static_cast<long long>(at.frame) * args.base_stride + channel);
}

// What this lane's row of fc1 (layer 0) or fc2 (1) is given at a step.
WF_INLINE float layer_bias(const KernelArgs& args, int layer, Cursor at, float* shared) {
  const int slot = sum_of_lane(layer_slots_of(layer));
  const int row = slot < 0 ? -1 : owned(shared, layer_sums(layer) + slot).row;
  return row < 0 ? 0.0f : held(args, at, 7 * kHidden + layer * kFc + row);
}

// Own rows of fc1 or fc2: to all blocks, or if all have all rows, to this one.
WF_INLINE void stage_layer(const KernelArgs& args, const Matrix& m, int layer, float bias,
                           unsigned tag, float* shared) {
  const int slots = layer_slots_of(layer), slot = sum_of_lane(slots);
  const int row = slot < 0 ? -1 : owned(shared, layer_sums(layer) + slot).row;
  const float* x = shared + (layer == 0 ? kSharedW : kSharedP);
  const float sum = dense(m, slots, layer == 0 ? kHiddenPairs : kFcPairs, x);
  if (row < 0) return;
  const float y = largest(add(sum, bias), 0.0f);
  if (is_whole(layer))
    shared[(layer == 0 ? kSharedP : kSharedQ) + row] = y;
  else
    publish(step_words(args, tag) + (layer == 0 ? p_words() : q_words()) + row, y, tag);
}

// The same of fc3.
WF_INLINE void stage_choices(const KernelArgs& args, const Matrix& m, unsigned step, unsigned tag,
                             float* shared) {
  const int slot = sum_of_lane(kFc3Slots);
  const Owned own = slot < 0 ? Owned{-1, 0.0f} : owned(shared, layer_sums(2) + slot);
  const float logit = add(dense(m, kFc3Slots, kFcPairs, shared + kSharedQ), own.bias);
  if (own.row < 0) return;
  if (is_whole(2))
    shared[kSharedLogits + choice_place(own.row)] = logit;
  else
    publish(step_words(args, tag) + choice_words() + choice_place(own.row), logit, tag);
  const int outputs = kMixtures > 0 ? 3 * kMixtures : kBands * kChoices;
  if (kFull && args.logits != nullptr && own.row < outputs && (!is_whole(2) || block_index() == 0))
    args.logits[static_cast<long long>(step) * outputs + own.row] = logit;
}

}  // namespace wavernn_fast::gpu
