// Turning logits into an outcome: the same integers on every device.
//
// A categorical draw is inverse transform sampling on integer weights
//   w[k] = round(exp((l[k] - max l) / T) * 2^bits),
// whose sums are exact in any order: the class is the first k whose cumulative weight exceeds
// floor(word * total / 2^32). No rounding of a running sum can move a boundary.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace wavernn_fast {

// Resolution of the weights: totals stay below 2^31 for up to 2^8 classes at 23 bits.
inline int weight_bits(int n_classes) {
  int log2_up = 0;
  while ((1 << log2_up) < n_classes) ++log2_up;
  return std::min(23, 31 - log2_up);
}

// `w` [n] weights, `sums` [n / 16] their sums by 16; n is a multiple of 16.
inline int draw_from_weights(const int32_t* w, const uint32_t* sums, int n, uint32_t word) {
  uint64_t total = 0;
  for (int g = 0; g < n / 16; ++g) total += sums[g];
  uint64_t threshold = (uint64_t(word) * total) >> 32;
  int group = 0;
  while (threshold >= sums[group]) threshold -= sums[group++];
  int k = 16 * group;
  while (threshold >= uint32_t(w[k])) threshold -= uint32_t(w[k++]);
  return k;
}

inline int argmax(const float* logits, int n) {
  int best = 0;
  for (int k = 1; k < n; ++k)
    if (logits[k] > logits[best]) best = k;
  return best;
}

inline constexpr double kLogScaleFloor = -32.23619130191664;  // ln(1e-14)
inline constexpr double kUniformClip = 1e-5;

// One draw of a logistic, as fatchord/WaveRNN samples its mixture: mean + scale * logit(v).
inline float draw_logistic(float mean, float log_scale, float temperature, uint32_t word) {
  const double v =
      std::clamp((double(word) + 0.5) / 4294967296.0, kUniformClip, 1.0 - kUniformClip);
  const double scale = std::exp(std::max(double(log_scale), kLogScaleFloor)) * temperature;
  return float(std::clamp(mean + scale * (std::log(v) - std::log(1.0 - v)), -1.0, 1.0));
}

// Scaled feedback of a softmax label: 0..n-1 to [-1, 1]. Rounded once: a quiet sample, which is
// near 0, would keep the error of a quotient near 1 if 1 was subtracted last.
inline float scale_label(int k, int n_classes) {
  return float(2 * k - (n_classes - 1)) / float(n_classes - 1);
}

// The same with mu-law undone, mu = n - 1: what models hear that were trained on the wave itself.
inline float expand_label(int k, int n_classes) {
  const double mu = n_classes - 1, x = (2 * k - mu) / mu;
  return float(std::copysign(std::expm1(std::abs(x) * std::log1p(mu)) / mu, x));
}

// Scaled feedback of a coarse or fine value: 0..255 to [-1, 1].
inline float scale_half(int k) { return scale_label(k, 256); }

}  // namespace wavernn_fast
