// Pruned matrices in the pieces that the GPU multiplies: chunks of four tiles a lane, bins of 32
// chunks a warp (cuda/kernels/sparse_product.cuh).
//
// Bins are made of the matrix alone: who multiplies a bin decides no bit of a result.
#pragma once

#include <string>
#include <vector>

#include "common/config.h"
#include "model/weights.h"
#include "plan/blocks.h"

namespace wavernn_fast::gpu {

inline constexpr int kChunkTiles = 4;
inline constexpr int kBinChunks = 32;
inline constexpr int kTileWeights = 16;
inline constexpr int kMostRuns = 32;  // block rows of a bin

// Chunks of one block row in one bin.
struct BinRun {
  int block_row, begin, count;
  bool continues = false, unfinished = false;  // in the bin before, in the next one
};

struct BinTile {
  int column = 0;    // first of the vector
  bool pad = false;  // weights are zero: the row has no more tiles
};

struct Bin {
  BinTile tiles[kBinChunks][kChunkTiles];
  std::vector<BinRun> runs;
  int chunks = 0;
  int fetches = 0;  // cycles of shared memory for the vector: conflicts of banks are counted
};

// A pruned matrix. Row r is canonical row row_of[r].
struct BinnedMatrix {
  std::string name;  // "coarse gru", "fine gru", or an output layer
  const float* weight = nullptr;
  int rows = 0, cols = 0, stride = 0;
  std::vector<int> row_of;
  BlockMap map;
  std::vector<Bin> bins;
  std::vector<std::vector<int>> groups;  // of bins that one warp must have, in this order
};

// R by halves of its rows, then O1, O2, O3, O4.
inline constexpr int kSparseMatrices = 6;
struct BinnedModel {
  BlockShape tile;
  std::vector<BinnedMatrix> matrices;
  int64_t weights() const;  // in tiles that are kept
  double sparsity() const;  // of all matrices, in dropped tiles
};

// Tiles of this shape, 4x4 or 16x1, or of that which keeps fewer weights; no bins yet.
BinnedModel find_tiles(const ModelConfig& config, const CanonicalWeights& weights,
                       const std::string& shape = "");
void fill_bins(BinnedModel& model);

}  // namespace wavernn_fast::gpu
