#include "plan/gpu.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_residual.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kClasses = 256;
constexpr int kMostSums = 32;     // one warp reduces at most this many rows at once
constexpr int kMostBlocks = 255;  // a sum counts them in 8 bits
constexpr int kMostWarps = 16;    // a thread of more warps has too few registers for weights
constexpr int kMostInCluster = 16;

int most_dealt(int n, int blocks) {
  int most = 0;
  for (int b = 0; b < blocks; ++b)
    most = std::max(most, part_begin(n, blocks, b + 1) - part_begin(n, blocks, b));
  return most;
}

int pow2_from(int n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}

// Where R, O1 with O3, O2 and O4 live, best first.
using Places = std::array<Place, 4>;
constexpr Place R = kInRegisters, S = kInShared, L = kInL2;
constexpr Places kPlaces[] = {{R, R, R, R}, {R, R, R, S}, {R, R, S, S}, {R, S, R, R}, {R, S, R, S},
                              {R, S, S, S}, {R, S, S, L}, {R, S, L, L}, {R, L, L, L}, {L, R, R, R},
                              {L, R, S, S}, {L, S, S, S}, {L, L, L, L}};
// In a cluster a block has more of the output layers, and R, in the shadow of the waits, is the
// first to go to shared memory.
constexpr Places kClusterPlaces[] = {{R, R, R, R}, {S, R, R, R}, {S, R, R, S}, {S, R, S, S},
                                     {R, S, R, R}, {R, S, S, S}, {S, S, R, R}, {S, S, S, S}};

struct Matrix {
  int Shape::* place;
  int Shape::* at;
  int pairs;  // a lane
  int parts;  // dealt to so many blocks; others have copies
};

std::vector<Matrix> matrices(const Shape& s) {
  const int gru = 6 * s.unit_slots * s.half_pairs;
  const int fc1 = s.fc1_slots * s.half_pairs;
  const int fc2 = s.exchanges == 4 ? s.fc2_slots * s.fc_pairs : s.class_rounds * s.y_pairs;
  const int parts = output_parts(s);
  return {{&Shape::gru_place, &Shape::gru_at, gru, s.blocks},
          {&Shape::fc1_place, &Shape::coarse_fc1_at, fc1, parts},
          {&Shape::coarse_fc2_place, &Shape::coarse_fc2_at, fc2, parts},
          {&Shape::fc1_place, &Shape::fine_fc1_at, fc1, parts},
          {&Shape::fine_fc2_place, &Shape::fine_fc2_at, fc2, parts}};
}

Shape make_shape(const GpuRequest& request, int exchanges, int blocks, int warps, int cluster) {
  const ModelConfig& c = request.config;
  Shape s;
  s.hidden = c.hidden_size;
  s.half = c.half();
  s.fc = round_up(c.fc_size, 2);  // words travel in pairs; a row more is zero
  s.blocks = blocks;
  s.warps = warps;
  s.threads = s.gate_threads = 32 * warps;
  s.unit_slots = ceil_div(2 * most_dealt(s.half, blocks), warps);
  s.cluster = cluster;
  const int parts = output_parts(s);
  s.fc1_slots = ceil_div(most_dealt(s.fc, parts), warps);
  s.exchanges = exchanges;
  s.fc2_slots = exchanges == 4 ? ceil_div(most_dealt(kClasses, parts), warps) : 0;
  s.class_rounds = exchanges == 2 ? ceil_div(kClasses, s.threads) : 0;
  s.y_pairs = exchanges == 2 ? ceil_div(most_dealt(s.fc, blocks), 2) : 0;
  s.row_slots = std::max(s.fc1_slots, s.fc2_slots);
  s.half_pairs = ceil_div(s.half, 64);
  s.fc_pairs = ceil_div(s.fc, 64);
  s.gate_rounds = ceil_div(s.half / 2, s.threads);
  s.fc_rounds = ceil_div(s.fc / 2, s.threads);
  s.taps = c.interp_size() > 0 ? c.taps() : 0;
  s.fp16 = request.dtype == Dtype::fp16;
  s.exact = request.exact;
  s.clocks = request.clocks;
  return s;
}

int pair_words(const Shape& s) { return s.fp16 ? 1 : 2; }

void lay_out_weights(GpuPlan& plan) {
  Shape& s = plan.shape;
  int64_t at = 0;
  for (const Matrix& m : matrices(s)) {
    s.*m.at = int(at);
    at += int64_t(m.pairs) * m.parts * s.threads * pair_words(s);
    WF_CHECK(at < INT32_MAX / 2, "The packed weights of ", plan.request.config.describe(),
             " exceed 2^30 words.");
  }
  plan.packed_words = lay_out_vectors(s, int(at));
}

void lay_out_shared(GpuPlan& plan) {
  Shape& s = plan.shape;
  const bool clusters = s.cluster > 1;
  s.shared_arrivals = kSharedControl;
  s.shared_hidden = s.shared_arrivals + (clusters ? 4 : 0);
  s.shared_y = s.shared_hidden + 2 * 64 * s.half_pairs;
  s.shared_seen = s.shared_y + (s.exchanges == 4 ? 64 * s.fc_pairs : round_up(2 * s.y_pairs, 4));
  s.shared_logits = s.shared_seen + (s.exchanges == 2 ? 4 * kClasses : 0);
  s.shared_chance = s.shared_logits + (clusters ? kClasses : 0);
  s.shared_rows = s.shared_chance + 2 * 64;
  s.shared_gate_rows = s.shared_rows + 4 * s.warps * s.row_slots * 2;
  s.shared_sample = s.shared_gate_rows + 4 * s.warps * 3 * s.unit_slots;
  const int kept = s.coarse_sample_place == kInShared ? 15 : 9;
  s.shared_weights = round_up(s.shared_sample + kept * s.half, 4);
  int64_t words = s.shared_weights;
  plan.weight_registers = 0;
  plan.resident_bytes = plan.streamed_bytes = 0;
  for (const Matrix& m : matrices(s)) {
    const int per_lane = m.pairs * pair_words(s);
    if (s.*m.place == kInShared) words += per_lane * s.threads;
    if (s.*m.place == kInRegisters) plan.weight_registers += per_lane;
    const int64_t bytes = int64_t(4) * per_lane * s.threads * s.blocks;
    (s.*m.place == kInL2 ? plan.streamed_bytes : plan.resident_bytes) += bytes;
  }
  plan.shared_bytes = int(std::min<int64_t>(4 * words, INT32_MAX));
}

// --- the model of a sample --------------------------------------------------------------------

// The same for sums that every block adds to: 1.05 at 16 blocks, 1.14 at 28, 1.62 at 56, 2.22 at
// 84, 2.82 at 112, 3.25 at 132. Additions to one word follow each other, some 40 cycles apart.
double sum_us(int arch, int blocks) {
  const double few = hop_us(arch, 0) + 0.43;
  return std::max(few, few - 0.63 + 0.0214 * blocks);
}

// One exchange within a cluster. Measured on an H200 with one cluster of 8 blocks and 448 values
// (same file): 0.30 us for a whole step of the benchmark, the next value and its sending included;
// 0.59 with 16 blocks. Not measured: many clusters at once.
double cluster_us(int cluster) { return cluster <= 8 ? 0.30 : 0.59; }

Latency predict(const GpuPlan& plan) {
  const Shape& s = plan.shape;
  const DeviceLimits& d = plan.request.limits;
  const int schedulers = d.arch < 70 ? 2 : 4;
  // Cycles from one instruction of a warp to its next: other warps of its scheduler are in between,
  // and a warp alone waits for its own results.
  const auto pace = [schedulers](int warps) {
    return std::max(1.6, double(ceil_div(warps, schedulers)));
  };
  const double share = pace(s.warps);
  Latency l;
  // About 100 instructions a pair of units, in the warps that have one; latency of the chain 100.
  const int busy = ceil_div(std::min(s.half / 2, s.threads), 32);
  l.gates = int(100 + 100 * s.gate_rounds * pace(busy) + 60);
  // Rows: shared reads, multiply-adds, the shuffles of their sums; weights that are themselves in
  // shared memory cost a read of two cycles a pair.
  const auto rows = [share](int slots, int pairs, int place) {
    const int pair = place == kInShared ? 5 : 3;
    return int(110 + share * slots * pairs * pair + 90 + 20 * slots);
  };
  const auto cycles = [&d](double us) { return int(us * d.clock_khz / 1000.0); };
  const int shadow = int(share * s.half_pairs * (6 * s.unit_slots + 1)) +
                     60 * pow2_from(3 * s.unit_slots) / 8 + 100;
  l.exchanges = s.exchanges;
  l.draw = d.arch < 80 ? 500 : 400;
  if (s.exchanges == 4) {
    const int logits = rows(s.fc2_slots, s.fc_pairs, s.fine_fc2_place);
    l.product = rows(s.fc1_slots, s.half_pairs, s.fc1_place) + logits + 60;
    const int hop = cycles(hop_us(d.arch, s.blocks));
    if (s.cluster > 1) {
      // Words of the next gates go through L2 meanwhile: from R h of the fine half to its draw.
      l.hop = std::max(cycles(cluster_us(s.cluster)), shadow);
      l.late = std::max(0, shadow + hop - (2 * l.hop + logits + l.draw));
    } else {
      l.hop = std::max(hop, shadow);
    }
  } else {
    // Own y to all threads; products in fixed point.
    l.product = rows(s.fc1_slots, s.half_pairs, s.fc1_place) + 80 + 60 +
                share * 20 * s.class_rounds * s.y_pairs;
    l.hop = std::max(cycles(sum_us(d.arch, s.blocks)), shadow);
  }
  if (plan.streamed_bytes > 0) {
    // 64 bytes a clock a multiprocessor, and the whole L2 about 40 times that; latency once a
    // layer.
    const double bytes = double(plan.streamed_bytes);
    l.streamed = int(std::max(bytes / s.blocks / 64.0, bytes / 2560.0)) + 5 * 300;
  }
  return l;
}

bool fits(const GpuPlan& plan) {
  const GpuRequest& r = plan.request;
  const int registers = std::min(255, r.limits.registers / plan.shape.threads / 8 * 8);
  return plan.weight_registers + working_registers(r.limits, plan.shape) <= registers &&
         plan.shared_bytes <= r.limits.shared_per_block && 3 * plan.shape.unit_slots <= kMostSums &&
         plan.shape.row_slots <= kMostSums && plan.streamed_bytes <= r.limits.l2_bytes;
}

// The plan with these places and these input weights of the coarse half, if it fits.
bool place(GpuPlan& plan, const Places& places, Place coarse_sample) {
  plan.shape.gru_place = places[0];
  plan.shape.fc1_place = places[1];
  plan.shape.coarse_fc2_place = places[2];
  plan.shape.fine_fc2_place = places[3];
  plan.shape.coarse_sample_place = coarse_sample;
  lay_out_shared(plan);
  if (!fits(plan)) return false;
  lay_out_weights(plan);
  plan.latency = predict(plan);
  return true;
}

std::optional<GpuPlan> best_places(const GpuRequest& request, int exchanges, int blocks, int warps,
                                   int cluster) {
  GpuPlan plan;
  plan.request = request;
  plan.shape = make_shape(request, exchanges, blocks, warps, cluster);
  if (cluster == 1) {
    for (const Places& p : kPlaces)
      if (place(plan, p, kInShared)) return plan;
    return std::nullopt;
  }
  // 28 KB of L1 are left beside full shared memory, so that these few stay near.
  for (const Place coarse_sample : {kInShared, kInL2})
    for (const Places& p : kClusterPlaces)
      if (place(plan, p, coarse_sample)) return plan;
  return std::nullopt;
}

[[noreturn]] void does_not_fit(const GpuRequest& request) {
  const DeviceLimits& d = request.limits;
  if (request.blocks || request.warps || request.cluster > 1)
    fail<DeviceError>(
        "The model does not fit on ", d.name, " with blocks=", request.blocks,
        ", warps=", request.warps, ", cluster=", request.cluster, " (0: any). A warp owns at most ",
        kMostSums, " rows of a matrix, a thread at most 255 registers, a block at most ",
        d.shared_per_block, " bytes of shared memory. Leave out what need not be so.");
  Shape usual;
  usual.exchanges = 4;
  const ModelConfig& c = request.config;
  const int64_t weights =
      3 * int64_t(c.hidden_size) * c.hidden_size + 2 * int64_t(c.fc_size) * (c.half() + kClasses);
  const int64_t bytes = weights * (request.dtype == Dtype::fp16 ? 2 : 4);
  fail<DeviceError>(
      "The model does not fit on ", d.name, ": ", weights, " weights in ",
      dtype_name(request.dtype), " are ", bytes, " bytes, more than its L2 of ", d.l2_bytes,
      " bytes can stream and more than its ", d.multiprocessors,
      " multiprocessors can hold (about ",
      int64_t(d.multiprocessors) *
          (4 * (d.registers - 256 * working_registers(d, usual)) + d.shared_per_block),
      " bytes). Use ", request.dtype == Dtype::fp16 ? "" : "dtype=\"fp16\", ",
      "a smaller model or device=\"cpu\".");
}

void check_cluster(const GpuRequest& request) {
  const int cluster = request.cluster;
  check_cluster_size(request);
  if (cluster < 2) return;
  WF_CHECK(request.exchanges != 2, "exchanges is 2 and cluster ", cluster,
           ": blocks of a cluster have four exchanges a sample");
  WF_CHECK(request.blocks % cluster == 0, "blocks is ", request.blocks,
           ", expected a multiple of the cluster's ", cluster);
}

void check_request(const GpuRequest& request) {
  const ModelConfig& c = request.config;
  check_model(c);
  if (request.dtype != Dtype::fp32 && request.dtype != Dtype::fp16)
    fail<DeviceError>("dtype ", dtype_name(request.dtype),
                      " is not available on a GPU; use fp32 or fp16.");
  WF_CHECK(
      request.blocks >= 0 && request.blocks <= std::min(request.limits.multiprocessors, c.half()),
      "blocks is ", request.blocks, ", expected 1 to ",
      std::min(request.limits.multiprocessors, c.half()),
      ": at most one a multiprocessor, and a unit of each half for each");
  WF_CHECK(request.exchanges == 0 || request.exchanges == 2 || request.exchanges == 4,
           "exchanges is ", request.exchanges, ", expected 2 or 4, or 0 for the planner's choice");
  check_cluster(request);
  WF_CHECK(request.warps >= 0 && request.warps <= kMostWarps, "warps is ", request.warps,
           ", expected 1 to ", kMostWarps);
}

}  // namespace

const char* place_name(int place) {
  return place == kInRegisters ? "registers" : place == kInShared ? "shared memory" : "L2";
}

void check_model(const ModelConfig& c) {
  if (c.core != Core::dual)
    fail<DeviceError>(
        "This GPU kernel runs the dual core; this model has another. Let one stream run at a time "
        "(gpu_streams=1; of an Engine streams=1), or use device=\"cpu\".");
  WF_CHECK(c.hidden_size % 32 == 0 && c.hidden_size > 0, "hidden_size is ", c.hidden_size,
           ", the GPU kernel needs a multiple of 32");
  WF_CHECK(c.fc_size > 0, "fc_size is ", c.fc_size, ", expected at least 1");
  WF_CHECK(c.n_classes == kClasses, "n_classes is ", c.n_classes, ", expected 256");
}

double hop_us(int arch, int blocks) {
  const double few = arch < 70 ? 0.73 : arch < 80 ? 0.52 : arch < 90 ? 0.67 : 0.62;
  return few + 0.0042 * std::max(0, blocks - 45);
}

void check_cluster_size(const GpuRequest& request) {
  const int cluster = request.cluster;
  WF_CHECK(cluster >= 0 && cluster <= kMostInCluster, "cluster is ", cluster, ", expected 0 to ",
           kMostInCluster);
  if (cluster > 1 && request.limits.arch < 90)
    fail<DeviceError>(
        "cluster is ", cluster, ": ", request.limits.name,
        " has no clusters (compute capability 9.0 and up have); use gpu_cluster=0 (of an Engine "
        "cluster=1).");
}

int output_parts(const Shape& shape) { return shape.cluster > 1 ? shape.cluster : shape.blocks; }

int working_registers(const DeviceLimits& limits, const Shape& shape) {
  if (shape.residual) return residual_registers(shape);
  if (shape.embedded) return embedded_registers(shape);
  if (shape.cluster > 1) return shape.warps > 8 ? 72 : 58;
  const bool pascal = limits.arch < 70, two = shape.exchanges == 2;
  if (!shape.fp16 || shape.unit_slots <= 2) {
    if (two && pascal) return 62;
    if (two) return limits.arch < 75 ? 74 : limits.arch < 100 ? 68 : 84;  // sm_120, NVRTC 13: 87
    return pascal ? 45 : 58;
  }
  // Two weights a register, so that a warp may own many rows, each with what it needs beside its
  // weights. Counted with 3 and 4 units on the models of 896 and 1024; 4 registers may spill.
  const bool rounds = shape.gate_rounds > 1;
  if (two) return pascal ? (rounds ? 125 : 108) : (rounds ? 103 : 86);
  if (shape.unit_slots == 3 || shape.fc1_place == kInL2) return 63;
  const int more = shape.unit_slots - 4;
  return pascal ? 107 + 35 * more : 76 + 9 * more;
}

GpuPlan choose_gpu_plan(const GpuRequest& request) {
  if (request.config.core == Core::residual) return choose_residual_plan(request);
  if (request.config.core == Core::embedded) return choose_embedded_plan(request);
  check_request(request);
  const int most = std::min({request.limits.multiprocessors, request.config.half(), kMostBlocks});
  std::optional<GpuPlan> best;
  // Of equals the one with fewer blocks: fewer readers of every word.
  const int cluster = std::max(1, request.cluster);
  const auto consider = [&](int exchanges, int blocks, int warps) {
    const std::optional<GpuPlan> plan = best_places(request, exchanges, blocks, warps, cluster);
    if (plan && (!best || plan->latency.total() < best->latency.total())) best = plan;
  };
  const auto or_all = [](int wanted, std::vector<int> all) {
    return wanted ? std::vector<int>{wanted} : all;
  };
  for (int blocks = request.blocks ? request.blocks : cluster;
       blocks <= (request.blocks ? request.blocks : most); blocks += cluster)
    for (int exchanges : or_all(cluster > 1 ? 4 : request.exchanges, {2, 4}))
      for (int warps : or_all(request.warps, {8, 4, 16})) consider(exchanges, blocks, warps);
  if (!best) does_not_fit(request);
  return *best;
}

double GpuPlan::predicted_samples_per_s() const {
  return 1000.0 * request.limits.clock_khz / latency.total() * request.config.bands;
}

std::string GpuPlan::describe() const {
  if (shape.residual) return describe_residual(*this);
  if (shape.embedded) return describe_embedded(*this);
  const Shape& s = shape;
  std::ostringstream out;
  out << request.config.describe() << "\n"
      << request.limits.name << ": " << s.blocks << " blocks of " << s.warps << " warps, "
      << (s.cluster > 1 ? "clusters of " + std::to_string(s.cluster) + ", " : "")
      << dtype_name(request.dtype) << (s.exact ? ", exact" : "") << ", " << s.exchanges
      << " exchanges a sample\n"
      << "a warp: " << s.unit_slots << " units, " << s.fc1_slots << " rows of fc1 a half; "
      << (s.exchanges == 4 ? s.fc2_slots : 2 * s.y_pairs)
      << (s.exchanges == 4 ? " rows of fc2\n" : " columns of fc2 a block\n") << "R in "
      << place_name(s.gru_place) << ", fc1 in " << place_name(s.fc1_place) << ", coarse fc2 in "
      << place_name(s.coarse_fc2_place) << ", fine fc2 in " << place_name(s.fine_fc2_place)
      << (s.coarse_sample_place == kInL2 ? ", coarse input weights in L2" : "") << "\n"
      << weight_registers << " registers a thread hold weights, " << shared_bytes
      << " bytes of shared memory a block, " << resident_bytes << " bytes resident, "
      << streamed_bytes << " bytes streamed a sample\n"
      << "predicted: " << latency.total() << " cycles a sample, "
      << int64_t(predicted_samples_per_s()) << " samples/s\n";
  return out.str();
}

std::vector<std::pair<std::string, std::string>> shape_macros(const Shape& shape) {
  std::vector<std::pair<std::string, std::string>> result;
#define WF_MACRO(field, constant, macro) result.emplace_back(#macro, std::to_string(shape.field));
  WF_SHAPE(WF_MACRO)
#undef WF_MACRO
  return result;
}

}  // namespace wavernn_fast::gpu
