// The multiply-add of processors that have none, beside the library's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "common/rng.h"
#include "cpu/vec_scalar.h"

namespace wavernn_fast {

// Numbers for a multiply-add: any bits; exponents near 1, so that sums cancel; and for every other
// number of 16 a product of almost half a unit in the last place of the third: (1 + e)(1 - e) lies
// below 1 by less than a double sees beside the third, and rounded twice goes the wrong way. The
// third is normal or subnormal by turns of 16, so that neither covers for the other.
inline void multiply_add_case(uint32_t i, float (&x)[3]) {
  const auto words = philox4x32({11, i, 0}, i);
  for (int j = 0; j < 3; ++j) {
    const uint32_t exponent = (j < 2 ? 120 : 112) + (words[3] >> (8 * j)) % (j < 2 ? 16 : 32);
    const uint32_t bits = i & 2 ? (words[j] & 0x807FFFFFu) | exponent << 23 : words[j];
    std::memcpy(&x[j], &bits, 4);
  }
  if (i & 1) return;
  const bool subnormal = i & 16;
  const float e = std::ldexp(1.0f, -15 - int(words[3] % 9)), sign = words[0] & 1 ? -1.0f : 1.0f;
  x[0] = std::ldexp(1.0f + e, subnormal ? -75 : -10);
  x[1] = std::ldexp(sign * (1.0f - e), subnormal ? -75 : -14);
  const uint32_t bits = (words[2] & 0x807FFFFFu) | (subnormal ? 0 : 127u << 23);
  std::memcpy(&x[2], &bits, 4);
}

// The multiply-add of processors without one must round as std::fma does, alone and in a vector,
// where a lane in doubt must not harm the others.
inline int wrong_multiply_adds() {
  using cpu::scalar::F;
  int wrong = 0;
  for (uint32_t i = 0; i < 4000000; i += 16) {
    F x[3];
    for (uint32_t lane = 0; lane < 16; ++lane) {
      float one[3];
      multiply_add_case(i + lane, one);
      for (int j = 0; j < 3; ++j) x[j].v[lane] = one[j];
    }
    const F together = cpu::scalar::fma(x[0], x[1], x[2]);
    for (int lane = 0; lane < 16; ++lane) {
      const float a = x[0].v[lane], b = x[1].v[lane], c = x[2].v[lane];
      const float expected = std::fma(a, b, c);
      if (!std::isfinite(a) || !std::isfinite(b) || !std::isfinite(c) || !std::isfinite(expected))
        continue;
      const float alone = cpu::scalar::fma1(a, b, c);
      wrong += std::memcmp(&alone, &expected, 4) != 0;
      wrong += std::memcmp(&together.v[lane], &expected, 4) != 0;
    }
  }
  if (wrong > 0) std::fprintf(stderr, "%d scalar multiply-adds round wrongly\n", wrong);
  return wrong;
}

}  // namespace wavernn_fast
