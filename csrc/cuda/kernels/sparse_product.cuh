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

// Bins of one matrix that this warp owns: the number that says where they are waits in shared
// memory, since a thread has few registers left beside its weights.
struct Bins {
  const Weight* registers;  // [kept][kChunkPairs], the first of them
  int at;                   // of the number, among those of this warp
};

WF_INLINE int* place_of_bins(const Bins& m, float* shared) {
  return reinterpret_cast<int*>(shared + kSharedPlaces) + 4 * warp_index() + m.at;
}
// Three of 10 bits: bins, first head, first bin in shared memory.
WF_INLINE int count_of(int packed) { return packed & 1023; }
WF_INLINE float* heads_of(int packed, float* shared) {  // [bins][kHeadWords]
  return shared + kSharedHeads + (packed >> 10 & 1023) * kHeadWords;
}
WF_INLINE unsigned* memory_of(int packed, float* shared) {  // weights of those not in registers
  return reinterpret_cast<unsigned*>(shared + kSharedWeights) + (packed >> 20) * words_of_bin();
}

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
WF_INLINE void multiply_chunk(const Weight* registers, const unsigned* memory, int lane,
                              const float* head, const float* x, float* partials) {
  WF_REGISTERS(float, sums, 16);
  WF_UNROLL
  for (int i = 0; i < kTileRows; ++i) sums[i] = 0.0f;
  const Float2 columns = load2(head + 2 * lane);
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
      shared_weights(memory + pair_word(t * kTilePairs + i) + 4 * lane, w + i);
    add_tile(w, from, sums);
  }
  WF_UNROLL
  for (int i = 0; i < kTileRows; i += 4) store4(partials + 32 * i + 4 * lane, sums + i);
}

// Adds the chunks of every run of a bin, four rows a lane, and hands them to `take(row, sums [4])`,
// `row` being the first; returns in `carry` what goes on in the warp's next bin.
template <class Take>
WF_INLINE void sum_runs(int runs, int lane, const float* head, const float* partials, float* carry,
                        const Take& take) {
  const int quads = kTileRows / 4;
  WF_UNROLL
  for (int n = 0; 32 * n < runs * quads; ++n) {
    const int i = 32 * n + lane, quad = i % quads;
    if (i >= runs * quads) continue;
    const RowRun run = unpack_run(bits_of_float(head[64 + i / quads]));
    if (run.row == kNoRow) continue;
    WF_REGISTERS(float, sums, 4);
    WF_UNROLL
    for (int e = 0; e < 4; ++e) sums[e] = run.continues ? carry[e] : 0.0f;
    WF_UNROLL_FOUR
    for (int c = run.begin; c < run.begin + run.count; ++c) {
      WF_REGISTERS(float, chunk, 4);
      load4(partials + 128 * quad + 4 * c, chunk);
      WF_UNROLL
      for (int e = 0; e < 4; ++e) sums[e] = add(sums[e], chunk[e]);
    }
    if (!run.unfinished) {
      take(run.row * kTileRows + 4 * quad, sums);
      continue;
    }
    // It has the whole bin, and goes on as the first of the next: with the same lanes.
    WF_UNROLL
    for (int e = 0; e < 4; ++e) carry[e] = sums[e];
  }
}

// The sums of chunks that this warp alone has.
WF_INLINE float* own_partials(float* shared) {
  return shared + kSharedPartials + warp_index() * 32 * kTileRows;
}

// All rows of this warp: `kept` bins are in registers, `runs` is the most of a bin.
template <class Take>
WF_INLINE void multiply_rows(const Bins& m, int kept, int runs, const float* x, float* shared,
                             const Take& take) {
  // Hidden from the compiler, which would keep the addresses below for all matrices in registers.
  const int lane = hidden_value(lane_index());
  const int packed = *place_of_bins(m, shared), count = count_of(packed);
  const float* head = heads_of(packed, shared);
  float* partials = own_partials(shared);
  WF_REGISTERS(float, carry, 4);
  WF_UNROLL
  for (int e = 0; e < 4; ++e) carry[e] = 0.0f;
  WF_UNROLL
  for (int i = 0; i < kept; ++i) {
    if (i >= count) continue;
    multiply_chunk(m.registers + i * kChunkPairs, nullptr, lane, head, x, partials);
    warp_sync();
    sum_runs(runs, lane, head, partials, carry, take);
    head += kHeadWords;
    warp_sync();
  }
  const unsigned* memory = memory_of(packed, shared);
  for (int i = kept; i < count; ++i) {
    multiply_chunk(nullptr, memory, lane, head, x, partials);
    memory += words_of_bin();
    warp_sync();
    sum_runs(runs, lane, head, partials, carry, take);
    head += kHeadWords;
    warp_sync();
  }
}

// Brings a warp's share to where it stays. `at`: its place in the table, which the packed weights
// begin with; `kept` bins go to registers.
WF_INLINE void keep_bins(const KernelArgs& args, int at, int kept, Weight* registers,
                         const Bins& own, float* shared) {
  const unsigned* source = static_cast<const unsigned*>(args.weights);
  const int bin = static_cast<int>(source[2 * at]);  // the first, among all packed
  const int packed = static_cast<int>(source[2 * at + 1]), count = count_of(packed);
  if (lane_index() == 0) *place_of_bins(own, shared) = packed;
  const unsigned* heads = source + kHeadsAt + bin * kHeadWords;
  const unsigned* weights = source + kBinsAt + static_cast<long long>(bin) * words_of_bin();
  WF_UNROLL
  for (int i = 0; i < kept; ++i) {
    if (i >= count) continue;
    WF_UNROLL
    for (int pair = 0; pair < kChunkPairs; ++pair)
      registers[i * kChunkPairs + pair] =
          load_weight(weights + i * words_of_bin() + pair_word(pair) + 4 * lane_index());
  }
  unsigned* own_heads = reinterpret_cast<unsigned*>(heads_of(packed, shared));
  for (int i = lane_index(); i < count * kHeadWords; i += 32) own_heads[i] = heads[i];
  unsigned* memory = memory_of(packed, shared);
  for (int i = lane_index(); i < (count - kept) * words_of_bin(); i += 32)
    memory[i] = weights[kept * words_of_bin() + i];
}

}  // namespace wavernn_fast::gpu
