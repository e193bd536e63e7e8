// The order of packed weights of plan M of the residual core, in tiles as gpu_many_pack.cpp has
// them:
//   [block][warp][W_ih2 (columns of v), R1, R2][tile of columns][reset, update, candidate][tile of
//   units]; fc1, fc2 (columns of w and p), fc3 [block][tile of rows][tile of columns], fc3 once if
//   every block has all of it;
// then columns times x [band][u, reset, update, candidate][H], recurrent biases of the candidates
// [GRU 1, GRU 2][H], and the bias of fc3; where labels are heard with mu-law undone, what each is
// heard as [C]. Missing rows and columns are zero.
#include <cstring>

#include "common/error.h"
#include "common/half.h"
#include "plan/gpu_many_parts.h"
#include "plan/gpu_many_residual.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_vectors.h"
#include "plan/residual.h"

namespace wavernn_fast::gpu {
namespace {

struct GateMatrix {
  const char* name;    // for tests
  const char* tensor;  // canonical
  int stride;          // its columns
};

std::vector<GateMatrix> gate_matrices(const ModelConfig& c) {
  const int h = c.hidden_size;
  return {{"gru2_input", "gru2.w_input", h + c.aux_size},
          {"gru1", "gru1.w_recurrent", h},
          {"gru2", "gru2.w_recurrent", h}};
}

// visit(word, half of it, canonical row, canonical column) of all weights of one of them.
template <class Visit>
void walk_gates(const Shape& s, int matrix, const Visit& visit) {
  const int units = 16 * s.unit_tiles, rows = 3 * s.unit_tiles;
  const int64_t of_warp = int64_t(3) * s.gru_columns * rows * kTileFloats;
  for (int block = 0; block < s.blocks; ++block)
    for (int warp = 0; warp < s.warps; ++warp) {
      const ManyColumns own = many_columns(s.hidden_tiles, s.warps, warp, false);
      const int64_t from = s.gru_at + (int64_t(block) * s.warps + warp) * of_warp +
                           int64_t(matrix) * s.gru_columns * rows * kTileFloats;
      for (int column = 0; column < own.count; ++column)
        for (int m = 0; m < rows; ++m)
          walk_tile(from + (int64_t(column) * rows + m) * kTileFloats, [&](int64_t word, int e,
                                                                           int row, int col) {
            const int unit = block * units + m % s.unit_tiles * 16 + row;
            if (unit < s.hidden)
              visit(word, e, m / s.unit_tiles * s.hidden + unit, 16 * (own.begin + column) + col);
          });
    }
}

std::vector<ManyLayer> layers(const Shape& s, const ModelConfig& c) {
  const int fc1 = 16 * s.fc1_tiles, g = s.blocks, h = s.hidden, f = s.fc, a = c.aux_size;
  const int parts = s.fc3_whole ? 1 : g;
  return {{"fc1", f, h, fc1, s.fc1_tiles, s.hidden_tiles, s.fc1_at, g, h + a},
          {"fc2", f, f, fc1, s.fc1_tiles, s.fc_tiles, s.fc2_at, g, f + a},
          {"fc3", c.logits_size(), f, s.fc2_rows, s.fc2_tiles, s.fc_tiles, s.fc3_at, parts, f}};
}

void put(std::vector<uint32_t>& out, int at, const float* values, int count) {
  std::memcpy(out.data() + at, values, size_t(count) * sizeof(float));
}

}  // namespace

std::vector<uint32_t> pack_many_residual(const ManyPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.gpu.config;
  const int h = c.hidden_size;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  const auto put_half = [&out](const float* w, int stride, const std::string& name) {
    return [&out, w, stride, name](int64_t word, int e, int row, int col) {
      out[size_t(word)] |= uint32_t(checked_fp16(w[int64_t(row) * stride + col], name)) << 16 * e;
    };
  };
  const std::vector<GateMatrix> matrices = gate_matrices(c);
  for (int i = 0; i < int(matrices.size()); ++i) {
    const GateMatrix& m = matrices[size_t(i)];
    walk_gates(s, i, put_half(weights.get(m.tensor, {3 * h, m.stride}), m.stride, m.tensor));
  }
  for (const ManyLayer& layer : layers(s, c)) {
    const std::string name = std::string(layer.name) + ".weight";
    walk_layer(layer, put_half(weights.get(name, {layer.rows, layer.stride}), layer.stride, name));
  }
  const residual::InputLayer input = residual::hoist_input(c, weights);
  for (int band = 0; band < c.bands; ++band) {
    put(out, s.sample_at + 4 * band * h, input.x_columns.data() + band * h, h);
    put(out, s.sample_at + (4 * band + 1) * h, input.gru1_x.data() + 3 * band * h, 3 * h);
  }
  put(out, s.inner_bias_at, weights.get("gru1.b_recurrent", {3 * h}) + 2 * h, h);
  put(out, s.inner_bias_at + h, weights.get("gru2.b_recurrent", {3 * h}) + 2 * h, h);
  put(out, s.fc_bias_at, weights.get("fc3.bias", {c.logits_size()}), c.logits_size());
  put_expanded(out, s.expanded_at, c);
  return out;
}

std::vector<float> unpack_many_residual(const ManyPlan& plan, const std::vector<uint32_t>& packed,
                                        const std::string& name) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.gpu.config;
  std::vector<float> out;
  const auto take = [&](int rows, int cols) {
    out.assign(size_t(rows) * size_t(cols), 0.0f);
    return [&, cols](int64_t word, int e, int row, int col) {
      // Added: a weight that stands in two places is seen to be wrong.
      out[size_t(int64_t(row) * cols + col)] += from_fp16(uint16_t(packed[size_t(word)] >> 16 * e));
    };
  };
  const std::vector<GateMatrix> matrices = gate_matrices(c);
  for (int i = 0; i < int(matrices.size()); ++i)
    if (name == matrices[size_t(i)].name) {
      walk_gates(s, i, take(3 * s.hidden, s.hidden));
      return out;
    }
  for (const ManyLayer& layer : layers(s, c))
    if (name == layer.name) {
      walk_layer(layer, take(layer.rows, layer.cols));
      return out;
    }
  fail("There is no packed matrix ", name, ".");
}

}  // namespace wavernn_fast::gpu
