// One weight in the form it is kept in.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/half.h"
#include "plan/plan.h"

namespace wavernn_fast {

inline constexpr int kInt8Levels = 127;

inline void put_weight(Dtype dtype, float value, float scale, uint8_t* p) {
  switch (dtype) {
    case Dtype::fp32:
      std::memcpy(p, &value, 4);
      break;
    case Dtype::fp16: {
      const uint16_t h = to_fp16(value);
      std::memcpy(p, &h, 2);
      break;
    }
    case Dtype::bf16: {
      const uint16_t h = to_bf16(value);
      std::memcpy(p, &h, 2);
      break;
    }
    case Dtype::int8:
    case Dtype::int8_fast: {
      const float q = scale > 0.0f ? std::nearbyint(value / scale) : 0.0f;
      *reinterpret_cast<int8_t*>(p) = int8_t(std::clamp(q, -127.0f, 127.0f));
      break;
    }
  }
}

inline float get_weight(Dtype dtype, float scale, const uint8_t* p) {
  uint16_t h;
  switch (dtype) {
    case Dtype::fp32: {
      float x;
      std::memcpy(&x, p, 4);
      return x;
    }
    case Dtype::fp16:
      std::memcpy(&h, p, 2);
      return from_fp16(h);
    case Dtype::bf16:
      std::memcpy(&h, p, 2);
      return from_bf16(h);
    case Dtype::int8:
    case Dtype::int8_fast:
      return scale * float(*reinterpret_cast<const int8_t*>(p));
  }
  return 0.0f;
}

}  // namespace wavernn_fast
