// What the kernels of all plans read beside their matrices, in float32 behind them:
//   input weights (coarse half [c, f][gate][H/2], fine half [c, f, c now][gate][H/2]), the bias
//   inside the reset product [H], biases of O1 [fc], O2 [256], O3 [fc], O4 [256].
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/kernels/shape.h"
#include "model/weights.h"

namespace wavernn_fast::gpu {

// Sets where they stand, from word `at` on; returns the word behind them.
int lay_out_vectors(Shape& shape, int at);

// Copies them there.
void pack_vectors(const Shape& shape, int fc_size, const CanonicalWeights& weights,
                  std::vector<uint32_t>& out);

// A weight in fp16. Error that names its tensor if it is beyond.
uint16_t checked_fp16(float x, const std::string& name);

}  // namespace wavernn_fast::gpu
