// Rows of the embedded core that a warp owns, its output layers p = relu(fc1 h) and logits = fc2 p,
// and the words that carry them.
//
// Two buffers by parity of the tag are enough for the reason that exchange.cuh gives: the state of
// step t + 1 needs words of R h of every block, and so every block owns at least one unit.
#pragma once

#include "cuda/kernels/residual_exchange.cuh"
#include "cuda/kernels/residual_rows.cuh"

namespace wavernn_fast::gpu {

// Words of one buffer: R h for the next step [reset, update, candidate][H]; what fc1 gives [F];
// logits.
WF_INLINE int hidden_layer_words() { return 3 * kHidden; }
WF_INLINE int label_words() { return hidden_layer_words() + kFc; }

// Sums of a warp, in the order in which shared memory has what belongs to each: R h [unit
// slot][reset, update, candidate], rows of fc1, rows of fc2.
WF_INLINE int fc1_sums() { return 3 * kUnitSlots; }
WF_INLINE int fc2_sums() { return fc1_sums() + kFc1Slots; }
WF_INLINE int embedded_sums() { return fc2_sums() + kFc2Slots; }

WF_INLINE float* embedded_place(float* shared, int sum) {
  return shared + kSharedOwn + 2 * (warp_index() * embedded_sums() + sum);
}
WF_INLINE Owned embedded_owned(float* shared, int sum) {
  const Float2 kept = load2(embedded_place(shared, sum));
  return {bits_of_float(kept.x), kept.y};
}

// Packed are the inner biases [H], those of fc1 [F] and of fc2; all others come with the frames.
WF_INLINE Owned embedded_at_first(const KernelArgs& args, int sum) {
  const float* packed = static_cast<const float*>(args.weights);
  if (sum >= fc1_sums()) {
    const bool second = sum >= fc2_sums();
    const int row = second ? row_of_slot(kClasses, kFc2Slots, sum - fc2_sums())
                           : row_of_slot(kFc, kFc1Slots, sum - fc1_sums());
    return {row, row < 0 ? 0.0f : load_constant(packed + kFcBiasAt + (second ? kFc : 0) + row)};
  }
  const int unit = residual_unit(sum / 3);
  const bool inner = unit >= 0 && sum % 3 == 2;
  return {unit, inner ? load_constant(packed + kInnerBiasAt + unit) : 0.0f};
}

WF_INLINE void keep_embedded(const KernelArgs& args, float* shared) {
  for (int sum = lane_index(); sum < embedded_sums(); sum += 32) {
    const Owned own = embedded_at_first(args, sum);
    store2(embedded_place(shared, sum), {float_of_bits(own.row), own.bias});
  }
}

// Own rows of fc1 to all blocks.
WF_INLINE void stage_hidden_layer(const KernelArgs& args, const Matrix& m, unsigned tag,
                                  float* shared) {
  const int slot = sum_of_lane(kFc1Slots);
  const Owned own = slot < 0 ? Owned{-1, 0.0f} : embedded_owned(shared, fc1_sums() + slot);
  const float sum = dense(m, kFc1Slots, kHiddenPairs, shared + kSharedHidden);
  if (own.row < 0) return;
  publish(step_words(args, tag) + hidden_layer_words() + own.row, largest(add(sum, own.bias), 0.0f),
          tag);
}

WF_INLINE void collect_hidden_layer(const Poller& poller, unsigned tag, float* shared) {
  collect_pairs(poller, step_words(poller.args, tag) + hidden_layer_words(), uneven(kFc, kFcRounds),
                kFcRounds, tag, always, [&](int i, Float2 p) { store2(shared + kSharedP + i, p); });
}

// The same of fc2.
WF_INLINE void stage_labels(const KernelArgs& args, const Matrix& m, unsigned step, unsigned tag,
                            float* shared) {
  const int slot = sum_of_lane(kFc2Slots);
  const Owned own = slot < 0 ? Owned{-1, 0.0f} : embedded_owned(shared, fc2_sums() + slot);
  const float logit = add(dense(m, kFc2Slots, kFcPairs, shared + kSharedP), own.bias);
  if (own.row < 0) return;
  publish(step_words(args, tag) + label_words() + choice_place(own.row), logit, tag);
  if (kFull && args.logits != nullptr && own.row < kChoices)
    args.logits[static_cast<long long>(step) * kChoices + own.row] = logit;
}

WF_INLINE void collect_labels(const Poller& poller, unsigned tag, float* shared) {
  const int n = kClasses == kChoiceWords ? uneven(kClasses, kLogitRounds) : kChoiceWords;
  collect_pairs(poller, step_words(poller.args, tag) + label_words(), n, kLogitRounds, tag,
                is_choice, [&](int i, Float2 l) { store2(shared + kSharedLogits + i, l); });
}

}  // namespace wavernn_fast::gpu
