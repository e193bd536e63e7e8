// The kernel for the host. Compiled twice, with and without the processor's fused multiply-add:
// WF_FIBER_PREPARE and WF_FIBER_THREAD name the two functions it defines.
#include "emulate/primitives_fiber.h"
// The stages need the primitives above.
#include "cuda/kernels/embedded.cuh"
#include "cuda/kernels/many.cuh"
#include "cuda/kernels/many_embedded.cuh"
#include "cuda/kernels/many_residual.cuh"
#include "cuda/kernels/persistent.cuh"
#include "cuda/kernels/residual.cuh"
#include "cuda/kernels/sparse.cuh"

namespace wavernn_fast::emulate {

void WF_FIBER_PREPARE(const gpu::Shape& shape) {
  gpu::running_shape = shape;
  gpu::kPairWords = shape.fp16 ? 1 : 2;
}

void WF_FIBER_THREAD(void* args) {
  const auto& given = *static_cast<const gpu::KernelArgs*>(args);
  if (gpu::kResidual && gpu::kStreamTiles > 0)
    gpu::run_many_residual(given);
  else if (gpu::kResidual)
    gpu::run_residual(given);
  else if (gpu::kEmbedded && gpu::kStreamTiles > 0)
    gpu::run_many_embedded(given);
  else if (gpu::kEmbedded)
    gpu::run_embedded(given);
  else if (gpu::kStreamTiles > 0)
    gpu::run_many(given);
  else if (gpu::kChainWarps > 0)
    gpu::run_sparse(given);
  else
    gpu::run_persistent(given);
}

}  // namespace wavernn_fast::emulate
