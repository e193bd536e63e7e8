#include "plan/gpu_many.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "common/error.h"
#include "plan/gpu_vectors.h"

namespace wavernn_fast::gpu {
namespace {

constexpr int kClasses = 256;
constexpr int kTileFloats = 128;      // of a lane's share of a tile, all lanes: 512 bytes
constexpr int kArgsWords = 44;        // of KernelArgs; the engine checks it
constexpr int kSlotWords = 8;         // of a Slot
constexpr int kMostStreamTiles = 64;  // of a team
constexpr int kFewestArch = 75;       // with mma of fp16 and fp32 sums

int up(int a, int b) { return (a + b - 1) / b; }

// Registers a thread that the compiler needs besides weights and sums. Counted on its reports
// (tests/test_many_compile.py asserts that no plan of the table spills).
int working_registers(int arch) { return arch >= 100 ? 76 : 62; }

// Tiles of R's columns a warp has of both halves: see columns_of in the kernel. One in the middle
// serves either half where few groups of warps have one more.
int gru_columns(int half_tiles, int groups) {
  const int each = half_tiles / groups, more = half_tiles % groups;
  return 2 * each + (more == 0 ? 0 : 2 * more <= groups ? 1 : 2);
}

Shape make_shape(const ManyRequest& request, int unit_tiles, int stream_tiles) {
  const GpuRequest& r = request.gpu;
  const ModelConfig& c = r.config;
  Shape s;
  s.hidden = c.hidden_size;
  s.half = c.half();
  s.fc = c.fc_size;
  s.warps = r.warps ? r.warps : 8;
  s.threads = 32 * s.warps;
  s.half_tiles = s.half / 16;
  s.fc_tiles = up(s.fc, 16);
  s.unit_tiles = unit_tiles;
  s.blocks = up(s.half_tiles, unit_tiles);
  s.cluster = 1;
  s.fc1_tiles = up(s.fc_tiles, s.blocks);
  s.fc2_rows = up(kClasses, s.blocks);
  s.fc2_tiles = up(s.fc2_rows, 16);
  s.gru_columns = gru_columns(s.half_tiles, s.warps / 2);
  s.stream_tiles = stream_tiles;
  s.split = request.split;
  s.streams = stream_tiles * (request.split ? 4 : 8);
  // Each block draws for all streams, up to two a warp; from there on a message more is shorter.
  s.draw_apart = s.streams > 2 * s.warps && s.blocks > 1;
  s.buffer_words =
      s.stream_tiles * 2 * 64 * (s.half_tiles + s.fc_tiles) + 2 * s.streams * (kClasses + 1);
  // 4 more than a multiple of 32: a warp reads 8 streams at once, from all banks.
  s.column_words = up(8 * std::max(s.half_tiles, s.fc_tiles), 32) * 32 + 4;
  s.gate_rounds = up(96 * unit_tiles * (request.split ? 4 : 8), s.threads);
  s.taps = c.interp_size() > 0 ? c.taps() : 0;
  s.fp16 = 1;
  s.exact = r.exact;
  s.clocks = r.clocks;
  return s;
}

void lay_out_weights(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int64_t fc1 = int64_t(s.fc1_tiles) * s.half_tiles, fc2 = int64_t(s.fc2_tiles) * s.fc_tiles;
  const int64_t gru = int64_t(3) * s.unit_tiles * s.gru_columns * s.warps;
  int64_t at = 0;
  const auto place = [&](int& field, int64_t tiles) {
    field = int(at);
    at += tiles * s.blocks * kTileFloats;
    WF_CHECK(at < INT32_MAX / 2, "The packed weights of ", plan.request.gpu.config.describe(),
             " exceed 2^30 words.");
  };
  place(s.gru_at, gru);
  place(s.coarse_fc1_at, fc1);
  place(s.coarse_fc2_at, fc2);
  place(s.fine_fc1_at, fc1);
  place(s.fine_fc2_at, fc2);
  plan.resident_bytes = 4 * at;
  plan.packed_words = lay_out_vectors(s, int(at));
}

void lay_out_shared(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int units = 16 * s.unit_tiles;
  int64_t at = kSharedControl;
  const auto place = [&](int& field, int64_t floats) {
    field = int(std::min<int64_t>(at, INT32_MAX));
    at += up(int(std::min<int64_t>(floats, INT32_MAX - 4)), 4) * int64_t(4);
  };
  place(s.shared_slots, int64_t(kSlotWords) * s.streams);
  place(s.shared_slot_args, int64_t(kArgsWords) * s.streams);
  place(s.shared_inputs, int64_t(4) * s.streams);
  place(s.shared_chance, int64_t(64) * s.streams);
  place(s.shared_sample, 15 * units);
  place(s.shared_inner_bias, 2 * units);
  place(s.shared_biases, 2 * 16 * (s.fc1_tiles + s.fc2_tiles));
  place(s.shared_hidden, int64_t(2) * units * s.streams);
  place(s.shared_pre, int64_t(8) * units * s.streams);
  place(s.shared_ahead, int64_t(3) * units * s.streams);
  place(s.shared_columns, int64_t(8) * s.stream_tiles * s.column_words);
  place(s.shared_sums,
        int64_t(kTileFloats) * s.warps *
            std::max(3 * s.unit_tiles, s.stream_tiles * std::max(s.fc1_tiles, s.fc2_tiles)));
  place(s.shared_weights, int64_t(2) * kTileFloats *
                              ((s.fc1_place == kInShared ? s.fc1_tiles * s.half_tiles : 0) +
                               (s.fine_fc2_place == kInShared ? s.fc2_tiles * s.fc_tiles : 0)));
  place(s.shared_gru,
        int64_t(kTileFloats) * 3 * s.unit_tiles * (s.gru_columns - s.gru_kept) * s.warps);
  plan.shared_bytes = int(std::min<int64_t>(4 * at, INT32_MAX));
}

// As much of R in registers as there is room for.
void keep_in_registers(ManyPlan& plan) {
  Shape& s = plan.shape;
  const int all = std::min(255, plan.request.gpu.limits.registers / s.threads / 8 * 8);
  const int room = all - working_registers(plan.request.gpu.limits.arch) - 12 * s.unit_tiles;
  s.gru_kept = std::clamp(room / (12 * s.unit_tiles), 0, s.gru_columns);
  plan.weight_registers = 12 * s.unit_tiles * s.gru_kept;
}

// --- the model of a sample --------------------------------------------------------------------

ManyLatency predict(const ManyPlan& plan) {
  const Shape& s = plan.shape;
  const DeviceLimits& d = plan.request.gpu.limits;
  const auto cycles = [&d](double us) { return us * d.clock_khz / 1000.0; };
  const double hop = cycles(hop_us(d.arch, s.blocks));
  const double pace = std::max(1.6, s.warps / 4.0);  // cycles between a warp's instructions
  const auto rounds = [&s](int64_t items) { return double((items + s.threads - 1) / s.threads); };
  // A message: the trip, and reading all of its words at 64 bytes a cycle.
  const auto message = [&](int64_t words) { return int(hop + double(words) * 4 / 64 + 60); };
  // Sums of all warps, one value a thread and round.
  const auto meet = [&](int64_t values, int groups) {
    return 60 + rounds(values) * pace * (4 + 3 * groups);
  };
  // Tiles of a layer: shared memory gives one in 4 cycles, the tensor cores multiply one in 2.
  const auto layer = [&](int rows, int columns, int place) {
    const double tile = place == kInShared ? 4.0 : 8.0;
    return 150 + tile * s.stream_tiles * rows * columns + (place == kInShared ? 0 : 300) +
           meet(int64_t(16) * rows * s.streams, s.warps);
  };
  const int64_t units = 16 * s.unit_tiles;
  ManyLatency l;
  l.gates = int(100 + rounds(units / 2 * s.streams) * 150 * pace);
  l.hidden = message(int64_t(s.half) / 2 * 8 * s.stream_tiles);
  const double product =
      s.stream_tiles * (2.0 * 6 * s.unit_tiles * s.half_tiles + 100 +
                        meet(96 * s.unit_tiles * int64_t(s.split ? 4 : 8), s.warps / 2) + 50);
  const int y = message(int64_t(8) * s.fc_tiles * 8 * s.stream_tiles);
  l.y = int(layer(s.fc1_tiles, s.half_tiles, s.fc1_place) + std::max(double(y), product));
  const int64_t drawn = s.draw_apart ? up(s.streams, s.blocks) : s.streams;
  l.logits = int(layer(s.fc2_tiles, s.fc_tiles, s.fine_fc2_place)) + message(kClasses * drawn);
  l.draw = int(400 * up(int(drawn), s.warps) + 60) + (s.draw_apart ? message(s.streams) : 0);
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
  ManyPlan plan;
  plan.request = request;
  plan.shape = make_shape(request, unit_tiles, stream_tiles);
  plan.shape.fc1_place = places.fc1;
  plan.shape.coarse_fc2_place = plan.shape.fine_fc2_place = places.fc2;
  const DeviceLimits& d = request.gpu.limits;
  plan.teams = d.multiprocessors / plan.shape.blocks;
  if (plan.teams < 1 || 12 * unit_tiles + working_registers(d.arch) > 255) return std::nullopt;
  keep_in_registers(plan);
  lay_out_shared(plan);
  if (plan.shared_bytes > d.shared_per_block) return std::nullopt;
  lay_out_weights(plan);
  plan.latency = predict(plan);
  return plan;
}

void check_request(const ManyRequest& request) {
  const GpuRequest& r = request.gpu;
  const ModelConfig& c = r.config;
  check_model(c);
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
  WF_CHECK(r.blocks >= 0 && r.blocks <= c.hidden_size / 32, "blocks is ", r.blocks,
           ", expected 1 to ", c.hidden_size / 32, ": a team has 16 units of each half a block");
  WF_CHECK(r.exchanges == 0 && r.cluster <= 1,
           "exchanges and cluster are of plans for one stream; leave them out with gpu_streams "
           "other than 1");
}

// Whether no other number of tiles a block has as many blocks: only the last may have fewer.
bool is_even(const ModelConfig& c, int unit_tiles) {
  const int tiles = c.half() / 16, blocks = up(tiles, unit_tiles);
  return up(tiles, blocks) == unit_tiles;
}

}  // namespace

ManyPlan choose_many_plan(const ManyRequest& request) {
  check_request(request);
  const GpuRequest& r = request.gpu;
  std::optional<ManyPlan> best;
  const auto better = [&](const ManyPlan& a, const ManyPlan& b) {
    if (request.streams == 0) return a.predicted_throughput() > b.predicted_throughput();
    const bool a_enough = a.slots() >= request.streams, b_enough = b.slots() >= request.streams;
    if (a_enough != b_enough) return a_enough;
    if (!a_enough && a.slots() != b.slots()) return a.slots() > b.slots();
    return a.latency.total() < b.latency.total();
  };
  for (const Places& places : kPlaces) {
    for (int unit_tiles = 1; unit_tiles <= r.config.half() / 16; ++unit_tiles) {
      if (r.blocks ? up(r.config.half() / 16, unit_tiles) != r.blocks
                   : !is_even(r.config, unit_tiles))
        continue;
      for (int stream_tiles = 1; stream_tiles <= kMostStreamTiles; ++stream_tiles) {
        const std::optional<ManyPlan> plan = plan_of(request, unit_tiles, stream_tiles, places);
        if (!plan) break;  // more streams need more of everything
        if (!best || better(*plan, *best)) best = plan;
      }
    }
    if (best) return *best;  // weights from L2 are read once a tile of streams: only where it must
  }
  const DeviceLimits& d = r.limits;
  fail<DeviceError>("The model does not fit on ", d.name,
                    " for many streams side by side: ", r.config.hidden_size,
                    " units and outputs of ", r.config.fc_size,
                    " need more than the registers and the ", d.shared_per_block,
                    " bytes of shared memory of a block, in teams of at most ",
                    std::min(d.multiprocessors, r.config.half() / 16),
                    r.blocks ? " blocks (blocks was given)" : " blocks", ". Use gpu_streams=1.");
}

ManyPlan with_stream_tiles(const ManyPlan& plan, int stream_tiles) {
  const Shape& s = plan.shape;
  ManyPlan fewer = plan_of(plan.request, s.unit_tiles, stream_tiles,
                           {Place(s.fc1_place), Place(s.fine_fc2_place)})
                       .value();
  fewer.teams = plan.teams;
  return fewer;
}

double ManyPlan::predicted_samples_per_s() const {
  return 1000.0 * request.gpu.limits.clock_khz / latency.total();
}

std::string ManyPlan::describe() const {
  const Shape& s = shape;
  std::ostringstream out;
  out << request.gpu.config.describe() << "\n"
      << request.gpu.limits.name << ": " << teams << (teams == 1 ? " team of " : " teams of ")
      << s.blocks << (s.blocks == 1 ? " block of " : " blocks of ") << s.warps << " warps, "
      << s.streams << " streams a team, " << slots() << " in all, fp16"
      << (s.split ? ", activations in two halves" : "") << (s.exact ? ", exact" : "") << "\n"
      << "a block: " << 16 * s.unit_tiles << " units of each half, " << 16 * s.fc1_tiles
      << " rows of fc1, " << s.fc2_rows << " of fc2; "
      << (s.draw_apart ? "a block draws for a stream\n" : "every block draws\n")
      << "R: " << s.gru_kept << " of " << s.gru_columns << " tiles of columns a warp in registers"
      << (s.fc1_place == kInL2 ? "; fc1 in L2" : "")
      << (s.fine_fc2_place == kInL2 ? "; fc2 in L2" : "") << "\n"
      << weight_registers << " registers a thread hold weights, " << shared_bytes
      << " bytes of shared memory a block, " << resident_bytes << " bytes resident a team\n"
      << "predicted: " << latency.total() << " cycles a sample, "
      << int64_t(predicted_samples_per_s()) << " samples/s a stream, "
      << int64_t(predicted_throughput()) << " samples/s in all\n";
  return out.str();
}

}  // namespace wavernn_fast::gpu
