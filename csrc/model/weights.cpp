#include "model/weights.h"

#include <sstream>

#include "common/error.h"

namespace wavernn_fast {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << "[";
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  text << "]";
  return text.str();
}

}  // namespace

const float* CanonicalWeights::get(const std::string& name,
                                   const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  WF_CHECK(found != tensors_.end(), "weight ", name, " is missing, expected shape ",
           shape_text(shape));
  WF_CHECK(found->second.shape == shape, "weight ", name, " has shape ",
           shape_text(found->second.shape), ", expected ", shape_text(shape));
  return found->second.data.data();
}

std::string ModelConfig::describe() const {
  std::ostringstream text;
  const char* heads[] = {"dual softmax", "softmax", "mixture of logistics", "gaussian", "beta"};
  const char* cores[] = {"dual", "residual", "embedded"};
  text << cores[int(core)] << " core, hidden size " << hidden_size << ", output layers " << fc_size
       << ", head " << heads[int(head)] << " (" << n_classes << "), hop length "
       << hop_length * bands;
  if (bands > 1) text << ", " << bands << " bands a step";
  if (n_mels > 0) text << ", " << n_mels << " mels";
  if (interp_size() > 0) text << ", " << taps() << " upsampling taps";
  return text.str();
}

}  // namespace wavernn_fast
