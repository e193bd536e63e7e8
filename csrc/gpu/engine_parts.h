// What the engines over a device have in common.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "cuda/kernels/stages.h"
#include "gpu/buffer.h"
#include "gpu/device.h"
#include "model/weights.h"

namespace wavernn_fast::gpu {

constexpr double kSliceSeconds = 0.05;          // a launch; rule 4 of the design allows 0.1
constexpr double kWatchdogSliceSeconds = 0.01;  // where a display kills kernels that run long
constexpr int kFirstSlice = 16;                 // steps, before the speed is known
constexpr int kLongestSlice = 1 << 16;          // steps
constexpr int kLogitSlice = 4096;               // steps if logits go out: 8 MiB
constexpr unsigned kPollLimit = 1u << 22;       // some seconds of polling, then the kernel gives up

// Steps of the next launch, of a device that takes so long for one (0: not known yet).
inline int64_t slice_steps(const Device& device, double seconds_per_step, int64_t most) {
  const double target = device.limits().watchdog ? kWatchdogSliceSeconds : kSliceSeconds;
  const int64_t n = seconds_per_step > 0 ? int64_t(target / seconds_per_step) : kFirstSlice;
  return std::max<int64_t>(device.shortest_slice(), std::min(n, most));
}

// Sums of ticks of every stage, from zero, and what they have come to: see Engine::stage_ticks.
// Empty where they were not begun.
inline void begin_ticks(Buffer<long long>& clocks) {
  clocks.reserve(kClockStages);
  clocks.zero();
}
template <int kStages = kClockStages>
std::vector<std::pair<std::string, int64_t>> read_ticks(
    Buffer<long long>& clocks, const char* const (&names)[kStages] = kStageNames) {
  static_assert(kStages <= kClockStages);
  std::vector<std::pair<std::string, int64_t>> result;
  if (clocks.get() == nullptr) return result;
  long long ticks[kClockStages];
  clocks.download(ticks, kClockStages);
  for (int i = 0; i < kStages; ++i) result.emplace_back(names[i], ticks[i]);
  return result;
}

// Weights of the matrices that are multiplied a sample.
inline int64_t multiplied(const ModelConfig& c) {
  const int64_t h = c.hidden_size, f = c.fc_size, n = c.logits_size();
  if (c.core == Core::dual) return 3 * h * h + f * h + n * f;
  if (c.core == Core::residual) return 9 * h * h + f * h + f * f + n * f;
  return 3 * h * h + f * h + n * f;
}

// What a stream hears of itself, behind the states in KernelArgs::state.
inline int feedback_size(const ModelConfig& c) { return std::max(2, c.bands); }

// What is added to the channels of conditioning, with or without it: biases that stand before the
// activations, in the order of `hold` (docs/architecture.md).
std::vector<float> channel_bias(const ModelConfig& config, const CanonicalWeights& weights);

}  // namespace wavernn_fast::gpu
