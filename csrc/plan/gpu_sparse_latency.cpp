// How long a sample of a pruned model takes: docs/kernel.md has the terms.
#include <algorithm>

#include "common/integers.h"
#include "plan/gpu_sparse.h"

namespace wavernn_fast::gpu {
namespace {

int longest_run(const Bin& bin) {
  int most = 0;
  for (const BinRun& run : bin.runs) most = std::max(most, run.count);
  return most;
}

// Instructions of a warp for one bin: a multiply-add for every weight and one that widens it, what
// is around a tile, and the sums of its runs, four rows a lane.
int bin_instructions(const Shape& s, const Bin& bin) {
  const int tile = kTileWeights * (s.fp16 ? 2 : 1) + 4;
  const int rounds = ceil_div(int(bin.runs.size()) * s.tile_rows, 128);
  return kChunkTiles * tile + 20 + 30 * rounds + 8 * longest_run(bin);
}

// Cycles of shared memory for a bin: the vector, columns, weights that are not in registers, sums
// of chunks in and out.
int bin_fetches(const Shape& s, const Bin& bin, bool in_registers) {
  const int weights = in_registers ? 0 : chunk_words(s);
  return bin.fetches + 2 + weights + s.tile_rows + bin.chunks * s.tile_rows / 16 + 6;
}

// What a pushed value takes to the other blocks: measured on an H200, a step of an exchange of 448
// values among the 8 blocks of one cluster takes 0.30 us (docs/kernel.md).
constexpr double kClusterMicroseconds = 0.30;
constexpr int kBarrier = 40;

// What a matrix is to all its warps together, and to the one that has most of it.
struct Work {
  int64_t instructions = 0, fetches = 0;
  int most = 0;  // instructions of one warp
  int busy = 0;  // warps that have a part
};

Work work_of(const SparsePlan& plan, int matrix) {
  const Shape& s = plan.shape;
  const BinnedMatrix& m = plan.model->matrices[size_t(matrix)];
  Work work;
  for (const std::vector<int>& own : plan.bins_of[size_t(matrix)]) {
    int instructions = 0;
    for (size_t n = 0; n < own.size(); ++n) {
      const Bin& bin = m.bins[size_t(own[n])];
      instructions += bin_instructions(s, bin);
      work.fetches += bin_fetches(s, bin, int(n) < s.*kSparseKept[matrix]);
    }
    work.instructions += instructions;
    work.most = std::max(work.most, instructions);
    work.busy += own.empty() ? 0 : 1;
  }
  return work;
}

}  // namespace

SparseLatency predict_sparse(const SparsePlan& plan) {
  const Shape& s = plan.shape;
  const DeviceLimits& d = plan.request.gpu.limits;
  const int schedulers = d.arch < 70 ? 2 : 4;
  const auto pace = [schedulers](int warps) {
    return std::max(1.6, double(ceil_div(warps, schedulers)));
  };
  SparseLatency l;
  double fetch = 0;
  int rows[2] = {};                   // of R, by the warp that has most to do
  double busy[kSparseMatrices] = {};  // of the schedulers
  for (int i = 0; i < kSparseMatrices; ++i) {
    const Work work = work_of(plan, i);
    const double share = 1.0 / (i < 2 ? s.cluster : 1);  // of one block
    busy[i] = share * double(work.instructions) / schedulers;
    fetch += share * work.fetches;
    if (i < 2) {
      rows[i] = int(work.most * pace(recurrent_warps(s)));
      continue;
    }
    int& stage = i % 2 == 0 ? l.y : l.logits;
    stage = std::max(stage, int(work.most * pace(work.busy)) + 100 + kBarrier);
  }
  l.gates =
      int(160 + 100 * s.gate_rounds * pace(ceil_div(std::min(s.half / 2, s.gate_threads), 32)));
  l.draw = (d.arch < 80 ? 500 : 400) + kBarrier;
  // Rows of R are multiplied from the fine half of the state on, beside the output layers, with
  // which they share the schedulers; those of the coarse gates are wanted at the end of the sample,
  // those of the fine ones half a sample later.
  const int hop = s.cluster > 1 ? int(kClusterMicroseconds * d.clock_khz / 1000.0) : kBarrier;
  const int rest = l.y + l.logits + l.draw;
  const double half = busy[4] + busy[5], all = busy[2] + busy[3] + half;
  const int coarse = int(rows[0] + std::min(busy[0], half)) + 100 + hop;
  const int fine = int(rows[0] + rows[1] + std::min(busy[0] + busy[1], all)) + 100 + hop;
  const int late = std::max(0, coarse - rest);
  l.late = late + std::max(0, fine - (2 * rest + l.gates + late));
  const double others = 2 * (100.0 * s.gate_rounds * s.chain_warps + 300) / schedulers;
  l.issue = int(busy[0] + busy[1] + all + others);
  l.fetch = int(fetch) + 2 * s.half;  // gates: some 20 values of a unit, 32 a cycle
  return l;
}

// Schedulers and shared memory are never busy all the time. And the first run on an H200 took 2.0
// to 2.6 times what the terms add up to, for every size of a team and in all its stages alike;
// until it is known where that goes, all of it is scaled (docs/kernel.md).
int SparseLatency::total() const {
  constexpr double kMeasured = 2.2;
  return int(kMeasured * std::max(chain(), 11 * std::max(issue, fetch) / 10));
}

}  // namespace wavernn_fast::gpu
