// From a model and the limits of a GPU to a launch of the persistent kernel, and to its weights in
// the order the kernel reads them.
//
// A request says what is wanted, a GpuPlan how; both print themselves. Only choose_gpu_plan decides
// anything: the kernel and the engine trust what it says.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/kernels/shape.h"
#include "plan/device_limits.h"
#include "plan/plan.h"

namespace wavernn_fast::gpu {

struct GpuRequest {
  ModelConfig config;
  Dtype dtype = Dtype::fp32;  // fp32 or fp16
  bool exact = false;         // IEEE operations only, the same bits on every device
  bool clocks = false;        // time the stages of a sample
  int exchanges = 0;          // between blocks, a sample: 2 or 4; 0: chosen
  int blocks = 0;             // 0: chosen
  int warps = 0;              // a block; 0: chosen
  // Blocks of a cluster, whose exchanges of the output layers stay among them; 1: no clusters, and
  // 0 too, as long as clusters have not been measured on a GPU.
  int cluster = 0;
  DeviceLimits limits;
};

// A prediction of how long a sample takes, in cycles: a model, not a measurement (docs/kernel.md).
struct Latency {
  int gates = 0;      // of one half: gates, barrier
  int product = 0;    // of one half: rows of both output layers
  int hop = 0;        // one exchange between blocks, with what is computed in its shadow
  int late = 0;       // a sample: words of the next gates that are still on their way, in clusters
  int draw = 0;       // of one half
  int exchanges = 0;  // a sample
  int streamed = 0;   // a sample: weights read from L2
  // Halves of a sample that gates, product and draw are of. The residual core has no halves: all of
  // it is one, and `late` what its exchanges take beyond `hop`.
  int stretches = 2;
  int total() const {
    return stretches * (gates + product + draw) + exchanges * hop + late + streamed;
  }
};

struct GpuPlan {
  GpuRequest request;
  Shape shape;
  int weight_registers = 0;    // a thread
  int shared_bytes = 0;        // a block
  int64_t packed_words = 0;    // 32-bit words of packed weights
  int64_t resident_bytes = 0;  // of R and O1..O4 that stay on chip, in all blocks, with padding
  int64_t streamed_bytes = 0;  // of R and O1..O4 read from L2 for every sample
  Latency latency;
  double predicted_samples_per_s() const;
  std::string describe() const;
};

// One exchange of tagged words through L2, microseconds. Measured on an H200 with 448 words and all
// warps polling (benchmarks/results/gpu_h200_first_run.json): 0.62 at 28 blocks, 0.66 at 56, 0.79
// at 84, 0.85 at 112, 1.00 at 132. Other chips: estimates from their published latencies of L2,
// raised by as much as the H200's was above its own (0.42).
double hop_us(int arch, int blocks);

// Of a Place, in descriptions.
const char* place_name(int place);

// Error if the kernels of the dual core do not run such a model.
void check_model(const ModelConfig& config);

// Error if the device has no clusters, or none of so many blocks.
void check_cluster_size(const GpuRequest& request);

// How many blocks the output layers are dealt to; the others, in other clusters, have copies.
// output_parts in the kernel.
int output_parts(const Shape& shape);

// Registers a thread that the compiler needs besides resident weights. Counted on the compiler's
// reports (tests/test_gpu_compile.py asserts that no plan of the table spills).
int working_registers(const DeviceLimits& limits, const Shape& shape);

// The fastest plan by the model of `Latency`. Error with the numbers if the model does not fit, or
// the core has no kernel.
GpuPlan choose_gpu_plan(const GpuRequest& request);

// Packed weights, `packed_words` of them. Error if a weight is beyond fp16.
std::vector<uint32_t> pack_gpu(const GpuPlan& plan, const CanonicalWeights& weights);

// Back to canonical order, for tests: w_recurrent, or the weight of an output layer; of the
// residual core a matrix of plan/residual.h, of the embedded core one of plan/embedded.h.
std::vector<float> unpack_gpu(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                              const std::string& name);

// Shape as compiler macros, in order.
std::vector<std::pair<std::string, std::string>> shape_macros(const Shape& shape);

}  // namespace wavernn_fast::gpu
