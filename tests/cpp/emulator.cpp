// The emulated kernel on plans that the planner would not make, for a build with sanitizers.
//
//   wf_emulator_tests places           every matrix in registers, shared memory and L2
//   wf_emulator_tests cluster_places   the same for blocks in clusters
//   wf_emulator_tests sparse           bins of a pruned model in registers and shared memory
//   wf_emulator_tests many             many streams of either core, a tile of them and several
//   wf_emulator_tests residual         the residual core in all kinds of memory
//   wf_emulator_tests embedded         the embedded core
//   wf_emulator_tests outside          less shared memory than the kernel uses: must be reported
//   wf_emulator_tests idle 2|4 SCHEDULE  blocks that own no unit, which the planner refuses
//
// Draws are compared with the double reference. Exit 0: all equal; 1: not, or an error, which is
// printed.
#include <cstdio>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/error.h"
#include "emulate/device_emu.h"
#include "gpu/engine_gpu.h"
#include "gpu/engine_many.h"
#include "gpu/engine_sparse.h"
#include "gpu/kernel_sources.h"
#include "plan/known_devices.h"
#include "random_model.h"
#include "reference/engine_reference.h"

namespace wf = wavernn_fast;
namespace gpu = wavernn_fast::gpu;

// The emulator compiles none of it.
const std::vector<std::pair<std::string, std::string>>& gpu::kernel_sources() {
  static const std::vector<std::pair<std::string, std::string>> none;
  return none;
}

namespace {

constexpr int kSteps = 18;

wf::ModelConfig model(int hidden, int fc) {
  wf::ModelConfig c;
  c.hidden_size = hidden;
  c.fc_size = fc;
  c.n_classes = 256;
  c.n_mels = 7;
  c.hop_length = 5;
  c.upsample_left = c.upsample_right = 1;
  return c;
}

// What the first of `count` streams draws; every further one is two steps shorter.
std::vector<int32_t> draw(wf::Engine& engine, int count = 1) {
  const wf::ModelConfig& c = engine.config();
  const int frames = kSteps / c.hop_length + 1;
  // Exactly the rows that are read: one more would be outside.
  const auto interp = wf::random_tensor(1000, {frames + c.taps() - 1, c.interp_size()}, 0.5f).data;
  const auto hold = wf::random_tensor(1001, {frames, c.hold_size()}, 0.5f).data;
  std::vector<wf::StreamState> states(size_t(count), wf::make_stream(c, {3, 0, 0}));
  std::vector<std::vector<int32_t>> labels(static_cast<size_t>(count));
  std::vector<std::vector<float>> logits(labels.size()), values(labels.size());
  std::vector<wf::Job> jobs(labels.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const size_t n = size_t(kSteps) - 2 * i;
    labels[i].resize(n);
    values[i].resize(n);
    logits[i].resize(n * size_t(c.logits_size()));
    jobs[i].state = &states[i];
    jobs[i].n_steps = int64_t(n);
    jobs[i].interp = c.interp_size() ? interp.data() : nullptr;
    jobs[i].hold = c.hold_size() ? hold.data() : nullptr;
    jobs[i].labels = labels[i].data();
    jobs[i].values = c.draws_values() ? values[i].data() : nullptr;
    jobs[i].logits = logits[i].data();
  }
  engine.run(jobs, {});
  return labels[0];
}

// Draws of a plan that differ from the reference's.
int wrong_draws(const gpu::GpuPlan& plan, const std::string& schedule) {
  const wf::ModelConfig& c = plan.request.config;
  const wf::CanonicalWeights weights = wf::make_weights(c);
  auto device = wf::emulate::open_device(plan.request.limits, wf::emulate::parse_options(schedule));
  const auto found = draw(*gpu::make_engine(plan, weights, std::move(device)));
  const auto expected = draw(*wf::reference::make_engine(c, weights));
  int wrong = 0;
  for (int i = 0; i < kSteps; ++i) wrong += found[size_t(i)] != expected[size_t(i)];
  return wrong;
}

// Whether the shape is none of `seen`, and so worth a run; it is from now on.
bool is_new(const gpu::Shape& shape, std::set<std::string>& seen) {
  return seen.emplace(reinterpret_cast<const char*>(&shape), sizeof(shape)).second;
}

gpu::GpuRequest request(const wf::ModelConfig& config, int blocks, int warps) {
  gpu::GpuRequest r;
  r.config = config;
  r.exact = true;
  r.blocks = blocks;
  r.warps = warps;
  r.limits = gpu::known_device("H200");
  return r;
}

// The planner moves matrices out of registers, then out of shared memory, as these shrink.
int places() {
  int wrong = 0;
  std::set<std::string> seen;
  for (wf::Dtype dtype : {wf::Dtype::fp32, wf::Dtype::fp16})
    for (int exchanges : {2, 4})
      for (int registers : {255, 160, 88})
        for (int shared : {200 * 1024, 16 * 1024}) {
          gpu::GpuRequest r = request(model(64, 34), 3, 4);
          r.dtype = dtype;
          r.exchanges = exchanges;
          r.limits.registers = 128 * registers;
          r.limits.shared_per_block = shared;
          const gpu::GpuPlan plan = gpu::choose_gpu_plan(r);
          if (!is_new(plan.shape, seen)) continue;
          // Rounded weights draw otherwise than the reference's: only the accesses count.
          const int n = wrong_draws(plan, "random:1") * (dtype == wf::Dtype::fp32);
          std::printf("%s in %d %d %d %d: %d draws differ\n", wf::dtype_name(dtype),
                      plan.shape.gru_place, plan.shape.fc1_place, plan.shape.coarse_fc2_place,
                      plan.shape.fine_fc2_place, n);
          wrong += n;
        }
  // Warps of which some have no class of the last round.
  for (int warps : {3, 16}) {
    gpu::GpuRequest r = request(model(64, 34), 4, warps);
    r.exchanges = 2;
    wrong += wrong_draws(gpu::choose_gpu_plan(r), "fair");
  }
  return wrong;
}

// The same in clusters of two, where a block has more to hold; what does not fit is left out.
int cluster_places() {
  int wrong = 0;
  std::set<std::string> seen;
  for (int registers : {255, 140, 110, 80})
    for (int shared : {200 * 1024, 100 * 1024, 72 * 1024, 48 * 1024}) {
      gpu::GpuRequest r = request(model(64, 34), 4, 8);
      r.cluster = 2;
      r.limits.registers = 256 * registers;
      r.limits.shared_per_block = shared;
      std::optional<gpu::GpuPlan> plan;
      try {
        plan = gpu::choose_gpu_plan(r);
      } catch (const wf::DeviceError&) {
        continue;
      }
      const gpu::Shape& s = plan->shape;
      const std::string places = std::to_string(s.gru_place) + std::to_string(s.fc1_place) +
                                 std::to_string(s.coarse_fc2_place) +
                                 std::to_string(s.fine_fc2_place) +
                                 std::to_string(s.coarse_sample_place);
      if (!seen.insert(places).second) continue;
      const int n = wrong_draws(*plan, "random:1");
      std::printf("clusters in %s: %d draws differ\n", places.c_str(), n);
      wrong += n;
    }
  return wrong + (seen.size() < 4 ? 1000 : 0);
}

// A model of full blocks, for teams of one block and of two, with ever fewer registers.
int sparse_places() {
  int wrong = 0;
  const wf::ModelConfig config = model(64, 34);
  const wf::CanonicalWeights weights = wf::make_weights(config);
  const std::vector<int32_t> expected = draw(*wf::reference::make_engine(config, weights));
  for (const char* tile : {"4x4", "16x1"})
    for (const int cluster : {1, 2})
      for (const int registers : {255, 150, 96}) {
        gpu::GpuRequest r = request(config, 0, 8);
        r.cluster = cluster;
        r.limits.registers = 256 * registers;
        auto device = wf::emulate::open_device(r.limits, wf::emulate::parse_options("random:1"));
        const auto found = draw(*gpu::make_sparse_engine(r, tile, weights, std::move(device)));
        int n = 0;
        for (int i = 0; i < kSteps; ++i) n += found[size_t(i)] != expected[size_t(i)];
        std::printf("sparse %s, team of %d, %d registers: %d draws differ\n", tile, cluster,
                    registers, n);
        wrong += n;
      }
  return wrong;
}

// The residual core: labels, whole layers and dealt ones, in all kinds of memory.
int residual_places() {
  int wrong = 0;
  std::set<std::string> seen;
  wf::ModelConfig c = model(48, 34);
  c.core = wf::Core::residual;
  c.head = wf::Head::softmax;
  c.n_classes = 128;
  c.aux_size = 3;
  for (wf::Dtype dtype : {wf::Dtype::fp32, wf::Dtype::fp16})
    for (int exchanges : {1, 2, 4})
      for (int registers : {255, 150, 104, 80})
        for (int shared : {200 * 1024, 48 * 1024, 16 * 1024}) {
          gpu::GpuRequest r = request(c, 3, 4);
          r.dtype = dtype;
          r.exchanges = exchanges;
          r.limits.registers = 128 * registers;
          r.limits.shared_per_block = shared;
          gpu::GpuPlan plan;
          try {
            plan = gpu::choose_gpu_plan(r);
          } catch (const wf::DeviceError&) {
            continue;  // does not fit
          }
          const gpu::Shape& s = plan.shape;
          if (!is_new(s, seen)) continue;
          const int n = wrong_draws(plan, "random:1") * (dtype == wf::Dtype::fp32);
          std::printf("%s in %d %d %d %d %d %d: %d draws differ\n", wf::dtype_name(dtype),
                      s.gru1_place, s.gru2_place, s.gru2_input_place, s.fc1_place, s.fc2_place,
                      s.fc3_place, n);
          wrong += n;
        }
  return wrong;
}

// Streams of which some begin where others end, of models whose last blocks have fewer units and
// rows than the others; only the accesses count.
int many_streams() {
  std::set<std::string> seen;
  for (const int head : {0, 1, 2})  // dual, residual: labels, mixtures
    for (const int wanted : {2, 1200})
      for (const int shared : {200 * 1024, head == 0 ? 64 * 1024 : 32 * 1024}) {
        wf::ModelConfig c = model(head == 0 ? 96 : 48, 34);
        if (head > 0) {
          c.core = wf::Core::residual;
          c.head = head == 1 ? wf::Head::softmax : wf::Head::mol;
          c.n_classes = head == 1 ? 128 : 15;
          c.aux_size = 3;
        }
        gpu::ManyRequest r{request(c, 2, 2), wanted, wanted == 2};
        r.gpu.dtype = wf::Dtype::fp16;
        r.gpu.limits.shared_per_block = shared;
        auto device =
            wf::emulate::open_device(r.gpu.limits, wf::emulate::parse_options("random:1/room:2"));
        const auto engine = gpu::make_many_engine(r, wf::make_weights(c), std::move(device));
        if (!seen.insert(engine->describe()).second) continue;
        draw(*engine, 6);
        std::printf("ran %s\n", engine->describe().c_str());
      }
  return 0;
}

// The embedded core: a row of the table for every label, weights in all kinds of memory.
int embedded_places() {
  int wrong = 0;
  std::set<std::string> seen;
  wf::ModelConfig c = model(48, 33);
  c.core = wf::Core::embedded;
  c.head = wf::Head::softmax;
  c.n_classes = 127;
  c.embedding_size = 5;
  c.first_label = 126;
  c.upsample_left = c.upsample_right = 0;
  for (wf::Dtype dtype : {wf::Dtype::fp32, wf::Dtype::fp16})
    for (int registers : {255, 104, 80, 70})
      for (int shared : {200 * 1024, 20 * 1024, 12 * 1024, 8 * 1024}) {
        gpu::GpuRequest r = request(c, 3, 4);
        r.dtype = dtype;
        r.limits.registers = 128 * registers;
        r.limits.shared_per_block = shared;
        gpu::GpuPlan plan;
        try {
          plan = gpu::choose_gpu_plan(r);
        } catch (const wf::DeviceError&) {
          continue;  // does not fit
        }
        const gpu::Shape& s = plan.shape;
        if (!is_new(s, seen)) continue;
        const int n = wrong_draws(plan, "random:1") * (dtype == wf::Dtype::fp32);
        std::printf("%s in %d %d %d: %d draws differ\n", wf::dtype_name(dtype), s.gru_place,
                    s.fc1_place, s.fc2_place, n);
        wrong += n;
      }
  return wrong;
}

int outside() {
  gpu::GpuRequest r = request(model(64, 34), 3, 4);
  r.exchanges = 4;
  r.limits.registers = 128 * 200;  // matrices in shared memory, to its very end
  gpu::GpuPlan plan = gpu::choose_gpu_plan(r);
  plan.shared_bytes -= 4;
  return wrong_draws(plan, "fair");
}

// A plan for H/2 blocks, stretched to a quarter more: the slots of a warp do not change, only how
// many blocks there are and, in proportion, where the packed matrices begin.
int idle(int exchanges, const std::string& schedule) {
  const wf::ModelConfig c = model(64, 32);
  gpu::GpuRequest r = request(c, 32, 1);
  r.exchanges = exchanges;
  gpu::GpuPlan plan = gpu::choose_gpu_plan(r);
  gpu::Shape& s = plan.shape;
  for (int* at : {&s.gru_at, &s.coarse_fc1_at, &s.coarse_fc2_at, &s.fine_fc1_at, &s.fine_fc2_at,
                  &s.sample_at})
    *at = *at / 32 * 40;
  s.blocks = 40;
  s.inner_bias_at = s.sample_at + 15 * s.half;
  s.fc_bias_at = s.inner_bias_at + s.hidden;
  plan.packed_words = s.fc_bias_at + 2 * (s.fc + 256);
  return wrong_draws(plan, schedule);
}

}  // namespace

int main(int count, char** values) {
  const std::string what = count > 1 ? values[1] : "";
  int wrong = -1;
  try {
    if (what == "places") wrong = places();
    if (what == "cluster_places") wrong = cluster_places();
    if (what == "sparse") wrong = sparse_places();
    if (what == "residual") wrong = residual_places();
    if (what == "many") wrong = many_streams();
    if (what == "embedded") wrong = embedded_places();
    if (what == "outside") wrong = outside();
    if (what == "idle" && count > 3) wrong = idle(std::stoi(values[2]), values[3]);
  } catch (const wf::Error& error) {
    std::printf("%s\n", error.what());
  }
  std::printf("%d of the draws differ\n", wrong);
  return wrong != 0;
}
