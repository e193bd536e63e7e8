// Configuration and weights out of Python's dictionaries.
#pragma once

#include <pybind11/pybind11.h>

#include "common/config.h"
#include "model/weights.h"

namespace wavernn_fast {

ModelConfig read_config(const pybind11::dict& d);
CanonicalWeights read_weights(const pybind11::dict& d);

}  // namespace wavernn_fast
