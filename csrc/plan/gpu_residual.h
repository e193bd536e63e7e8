// Plan L of the residual core on a GPU (cuda/kernels/residual.cuh): what plan/gpu.h leaves to the
// core. choose_gpu_plan, pack_gpu and unpack_gpu hand on to these.
#pragma once

#include <string>
#include <vector>

#include "plan/gpu.h"

namespace wavernn_fast::gpu {

// Error if the kernel does not run such a model.
void check_residual_model(const ModelConfig& config);

// The fastest plan by the model of `Latency`: of blocks, warps, places of the six matrices, and
// which layers every block has whole, each of which saves an exchange. DeviceError with the numbers
// if the model does not fit.
GpuPlan choose_residual_plan(const GpuRequest& request);

// As working_registers of plan/gpu.h.
int residual_registers(const Shape& shape);

// Of a plan for this core: lines of GpuPlan::describe.
std::string describe_residual(const GpuPlan& plan);

std::vector<uint32_t> pack_residual(const GpuPlan& plan, const CanonicalWeights& weights);
std::vector<float> unpack_residual(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                                   const std::string& name);

// Labels are fed back with mu-law undone: the kernels have a table of what each is heard as.
bool hears_expanded(const ModelConfig& config);
// That table [C] into the packed weights, if there is one.
void put_expanded(std::vector<uint32_t>& packed, int at, const ModelConfig& config);

// [7H + 2F], in the order of `hold` (docs/architecture.md): what is added to each channel before
// the activations. The recurrent biases of both candidates are not among them: they stand inside
// the reset products.
std::vector<float> residual_bias(const ModelConfig& config, const CanonicalWeights& weights);

}  // namespace wavernn_fast::gpu
