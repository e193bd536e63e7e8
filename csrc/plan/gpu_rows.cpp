#include "plan/gpu_rows.h"

#include <algorithm>
#include <climits>
#include <cstring>

#include "common/error.h"
#include "common/half.h"
#include "common/integers.h"
#include "common/sampling.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

// Canonical row of (part, warp, slot), or -1: residual_unit, layer_row and row_of_slot in the
// kernels.
int row_at(const Shape& s, const RowSource& m, int part, int warp, int slot) {
  const int begin = part_begin(m.dealt, m.parts, part);
  const int end = part_begin(m.dealt, m.parts, part + 1);
  if (m.units) {
    const int unit = begin + slot / 3 * s.warps + warp;
    return unit < end ? slot % 3 * s.hidden + unit : -1;
  }
  const int row = begin + slot * s.warps + s.warps - 1 - warp;
  return row < end && row < m.rows ? row : -1;
}

// visit(word, row, first column, columns) of every pair that holds a weight.
template <class Visit>
void walk(const Shape& s, const RowSource& m, const Visit& visit) {
  int64_t word = m.at;
  for (int part = 0; part < m.parts; ++part)
    for (int warp = 0; warp < s.warps; ++warp)
      for (int slot = 0; slot < m.slots; ++slot) {
        const int row = row_at(s, m, part, warp, slot);
        for (int i = 0; i < m.pairs; ++i)
          for (int lane = 0; lane < 32; ++lane, word += s.fp16 ? 1 : 2) {
            const int col = 64 * i + 2 * lane, width = std::min(2, m.cols - col);
            if (row >= 0 && width > 0) visit(word, row, col, width);
          }
      }
}

}  // namespace

void set_draw_shape(Shape& s, const ModelConfig& c) {
  s.bands = c.bands;
  s.real = c.head == Head::gaussian ? kGaussian : c.head == Head::beta ? kBeta : kNotReal;
  s.classes = round_up(c.logits_size(), 2);  // words travel in pairs; a row more is zero
  // Of a band: labels, mixtures of logistics, or the two outputs of a real head.
  s.choices = c.head == Head::mol ? c.n_classes / 3 : c.n_classes;
  s.mixtures = c.head == Head::mol ? s.choices : 0;
  s.draw_pairs = ceil_div(s.choices, 64);
  s.band_words = round_up(s.classes / s.bands, 64);
  s.choice_words = s.bands * s.band_words;
  s.weight_bits = weight_bits(s.choices);
}

// A gaussian is one chain of a logarithm, a root and a quotient. A beta takes two or three rounds
// for its panels and three Newton steps in the mean, each some 180 instructions most of which wait
// for one another (residual_real.cuh).
int real_draw_cycles(int real) { return real == kGaussian ? 400 : 6 * 700 + 400; }

int words_of(const Shape& s, const RowMatrix& m) { return m.pairs * (s.fp16 ? 1 : 2); }

void count_bytes(GpuPlan& plan, const std::vector<RowMatrix>& matrices) {
  const Shape& s = plan.shape;
  int64_t shared = s.shared_weights;
  plan.weight_registers = 0;
  plan.resident_bytes = plan.streamed_bytes = 0;
  for (const RowMatrix& m : matrices) {
    const int words = words_of(s, m);
    if (s.*m.place == kInShared) shared += int64_t(words) * s.threads;
    if (s.*m.place == kInRegisters) plan.weight_registers += words;
    const int64_t bytes = int64_t(4) * words * s.threads * s.blocks;
    (s.*m.place == kInL2 ? plan.streamed_bytes : plan.resident_bytes) += bytes;
  }
  plan.shared_bytes = int(std::min<int64_t>(4 * shared, INT32_MAX));
}

bool fits(const GpuPlan& plan) {
  const GpuRequest& r = plan.request;
  const Shape& s = plan.shape;
  // The compiler counts a block in whole rounds of its four schedulers.
  const int registers = std::min(255, r.limits.registers / (128 * ceil_div(s.warps, 4)) / 8 * 8);
  return plan.weight_registers + working_registers(r.limits, s) <= registers &&
         plan.shared_bytes <= r.limits.shared_per_block && plan.streamed_bytes <= r.limits.l2_bytes;
}

void check_rows_request(const GpuRequest& request) {
  if (request.dtype != Dtype::fp32 && request.dtype != Dtype::fp16)
    fail<DeviceError>("dtype ", dtype_name(request.dtype),
                      " is not available on a GPU; use fp32 or fp16.");
  const int most = std::min(request.limits.multiprocessors, request.config.hidden_size);
  WF_CHECK(request.blocks >= 0 && request.blocks <= most, "blocks is ", request.blocks,
           ", expected 1 to ", most, ": at most one a multiprocessor, and a unit for each");
}

void check_labels(int n_classes) {
  if (n_classes > kMostLabels)
    fail<DeviceError>("The GPU kernel draws from at most ", kMostLabels, " labels; this model has ",
                      n_classes, ". Use device=\"cpu\".");
}

void weights_do_not_fit(const GpuRequest& request, int64_t weights) {
  const DeviceLimits& d = request.limits;
  fail<DeviceError>(
      "The model does not fit on ", d.name, ": ", weights, " weights in ",
      dtype_name(request.dtype), " are ", weights * (request.dtype == Dtype::fp16 ? 2 : 4),
      " bytes, more than its L2 of ", d.l2_bytes, " bytes can stream and more than its ",
      d.multiprocessors, " multiprocessors can hold (about ",
      int64_t(d.multiprocessors) * (4 * (d.registers - 256 * 60) + d.shared_per_block),
      " bytes). Use ", request.dtype == Dtype::fp16 ? "" : "dtype=\"fp16\", ",
      "a smaller model or device=\"cpu\".");
}

RowCosts::RowCosts(const Shape& shape, const DeviceLimits& limits)
    : s_(shape),
      d_(limits),
      hop_(int(hop_us(limits.arch, shape.blocks) * limits.clock_khz / 1000.0)) {}

double RowCosts::pace(int warps) const {
  return std::max(1.6, double(ceil_div(warps, d_.arch < 70 ? 2 : 4)));
}

int RowCosts::rows(int slots, int pairs, int place) const {
  return int(110 + pace(s_.warps) * slots * pairs * (place == kInShared ? 5 : 3) + 90 + 20 * slots);
}

int RowCosts::hop(int words, int shadow) const {
  const double us = 0.00024 * std::max(0, words - 448);  // words beyond 448 take 0.24 ns each
  return std::max(hop_ + int(us * d_.clock_khz / 1000.0), shadow);
}

int RowCosts::draw_of_labels() const {
  return (d_.arch < 80 ? 500 : 400) + 60 + 40 * std::max(0, s_.draw_pairs - 4);
}

int RowCosts::late(int hops) const {
  constexpr int kCrowded = 60;
  return hops - s_.exchanges * (hop_ - kCrowded * std::max(0, s_.warps - 8));
}

int RowCosts::streamed(int64_t bytes, int matrices) const {
  if (bytes == 0) return 0;
  return int(std::max(double(bytes) / s_.blocks / 64.0, double(bytes) / 2560.0)) + matrices * 300;
}

void pack_rows(const Shape& s, const std::vector<RowSource>& sources,
               const CanonicalWeights& weights, std::vector<uint32_t>& out) {
  for (const RowSource& m : sources) {
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
}

std::vector<float> unpack_rows(const Shape& s, const std::vector<RowSource>& sources,
                               const std::vector<uint32_t>& packed, const std::string& name) {
  for (const RowSource& m : sources) {
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

void put_floats(std::vector<uint32_t>& out, int at, const float* values, int count) {
  std::memcpy(out.data() + at, values, size_t(count) * sizeof(float));
}

}  // namespace wavernn_fast::gpu
