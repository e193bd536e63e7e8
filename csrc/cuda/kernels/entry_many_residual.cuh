// What a compiler for a device is given for many streams of the residual core.
#include "cuda/kernels/primitives_device.cuh"
// The stages need the primitives above.
#include "cuda/kernels/many_residual.cuh"

extern "C" __global__ void __launch_bounds__(WF_THREADS, 1)
    wavernn_many_residual(const wavernn_fast::gpu::KernelArgs args) {
  wavernn_fast::gpu::run_many_residual(args);
}
