#include "plan/gpu_many_parts.h"

#include <sstream>

#include "common/error.h"
#include "common/integers.h"
#include "plan/gpu_rows.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kFewestArch = 75;  // with mma of fp16 and fp32 sums

// A message within a cluster, microseconds, and nanoseconds of every further push that comes into a
// block. Measured on an H200 with values of 4 bytes (benchmarks/results/gpu_h200_first_run.json,
// "counted"): 56 values, and from 448 to 1,344. That a push of 16 bytes takes no longer than one of
// 4 is an assumption.
struct ClusterCost {
  double trip_us, push_ns;
};
ClusterCost cluster_cost(int blocks) {
  return blocks <= 8 ? ClusterCost{0.28, 0.24} : ClusterCost{0.32, 0.64};
}

// The rule that messages within a cluster rest on (many_cluster.cuh): every block has rows of the
// layer that gives logits, or if all have all of those, of the one before it.
bool every_block_hands_on(const Shape& s) {
  if (s.fc3_whole) return (s.blocks - 1) * s.fc1_tiles < s.fc_tiles;
  return (s.blocks - 1) * s.fc2_rows < (s.choice_words > 0 ? s.choice_words : 256);
}

// As many of a warp's `columns` tiles of columns in registers as there is room for.
void keep_in_registers(ManyPlan& plan, int columns) {
  Shape& s = plan.shape;
  const DeviceLimits& d = plan.request.gpu.limits;
  const int all = std::min(255, d.registers / s.threads / 8 * 8);
  const int room = all - many_working_registers(d.arch, s) - 12 * s.unit_tiles;
  s.gru_kept = std::clamp(room / (12 * s.unit_tiles), 0, columns);
  plan.weight_registers = 12 * s.unit_tiles * s.gru_kept;
}

// Of a team that is to be a cluster.
void check_team_cluster(const GpuRequest& r, int tiles, const char* what) {
  check_cluster_size(r);
  if (r.cluster < 2) return;
  WF_CHECK(r.blocks == 0 || r.blocks == r.cluster, "blocks is ", r.blocks, " and cluster ",
           r.cluster, ": of many streams a team is one cluster; leave blocks out");
  const int of_block = ceil_div(tiles, r.cluster), blocks = ceil_div(tiles, of_block);
  WF_CHECK(blocks == r.cluster, "cluster is ", r.cluster, ", but ", tiles, " times 16 units of ",
           what, " are dealt to ", blocks, " blocks, ", of_block,
           " times 16 each; use cluster=", blocks);
}

}  // namespace

void set_many_shape(Shape& s, const ManyRequest& request, int stream_tiles) {
  const GpuRequest& r = request.gpu;
  const ModelConfig& c = r.config;
  s.hidden = c.hidden_size;
  s.fc = c.fc_size;
  s.warps = r.warps ? r.warps : 8;
  s.threads = 32 * s.warps;
  s.fc_tiles = ceil_div(s.fc, 16);
  s.cluster = r.cluster > 1 ? s.blocks : 1;
  s.stream_tiles = stream_tiles;
  s.split = request.split;
  s.streams = stream_tiles * (request.split ? 4 : 8);
  // Each block draws for all streams, up to two a warp; from there on a message more is shorter. In
  // a cluster, where it is shorter yet, from one a warp on.
  s.draw_apart = s.streams > (s.cluster > 1 ? 1 : 2) * s.warps && s.blocks > 1;
  s.taps = c.interp_size() > 0 ? c.taps() : 0;
  s.fp16 = 1;
  s.exact = r.exact;
  s.clocks = r.clocks;
}

void PackedPlaces::place(int& field, int64_t tiles) {
  field = int(at_);
  at_ += tiles * kTileFloats;
  WF_CHECK(at_ < INT32_MAX / 2, "The packed weights of ", plan_.request.gpu.config.describe(),
           " exceed 2^30 words.");
}

std::optional<ManyPlan> form_many(const ManyRequest& request, const Shape& shape,
                                  const ManyCore& core) {
  ManyPlan plan;
  plan.request = request;
  plan.shape = shape;
  const DeviceLimits& d = request.gpu.limits;
  if (shape.cluster > 1 && !every_block_hands_on(shape)) return std::nullopt;
  plan.teams = d.multiprocessors / shape.blocks;
  const int working = many_working_registers(d.arch, shape);
  if (plan.teams < 1 || 12 * shape.unit_tiles + working > 255) return std::nullopt;
  keep_in_registers(plan, core.matrices * shape.gru_columns);
  core.lay_out_shared(plan);
  if (plan.shared_bytes > d.shared_per_block) return std::nullopt;
  core.lay_out_weights(plan);
  plan.latency = core.predict(plan);
  return plan;
}

ManyCosts::ManyCosts(const ManyPlan& plan, double bytes)
    : s_(plan.shape),
      bytes_(bytes),
      hop_(hop_us(plan.request.gpu.limits.arch, s_.blocks) * plan.request.gpu.limits.clock_khz /
           1000.0),
      push_(0),
      pace_(std::max(1.6, s_.warps / 4.0)) {
  if (s_.cluster == 1) return;
  constexpr int kBarrier = 60;  // before a block pushes
  const ClusterCost cost = cluster_cost(s_.blocks);
  const double cycles_of_us = plan.request.gpu.limits.clock_khz / 1000.0;
  hop_ = cost.trip_us * cycles_of_us + kBarrier;
  push_ = cost.push_ns * cycles_of_us / 1000.0;
}

double ManyCosts::layer(int rows, int columns, int place) const {
  const double tile = place == kInShared ? 4.0 : kTileFromL2;
  return 150 + tile * s_.stream_tiles * rows * columns + (place == kInShared ? 0 : 300) +
         meet(int64_t(16) * rows * s_.streams, s_.warps);
}

double ManyCosts::queued_layer(int rows, int columns, int place) const {
  const double queued = std::max(0.0, 4 * kTileFloats / bytes_ - kTileFromL2);  // a tile in L2
  return layer(rows, columns, place) +
         (place == kInL2 ? queued * s_.stream_tiles * rows * columns : 0.0);
}

double ManyCosts::unit_product(int matrices) const {
  const int all = matrices * s_.gru_columns;
  return 100 + 2.0 * 3 * s_.unit_tiles * s_.hidden_tiles * (1 + double(all - s_.gru_kept) / all);
}

double ManyCosts::ahead(int matrices, int64_t words, int loads, double conditioning) const {
  const int64_t items = int64_t(16) * s_.unit_tiles * (s_.split ? 4 : 8);  // of a tile of streams
  return reading(words) + s_.stream_tiles * (unit_product(matrices) + meet(3 * items, s_.warps) +
                                             50 + double(items) * loads * 4 / conditioning);
}

int ManyCosts::logits(int place) const {
  return int(queued_layer(s_.fc2_tiles, s_.fc_tiles, place)) +
         (s_.fc3_whole ? 40 : message(int64_t(s_.choice_words) * streams_drawn(s_), 1));
}

int ManyCosts::draw() const {
  const int one = s_.real != kNotReal
                      ? real_draw_cycles(s_.real)
                      : 400 + 40 * std::max(0, s_.draw_pairs - 4) + (s_.mixtures > 0 ? 150 : 0);
  const int words = (s_.cluster > 1 ? 1 : 2) * s_.bands;  // of an outcome
  return s_.bands * one * ceil_div(streams_drawn(s_), s_.warps) + 60 +
         (s_.draw_apart ? message(int64_t(words) * s_.streams, 1) : 0);
}

void check_many_request(const ManyRequest& request, int tiles, const char* what) {
  const GpuRequest& r = request.gpu;
  if (r.dtype != Dtype::fp16)
    fail<DeviceError>("Many streams side by side have their weights in fp16; dtype is ",
                      dtype_name(r.dtype), ". Use dtype=\"fp16\", or gpu_streams=1.");
  if (r.limits.arch < kFewestArch)
    fail<DeviceError>(r.limits.name, " has compute capability ", r.limits.arch / 10, ".",
                      r.limits.arch % 10,
                      "; many streams side by side need 7.5 or more. Use gpu_streams=1.");
  WF_CHECK(request.streams >= 0 && request.streams <= 1 << 16, "streams is ", request.streams,
           ", expected 0 (most samples) to 65536");
  WF_CHECK(r.warps == 0 || r.warps == 2 || r.warps == 4 || r.warps == 8 || r.warps == 16,
           "warps is ", r.warps, ", expected 2, 4, 8 or 16, or 0 for the planner's choice");
  WF_CHECK(r.blocks >= 0 && r.blocks <= tiles, "blocks is ", r.blocks, ", expected 1 to ", tiles,
           ": a team has 16 units of ", what, " a block");
  WF_CHECK(r.exchanges == 0,
           "exchanges is of plans for one stream; leave it out with gpu_streams other than 1");
  check_team_cluster(r, tiles, what);
}

bool is_better(const ManyRequest& request, const ManyPlan& a, const ManyPlan& b) {
  if (request.streams == 0) return a.predicted_throughput() > b.predicted_throughput();
  const bool a_enough = a.slots() >= request.streams, b_enough = b.slots() >= request.streams;
  if (a_enough != b_enough) return a_enough;
  if (!a_enough && a.slots() != b.slots()) return a.slots() > b.slots();
  return a.latency.total() < b.latency.total();
}

void does_not_fit_many(const ManyRequest& request, int tiles) {
  const GpuRequest& r = request.gpu;
  const DeviceLimits& d = r.limits;
  fail<DeviceError>("The model does not fit on ", d.name,
                    " for many streams side by side: ", r.config.hidden_size,
                    " units and outputs of ", r.config.fc_size,
                    " need more than the registers and the ", d.shared_per_block,
                    " bytes of shared memory of a block, in teams of at most ",
                    std::min(d.multiprocessors, r.cluster > 1 ? r.cluster : tiles),
                    r.cluster > 1 ? " blocks (cluster was given)"
                    : r.blocks    ? " blocks (blocks was given)"
                                  : " blocks",
                    ". Use gpu_streams=1.");
}

std::string describe_teams(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  std::ostringstream out;
  out << plan.request.gpu.config.describe() << "\n"
      << plan.request.gpu.limits.name << ": " << plan.teams
      << (plan.teams == 1 ? " team of " : " teams of ") << s.blocks
      << (s.blocks == 1 ? " block of " : " blocks of ") << s.warps << " warps, " << s.streams
      << " streams a team, " << plan.slots() << " in all, fp16"
      << (s.cluster > 1 ? ", every team a cluster" : "")
      << (s.split ? ", activations in two halves" : "") << (s.exact ? ", exact" : "") << "\n";
  return out.str();
}

std::string describe_prediction(const ManyPlan& plan) {
  std::ostringstream out;
  out << plan.weight_registers << " registers a thread hold weights, " << plan.shared_bytes
      << " bytes of shared memory a block, " << plan.resident_bytes << " bytes resident a team\n"
      << "predicted: " << plan.latency.total() << " cycles a "
      << (plan.shape.bands > 1 ? "step, " : "sample, ") << int64_t(plan.predicted_samples_per_s())
      << " samples/s a stream, " << int64_t(plan.predicted_throughput()) << " samples/s in all\n";
  return out.str();
}

ManyColumns many_columns(int tiles, int groups, int group, bool from_end) {
  const int each = tiles / groups, more = tiles % groups;
  if (from_end) group = groups - 1 - group;
  const int count = each + (group < more ? 1 : 0);
  const int before = group * each + std::min(group, more);
  return {from_end ? tiles - before - count : before, count};
}

void put_layers(const std::vector<ManyLayer>& layers, const CanonicalWeights& weights,
                std::vector<uint32_t>& out) {
  for (const ManyLayer& layer : layers) {
    const std::string name = std::string(layer.name) + ".weight";
    walk_layer(layer,
               put_halves(out, weights.get(name, {layer.rows, layer.stride}), layer.stride, name));
  }
}

std::vector<float> take_layer(const std::vector<ManyLayer>& layers,
                              const std::vector<uint32_t>& packed, const std::string& name) {
  for (const ManyLayer& layer : layers) {
    if (name != layer.name) continue;
    std::vector<float> out;
    walk_layer(layer, take_halves(packed, out, layer.rows, layer.cols));
    return out;
  }
  fail("There is no packed matrix ", name, ".");
}

}  // namespace wavernn_fast::gpu
