// Limits of GPUs that people have, for predictions and for the emulator. A device that is really
// there is asked for its own.
#pragma once

#include <string>
#include <vector>

#include "plan/device_limits.h"

namespace wavernn_fast::gpu {

const std::vector<DeviceLimits>& known_devices();
// By name ("H200"); Error that lists the names otherwise.
const DeviceLimits& known_device(const std::string& name);

}  // namespace wavernn_fast::gpu
