// Configuration, weights and limits out of Python's dictionaries and into them.
#pragma once

#include <pybind11/pybind11.h>

#include "common/config.h"
#include "model/weights.h"
#include "plan/device_limits.h"

namespace wavernn_fast {

ModelConfig read_config(const pybind11::dict& d);
CanonicalWeights read_weights(const pybind11::dict& d);
pybind11::dict limits_of(const gpu::DeviceLimits& limits);

}  // namespace wavernn_fast
