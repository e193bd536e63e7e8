// The order of packed weights of plan M: tiles of 16 rows and 16 columns, [32 lanes][4] words of
// two fp16 weights. Word i of lane l holds row l / 4 + 8 (i % 2) and columns 2 (l % 4) + 8 (i / 2)
// and the next: operand A of mma.m16n8k16.
//   R [block][warp][tile of columns][reset, update, candidate][tile of units]; warps have the rows
//   of the coarse and of the fine half by turns, and two share their columns; O1, O2, O3, O4
//   [block][tile of rows][tile of columns];
// then what plan/gpu_vectors.h says. Missing rows and columns are zero.
#include <algorithm>

#include "plan/gpu_many_embedded.h"
#include "plan/gpu_many_parts.h"
#include "plan/gpu_many_residual.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

// visit(word, half of it, canonical row, canonical column) of all weights of R.
template <class Visit>
void walk_recurrent(const Shape& s, const Visit& visit) {
  const int units = 16 * s.unit_tiles;
  int64_t at = s.gru_at;
  for (int block = 0; block < s.blocks; ++block)
    for (int warp = 0; warp < s.warps; ++warp)
      for (int column = 0; column < s.gru_columns; ++column) {
        const ManyColumns coarse = many_columns(s.half_tiles, s.warps / 2, warp / 2, false);
        const ManyColumns fine = many_columns(s.half_tiles, s.warps / 2, warp / 2, true);
        const int first_fine = s.gru_columns - fine.count;
        int begin = -1;  // canonical column; none: a place that this warp does not use
        if (column < coarse.count) begin = 16 * (coarse.begin + column);
        if (column >= first_fine) begin = s.half + 16 * (fine.begin + column - first_fine);
        for (int m = 0; m < 3 * s.unit_tiles; ++m, at += kTileFloats) {
          const int side = warp % 2, gate = m / s.unit_tiles;
          const int first = block * units + m % s.unit_tiles * 16;  // unit of the half
          if (begin < 0) continue;
          walk_tile(at, [&](int64_t word, int e, int row, int col) {
            if (first + row < s.half)
              visit(word, e, gate * s.hidden + side * s.half + first + row, begin + col);
          });
        }
      }
}

std::vector<ManyLayer> layers(const Shape& s) {
  const int fc1 = 16 * s.fc1_tiles, g = s.blocks, f = s.fc, half = s.half;
  return {{"coarse_fc1", f, half, fc1, s.fc1_tiles, s.half_tiles, s.coarse_fc1_at, g, half},
          {"coarse_fc2", 256, f, s.fc2_rows, s.fc2_tiles, s.fc_tiles, s.coarse_fc2_at, g, f},
          {"fine_fc1", f, half, fc1, s.fc1_tiles, s.half_tiles, s.fine_fc1_at, g, half},
          {"fine_fc2", 256, f, s.fc2_rows, s.fc2_tiles, s.fc_tiles, s.fine_fc2_at, g, f}};
}

}  // namespace

std::vector<uint32_t> pack_many(const ManyPlan& plan, const CanonicalWeights& weights) {
  if (plan.shape.residual) return pack_many_residual(plan, weights);
  if (plan.shape.embedded) return pack_many_embedded(plan, weights);
  const Shape& s = plan.shape;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  const float* gru = weights.get("gru.w_recurrent", {3 * s.hidden, s.hidden});
  walk_recurrent(s, put_halves(out, gru, s.hidden, "gru.w_recurrent"));
  put_layers(layers(s), weights, out);
  pack_vectors(s, plan.request.gpu.config.fc_size, weights, out);
  return out;
}

std::vector<float> unpack_many(const ManyPlan& plan, const std::vector<uint32_t>& packed,
                               const std::string& name) {
  if (plan.shape.residual) return unpack_many_residual(plan, packed, name);
  if (plan.shape.embedded) return unpack_many_embedded(plan, packed, name);
  const Shape& s = plan.shape;
  if (name != "gru") return take_layer(layers(s), packed, name);
  std::vector<float> out;
  walk_recurrent(s, take_halves(packed, out, 3 * s.hidden, s.hidden));
  return out;
}

}  // namespace wavernn_fast::gpu
