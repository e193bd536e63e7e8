// The order of packed weights. For R and O1..O4, in this order:
//   [blocks][warps][rows of a warp][pairs][32 lanes] pairs of neighbouring columns,
// where pair i of lane l holds columns 64 i + 2 l and the next; rows of a warp are, for R,
// [unit slot][reset, update, candidate][coarse, fine columns], else [row slot]. In clusters O1..O4
// have the blocks of one cluster: all clusters read the same. With two exchanges
// O2 and O4 are dealt by columns: lane l of a warp has the classes [round][warp][l], and pair i is
// two neighbouring columns among those whose y its block computes. Missing rows and columns are
// zero. Then what plan/gpu_vectors.h says.
#include "common/error.h"
#include "common/half.h"
#include "plan/gpu.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

// Which weight stands where; the same walk packs and unpacks.
struct Slot {
  int64_t word;  // of the pair
  int row, col;  // of its first weight; row -1: none
};

// Unit of (block, warp, slot), or -1: the rule of unit_of_slot in the kernel.
int unit_at(const Shape& s, int block, int warp, int slot) {
  const int begin = part_begin(s.half, s.blocks, block);
  const int own = part_begin(s.half, s.blocks, block + 1) - begin, i = slot * s.warps + warp;
  if (i < own) return begin + i;
  return i < 2 * own ? s.half + begin + i - own : -1;
}

// Row of (part, warp, slot) of an output layer, or -1: row_of_slot in the kernel.
int row_at(const Shape& s, int n_rows, int slots, int part, int warp, int slot) {
  const int in_part = s.cluster > 1 ? warp * slots + slot : slot * s.warps + s.warps - 1 - warp;
  const int row = part_begin(n_rows, output_parts(s), part) + in_part;
  return row < part_begin(n_rows, output_parts(s), part + 1) ? row : -1;
}

template <class Visit>
void walk_pairs(const Shape& s, int blocks, int at, int rows, int pairs, const Visit& visit) {
  int64_t word = at;
  for (int block = 0; block < blocks; ++block)
    for (int warp = 0; warp < s.warps; ++warp)
      for (int row = 0; row < rows; ++row)
        for (int i = 0; i < pairs; ++i)
          for (int lane = 0; lane < 32; ++lane, word += s.fp16 ? 1 : 2)
            visit(block, warp, row, 64 * i + 2 * lane, word);
}

template <class Visit>
void walk_recurrent(const Shape& s, const Visit& visit) {
  walk_pairs(s, s.blocks, s.gru_at, 6 * s.unit_slots, s.half_pairs,
             [&](int block, int warp, int row, int col, int64_t word) {
               const int unit = unit_at(s, block, warp, row / 6), gate = row / 2 % 3;
               const int width = std::max(0, std::min(2, s.half - col));
               visit(Slot{word, unit < 0 ? -1 : gate * s.hidden + unit, row % 2 * s.half + col},
                     width);
             });
}

struct OutputLayer {
  const char* name;
  int dealt;       // rows that are dealt to the blocks: `rows`, or one more
  int rows, cols;  // canonical
  int slots, pairs, at;
  bool second;  // O2 or O4
};

std::vector<OutputLayer> output_layers(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const int f = plan.request.config.fc_size;
  return {{"coarse_fc1", s.fc, f, s.half, s.fc1_slots, s.half_pairs, s.coarse_fc1_at, false},
          {"coarse_fc2", 256, 256, f, s.fc2_slots, s.fc_pairs, s.coarse_fc2_at, true},
          {"fine_fc1", s.fc, f, s.half, s.fc1_slots, s.half_pairs, s.fine_fc1_at, false},
          {"fine_fc2", 256, 256, f, s.fc2_slots, s.fc_pairs, s.fine_fc2_at, true}};
}

template <class Visit>
void walk_rows(const Shape& s, const OutputLayer& layer, const Visit& visit) {
  walk_pairs(s, output_parts(s), layer.at, layer.slots, layer.pairs,
             [&](int part, int warp, int slot, int col, int64_t word) {
               const int width = std::max(0, std::min(2, layer.cols - col));
               const int row = row_at(s, layer.dealt, layer.slots, part, warp, slot);
               visit(Slot{word, row < layer.rows ? row : -1, col}, width);
             });
}

template <class Visit>
void walk_columns(const Shape& s, const OutputLayer& layer, const Visit& visit) {
  walk_pairs(s, s.blocks, layer.at, s.class_rounds, s.y_pairs,
             [&](int block, int warp, int round, int place, int64_t word) {
               const int k = (round * s.warps + warp) * 32 + place % 64 / 2;
               const int col = part_begin(s.fc, s.blocks, block) + place / 64 * 2;
               const int end = std::min(layer.cols, part_begin(s.fc, s.blocks, block + 1));
               const int width = std::max(0, std::min(2, end - col));
               visit(Slot{word, k < 256 ? k : -1, col}, width);
             });
}

template <class Visit>
void walk_output(const Shape& s, const OutputLayer& layer, const Visit& visit) {
  if (layer.second && s.exchanges == 2)
    walk_columns(s, layer, visit);
  else
    walk_rows(s, layer, visit);
}

void put_pair(const Shape& s, std::vector<uint32_t>& out, const Slot& slot, const float* row,
              int width, const std::string& name) {
  for (int e = 0; e < width; ++e) {
    const float x = row[slot.col + e];
    if (s.fp16)
      out[slot.word] |= uint32_t(checked_fp16(x, name)) << (16 * e);
    else
      out[slot.word + e] = float_bits(x);
  }
}

float pair_value(const Shape& s, const std::vector<uint32_t>& packed, const Slot& slot, int e) {
  if (s.fp16) return from_fp16(uint16_t(packed[slot.word] >> (16 * e)));
  return bits_float(packed[slot.word + e]);
}

}  // namespace

std::vector<uint32_t> pack_gpu(const GpuPlan& plan, const CanonicalWeights& weights) {
  if (plan.shape.residual) return pack_residual(plan, weights);
  if (plan.shape.embedded) return pack_embedded(plan, weights);
  const Shape& s = plan.shape;
  std::vector<uint32_t> out(size_t(plan.packed_words), 0);
  const float* recurrent = weights.get("gru.w_recurrent", {3 * s.hidden, s.hidden});
  walk_recurrent(s, [&](const Slot& slot, int width) {
    if (slot.row >= 0)
      put_pair(s, out, slot, recurrent + int64_t(slot.row) * s.hidden, width, "gru.w_recurrent");
  });
  for (const OutputLayer& layer : output_layers(plan)) {
    const std::string name = layer.name;
    const float* w = weights.get(name + ".weight", {layer.rows, layer.cols});
    walk_output(s, layer, [&](const Slot& slot, int width) {
      if (slot.row >= 0) put_pair(s, out, slot, w + int64_t(slot.row) * layer.cols, width, name);
    });
  }
  pack_vectors(s, plan.request.config.fc_size, weights, out);
  return out;
}

std::vector<float> unpack_gpu(const GpuPlan& plan, const std::vector<uint32_t>& packed,
                              const std::string& name) {
  if (plan.shape.residual) return unpack_residual(plan, packed, name);
  if (plan.shape.embedded) return unpack_embedded(plan, packed, name);
  const Shape& s = plan.shape;
  std::vector<float> out;
  const auto take = [&](int cols) {
    return [&, cols](const Slot& slot, int width) {
      if (slot.row < 0) return;
      for (int e = 0; e < width; ++e)
        out[int64_t(slot.row) * cols + slot.col + e] = pair_value(s, packed, slot, e);
    };
  };
  if (name == "gru") {
    out.assign(size_t(3) * s.hidden * s.hidden, 0.0f);
    walk_recurrent(s, take(s.hidden));
    return out;
  }
  for (const OutputLayer& layer : output_layers(plan)) {
    if (name != layer.name) continue;
    out.assign(size_t(layer.rows) * layer.cols, 0.0f);
    walk_output(s, layer, take(layer.cols));
    return out;
  }
  fail("There is no packed matrix ", name, ".");
}

}  // namespace wavernn_fast::gpu
