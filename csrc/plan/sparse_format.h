// How a pruned matrix lies in memory for the CPU: plain data that plans write and kernels read.
//
// Block rows become lists of entries: a block's column and its weights. Lists are sorted by length
// and a few neighbours, nearly equally long, form a panel, which a kernel call walks side by side:
// entry j of every list, then entry j + 1. So sums of several lists are in flight, and one loop
// with one end serves them all. Shorter lists of a panel end with entries of zero weights.
//
// A column is stored as it is, in 16 bits, not as a distance from the last one: no smaller, but a
// list needs no running sum, and its loads do not wait for one another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wavernn_fast {

enum class Layout {
  dense,
  rows16,   // 16x1: a column of 16 rows; one input for 16 weights
  tile4x4,  // 4x4: four inputs for 16 weights
  tile8x4,  // 8x4: four inputs for 32 weights, int8 only
  single,   // 1x1: 16 rows, each with a column of its own (sliced ELLPACK)
};
inline constexpr int kLayouts = 5;
inline constexpr int kMaxSparseLists = 8;  // of a panel

// Rows of a list, and weights of an entry.
//
//            rows   entry, [row][column]                              columns of an entry
// rows16     16     [16]; int8 [16][4] of any four columns            1; int8 4
// tile4x4    4      [4][4]                                            1, the first of four
// tile8x4    8      int8 [8][4]                                       1, the first of four
// single     16     [16]                                              16, one a row
struct SparsePanel {
  // Bytes from the begin of the plan's blob, each a multiple of 64. `n` lists, as many as the
  // plan's width; the last panel of a part may use fewer.
  size_t rows;     // int32 [n]: first output row of each list; single: [n][16]
  size_t bias;     // float [n][rows of a list]
  size_t scale;    // float [n][rows of a list], int8: weight = scale * integer
  size_t sum;      // int32 [n][rows of a list], int8: 64 * sum of the row's integers
  size_t columns;  // uint16 [count][n][columns of an entry]
  size_t weights;  // [count][n][entry]
  int lists;       // in use
  int count;       // entries of the longest list
  int counts[kMaxSparseLists];
};

}  // namespace wavernn_fast
