// Which instruction set the kernels run on.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace wavernn_fast::cpu {

// Compiled in and supported by this processor, best last.
std::vector<std::string> available_isas();

// The table for `name`; "auto" takes WAVERNN_FAST_ISA from the environment, else the best.
// DeviceError, listing what is available, when the processor or the build lacks it.
const KernelTable& kernels_for(const std::string& name);

}  // namespace wavernn_fast::cpu
