// The engine for many streams side by side: slots that take the next stream the moment theirs ends.
#pragma once

#include <memory>

#include "engine/engine.h"
#include "gpu/device.h"
#include "gpu/stream_batch.h"
#include "model/weights.h"
#include "plan/gpu_many.h"

namespace wavernn_fast::gpu {

KernelSpec kernel_spec(const ManyPlan& plan, bool full);

std::unique_ptr<Engine> make_many_engine(const ManyRequest& request,
                                         const CanonicalWeights& weights,
                                         std::unique_ptr<Device> device);

// Which slices run in which slot, one after the other, in a launch of at most `steps` steps: sets
// Slice::steps and returns the places of the slices by slot. A slice that has no room is in no
// slot. The next slice goes to the slot that ends first; it is in one slot only, and cut at the
// end.
std::vector<std::vector<int>> fill_slots(std::vector<Slice>& slices, int slots, int64_t steps);

}  // namespace wavernn_fast::gpu
