// Which GPUs are there, for `doctor` and device="auto". No context is made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "gpu/device.h"

namespace wavernn_fast::cuda {

struct DeviceFacts {
  int ordinal = 0;
  gpu::DeviceLimits limits;
  uint64_t memory_bytes = 0;
  std::string problem;  // why it cannot run the kernels; empty if it can
};

DeviceFacts read_device(const Driver& driver, int ordinal);

// Every visible device, at least one; DeviceError says in a sentence why there is none.
std::vector<DeviceFacts> list_devices();

}  // namespace wavernn_fast::cuda
