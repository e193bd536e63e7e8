// Names for the parts of a residual plan.
//
// The input layer is linear, so W_ih1 (I [x; mel; a1] + b) is not multiplied per sample: its mel
// and aux parts come with the frame conditioning, its x part is one vector.
#pragma once

#include "plan/plan.h"

namespace wavernn_fast::residual {

enum Matrix { kGru1, kGru2Input, kGru2, kFc1, kFc2, kFc3 };
enum Vector {
  kInputBias,  // [H] b_I
  kInputX,     // [H] column x of I
  kGru1Bias,   // [3H] W_ih1 b_I + b_ih1
  kGru1X,      // [3H] W_ih1 I_x
  kGru2Bias,   // [3H] b_ih2
};

}  // namespace wavernn_fast::residual
