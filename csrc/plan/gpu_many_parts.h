// What the planners of many streams of all cores have in common: sizes, the search for the best
// plan, what stages of a sample take, and tiles of packed weights.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/half.h"
#include "common/integers.h"
#include "plan/gpu_many.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {

constexpr int kTileFloats = 128;      // of a lane's share of a tile, all lanes: 512 bytes
constexpr int kArgsWords = 44;        // of KernelArgs; the engine checks it
constexpr int kSlotWords = 8;         // of a Slot
constexpr int kMostStreamTiles = 64;  // of a team
constexpr int kArrivalsFloats = 16;   // of a team that is a cluster: counts of up to 8 messages

// Registers a thread that the compiler needs besides weights and sums. Counted on its reports
// (tests/test_many_compile.py asserts that no plan of the table spills).
// On the newest architectures the loop over the draws of several bands takes more; and everywhere
// that loop beside one over tiles of streams with many sums, and blocks that have many units of
// both halves of the dual core.
inline int many_working_registers(int arch, const Shape& s) {
  if (s.bands > 1 && s.unit_tiles > 1 && s.stream_tiles > 1) return 138;
  const bool many_units = s.unit_tiles > 2 && !s.residual && !s.embedded;
  return (arch < 100 ? 62 : s.bands > 1 ? 100 : 76) + (many_units ? 14 : 0);
}

// The fields that mean the same for every core; `blocks` is set already.
void set_many_shape(Shape& shape, const ManyRequest& request, int stream_tiles);

// Gives out shared memory in the order asked for.
class SharedPlaces {
 public:
  void place(int& field, int64_t floats) {
    field = int(std::min<int64_t>(at_, INT32_MAX));
    at_ += ceil_div(int(std::min<int64_t>(floats, INT32_MAX - 4)), 4) * int64_t(4);
  }
  int bytes() const { return int(std::min<int64_t>(4 * at_, INT32_MAX)); }

 private:
  int64_t at_ = kSharedControl;
};

// Gives out words of the packed weights.
class PackedPlaces {
 public:
  explicit PackedPlaces(const ManyPlan& plan) : plan_(plan) {}
  void place(int& field, int64_t tiles);
  int at() const { return int(at_); }

 private:
  const ManyPlan& plan_;
  int64_t at_ = 0;
};

// What makes a plan of a shape: places of weights and of shared memory, and the model of a sample.
// `matrices` of gates with gru_columns each are kept in registers as far as there is room.
struct ManyCore {
  int matrices;
  void (*lay_out_shared)(ManyPlan&);
  void (*lay_out_weights)(ManyPlan&);
  ManyLatency (*predict)(const ManyPlan&);
};
// Nothing if the device has no room for it.
std::optional<ManyPlan> form_many(const ManyRequest& request, const Shape& shape,
                                  const ManyCore& core);

constexpr double kTileFromL2 = 8.0;    // cycles
constexpr double kBytesOfL1 = 64.0;    // a cycle, to one block
constexpr double kBytesOfL2 = 2560.0;  // a cycle, to all blocks together: plan/gpu.cpp

// Bytes a cycle that each of all blocks reads from L2.
inline double l2_share(const ManyPlan& plan) {
  return std::min(kBytesOfL1, kBytesOfL2 / (plan.teams * plan.shape.blocks));
}

// Cycles of the parts of a sample; docs/many-streams.md says where the figures come from.
class ManyCosts {
 public:
  // `bytes`: of messages that a block reads in a cycle.
  ManyCosts(const ManyPlan& plan, double bytes);
  double pace() const { return pace_; }  // between a warp's instructions
  double rounds(int64_t items) const { return double((items + s_.threads - 1) / s_.threads); }
  // Reading words that are there. In a cluster they are pushed to where they are read, `together`
  // at a time, and it is what comes in that takes time.
  double reading(int64_t words, int together = 4) const {
    return s_.cluster > 1 ? double(words) / together * push_ : double(words) * 4 / bytes_;
  }
  // The trip of a message, and reading all of its words.
  int message(int64_t words, int together = 4) const {
    return int(hop_ + reading(words, together) + 60);
  }
  // A message that is awaited beside so much else to do.
  int message_beside(int64_t words, double work) const {
    return int(std::max(hop_, work) + reading(words) + 60);
  }
  // Sums of all warps, one value a thread and round.
  double meet(int64_t values, int groups) const {
    return 60 + rounds(values) * pace_ * (4 + 3 * groups);
  }
  // Tiles of a layer: shared memory gives one in 4 cycles, L2 in 8, the tensor cores multiply one
  // in 2.
  double layer(int rows, int columns, int place) const;

  // Of cores whose units are dealt as a whole, with `matrices` of gates (many_units.cuh).
  // The same of a layer, with tiles from L2 that wait for those of other blocks.
  double queued_layer(int rows, int columns, int place) const;
  // Gates of own units times one tile of streams: 2 cycles a tile of weights, 4 of those in shared
  // memory.
  double unit_product(int matrices) const;
  // That of all streams for the next step, beside `words` of state that it is multiplied with and
  // `loads` of conditioning a unit and stream, `conditioning` bytes a cycle.
  double ahead(int matrices, int64_t words, int loads, double conditioning) const;
  // The last layer and handing on its logits; drawing, and handing on outcomes.
  int logits(int place) const;
  int draw() const;

 private:
  const Shape& s_;
  double bytes_, hop_, push_, pace_;
};

// Areas of activations, as areas() in the kernel.
inline int areas(const Shape& s) { return s.cluster == 1 ? 1 : s.residual ? 4 : 2; }

// Streams whose logits a block has, as drawn_here() in the kernel of the block with most.
inline int streams_drawn(const Shape& s) {
  return s.draw_apart ? ceil_div(s.streams, s.blocks) : s.streams;
}

// Errors of a request whatever the core; `tiles` of units that blocks are dealt.
void check_many_request(const ManyRequest& request, int tiles, const char* what);

// Of the plans that `plan_of(unit tiles a block, stream tiles a team)` has, better ones first: that
// with enough slots, then that of least time for a sample, or of most samples.
bool is_better(const ManyRequest& request, const ManyPlan& a, const ManyPlan& b);
template <class PlanOf>
void find_best(const ManyRequest& request, int tiles, std::optional<ManyPlan>& best,
               const PlanOf& plan_of) {
  const int wanted = request.gpu.cluster > 1 ? request.gpu.cluster : request.gpu.blocks;
  for (int unit_tiles = 1; unit_tiles <= tiles; ++unit_tiles) {
    const int blocks = ceil_div(tiles, unit_tiles);
    // Only the last block may have fewer, so that no other number of tiles gives as many blocks.
    if (wanted ? blocks != wanted : ceil_div(tiles, blocks) != unit_tiles) continue;
    for (int stream_tiles = 1; stream_tiles <= kMostStreamTiles; ++stream_tiles) {
      const std::optional<ManyPlan> plan = plan_of(unit_tiles, stream_tiles);
      if (!plan) break;  // more streams need more of everything
      if (!best || is_better(request, *plan, *best)) best = plan;
    }
  }
}

[[noreturn]] void does_not_fit_many(const ManyRequest& request, int tiles);

// The first line of a description behind the model's, without its end.
std::string describe_teams(const ManyPlan& plan);
// The last lines.
std::string describe_prediction(const ManyPlan& plan);

// --- packed tiles --------------------------------------------------------------------------------

// Columns [begin, begin + count) of a group of warps: columns_of in the kernel.
struct ManyColumns {
  int begin, count;
};
ManyColumns many_columns(int tiles, int groups, int group, bool from_end);

// Visits the weights of a tile: visit(word, in its high half, row, column), from 0 in the tile.
template <class Visit>
void walk_tile(int64_t at, const Visit& visit) {
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      for (int e = 0; e < 2; ++e)
        visit(at + 4 * lane + i, e, lane / 4 + 8 * (i % 2), lane % 4 * 2 + 8 * (i / 2) + e);
}

// Visits the weights of matrix `matrix` of the `matrices` of gates of a core whose units are dealt
// as a whole, [block][warp][matrix][tile of columns][reset, update, candidate][tile of units]:
// visit(word, half of it, canonical row, canonical column).
template <class Visit>
void walk_units(const Shape& s, int matrices, int matrix, const Visit& visit) {
  const int units = 16 * s.unit_tiles, rows = 3 * s.unit_tiles;
  const int64_t of_matrix = int64_t(s.gru_columns) * rows * kTileFloats;
  for (int block = 0; block < s.blocks; ++block)
    for (int warp = 0; warp < s.warps; ++warp) {
      const ManyColumns own = many_columns(s.hidden_tiles, s.warps, warp, false);
      const int64_t from =
          s.gru_at + ((int64_t(block) * s.warps + warp) * matrices + matrix) * of_matrix;
      for (int column = 0; column < own.count; ++column)
        for (int m = 0; m < rows; ++m)
          walk_tile(from + (int64_t(column) * rows + m) * kTileFloats, [&](int64_t word, int e,
                                                                           int row, int col) {
            const int unit = block * units + m % s.unit_tiles * 16 + row;
            if (unit < s.hidden)
              visit(word, e, m / s.unit_tiles * s.hidden + unit, 16 * (own.begin + column) + col);
          });
    }
}

// An output layer as packed: [block][tile of rows][tile of columns].
struct ManyLayer {
  const char* name;
  int rows, cols;    // canonical
  int dealt, tiles;  // rows of a block, and their tiles
  int column_tiles, at;
  int blocks;
  int stride;  // columns of its tensor
};
template <class Visit>
void walk_layer(const ManyLayer& layer, const Visit& visit) {
  int64_t at = layer.at;
  for (int block = 0; block < layer.blocks; ++block)
    for (int m = 0; m < layer.tiles; ++m)
      for (int k = 0; k < layer.column_tiles; ++k, at += kTileFloats)
        walk_tile(at, [&](int64_t word, int e, int row, int col) {
          const int in_block = 16 * m + row, canonical = block * layer.dealt + in_block;
          if (in_block < layer.dealt && canonical < layer.rows && 16 * k + col < layer.cols)
            visit(word, e, canonical, 16 * k + col);
        });
}

// Visitors that pack weights `w`, `stride` to a row, or add packed ones to `out`, `cols` to a row:
// a weight that stands in two places is seen to be wrong.
inline auto put_halves(std::vector<uint32_t>& out, const float* w, int stride, std::string name) {
  return [&out, w, stride, name = std::move(name)](int64_t word, int e, int row, int col) {
    out[size_t(word)] |= uint32_t(checked_fp16(w[int64_t(row) * stride + col], name)) << 16 * e;
  };
}
inline auto take_halves(const std::vector<uint32_t>& packed, std::vector<float>& out, int rows,
                        int cols) {
  out.assign(size_t(rows) * size_t(cols), 0.0f);
  return [&packed, &out, cols](int64_t word, int e, int row, int col) {
    out[size_t(int64_t(row) * cols + col)] += from_fp16(uint16_t(packed[size_t(word)] >> 16 * e));
  };
}

// Layers "name.weight" to where they are packed; and the one of that name back.
void put_layers(const std::vector<ManyLayer>& layers, const CanonicalWeights& weights,
                std::vector<uint32_t>& out);
std::vector<float> take_layer(const std::vector<ManyLayer>& layers,
                              const std::vector<uint32_t>& packed, const std::string& name);

}  // namespace wavernn_fast::gpu
