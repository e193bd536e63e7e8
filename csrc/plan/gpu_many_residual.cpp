#include "plan/gpu_many_residual.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "common/sampling.h"
#include "plan/gpu_many_parts.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kMatrices = 3;  // W_ih2, R1, R2
constexpr int kMostMixtures = 64;

// Where the three layers are, and whether every block has all rows of fc3.
struct Outputs {
  Place fc1, fc2, fc3;
  bool fc3_whole;
};

Shape make_shape(const ManyRequest& request, int unit_tiles, int stream_tiles, Outputs outputs) {
  const ModelConfig& c = request.gpu.config;
  Shape s;
  s.residual = 1;
  s.hidden_tiles = c.hidden_size / 16;
  s.unit_tiles = unit_tiles;
  s.blocks = ceil_div(s.hidden_tiles, unit_tiles);
  set_many_shape(s, request, stream_tiles);
  // A beta takes so long that no warp should draw a second one.
  if (c.head == Head::beta) s.draw_apart = s.streams > s.warps && s.blocks > 1;
  set_draw_shape(s, c);
  // In a cluster logits travel one by one, so better to one block only.
  if (s.cluster > 1 && !outputs.fc3_whole) s.draw_apart = 1;
  s.fc1_place = outputs.fc1;
  s.fc2_place = outputs.fc2;
  s.fc3_place = outputs.fc3;
  s.fc3_whole = outputs.fc3_whole;
  s.fc1_tiles = ceil_div(s.fc_tiles, s.blocks);
  s.fc2_rows = s.fc3_whole ? s.classes : ceil_div(s.choice_words, s.blocks);
  s.fc2_tiles = ceil_div(s.fc2_rows, 16);
  s.gru_columns = ceil_div(s.hidden_tiles, s.warps);
  s.gate_rounds = ceil_div(64 * unit_tiles * (request.split ? 4 : 8), s.threads);
  if (s.cluster == 1)
    s.buffer_words = s.stream_tiles * 64 * (4 * s.hidden_tiles + 2 * s.fc_tiles) +
                     s.streams * ((s.fc3_whole ? 0 : s.choice_words) + 2 * s.bands);
  // 4 more than a multiple of 32: a warp reads 8 streams at once, from all banks.
  s.column_words = round_up(8 * std::max(s.hidden_tiles, s.fc_tiles), 32) + 4;
  return s;
}

int fc3_parts(const Shape& s) { return s.fc3_whole ? 1 : s.blocks; }

void lay_out_weights(ManyPlan& plan) {
  Shape& s = plan.shape;
  PackedPlaces places(plan);
  const int64_t fc1 = int64_t(s.blocks) * s.fc1_tiles;
  places.place(s.gru_at,
               int64_t(kMatrices) * s.blocks * 3 * s.unit_tiles * s.gru_columns * s.warps);
  places.place(s.fc1_at, fc1 * s.hidden_tiles);
  places.place(s.fc2_at, fc1 * s.fc_tiles);
  places.place(s.fc3_at, int64_t(fc3_parts(s)) * s.fc2_tiles * s.fc_tiles);
  // Of fc3 each block may have a copy.
  plan.resident_bytes =
      4 * (int64_t(s.fc3_at) + int64_t(s.blocks) * s.fc2_tiles * s.fc_tiles * kTileFloats);
  s.sample_at = places.at();
  s.inner_bias_at = s.sample_at + 4 * s.hidden * s.bands;
  s.fc_bias_at = s.inner_bias_at + 2 * s.hidden;
  s.expanded_at = s.fc_bias_at + s.classes;
  const ModelConfig& c = plan.request.gpu.config;
  plan.packed_words = s.expanded_at + (hears_expanded(c) ? s.choices : 0);
}

// Tiles of the layers that a block keeps in shared memory.
int kept_tiles(const Shape& s) {
  return (s.fc1_place == kInShared ? s.fc1_tiles * s.hidden_tiles : 0) +
         (s.fc2_place == kInShared ? s.fc1_tiles * s.fc_tiles : 0) +
         (s.fc3_place == kInShared ? s.fc2_tiles * s.fc_tiles : 0);
}

void lay_out_shared(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int units = 16 * s.unit_tiles;
  SharedPlaces shared;
  shared.place(s.shared_slots, int64_t(kSlotWords) * s.streams);
  shared.place(s.shared_slot_args, int64_t(kArgsWords) * s.streams);
  shared.place(s.shared_inputs, int64_t(2) * std::max(2, s.bands) * s.streams);
  shared.place(s.shared_chance, int64_t(s.bands > 2 ? 128 : 64) * s.streams);
  shared.place(s.shared_sample, 4 * units * s.bands);
  shared.place(s.shared_inner_bias, 2 * units);
  shared.place(s.shared_biases, int64_t(32) * s.fc1_tiles * s.streams + 16 * s.fc2_tiles);
  if (hears_expanded(plan.request.gpu.config)) shared.place(s.shared_expanded, s.choices);
  shared.place(s.shared_hidden, int64_t(2) * units * s.streams);
  shared.place(s.shared_v, int64_t(units) * s.streams);
  shared.place(s.shared_pre, int64_t(5) * units * s.streams);
  shared.place(s.shared_ahead, int64_t(4) * units * s.streams);
  // Draws are where activations were: the logits of every stream or warp, and of mixtures a warp's
  // sums of weights, which take the places of labels. In a cluster, where peers write into both,
  // they are apart.
  const int64_t places = s.fc3_whole ? s.streams : s.cluster > 1 ? streams_drawn(s) : s.warps;
  const int64_t logits = places * s.choice_words;
  const int64_t weighed = s.mixtures > 0 ? int64_t(64) * s.draw_pairs * s.warps : 0;
  const int64_t columns = int64_t(areas(s)) * 8 * s.stream_tiles * s.column_words;
  if (s.cluster > 1) {
    shared.place(s.shared_columns, columns);
    shared.place(s.shared_arrivals, kArrivalsFloats);
    shared.place(s.shared_logits, logits + weighed);
  } else {
    shared.place(s.shared_columns, std::max(columns, logits + weighed));
    s.shared_logits = s.shared_columns;
  }
  s.shared_weighed = int(std::min<int64_t>(s.shared_logits + logits, INT32_MAX));
  // Products of the GRUs by turns in two places.
  const int turns = s.stream_tiles > 1 ? 2 : 1;
  shared.place(s.shared_sums, int64_t(kTileFloats) * s.warps *
                                  std::max(turns * 3 * s.unit_tiles,
                                           s.stream_tiles * std::max(s.fc1_tiles, s.fc2_tiles)));
  shared.place(s.shared_weights, int64_t(kTileFloats) * kept_tiles(s));
  shared.place(s.shared_gru, int64_t(kTileFloats) * 3 * s.unit_tiles *
                                 (kMatrices * s.gru_columns - s.gru_kept) * s.warps);
  plan.shared_bytes = shared.bytes();
}

// --- the model of a sample --------------------------------------------------------------------

// Bytes a cycle that a block reads of its conditioning. The rows of a frame stay in L1 for its
// samples, if they fit there: what it shares with shared memory is 29 KB larger than the most of
// that.
double conditioning_pace(const ManyPlan& plan, double of_l2) {
  constexpr int kBeside = 29 * 1024;
  const Shape& s = plan.shape;
  const int64_t bytes =
      int64_t(4) * s.streams * (16 * s.unit_tiles * (4 * (1 + s.taps) + 3) + 2 * 16 * s.fc1_tiles);
  const int room = plan.request.gpu.limits.shared_per_block + kBeside - plan.shared_bytes;
  return bytes <= room ? kBytesOfL1 : of_l2;
}

ManyLatency predict(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  const double bytes = l2_share(plan);
  const double conditioning = conditioning_pace(plan, bytes);
  const ManyCosts costs(plan, bytes);
  const int streams = s.split ? 4 : 8;  // of a tile
  const int64_t units = 16 * s.unit_tiles;
  const int64_t state = int64_t(64) * s.hidden_tiles * s.stream_tiles;  // words of a message
  const int64_t hidden = int64_t(64) * s.fc_tiles * s.stream_tiles;
  const double second = s.stream_tiles * (costs.unit_product(kMatrices) + 50 +
                                          costs.rounds(units * streams) * costs.pace() *
                                              (3 * (4 + 3 * s.warps) + 110));
  // Beside words of h1 or h2, and conditioning: u and three gates of GRU 1 from every tap, three
  // gates of GRU 2.
  const auto ahead = [&](int loads) { return costs.ahead(kMatrices, state, loads, conditioning); };
  ManyLatency l;
  l.stretches = 1;
  l.gates = int(100 + costs.rounds(units / 2 * s.streams) * 150 * costs.pace() + second);
  l.hidden = costs.message(state) + costs.message_beside(state, ahead(4 * (1 + s.taps)));
  l.y = int(costs.queued_layer(s.fc1_tiles, s.hidden_tiles, s.fc1_place) +
            costs.queued_layer(s.fc1_tiles, s.fc_tiles, s.fc2_place)) +
        costs.message_beside(hidden, ahead(3)) + costs.message(hidden);
  l.logits = costs.logits(s.fc3_place);
  l.draw = costs.draw();
  l.advance = 100;
  return l;
}

std::optional<ManyPlan> plan_of(const ManyRequest& request, int unit_tiles, int stream_tiles,
                                const Outputs& outputs) {
  return form_many(request, make_shape(request, unit_tiles, stream_tiles, outputs),
                   {kMatrices, lay_out_shared, lay_out_weights, predict});
}

void check_config(const ModelConfig& c) {
  constexpr const char* kOne = " Use gpu_streams=1, or device=\"cpu\".";
  WF_CHECK(c.hidden_size > 0 && c.hidden_size % 16 == 0, "hidden_size is ", c.hidden_size,
           ", many streams side by side need a multiple of 16");
  WF_CHECK(c.fc_size > 0 && c.fc_size % 2 == 0, "fc_size is ", c.fc_size,
           ", many streams side by side need an even number");
  WF_CHECK(c.bands == 1 || c.n_classes % 2 == 0, "n_classes is ", c.n_classes,
           ", the GPU kernels need an even number in a model of several bands");
  const bool mixtures = c.head == Head::mol;
  if (mixtures ? c.n_classes > 3 * kMostMixtures : c.n_classes > kMostLabels)
    fail<DeviceError>("Many streams side by side draw from at most ", kMostLabels, " labels or ",
                      kMostMixtures, " mixtures; this model has ",
                      mixtures ? c.n_classes / 3 : c.n_classes, ".", kOne);
}

}  // namespace

ManyPlan choose_many_residual_plan(const ManyRequest& request) {
  const ModelConfig& c = request.gpu.config;
  check_config(c);
  const int tiles = c.hidden_size / 16;
  check_many_request(request, tiles, "both GRUs");
  constexpr Place S = kInShared, L = kInL2;
  constexpr Place kPlaces[][3] = {{S, S, S}, {S, S, L}, {S, L, L}, {L, L, L}};
  const bool few = ceil_div(c.logits_size(), 64) == 1;  // rows of fc3: all blocks may have all
  std::optional<ManyPlan> best;
  for (const auto& place : kPlaces)
    for (const bool whole : {false, true})
      if (!whole || few)
        find_best(request, tiles, best, [&](int unit_tiles, int stream_tiles) {
          return plan_of(request, unit_tiles, stream_tiles, {place[0], place[1], place[2], whole});
        });
  if (!best) does_not_fit_many(request, tiles);
  return *best;
}

ManyPlan residual_with_stream_tiles(const ManyPlan& plan, int stream_tiles) {
  const Shape& s = plan.shape;
  return plan_of(plan.request, s.unit_tiles, stream_tiles,
                 {Place(s.fc1_place), Place(s.fc2_place), Place(s.fc3_place), s.fc3_whole != 0})
      .value();
}

std::string describe_many_residual(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  std::ostringstream out;
  out << describe_teams(plan) << "a block: " << 16 * s.unit_tiles << " units of each GRU, "
      << 16 * s.fc1_tiles << " rows of fc1 and of fc2, " << s.fc2_rows << " of fc3"
      << (s.fc3_whole ? " (whole)" : "") << "; "
      << (s.draw_apart ? "a block draws for a stream\n" : "every block draws\n")
      << "W2, R1, R2: " << s.gru_kept << " of " << kMatrices * s.gru_columns
      << " tiles of columns a warp in registers" << (s.fc1_place == kInL2 ? "; fc1 in L2" : "")
      << (s.fc2_place == kInL2 ? "; fc2 in L2" : "") << (s.fc3_place == kInL2 ? "; fc3 in L2" : "")
      << "\n"
      << describe_prediction(plan);
  return out.str();
}

}  // namespace wavernn_fast::gpu
