#include "plan/sparse.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/error.h"
#include "common/integers.h"
#include "plan/weight_format.h"

namespace wavernn_fast {
namespace {

// Where row and column of a block stand in its entry, and how large things are.
struct Entry {
  BlockShape shape;
  int rows;     // of a list
  int columns;  // numbers that say where an entry reads
  int weights;
  bool four_columns;  // rows16 in int8: any four columns share an entry
};

Entry entry_of(Layout layout, Dtype dtype) {
  const bool four = layout == Layout::rows16 && is_int8(dtype);
  const BlockShape shape = block_shape(layout);
  if (layout == Layout::single) return {shape, 16, 16, 16, false};
  return {shape, shape.rows, four ? 4 : 1, shape.weights() * (four ? 4 : 1), four};
}

// The rows of one list and, for each entry, where its columns are.
struct List {
  std::vector<int> rows;     // packed, [rows of a list]
  std::vector<int> columns;  // [entries][columns of an entry]; -1 for none
};

// Rows of a part in lists of 16, each row with columns of its own.
std::vector<List> single_lists(const BlockMap& map, const std::vector<int>& rows) {
  std::vector<int> order = rows;
  const auto entries = [&](int row) { return int(map.columns[row].size()); };
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return entries(a) > entries(b); });
  std::vector<List> lists;
  for (size_t i = 0; i < order.size(); i += 16) {
    List list;
    list.rows.assign(order.begin() + i, order.begin() + i + 16);
    for (int e = 0; e < entries(order[i]); ++e) {
      for (int row : list.rows) {
        list.columns.push_back(e < entries(row) ? map.columns[row][e] : -1);
      }
    }
    lists.push_back(std::move(list));
  }
  return lists;
}

std::vector<List> block_lists(const BlockMap& map, const std::vector<int>& rows, const Entry& e) {
  std::vector<List> lists;
  for (size_t i = 0; i < rows.size(); i += e.rows) {
    List list{{rows.begin() + i, rows.begin() + i + e.rows}, map.columns[rows[i] / e.rows]};
    while (list.columns.size() % e.columns != 0) list.columns.push_back(-1);
    lists.push_back(std::move(list));
  }
  // Of one length, lists of one gate side by side: kernels do more for candidates
  // (SparseArgs::rest).
  const auto gate = [](const List& list) { return list.rows[0] / kRowsPerBlock % 3; };
  std::stable_sort(lists.begin(), lists.end(), [&](const List& a, const List& b) {
    if (a.columns.size() != b.columns.size()) return a.columns.size() > b.columns.size();
    return gate(a) < gate(b);
  });
  return lists;
}

class Packer {
 public:
  Packer(const MatrixSource& source, const PlanRequest& request, PackedMatrix& m,
         std::vector<uint8_t>& bytes)
      : source_(source),
        dtype_(request.dtype),
        width_(request.sparse_lists),
        entry_(entry_of(source.layout, request.dtype)),
        m_(m),
        bytes_(bytes) {}

  size_t pack() {
    size_t before = 0;  // the team of all threads
    const int rows = int(source_.row_of.size());
    const BlockMap map = find_blocks(source_.weight, rows, source_.n_cols, source_.stride,
                                     entry_.shape, source_.row_of);
    m_.kept = weights_in(map);
    const int threads = int(source_.part_blocks.size());
    for (int members : team_sizes(threads)) {
      before = bytes_.size();
      auto& team = m_.sparse_teams.emplace_back();
      for (int i = 0; i < members; ++i)
        team.push_back(panels(
            map, rows_of(part_begin(threads, members, i), part_begin(threads, members, i + 1))));
    }
    return bytes_.size() - before;
  }

 private:
  std::vector<int> rows_of(int first_part, int last_part) const {
    std::vector<int> rows;
    for (int part = first_part; part < last_part; ++part)
      for (const auto& [begin, end] : source_.part_blocks[part])
        for (int r = kRowsPerBlock * begin; r < kRowsPerBlock * end; ++r) rows.push_back(r);
    return rows;
  }

  std::vector<SparsePanel> panels(const BlockMap& map, const std::vector<int>& rows) {
    const std::vector<List> lists =
        source_.layout == Layout::single ? single_lists(map, rows) : block_lists(map, rows, entry_);
    std::vector<SparsePanel> made;
    for (size_t i = 0; i < lists.size(); i += width_)
      made.push_back(
          panel({lists.begin() + i, lists.begin() + std::min(lists.size(), i + width_)}));
    return made;
  }

  size_t reserve(size_t size) {
    const size_t offset = round_up(bytes_.size(), size_t(64));
    bytes_.resize(offset + size);
    return offset;
  }
  template <class T>
  T* at(size_t offset) {
    return reinterpret_cast<T*>(bytes_.data() + offset);
  }

  SparsePanel panel(const std::vector<List>& lists) {
    SparsePanel p{};
    const size_t n = width_, each = n * entry_.rows;
    p.lists = int(lists.size());
    for (int l = 0; l < p.lists; ++l) {
      p.counts[l] = int(lists[l].columns.size()) / entry_.columns;
      p.count = std::max(p.count, p.counts[l]);
    }
    const bool scattered = source_.layout == Layout::single;
    p.rows = reserve(4 * (scattered ? each : n));
    p.bias = reserve(4 * each);
    p.scale = is_int8(dtype_) ? reserve(4 * each) : 0;
    p.sum = is_int8(dtype_) ? reserve(4 * each) : 0;
    p.columns = reserve(2 * n * p.count * entry_.columns);
    p.weights = reserve(n * p.count * entry_.weights * dtype_bytes(dtype_));
    for (int l = 0; l < p.lists; ++l) {
      for (int r = 0; r < entry_.rows; ++r) {
        const int row = lists[l].rows[r];
        if (scattered || r == 0) at<int32_t>(p.rows)[scattered ? l * 16 + r : l] = row;
        at<float>(p.bias)[l * entry_.rows + r] = m_.bias[row];
        if (is_int8(dtype_)) at<float>(p.scale)[l * entry_.rows + r] = m_.row_scale[row];
      }
      for (int j = 0; j < p.counts[l]; ++j) put_entry(p, lists[l], l, j);
      pad_columns(p, l);
    }
    return p;
  }

  // Weights of padding are zero; an input that is not finite would make NaN of them. So padding
  // reads what the list reads anyway.
  void pad_columns(const SparsePanel& p, int l) {
    auto* columns = at<uint16_t>(p.columns);
    const size_t each = entry_.columns, step = size_t(width_) * each;
    for (int j = std::max(1, p.counts[l]); j < p.count; ++j)
      for (size_t i = 0; i < each; ++i)
        columns[j * step + l * each + i] = columns[(j - 1) * step + l * each + i];
  }

  // Of blocks that reach over the edge only what lies in the matrix.
  int64_t weights_in(const BlockMap& map) const {
    int64_t kept = 0;
    for (int block = 0; block < int(map.columns.size()); ++block) {
      int64_t rows = 0;
      for (int r = block * map.shape.rows; r < (block + 1) * map.shape.rows; ++r)
        rows += r < map.n_rows && source_.row_of[r] >= 0;
      for (int column : map.columns[block])
        kept += rows * std::min(map.shape.cols, map.n_cols - column);
    }
    return kept;
  }

  void put_entry(const SparsePanel& p, const List& list, int l, int j) {
    const int* columns = list.columns.data() + size_t(j) * entry_.columns;
    const size_t index = size_t(j) * width_ + l, before = index - width_;
    auto* stored = at<uint16_t>(p.columns);
    for (int i = 0; i < entry_.columns; ++i) {
      // No column: that of the entry before, for the same reason as in pad_columns.
      const int same = j > 0 ? stored[before * entry_.columns + i] : columns[0];
      stored[index * entry_.columns + i] =
          uint16_t(columns[i] >= 0 ? columns[i] : std::max(0, same));
    }
    for (int r = 0; r < entry_.rows; ++r) {
      for (int c = 0; c < entry_.weights / entry_.rows; ++c) {
        const int column =
            entry_.columns == 1 ? columns[0] + c : columns[entry_.four_columns ? c : r];
        if (column >= 0) put(p, index, l, r, c, list.rows[r], column);
      }
    }
  }

  void put(const SparsePanel& p, size_t index, int l, int r, int c, int row, int column) {
    const int source_row = m_.row_of[row];
    if (source_row < 0 || column >= source_.n_cols) return;
    const size_t place = index * entry_.weights + r * (entry_.weights / entry_.rows) + c;
    uint8_t* w = bytes_.data() + p.weights + place * dtype_bytes(dtype_);
    put_weight(dtype_, source_.weight[size_t(source_row) * source_.stride + column],
               m_.row_scale[row], w);
    if (is_int8(dtype_))
      at<int32_t>(p.sum)[l * entry_.rows + r] += 64 * *reinterpret_cast<int8_t*>(w);
  }

  const MatrixSource& source_;
  const Dtype dtype_;
  const int width_;
  const Entry entry_;
  PackedMatrix& m_;
  std::vector<uint8_t>& bytes_;
};

// Nanoseconds of a product of one stream on a core with AVX-512 VNNI at 3.7 GHz, weights in the
// second-level cache: `wavernn-fast bench --matvec`. Only ratios matter.
struct Cost {
  double entry;     // rows16 in int8: a column
  double list = 0;  // its begin and end
};
Cost cost_of(Layout layout, Dtype dtype) {
  const double entries[kDtypes][kLayouts] = {
      // dense, 16 weights; 16x1, 4x4, 8x4, 1x1
      {0.50, 0.57, 0.57, 0, 3.0},   // fp32
      {0.56, 0.55, 0.55, 0, 3.0},   // fp16
      {0.60, 0.62, 0.62, 0, 3.0},   // bf16
      {0.16, 0.66, 0.60, 0.75, 0},  // int8
      {0.13, 0.40, 0.38, 0.52, 0},  // int8_fast
  };
  return {entries[int(dtype)][int(layout)], layout == Layout::dense ? 0 : 1.0};
}

double cost(const MatrixSource& source, Layout layout, const PlanRequest& request) {
  const Cost cost = cost_of(layout, request.dtype);
  const int rows = int(source.row_of.size());
  if (layout == Layout::dense) return cost.entry * rows * source.n_cols / 16;
  const BlockMap map = find_blocks(source.weight, rows, source.n_cols, source.stride,
                                   block_shape(layout), source.row_of);
  const double shared = layout == Layout::single ? 16 : 1;  // rows of a list, blocks of an entry
  return (cost.entry * double(map.count()) + cost.list * double(map.columns.size())) / shared;
}

bool offered(Layout layout, Dtype dtype) {
  if (layout == Layout::tile8x4) return is_int8(dtype);
  return layout != Layout::single || !is_int8(dtype);
}

}  // namespace

std::optional<Layout> layout_from_name(const std::string& name) {
  if (name == "auto") return {};
  for (Layout layout :
       {Layout::dense, Layout::rows16, Layout::tile4x4, Layout::tile8x4, Layout::single})
    if (name == layout_name(layout)) return layout;
  fail("sparse ", name, " is not known; use auto, off, 16x1, 4x4, 8x4 or 1x1");
}

const char* layout_name(Layout layout) {
  const char* names[] = {"off", "16x1", "4x4", "8x4", "1x1"};
  return names[int(layout)];
}

BlockShape block_shape(Layout layout) {
  const BlockShape shapes[] = {{1, 1}, {16, 1}, {4, 4}, {8, 4}, {1, 1}};
  return shapes[int(layout)];
}

Layout choose_layout(const MatrixSource& source, const PlanRequest& request) {
  constexpr int kMostColumns = 1 << 16;
  constexpr double kLeastGain = 0.6;  // of a dense product: batches gain less
  if (request.layout) {
    const Layout layout = *request.layout;
    WF_CHECK(layout == Layout::dense || offered(layout, request.dtype), layout_name(layout),
             " blocks are not kept as ", dtype_name(request.dtype), "; use ",
             is_int8(request.dtype) ? "16x1, 4x4 or 8x4" : "16x1, 4x4 or 1x1");
    WF_CHECK(layout == Layout::dense || source.n_cols <= kMostColumns, source.name, " has ",
             source.n_cols, " columns; sparse products take up to ", kMostColumns);
    return layout;
  }
  Layout best = Layout::dense;
  if (source.n_cols > kMostColumns) return best;
  // With more weights than that no layout gains enough: a dense model is looked through but once.
  const std::vector<int64_t> weights = weights_by_block(source);
  const int64_t all = int64_t(source.n_rows) * source.n_cols;
  if (std::accumulate(weights.begin(), weights.end(), int64_t(0)) * 3 > all * 2) return best;
  double lowest = kLeastGain * cost(source, best, request);
  for (Layout layout : {Layout::rows16, Layout::tile4x4, Layout::tile8x4, Layout::single}) {
    if (!offered(layout, request.dtype)) continue;
    const double this_cost = cost(source, layout, request);
    if (this_cost < lowest) {
      lowest = this_cost;
      best = layout;
    }
  }
  return best;
}

std::vector<int64_t> weights_by_block(const MatrixSource& source) {
  std::vector<int64_t> counts(source.row_of.size() / kRowsPerBlock);
  for (size_t r = 0; r < source.row_of.size(); ++r) {
    if (source.row_of[r] < 0) continue;
    const float* row = source.weight + size_t(source.row_of[r]) * source.stride;
    for (int k = 0; k < source.n_cols; ++k) counts[r / kRowsPerBlock] += row[k] != 0.0f;
  }
  return counts;
}

std::vector<int> deal_by_work(const std::vector<int64_t>& work, int parts) {
  const int64_t total = std::accumulate(work.begin(), work.end(), int64_t(0));
  std::vector<int> edges{0};
  int64_t before = 0;
  int i = 0;
  for (int part = 1; part < parts; ++part) {
    // A block goes to the part in which more than half of it lies.
    while (i < int(work.size()) && (2 * before + work[i]) * parts <= 2 * total * part)
      before += work[i++];
    edges.push_back(i);
  }
  edges.push_back(int(work.size()));
  return edges;
}

size_t pack_sparse(const MatrixSource& source, const PlanRequest& request, PackedMatrix& m,
                   std::vector<uint8_t>& bytes) {
  return Packer(source, request, m, bytes).pack();
}

void unpack_sparse(const Plan& plan, const PackedMatrix& m, int n_cols, std::vector<float>& out) {
  const Dtype dtype = plan.request.dtype;
  const Entry e = entry_of(m.layout, dtype);
  const int width = plan.request.sparse_lists, each = e.weights / e.rows;
  const bool scattered = m.layout == Layout::single;
  for (const auto& part : m.sparse_teams.back()) {
    for (const SparsePanel& p : part) {
      const auto* rows = reinterpret_cast<const int32_t*>(&plan.blob[p.rows]);
      const auto* columns = reinterpret_cast<const uint16_t*>(&plan.blob[p.columns]);
      for (int i = 0; i < p.count * width * e.weights; ++i) {
        const int index = i / e.weights, l = index % width, r = i % e.weights / each, c = i % each;
        if (l >= p.lists || index / width >= p.counts[l]) continue;
        const int row = scattered ? rows[l * 16 + r] : rows[l] + r;
        if (m.row_of[row] < 0) continue;
        const int own = e.columns == 1 ? 0 : e.four_columns ? c : r;
        const int column = columns[index * e.columns + own] + (e.columns == 1 ? c : 0);
        if (column < n_cols)
          out[size_t(m.row_of[row]) * n_cols + column] +=
              get_weight(dtype, m.row_scale[row], &plan.blob[p.weights + i * dtype_bytes(dtype)]);
      }
    }
  }
}

}  // namespace wavernn_fast
