// From canonical weights to bytes in the order the kernels read them.
//
// A request says what is wanted, a Plan is the packed result; both print themselves. Plans are
// never saved: they are a function of weights and device.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/aligned.h"
#include "common/config.h"
#include "model/weights.h"
#include "plan/blocks.h"
#include "plan/sparse_format.h"

namespace wavernn_fast {

// How weights are kept. int8 and int8_fast pack alike; they differ in the bits of activations.
enum class Dtype { fp32, fp16, bf16, int8, int8_fast };

inline constexpr int kDtypes = 5;

inline bool is_int8(Dtype dtype) { return dtype == Dtype::int8 || dtype == Dtype::int8_fast; }

const char* dtype_name(Dtype dtype);
Dtype dtype_from_name(const std::string& name);
size_t dtype_bytes(Dtype dtype);

inline constexpr int kRowsPerBlock = 16;
inline constexpr int kColumnMultiple = 16;  // inputs are read, and quantised, 16 at a time

struct PlanRequest {
  ModelConfig config;
  Dtype dtype = Dtype::fp32;
  int threads = 1;           // parts that every matrix is dealt into
  int max_panel_blocks = 6;  // 16-row blocks one kernel call keeps in registers
  // How matrices are laid out; nothing: each as it is fastest (Layout::dense: none is sparse).
  std::optional<Layout> layout = {};
  int sparse_lists = kMaxSparseLists;  // lists side by side in a panel
};

// Rows [16 * block, 16 * (block + blocks)) of a packed matrix.
// Bytes, for the columns of its range: [cols][blocks * 16] weights; int8:
// [cols / 4][blocks * 16][4].
struct Panel {
  int block;
  int blocks;
  size_t offset;  // bytes into Plan::blob
};

// Columns [first, first + cols) of a packed matrix, which one product takes at a time.
struct ColumnRange {
  int first, cols;
  std::vector<std::vector<Panel>> parts;  // [threads]
  AlignedBuffer<int32_t> row_sum;         // [rows], int8: 64 * sum of these columns' integers
};

// One packed matrix. Rows are reordered: packed row i holds canonical row `row_of[i]` (-1: zero
// padding), so that all three gates of 16 GRU units stand together.
struct PackedMatrix {
  std::string name;
  int rows = 0;  // packed, multiple of 16
  int cols = 0;  // packed, multiple of 16
  int source_cols = 0;
  std::vector<int> row_of;
  std::vector<ColumnRange> ranges;  // most matrices have one; none where `layout` is not dense
  Layout layout = Layout::dense;
  // [team sizes][members]: a panel is all the more even the more lists it is chosen from, so every
  // team has panels of its own.
  std::vector<std::vector<std::vector<SparsePanel>>> sparse_teams;
  int64_t kept = 0;           // weights in blocks, or all
  std::vector<int> edges;     // [threads + 1] 16-row blocks of each part, where dealt in one run
  AlignedBuffer<float> bias;  // [rows]
  AlignedBuffer<float> row_scale;  // [rows], int8
};

// Which units of a GRU each part updates, [ranges][threads + 1]: in range i those of 16-unit blocks
// [edges[i][part], edges[i][part + 1]).
using UnitEdges = std::vector<std::vector<int>>;

struct Plan {
  PlanRequest request;
  std::vector<PackedMatrix> matrices;         // in the order the step reads them
  std::vector<AlignedBuffer<float>> vectors;  // core-specific, see the header of its plan
  AlignedBuffer<uint8_t> blob;
  size_t weight_bytes = 0;  // read per step at batch 1
  int64_t macs_per_step = 0;
  // Whether member 0 of a team runs the output layers alone while the others already multiply the
  // recurrent matrix for the next sample (docs/architecture.md); rows are dealt to suit.
  bool overlapped = false;
  UnitEdges unit_edges;
  std::string describe() const;
  std::string describe_sparse() const;  // empty where all matrices are dense
};

// Splits `n` blocks into contiguous shares, as even as possible: first block of part `part`.
int part_begin(int n, int parts, int part);

// How many of so many threads a slice may be given to, in order: 1, 2, 4, ... and all. Member i of
// a team of n has the parts [part_begin(threads, n, i), part_begin(threads, n, i + 1)).
std::vector<int> team_sizes(int threads);

// What a matrix is made of before packing; `weight` is [n_rows][n_cols] with row stride `stride`.
struct MatrixSource {
  std::string name;
  const float* weight;
  int n_rows, n_cols, stride;
  const float* bias;                                          // [n_rows] or null
  float padded_bias = 0.0f;                                   // of rows that pad the last block
  std::vector<int> row_of;                                    // packed row order, -1 for padding
  std::vector<std::vector<std::pair<int, int>>> part_blocks;  // [threads] block ranges
  std::vector<int> column_edges;  // where further column ranges begin, each a multiple of 16
  Layout layout = Layout::dense;
};

// Packed rows in canonical order, padded to a multiple of 16, dealt so that the parts take equally
// long.
MatrixSource plain_source(std::string name, const float* weight, int n_rows, int n_cols, int stride,
                          const float* bias, const PlanRequest& request);
// A [3 * units] x [n_cols] gate matrix: packed in groups of 48 rows, 16 reset, 16 update and 16
// candidate rows of the same units. To be dealt.
MatrixSource gate_source(std::string name, const float* weight, int units, int n_cols, int stride,
                         const float* bias, const PlanRequest& request);
// Units in `ranges` equal ranges, each dealt so that the parts take equally long over `gates`.
UnitEdges deal_units(const std::vector<const MatrixSource*>& gates, int ranges, int threads);
// Gives every part of a gate matrix the whole groups of its units.
void set_units(MatrixSource& source, const UnitEdges& edges);

// Deals the rows of `gates` for an overlapped plan. They are multiplied in `stretches` equal pieces
// a sample; in each, member 0 also does `alone` multiply-adds of output layers, and is to be ready
// with the others. False, and nothing changed, for other teams than 2 to kMostOverlapped members,
// where `alone` is more than a member's share, or for a sparse matrix: its rows are multiplied
// once.
inline constexpr int kMostOverlapped = 4;
bool deal_overlapped(std::vector<MatrixSource*> gates, int stretches, int64_t alone,
                     const PlanRequest& request);

class PlanBuilder {
 public:
  explicit PlanBuilder(const PlanRequest& request);
  void set_overlapped(bool overlapped) { plan_.overlapped = overlapped; }
  void set_unit_edges(UnitEdges edges) { plan_.unit_edges = std::move(edges); }
  void add_matrix(const MatrixSource& source);
  // An output layer. In an overlapped plan member 0 has it alone: fewer, wider panels.
  void add_output(MatrixSource source);
  // A copy of `count` floats, zero padded to a multiple of 16.
  void add_vector(const float* data, int count);
  Plan finish();

 private:
  void add_dense(const MatrixSource& source, PackedMatrix& m);
  void add_panel(const MatrixSource& source, const PackedMatrix& m, ColumnRange& range,
                 Panel& panel);
  Plan plan_;
  std::vector<uint8_t> bytes_;
};

// The whole matrix back in canonical row order, [n_rows][n_cols] (int8: scale * integer).
std::vector<float> unpack(const Plan& plan, const PackedMatrix& matrix, int n_rows, int n_cols);

// One function per core says which matrices and vectors a plan holds.
Plan make_dual_plan(const PlanRequest& request, const CanonicalWeights& weights);
Plan make_residual_plan(const PlanRequest& request, const CanonicalWeights& weights);
Plan make_embedded_plan(const PlanRequest& request, const CanonicalWeights& weights);
Plan make_plan(const PlanRequest& request, const CanonicalWeights& weights);

}  // namespace wavernn_fast
