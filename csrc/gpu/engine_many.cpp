#include "gpu/engine_many.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <queue>
#include <unordered_set>

#include "common/error.h"
#include "cuda/kernels/stages.h"
#include "engine/turn.h"
#include "gpu/buffer.h"
#include "gpu/engine_parts.h"
#include "gpu/errors.h"
#include "gpu/kernel_sources.h"
#include "gpu/word_names.h"

namespace wavernn_fast::gpu {
namespace {

using Clock = std::chrono::steady_clock;

static_assert(sizeof(KernelArgs) == 4 * 44, "plan/gpu_many.cpp lays out shared memory by it");

int64_t steps_left(const Slice& s) { return s.job->n_steps - *s.done; }

class ManyEngine final : public Engine {
 public:
  ManyEngine(const ManyRequest& request, const CanonicalWeights& weights,
             std::unique_ptr<Device> device)
      : device_(std::move(device)),
        plan_(choose_many_plan(request)),
        model_(request.gpu.config, weights) {
    kernel_of(plan_.shape.stream_tiles, false);  // now, not when the first sample is wanted
    const std::vector<uint32_t> packed = pack_many(plan_, weights);
    weights_.upload(packed.data(), packed.size());
    // None of teams that are clusters; messages are then numbered as words from there on.
    words_.reserve(
        std::max<size_t>(1, size_t(2) * size_t(plan_.teams) * size_t(plan_.shape.buffer_words)));
    if (plan_.shape.clocks) begin_ticks(clocks_);
  }

  // In a child of fork() calls may wait for ever that only the parent has, and what they wait on
  // cannot be destroyed.
  ~ManyEngine() override {
    if (device_->forked()) (void)freed_.release();
  }

  const ModelConfig& config() const override { return plan_.request.gpu.config; }
  std::string device() const override { return device_->kind(); }
  std::string isa() const override { return device_->detail(); }
  std::string dtype() const override { return dtype_name(Dtype::fp16); }
  int threads() const override { return plan_.teams * plan_.shape.blocks; }
  int lanes() const override { return plan_.slots(); }
  uint64_t weight_bytes() const override { return uint64_t(macs_per_step()) * 2; }
  int64_t macs_per_step() const override { return multiplied(config()); }
  bool compiled() const override { return device_->compiled(); }
  std::string describe() const override { return plan_.describe(); }
  std::string unreadable(uint64_t address) const override { return device_->unreadable(address); }
  void await(uint64_t stream) override { device_->await(stream); }
  std::vector<float> hold_bias() const override {
    return config().hold_size() > 0 ? model_.bias : std::vector<float>();
  }

  std::vector<std::pair<std::string, int64_t>> stage_ticks() override {
    device_->refuse_fork();
    const std::lock_guard<std::mutex> lock(launching_);
    switch (config().core) {
      case Core::dual:
        return read_ticks(clocks_);
      case Core::residual:
        return read_ticks(clocks_, kResidualStageNames);
      case Core::embedded:
        return read_ticks(clocks_, kEmbeddedStageNames);
    }
    return {};
  }
  std::vector<std::pair<std::string, int64_t>> counts() override {
    device_->refuse_fork();
    const std::lock_guard<std::mutex> lock(launching_);
    return clocks_.get() == nullptr ? Engine::counts() : device_->counts();
  }

  // Any number of streams of any lengths: in every launch each slot runs several, one after the
  // other, so that slots are empty only when no stream is left. Of two calls at the same time one
  // brings its streams to the device and takes them back while the kernel runs for the other.
  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    device_->refuse_fork();
    check_jobs(config(), jobs);
    const Claim claim(*this, jobs, interrupt);
    std::vector<int64_t> done;
    std::vector<Slice> slices = begin_slices(config(), jobs, done);
    for (;;) {
      slices.erase(std::remove_if(slices.begin(), slices.end(),
                                  [](const Slice& s) { return steps_left(s) == 0; }),
                   slices.end());
      if (slices.empty()) return fail_where_rows_are_not_finite(config(), jobs);
      run_launch(*claim.carrier, slices);
      if (interrupt) interrupt();
    }
  }

 private:
  // Of the plan with so many tiles of streams a team.
  struct Form {
    ManyPlan plan;
    std::shared_ptr<Kernel> plain, full;  // null until a job needs them
  };

  // What brings the streams of one call to the device and back.
  struct Carrier {
    Carrier(Device& device, const StreamConstants& model)
        : batch(device, model), queues(device), status(device) {}
    StreamBatch batch;
    Buffer<unsigned> queues;
    Buffer<KernelStatus> status;
  };

  // A carrier for the time of a call: of two, waits for one, and for streams that another call
  // runs. Once two calls have met, each has calls to the device of its own.
  struct Claim {
    Claim(ManyEngine& engine, const std::vector<Job>& jobs, const Interrupt& interrupt)
        : engine(engine) {
      std::unique_lock<std::mutex> lock(engine.claiming_);
      for (const Job& job : jobs) streams.push_back(job.state);
      const auto is_free = [&] {
        return !(engine.taken_[0] && engine.taken_[1]) &&
               std::none_of(streams.begin(), streams.end(), [&](const StreamState* stream) {
                 return engine.running_.count(stream) > 0;
               });
      };
      while (!engine.freed_->wait_for(lock, kBetweenLooks, is_free)) {
        lock.unlock();
        if (interrupt) interrupt();
        lock.lock();
      }
      number = engine.taken_[0] ? 1 : 0;
      engine.apart_ = engine.apart_ || engine.taken_[0];
      std::unique_ptr<Carrier>& mine = engine.carriers_[number];
      std::unique_ptr<Device>& beside = engine.beside_[number];
      if (engine.apart_ && !beside) {
        mine.reset();
        beside = engine.device_->beside();
      }
      if (!mine)
        mine = std::make_unique<Carrier>(beside ? *beside : *engine.device_, engine.model_);
      carrier = mine.get();
      engine.running_.insert(streams.begin(), streams.end());
      engine.taken_[number] = true;
    }
    ~Claim() {
      {
        const std::lock_guard<std::mutex> lock(engine.claiming_);
        engine.taken_[number] = false;
        for (const StreamState* stream : streams) engine.running_.erase(stream);
      }
      engine.freed_->notify_all();  // who waits for a stream may not be the first
    }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

    ManyEngine& engine;
    std::vector<const StreamState*> streams;
    size_t number = 0;
    Carrier* carrier = nullptr;
  };

  Form& form_of(int stream_tiles) {
    const auto found = forms_.find(stream_tiles);
    if (found != forms_.end()) return found->second;
    return forms_.emplace(stream_tiles, Form{with_stream_tiles(plan_, stream_tiles), {}, {}})
        .first->second;
  }

  std::shared_ptr<Kernel> kernel_of(int stream_tiles, bool full) {
    for (;;) {
      Form& form = form_of(stream_tiles);
      std::shared_ptr<Kernel>& kernel = full ? form.full : form.plain;
      if (kernel) return kernel;
      try {
        kernel = device_->load(kernel_spec(form.plan, full));
      } catch (const TooManyBlocks& refusal) {
        reduce(refusal);
      }
    }
  }

  // Fewer teams, since others use the device or it keeps some of itself back.
  void reduce(const TooManyBlocks& refusal) {
    const int blocks = plan_.teams * plan_.shape.blocks;
    const int teams = (refusal.fitting > 0 ? refusal.fitting : blocks / 2) / plan_.shape.blocks;
    if (teams < 1 || teams >= plan_.teams) throw refusal;
    plan_.teams = teams;
    forms_.clear();
  }

  // Tiles of streams a team for a launch of `streams`: as few as have room for all, of 1, 2, 4, 8
  // and so on, so that few kernels are compiled.
  int tiles_for(size_t streams) const {
    const int most = plan_.shape.stream_tiles, per_tile = plan_.shape.streams / most;
    int tiles = 1;
    while (tiles < most && size_t(tiles * per_tile * plan_.teams) < streams) tiles *= 2;
    return std::min(tiles, most);
  }

  // Steps of a launch: enough for all slots to change streams and not too long to interrupt.
  int64_t launch_steps(const std::vector<Slice>& slices) const {
    int64_t most = kLongestSlice;
    for (const Slice& s : slices)
      if (s.job->logits)
        most = std::max(1, kLogitSlice / std::min(plan_.slots(), int(slices.size())));
    return slice_steps(*device_, seconds_per_step_, most);
  }

  // What a launch runs.
  struct Work {
    Shape shape;
    int teams;
    std::shared_ptr<Kernel> kernel;  // others may give up the form that had it
    std::vector<Slice> slices;       // in the order of their slots
    std::vector<unsigned> queues;
    unsigned steps;  // of the team that runs longest
  };

  // As many steps of all streams as fit into one launch; none if there is no room for so many
  // teams: then nothing has happened but that there are fewer from now on.
  std::optional<Work> plan_launch(std::vector<Slice>& all) {
    const std::lock_guard<std::mutex> lock(planning_);
    const int tiles = tiles_for(all.size());
    const Shape shape = form_of(tiles).plan.shape;
    const int needed = int(std::min<size_t>(
        size_t(plan_.teams), (all.size() + size_t(shape.streams) - 1) / size_t(shape.streams)));
    const auto slots = fill_slots(all, needed * shape.streams, launch_steps(all));
    Work work{shape, needed, {}, {}, {0}, 0};
    bool full = false;
    std::vector<unsigned> team_steps(size_t(needed), 0u);
    for (size_t slot = 0; slot < slots.size(); ++slot) {
      unsigned steps = 0;
      for (const int i : slots[slot]) {
        work.slices.push_back(all[size_t(i)]);
        full = full || needs_full(*all[size_t(i)].job);
        steps += unsigned(all[size_t(i)].steps);
      }
      work.queues.push_back(unsigned(work.slices.size()));
      unsigned& most = team_steps[slot / size_t(shape.streams)];
      most = std::max(most, steps);
    }
    work.steps = *std::max_element(team_steps.begin(), team_steps.end());
    work.queues.insert(work.queues.end(), team_steps.begin(), team_steps.end());
    work.kernel = kernel_of(tiles, full);
    if (plan_.teams < needed) return std::nullopt;
    return work;
  }

  void run_launch(Carrier& carrier, std::vector<Slice>& all) {
    std::optional<Work> work = plan_launch(all);
    if (!work) return;
    KernelArgs launch = arguments(carrier, *work);
    try {
      launch_alone(*work, launch);
    } catch (const TooManyBlocks& refusal) {
      const std::lock_guard<std::mutex> lock(planning_);
      if (plan_.teams >= work->teams) reduce(refusal);  // or another call has done so
      return;
    }
    KernelStatus status{0, -1, 0}, whole;
    const int failed = carrier.batch.take(work->slices, status);
    carrier.status.download(&whole, 1);
    if (whole.stall != 0 || failed >= 0) report_stall(work->shape, whole);
  }

  // One kernel at a time: all use the same words.
  void launch_alone(const Work& work, const KernelArgs& launch) {
    const std::lock_guard<std::mutex> lock(launching_);
    // A launch begins with its first round.
    device_->zero(uint64_t(uintptr_t(words_.get())),
                  size_t(2 * work.teams) * size_t(work.shape.buffer_words) * sizeof(unsigned));
    const auto begin = Clock::now();
    work.kernel->launch(launch);
    seconds_per_step_ = std::chrono::duration<double>(Clock::now() - begin).count() / work.steps;
  }

  KernelArgs arguments(Carrier& carrier, const Work& work) {
    KernelArgs a{};
    a.weights = weights_.get();
    a.words = reinterpret_cast<Word*>(words_.get());
    a.poll_limit = kPollLimit;
    a.streams = carrier.batch.upload(work.slices, weights_.get(), a.words, nullptr);
    a.queues = carrier.queues.upload(work.queues.data(), work.queues.size());
    const KernelStatus fresh{0, -1, 0};
    a.status = carrier.status.upload(&fresh, 1);
    if (plan_.shape.clocks) a.clocks = clocks_.get();
    a.blocks = unsigned(work.teams * work.shape.blocks);
    return a;
  }

  [[noreturn]] void report_stall(const Shape& shape, const KernelStatus& status) const {
    if (status.stall == 0)
      fail<EngineError>("The kernel on ", device_->detail(), " ended without a reason.");
    const auto place = unsigned(status.stall >> 32);
    fail<EngineError>(
        "The kernel on ", device_->detail(), " stalled: block ", place >> kStallWordBits,
        " waited in vain for ",
        many_word_name(shape, 2 * int64_t(place & ((1u << kStallWordBits) - 1))), " (step ",
        unsigned(status.stall) - kFirstRound,
        "). Streams that had not ended are as they were before this slice and may be run again.");
  }

  std::unique_ptr<Device> device_;  // outlives the kernels and the buffers
  ManyPlan plan_;                   // with most streams
  StreamConstants model_;
  Buffer<uint32_t> weights_{*device_};
  Buffer<unsigned> words_{*device_};
  Buffer<long long> clocks_{*device_};

  std::mutex planning_;        // of the teams of plan_, and of what follows
  std::map<int, Form> forms_;  // by tiles of streams a team
  std::mutex launching_;       // of the device's words and clocks
  std::atomic<double> seconds_per_step_ = 0;

  std::mutex claiming_;  // of what follows
  std::unique_ptr<std::condition_variable> freed_ = std::make_unique<std::condition_variable>();
  std::array<std::unique_ptr<Device>, 2> beside_;  // outlive the carriers
  std::array<std::unique_ptr<Carrier>, 2> carriers_;
  std::array<bool, 2> taken_{};
  std::unordered_set<const StreamState*> running_;
  bool apart_ = false;  // two calls have met
};

}  // namespace

std::vector<std::vector<int>> fill_slots(std::vector<Slice>& slices, int slots, int64_t steps) {
  std::vector<std::vector<int>> result{size_t(slots)};
  using Load = std::pair<int64_t, int>;  // steps so far, slot
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int slot = 0; slot < slots; ++slot) loads.emplace(0, slot);
  for (size_t i = 0; i < slices.size(); ++i) {
    const auto [load, slot] = loads.top();
    if (load >= steps) break;  // the emptiest is full
    Slice& s = slices[i];
    s.steps = std::min(steps_left(s), steps - load);
    result[size_t(slot)].push_back(int(i));
    loads.pop();
    loads.emplace(load + s.steps, slot);
  }
  return result;
}

KernelSpec kernel_spec(const ManyPlan& plan, bool full) {
  KernelSpec spec;
  spec.shape = plan.shape;
  spec.shape.full = full;
  const bool residual = plan.shape.residual, embedded = plan.shape.embedded;
  spec.name = residual   ? "wavernn_many_residual"
              : embedded ? "wavernn_many_embedded"
                         : "wavernn_many";
  spec.entry = residual   ? "cuda/kernels/entry_many_residual.cuh"
               : embedded ? "cuda/kernels/entry_many_embedded.cuh"
                          : "cuda/kernels/entry_many.cuh";
  spec.sources = kernel_sources();
  spec.defines = shape_macros(spec.shape);
  spec.blocks = plan.teams * plan.shape.blocks;
  spec.threads = plan.shape.threads;
  spec.cluster = plan.shape.cluster;
  spec.together = plan.shape.cluster == 1;  // teams know nothing of each other
  spec.shared_bytes = plan.shared_bytes;
  return spec;
}

std::unique_ptr<Engine> make_many_engine(const ManyRequest& request,
                                         const CanonicalWeights& weights,
                                         std::unique_ptr<Device> device) {
  return std::make_unique<ManyEngine>(request, weights, std::move(device));
}

}  // namespace wavernn_fast::gpu
