// The order of packed weights of the residual core. For R1, R2, W_ih2 (columns of v), fc1, fc2 and
// fc3 (columns of w, p and q), in this order:
//   [blocks][warps][rows of a warp][pairs][32 lanes] pairs of neighbouring columns,
// where pair i of lane l holds columns 64 i + 2 l and the next; rows of a warp are [unit
// slot][reset, update, candidate], else [row slot]. A layer that every block has whole has one
// block. Missing rows and columns are zero. Then columns times x [bands][u, reset, update,
// candidate][H], recurrent biases of the candidates [GRU 1, GRU 2][H], and the bias of fc3. Where
// labels are heard with mu-law undone, what each is heard as [C].
#include "common/sampling.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_rows.h"
#include "plan/residual.h"

namespace wavernn_fast::gpu {
namespace {

std::vector<RowSource> sources(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size, f = c.fc_size, a = c.aux_size, b = s.blocks;
  const int gates = 3 * s.unit_slots, hp = s.hidden_pairs, fp = s.fc_pairs;
  const auto parts = [b](int whole) { return whole ? 1 : b; };
  return {{"gru1", "gru1.w_recurrent", 3 * h, h, h, gates, hp, s.gru1_at, h, b, true},
          {"gru2", "gru2.w_recurrent", 3 * h, h, h, gates, hp, s.gru2_at, h, b, true},
          {"gru2_input", "gru2.w_input", 3 * h, h, h + a, gates, hp, s.gru2_input_at, h, b, true},
          {"fc1", "fc1.weight", f, h, h + a, s.fc1_slots, hp, s.fc1_at, s.fc, parts(s.fc1_whole),
           false},
          {"fc2", "fc2.weight", f, f, f + a, s.fc2_slots, fp, s.fc2_at, s.fc, parts(s.fc2_whole),
           false},
          {"fc3", "fc3.weight", c.logits_size(), f, f, s.fc3_slots, fp, s.fc3_at, s.classes,
           parts(s.fc3_whole), false}};
}

}  // namespace

std::vector<uint32_t> pack_residual(const GpuPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  pack_rows(s, sources(plan), weights, out);
  const residual::InputLayer input = residual::hoist_input(c, weights);
  for (int band = 0; band < s.bands; ++band) {
    const int at = s.sample_at + 4 * h * band;
    put_floats(out, at, input.x_columns.data() + band * h, h);
    put_floats(out, at + h, input.gru1_x.data() + 3 * band * h, 3 * h);
  }
  put_floats(out, s.inner_bias_at, weights.get("gru1.b_recurrent", {3 * h}) + 2 * h, h);
  put_floats(out, s.inner_bias_at + h, weights.get("gru2.b_recurrent", {3 * h}) + 2 * h, h);
  put_floats(out, s.fc_bias_at, weights.get("fc3.bias", {c.logits_size()}), c.logits_size());
  put_expanded(out, s.expanded_at, c);
  return out;
}

bool hears_expanded(const ModelConfig& c) { return c.feedback == Feedback::mu_law; }

void put_expanded(std::vector<uint32_t>& out, int at, const ModelConfig& c) {
  if (!hears_expanded(c)) return;
  std::vector<float> heard;
  for (int k = 0; k < c.n_classes; ++k) heard.push_back(expand_label(k, c.n_classes));
  put_floats(out, at, heard.data(), c.n_classes);
}

std::vector<float> unpack_residual(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                                   const std::string& name) {
  return unpack_rows(plan.shape, sources(plan), packed, name);
}

std::vector<float> residual_bias(const ModelConfig& c, const CanonicalWeights& weights) {
  const int h = c.hidden_size, f = c.fc_size;
  const auto append = [](std::vector<float>& to, const float* from, int count) {
    to.insert(to.end(), from, from + count);
  };
  std::vector<float> bias;
  append(bias, weights.get("input.bias", {h}), h);
  append(bias, residual::hoist_input(c, weights).gru1_bias.data(), 3 * h);
  append(bias, weights.get("gru2.b_input", {3 * h}), 3 * h);
  for (const int gru : {1, 2}) {
    const float* recurrent =
        weights.get(gru == 1 ? "gru1.b_recurrent" : "gru2.b_recurrent", {3 * h});
    float* gates = bias.data() + (gru == 1 ? h : 4 * h);
    for (int i = 0; i < 2 * h; ++i) gates[i] += recurrent[i];
  }
  append(bias, weights.get("fc1.bias", {f}), f);
  append(bias, weights.get("fc2.bias", {f}), f);
  return bias;
}

}  // namespace wavernn_fast::gpu
