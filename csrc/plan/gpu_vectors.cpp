#include "plan/gpu_vectors.h"

#include <cmath>
#include <cstring>
#include <string>

#include "common/error.h"
#include "common/half.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kClasses = 256;

void put(std::vector<uint32_t>& out, int at, const float* values, int count) {
  std::memcpy(out.data() + at, values, size_t(count) * sizeof(float));
}

}  // namespace

int lay_out_vectors(Shape& s, int at) {
  s.sample_at = at;
  s.inner_bias_at = s.sample_at + 15 * s.half;
  s.fc_bias_at = s.inner_bias_at + s.hidden;
  return s.fc_bias_at + 2 * (s.fc + kClasses);
}

void pack_vectors(const Shape& s, int fc_size, const CanonicalWeights& weights,
                  std::vector<uint32_t>& out) {
  const int64_t rows = 3 * int64_t(s.hidden);
  const float* inputs = weights.get("gru.w_sample", {rows, 3});
  int at = s.sample_at;
  for (int side = 0; side < 2; ++side)
    for (int input = 0; input < 2 + side; ++input)
      for (int gate = 0; gate < 3; ++gate)
        for (int i = 0; i < s.half; ++i, ++at)
          put(out, at, inputs + 3 * (gate * s.hidden + side * s.half + i) + input, 1);
  put(out, s.inner_bias_at, weights.get("gru.b_recurrent", {rows}) + 2 * s.hidden, s.hidden);
  at = s.fc_bias_at;
  for (const std::string half : {"coarse", "fine"}) {
    put(out, at, weights.get(half + "_fc1.bias", {fc_size}), fc_size);
    put(out, at + s.fc, weights.get(half + "_fc2.bias", {kClasses}), kClasses);
    at += s.fc + kClasses;
  }
}

uint16_t checked_fp16(float x, const std::string& name) {
  WF_CHECK(std::fabs(x) < 65520.0f, "weight ", name, " holds ", x,
           ", beyond fp16 (65504); use dtype=\"fp32\"");
  return to_fp16(x);
}

}  // namespace wavernn_fast::gpu
