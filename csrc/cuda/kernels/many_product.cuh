// Products of 16 x 16 tiles of weights with the activations of 8 streams at a time. The columns of
// a matrix are dealt to the warps of a block; the sums of all warps meet in shared memory and are
// added in the order of the warps, so that a sum does not depend on what runs beside it.
//
// Activations are fp16. With kSplit a value is carried by two of them, itself rounded and what that
// left out, in columns s and s + 4 of a tile of 4 streams: nearly single precision at no cost where
// so few streams leave columns free.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/many_cluster.cuh"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

WF_INLINE int streams_of_tile() { return kSplit ? 4 : 8; }
WF_INLINE int own_units() { return 16 * kUnitTiles; }  // of each half
WF_INLINE int gate_tiles() { return 6 * kUnitTiles; }  // of both

// --- what a warp has
// ------------------------------------------------------------------------------

// Of an output layer: all rows of its block, and some of the columns. Of R: the rows of one half,
// coarse or fine, by turns, and some of the columns; so fewer sums of a row have to meet.
WF_INLINE int gate_groups() { return kWarps / 2; }  // of warps that share the columns of R
WF_INLINE int gate_group() { return warp_index() >> 1; }
WF_INLINE int gate_side() { return warp_index() & 1; }

// Tiles of columns [begin, begin + count) of one of `groups`. What does not divide goes to the
// first ones, or for the fine half of the state to the last: so a warp has about as many of both.
struct Columns {
  int begin, count;
};
WF_INLINE Columns columns_of(int tiles, int groups, int group, bool from_end) {
  const int each = tiles / groups, more = tiles % groups;
  const int place = from_end ? groups - 1 - group : group;
  const int count = each + (place < more ? 1 : 0);
  const int before = place * each + (place < more ? place : more);
  return {from_end ? tiles - before - count : before, count};
}

// --- products ------------------------------------------------------------------------------------

// Sums of a warp for 16 rows and 8 streams: [row][stream].
WF_INLINE void store_sums(float* shared, int place, const float* sums) {
  const int lane = lane_index();
  float* at = shared + kSharedSums + 128 * place + 8 * (lane >> 2) + 2 * (lane & 3);
  store2(at, {sums[0], sums[1]});
  store2(at + 64, {sums[2], sums[3]});
}

// Sum of a row of a stream over `groups` of warps; `place` of the first, the others `stride`
// further each.
WF_INLINE float total(const float* shared, int place, int stride, int groups, int row, int s) {
  const float* at = shared + kSharedSums + 128 * place + 8 * row + s;
  float sum = at[0];
  WF_UNROLL
  for (int g = 1; g < groups; ++g) sum = add(sum, at[128 * stride * g]);
  if (!kSplit) return sum;
  float rest = at[4];
  WF_UNROLL
  for (int g = 1; g < groups; ++g) rest = add(rest, at[128 * stride * g + 4]);
  return add(sum, rest);
}

// An output layer: `rows` tiles of rows in this block, as [tile of rows][tile of columns] in shared
// memory, or in L2 where that is too small. Place of a sum: (warp * tiles of streams + tile) * rows
// + row.
WF_INLINE void multiply_layer(const unsigned* weights, int place, int rows, int columns, int area,
                              float* shared) {
  const Columns own = columns_of(columns, kWarps, warp_index(), false);
  const int lane = lane_index();
  WF_ROLLED
  for (int n = 0; n < kStreamTiles; ++n) {
    const unsigned* x = activations(shared, area, n, lane >> 2) + (lane & 3);
    for (int m = 0; m < rows; ++m) {
      float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      WF_UNROLL_FOUR
      for (int k = own.begin; k < own.begin + own.count; ++k) {
        unsigned tile[kTileWords];
        const unsigned* at = weights + ((m * columns + k) * 32 + lane) * kTileWords;
        if (place == kInShared)
          shared_tile(at, tile);
        else
          load_tile(at, tile);
        multiply_tile(tile, x[8 * k], x[8 * k + 4], sums);
      }
      store_sums(shared, (warp_index() * kStreamTiles + n) * rows + m, sums);
    }
  }
}

// Rows of R in this warp: tiles [reset, update, candidate][tile of units] of its half, for each of
// its tiles of columns: those of the coarse half of the state first, of the fine half last. The
// first kGruKept tiles of columns stay in registers, the rest in shared memory. The residual core
// has three such matrices, one after the other (many_residual_gates.cuh).
struct RecurrentTiles {
  const unsigned* kept;
  const unsigned* shared;  // of this lane
};

WF_INLINE RecurrentTiles load_recurrent(const KernelArgs& launch, unsigned* kept, float* shared) {
  const int all = (kResidual ? 3 : 1) * kGruColumns * 3 * kUnitTiles;
  const int in_registers = kGruKept * 3 * kUnitTiles;
  const unsigned* from =
      static_cast<const unsigned*>(launch.weights) + kGruAt +
      ((rank_in_team() * kWarps + warp_index()) * all * 32 + lane_index()) * kTileWords;
  WF_UNROLL
  for (int i = 0; i < in_registers; ++i)
    load_tile(from + 32 * kTileWords * i, kept + kTileWords * i);
  unsigned* rest = reinterpret_cast<unsigned*>(shared + kSharedGru) +
                   (warp_index() * (all - in_registers) * 32 + lane_index()) * kTileWords;
  for (int i = in_registers; i < all; ++i) {
    unsigned tile[kTileWords];
    load_tile(from + 32 * kTileWords * i, tile);
    keep_tile(rest + 32 * kTileWords * (i - in_registers), tile);
  }
  return {kept, rest};
}

// Adds all rows of one of this warp's tiles of columns times two words of activations.
WF_INLINE void multiply_column(const RecurrentTiles& r, int column, unsigned low, unsigned high,
                               float* sums) {
  WF_UNROLL
  for (int m = 0; m < 3 * kUnitTiles; ++m) {
    const int i = column * 3 * kUnitTiles + m;
    if (column < kGruKept) {
      multiply_tile(r.kept + kTileWords * i, low, high, sums + 4 * m);
    } else {
      unsigned weights[kTileWords];
      shared_tile(r.shared + 32 * kTileWords * (i - kGruKept * 3 * kUnitTiles), weights);
      multiply_tile(weights, low, high, sums + 4 * m);
    }
  }
}

// Sums of this warp's gate rows for one tile of streams: R times half `part` of the state. Which of
// its tiles of columns are of that half only the one in the middle depends on.
WF_INLINE void multiply_gates(const RecurrentTiles& r, int part, int area, int tile, float* shared,
                              float* sums) {
  const int lane = lane_index();
  const Columns own = columns_of(kHalfTiles, gate_groups(), gate_group(), part == 1);
  const int most = (kHalfTiles + gate_groups() - 1) / gate_groups();
  const int first = part == 0 ? 0 : kGruColumns - most;
  const int from = part == 0 ? 0 : kGruColumns - own.count;
  const unsigned* x =
      activations(shared, area, tile, lane >> 2) + (lane & 3) + 8 * (own.begin - from);
  WF_UNROLL
  for (int i = 0; i < 12 * kUnitTiles; ++i) sums[i] = 0.0f;
  WF_UNROLL
  for (int j = 0; j < most; ++j) {
    const int column = first + j;
    if (column < from || column >= from + own.count) continue;  // the same for a whole warp
    multiply_column(r, column, x[8 * column], x[8 * column + 4], sums);
  }
}

}  // namespace wavernn_fast::gpu
