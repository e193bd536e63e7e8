// The output layers of one half, and the draw.
#pragma once

#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/stage_dense.cuh"

namespace wavernn_fast::gpu {

enum Layer : int { kCoarseFc1, kCoarseFc2, kFineFc1, kFineFc2 };

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
  const int row = row_of_slot(layer & 1 ? 256 : kFc, slot);
  const int bias_at = kFcBiasAt + (layer >> 1) * (kFc + 256) + (layer & 1) * kFc;
  const float bias =
      row < 0 ? 0.0f : load_constant(static_cast<const float*>(args.weights) + bias_at + row);
  store2(row_place(shared, layer, slot), {float_of_bits(row), bias});
}

// What this lane publishes of a layer; read by the lane that wrote it.
WF_INLINE OutputRow own_row(int layer, float* shared) {
  const int slot = sum_of_lane(layer_slots(layer));
  if (slot < 0) return {-1, 0.0f};
  const Float2 kept = load2(row_place(shared, layer, slot));
  return {bits_of_float(kept.x), kept.y};
}

// Own rows of O1 or O3 over the new half of the state: publishes y = relu(O h + b).
WF_INLINE void stage_y(const KernelArgs& args, const Matrix& m, int side, unsigned tag,
                       float* shared) {
  const OutputRow own = own_row(side == 0 ? kCoarseFc1 : kFineFc1, shared);
  const float* h = shared + kSharedHidden + side * 64 * kHalfPairs;
  const float sum = add(dense(m, kFc1Slots, kHalfPairs, h), own.bias);
  if (own.row >= 0) publish(buffer(args, tag) + y_words(side) + own.row, largest(sum, 0.0f), tag);
}

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
  publish(buffer(args, tag) + logit_words(side) + logit_place(own.row), logit, tag);
  if (args.logits != nullptr)
    args.logits[static_cast<long long>(step) * 512 + side * 256 + own.row] = logit;
}

// Random words of 32 steps, one step a lane: drawn once in 32 steps, off the critical path.
struct Chance {
  unsigned words[2];
};

WF_INLINE void refresh(const KernelArgs& args, unsigned step, Chance& chance) {
  const unsigned own = step + lane_index();
  if (args.uniforms == nullptr) {
    philox(args, args.step0 + own, chance.words);
  } else if (own < args.steps) {
    chance.words[0] = args.uniforms[2 * own];
    chance.words[1] = args.uniforms[2 * own + 1];
  }
}

// First class of 256 whose cumulative weight exceeds floor(word * total / 2^32), with weights
// w = round(exp((l - max l) / T) 2^23): docs/decisions/0001. l [8]: classes 8 lane + 0..7.
WF_INLINE int draw_class(const KernelArgs& args, const float* l, float top, unsigned word) {
  WF_REGISTERS(unsigned, w, 8);
  unsigned own = 0;
  WF_UNROLL
  for (int e = 0; e < 8; ++e) {
    const float x = exp_negative(mul(sub(l[e], top), args.inv_temperature));
    w[e] = static_cast<unsigned>(round_to_int(mul(x, 8388608.0f)));
    own += w[e];
  }
  const unsigned prefix = warp_prefix_sum(own);
  const unsigned threshold = multiply_high(word, warp_broadcast(prefix, 31));
  const int hit = first_lane(warp_ballot(prefix > threshold));
  const unsigned rest = threshold - (prefix - own);
  unsigned sum = 0;
  int k = 8 * lane_index();
  WF_UNROLL
  for (int e = 0; e < 8; ++e) {
    sum += w[e];
    k += sum <= rest ? 1 : 0;
  }
  return static_cast<int>(warp_broadcast(static_cast<unsigned>(k), hit));
}

WF_INLINE int first_largest(const float* l, float top) {
  int k = 8;
  WF_UNROLL
  for (int e = 7; e >= 0; --e)
    if (l[e] == top) k = e;
  const int hit = first_lane(warp_ballot(k < 8));
  return static_cast<int>(warp_broadcast(static_cast<unsigned>(8 * lane_index() + k), hit));
}

// One warp collects the logits and draws; every block comes to the same class by itself.
WF_INLINE int stage_draw(const Poller& poller, int side, unsigned step, unsigned tag,
                         const Chance& chance) {
  const KernelArgs& args = poller.args;
  WF_REGISTERS(float, l, 8);
  poll_pairs(poller, buffer(args, tag) + logit_words(side) + 2 * lane_index(), 64, 4, tag, l);
  float top = l[0], probe = 0.0f;  // probe: NaN as soon as one logit is NaN or infinite
  WF_UNROLL
  for (int e = 0; e < 8; ++e) {
    top = largest(l[e], top);
    probe = fma(l[e], 0.0f, probe);
  }
  top = warp_max(top);
  int k = 128;
  if (warp_ballot(!(probe == 0.0f)) == 0) {
    k = args.greedy ? first_largest(l, top)
                    : draw_class(args, l, top, warp_broadcast(chance.words[side], step & 31));
  } else if (block_index() == 0 && lane_index() == 0 && args.status->failed_step < 0) {
    args.status->failed_step = static_cast<int>(step);
  }
  if (args.forced == nullptr) return k;
  return side == 0 ? args.forced[step] >> 8 : args.forced[step] & 255;
}

}  // namespace wavernn_fast::gpu
