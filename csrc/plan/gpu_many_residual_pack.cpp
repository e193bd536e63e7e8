// The order of packed weights of plan M of the residual core, in tiles as gpu_many_pack.cpp has
// them:
//   [block][warp][W_ih2 (columns of v), R1, R2][tile of columns][reset, update, candidate][tile of
//   units]; fc1, fc2 (columns of w and p), fc3 [block][tile of rows][tile of columns], fc3 once if
//   every block has all of it;
// then columns times x [band][u, reset, update, candidate][H], recurrent biases of the candidates
// [GRU 1, GRU 2][H], and the bias of fc3; where labels are heard with mu-law undone, what each is
// heard as [C]. Missing rows and columns are zero.
#include "plan/gpu_many_parts.h"
#include "plan/gpu_many_residual.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_rows.h"
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

std::vector<ManyLayer> layers(const Shape& s, const ModelConfig& c) {
  const int fc1 = 16 * s.fc1_tiles, g = s.blocks, h = s.hidden, f = s.fc, a = c.aux_size;
  const int parts = s.fc3_whole ? 1 : g;
  return {{"fc1", f, h, fc1, s.fc1_tiles, s.hidden_tiles, s.fc1_at, g, h + a},
          {"fc2", f, f, fc1, s.fc1_tiles, s.fc_tiles, s.fc2_at, g, f + a},
          {"fc3", c.logits_size(), f, s.fc2_rows, s.fc2_tiles, s.fc_tiles, s.fc3_at, parts, f}};
}

}  // namespace

std::vector<uint32_t> pack_many_residual(const ManyPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.gpu.config;
  const int h = c.hidden_size;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  const std::vector<GateMatrix> matrices = gate_matrices(c);
  for (int i = 0; i < int(matrices.size()); ++i) {
    const GateMatrix& m = matrices[size_t(i)];
    const float* w = weights.get(m.tensor, {3 * h, m.stride});
    walk_units(s, int(matrices.size()), i, put_halves(out, w, m.stride, m.tensor));
  }
  put_layers(layers(s, c), weights, out);
  const residual::InputLayer input = residual::hoist_input(c, weights);
  for (int band = 0; band < c.bands; ++band) {
    put_floats(out, s.sample_at + 4 * band * h, input.x_columns.data() + band * h, h);
    put_floats(out, s.sample_at + (4 * band + 1) * h, input.gru1_x.data() + 3 * band * h, 3 * h);
  }
  put_floats(out, s.inner_bias_at, weights.get("gru1.b_recurrent", {3 * h}) + 2 * h, h);
  put_floats(out, s.inner_bias_at + h, weights.get("gru2.b_recurrent", {3 * h}) + 2 * h, h);
  put_floats(out, s.fc_bias_at, weights.get("fc3.bias", {c.logits_size()}), c.logits_size());
  put_expanded(out, s.expanded_at, c);
  return out;
}

std::vector<float> unpack_many_residual(const ManyPlan& plan, const std::vector<uint32_t>& packed,
                                        const std::string& name) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.gpu.config;
  std::vector<float> out;
  const std::vector<GateMatrix> matrices = gate_matrices(c);
  for (int i = 0; i < int(matrices.size()); ++i)
    if (name == matrices[size_t(i)].name) {
      walk_units(s, int(matrices.size()), i, take_halves(packed, out, 3 * s.hidden, s.hidden));
      return out;
    }
  return take_layer(layers(s, c), packed, name);
}

}  // namespace wavernn_fast::gpu
