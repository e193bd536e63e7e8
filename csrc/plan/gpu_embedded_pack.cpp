// The order of packed weights of the embedded core. For R, fc1 and fc2, in this order:
//   [blocks][warps][rows of a warp][pairs][32 lanes] pairs of neighbouring columns,
// where pair i of lane l holds columns 64 i + 2 l and the next; rows of a warp are [unit
// slot][reset, update, candidate], else [row slot]. Missing rows and columns are zero. Then the
// recurrent bias of the candidate [H], biases of fc1 [F] and fc2 [C], and the gate inputs of every
// label [C][3H].
#include <algorithm>

#include "plan/embedded.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

std::vector<RowSource> sources(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size, f = c.fc_size, n = c.n_classes, b = s.blocks;
  const int gates = 3 * s.unit_slots;
  return {{"gru", "gru.w_recurrent", 3 * h, h, h, gates, s.hidden_pairs, s.gru_at, h, b, true},
          {"fc1", "fc1.weight", f, h, h, s.fc1_slots, s.hidden_pairs, s.fc1_at, s.fc, b, false},
          {"fc2", "fc2.weight", n, f, f, s.fc2_slots, s.fc_pairs, s.fc2_at, s.classes, b, false}};
}

}  // namespace

void put_embedded_vectors(const Shape& s, const ModelConfig& c, const CanonicalWeights& weights,
                          std::vector<uint32_t>& out) {
  const int h = c.hidden_size;
  put_floats(out, s.inner_bias_at, weights.get("gru.b_recurrent", {3 * h}) + 2 * h, h);
  put_floats(out, s.fc_bias_at, weights.get("fc1.bias", {c.fc_size}), c.fc_size);
  put_floats(out, s.fc_bias_at + s.fc, weights.get("fc2.bias", {c.n_classes}), c.n_classes);
  const std::vector<float> table = embedded::label_gates(c, weights);
  put_floats(out, s.table_at, table.data(), int(table.size()));
}

std::vector<uint32_t> pack_embedded(const GpuPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  pack_rows(s, sources(plan), weights, out);
  put_embedded_vectors(s, c, weights, out);
  return out;
}

std::vector<float> unpack_embedded(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                                   const std::string& name) {
  return unpack_rows(plan.shape, sources(plan), packed, name);
}

std::vector<float> embedded_bias(const ModelConfig& c, const CanonicalWeights& weights) {
  const int h = c.hidden_size;
  const float* recurrent = weights.get("gru.b_recurrent", {3 * h});
  std::vector<float> bias(recurrent, recurrent + 3 * h);
  std::fill(bias.begin() + 2 * h, bias.end(), 0.0f);
  return bias;
}

}  // namespace wavernn_fast::gpu
