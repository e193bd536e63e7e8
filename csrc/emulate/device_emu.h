// The emulator as a device: its memory is the host's, its kernels are fibers.
#pragma once

#include <memory>
#include <string>

#include "emulate/options.h"
#include "gpu/device.h"

namespace wavernn_fast::emulate {

// `limits` are those of the GPU it stands for.
std::unique_ptr<gpu::Device> open_device(const gpu::DeviceLimits& limits, const Options& options);

}  // namespace wavernn_fast::emulate
