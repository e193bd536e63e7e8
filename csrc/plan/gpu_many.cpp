#include "plan/gpu_many.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_many_embedded.h"
#include "plan/gpu_many_parts.h"
#include "plan/gpu_many_residual.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kClasses = 256;

// Tiles of R's columns a warp has of both halves: see columns_of in the kernel. One in the middle
// serves either half where few groups of warps have one more.
int gru_columns(int half_tiles, int groups) {
  const int each = half_tiles / groups, more = half_tiles % groups;
  return 2 * each + (more == 0 ? 0 : 2 * more <= groups ? 1 : 2);
}

Shape make_shape(const ManyRequest& request, int unit_tiles, int stream_tiles) {
  const ModelConfig& c = request.gpu.config;
  Shape s;
  s.half = c.half();
  s.half_tiles = s.half / 16;
  s.unit_tiles = unit_tiles;
  s.blocks = ceil_div(s.half_tiles, unit_tiles);
  set_many_shape(s, request, stream_tiles);
  s.fc1_tiles = ceil_div(s.fc_tiles, s.blocks);
  s.fc2_rows = ceil_div(kClasses, s.blocks);
  if (s.cluster > 1) s.fc2_rows = round_up(s.fc2_rows, 4);  // four logits travel together
  s.fc2_tiles = ceil_div(s.fc2_rows, 16);
  s.gru_columns = gru_columns(s.half_tiles, s.warps / 2);
  if (s.cluster == 1)
    s.buffer_words =
        s.stream_tiles * 2 * 64 * (s.half_tiles + s.fc_tiles) + 2 * s.streams * (kClasses + 1);
  // 4 more than a multiple of 32: a warp reads 8 streams at once, from all banks.
  s.column_words = round_up(8 * std::max(s.half_tiles, s.fc_tiles), 32) + 4;
  s.gate_rounds = ceil_div(96 * unit_tiles * (request.split ? 4 : 8), s.threads);
  return s;
}

void lay_out_weights(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int64_t fc1 = int64_t(s.blocks) * s.fc1_tiles * s.half_tiles;
  const int64_t fc2 = int64_t(s.blocks) * s.fc2_tiles * s.fc_tiles;
  PackedPlaces places(plan);
  places.place(s.gru_at, int64_t(s.blocks) * 3 * s.unit_tiles * s.gru_columns * s.warps);
  places.place(s.coarse_fc1_at, fc1);
  places.place(s.coarse_fc2_at, fc2);
  places.place(s.fine_fc1_at, fc1);
  places.place(s.fine_fc2_at, fc2);
  plan.resident_bytes = 4 * int64_t(places.at());
  plan.packed_words = lay_out_vectors(s, places.at());
}

void lay_out_shared(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int units = 16 * s.unit_tiles;
  SharedPlaces shared;
  shared.place(s.shared_slots, int64_t(kSlotWords) * s.streams);
  shared.place(s.shared_slot_args, int64_t(kArgsWords) * s.streams);
  shared.place(s.shared_inputs, int64_t(4) * s.streams);
  shared.place(s.shared_chance, int64_t(64) * s.streams);
  shared.place(s.shared_sample, 15 * units);
  shared.place(s.shared_inner_bias, 2 * units);
  shared.place(s.shared_biases, 2 * 16 * (s.fc1_tiles + s.fc2_tiles));
  shared.place(s.shared_hidden, int64_t(2) * units * s.streams);
  shared.place(s.shared_pre, int64_t(8) * units * s.streams);
  shared.place(s.shared_ahead, int64_t(3) * units * s.streams);
  shared.place(s.shared_columns, int64_t(areas(s)) * 8 * s.stream_tiles * s.column_words);
  if (s.cluster > 1) {
    shared.place(s.shared_arrivals, kArrivalsFloats);
    shared.place(s.shared_logits, int64_t(kClasses) * streams_drawn(s));
  }
  shared.place(s.shared_sums,
               int64_t(kTileFloats) * s.warps *
                   std::max(3 * s.unit_tiles, s.stream_tiles * std::max(s.fc1_tiles, s.fc2_tiles)));
  shared.place(s.shared_weights,
               int64_t(2) * kTileFloats *
                   ((s.fc1_place == kInShared ? s.fc1_tiles * s.half_tiles : 0) +
                    (s.fine_fc2_place == kInShared ? s.fc2_tiles * s.fc_tiles : 0)));
  shared.place(s.shared_gru,
               int64_t(kTileFloats) * 3 * s.unit_tiles * (s.gru_columns - s.gru_kept) * s.warps);
  plan.shared_bytes = shared.bytes();
}

// --- the model of a sample --------------------------------------------------------------------

ManyLatency predict(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  const ManyCosts costs(plan, l2_share(plan));
  const int64_t units = 16 * s.unit_tiles;
  ManyLatency l;
  l.gates = int(100 + costs.rounds(units / 2 * s.streams) * 150 * costs.pace());
  l.hidden = costs.message(int64_t(s.half) / 2 * 8 * s.stream_tiles);
  const double product =
      s.stream_tiles * (2.0 * 6 * s.unit_tiles * s.half_tiles + 100 +
                        costs.meet(96 * s.unit_tiles * int64_t(s.split ? 4 : 8), s.warps / 2) + 50);
  const int y = costs.message(int64_t(8) * s.fc_tiles * 8 * s.stream_tiles);
  l.y = int(costs.layer(s.fc1_tiles, s.half_tiles, s.fc1_place) + std::max(double(y), product));
  const int64_t drawn = streams_drawn(s);
  l.logits =
      int(costs.layer(s.fc2_tiles, s.fc_tiles, s.fine_fc2_place)) + costs.message(kClasses * drawn);
  l.draw = int(400 * ceil_div(int(drawn), s.warps) + 60) +
           (s.draw_apart ? costs.message(s.streams, 1) : 0);
  l.advance = 100;
  return l;
}

// Where O1 with O3 and O2 with O4 are, best first.
struct Places {
  Place fc1, fc2;
};
constexpr Places kPlaces[] = {{kInShared, kInShared}, {kInShared, kInL2}, {kInL2, kInL2}};

std::optional<ManyPlan> plan_of(const ManyRequest& request, int unit_tiles, int stream_tiles,
                                Places places) {
  Shape shape = make_shape(request, unit_tiles, stream_tiles);
  shape.fc1_place = places.fc1;
  shape.coarse_fc2_place = shape.fine_fc2_place = places.fc2;
  return form_many(request, shape, {1, lay_out_shared, lay_out_weights, predict});
}

}  // namespace

ManyPlan choose_many_plan(const ManyRequest& request) {
  const ModelConfig& c = request.gpu.config;
  if (c.core == Core::residual) return choose_many_residual_plan(request);
  if (c.core == Core::embedded) return choose_many_embedded_plan(request);
  check_model(c);
  const int tiles = c.half() / 16;
  check_many_request(request, tiles, "each half");
  std::optional<ManyPlan> best;
  for (const Places& places : kPlaces) {
    find_best(request, tiles, best, [&](int unit_tiles, int stream_tiles) {
      return plan_of(request, unit_tiles, stream_tiles, places);
    });
    if (best) return *best;  // weights from L2 are read once a tile of streams: only where it must
  }
  does_not_fit_many(request, tiles);
}

ManyPlan with_stream_tiles(const ManyPlan& plan, int stream_tiles) {
  const Shape& s = plan.shape;
  ManyPlan fewer = s.residual   ? residual_with_stream_tiles(plan, stream_tiles)
                   : s.embedded ? embedded_with_stream_tiles(plan, stream_tiles)
                                : plan_of(plan.request, s.unit_tiles, stream_tiles,
                                          {Place(s.fc1_place), Place(s.fine_fc2_place)})
                                      .value();
  fewer.teams = plan.teams;
  return fewer;
}

double ManyPlan::predicted_samples_per_s() const {
  return 1000.0 * request.gpu.limits.clock_khz / latency.total() * request.gpu.config.bands;
}

std::string ManyPlan::describe() const {
  if (shape.residual) return describe_many_residual(*this);
  if (shape.embedded) return describe_many_embedded(*this);
  const Shape& s = shape;
  std::ostringstream out;
  out << describe_teams(*this) << "a block: " << 16 * s.unit_tiles << " units of each half, "
      << 16 * s.fc1_tiles << " rows of fc1, " << s.fc2_rows << " of fc2; "
      << (s.draw_apart ? "a block draws for a stream\n" : "every block draws\n")
      << "R: " << s.gru_kept << " of " << s.gru_columns << " tiles of columns a warp in registers"
      << (s.fc1_place == kInL2 ? "; fc1 in L2" : "")
      << (s.fine_fc2_place == kInL2 ? "; fc2 in L2" : "") << "\n"
      << describe_prediction(*this);
  return out.str();
}

}  // namespace wavernn_fast::gpu
