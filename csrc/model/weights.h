// The one layout every checkpoint loader produces: named float32 arrays, [out, in] row-major,
// gates in the order reset, update, candidate. docs/formats.md lists the names.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"

namespace wavernn_fast {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> data;  // row-major
};

class CanonicalWeights {
 public:
  void add(std::string name, Tensor tensor) { tensors_[std::move(name)] = std::move(tensor); }
  // The array called `name`; Error if it is missing or has another shape.
  const float* get(const std::string& name, const std::vector<int64_t>& shape) const;
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

 private:
  std::map<std::string, Tensor> tensors_;
};

// Gate order of every stacked [3H] array.
enum Gate { kReset = 0, kUpdate = 1, kCandidate = 2 };

}  // namespace wavernn_fast
