// One product by itself, as the engine makes it: for benchmarks of layouts.
#pragma once

#include <string>

#include "plan/sparse.h"

namespace wavernn_fast::cpu {

struct Matvec {
  std::string layout;          // as chosen: layout_name()
  double products_per_second;  // median of the pieces of the run
  size_t weight_bytes;
  int64_t macs;  // weights multiplied
};

// y = W x + b, W [rows][cols], over and over for about `seconds` with a team of request.threads,
// which meets after each product. int8: quantising x is timed too.
Matvec measure_matvec(const Tensor& weight, const PlanRequest& request, double seconds,
                      const std::string& isa);

}  // namespace wavernn_fast::cpu
