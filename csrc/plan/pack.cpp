#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "common/error.h"
#include "common/half.h"
#include "plan/plan.h"

namespace wavernn_fast {
namespace {

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

constexpr int kInt8Levels = 127;

void put_weight(Dtype dtype, float value, float scale, uint8_t* p) {
  switch (dtype) {
    case Dtype::fp32:
      std::memcpy(p, &value, 4);
      break;
    case Dtype::fp16: {
      const uint16_t h = to_fp16(value);
      std::memcpy(p, &h, 2);
      break;
    }
    case Dtype::bf16: {
      const uint16_t h = to_bf16(value);
      std::memcpy(p, &h, 2);
      break;
    }
    case Dtype::int8:
    case Dtype::int8_fast: {
      const float q = scale > 0.0f ? std::nearbyint(value / scale) : 0.0f;
      *reinterpret_cast<int8_t*>(p) = int8_t(std::clamp(q, -127.0f, 127.0f));
      break;
    }
  }
}

float get_weight(Dtype dtype, float scale, const uint8_t* p) {
  uint16_t h;
  switch (dtype) {
    case Dtype::fp32: {
      float x;
      std::memcpy(&x, p, 4);
      return x;
    }
    case Dtype::fp16:
      std::memcpy(&h, p, 2);
      return from_fp16(h);
    case Dtype::bf16:
      std::memcpy(&h, p, 2);
      return from_bf16(h);
    case Dtype::int8:
    case Dtype::int8_fast:
      return scale * float(*reinterpret_cast<const int8_t*>(p));
  }
  return 0.0f;
}

// Byte position of row `r` (within the panel) and column `k` (within its column range).
size_t position(Dtype dtype, const Panel& panel, int r, int k) {
  const size_t width = size_t(kRowsPerBlock) * panel.blocks;
  if (is_int8(dtype)) return panel.offset + (size_t(k / 4) * width + r) * 4 + k % 4;
  return panel.offset + (size_t(k) * width + r) * dtype_bytes(dtype);
}

// Cuts a range of blocks into panels of nearly equal width, so that none is left very narrow.
void cut_panels(int begin, int end, int widest, std::vector<Panel>& panels) {
  const int n = end - begin, count = (n + widest - 1) / widest;
  for (int i = 0; i < count; ++i) {
    const int first = begin + part_begin(n, count, i);
    panels.push_back({first, begin + part_begin(n, count, i + 1) - first, 0});
  }
}

}  // namespace

const char* dtype_name(Dtype dtype) {
  const char* names[] = {"fp32", "fp16", "bf16", "int8", "int8-fast"};
  return names[int(dtype)];
}

Dtype dtype_from_name(const std::string& name) {
  for (Dtype d : {Dtype::fp32, Dtype::fp16, Dtype::bf16, Dtype::int8, Dtype::int8_fast})
    if (name == dtype_name(d)) return d;
  if (name == "auto") return Dtype::fp32;
  fail("dtype ", name, " is not known; use fp32, fp16, bf16, int8 or int8-fast");
}

size_t dtype_bytes(Dtype dtype) { return dtype == Dtype::fp32 ? 4 : is_int8(dtype) ? 1 : 2; }

int part_begin(int n, int parts, int part) { return int(int64_t(n) * part / parts); }

MatrixSource plain_source(std::string name, const float* weight, int n_rows, int n_cols, int stride,
                          const float* bias, int threads) {
  MatrixSource source{std::move(name), weight, n_rows, n_cols, stride, bias, 0.0f, {}, {}, {}};
  const int rows = round_up(n_rows, kRowsPerBlock), blocks = rows / kRowsPerBlock;
  for (int r = 0; r < rows; ++r) source.row_of.push_back(r < n_rows ? r : -1);
  for (int t = 0; t < threads; ++t)
    source.part_blocks.push_back(
        {{part_begin(blocks, threads, t), part_begin(blocks, threads, t + 1)}});
  return source;
}

MatrixSource gate_source(std::string name, const float* weight, int units, int n_cols, int stride,
                         const float* bias, int ranges, int threads) {
  MatrixSource source{std::move(name), weight, 3 * units, n_cols, stride, bias, 0.0f, {}, {}, {}};
  const int groups = units / kRowsPerBlock, per_range = groups / ranges;
  for (int g = 0; g < groups; ++g)
    for (int gate = 0; gate < 3; ++gate)
      for (int i = 0; i < kRowsPerBlock; ++i)
        source.row_of.push_back(gate * units + g * kRowsPerBlock + i);
  for (int t = 0; t < threads; ++t) {
    source.part_blocks.emplace_back();
    for (int range = 0; range < ranges; ++range)
      source.part_blocks.back().push_back(
          {3 * (range * per_range + part_begin(per_range, threads, t)),
           3 * (range * per_range + part_begin(per_range, threads, t + 1))});
  }
  return source;
}

bool deal_overlapped(std::vector<MatrixSource*> gates, int stretches, int64_t alone,
                     const PlanRequest& request) {
  // What quantising, ReLU and the draw take, in weights that could be read meanwhile.
  constexpr int64_t kDrawBytes = 24 << 10;
  const int threads = request.threads;
  if (threads < 2 || threads > kMostOverlapped) return false;
  alone += kDrawBytes / int64_t(dtype_bytes(request.dtype));
  int64_t shared = 0;
  for (const MatrixSource* source : gates) shared += int64_t(source->n_rows) * source->n_cols;
  shared /= stretches;
  const int64_t mine = (shared + alone) / threads - alone;
  if (mine < 0) return false;
  for (MatrixSource* source : gates) {
    const int blocks = int(source->row_of.size()) / kRowsPerBlock;
    const int first = int((blocks * mine + shared / 2) / shared);
    for (int t = 0; t < threads; ++t) {
      const int begin = t == 0 ? 0 : first + part_begin(blocks - first, threads - 1, t - 1);
      const int end = t == 0 ? first : first + part_begin(blocks - first, threads - 1, t);
      source->part_blocks[t] = {{begin, end}};
    }
  }
  return true;
}

PlanBuilder::PlanBuilder(const PlanRequest& request) { plan_.request = request; }

void PlanBuilder::add_matrix(const MatrixSource& source) {
  const Dtype dtype = plan_.request.dtype;
  PackedMatrix m;
  m.name = source.name;
  m.rows = int(source.row_of.size());
  m.cols = round_up(source.n_cols, kColumnMultiple);
  m.source_cols = source.n_cols;
  m.row_of = source.row_of;
  m.bias.resize(m.rows);
  m.row_scale.resize(m.rows);
  for (int r = 0; r < m.rows; ++r) {
    const int row = m.row_of[r];
    m.bias[r] = row < 0 ? source.padded_bias : source.bias ? source.bias[row] : 0.0f;
    if (row < 0) continue;
    float largest = 0.0f;
    for (int k = 0; k < source.n_cols; ++k)
      largest = std::max(largest, std::fabs(source.weight[size_t(row) * source.stride + k]));
    WF_CHECK(dtype != Dtype::fp16 || largest < 65504.0f, "weight ", source.name, " row ", row,
             " reaches ", largest, ", beyond fp16's 65504; use dtype fp32 or bf16");
    m.row_scale[r] = largest / kInt8Levels;
  }
  for (size_t i = 0; i <= source.column_edges.size(); ++i) {
    const int first = i == 0 ? 0 : source.column_edges[i - 1];
    const int end = i < source.column_edges.size() ? source.column_edges[i] : m.cols;
    m.ranges.push_back({first, end - first, {}, AlignedBuffer<int32_t>(m.rows)});
    for (const auto& block_ranges : source.part_blocks) {
      std::vector<Panel> panels;
      for (const auto& [begin, last] : block_ranges)
        if (last > begin) cut_panels(begin, last, plan_.request.max_panel_blocks, panels);
      for (Panel& panel : panels) add_panel(source, m, m.ranges.back(), panel);
      m.ranges.back().parts.push_back(std::move(panels));
    }
  }
  plan_.macs_per_step += int64_t(source.n_rows) * source.n_cols;
  plan_.matrices.push_back(std::move(m));
}

void PlanBuilder::add_panel(const MatrixSource& source, const PackedMatrix& m, ColumnRange& range,
                            Panel& panel) {
  const Dtype dtype = plan_.request.dtype;
  panel.offset = (bytes_.size() + 63) / 64 * 64;
  const size_t size = size_t(kRowsPerBlock) * panel.blocks * range.cols * dtype_bytes(dtype);
  bytes_.resize(panel.offset + size);
  const int end = std::min(range.first + range.cols, source.n_cols);
  for (int r = 0; r < kRowsPerBlock * panel.blocks; ++r) {
    const int packed = kRowsPerBlock * panel.block + r, row = m.row_of[packed];
    for (int k = range.first; row >= 0 && k < end; ++k) {
      uint8_t* p = &bytes_[position(dtype, panel, r, k - range.first)];
      put_weight(dtype, source.weight[size_t(row) * source.stride + k], m.row_scale[packed], p);
      if (is_int8(dtype)) range.row_sum[packed] += 64 * *reinterpret_cast<int8_t*>(p);
    }
  }
  plan_.weight_bytes += size;
}

void PlanBuilder::add_vector(const float* data, int count) {
  AlignedBuffer<float> copy(round_up(count, kRowsPerBlock));
  std::copy(data, data + count, copy.data());
  plan_.vectors.push_back(std::move(copy));
}

Plan PlanBuilder::finish() {
  plan_.blob.resize(bytes_.size());
  std::memcpy(plan_.blob.data(), bytes_.data(), bytes_.size());
  return std::move(plan_);
}

std::vector<float> unpack(const Plan& plan, const PackedMatrix& matrix, int n_rows, int n_cols) {
  const Dtype dtype = plan.request.dtype;
  std::vector<float> out(size_t(n_rows) * n_cols, std::nanf(""));
  for (const ColumnRange& range : matrix.ranges) {
    const int end = std::min(range.first + range.cols, n_cols);
    for (const auto& part : range.parts) {
      for (const Panel& panel : part) {
        for (int r = 0; r < kRowsPerBlock * panel.blocks; ++r) {
          const int packed = kRowsPerBlock * panel.block + r, row = matrix.row_of[packed];
          for (int k = range.first; row >= 0 && k < end; ++k)
            out[size_t(row) * n_cols + k] =
                get_weight(dtype, matrix.row_scale[packed],
                           &plan.blob[position(dtype, panel, r, k - range.first)]);
        }
      }
    }
  }
  return out;
}

Plan make_plan(const PlanRequest& request, const CanonicalWeights& weights) {
  const ModelConfig& c = request.config;
  WF_CHECK(c.hidden_size > 0 && c.hidden_size % (c.core == Core::dual ? 32 : 16) == 0,
           "hidden_size ", c.hidden_size, " must be a positive multiple of ",
           c.core == Core::dual ? 32 : 16);
  // The held conditioning of the residual core is read 16 channels at a time.
  WF_CHECK(c.fc_size > 0 && (c.core == Core::dual || c.fc_size % 16 == 0), "fc_size ", c.fc_size,
           " must be positive", c.core == Core::dual ? "" : " and a multiple of 16");
  WF_CHECK(c.n_classes > 0 && c.n_classes <= 65536, "n_classes ", c.n_classes,
           " must be between 1 and 65536");
  WF_CHECK(request.threads > 0, "threads ", request.threads, " must be positive");
  return c.core == Core::dual ? make_dual_plan(request, weights)
                              : make_residual_plan(request, weights);
}

std::string Plan::describe() const {
  std::ostringstream text;
  text << request.config.describe() << "\n"
       << dtype_name(request.dtype) << " weights, " << weight_bytes << " bytes and "
       << macs_per_step << " multiply-adds a sample, " << request.threads << " thread(s)"
       << (overlapped ? ", output layers beside the next recurrent product" : "") << "\n";
  for (const PackedMatrix& m : matrices) {
    text << "  " << m.name << ": " << m.rows << " x " << m.cols << ", panels of";
    for (const auto& part : m.ranges[0].parts) {
      text << " [";
      for (size_t i = 0; i < part.size(); ++i)
        text << (i ? " " : "") << kRowsPerBlock * part[i].blocks;
      text << "]";
    }
    text << " rows\n";
  }
  return text.str();
}

}  // namespace wavernn_fast
