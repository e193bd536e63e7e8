#include "plan/blocks.h"

#include <algorithm>

namespace wavernn_fast {

int64_t BlockMap::count() const {
  int64_t n = 0;
  for (const auto& row : columns) n += int64_t(row.size());
  return n;
}

int BlockMap::longest() const {
  size_t n = 0;
  for (const auto& row : columns) n = std::max(n, row.size());
  return int(n);
}

double BlockMap::sparsity() const {
  const int64_t across = (n_cols + shape.cols - 1) / shape.cols;
  return 1.0 - double(count()) / double(int64_t(columns.size()) * across);
}

BlockMap find_blocks(const float* weight, int n_rows, int n_cols, int stride, BlockShape shape,
                     const std::vector<int>& row_of) {
  BlockMap map{shape, n_rows, n_cols, {}};
  map.columns.resize((n_rows + shape.rows - 1) / shape.rows);
  std::vector<char> used((n_cols + shape.cols - 1) / shape.cols);
  for (int block = 0; block < int(map.columns.size()); ++block) {
    std::fill(used.begin(), used.end(), 0);
    const int end = std::min(n_rows, (block + 1) * shape.rows);
    for (int r = block * shape.rows; r < end; ++r) {
      const int row = row_of.empty() ? r : row_of[r];
      if (row < 0) continue;
      const float* w = weight + size_t(row) * stride;
      for (int k = 0; k < n_cols; ++k) used[k / shape.cols] |= w[k] != 0.0f;
    }
    for (int i = 0; i < int(used.size()); ++i)
      if (used[i]) map.columns[block].push_back(i * shape.cols);
  }
  return map;
}

}  // namespace wavernn_fast
