// The multiply-add of processors that have none, beside the library's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "common/rng.h"
#include "cpu/vec_scalar.h"

namespace wavernn_fast {

// The multiply-add of processors without one must round as std::fma does.
inline int wrong_multiply_adds() {
  int wrong = 0;
  for (uint32_t i = 0; i < 4000000; ++i) {
    const auto words = philox4x32({11, i, 0}, i);
    float x[3];
    for (int j = 0; j < 3; ++j) {
      // Every other case has exponents near 1, so that sums cancel.
      const uint32_t exponent = (j < 2 ? 120 : 112) + (words[3] >> (8 * j)) % (j < 2 ? 16 : 32);
      const uint32_t bits = i & 1 ? (words[j] & 0x807FFFFFu) | exponent << 23 : words[j];
      std::memcpy(&x[j], &bits, 4);
    }
    const float expected = std::fma(x[0], x[1], x[2]);
    if (!std::isfinite(x[0]) || !std::isfinite(x[1]) || !std::isfinite(x[2]) ||
        !std::isfinite(expected))
      continue;
    const float found = cpu::scalar::fma1(x[0], x[1], x[2]);
    wrong += std::memcmp(&found, &expected, 4) != 0;
  }
  if (wrong > 0) std::fprintf(stderr, "%d scalar multiply-adds round wrongly\n", wrong);
  return wrong;
}

}  // namespace wavernn_fast
