#include <cmath>

#include "common/half.h"
#include "emulate/kernel_fiber.h"

namespace wavernn_fast::emulate {

void combine_sums(Warp& w, int count) {
  int padded = 1;
  while (padded < count) padded *= 2;
  for (int j = 0; j < count; ++j) {
    float* x = w.in[j];
    // Partners at distance 16, 8, 4, 2, 1; a sum does not care which of both comes first.
    for (int distance = 16; distance > 0; distance /= 2)
      for (int i = 0; i < distance; ++i) x[i] = x[i] + x[i + distance];
    w.out[j * (kLanes / padded)] = x[0];
  }
  // Other lanes hold copies on a device; nobody may use them.
  if (count == 1)
    for (int i = 1; i < kLanes; ++i) w.out[i] = w.out[0];
}

void combine_max(Warp& w, int) {
  float top = w.in[0][0];
  for (int i = 1; i < kLanes; ++i) top = std::fmax(top, w.in[0][i]);
  for (float& x : w.out) x = top;
}

void combine_prefix(Warp& w, int) {
  uint32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) w.words_out[i] = sum += w.words_in[i];
}

void combine_total(Warp& w, int) {
  uint32_t sum = 0;
  for (uint32_t x : w.words_in) sum += x;
  for (uint32_t& x : w.words_out) x = sum;
}

void combine_ballot(Warp& w, int) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= w.words_in[i] << i;
  for (uint32_t& x : w.words_out) x = bits;
}

int to_int(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0f) return INT32_MAX;
  if (x < -2147483648.0f) return INT32_MIN;
  return int(std::nearbyint(x));
}

int64_t to_long(float x) {
  if (std::isnan(x)) return INT64_MIN;
  if (x >= 9223372036854775808.0f) return INT64_MAX;
  if (x < -9223372036854775808.0f) return INT64_MIN;
  return std::llrint(x);
}

float half_to_float(uint32_t half) { return from_fp16(uint16_t(half)); }

const gpu::Word* in_first_buffer(const gpu::Word* words, const gpu::Word* at,
                                 const gpu::Shape& shape) {
  const int64_t size = 3 * shape.hidden + 2 * (shape.fc + 256);
  return at - words >= size && at - words < 2 * size ? at - size : at;
}

}  // namespace wavernn_fast::emulate
