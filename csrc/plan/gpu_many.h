// Plan M: many streams side by side on a GPU, 8 for the price of one (cuda/kernels/many.cuh).
//
// As in plan/gpu.h a request says what is wanted and a plan how. A team of blocks has all weights,
// in fp16, and a number of slots for streams; as many teams as the GPU has room for run side by
// side and know nothing of each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/gpu.h"

namespace wavernn_fast::gpu {

struct ManyRequest {
  // Of it: config, exact, clocks, blocks (of a team; 0: chosen), warps (0: 8), limits; cluster (of
  // so many blocks each team is one, whose messages go from shared memory to shared memory; 0 and
  // 1: through L2, as long as clusters have not been measured).
  GpuRequest gpu;
  // How many are to run side by side, on all teams together: the plan has at least so many slots,
  // or as many as fit, and takes least time for a sample. 0: those with which most samples a second
  // are predicted.
  int streams = 0;
  bool split = false;  // activations in two halves: 4 streams for the price of one
};

// A prediction of how long a sample of all streams takes, in cycles: a model, not a measurement
// (docs/kernel.md).
struct ManyLatency {
  // Halves of a sample that all but `advance` are of. The residual core has no halves: gates are
  // those of both GRUs, hidden is handing on v, w and h1, y both hidden layers.
  int stretches = 2;
  int gates = 0;   // of one half
  int hidden = 0;  // of one half: handing on the state
  int y = 0;       // of one half: O1, handing on y; R times the half of the state if that is longer
  int logits = 0;  // of one half: O2, handing on logits
  int draw = 0;    // of one half: drawing, handing on classes
  int advance = 0;  // a sample
  int total() const { return stretches * (gates + hidden + y + logits + draw) + advance; }
};

struct ManyPlan {
  ManyRequest request;
  Shape shape;
  int teams = 0;
  int weight_registers = 0;    // a thread
  int shared_bytes = 0;        // a block
  int64_t packed_words = 0;    // 32-bit words of packed weights
  int64_t resident_bytes = 0;  // of matrices, in all blocks of a team, with padding
  ManyLatency latency;
  int slots() const { return teams * shape.streams; }
  double predicted_samples_per_s() const;  // of one stream
  double predicted_throughput() const { return slots() * predicted_samples_per_s(); }
  std::string describe() const;
};

// The plan for the request. DeviceError with the numbers if the model does not fit, the GPU has no
// instruction for it or the core has no kernel.
ManyPlan choose_many_plan(const ManyRequest& request);

// The same plan with fewer streams a team, for launches of few: packed weights, and the bits of
// every stream, are the same.
ManyPlan with_stream_tiles(const ManyPlan& plan, int stream_tiles);

// Packed weights, `packed_words` of them. Error if a weight is beyond fp16.
std::vector<uint32_t> pack_many(const ManyPlan& plan, const CanonicalWeights& weights);

// Back to canonical order, for tests: "gru", or the name of an output layer.
std::vector<float> unpack_many(const ManyPlan& plan, const std::vector<uint32_t>& packed,
                               const std::string& name);

}  // namespace wavernn_fast::gpu
