// Plan L of the embedded core on a GPU (cuda/kernels/embedded.cuh): what plan/gpu.h leaves to the
// core. choose_gpu_plan, pack_gpu and unpack_gpu hand on to these.
#pragma once

#include <string>
#include <vector>

#include "plan/gpu.h"

namespace wavernn_fast::gpu {

// Error if the kernel does not run such a model.
void check_embedded_model(const ModelConfig& config);

// The fastest plan by the model of `Latency`: of blocks, warps, and places of the three matrices.
// DeviceError with the numbers if the model does not fit.
GpuPlan choose_embedded_plan(const GpuRequest& request);

// As working_registers of plan/gpu.h.
int embedded_registers(const Shape& shape);

// Of a plan for this core: lines of GpuPlan::describe.
std::string describe_embedded(const GpuPlan& plan);

std::vector<uint32_t> pack_embedded(const GpuPlan& plan, const CanonicalWeights& weights);
std::vector<float> unpack_embedded(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                                   const std::string& name);

// What both kernels of this core have beside the matrices, where the shape says: the recurrent bias
// of the candidate, biases of both layers, and gate inputs of all labels.
void put_embedded_vectors(const Shape& shape, const ModelConfig& config,
                          const CanonicalWeights& weights, std::vector<uint32_t>& out);

// [3H], in the order of `hold`: what is added to each channel before the activations. The input
// bias is in the table of labels, the candidate's recurrent bias stands inside the reset product.
std::vector<float> embedded_bias(const ModelConfig& config, const CanonicalWeights& weights);

}  // namespace wavernn_fast::gpu
