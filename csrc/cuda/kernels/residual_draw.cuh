// The draw of the residual core: a label of up to 1024, one of each band, a mixture of logistics
// and a value of it, or a value of a gaussian or a beta (residual_real.cuh). One warp draws from
// the logits in shared memory; every block comes to the same by itself.
#pragma once

#include "cuda/kernels/math.cuh"
#include "cuda/kernels/residual_exchange.cuh"
#include "cuda/kernels/residual_real.cuh"
#include "cuda/kernels/stage_draw.cuh"

namespace wavernn_fast::gpu {

// Logits of this lane's choices 2 kDrawPairs lane + 2 i and the next; beyond the last one so low
// that they are never drawn.
WF_INLINE Float2 choice_logits(const float* logits, int i) {
  Float2 l = load2(logits + 64 * i + 2 * lane_index());
  if (kChoices == 64 * kDrawPairs) return l;
  const int k = 2 * (kDrawPairs * lane_index() + i);
  if (k >= kChoices) l.x = -1e30f;
  if (k + 1 >= kChoices) l.y = -1e30f;
  return l;
}

// Random words of 32 steps, as `refresh`; of more than two bands there are four a step.
WF_INLINE void refresh_words(const KernelArgs& args, unsigned step, float* shared) {
  if (kBands <= 2) return refresh(args, step, shared);
  const unsigned own = step + lane_index();
  unsigned* kept = reinterpret_cast<unsigned*>(shared + kSharedChance) + (own & 63);
  WF_REGISTERS(unsigned, words, 4);
  if (!kFull || args.uniforms == nullptr) {
    philox<4>(args, args.step0 + own, words);
  } else {
    if (own >= args.steps) return;
    for (int i = 0; i < 4; ++i) words[i] = args.uniforms[4 * own + i];
  }
  WF_UNROLL
  for (int i = 0; i < 4; ++i) kept[64 * i] = words[i];
}

// Whether one of a band's logits is NaN or infinite, in every lane.
WF_INLINE bool not_finite(const float* logits) {
  float probe = 0.0f;
  WF_UNROLL
  for (int i = 0; 64 * i < kBandWords; ++i) {
    const int place = 64 * i + 2 * lane_index();
    if (kClasses != kChoiceWords && !is_choice(place)) continue;
    const Float2 l = load2(logits + place);
    probe = fma(l.y, 0.0f, fma(l.x, 0.0f, probe));
  }
  return warp_ballot(!(probe == 0.0f)) != 0;
}

// First choice whose cumulative weight exceeds floor(word * total / 2^32), with weights
// w = round(exp((l - max l) / T) 2^bits): docs/decisions/0001. The lane that has it returns it, all
// others return -1. Sums of weights wait in shared memory, since registers hold the model.
WF_INLINE int draw_choice(const KernelArgs& args, const float* logits, float top, unsigned word,
                          float* weighed) {
  unsigned sum = 0;
  WF_UNROLL
  for (int i = 0; i < kDrawPairs; ++i) {
    const Float2 l = choice_logits(logits, i);
    const unsigned first = sum + weight_of(sub(l.x, top), args.inv_temperature, kWeightBits);
    sum = first + weight_of(sub(l.y, top), args.inv_temperature, kWeightBits);
    store2(weighed + 64 * i + 2 * lane_index(),
           {float_of_bits(static_cast<int>(first)), float_of_bits(static_cast<int>(sum))});
  }
  const unsigned threshold = multiply_high(word, warp_total(sum));
  const unsigned before = warp_prefix_sum(sum) - sum;
  if (threshold < before || threshold - before >= sum) return -1;
  const unsigned rest = threshold - before;
  int k = 2 * kDrawPairs * lane_index();
  WF_UNROLL
  for (int i = 0; i < kDrawPairs; ++i) {
    const Float2 sums = load2(weighed + 64 * i + 2 * lane_index());
    k += static_cast<unsigned>(bits_of_float(sums.x)) <= rest ? 1 : 0;
    k += static_cast<unsigned>(bits_of_float(sums.y)) <= rest ? 1 : 0;
  }
  return k;
}

// First choice with the largest logit, in the lane that has it; -1 in all others.
WF_INLINE int largest_choice(const float* logits, float top) {
  int k = -1;
  WF_UNROLL
  for (int i = kDrawPairs - 1; i >= 0; --i) {
    const Float2 l = choice_logits(logits, i);
    if (l.y == top) k = 2 * (kDrawPairs * lane_index() + i) + 1;
    if (l.x == top) k = 2 * (kDrawPairs * lane_index() + i);
  }
  return first_lane(warp_ballot(k >= 0)) == lane_index() ? k : -1;
}

// One draw of a logistic, draw_logistic of common/sampling.h in float:
// mean + scale (ln v - ln(1 - v)) within [-1, 1], v = (word + 1/2) / 2^32 within [1e-5, 1 - 1e-5].
// 1 - v is taken from the word's complement, so that neither loses what lies near 0.
WF_INLINE float uniform_of(unsigned word) {
  return smallest(largest(share_of(word), 1e-5f), 0.99999f);
}
WF_INLINE float logistic(float mean, float log_scale, float temperature, unsigned word) {
  const float odds = sub(log_of(uniform_of(word)), log_of(uniform_of(~word)));
  const float scale = exp_of(smallest(largest(log_scale, -32.23619130191664f), 86.0f));
  return clipped(fma(mul(scale, temperature), odds, mean));
}

// The value of mixture k: logits, means and log-scales of all mixtures follow each other.
WF_INLINE float value_of_mixture(const KernelArgs& args, const float* logits, int k,
                                 unsigned word) {
  const float mean = logits[kMixtures + k];
  if (kFull && args.greedy) return clipped(mean);
  return logistic(mean, logits[2 * kMixtures + k], reciprocal(args.inv_temperature), word);
}

// The value of a gaussian or a beta, in every lane of a warp.
WF_INLINE float draw_real(const KernelArgs& args, const float* outputs, unsigned word) {
  return kReal == kGaussian ? draw_gaussian(args, outputs, word) : draw_beta(args, outputs, word);
}

// What is drawn where nothing can be: silence.
WF_INLINE int silence() { return kMixtures > 0 || kReal != kNotReal ? 0 : kChoices / 2; }

// Of several bands, in the outcome: its logits are not finite. The warps that draw may not write
// one status together.
constexpr int kFailedBand = 1 << 30;

// The first step that fails, of several bands times their number, and the band.
WF_INLINE void report_band(const KernelArgs& args, unsigned step, int band) {
  if (args.status->failed_step < 0)
    args.status->failed_step = static_cast<int>(step * kBands) + band;
}

// The outcome of this step where it is not drawn.
WF_INLINE int given_outcome(const KernelArgs& args, unsigned step, int band, bool failed,
                            bool forced) {
  const int given = forced ? args.forced[step * kBands + band] : silence();
  return kBands > 1 && failed ? given | kFailedBand : given;
}

// The outcome of a band at this step: a label, or the bits of a value. The lane that has it writes
// it to `outcome`.
WF_INLINE void stage_outcome(const KernelArgs& args, unsigned step, int band, float* shared,
                             int* outcome) {
  const float* logits = shared + kSharedLogits + band * kBandWords;
  const unsigned* words =
      reinterpret_cast<const unsigned*>(shared + kSharedChance) + 64 * band + (step & 63);
  float top = -1e30f;
  WF_UNROLL
  for (int i = 0; i < kDrawPairs; ++i) {
    const Float2 l = choice_logits(logits, i);
    top = largest(largest(l.x, l.y), top);
  }
  top = warp_max(top);
  const bool failed = not_finite(logits);
  if (kBands == 1 && failed && block_index() == 0 && lane_index() == 0) report_band(args, step, 0);
  const bool forced = kFull && args.forced != nullptr;
  if (failed || forced) {
    if (lane_index() == 0) *outcome = given_outcome(args, step, band, failed, forced);
    return;
  }
  if (kReal != kNotReal) {
    const float value = draw_real(args, logits, words[0]);
    if (lane_index() == 0) *outcome = bits_of_float(value);
    return;
  }
  const int k = kFull && args.greedy
                    ? largest_choice(logits, top)
                    : draw_choice(args, logits, top, words[0],
                                  shared + kSharedWeighed + band * 64 * kDrawPairs);
  if (k < 0) return;
  *outcome = kMixtures > 0 ? bits_of_float(value_of_mixture(args, logits, k, words[64])) : k;
}

// The table of what is heard of every label, for models that hear it with mu-law undone.
WF_INLINE void load_expanded(const KernelArgs& args, float* shared) {
  if (kSharedExpanded == 0) return;
  const float* packed = static_cast<const float*>(args.weights) + kExpandedAt;
  for (int i = thread_index(); i < kChoices; i += kThreads)
    shared[kSharedExpanded + i] = load_constant(packed + i);
}

// The outcome as the network is given it, in [-1, 1]; an embedded core is given the label.
WF_INLINE float fed_back(const float* shared, int outcome) {
  if (kEmbedded) return to_float(outcome);
  if (kMixtures > 0 || kReal != kNotReal) return float_of_bits(outcome);
  if (kSharedExpanded != 0) return shared[kSharedExpanded + outcome];
  const int most = kChoices - 1;
  return mul(to_float(2 * outcome - most), 1.0f / static_cast<float>(most));  // of constants
}

}  // namespace wavernn_fast::gpu
