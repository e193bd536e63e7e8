// Plan S: a pruned model on a GPU, one stream a team of one block or of a cluster of blocks
// (cuda/kernels/sparse.cuh).
//
// As in plan/gpu.h a request says what is wanted and a plan how, only that this plan also depends
// on which weights are zero.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plan/gpu.h"
#include "plan/gpu_bins.h"

namespace wavernn_fast::gpu {

struct SparseRequest {
  GpuRequest gpu;     // of it: config, dtype, exact, clocks, warps and cluster (0: chosen), limits
  bool many = false;  // most samples of many streams, not of one
};

// A prediction of how long a sample takes, in cycles: a model, not a measurement (docs/kernel.md).
struct SparseLatency {
  int gates = 0;   // of one half: gates, barrier
  int y = 0;       // of one half: rows of O1, barrier
  int logits = 0;  // of one half: rows of O2, barrier
  int draw = 0;    // of one half
  int late = 0;    // a sample: waiting for rows of R
  int issue = 0;   // a sample: least that the schedulers need for all instructions
  int fetch = 0;   // a sample: least that shared memory needs for all accesses
  int chain() const { return 2 * (gates + y + logits + draw) + late; }
  int total() const;
};

struct SparsePlan {
  SparseRequest request;
  Shape shape;
  std::shared_ptr<const BinnedModel> model;
  // [matrix][part, warp of its role]: bins in order. R has a part a block of the team, the output
  // layers have one, which every block keeps.
  std::vector<std::vector<std::vector<int>>> bins_of;
  int teams = 0;  // that run side by side
  int weight_registers = 0;
  int shared_bytes = 0;
  int64_t packed_words = 0;
  int64_t resident_bytes = 0;  // of tiles, in all blocks of a team, with padding
  SparseLatency latency;
  double predicted_samples_per_s() const;  // of one stream
  double predicted_throughput() const { return teams * predicted_samples_per_s(); }
  std::string describe() const;
  std::string describe_sparsity() const;  // a part of it
};

// Which field of a shape counts the bins of a matrix that a warp keeps in registers.
inline constexpr int Shape::* kSparseKept[kSparseMatrices] = {
    &Shape::coarse_gru_kept, &Shape::fine_gru_kept, &Shape::coarse_fc1_kept,
    &Shape::coarse_fc2_kept, &Shape::fine_fc1_kept, &Shape::fine_fc2_kept};

// 32-bit words of a chunk: registers of a lane.
inline int chunk_words(const Shape& s) { return kChunkTiles * kTileWeights / (s.fp16 ? 2 : 1); }
inline int recurrent_warps(const Shape& s) { return s.warps - s.chain_warps; }

SparseLatency predict_sparse(const SparsePlan& plan);

// Whether so much of a model is zero that plan S may be worth it.
bool is_pruned(const BinnedModel& model);

// The plan of the least predicted time, or with `many` of the most samples. DeviceError with the
// numbers if the model does not fit, or the core has no kernel. `model` has bins.
SparsePlan choose_sparse_plan(const SparseRequest& request,
                              const std::shared_ptr<const BinnedModel>& model);

// Packed weights, `packed_words` of them. Error if a weight is beyond fp16.
std::vector<uint32_t> pack_sparse(const SparsePlan& plan, const CanonicalWeights& weights);

// Back to canonical order, for tests: matrix `index` of the model, [rows][cols].
std::vector<float> unpack_sparse(const SparsePlan& plan, const std::vector<uint32_t>& packed,
                                 int index);

}  // namespace wavernn_fast::gpu
