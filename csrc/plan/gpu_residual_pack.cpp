// The order of packed weights of the residual core. For R1, R2, W_ih2 (columns of v), fc1, fc2 and
// fc3 (columns of w, p and q), in this order:
//   [blocks][warps][rows of a warp][pairs][32 lanes] pairs of neighbouring columns,
// where pair i of lane l holds columns 64 i + 2 l and the next; rows of a warp are [unit
// slot][reset, update, candidate], else [row slot]. A layer that every block has whole has one
// block. Missing rows and columns are zero. Then columns times x [bands][u, reset, update,
// candidate][H], recurrent biases of the candidates [GRU 1, GRU 2][H], and the bias of fc3.
#include <cstring>

#include "common/error.h"
#include "common/half.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_vectors.h"
#include "plan/residual.h"

namespace wavernn_fast::gpu {
namespace {

struct Source {
  const char* name;    // in reports and for tests
  const char* tensor;  // canonical
  int rows, cols;      // of it that are multiplied a sample
  int stride;          // columns of the tensor
  int slots, pairs, at;
  bool units;  // rows are gates of units
  int whole = 0;
};

std::vector<Source> sources(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size, f = c.fc_size, a = c.aux_size, gates = 3 * s.unit_slots;
  return {
      {"gru1", "gru1.w_recurrent", 3 * h, h, h, gates, s.hidden_pairs, s.gru1_at, true},
      {"gru2", "gru2.w_recurrent", 3 * h, h, h, gates, s.hidden_pairs, s.gru2_at, true},
      {"gru2_input", "gru2.w_input", 3 * h, h, h + a, gates, s.hidden_pairs, s.gru2_input_at, true},
      {"fc1", "fc1.weight", f, h, h + a, s.fc1_slots, s.hidden_pairs, s.fc1_at, false, s.fc1_whole},
      {"fc2", "fc2.weight", f, f, f + a, s.fc2_slots, s.fc_pairs, s.fc2_at, false, s.fc2_whole},
      {"fc3", "fc3.weight", c.logits_size(), f, f, s.fc3_slots, s.fc_pairs, s.fc3_at, false,
       s.fc3_whole}};
}

// Canonical row of (block, warp, slot), or -1: residual_unit and layer_row in the kernel.
int row_at(const Shape& s, const Source& m, int block, int warp, int slot) {
  if (m.units) {
    const int unit = part_begin(s.hidden, s.blocks, block) + slot / 3 * s.warps + warp;
    return unit < part_begin(s.hidden, s.blocks, block + 1) ? slot % 3 * s.hidden + unit : -1;
  }
  const int dealt = m.at == s.fc3_at ? s.classes : s.fc, parts = m.whole ? 1 : s.blocks;
  const int row = part_begin(dealt, parts, block) + slot * s.warps + s.warps - 1 - warp;
  return row < part_begin(dealt, parts, block + 1) && row < m.rows ? row : -1;
}

// visit(word, row, first column, columns) of every pair that holds a weight.
template <class Visit>
void walk(const Shape& s, const Source& m, const Visit& visit) {
  const int parts = m.whole ? 1 : s.blocks;
  int64_t word = m.at;
  for (int block = 0; block < parts; ++block)
    for (int warp = 0; warp < s.warps; ++warp)
      for (int slot = 0; slot < m.slots; ++slot) {
        const int row = row_at(s, m, block, warp, slot);
        for (int i = 0; i < m.pairs; ++i)
          for (int lane = 0; lane < 32; ++lane, word += s.fp16 ? 1 : 2) {
            const int col = 64 * i + 2 * lane, width = std::min(2, m.cols - col);
            if (row >= 0 && width > 0) visit(word, row, col, width);
          }
      }
}

void put(std::vector<uint32_t>& out, int at, const float* values, int count) {
  std::memcpy(out.data() + at, values, size_t(count) * sizeof(float));
}

}  // namespace

std::vector<uint32_t> pack_residual(const GpuPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  for (const Source& m : sources(plan)) {
    const float* w = weights.get(m.tensor, {m.rows, m.stride});
    walk(s, m, [&](int64_t word, int row, int col, int width) {
      for (int e = 0; e < width; ++e) {
        const float x = w[int64_t(row) * m.stride + col + e];
        if (s.fp16)
          out[size_t(word)] |= uint32_t(checked_fp16(x, m.name)) << (16 * e);
        else
          out[size_t(word + e)] = float_bits(x);
      }
    });
  }
  const residual::InputLayer input = residual::hoist_input(c, weights);
  for (int band = 0; band < s.bands; ++band) {
    const int at = s.sample_at + 4 * h * band;
    put(out, at, input.x_columns.data() + band * h, h);
    put(out, at + h, input.gru1_x.data() + 3 * band * h, 3 * h);
  }
  put(out, s.inner_bias_at, weights.get("gru1.b_recurrent", {3 * h}) + 2 * h, h);
  put(out, s.inner_bias_at + h, weights.get("gru2.b_recurrent", {3 * h}) + 2 * h, h);
  put(out, s.fc_bias_at, weights.get("fc3.bias", {c.logits_size()}), c.logits_size());
  return out;
}

std::vector<float> unpack_residual(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                                   const std::string& name) {
  const Shape& s = plan.shape;
  for (const Source& m : sources(plan)) {
    if (name != m.name) continue;
    std::vector<float> out(size_t(m.rows) * m.cols, 0.0f);
    walk(s, m, [&](int64_t word, int row, int col, int width) {
      for (int e = 0; e < width; ++e)
        out[size_t(int64_t(row) * m.cols + col + e)] =
            s.fp16 ? from_fp16(uint16_t(packed[size_t(word)] >> (16 * e)))
                   : bits_float(packed[size_t(word + e)]);
    });
    return out;
  }
  fail("There is no packed matrix ", name, ".");
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
