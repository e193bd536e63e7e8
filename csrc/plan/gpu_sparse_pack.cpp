// The order of packed weights of a pruned model:
//   [shares][4] of the warps: first bin, bins, first head and first bin in shared memory of its
//   block;
//     coarse and fine rows of R [block of the team][warp], then O1, O2, O3, O4 [warp];
//   heads of all bins [kHeadWords]: columns [32 lanes][4] of 16 bits, then runs;
//   weights of all bins [pieces of 16 bytes][32 lanes];
// then what plan/gpu_vectors.h says. Bins stand in the order of their owners.
#include <algorithm>
#include <cstring>

#include "common/error.h"
#include "common/half.h"
#include "plan/gpu_sparse.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kNoRow = 0xffff;
constexpr int kHeadColumns = 64;  // words

uint32_t run_word(const BinRun& run) {
  return uint32_t(run.block_row) | uint32_t(run.begin) << 16 | uint32_t(run.count) << 22 |
         uint32_t(run.continues) << 28 | uint32_t(run.unfinished) << 29;
}

void put_head(uint32_t* head, int words, const Bin& bin) {
  for (int lane = 0; lane < kBinChunks; ++lane)
    for (int t = 0; t < kChunkTiles; ++t)
      head[2 * lane + t / 2] |= uint32_t(bin.tiles[lane][t].column) << 16 * (t % 2);
  std::fill(head + kHeadColumns, head + words, uint32_t(kNoRow));
  for (size_t i = 0; i < bin.runs.size(); ++i) head[kHeadColumns + i] = run_word(bin.runs[i]);
}

// Visits every weight of a bin that is one of the matrix: visit(row, col, index), where `index`
// counts 16-bit or 32-bit weights from the bin's beginning.
template <class Visit>
void walk_bin(const Shape& s, const BinnedMatrix& m, const Bin& bin, const Visit& visit) {
  const int per_piece = s.fp16 ? 8 : 4;  // weights
  for (const BinRun& run : bin.runs)
    for (int lane = run.begin; lane < run.begin + run.count; ++lane)
      for (int i = 0; i < kChunkTiles * kTileWeights; ++i) {
        const BinTile& tile = bin.tiles[lane][i / kTileWeights];
        const int in_tile = i % kTileWeights;
        const int row = run.block_row * s.tile_rows + in_tile % s.tile_rows;
        const int col = tile.column + in_tile / s.tile_rows;
        if (tile.pad || row >= m.rows || col >= m.cols) continue;
        visit(row, col, (i / per_piece * 32 + lane) * per_piece + i % per_piece);
      }
}

void put_weight(const Shape& s, uint32_t* bin, int index, float x, const std::string& name) {
  if (!s.fp16) {
    std::memcpy(bin + index, &x, sizeof x);
    return;
  }
  bin[index / 2] |= uint32_t(checked_fp16(x, name)) << 16 * (index % 2);
}

float weight_at(const Shape& s, const uint32_t* bin, int index) {
  if (s.fp16) return from_fp16(uint16_t(bin[index / 2] >> 16 * (index % 2)));
  float x;
  std::memcpy(&x, bin + index, sizeof x);
  return x;
}

const float* canonical_row(const BinnedMatrix& m, int row) {
  return m.weight + size_t(m.row_of.empty() ? row : m.row_of[size_t(row)]) * size_t(m.stride);
}

// Bins in the order of their owners: visit(matrix, part and warp, bin, its place).
template <class Visit>
void walk_bins(const SparsePlan& plan, const Visit& visit) {
  int place = 0;
  for (int i = 0; i < kSparseMatrices; ++i)
    for (size_t owner = 0; owner < plan.bins_of[size_t(i)].size(); ++owner)
      for (const int bin : plan.bins_of[size_t(i)][owner]) visit(i, bin, place++);
}

void put_shares(const SparsePlan& plan, uint32_t* out) {
  const Shape& s = plan.shape;
  const int warps = recurrent_warps(s);
  // What R takes of a block comes first, that of the output layers behind the most of any block.
  std::vector<uint32_t> heads(size_t(s.cluster)), memory(size_t(s.cluster));
  uint32_t place = 0, output_heads = 0, output_memory = 0;
  for (int i = 0; i < kSparseMatrices; ++i) {
    if (i == 2) {
      output_heads = *std::max_element(heads.begin(), heads.end());
      output_memory = *std::max_element(memory.begin(), memory.end());
    }
    for (size_t owner = 0; owner < plan.bins_of[size_t(i)].size(); ++owner, out += 2) {
      const uint32_t count = uint32_t(plan.bins_of[size_t(i)][owner].size());
      uint32_t& head = i < 2 ? heads[owner / size_t(warps)] : output_heads;
      uint32_t& shared = i < 2 ? memory[owner / size_t(warps)] : output_memory;
      out[0] = place;
      out[1] = count | head << 10 | shared << 20;
      place += count;
      head += count;
      shared += uint32_t(std::max(0, int(count) - s.*kSparseKept[i]));
    }
  }
}

}  // namespace

std::vector<uint32_t> pack_sparse(const SparsePlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.gpu.config;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0u);
  put_shares(plan, out.data());
  walk_bins(plan, [&](int matrix, int index, int place) {
    const BinnedMatrix& m = plan.model->matrices[size_t(matrix)];
    const Bin& bin = m.bins[size_t(index)];
    put_head(out.data() + s.heads_at + place * s.head_words, s.head_words, bin);
    uint32_t* to = out.data() + s.bins_at + int64_t(place) * 32 * chunk_words(s);
    walk_bin(s, m, bin, [&](int row, int col, int at) {
      put_weight(s, to, at, canonical_row(m, row)[col], m.name);
    });
  });
  pack_vectors(s, c.fc_size, weights, out);
  return out;
}

std::vector<float> unpack_sparse(const SparsePlan& plan, const std::vector<uint32_t>& packed,
                                 int index) {
  const Shape& s = plan.shape;
  const BinnedMatrix& m = plan.model->matrices[size_t(index)];
  std::vector<float> out(size_t(m.rows) * size_t(m.cols), 0.0f);
  walk_bins(plan, [&](int matrix, int bin, int place) {
    if (matrix != index) return;
    const uint32_t* from = packed.data() + s.bins_at + int64_t(place) * 32 * chunk_words(s);
    walk_bin(s, m, m.bins[size_t(bin)], [&](int row, int col, int at) {
      out[size_t(row) * size_t(m.cols) + size_t(col)] += weight_at(s, from, at);
    });
  });
  return out;
}

}  // namespace wavernn_fast::gpu
