#include "gpu/engine_sparse.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <numeric>

#include "common/error.h"
#include "cuda/kernels/stages.h"
#include "engine/turn.h"
#include "gpu/buffer.h"
#include "gpu/engine_parts.h"
#include "gpu/errors.h"
#include "gpu/kernel_sources.h"
#include "gpu/stream_batch.h"

namespace wavernn_fast::gpu {
namespace {

using Clock = std::chrono::steady_clock;

// One plan with what a launch of it needs.
struct Form {
  explicit Form(SparsePlan chosen, Device& device) : plan(std::move(chosen)), weights(device) {}
  SparsePlan plan;
  Buffer<uint32_t> weights;
  bool packed = false;
  std::unique_ptr<Kernel> plain, full;  // null until a job needs them
};

class SparseEngine final : public Engine {
 public:
  SparseEngine(const GpuRequest& request, const std::string& sparse,
               const CanonicalWeights& weights, std::unique_ptr<Device> device)
      : device_(std::move(device)),
        canonical_(weights),
        batch_(*device_, StreamConstants(request.config, weights)) {
    const auto model = sparse_tiles(request, sparse, canonical_);
    fill_bins(*model);
    one_ = std::make_unique<Form>(choose_sparse_plan({request, false}, model), *device_);
    many_ = std::make_unique<Form>(choose_sparse_plan({request, true}, model), *device_);
    kernel_of(*one_, false);  // now, not when the first sample is wanted
    words_.reserve(2);
    if (one_->plan.shape.clocks) begin_ticks(clocks_);
  }

  const ModelConfig& config() const override { return one_->plan.request.gpu.config; }
  std::string device() const override { return device_->kind(); }
  std::string isa() const override { return device_->detail(); }
  std::string dtype() const override { return dtype_name(one_->plan.request.gpu.dtype); }
  int threads() const override { return one_->plan.teams * one_->plan.shape.cluster; }
  int lanes() const override { return many_->plan.teams; }
  uint64_t weight_bytes() const override {
    return uint64_t(macs_per_step()) * dtype_bytes(one_->plan.request.gpu.dtype);
  }
  int64_t macs_per_step() const override { return one_->plan.model->weights(); }
  bool compiled() const override { return device_->compiled(); }
  std::string describe() const override {
    std::string text = one_->plan.describe();
    const std::string other = many_->plan.describe();
    if (other != text) text += "for many streams:\n" + other;
    return text;
  }

  std::string sparse() const override { return one_->plan.describe_sparsity(); }
  std::string unreadable(uint64_t address) const override { return device_->unreadable(address); }
  void await(uint64_t stream) override { device_->await(stream); }
  std::vector<float> hold_bias() const override {
    return config().hold_size() > 0 ? batch_.bias() : std::vector<float>();
  }

  std::vector<std::pair<std::string, int64_t>> stage_ticks() override {
    device_->refuse_fork();
    const std::lock_guard<std::timed_mutex> lock(mutex_);
    return read_ticks(clocks_);
  }
  std::vector<std::pair<std::string, int64_t>> counts() override {
    device_->refuse_fork();
    const std::lock_guard<std::timed_mutex> lock(mutex_);
    return clocks_.get() == nullptr ? Engine::counts() : device_->counts();
  }

  // As many streams at once as there are teams, those with most steps left first. If there are more
  // than the plan for one stream has teams, that of the most samples is taken; both give the same
  // bits.
  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    device_->refuse_fork();
    const auto turn = take_turn(mutex_, interrupt);
    check_jobs(config(), jobs);
    std::vector<int64_t> done;
    std::vector<Slice> slices = begin_slices(config(), jobs, done);
    for (;;) {
      const auto steps_left = [](const Slice& s) { return s.job->n_steps - *s.done; };
      slices.erase(std::remove_if(slices.begin(), slices.end(),
                                  [&](const Slice& s) { return steps_left(s) == 0; }),
                   slices.end());
      if (slices.empty()) return fail_where_rows_are_not_finite(config(), jobs);
      std::stable_sort(slices.begin(), slices.end(), [&](const Slice& a, const Slice& b) {
        return steps_left(a) > steps_left(b);
      });
      Form& form = int(slices.size()) > one_->plan.teams ? *many_ : *one_;
      std::vector<Slice> now(
          slices.begin(),
          slices.begin() + std::min<int64_t>(int64_t(slices.size()), form.plan.teams));
      run_slices(form, now);
      if (interrupt) interrupt();
    }
  }

 private:
  // The kernel, and its weights on the device; for fewer teams if not all find room.
  Kernel& kernel_of(Form& form, bool full) {
    if (!form.packed) {
      const std::vector<uint32_t> packed = pack_sparse(form.plan, canonical_);
      form.weights.upload(packed.data(), packed.size());
      form.packed = true;
    }
    std::unique_ptr<Kernel>& kernel = full ? form.full : form.plain;
    while (!kernel) {
      try {
        kernel = device_->load(kernel_spec(form.plan, full));
      } catch (const TooManyBlocks& refusal) {
        reduce(form, refusal);
      }
    }
    return *kernel;
  }

  // Fewer teams, since others use the device or it keeps some of itself back.
  void reduce(Form& form, const TooManyBlocks& refusal) {
    const int blocks = form.plan.teams * form.plan.shape.cluster;
    const int teams =
        (refusal.fitting > 0 ? refusal.fitting : blocks / 2) / form.plan.shape.cluster;
    if (teams < 1 || teams >= form.plan.teams) throw refusal;
    form.plan.teams = teams;
    form.plain.reset();
    form.full.reset();
  }

  // One launch of as many steps of every job as fit into it. If there is no room for so many teams,
  // nothing has happened but that there are fewer from now on.
  void run_slices(Form& form, std::vector<Slice>& slices) {
    bool full = false;
    int64_t most = kLongestSlice;
    for (const Slice& s : slices) {
      full = full || needs_full(*s.job);
      if (s.job->logits) most = std::max<int64_t>(1, kLogitSlice / int64_t(slices.size()));
    }
    const int64_t steps = slice_steps(*device_, seconds_per_step_, most);
    int64_t longest = 0;
    for (Slice& s : slices) {
      s.steps = std::min(steps, s.job->n_steps - *s.done);
      longest = std::max(longest, s.steps);
    }
    Kernel& kernel = kernel_of(form, full);
    if (int(slices.size()) > form.plan.teams) return;  // there are fewer teams now
    const KernelArgs launch = arguments(form, slices);
    const auto begin = Clock::now();
    try {
      kernel.launch(launch);
    } catch (const TooManyBlocks& refusal) {
      reduce(form, refusal);
      return;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    seconds_per_step_ = seconds / double(longest);
    KernelStatus status;
    if (batch_.take(slices, status) >= 0) report_stall(status);
  }

  KernelArgs arguments(Form& form, const std::vector<Slice>& slices) {
    KernelArgs launch{};
    launch.streams = batch_.upload(slices, form.weights.get(), words_.get(),
                                   one_->plan.shape.clocks ? clocks_.get() : nullptr);
    launch.blocks = unsigned(slices.size()) * unsigned(form.plan.shape.cluster);
    return launch;
  }

  [[noreturn]] void report_stall(const KernelStatus& status) const {
    if (status.stall == 0)
      fail<EngineError>("The kernel on ", device_->detail(), " ended after ", status.steps_done,
                        " steps without a reason.");
    const auto place = unsigned(status.stall >> 32);
    const bool fine = (place & ((1u << kStallWordBits) - 1)) == 1;
    fail<EngineError>("The kernel on ", device_->detail(), " stalled: block ",
                      place >> kStallWordBits, " waited in vain for the ", fine ? "fine" : "coarse",
                      " gates of its team (step ", unsigned(status.stall),
                      "). The stream is as it was before this slice and may be run again.");
  }

  std::unique_ptr<Device> device_;  // outlives the kernels and the buffers
  CanonicalWeights canonical_;
  std::unique_ptr<Form> one_, many_;  // plans of least time and of most samples
  Buffer<Word> words_{*device_};      // [2] whose numbers reports of a stall have
  StreamBatch batch_;
  Buffer<long long> clocks_{*device_};
  std::timed_mutex mutex_;
  double seconds_per_step_ = 0;
};

}  // namespace

KernelSpec kernel_spec(const SparsePlan& plan, bool full) {
  KernelSpec spec;
  spec.shape = plan.shape;
  spec.shape.full = full;
  spec.name = "wavernn_sparse";
  spec.entry = "cuda/kernels/entry_sparse.cuh";
  spec.sources = kernel_sources();
  spec.defines = shape_macros(spec.shape);
  spec.blocks = plan.teams * plan.shape.cluster;
  spec.threads = plan.shape.threads;
  spec.cluster = plan.shape.cluster;
  spec.together = false;  // teams know nothing of each other
  spec.shared_bytes = plan.shared_bytes;
  return spec;
}

std::unique_ptr<Engine> make_sparse_engine(const GpuRequest& request, const std::string& sparse,
                                           const CanonicalWeights& weights,
                                           std::unique_ptr<Device> device) {
  if (request.config.core != Core::dual)
    fail<DeviceError>(
        "The GPU kernel for pruned models runs the dual core only; use sparse=\"off\", or "
        "device=\"cpu\".");
  return std::make_unique<SparseEngine>(request, sparse, weights, std::move(device));
}

}  // namespace wavernn_fast::gpu
