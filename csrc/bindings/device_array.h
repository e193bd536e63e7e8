// Arrays in the memory of a device, as other libraries show them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace wavernn_fast {

struct DeviceArray {
  uint64_t address = 0;  // of the first value
  std::vector<pybind11::ssize_t> shape;
  std::optional<uint64_t> stream;  // handle of the stream whose work makes the values
};

// By __cuda_array_interface__, version 2 or 3; nothing if the object has none. InputError, which
// begins with `name`, unless it is float32, C-contiguous, aligned to 8 bytes and without a mask.
std::optional<DeviceArray> read_device_array(const pybind11::object& given,
                                             const std::string& name);

}  // namespace wavernn_fast
