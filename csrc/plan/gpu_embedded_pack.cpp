// The order of packed weights of the embedded core. For R, fc1 and fc2, in this order:
//   [blocks][warps][rows of a warp][pairs][32 lanes] pairs of neighbouring columns,
// where pair i of lane l holds columns 64 i + 2 l and the next; rows of a warp are [unit
// slot][reset, update, candidate], else [row slot]. Missing rows and columns are zero. Then the
// recurrent bias of the candidate [H], biases of fc1 [F] and fc2 [C], and the gate inputs of every
// label [C][3H].
#include <cstring>

#include "common/error.h"
#include "common/half.h"
#include "plan/embedded.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

struct Source {
  const char* name;    // in reports and for tests
  const char* tensor;  // canonical
  int rows, cols;
  int dealt;  // rows that are dealt to the blocks: `rows`, or one more
  int slots, pairs, at;
  bool units;  // rows are gates of units
};

std::vector<Source> sources(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size, f = c.fc_size, n = c.n_classes;
  return {{"gru", "gru.w_recurrent", 3 * h, h, h, 3 * s.unit_slots, s.hidden_pairs, s.gru_at, true},
          {"fc1", "fc1.weight", f, h, s.fc, s.fc1_slots, s.hidden_pairs, s.fc1_at, false},
          {"fc2", "fc2.weight", n, f, s.classes, s.fc2_slots, s.fc_pairs, s.fc2_at, false}};
}

// Canonical row of (block, warp, slot), or -1: residual_unit and row_of_slot in the kernel.
int row_at(const Shape& s, const Source& m, int block, int warp, int slot) {
  const int begin = part_begin(m.dealt, s.blocks, block);
  const int end = part_begin(m.dealt, s.blocks, block + 1);
  if (m.units) {
    const int unit = begin + slot / 3 * s.warps + warp;
    return unit < end ? slot % 3 * s.hidden + unit : -1;
  }
  const int row = begin + slot * s.warps + s.warps - 1 - warp;
  return row < end && row < m.rows ? row : -1;
}

// visit(word, row, first column, columns) of every pair that holds a weight.
template <class Visit>
void walk(const Shape& s, const Source& m, const Visit& visit) {
  int64_t word = m.at;
  for (int block = 0; block < s.blocks; ++block)
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

void put(std::vector<uint32_t>& out, int at, const float* values, size_t count) {
  std::memcpy(out.data() + at, values, count * sizeof(float));
}

}  // namespace

std::vector<uint32_t> pack_embedded(const GpuPlan& plan, const CanonicalWeights& weights) {
  const Shape& s = plan.shape;
  const ModelConfig& c = plan.request.config;
  const int h = c.hidden_size;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  for (const Source& m : sources(plan)) {
    const float* w = weights.get(m.tensor, {m.rows, m.cols});
    walk(s, m, [&](int64_t word, int row, int col, int width) {
      for (int e = 0; e < width; ++e) {
        const float x = w[int64_t(row) * m.cols + col + e];
        if (s.fp16)
          out[size_t(word)] |= uint32_t(checked_fp16(x, m.name)) << (16 * e);
        else
          out[size_t(word + e)] = float_bits(x);
      }
    });
  }
  put(out, s.inner_bias_at, weights.get("gru.b_recurrent", {3 * h}) + 2 * h, size_t(h));
  put(out, s.fc_bias_at, weights.get("fc1.bias", {c.fc_size}), size_t(c.fc_size));
  put(out, s.fc_bias_at + s.fc, weights.get("fc2.bias", {c.n_classes}), size_t(c.n_classes));
  const std::vector<float> table = embedded::label_gates(c, weights);
  put(out, s.table_at, table.data(), table.size());
  return out;
}

std::vector<float> unpack_embedded(const GpuPlan& plan, const std::vector<uint32_t>& packed,
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

std::vector<float> embedded_bias(const ModelConfig& c, const CanonicalWeights& weights) {
  const int h = c.hidden_size;
  const float* recurrent = weights.get("gru.b_recurrent", {3 * h});
  std::vector<float> bias(recurrent, recurrent + 3 * h);
  std::fill(bias.begin() + 2 * h, bias.end(), 0.0f);
  return bias;
}

}  // namespace wavernn_fast::gpu
