// float32 to fp16 and bf16 and back, rounding to nearest even; finite input only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace wavernn_fast {

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline uint16_t to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  return uint16_t((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

inline float from_bf16(uint16_t h) { return bits_float(uint32_t(h) << 16); }

// Beyond 65504 the result is infinite: callers check the range first.
inline uint16_t to_fp16(float x) {
  const uint32_t sign = (float_bits(x) >> 16) & 0x8000u;
  const float a = std::fabs(x);
  if (a >= 65520.0f) return uint16_t(sign | 0x7C00u);
  if (a < 6.103515625e-05f) {  // subnormal half: a multiple of 2^-24
    return uint16_t(sign | uint32_t(std::nearbyint(a * 16777216.0f)));
  }
  const uint32_t bits = float_bits(a);
  const uint32_t rounded = bits + 0xFFFu + ((bits >> 13) & 1u);
  return uint16_t(sign | ((rounded >> 13) - (112u << 10)));
}

inline float from_fp16(uint16_t h) {
  const float magnitude = bits_float(uint32_t(h & 0x7FFFu) << 13) * 5.192296858534828e33f;
  return (h & 0x8000u) ? -magnitude : magnitude;
}

}  // namespace wavernn_fast
