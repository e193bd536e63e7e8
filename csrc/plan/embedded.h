// Names for the parts of an embedded plan.
//
// There are as many label embeddings as labels, so W_ih e(k) is not multiplied per sample: a row of
// a table is read. The conditioning columns of W_ih are multiplied per frame.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace wavernn_fast::embedded {

enum Matrix { kGru, kFc1, kFc2 };
enum Vector {
  kLabelGates,  // [n_classes][3H] W_label e(k) + b_ih of every label k, always fp32
};

// What kLabelGates holds, summed in double.
std::vector<float> label_gates(const ModelConfig& config, const CanonicalWeights& weights);

}  // namespace wavernn_fast::embedded
