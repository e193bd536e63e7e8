// The engine over a device that runs the persistent kernel.
#pragma once

#include <memory>

#include "engine/engine.h"
#include "gpu/device.h"
#include "model/weights.h"
#include "plan/gpu.h"

namespace wavernn_fast::gpu {

struct EngineRequest {
  Dtype dtype = Dtype::fp32;
  bool exact = false;
  bool clocks = false;
  int exchanges = 0, blocks = 0, warps = 0, cluster = 0;  // 0: the planner's choice
  std::string sparse = "auto";                            // see gpu/engine_sparse.h
  // 1: one utterance as fast as can be; else see plan/gpu_many.h, as `split`.
  int streams = 1;
  bool split = false;
};

// What to compile and how to launch it, for one plan; `full`: see cuda/kernels/shape.h.
KernelSpec kernel_spec(const GpuPlan& plan, bool full);

// With a plan as it is: nothing checks it.
std::unique_ptr<Engine> make_engine(const GpuPlan& plan, const CanonicalWeights& weights,
                                    std::unique_ptr<Device> device);
// With the plan that choose_gpu_plan makes.
std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const EngineRequest& request, std::unique_ptr<Device> device);

}  // namespace wavernn_fast::gpu
