// Names for the parts of a dual plan.
#pragma once

#include "plan/plan.h"

namespace wavernn_fast::dual {

enum Matrix { kGru, kCoarseFc1, kCoarseFc2, kFineFc1, kFineFc2 };
// [3H] each: input bias, then the weights of c_{t-1}, f_{t-1} and c_t.
enum Vector { kInputBias, kLastCoarse, kLastFine, kThisCoarse };

}  // namespace wavernn_fast::dual
