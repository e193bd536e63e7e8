// Names for the parts of a residual plan.
//
// The input layer is linear, so W_ih1 (I [x; mel; a1] + b) is not multiplied per sample: its mel
// and aux parts come with the frame conditioning, its x part is one vector a band.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace wavernn_fast::residual {

enum Matrix { kGru1, kGru2Input, kGru2, kFc1, kFc2, kFc3 };
enum Vector {
  kInputBias,  // [H] b_I
  kInputX,     // [bands][H] columns x of I
  kGru1Bias,   // [3H] W_ih1 b_I + b_ih1
  kGru1X,      // [bands][3H] W_ih1 I_x
  kGru2Bias,   // [3H] b_ih2
};

// What W_ih1 and the input layer come to, multiplied in double.
struct InputLayer {
  std::vector<float> x_columns;  // [bands][H] columns x of I
  std::vector<float> gru1_x;     // [bands][3H] W_ih1 I_x
  std::vector<float> gru1_bias;  // [3H] W_ih1 b_I + b_ih1
};
InputLayer hoist_input(const ModelConfig& config, const CanonicalWeights& weights);

}  // namespace wavernn_fast::residual
