#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/sparse.h"
#include "plan/weight_format.h"

namespace wavernn_fast {
namespace {

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

std::vector<int> team_sizes(int threads) {
  std::vector<int> sizes;
  for (int n = 1; n < threads; n *= 2) sizes.push_back(n);
  sizes.push_back(threads);
  return sizes;
}

namespace {

// Weights to multiply, by 16-row block.
std::vector<int64_t> work_of(const MatrixSource& source) {
  if (source.layout != Layout::dense) return weights_by_block(source);
  return std::vector<int64_t>(source.row_of.size() / kRowsPerBlock, kRowsPerBlock * source.n_cols);
}

}  // namespace

MatrixSource plain_source(std::string name, const float* weight, int n_rows, int n_cols, int stride,
                          const float* bias, const PlanRequest& request) {
  MatrixSource source{std::move(name), weight, n_rows, n_cols, stride, bias, 0.0f, {}, {}, {}};
  const int rows = round_up(n_rows, kRowsPerBlock);
  for (int r = 0; r < rows; ++r) source.row_of.push_back(r < n_rows ? r : -1);
  source.layout = choose_layout(source, request);
  const std::vector<int> edges = deal_by_work(work_of(source), request.threads);
  for (int t = 0; t < request.threads; ++t)
    source.part_blocks.push_back({{edges[t], edges[t + 1]}});
  return source;
}

MatrixSource gate_source(std::string name, const float* weight, int units, int n_cols, int stride,
                         const float* bias, const PlanRequest& request) {
  MatrixSource source{std::move(name), weight, 3 * units, n_cols, stride, bias, 0.0f, {}, {}, {}};
  for (int g = 0; g < units / kRowsPerBlock; ++g)
    for (int gate = 0; gate < 3; ++gate)
      for (int i = 0; i < kRowsPerBlock; ++i)
        source.row_of.push_back(gate * units + g * kRowsPerBlock + i);
  source.layout = choose_layout(source, request);
  return source;
}

UnitEdges deal_units(const std::vector<const MatrixSource*>& gates, int ranges, int threads) {
  // What the activation functions of 16 units take, in weights of a sparse product.
  constexpr int64_t kGateWork = 800;
  std::vector<int64_t> work(gates[0]->row_of.size() / (3 * kRowsPerBlock), kGateWork);
  for (const MatrixSource* source : gates) {
    const std::vector<int64_t> rows = work_of(*source);
    for (size_t g = 0; g < work.size(); ++g)
      work[g] += rows[3 * g] + rows[3 * g + 1] + rows[3 * g + 2];
  }
  const int per_range = int(work.size()) / ranges;
  UnitEdges edges;
  for (int i = 0; i < ranges; ++i) {
    const auto first = work.begin() + i * per_range;
    edges.push_back(deal_by_work({first, first + per_range}, threads));
    for (int& edge : edges.back()) edge += i * per_range;
  }
  return edges;
}

void set_units(MatrixSource& source, const UnitEdges& edges) {
  source.part_blocks.clear();
  for (size_t t = 0; t + 1 < edges[0].size(); ++t) {
    source.part_blocks.emplace_back();
    for (const std::vector<int>& range : edges)
      source.part_blocks.back().push_back({3 * range[t], 3 * range[t + 1]});
  }
}

bool deal_overlapped(std::vector<MatrixSource*> gates, int stretches, int64_t alone,
                     const PlanRequest& request) {
  // What quantising, ReLU and the draw take, in weights that could be read meanwhile.
  constexpr int64_t kDrawBytes = 24 << 10;
  const int threads = request.threads;
  if (threads < 2 || threads > kMostOverlapped) return false;
  for (const MatrixSource* source : gates)
    if (source->layout != Layout::dense) return false;
  alone += request.config.bands * kDrawBytes / int64_t(dtype_bytes(request.dtype));
  int64_t shared = 0;
  for (const MatrixSource* source : gates) shared += int64_t(source->n_rows) * source->n_cols;
  shared /= stretches;
  const int64_t mine = (shared + alone) / threads - alone;
  if (mine < 0) return false;
  for (MatrixSource* source : gates) {
    // In whole panels: narrower ones are slower. Half of one, by which a share may be off, is soon
    // made up for: members help each other out (shares.h), or in int8 it is little.
    const int blocks = int(source->row_of.size()) / kRowsPerBlock;
    const int widest = request.max_panel_blocks, panels = (blocks + widest - 1) / widest;
    const int first = int((panels * mine + shared / 2) / shared);
    const auto edge = [&](int t) {
      const int others = t == 0 ? 0 : first + part_begin(panels - first, threads - 1, t - 1);
      return std::min(blocks, widest * others);
    };
    for (int t = 0; t < threads; ++t) source->part_blocks[t] = {{edge(t), edge(t + 1)}};
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
  m.layout = source.layout;
  for (const auto& ranges : source.part_blocks) m.edges.push_back(ranges[0].first);
  m.edges.push_back(source.part_blocks.back()[0].second);
  if (source.layout == Layout::dense) {
    m.kept = int64_t(source.n_rows) * source.n_cols;
    add_dense(source, m);
  } else {
    plan_.weight_bytes += pack_sparse(source, plan_.request, m, bytes_);
  }
  plan_.macs_per_step += m.kept;
  plan_.matrices.push_back(std::move(m));
}

void PlanBuilder::add_output(MatrixSource source) {
  const int blocks = int(source.row_of.size()) / kRowsPerBlock;
  for (size_t t = 0; plan_.overlapped && t < source.part_blocks.size(); ++t)
    source.part_blocks[t] = {{t == 0 ? 0 : blocks, blocks}};
  add_matrix(source);
}

void PlanBuilder::add_dense(const MatrixSource& source, PackedMatrix& m) {
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
}

void PlanBuilder::add_panel(const MatrixSource& source, const PackedMatrix& m, ColumnRange& range,
                            Panel& panel) {
  const Dtype dtype = plan_.request.dtype;
  panel.offset = round_up(bytes_.size(), size_t(64));
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
  const bool dense = matrix.layout == Layout::dense;
  std::vector<float> out(size_t(n_rows) * n_cols, dense ? std::nanf("") : 0.0f);
  if (!dense) unpack_sparse(plan, matrix, n_cols, out);
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
  WF_CHECK(c.bands == 1 || c.n_classes % 16 == 0, "n_classes ", c.n_classes,
           " must be a multiple of 16 in a model of several bands");
  WF_CHECK(request.threads > 0, "threads ", request.threads, " must be positive");
  if (c.core == Core::embedded) return make_embedded_plan(request, weights);
  return c.core == Core::dual ? make_dual_plan(request, weights)
                              : make_residual_plan(request, weights);
}

namespace {

// "95.0 % zero in blocks of 4x4".
std::string show_blocks(const PackedMatrix& m) {
  const int rows =
      int(std::count_if(m.row_of.begin(), m.row_of.end(), [](int r) { return r >= 0; }));
  const double kept = double(m.kept) / (double(rows) * m.source_cols);
  char text[64];
  std::snprintf(text, sizeof text, "%.1f %% zero in blocks of %s",
                100.0 * std::max(0.0, 1.0 - kept), layout_name(m.layout));
  return text;
}

// What the parts of a matrix multiply: "panels of [96 48] rows", or its blocks.
std::string show_layout(const PackedMatrix& m) {
  std::ostringstream text;
  if (m.layout != Layout::dense) {
    text << show_blocks(m) << ", in panels";
    for (const auto& part : m.sparse_teams.back()) {
      int64_t entries = 0;
      for (const SparsePanel& p : part)
        for (int l = 0; l < p.lists; ++l) entries += p.counts[l];
      text << " [" << part.size() << " with " << entries << " entries]";
    }
    return text.str();
  }
  text << "panels of";
  for (const auto& part : m.ranges[0].parts) {
    text << " [";
    for (size_t i = 0; i < part.size(); ++i)
      text << (i ? " " : "") << kRowsPerBlock * part[i].blocks;
    text << "]";
  }
  text << " rows";
  return text.str();
}

}  // namespace

std::string Plan::describe_sparse() const {
  std::string text;
  for (const PackedMatrix& m : matrices)
    if (m.layout != Layout::dense)
      text += (text.empty() ? "" : ", ") + m.name + " " + show_blocks(m);
  return text;
}

std::string Plan::describe() const {
  std::ostringstream text;
  text << request.config.describe() << "\n"
       << dtype_name(request.dtype) << " weights, " << weight_bytes << " bytes and "
       << macs_per_step << " multiply-adds a " << (request.config.bands > 1 ? "step" : "sample")
       << ", " << request.threads << " thread(s)"
       << (overlapped ? ", output layers beside the next recurrent product" : "") << "\n";
  for (const PackedMatrix& m : matrices)
    text << "  " << m.name << ": " << m.rows << " x " << m.cols << ", " << show_layout(m) << "\n";
  return text.str();
}

}  // namespace wavernn_fast
