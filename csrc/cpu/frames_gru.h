// The recurrence of a bidirectional GRU over mel frames, in double: conditioning, not sampling. The
// package multiplies the inputs; this goes through the frames, without Python's lock.
#pragma once

#include <cstddef>
#include <functional>

namespace wavernn_fast::cpu {

// Both directions of torch.nn.GRU (Cho et al. 2014), gates in the order reset, update, candidate:
//   r = sigmoid(a_r + R_r h + b_r)    z = sigmoid(a_z + R_z h + b_z)
//   e = tanh(a_e + r (R_e h + b_e))   h' = z h + (1 - z) e
// `inputs` [2][n][3H]: a of each direction in its own order of frames; `weights` [2][H][3H]: R
// turned; `biases` [2][3H]. Into `out` [n][2H] by frame, forward first. Sums do not depend on
// the processor: they go over units of h one after the other, without fused multiply-adds. std::exp
// may, in its last digit. `interrupt` is called now and then, and may throw to stop it.
void bidirectional_gru(const double* inputs, const double* weights, const double* biases, size_t n,
                       size_t hidden, double* out, const std::function<void()>& interrupt);

}  // namespace wavernn_fast::cpu
