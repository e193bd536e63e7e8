// The order of packed weights of plan M of the embedded core, in tiles as gpu_many_pack.cpp has
// them:
//   R [block][warp][tile of columns][reset, update, candidate][tile of units]; fc1, fc2
//   [block][tile of rows][tile of columns];
// then the recurrent bias of the candidate [H], biases of fc1 [F] and fc2 [C], and the gate inputs
// of every label [C][3H]. Missing rows and columns are zero.
#include "plan/embedded.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_many_embedded.h"
#include "plan/gpu_many_parts.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

std::vector<ManyLayer> layers(const Shape& s, const ModelConfig& c) {
  const int g = s.blocks, h = s.hidden, f = c.fc_size;
  return {{"fc1", f, h, 16 * s.fc1_tiles, s.fc1_tiles, s.hidden_tiles, s.fc1_at, g, h},
          {"fc2", c.n_classes, f, s.fc2_rows, s.fc2_tiles, s.fc_tiles, s.fc2_at, g, f}};
}

}  // namespace

std::vector<uint32_t> pack_many_embedded(const ManyPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.gpu.config;
  const int h = c.hidden_size;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  const char* gru = "gru.w_recurrent";
  walk_units(s, 1, 0, put_halves(out, weights.get(gru, {3 * h, h}), h, gru));
  put_layers(layers(s, c), weights, out);
  put_embedded_vectors(s, c, weights, out);
  return out;
}

std::vector<float> unpack_many_embedded(const ManyPlan& plan, const std::vector<uint32_t>& packed,
                                        const std::string& name) {
  const Shape& s = plan.shape;
  if (name != "gru") return take_layer(layers(s, plan.request.gpu.config), packed, name);
  std::vector<float> out;
  walk_units(s, 1, 0, take_halves(packed, out, 3 * s.hidden, s.hidden));
  return out;
}

}  // namespace wavernn_fast::gpu
