// What a compiler for a device is given for many streams of the embedded core.
#include "cuda/kernels/primitives_device.cuh"
// The stages need the primitives above.
#include "cuda/kernels/many_embedded.cuh"

extern "C" __global__ void __launch_bounds__(WF_THREADS, 1)
    wavernn_many_embedded(const wavernn_fast::gpu::KernelArgs args) {
  wavernn_fast::gpu::run_many_embedded(args);
}
