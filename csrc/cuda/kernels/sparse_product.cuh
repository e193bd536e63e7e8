// Products of a pruned matrix with a vector in shared memory.
//
//   tile    16 neighbouring weights, 4x4 or 16x1; block rows of a matrix have as many as are left
//   chunk   4 tiles of one block row, multiplied by one lane
//   bin     32 chunks, multiplied by one warp at once; a block row has neighbouring lanes
//   run     the chunks of one block row in one bin
//
// A lane sums a chunk by itself, then the sums of a run's chunks are added in order. Which chunks
// share a bin depends on the matrix only; bins may be dealt to any number of warps and blocks, and
// sums have the same bits.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

constexpr int kChunkTiles = 4;
constexpr int kTilePairs = 8;  // pairs of weights, of neighbouring rows in one column
constexpr int kChunkPairs = kChunkTiles * kTilePairs;

// A bin is [pieces of 16 bytes][32 lanes], so that every load of a warp is one stretch. Its head:
// [32 lanes] the four columns of the chunk's tiles, 16 bits each; then its runs.
WF_INLINE int words_of_bin() { return kChunkPairs * kPairWords * 32; }
WF_INLINE int pair_word(int pair) {  // of lane 0
  return pair * kPairWords / 4 * 128 + pair * kPairWords % 4;
}

// Bins of one matrix that this warp owns.
struct Bins {
  int count;
  const Weight* registers;  // [kept][kChunkPairs], the first of them
  const unsigned* memory;   // shared: weights of the others
  const float* heads;       // shared: [count][kHeadWords]
};

// A run, as packed: block row, first chunk, chunks, and whether it goes on from the bin before or
// in the next one: a block row of more than 32 chunks has several bins of one warp.
struct RowRun {
  int row, begin, count;
  bool continues, unfinished;
};

constexpr int kNoRow = 0xffff;

WF_INLINE RowRun unpack_run(int word) {
  return {word & 0xffff, word >> 16 & 63, word >> 22 & 63, (word >> 28 & 1) != 0,
          (word >> 29 & 1) != 0};
}

WF_INLINE void add_tile(const Weight* w, const float* x, float* sums) {
  WF_REGISTERS(float, v, 4);
  if (kTileCols == 4)
    load4(x, v);
  else
    v[0] = x[0];
  WF_UNROLL
  for (int i = 0; i < kTilePairs; ++i) {
    const int col = 2 * i / kTileRows, row = 2 * i % kTileRows;
    const Float2 pair = widen(w[i]);
    sums[row] = fma(pair.x, v[col], sums[row]);
    sums[row + 1] = fma(pair.y, v[col], sums[row + 1]);
  }
}

// Sums of this lane's chunk to partials [kTileRows / 4][32 chunks][4]. Weights are in registers, or
// in shared memory at `memory`.
WF_INLINE void multiply_chunk(const Weight* registers, const unsigned* memory, const float* head,
                              const float* x, float* partials) {
  WF_REGISTERS(float, sums, 16);
  WF_UNROLL
  for (int i = 0; i < kTileRows; ++i) sums[i] = 0.0f;
  const Float2 columns = load2(head + 2 * lane_index());
  WF_UNROLL
  for (int t = 0; t < kChunkTiles; ++t) {
    const int two = bits_of_float(t < 2 ? columns.x : columns.y);
    const float* from = x + (t % 2 == 0 ? two & 0xffff : static_cast<unsigned>(two) >> 16);
    if (registers != nullptr) {
      add_tile(registers + t * kTilePairs, from, sums);
      continue;
    }
    WF_REGISTERS(Weight, w, 8);
    WF_UNROLL
    for (int i = 0; i < kTilePairs; i += 4 / kPairWords)
      shared_weights(memory + pair_word(t * kTilePairs + i) + 4 * lane_index(), w + i);
    add_tile(w, from, sums);
  }
  WF_UNROLL
  for (int i = 0; i < kTileRows; i += 4) store4(partials + 32 * i + 4 * lane_index(), sums + i);
}

// Adds the chunks of every run of a bin and hands each finished row to `take(row, sum)`; returns
// what this lane carries to the warp's next bin.
template <class Take>
WF_INLINE float sum_runs(int runs, const float* head, const float* partials, float carry,
                         const Take& take) {
  float carried = 0.0f;
  WF_UNROLL
  for (int n = 0; 32 * n < runs * kTileRows; ++n) {
    const int i = 32 * n + lane_index(), row = i % kTileRows;
    if (i >= runs * kTileRows) continue;
    const RowRun run = unpack_run(bits_of_float(head[64 + i / kTileRows]));
    if (run.row == kNoRow) continue;
    float sum = run.continues ? carry : 0.0f;
    const float* at = partials + row / 4 * 128 + row % 4;
    for (int c = run.begin; c < run.begin + run.count; ++c) sum = add(sum, at[4 * c]);
    if (run.unfinished)
      carried = sum;  // it has all the bin: this is its lane's first row
    else
      take(run.row * kTileRows + row, sum);
  }
  return carried;
}

// All rows of this warp: `kept` bins are in registers, `runs` is the most of a bin. The warp alone
// has the memory at `partials`.
template <class Take>
WF_INLINE void multiply_rows(const Bins& m, int kept, int runs, const float* x, float* partials,
                             const Take& take) {
  float carry = 0.0f;
  WF_UNROLL
  for (int i = 0; i < kept; ++i) {
    if (i >= m.count) continue;
    const float* head = m.heads + i * kHeadWords;
    multiply_chunk(m.registers + i * kChunkPairs, nullptr, head, x, partials);
    warp_sync();
    carry = sum_runs(runs, head, partials, carry, take);
    warp_sync();
  }
  for (int i = kept; i < m.count; ++i) {
    const float* head = m.heads + i * kHeadWords;
    multiply_chunk(nullptr, m.memory + (i - kept) * words_of_bin(), head, x, partials);
    warp_sync();
    carry = sum_runs(runs, head, partials, carry, take);
    warp_sync();
  }
}

// Where this warp's share of a matrix is: [4] of the packed table.
struct Share {
  int bin;     // first of its bins, among all packed
  int count;   // bins
  int head;    // its first head, among those of its block
  int memory;  // its first bin in shared memory, among those of its block
};

// Brings a warp's share to where it stays. `at`: its place in the table, which the packed weights
// begin with.
WF_INLINE Bins keep_bins(const KernelArgs& args, int at, int kept, Weight* registers,
                         float* shared) {
  const unsigned* packed = static_cast<const unsigned*>(args.weights);
  const unsigned* table = packed + 4 * at;
  const Share share{static_cast<int>(table[0]), static_cast<int>(table[1]),
                    static_cast<int>(table[2]), static_cast<int>(table[3])};
  const unsigned* heads = packed + kHeadsAt + share.bin * kHeadWords;
  const unsigned* weights = packed + kBinsAt + static_cast<long long>(share.bin) * words_of_bin();
  WF_UNROLL
  for (int i = 0; i < kept; ++i) {
    if (i >= share.count) continue;
    WF_UNROLL
    for (int pair = 0; pair < kChunkPairs; ++pair)
      registers[i * kChunkPairs + pair] =
          load_weight(weights + i * words_of_bin() + pair_word(pair) + 4 * lane_index());
  }
  unsigned* own_heads =
      reinterpret_cast<unsigned*>(shared + kSharedHeads) + share.head * kHeadWords;
  for (int i = lane_index(); i < share.count * kHeadWords; i += 32) own_heads[i] = heads[i];
  unsigned* memory =
      reinterpret_cast<unsigned*>(shared + kSharedWeights) + share.memory * words_of_bin();
  for (int i = lane_index(); i < (share.count - kept) * words_of_bin(); i += 32)
    memory[i] = weights[kept * words_of_bin() + i];
  return {share.count, registers, memory, reinterpret_cast<const float*>(own_heads)};
}

}  // namespace wavernn_fast::gpu
