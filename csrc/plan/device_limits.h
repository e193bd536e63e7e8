// What a planner must know of a GPU.
#pragma once

#include <cstdint>
#include <string>

namespace wavernn_fast::gpu {

// Limits of one device, asked of it when it is opened: never a table by model name.
struct DeviceLimits {
  std::string name;          // as the driver prints it
  int arch = 0;              // 10 * major + minor of the compute capability
  int multiprocessors = 0;   // usable now (a MIG slice has fewer)
  int registers = 65536;     // 32-bit registers a multiprocessor
  int shared_per_block = 0;  // bytes of shared memory one block may ask for
  int64_t l2_bytes = 0;
  int clock_khz = 0;
  bool cooperative = true;  // cooperative launches
  bool watchdog = false;    // the display kills kernels that run long
};

}  // namespace wavernn_fast::gpu
