#include "plan/gpu_many_embedded.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_many_parts.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kMatrices = 1;  // R

// Where both layers are, and whether a label is drawn by one block or by every block.
struct Outputs {
  Place fc1, fc2;
  bool draw_apart;
};

int64_t table_words(const Shape& s) { return int64_t(3) * s.hidden * s.choices; }

Shape make_shape(const ManyRequest& request, int unit_tiles, int stream_tiles, Outputs outputs) {
  const ModelConfig& c = request.gpu.config;
  Shape s;
  s.embedded = 1;
  s.hidden_tiles = c.hidden_size / 16;
  s.unit_tiles = unit_tiles;
  s.blocks = ceil_div(s.hidden_tiles, unit_tiles);
  set_many_shape(s, request, stream_tiles);
  s.fc = round_up(c.fc_size, 2);  // biases stand before those of fc2, rows of the table go in pairs
  s.draw_apart = outputs.draw_apart && s.blocks > 1;
  set_draw_shape(s, c);
  s.fc1_place = outputs.fc1;
  s.fc2_place = outputs.fc2;
  s.fc1_tiles = ceil_div(s.fc_tiles, s.blocks);
  s.fc2_rows = ceil_div(s.choice_words, s.blocks);
  s.fc2_tiles = ceil_div(s.fc2_rows, 16);
  s.gru_columns = ceil_div(s.hidden_tiles, s.warps);
  s.gate_rounds = ceil_div(48 * unit_tiles * (request.split ? 4 : 8), s.threads);
  if (s.cluster == 1)
    s.buffer_words =
        s.stream_tiles * 64 * (s.hidden_tiles + s.fc_tiles) + s.streams * (s.choice_words + 2);
  // 4 more than a multiple of 32: a warp reads 8 streams at once, from all banks.
  s.column_words = round_up(8 * std::max(s.hidden_tiles, s.fc_tiles), 32) + 4;
  return s;
}

void lay_out_weights(ManyPlan& plan) {
  Shape& s = plan.shape;
  PackedPlaces places(plan);
  places.place(s.gru_at, int64_t(s.blocks) * 3 * s.unit_tiles * s.gru_columns * s.warps);
  places.place(s.fc1_at, int64_t(s.blocks) * s.fc1_tiles * s.hidden_tiles);
  places.place(s.fc2_at, int64_t(s.blocks) * s.fc2_tiles * s.fc_tiles);
  plan.resident_bytes = 4 * int64_t(places.at());
  s.inner_bias_at = places.at();
  s.fc_bias_at = s.inner_bias_at + s.hidden;
  s.table_at = s.fc_bias_at + s.fc + s.classes;
  plan.packed_words = s.table_at + table_words(s);
  WF_CHECK(plan.packed_words < INT32_MAX / 2, "The packed weights of ",
           plan.request.gpu.config.describe(), " exceed 2^30 words.");
}

// Tiles of the layers that a block keeps in shared memory.
int kept_tiles(const Shape& s) {
  return (s.fc1_place == kInShared ? s.fc1_tiles * s.hidden_tiles : 0) +
         (s.fc2_place == kInShared ? s.fc2_tiles * s.fc_tiles : 0);
}

// Warps of a block that draw: see draw_outcomes in the kernel.
int drawing_warps(const Shape& s) { return std::min(s.warps, streams_drawn(s)); }

void lay_out_shared(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int units = 16 * s.unit_tiles;
  SharedPlaces shared;
  shared.place(s.shared_slots, int64_t(kSlotWords) * s.streams);
  shared.place(s.shared_slot_args, int64_t(kArgsWords) * s.streams);
  shared.place(s.shared_inputs, int64_t(4) * s.streams);
  shared.place(s.shared_chance, int64_t(64) * s.streams);
  shared.place(s.shared_inner_bias, units);
  shared.place(s.shared_biases, 16 * (s.fc1_tiles + s.fc2_tiles));
  shared.place(s.shared_hidden, int64_t(units) * s.streams);
  shared.place(s.shared_pre, int64_t(4) * units * s.streams);
  // Draws are where activations were: the logits of every warp that draws. In a cluster, where
  // peers write into both, those of every stream that the block draws for are apart.
  const int64_t columns = int64_t(areas(s)) * 8 * s.stream_tiles * s.column_words;
  if (s.cluster > 1) {
    shared.place(s.shared_columns, columns);
    shared.place(s.shared_arrivals, kArrivalsFloats);
    shared.place(s.shared_logits, int64_t(streams_drawn(s)) * s.choice_words);
  } else {
    shared.place(s.shared_columns, std::max(columns, int64_t(drawing_warps(s)) * s.choice_words));
    s.shared_logits = s.shared_columns;
  }
  // Products of R by turns in two places.
  const int turns = s.stream_tiles > 1 ? 2 : 1;
  shared.place(s.shared_sums, int64_t(kTileFloats) * s.warps *
                                  std::max(turns * 3 * s.unit_tiles,
                                           s.stream_tiles * std::max(s.fc1_tiles, s.fc2_tiles)));
  shared.place(s.shared_weights, int64_t(kTileFloats) * kept_tiles(s));
  shared.place(s.shared_gru,
               int64_t(kTileFloats) * 3 * s.unit_tiles * (s.gru_columns - s.gru_kept) * s.warps);
  plan.shared_bytes = shared.bytes();
}

// --- the model of a sample --------------------------------------------------------------------

// As of the residual core (plan/gpu_many_residual.cpp), and rows of the table: every stream has one
// that nobody knows before the draw, from L2, or from memory where the table and what is read of
// weights leave no room for it there.
ManyLatency predict(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  const double bytes = l2_share(plan);
  const ManyCosts costs(plan, bytes);
  const int64_t pairs = int64_t(8) * s.unit_tiles * s.streams;  // of units, whose gates a block has
  const int64_t state = int64_t(64) * s.hidden_tiles * s.stream_tiles;  // words of a message
  const int64_t hidden = int64_t(64) * s.fc_tiles * s.stream_tiles;
  const int64_t of_tables = 4 * table_words(s) + plan.resident_bytes;
  const int row = of_tables <= plan.request.gpu.limits.l2_bytes ? 320 : 800;
  ManyLatency l;
  l.stretches = 1;
  l.gates = int(100 + costs.rounds(pairs) * 150 * costs.pace() + costs.rounds(pairs) * row +
                double(pairs) * 6 * 4 / bytes);
  l.hidden = costs.message(state);
  l.y = int(costs.queued_layer(s.fc1_tiles, s.hidden_tiles, s.fc1_place)) +
        costs.message_beside(hidden, costs.ahead(kMatrices, 0, 3, bytes));
  l.logits = costs.logits(s.fc2_place);
  l.draw = costs.draw();
  l.advance = 100;
  return l;
}

std::optional<ManyPlan> plan_of(const ManyRequest& request, int unit_tiles, int stream_tiles,
                                const Outputs& outputs) {
  return form_many(request, make_shape(request, unit_tiles, stream_tiles, outputs),
                   {kMatrices, lay_out_shared, lay_out_weights, predict});
}

// Of both ways to draw the faster one; for many labels there may be room for one block's draws
// only.
std::optional<ManyPlan> faster_of(const ManyRequest& request, int unit_tiles, int stream_tiles,
                                  Place fc1, Place fc2) {
  std::optional<ManyPlan> all = plan_of(request, unit_tiles, stream_tiles, {fc1, fc2, false});
  std::optional<ManyPlan> one = plan_of(request, unit_tiles, stream_tiles, {fc1, fc2, true});
  if (!all || !one) return all ? all : one;
  return one->latency.total() < all->latency.total() ? one : all;
}

void check_config(const ModelConfig& c) {
  check_embedded_model(c);
  WF_CHECK(c.hidden_size % 16 == 0, "hidden_size is ", c.hidden_size,
           ", many streams side by side need a multiple of 16");
}

}  // namespace

ManyPlan choose_many_embedded_plan(const ManyRequest& request) {
  const ModelConfig& c = request.gpu.config;
  check_config(c);
  const int tiles = c.hidden_size / 16;
  check_many_request(request, tiles, "the GRU");
  constexpr Place S = kInShared, L = kInL2;
  constexpr Place kPlaces[][2] = {{S, S}, {S, L}, {L, S}, {L, L}};
  std::optional<ManyPlan> best;
  for (const auto& place : kPlaces)
    find_best(request, tiles, best, [&](int unit_tiles, int stream_tiles) {
      return faster_of(request, unit_tiles, stream_tiles, place[0], place[1]);
    });
  if (!best) does_not_fit_many(request, tiles);
  return *best;
}

ManyPlan embedded_with_stream_tiles(const ManyPlan& plan, int stream_tiles) {
  const Shape& s = plan.shape;
  return faster_of(plan.request, s.unit_tiles, stream_tiles, Place(s.fc1_place), Place(s.fc2_place))
      .value();
}

std::string describe_many_embedded(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  std::ostringstream out;
  out << describe_teams(plan) << "a block: " << 16 * s.unit_tiles << " units, " << 16 * s.fc1_tiles
      << " rows of fc1, " << s.fc2_rows << " of fc2; "
      << (s.draw_apart ? "a block draws for a stream\n" : "every block draws\n")
      << "R: " << s.gru_kept << " of " << s.gru_columns << " tiles of columns a warp in registers"
      << (s.fc1_place == kInL2 ? "; fc1 in L2" : "") << (s.fc2_place == kInL2 ? "; fc2 in L2" : "")
      << "; " << 4 * table_words(s) << " bytes of gate inputs of labels\n"
      << describe_prediction(plan);
  return out.str();
}

}  // namespace wavernn_fast::gpu
