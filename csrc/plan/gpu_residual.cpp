#include "plan/gpu_residual.h"

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kMatrices = 6;  // R1, R2, W_ih2, fc1, fc2, fc3

int most_dealt(int n, int blocks) { return ceil_div(n, blocks); }

// Where R1, R2 and W_ih2 live, and fc1, fc2 and fc3. Both recurrent products run while words are on
// their way, so they are the first that registers do without.
constexpr Place R = kInRegisters, S = kInShared, L = kInL2;
constexpr Place kUnitPlaces[][3] = {{R, R, R}, {S, R, R}, {R, R, S}, {S, S, R},
                                    {S, S, S}, {L, R, R}, {L, S, R}, {L, S, S},
                                    {L, L, R}, {L, L, S}, {L, L, L}};
constexpr Place kLayerPlaces[][3] = {{R, R, R}, {R, R, S}, {R, S, S}, {S, S, S}, {L, L, L}};

std::vector<std::array<Place, kMatrices>> all_places() {
  std::vector<std::array<Place, kMatrices>> all;
  for (const auto& u : kUnitPlaces)
    for (const auto& l : kLayerPlaces) all.push_back({u[0], u[1], u[2], l[0], l[1], l[2]});
  return all;
}

std::vector<RowMatrix> matrices(const Shape& s) {
  const int units = 3 * s.unit_slots * s.hidden_pairs;
  return {{&Shape::gru1_place, units},
          {&Shape::gru2_place, units},
          {&Shape::gru2_input_place, units},
          {&Shape::fc1_place, s.fc1_slots * s.hidden_pairs},
          {&Shape::fc2_place, s.fc2_slots * s.fc_pairs},
          {&Shape::fc3_place, s.fc3_slots * s.fc_pairs}};
}

static_assert(kMostBands == wavernn_fast::kMostBands);

// `whole`: one bit a layer that every block has all rows of.
Shape make_shape(const GpuRequest& request, int blocks, int warps, int whole) {
  const ModelConfig& c = request.config;
  Shape s;
  s.residual = 1;
  s.hidden = c.hidden_size;
  s.fc = c.fc_size;
  s.blocks = blocks;
  s.warps = warps;
  s.threads = s.gate_threads = 32 * warps;
  s.cluster = 1;
  s.fc1_whole = whole & 1;
  s.fc2_whole = whole >> 1 & 1;
  s.fc3_whole = whole >> 2 & 1;
  s.exchanges = 4 - s.fc1_whole - s.fc2_whole - s.fc3_whole;
  set_draw_shape(s, c);
  s.unit_slots = ceil_div(most_dealt(s.hidden, blocks), warps);
  s.fc1_slots = ceil_div(s.fc1_whole ? s.fc : most_dealt(s.fc, blocks), warps);
  s.fc2_slots = ceil_div(s.fc2_whole ? s.fc : most_dealt(s.fc, blocks), warps);
  s.fc3_slots = ceil_div(s.fc3_whole ? s.classes : most_dealt(s.classes, blocks), warps);
  s.hidden_pairs = ceil_div(s.hidden, 64);
  s.fc_pairs = ceil_div(s.fc, 64);
  s.gate_rounds = ceil_div(s.hidden / 2, s.threads);
  s.fc_rounds = ceil_div(s.fc / 2, s.threads);
  s.logit_rounds = ceil_div(s.choice_words / 2, s.threads);
  s.buffer_words = 4 * s.hidden + 2 * s.fc + s.choice_words;
  s.taps = c.interp_size() > 0 ? c.taps() : 0;
  s.fp16 = request.dtype == Dtype::fp16;
  s.exact = request.exact;
  s.clocks = request.clocks;
  return s;
}

void lay_out_shared(GpuPlan& plan) {
  Shape& s = plan.shape;
  auto place = [at = kSharedControl](int words) mutable {
    const int from = at;
    at += round_up(words, 4);
    return from;
  };
  s.shared_first = place(64 * s.hidden_pairs);
  s.shared_second = place(64 * s.hidden_pairs);
  s.shared_v = place(64 * s.hidden_pairs);
  s.shared_w = place(64 * s.hidden_pairs);
  s.shared_p = place(64 * s.fc_pairs);
  s.shared_q = place(64 * s.fc_pairs);
  s.shared_logits = place(s.choice_words);
  // Of several bands every sum takes the place of its own logits, which are read once.
  s.shared_weighed = s.bands > 1 ? s.shared_logits : place(64 * s.draw_pairs);
  s.shared_chance = place((s.bands > 2 ? 4 : 2) * 64);
  s.shared_outcomes = s.bands > 1 ? place(kMostBands) : 0;
  s.shared_expanded = hears_expanded(plan.request.config) ? place(s.choices) : 0;
  const int sums = 7 * s.unit_slots + s.fc1_slots + s.fc2_slots + s.fc3_slots;
  s.shared_own = place(2 * s.warps * sums);
  // Last, since of several bands they may be too many for the shared memory of an older chip.
  const int columns = 4 * s.hidden * s.bands;
  s.shared_sample = place(0);
  const int most = plan.request.limits.shared_per_block / 4;
  s.sample_place = s.shared_sample + columns > most ? kInL2 : kInShared;
  if (s.sample_place == kInShared) place(columns);
  s.shared_weights = place(0);
}

void lay_out_weights(GpuPlan& plan) {
  Shape& s = plan.shape;
  int Shape::* const places[kMatrices] = {&Shape::gru1_at, &Shape::gru2_at, &Shape::gru2_input_at,
                                          &Shape::fc1_at,  &Shape::fc2_at,  &Shape::fc3_at};
  // Dealt to so many blocks; others have copies.
  const auto parts = [&s](int whole) { return whole ? 1 : s.blocks; };
  const int dealt[kMatrices] = {s.blocks,           s.blocks,           s.blocks,
                                parts(s.fc1_whole), parts(s.fc2_whole), parts(s.fc3_whole)};
  const std::vector<RowMatrix> all = matrices(s);
  int64_t at = 0;
  for (int i = 0; i < kMatrices; ++i) {
    s.*places[i] = int(at);
    at += int64_t(words_of(s, all[size_t(i)])) * dealt[i] * s.threads;
    WF_CHECK(at < INT32_MAX / 2, "The packed weights of ", plan.request.config.describe(),
             " exceed 2^30 words.");
  }
  s.sample_at = int(at);
  s.inner_bias_at = s.sample_at + 4 * s.hidden * s.bands;
  s.fc_bias_at = s.inner_bias_at + 2 * s.hidden;
  s.expanded_at = s.fc_bias_at + s.classes;
  plan.packed_words = s.expanded_at + (hears_expanded(plan.request.config) ? s.choices : 0);
}

// --- the model of a sample --------------------------------------------------------------------

// One draw by one warp; a barrier more than in the dual core.
int draw_cycles(const Shape& s, const RowCosts& cost) {
  if (s.real != kNotReal) return real_draw_cycles(s.real);
  const int heard = s.shared_expanded != 0 ? 30 : 0;  // a load that waits for the outcome
  const int one = cost.draw_of_labels() + (s.mixtures > 0 ? 150 : 0) + heard;
  return ceil_div(s.bands, s.warps) * one + 20 * (s.bands - 1);  // a warp a band
}

Latency predict(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const RowCosts cost(s, plan.request.limits);
  Latency l;
  l.stretches = 1;
  l.exchanges = s.exchanges;
  const int busy = ceil_div(std::min(s.hidden / 2, s.threads), 32);
  constexpr int kOwnGates = 140;  // one lane's gates: a chain with nothing beside it
  // A band more is eight multiply-adds and four loads a pair of units.
  const int pair_of_units = 100 + 12 * (s.bands - 1);
  l.gates = int(100 + pair_of_units * s.gate_rounds * cost.pace(busy) + 60) + kOwnGates;
  l.product = cost.rows(3 * s.unit_slots, s.hidden_pairs, s.gru2_input_place) + 20 * s.unit_slots +
              cost.rows(s.fc1_slots, s.hidden_pairs, s.fc1_place) +
              cost.rows(s.fc2_slots, s.fc_pairs, s.fc2_place) +
              cost.rows(s.fc3_slots, s.fc_pairs, s.fc3_place) + 5 * 30;
  l.draw = draw_cycles(s, cost);
  l.hop = cost.hop();
  const auto shadow = [&](int place) {
    return cost.rows(3 * s.unit_slots, s.hidden_pairs, place) + 100;
  };
  int hops = cost.hop(s.hidden, shadow(s.gru1_place));
  // Where fc1 is whole there is no exchange for R2 h2 to hide behind.
  hops += s.fc1_whole ? shadow(s.gru2_place) - 200 : cost.hop(s.fc, shadow(s.gru2_place));
  if (!s.fc2_whole) hops += cost.hop(s.fc, 0);
  if (!s.fc3_whole) hops += cost.hop(s.choice_words, 0);
  l.late = cost.late(hops);
  l.streamed = cost.streamed(plan.streamed_bytes, kMatrices);
  if (s.sample_place == kInL2) l.streamed += 300;
  return l;
}

// For so many blocks and warps, and layers that every block has whole, with the matrices in their
// best places.
bool form(GpuPlan& plan, int blocks, int warps, int whole) {
  const int wanted = plan.request.exchanges;
  Shape& s = plan.shape;
  s = make_shape(plan.request, blocks, warps, whole);
  if (wanted != 0 && s.exchanges != wanted) return false;
  lay_out_shared(plan);
  if (4 * s.unit_slots > kMostSums || std::max({s.fc1_slots, s.fc2_slots, s.fc3_slots}) > kMostSums)
    return false;
  static const std::vector<std::array<Place, kMatrices>> ways = all_places();
  return best_places(plan, matrices(s), ways, predict);
}

[[noreturn]] void does_not_fit(const GpuRequest& request) {
  const DeviceLimits& d = request.limits;
  if (request.blocks || request.warps || request.exchanges)
    fail<DeviceError>("The model does not fit on ", d.name, " with blocks=", request.blocks,
                      ", warps=", request.warps, ", exchanges=", request.exchanges,
                      " (0: any). A warp owns at most ", kMostSums / 4, " units and ", kMostSums,
                      " rows of a layer, a thread at most 255 registers, a block at most ",
                      d.shared_per_block,
                      " bytes of shared memory. Leave out what need not be so.");
  const ModelConfig& c = request.config;
  const int64_t h = c.hidden_size, f = c.fc_size;
  weights_do_not_fit(request, 9 * h * h + f * h + f * f + int64_t(c.logits_size()) * f);
}

void check_request(const GpuRequest& request) {
  check_residual_model(request.config);
  check_rows_request(request);
  WF_CHECK(
      request.exchanges >= 0 && request.exchanges <= 4, "exchanges is ", request.exchanges,
      ", expected 4, or one less for each layer that every block is to have whole, or 0 for the "
      "planner's choice");
  WF_CHECK(request.cluster == 0 || request.cluster == 1, "cluster is ", request.cluster,
           ": the kernel of the residual core has no clusters; use gpu_cluster=0 (of an Engine "
           "cluster=1)");
  WF_CHECK(request.warps >= 0 && request.warps <= kMostWarps, "warps is ", request.warps,
           ", expected 1 to ", kMostWarps);
}

}  // namespace

void check_residual_model(const ModelConfig& c) {
  WF_CHECK(c.hidden_size % 2 == 0 && c.hidden_size > 0, "hidden_size is ", c.hidden_size,
           ", the GPU kernel needs an even number");
  WF_CHECK(c.fc_size % 2 == 0 && c.fc_size > 0, "fc_size is ", c.fc_size,
           ", the GPU kernel needs an even number");
  WF_CHECK(c.bands == 1 || c.n_classes % 2 == 0, "n_classes is ", c.n_classes,
           ", the GPU kernel needs an even number in a model of several bands");
  if (c.head == Head::softmax) check_labels(c.n_classes);
}

// Counted with the models of 512 and 128 units, one to four units a warp;
// tests/test_residual_compile.py asserts that no plan of the table spills.
int residual_registers(const Shape& s) {
  if (!s.fp16) return s.bands > 1 && s.fc3_slots > 4 ? 100 : 62;  // sums of many rows of fc3
  return s.unit_slots == 1 ? 72 : 90;
}

GpuPlan choose_residual_plan(const GpuRequest& request) {
  check_request(request);
  std::optional<GpuPlan> best = fastest_plan(request, 8, form);
  if (!best) does_not_fit(request);
  count_bytes(*best, matrices(best->shape));
  lay_out_weights(*best);
  return *best;
}

std::string describe_residual(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const auto whole = [](int yes) { return yes ? " (whole)" : ""; };
  const char* const step = s.bands > 1 ? "step" : "sample";
  std::ostringstream out;
  out << plan.request.config.describe() << "\n"
      << plan.request.limits.name << ": " << s.blocks << " blocks of " << s.warps << " warps, "
      << dtype_name(plan.request.dtype) << (s.exact ? ", exact" : "") << ", " << s.exchanges
      << " exchanges a " << step << "\n"
      << "a warp: " << s.unit_slots << " units, " << s.fc1_slots << " rows of fc1"
      << whole(s.fc1_whole) << ", " << s.fc2_slots << " of fc2" << whole(s.fc2_whole) << ", "
      << s.fc3_slots << " of fc3" << whole(s.fc3_whole) << "\n"
      << "R1 in " << place_name(s.gru1_place) << ", R2 in " << place_name(s.gru2_place)
      << ", W2 in " << place_name(s.gru2_input_place) << ", fc1 in " << place_name(s.fc1_place)
      << ", fc2 in " << place_name(s.fc2_place) << ", fc3 in " << place_name(s.fc3_place)
      << (s.sample_place == kInL2 ? ", columns times the last samples in L2" : "") << "\n"
      << plan.weight_registers << " registers a thread hold weights, " << plan.shared_bytes
      << " bytes of shared memory a block, " << plan.resident_bytes << " bytes resident, "
      << plan.streamed_bytes << " bytes streamed a " << step << "\n"
      << "predicted: " << plan.latency.total() << " cycles a " << step << ", "
      << int64_t(plan.predicted_samples_per_s()) << " samples/s\n";
  return out.str();
}

}  // namespace wavernn_fast::gpu
