#include "plan/gpu_embedded.h"

#include <algorithm>
#include <climits>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/sampling.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kMostSums = 32;   // one warp reduces at most this many at once
constexpr int kMostWarps = 16;  // a thread of more warps has too few registers for weights
constexpr int kMostLabels = 1024;

int up(int a, int b) { return (a + b - 1) / b; }

// Where R, fc1 and fc2 live. R is multiplied while words are on their way, so it is the first that
// registers do without.
constexpr Place R = kInRegisters, S = kInShared, L = kInL2;
constexpr Place kPlaces[][3] = {{R, R, R}, {S, R, R}, {R, R, S}, {R, S, S}, {S, R, S},
                                {S, S, R}, {S, S, S}, {L, R, R}, {L, R, S}, {L, S, R},
                                {L, S, S}, {R, L, L}, {S, L, L}, {L, L, L}};

struct Matrix {
  int Shape::* place;
  int Shape::* at;
  int pairs;  // a lane
};

std::vector<Matrix> matrices(const Shape& s) {
  return {{&Shape::gru_place, &Shape::gru_at, 3 * s.unit_slots * s.hidden_pairs},
          {&Shape::fc1_place, &Shape::fc1_at, s.fc1_slots * s.hidden_pairs},
          {&Shape::fc2_place, &Shape::fc2_at, s.fc2_slots * s.fc_pairs}};
}

int words_of(const Shape& s, const Matrix& m) { return m.pairs * (s.fp16 ? 1 : 2); }

int64_t table_words(const Shape& s) { return int64_t(3) * s.hidden * s.choices; }

Shape make_shape(const GpuRequest& request, int blocks, int warps) {
  const ModelConfig& c = request.config;
  Shape s;
  s.embedded = 1;
  s.hidden = c.hidden_size;
  s.fc = up(c.fc_size, 2) * 2;  // words travel in pairs; a row more is zero
  s.blocks = blocks;
  s.warps = warps;
  s.threads = s.gate_threads = 32 * warps;
  s.cluster = 1;
  s.exchanges = 2;
  s.choices = c.n_classes;
  s.classes = up(c.n_classes, 2) * 2;
  s.draw_pairs = up(s.choices, 64);
  s.choice_words = up(s.classes, 64) * 64;
  s.bands = 1;
  s.band_words = s.choice_words;
  s.weight_bits = weight_bits(s.choices);
  s.unit_slots = up(up(s.hidden, blocks), warps);
  s.fc1_slots = up(up(s.fc, blocks), warps);
  s.fc2_slots = up(up(s.classes, blocks), warps);
  s.hidden_pairs = up(s.hidden, 64);
  s.fc_pairs = up(s.fc, 64);
  s.gate_rounds = up(s.hidden / 2, s.threads);
  s.fc_rounds = up(s.fc / 2, s.threads);
  s.logit_rounds = up(s.choice_words / 2, s.threads);
  s.buffer_words = 3 * s.hidden + s.fc + s.choice_words;
  s.fp16 = request.dtype == Dtype::fp16;
  s.exact = request.exact;
  s.clocks = request.clocks;
  return s;
}

void lay_out_shared(Shape& s) {
  auto place = [at = kSharedControl](int words) mutable {
    const int from = at;
    at += up(words, 4) * 4;
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

// What the places of the matrices come to.
void count_bytes(GpuPlan& plan) {
  const Shape& s = plan.shape;
  int64_t shared = s.shared_weights;
  plan.weight_registers = 0;
  plan.resident_bytes = plan.streamed_bytes = 0;
  for (const Matrix& m : matrices(s)) {
    const int words = words_of(s, m);
    if (s.*m.place == kInShared) shared += int64_t(words) * s.threads;
    if (s.*m.place == kInRegisters) plan.weight_registers += words;
    const int64_t bytes = int64_t(4) * words * s.threads * s.blocks;
    (s.*m.place == kInL2 ? plan.streamed_bytes : plan.resident_bytes) += bytes;
  }
  plan.shared_bytes = int(std::min<int64_t>(4 * shared, INT32_MAX));
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
  for (const Matrix& m : matrices(s))
    s.*m.at = place(int64_t(words_of(s, m)) * s.blocks * s.threads);
  s.inner_bias_at = place(s.hidden);
  s.fc_bias_at = place(s.fc + s.classes);
  s.table_at = place(table_words(s));
  plan.packed_words = at;
}

// --- the model of a sample --------------------------------------------------------------------

// As in plan/gpu.cpp, where each figure is explained.
Latency predict(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const DeviceLimits& d = plan.request.limits;
  const int schedulers = d.arch < 70 ? 2 : 4;
  const auto pace = [schedulers](int warps) {
    return std::max(1.6, double(up(warps, schedulers)));
  };
  const double share = pace(s.warps);
  const auto cycles = [&d](double us) { return int(us * d.clock_khz / 1000.0); };
  const auto rows = [share](int slots, int pairs, int place) {
    return int(110 + share * slots * pairs * (place == kInShared ? 5 : 3) + 90 + 20 * slots);
  };
  Latency l;
  l.stretches = 1;
  l.exchanges = s.exchanges;
  // The row of the label: nobody can ask for it before the draw. From L2, or from memory where the
  // table and what is streamed leave no room for it there.
  const bool near = 4 * table_words(s) + plan.streamed_bytes <= d.l2_bytes;
  const int table = near ? 320 : 800;
  const int busy = up(std::min(s.hidden / 2, s.threads), 32);
  l.gates = table + int(100 + 100 * s.gate_rounds * pace(busy) + 60);
  l.product = rows(s.fc1_slots, s.hidden_pairs, s.fc1_place) +
              rows(s.fc2_slots, s.fc_pairs, s.fc2_place) + 3 * 30;
  // One warp, as in the residual core.
  l.draw = (d.arch < 80 ? 500 : 400) + 60 + 40 * std::max(0, s.draw_pairs - 4);
  l.hop = cycles(hop_us(d.arch, s.blocks));
  // Words beyond 448 take 0.24 ns each; a product in the shadow may take longer than the words.
  const auto hop = [&](int words, int shadow) {
    return std::max(l.hop + cycles(0.00024 * std::max(0, words - 448)), shadow);
  };
  const int recurrent = rows(3 * s.unit_slots, s.hidden_pairs, s.gru_place) + 100;
  // Behind the logits the words of the next gates are read, three a unit.
  const int hops = hop(s.fc, recurrent) + hop(s.choice_words + 3 * s.hidden, 0);
  // More than eight warps were slower than this model has them (the dual core, docs/kernel.md).
  constexpr int kCrowded = 60;
  l.late = hops - l.exchanges * (l.hop - kCrowded * std::max(0, s.warps - 8));
  if (plan.streamed_bytes > 0) {
    const double bytes = double(plan.streamed_bytes);
    l.streamed = int(std::max(bytes / s.blocks / 64.0, bytes / 2560.0)) + 3 * 300;
  }
  return l;
}

bool fits(const GpuPlan& plan) {
  const GpuRequest& r = plan.request;
  const Shape& s = plan.shape;
  // The compiler counts a block in whole rounds of its four schedulers.
  const int registers = std::min(255, r.limits.registers / (128 * up(s.warps, 4)) / 8 * 8);
  return plan.weight_registers + working_registers(r.limits, s) <= registers &&
         plan.shared_bytes <= r.limits.shared_per_block && plan.streamed_bytes <= r.limits.l2_bytes;
}

// The best places of the matrices for these blocks and warps, if any fit.
bool best_places(GpuPlan& plan) {
  Shape& s = plan.shape;
  if (3 * s.unit_slots > kMostSums || std::max(s.fc1_slots, s.fc2_slots) > kMostSums) return false;
  std::optional<Shape> best;
  Latency least;
  for (const auto& places : kPlaces) {
    s.gru_place = places[0];
    s.fc1_place = places[1];
    s.fc2_place = places[2];
    count_bytes(plan);
    if (!fits(plan)) continue;
    const Latency latency = predict(plan);
    if (best && latency.total() >= least.total()) continue;
    best = s;
    least = latency;
  }
  if (!best) return false;
  s = *best;
  plan.latency = least;
  return true;
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
  const int64_t weights = 3 * h * h + f * h + c.n_classes * f;
  fail<DeviceError>(
      "The model does not fit on ", d.name, ": ", weights, " weights in ",
      dtype_name(request.dtype), " are ", weights * (request.dtype == Dtype::fp16 ? 2 : 4),
      " bytes, more than its L2 of ", d.l2_bytes, " bytes can stream and more than its ",
      d.multiprocessors, " multiprocessors can hold (about ",
      int64_t(d.multiprocessors) * (4 * (d.registers - 256 * 60) + d.shared_per_block),
      " bytes). Use ", request.dtype == Dtype::fp16 ? "" : "dtype=\"fp16\", ",
      "a smaller model or device=\"cpu\".");
}

void check_request(const GpuRequest& request) {
  check_embedded_model(request.config);
  if (request.dtype != Dtype::fp32 && request.dtype != Dtype::fp16)
    fail<DeviceError>("dtype ", dtype_name(request.dtype),
                      " is not available on a GPU; use fp32 or fp16.");
  const int most = std::min(request.limits.multiprocessors, request.config.hidden_size);
  WF_CHECK(request.blocks >= 0 && request.blocks <= most, "blocks is ", request.blocks,
           ", expected 1 to ", most, ": at most one a multiprocessor, and a unit for each");
  WF_CHECK(request.exchanges == 0 || request.exchanges == 2, "exchanges is ", request.exchanges,
           ": the kernel of the embedded core has two a sample; use exchanges=2 or 0");
  WF_CHECK(request.cluster == 0 || request.cluster == 1, "cluster is ", request.cluster,
           ": the kernel of the embedded core has no clusters; use cluster=1");
  WF_CHECK(request.warps >= 0 && request.warps <= kMostWarps, "warps is ", request.warps,
           ", expected 1 to ", kMostWarps);
}

const char* place_name(int place) {
  return place == kInRegisters ? "registers" : place == kInShared ? "shared memory" : "L2";
}

}  // namespace

void check_embedded_model(const ModelConfig& c) {
  WF_CHECK(c.head == Head::softmax, "the embedded core draws labels; this model has another head");
  WF_CHECK(c.hidden_size % 2 == 0 && c.hidden_size > 0, "hidden_size is ", c.hidden_size,
           ", the GPU kernel needs an even number");
  WF_CHECK(c.fc_size > 0, "fc_size is ", c.fc_size, ", expected at least 1");
  if (c.n_classes > kMostLabels)
    fail<DeviceError>("The GPU kernel draws from at most ", kMostLabels, " labels; this model has ",
                      c.n_classes, ". Use device=\"cpu\".");
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
  const int most = std::min(request.limits.multiprocessors, request.config.hidden_size);
  std::optional<GpuPlan> best;
  GpuPlan plan;
  plan.request = request;
  for (int blocks = std::max(1, request.blocks); blocks <= (request.blocks ? request.blocks : most);
       ++blocks)
    for (const int warps :
         request.warps ? std::vector<int>{request.warps} : std::vector<int>{8, 4, 12, 16}) {
      plan.shape = make_shape(request, blocks, warps);
      lay_out_shared(plan.shape);
      if (!best_places(plan)) continue;
      // Of equals the one with fewer blocks: fewer readers of every word.
      if (best && plan.latency.total() >= best->latency.total()) continue;
      best = plan;
    }
  if (!best) does_not_fit(request);
  count_bytes(*best);
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
