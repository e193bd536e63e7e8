#include <cmath>
#include <cstring>

#include "common/error.h"
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
    const int lanes = kLanes / padded;
    for (int i = 0; i < lanes; ++i) w.out[j * lanes + i] = x[0];
  }
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

void combine_exchange(Warp& w, int distance) {
  for (int i = 0; i < kLanes; ++i) w.words_out[i] = w.words_in[i ^ distance];
}

void combine_spread(Warp& w, int lane) {
  for (uint32_t& x : w.words_out) x = w.words_in[lane];
}

namespace {

struct Counted {
  int32_t
      missing;     // bytes that were announced and have not come; below 0 before they are announced
  uint32_t phase;  // twice how many phases are over, and 1 when bytes were announced for this one
};
static_assert(sizeof(Counted) == sizeof(gpu::Word));

void count(gpu::Word* at, int bytes, bool announced) {
  Counted c;
  std::memcpy(&c, at, sizeof c);
  if (announced && c.phase % 2 == 1)
    fail<EngineError>("Emulation: bytes were announced twice for one phase.");
  c.missing += bytes;
  c.phase += announced ? 1 : 0;
  if (c.missing == 0 && c.phase % 2 == 1) ++c.phase;
  std::memcpy(at, &c, sizeof c);
}

}  // namespace

void announce_bytes(gpu::Word* at, int bytes) { count(at, bytes, true); }
void deliver_bytes(gpu::Word* at, int bytes) { count(at, -bytes, false); }
bool is_over(const gpu::Word* at, int parity) {
  Counted c;
  std::memcpy(&c, at, sizeof c);
  return int(c.phase / 2 % 2) != parity;
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

uint32_t float_to_half(float x) { return std::isnan(x) ? 0x7e00u : to_fp16(x); }

const gpu::Word* in_first_buffer(const gpu::Word* words, const gpu::Word* at,
                                 const gpu::Shape& shape) {
  const int64_t size = shape.residual || shape.embedded ? shape.buffer_words
                                                        : 3 * shape.hidden + 2 * (shape.fc + 256);
  return at - words >= size && at - words < 2 * size ? at - size : at;
}

const uint32_t* in_first_buffer(const uint32_t* words, const uint32_t* at,
                                const gpu::Shape& shape) {
  const int64_t size = shape.buffer_words;  // a pair of buffers a team
  return (at - words) / size % 2 == 1 ? at - size : at;
}

}  // namespace wavernn_fast::emulate
