// The kernel's source as text, embedded when the library is built.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace wavernn_fast::gpu {

// (path relative to csrc, text) of every file of csrc/cuda/kernels.
const std::vector<std::pair<std::string, std::string>>& kernel_sources();

}  // namespace wavernn_fast::gpu
