// What a compiler for a device is given.
#include "cuda/kernels/primitives_device.cuh"
// The stages need the primitives above.
#include "cuda/kernels/many.cuh"

extern "C" __global__ void __launch_bounds__(WF_THREADS, 1)
    wavernn_many(const wavernn_fast::gpu::KernelArgs args) {
  wavernn_fast::gpu::run_many(args);
}
