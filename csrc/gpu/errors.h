// What the engine above a device may answer by making another plan.
#pragma once

#include <cstddef>
#include <string>

#include "common/error.h"

namespace wavernn_fast::gpu {

// More blocks than can be resident together: make a plan with fewer.
class TooManyBlocks : public DeviceError {
 public:
  TooManyBlocks(const std::string& sentence, int fitting_blocks)
      : DeviceError(sentence), fitting(fitting_blocks) {}
  int fitting;  // blocks that would fit, or 0 where the device does not say
};

// Device memory is short: hold less at once.
class OutOfDeviceMemory : public DeviceError {
 public:
  OutOfDeviceMemory(const std::string& sentence, size_t needed_bytes, size_t free_bytes)
      : DeviceError(sentence), needed(needed_bytes), free(free_bytes) {}
  size_t needed, free;
};

}  // namespace wavernn_fast::gpu
