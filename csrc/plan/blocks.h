// Where a pruned matrix has weights: the blocks that hold any, found in the weights themselves.
//
// The masked dense matrix is the canonical form. Whatever packs it, for a CPU or a GPU, starts
// here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wavernn_fast {

// Rows (outputs) and columns (inputs) of a block; a matrix is tiled from its first row and column.
struct BlockShape {
  int rows = 1, cols = 1;
  bool operator==(const BlockShape&) const = default;
  int weights() const { return rows * cols; }
  std::string name() const { return std::to_string(rows) + "x" + std::to_string(cols); }
};

// The blocks of a matrix with a weight other than zero.
struct BlockMap {
  BlockShape shape;
  int n_rows = 0, n_cols = 0;             // of the matrix
  std::vector<std::vector<int>> columns;  // [block rows] first column of each, ascending
  int64_t count() const;
  int longest() const;  // most blocks of a block row
  // Share of the matrix that lies in dropped blocks.
  double sparsity() const;
};

// Blocks of `weight` [n_rows][n_cols] with row stride `stride`. Row `r` is canonical row
// `row_of[r]` of it, or no row at all (-1); an empty `row_of` stands for 0, 1, 2 ... The last block
// row and column may reach over the edge.
BlockMap find_blocks(const float* weight, int n_rows, int n_cols, int stride, BlockShape shape,
                     const std::vector<int>& row_of = {});

}  // namespace wavernn_fast
