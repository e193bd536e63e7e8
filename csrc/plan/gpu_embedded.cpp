#include "plan/gpu_embedded.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

// Where R, fc1 and fc2 live. R is multiplied while words are on their way, so it is the first that
// registers do without.
constexpr Place R = kInRegisters, S = kInShared, L = kInL2;
constexpr Place kPlaces[][3] = {{R, R, R}, {S, R, R}, {R, R, S}, {R, S, S}, {S, R, S},
                                {S, S, R}, {S, S, S}, {L, R, R}, {L, R, S}, {L, S, R},
                                {L, S, S}, {R, L, L}, {S, L, L}, {L, L, L}};

std::vector<RowMatrix> matrices(const Shape& s) {
  return {{&Shape::gru_place, 3 * s.unit_slots * s.hidden_pairs},
          {&Shape::fc1_place, s.fc1_slots * s.hidden_pairs},
          {&Shape::fc2_place, s.fc2_slots * s.fc_pairs}};
}

int64_t table_words(const Shape& s) { return int64_t(3) * s.hidden * s.choices; }

Shape make_shape(const GpuRequest& request, int blocks, int warps) {
  const ModelConfig& c = request.config;
  Shape s;
  s.embedded = 1;
  s.hidden = c.hidden_size;
  s.fc = round_up(c.fc_size, 2);  // words travel in pairs; a row more is zero
  s.blocks = blocks;
  s.warps = warps;
  s.threads = s.gate_threads = 32 * warps;
  s.cluster = 1;
  s.exchanges = 2;
  set_draw_shape(s, c);
  s.unit_slots = ceil_div(ceil_div(s.hidden, blocks), warps);
  s.fc1_slots = ceil_div(ceil_div(s.fc, blocks), warps);
  s.fc2_slots = ceil_div(ceil_div(s.classes, blocks), warps);
  s.hidden_pairs = ceil_div(s.hidden, 64);
  s.fc_pairs = ceil_div(s.fc, 64);
  s.gate_rounds = ceil_div(s.hidden / 2, s.threads);
  s.fc_rounds = ceil_div(s.fc / 2, s.threads);
  s.logit_rounds = ceil_div(s.choice_words / 2, s.threads);
  s.buffer_words = 3 * s.hidden + s.fc + s.choice_words;
  s.fp16 = request.dtype == Dtype::fp16;
  s.exact = request.exact;
  s.clocks = request.clocks;
  return s;
}

void lay_out_shared(Shape& s) {
  auto place = [at = kSharedControl](int words) mutable {
    const int from = at;
    at += round_up(words, 4);
    return from;
  };
  s.shared_hidden = place(64 * s.hidden_pairs);
  s.shared_p = place(64 * s.fc_pairs);
  s.shared_logits = place(s.choice_words);
  s.shared_weighed = place(64 * s.draw_pairs);
  s.shared_chance = place(2 * 64);
  s.shared_own = place(2 * s.warps * (3 * s.unit_slots + s.fc1_slots + s.fc2_slots));
  s.shared_weights = place(0);
}

void lay_out_weights(GpuPlan& plan) {
  Shape& s = plan.shape;
  int64_t at = 0;
  const auto place = [&](int64_t words) {
    const int64_t from = at;
    at += (words + 3) / 4 * 4;
    WF_CHECK(at < INT32_MAX / 2, "The packed weights of ", plan.request.config.describe(),
             " exceed 2^30 words.");
    return int(from);
  };
  int Shape::* const places[] = {&Shape::gru_at, &Shape::fc1_at, &Shape::fc2_at};
  const std::vector<RowMatrix> all = matrices(s);
  for (size_t i = 0; i < all.size(); ++i)
    s.*places[i] = place(int64_t(words_of(s, all[i])) * s.blocks * s.threads);
  s.inner_bias_at = place(s.hidden);
  s.fc_bias_at = place(s.fc + s.classes);
  s.table_at = place(table_words(s));
  plan.packed_words = at;
}

// --- the model of a sample --------------------------------------------------------------------

Latency predict(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const DeviceLimits& d = plan.request.limits;
  const RowCosts cost(s, d);
  Latency l;
  l.stretches = 1;
  l.exchanges = s.exchanges;
  // The row of the label: nobody can ask for it before the draw. From L2, or from memory where the
  // table and what is streamed leave no room for it there.
  const bool near = 4 * table_words(s) + plan.streamed_bytes <= d.l2_bytes;
  const int table = near ? 320 : 800;
  const int busy = ceil_div(std::min(s.hidden / 2, s.threads), 32);
  l.gates = table + int(100 + 100 * s.gate_rounds * cost.pace(busy) + 60);
  l.product = cost.rows(s.fc1_slots, s.hidden_pairs, s.fc1_place) +
              cost.rows(s.fc2_slots, s.fc_pairs, s.fc2_place) + 3 * 30;
  l.draw = cost.draw_of_labels();
  l.hop = cost.hop();
  const int recurrent = cost.rows(3 * s.unit_slots, s.hidden_pairs, s.gru_place) + 100;
  // Behind the logits the words of the next gates are read, three a unit.
  l.late = cost.late(cost.hop(s.fc, recurrent) + cost.hop(s.choice_words + 3 * s.hidden, 0));
  l.streamed = cost.streamed(plan.streamed_bytes, 3);
  return l;
}

// For so many blocks and warps, with the matrices in their best places.
bool form(GpuPlan& plan, int blocks, int warps) {
  Shape& s = plan.shape;
  s = make_shape(plan.request, blocks, warps);
  lay_out_shared(s);
  if (3 * s.unit_slots > kMostSums || std::max(s.fc1_slots, s.fc2_slots) > kMostSums) return false;
  return best_places(plan, matrices(s), kPlaces, predict);
}

[[noreturn]] void does_not_fit(const GpuRequest& request) {
  const DeviceLimits& d = request.limits;
  if (request.blocks || request.warps)
    fail<DeviceError>(
        "The model does not fit on ", d.name, " with blocks=", request.blocks,
        ", warps=", request.warps, " (0: any). A warp owns at most ", kMostSums / 3, " units and ",
        kMostSums, " rows of a layer, a thread at most 255 registers, a block at most ",
        d.shared_per_block, " bytes of shared memory. Leave out what need not be so.");
  const ModelConfig& c = request.config;
  const int64_t h = c.hidden_size, f = c.fc_size;
  weights_do_not_fit(request, 3 * h * h + f * h + c.n_classes * f);
}

void check_request(const GpuRequest& request) {
  check_embedded_model(request.config);
  check_rows_request(request);
  WF_CHECK(request.exchanges == 0 || request.exchanges == 2, "exchanges is ", request.exchanges,
           ": the kernel of the embedded core has two a sample; use exchanges=2 or 0");
  WF_CHECK(request.cluster == 0 || request.cluster == 1, "cluster is ", request.cluster,
           ": the kernel of the embedded core has no clusters; use gpu_cluster=0 (of an Engine "
           "cluster=1)");
  WF_CHECK(request.warps >= 0 && request.warps <= kMostWarps, "warps is ", request.warps,
           ", expected 1 to ", kMostWarps);
}

}  // namespace

void check_embedded_model(const ModelConfig& c) {
  WF_CHECK(c.head == Head::softmax, "the embedded core draws labels; this model has another head");
  WF_CHECK(c.hidden_size % 2 == 0 && c.hidden_size > 0, "hidden_size is ", c.hidden_size,
           ", the GPU kernel needs an even number");
  WF_CHECK(c.fc_size > 0, "fc_size is ", c.fc_size, ", expected at least 1");
  check_labels(c.n_classes);
}

// Counted with the models of 1024, 896, 512 and 128 units; tests/test_embedded_compile.py asserts
// that no plan of its table spills. With 2 more, a V100 would refuse 1024 units in fp32, of which
// it spills 32 bytes.
int embedded_registers(const Shape& s) {
  if (!s.fp16) return 62;
  return s.unit_slots == 1 ? 72 : 90;
}

GpuPlan choose_embedded_plan(const GpuRequest& request) {
  check_request(request);
  std::optional<GpuPlan> best = fastest_plan(
      request, 1,
      [](GpuPlan& plan, int blocks, int warps, int) { return form(plan, blocks, warps); });
  if (!best) does_not_fit(request);
  count_bytes(*best, matrices(best->shape));
  lay_out_weights(*best);
  return *best;
}

std::string describe_embedded(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  std::ostringstream out;
  out << plan.request.config.describe() << "\n"
      << plan.request.limits.name << ": " << s.blocks << " blocks of " << s.warps << " warps, "
      << dtype_name(plan.request.dtype) << (s.exact ? ", exact" : "") << ", " << s.exchanges
      << " exchanges a sample\n"
      << "a warp: " << s.unit_slots << " units, " << s.fc1_slots << " rows of fc1, " << s.fc2_slots
      << " of fc2\n"
      << "R in " << place_name(s.gru_place) << ", fc1 in " << place_name(s.fc1_place) << ", fc2 in "
      << place_name(s.fc2_place) << "; " << 4 * table_words(s)
      << " bytes of gate inputs of labels\n"
      << plan.weight_registers << " registers a thread hold weights, " << plan.shared_bytes
      << " bytes of shared memory a block, " << plan.resident_bytes << " bytes resident, "
      << plan.streamed_bytes << " bytes streamed a sample\n"
      << "predicted: " << plan.latency.total() << " cycles a sample, "
      << int64_t(plan.predicted_samples_per_s()) << " samples/s\n";
  return out.str();
}

}  // namespace wavernn_fast::gpu
