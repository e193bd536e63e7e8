// What a compiler for a device is given for the embedded core.
#include "cuda/kernels/primitives_device.cuh"
// The stages need the primitives above.
#include "cuda/kernels/embedded.cuh"

extern "C" __global__ void __launch_bounds__(WF_THREADS, 1)
    wavernn_embedded(const wavernn_fast::gpu::KernelArgs args) {
  wavernn_fast::gpu::run_embedded(args);
}
