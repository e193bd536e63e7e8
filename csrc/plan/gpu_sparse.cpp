#include "plan/gpu_sparse.h"

#include <algorithm>
#include <climits>
#include <numeric>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kClasses = 256;
constexpr int kColumnWords = 64;  // of a head, before its runs
constexpr int kMostWarps = 16;    // a thread of more has too few registers
constexpr int kMostBins = 1023;   // of a block: the kernel counts them in 10 bits
constexpr int kArgsWords = 64;    // static_assert in the kernel

int most_runs(const BinnedMatrix& m) {
  size_t most = 1;
  for (const Bin& bin : m.bins) most = std::max(most, bin.runs.size());
  return int(most);
}

Shape make_shape(const SparseRequest& request, const BinnedModel& model, int cluster, int chain,
                 int recurrent) {
  const ModelConfig& c = request.gpu.config;
  Shape s;
  s.hidden = c.hidden_size;
  s.half = c.half();
  s.fc = round_up(c.fc_size, 2);
  s.blocks = s.cluster = cluster;  // of a team: the kernel knows of no other
  s.warps = chain + recurrent;
  s.threads = 32 * s.warps;
  s.chain_warps = chain;
  s.gate_threads = 32 * chain;
  s.half_pairs = ceil_div(s.half, 64);
  s.fc_pairs = ceil_div(s.fc, 64);
  s.gate_rounds = ceil_div(s.half / 2, s.gate_threads);
  s.taps = c.interp_size() > 0 ? c.taps() : 0;
  s.fp16 = request.gpu.dtype == Dtype::fp16;
  s.exact = request.gpu.exact;
  s.clocks = request.gpu.clocks;
  s.tile_rows = model.tile.rows;
  s.tile_cols = model.tile.cols;
  const auto& m = model.matrices;
  s.gru_runs = std::max(most_runs(m[0]), most_runs(m[1]));
  s.fc1_runs = std::max(most_runs(m[2]), most_runs(m[4]));
  s.fc2_runs = std::max(most_runs(m[3]), most_runs(m[5]));
  s.head_words = kColumnWords + round_up(std::max({s.gru_runs, s.fc1_runs, s.fc2_runs}), 4);
  return s;
}

// Every group to the warp that has fewest bins so far, larger groups first.
std::vector<std::vector<int>> deal(const BinnedMatrix& m, int owners, bool backwards) {
  std::vector<std::vector<int>> bins_of(static_cast<size_t>(owners));
  std::vector<std::vector<int>> groups = m.groups;
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.size() > b.size(); });
  for (const std::vector<int>& group : groups) {
    int to = -1;
    for (int i = 0; i < owners; ++i) {
      const int owner = backwards ? owners - 1 - i : i;
      if (to < 0 || bins_of[size_t(owner)].size() < bins_of[size_t(to)].size()) to = owner;
    }
    auto& bins = bins_of[size_t(to)];
    bins.insert(bins.end(), group.begin(), group.end());
  }
  return bins_of;
}

// The coarse rows of R to the blocks of the team in turn, so that owner i is warp i / parts of
// block i % parts; the fine rows backwards: warps that have a bin more of the one have it less of
// the other.
void deal_bins(SparsePlan& plan) {
  const Shape& s = plan.shape;
  const int warps = recurrent_warps(s), parts = s.cluster;
  for (int i = 0; i < kSparseMatrices; ++i) {
    const BinnedMatrix& m = plan.model->matrices[size_t(i)];
    if (i >= 2) {
      plan.bins_of.push_back(deal(m, s.chain_warps, false));
      continue;
    }
    const auto owners = deal(m, parts * warps, i == 1);
    std::vector<std::vector<int>> by_part(owners.size());
    for (int o = 0; o < parts * warps; ++o)
      by_part[size_t(o % parts * warps + o / parts)] = owners[size_t(o)];
    plan.bins_of.push_back(std::move(by_part));
  }
}

int most_bins(const std::vector<std::vector<int>>& owners) {
  size_t most = 0;
  for (const auto& bins : owners) most = std::max(most, bins.size());
  return int(most);
}

// Registers a thread that the compiler needs besides weights, of `all`: more for the chain than for
// the warps that multiply R, and more for tiles of 16 rows, whose sums a lane holds at once.
// Counted on its reports (tests/test_sparse_compile.py asserts that no plan of the table spills).
int working_registers(const Shape& s, bool chain, int all, int arch) {
  const int tall = s.tile_rows == 16 ? 12 : 0;
  const bool volta = arch >= 70 && arch < 80;
  return tall + (!chain ? 60 : all == 255 && !volta ? 63 : 72);
}

// As many bins of a warp in registers as there is room for, of those that are waited for first.
void keep_in_registers(SparsePlan& plan) {
  Shape& s = plan.shape;
  const int registers = std::min(255, plan.request.gpu.limits.registers / s.threads / 8 * 8);
  int most = 0;
  for (const std::vector<int>& role : {std::vector<int>{0, 1}, std::vector<int>{2, 4, 3, 5}}) {
    const int working = working_registers(s, role[0] == 2, registers, plan.request.gpu.limits.arch);
    const int room = std::max(0, registers - working) / chunk_words(s);
    int left = room;
    for (const int i : role) {
      s.*kSparseKept[i] = std::min(left, most_bins(plan.bins_of[size_t(i)]));
      left -= s.*kSparseKept[i];
    }
    most = std::max(most, room - left);
  }
  plan.weight_registers = chunk_words(s) * most;
}

// Bins of one block of a team, and how many of them are in shared memory.
struct Count {
  int bins = 0, shared = 0;
};

Count count_bins(const SparsePlan& plan, int part) {
  const Shape& s = plan.shape;
  Count count;
  for (int i = 0; i < kSparseMatrices; ++i) {
    const int warps = i < 2 ? recurrent_warps(s) : s.chain_warps;
    for (int w = 0; w < warps; ++w) {
      const int bins = int(plan.bins_of[size_t(i)][size_t(i < 2 ? part * warps + w : w)].size());
      count.bins += bins;
      count.shared += std::max(0, bins - s.*kSparseKept[i]);
    }
  }
  return count;
}

Count most_counted(const SparsePlan& plan) {
  Count most;
  for (int part = 0; part < plan.shape.cluster; ++part) {
    const Count count = count_bins(plan, part);
    most = {std::max(most.bins, count.bins), std::max(most.shared, count.shared)};
  }
  return most;
}

void lay_out_shared(SparsePlan& plan) {
  Shape& s = plan.shape;
  const Count count = most_counted(plan);
  auto place = [at = kSharedControl](int words) mutable {
    const int from = at;
    at += round_up(words, 4);
    return from;
  };
  s.shared_args = place(kArgsWords);
  s.shared_arrivals = place(13);  // four, two flags, three inputs of the gates
  s.shared_hidden = place(2 * s.hidden);
  s.shared_y = place(64 * s.fc_pairs);
  s.shared_logits = place(kClasses);
  s.shared_chance = place(2 * 64);
  s.shared_pre = place((s.cluster > 1 ? 2 : 1) * 3 * s.hidden);
  s.shared_partials = place(s.warps * 32 * s.tile_rows);
  s.shared_biases = place(2 * (64 * s.fc_pairs + kClasses));
  s.shared_sample = place((s.coarse_sample_place == kInShared ? 15 : 9) * s.half);
  s.shared_places = place(4 * s.warps);
  s.shared_heads = place(count.bins * s.head_words);
  s.shared_weights = place(0);
  const int64_t words = s.shared_weights + int64_t(count.shared) * 32 * chunk_words(s);
  plan.shared_bytes = int(std::min<int64_t>(4 * words, INT32_MAX));
}

void lay_out_packed(SparsePlan& plan) {
  Shape& s = plan.shape;
  int64_t bins = 0;
  for (const BinnedMatrix& m : plan.model->matrices) bins += int64_t(m.bins.size());
  const int shares = 2 * s.cluster * recurrent_warps(s) + 4 * s.chain_warps;
  s.heads_at = round_up(2 * shares, 4);
  const int64_t bins_at = s.heads_at + bins * s.head_words;
  const int64_t end = bins_at + bins * 32 * chunk_words(s);
  WF_CHECK(end < INT32_MAX / 2, "The packed weights of ", plan.request.gpu.config.describe(),
           " exceed 2^30 words.");
  s.bins_at = int(bins_at);
  plan.packed_words = lay_out_vectors(s, int(end));
}

// Teams side by side. Clusters of 8: 15 fit on the 132 multiprocessors of an H100, since those of a
// cluster are neighbours; the driver is asked before a launch.
int teams_of(const DeviceLimits& d, int cluster) {
  const int all = d.multiprocessors / cluster;
  return cluster > 2 ? std::max(1, all * 15 / 16) : all;
}

std::optional<SparsePlan> plan_of(const SparseRequest& request,
                                  const std::shared_ptr<const BinnedModel>& model, int cluster,
                                  int chain, int recurrent) {
  SparsePlan plan;
  plan.request = request;
  plan.model = model;
  plan.shape = make_shape(request, *model, cluster, chain, recurrent);
  deal_bins(plan);
  keep_in_registers(plan);
  for (const Place coarse_sample : {kInShared, kInL2}) {
    plan.shape.coarse_sample_place = coarse_sample;
    lay_out_shared(plan);
    if (plan.shared_bytes > request.gpu.limits.shared_per_block) continue;
    if (most_counted(plan).bins > kMostBins) continue;
    lay_out_packed(plan);
    plan.teams = teams_of(request.gpu.limits, cluster);
    if (plan.teams < 1) return std::nullopt;
    plan.resident_bytes = 0;
    for (int part = 0; part < cluster; ++part)
      plan.resident_bytes += int64_t(count_bins(plan, part).bins) * 128 * chunk_words(plan.shape);
    plan.latency = predict_sparse(plan);
    return plan;
  }
  return std::nullopt;
}

[[noreturn]] void does_not_fit(const SparseRequest& request, const BinnedModel& model) {
  const DeviceLimits& d = request.gpu.limits;
  int64_t recurrent = 0, outputs = 0;
  for (int i = 0; i < kSparseMatrices; ++i)
    (i < 2 ? recurrent : outputs) += int64_t(model.matrices[size_t(i)].bins.size());
  const int64_t bytes = 32 * kChunkTiles * kTileWeights * int64_t(dtype_bytes(request.gpu.dtype));
  const std::string team =
      d.arch >= 90 ? "which the blocks of a team share, at most 8" : "which one block must hold";
  const char* smaller = request.gpu.dtype == Dtype::fp32 ? "Use dtype=\"fp16\", p" : "P";
  fail<DeviceError>(
      "The pruned model does not fit on ", d.name, ": in tiles of ", model.tile.name(), " R is ",
      recurrent * bytes, " bytes in ", dtype_name(request.gpu.dtype), ", ", team,
      ", and O1 to O4 are ", outputs * bytes, " bytes, which every block keeps; it has ",
      4 * int64_t(d.registers), " bytes of registers, some for its own use, and ",
      d.shared_per_block, " of shared memory. ", smaller, "rune more, or use sparse=\"off\".");
}

void check_request(const SparseRequest& request) {
  const GpuRequest& r = request.gpu;
  if (r.config.core != Core::dual)
    fail<DeviceError>(
        "The GPU kernel for pruned models runs the dual core only; use sparse=\"off\", or "
        "device=\"cpu\".");
  WF_CHECK(r.dtype == Dtype::fp32 || r.dtype == Dtype::fp16, "dtype ", dtype_name(r.dtype),
           " has no GPU kernel; there are fp32 and fp16");
  WF_CHECK(r.exchanges == 0 && r.blocks == 0, "exchanges is ", r.exchanges, " and blocks is ",
           r.blocks, ": only the dense plan has a choice of these; use sparse=\"off\" or 0");
  WF_CHECK(r.cluster == 0 || r.cluster == 1 || r.cluster == 2 || r.cluster == 4 || r.cluster == 8,
           "cluster is ", r.cluster, "; a team of a pruned model has 1, 2, 4 or 8 blocks");
  WF_CHECK(r.warps >= 0 && r.warps <= kMostWarps, "warps is ", r.warps, "; expected at most ",
           kMostWarps);
  if (r.cluster > 1 && r.limits.arch < 90)
    fail<DeviceError>(r.limits.name, " has no clusters of blocks (compute capability 9.0 has).");
}

bool better(const SparsePlan& a, const SparsePlan& b) {
  if (a.request.many) return a.predicted_throughput() > b.predicted_throughput();
  return a.latency.total() < b.latency.total();
}

}  // namespace

double SparsePlan::predicted_samples_per_s() const {
  return 1000.0 * request.gpu.limits.clock_khz / latency.total();
}

bool is_pruned(const BinnedModel& model) { return model.sparsity() >= 0.5; }

SparsePlan choose_sparse_plan(const SparseRequest& request,
                              const std::shared_ptr<const BinnedModel>& model) {
  check_request(request);
  const GpuRequest& r = request.gpu;
  std::optional<SparsePlan> best;
  for (const int cluster : {1, 2, 4, 8}) {
    if (r.cluster ? cluster != r.cluster : cluster > 1 && r.limits.arch < 90) continue;
    for (const int chain : {8, 4, 12, 2, 1})
      for (const int recurrent : {8, 4, 12, 2, 1}) {
        const int warps = chain + recurrent;
        if (r.warps ? warps != r.warps : warps > kMostWarps || std::min(chain, recurrent) < 4)
          continue;
        const auto plan = plan_of(request, model, cluster, chain, recurrent);
        if (plan && (!best || better(*plan, *best))) best = plan;
      }
  }
  if (!best) does_not_fit(request, *model);
  return *best;
}

std::string SparsePlan::describe_sparsity() const {
  std::ostringstream out;
  out << int64_t(1000 * model->sparsity() + 0.5) / 10.0 << " % of the weights are in zero "
      << model->tile.name() << " blocks";
  return out.str();
}

std::string SparsePlan::describe() const {
  const Shape& s = shape;
  std::ostringstream out;
  const GpuRequest& r = request.gpu;
  out << r.config.describe() << "\n"
      << "sparse: " << describe_sparsity() << "\n"
      << r.limits.name << ": " << teams << " teams of " << s.cluster
      << (s.cluster > 1 ? " blocks (clusters)" : " block") << ", one stream each, " << s.chain_warps
      << " + " << recurrent_warps(s) << " warps a block, " << dtype_name(r.dtype)
      << (s.exact ? ", exact" : "") << "\n"
      << weight_registers << " registers a thread hold weights, " << shared_bytes
      << " bytes of shared memory a block, " << resident_bytes << " bytes resident in a team"
      << (s.coarse_sample_place == kInL2 ? ", coarse input weights in L2" : "") << "\n"
      << "predicted: " << latency.total() << " cycles a sample, "
      << int64_t(predicted_samples_per_s()) << " samples/s; " << int64_t(predicted_throughput())
      << " samples/s in all teams\n";
  return out.str();
}

}  // namespace wavernn_fast::gpu
