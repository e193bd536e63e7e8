// The engine of a pruned model: many streams in one launch, one a team of blocks.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"
#include "gpu/device.h"
#include "model/weights.h"
#include "plan/gpu_sparse.h"

namespace wavernn_fast::gpu {

// Whether a model runs by plan S. `sparse` is "off" (no), "on" (yes), a shape of blocks (yes, with
// these), or "auto": yes if so many of its blocks are zero that it fits and is predicted to be
// faster than the dense plan, and nothing was asked for that only the dense plan has. `note` then
// says why not, if the model is pruned.
bool is_sparse(const GpuRequest& request, const std::string& sparse,
               const CanonicalWeights& weights, std::string& note);

// The tiles that `sparse` asks for; no bins yet.
std::shared_ptr<BinnedModel> sparse_tiles(const GpuRequest& request, const std::string& sparse,
                                          const CanonicalWeights& weights);

KernelSpec kernel_spec(const SparsePlan& plan, bool full);

std::unique_ptr<Engine> make_sparse_engine(const GpuRequest& request, const std::string& sparse,
                                           const CanonicalWeights& weights,
                                           std::unique_ptr<Device> device);

}  // namespace wavernn_fast::gpu
