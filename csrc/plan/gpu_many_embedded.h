// Plan M of the embedded core (cuda/kernels/many_embedded.cuh): what plan/gpu_many.h leaves to the
// core. choose_many_plan, with_stream_tiles, pack_many and unpack_many hand on to these.
#pragma once

#include <string>
#include <vector>

#include "plan/gpu_many.h"

namespace wavernn_fast::gpu {

ManyPlan choose_many_embedded_plan(const ManyRequest& request);
ManyPlan embedded_with_stream_tiles(const ManyPlan& plan, int stream_tiles);
std::string describe_many_embedded(const ManyPlan& plan);

std::vector<uint32_t> pack_many_embedded(const ManyPlan& plan, const CanonicalWeights& weights);
std::vector<float> unpack_many_embedded(const ManyPlan& plan, const std::vector<uint32_t>& packed,
                                        const std::string& name);

}  // namespace wavernn_fast::gpu
