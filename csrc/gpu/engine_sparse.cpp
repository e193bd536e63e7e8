#include "gpu/engine_sparse.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <numeric>

#include "common/error.h"
#include "cuda/kernels/stages.h"
#include "gpu/buffer.h"
#include "gpu/engine_parts.h"
#include "gpu/errors.h"
#include "gpu/kernel_sources.h"

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

// One team's share of a launch.
struct Slice {
  Job* job;
  int64_t* done;        // steps of the job so far
  int64_t first_frame;  // of the job's conditioning
  int64_t steps;        // in this launch
};

// Values of several streams that travel in one transfer.
template <class T>
struct Pool {
  explicit Pool(Device& device) : buffer(device) {}
  Buffer<T> buffer;
  std::vector<T> values;
  size_t add(const T* from, size_t count) {
    const size_t at = values.size();
    values.insert(values.end(), from, from + count);
    return at;
  }
  const T* upload() {
    return values.empty() ? nullptr : buffer.upload(values.data(), values.size());
  }
};

class SparseEngine final : public Engine {
 public:
  SparseEngine(const GpuRequest& request, const std::string& sparse,
               const CanonicalWeights& weights, std::unique_ptr<Device> device)
      : device_(std::move(device)), canonical_(weights) {
    const auto model = sparse_tiles(request, sparse, canonical_);
    fill_bins(*model);
    one_ = std::make_unique<Form>(choose_sparse_plan({request, false}, model), *device_);
    many_ = std::make_unique<Form>(choose_sparse_plan({request, true}, model), *device_);
    kernel_of(*one_, false);  // now, not when the first sample is wanted
    bias_ = gate_bias(config(), canonical_);
    base_.upload(bias_.data(), bias_.size());
    words_.reserve(2);
    if (one_->plan.shape.taps > 0) {
      const int64_t hop = config().hop_length, taps = one_->plan.shape.taps;
      upsample_.upload(canonical_.get("upsample.kernel", {hop, taps}), size_t(hop * taps));
    }
    if (one_->plan.shape.clocks) {
      clocks_.reserve(kClockStages);
      clocks_.zero();
    }
  }

  const ModelConfig& config() const override { return one_->plan.request.gpu.config; }
  std::string device() const override { return device_->kind(); }
  std::string isa() const override { return device_->detail(); }
  std::string dtype() const override { return dtype_name(one_->plan.request.gpu.dtype); }
  int threads() const override { return one_->plan.teams * one_->plan.shape.cluster; }
  uint64_t weight_bytes() const override {
    return uint64_t(macs_per_step()) * dtype_bytes(one_->plan.request.gpu.dtype);
  }
  int64_t macs_per_step() const override { return one_->plan.model->weights(); }
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
    return config().hold_size() > 0 ? bias_ : std::vector<float>();
  }

  std::vector<std::pair<std::string, int64_t>> stage_ticks() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::pair<std::string, int64_t>> result;
    if (!one_->plan.shape.clocks) return result;
    long long ticks[kClockStages];
    clocks_.download(ticks, kClockStages);
    for (int i = 0; i < kClockStages; ++i) result.emplace_back(kStageNames[i], ticks[i]);
    return result;
  }

  // As many streams at once as there are teams, those with most steps left first. If there are more
  // than the plan for one stream has teams, that of the most samples is taken; both give the same
  // bits.
  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    check_jobs(config(), jobs);
    std::vector<int64_t> done(jobs.size()), first_frame(jobs.size());
    for (size_t i = 0; i < jobs.size(); ++i)
      first_frame[i] = int64_t(jobs[i].state->position()) / config().hop_length;
    for (;;) {
      std::vector<size_t> left;
      for (size_t i = 0; i < jobs.size(); ++i)
        if (done[i] < jobs[i].n_steps) left.push_back(i);
      if (left.empty()) return;
      std::stable_sort(left.begin(), left.end(), [&](size_t a, size_t b) {
        return jobs[a].n_steps - done[a] > jobs[b].n_steps - done[b];
      });
      Form& form = int(left.size()) > one_->plan.teams ? *many_ : *one_;
      left.resize(std::min(left.size(), size_t(form.plan.teams)));
      std::vector<Slice> slices;
      for (const size_t i : left) slices.push_back({&jobs[i], &done[i], first_frame[i], 0});
      run_slices(form, slices);
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

  static bool needs_full(const Job& job) {
    return job.logits || job.forced_labels || job.words || job.state->greedy;
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
    take_results(slices);
  }

  KernelArgs arguments(Form& form, const std::vector<Slice>& slices) {
    const size_t width = size_t(config().hidden_size) + 2;
    size_t steps = 0, logit_steps = 0;
    for (auto* pool : {&hold_, &interp_, &state_}) pool->values.clear();
    uniforms_.values.clear();
    forced_.values.clear();
    for (const Slice& s : slices) {
      steps += size_t(s.steps);
      if (s.job->logits) logit_steps += size_t(s.steps);
    }
    labels_.reserve(steps);
    logits_.reserve(logit_steps * 512);
    std::vector<KernelArgs> args;
    std::vector<size_t> at[4];  // of each stream in hold, interp, uniforms, forced
    for (const Slice& s : slices) {
      args.push_back(stream_arguments(form, s));
      const StreamState& state = *s.job->state;
      state_.add(state.hidden.data(), width - 2);
      state_.add(state.feedback, 2);
      put_conditioning(args.back(), s, at);
      at[2].push_back(uniforms_.values.size());
      if (s.job->words) uniforms_.add(s.job->words + 2 * *s.done, 2 * size_t(s.steps));
      at[3].push_back(forced_.values.size());
      if (s.job->forced_labels) forced_.add(s.job->forced_labels + *s.done, size_t(s.steps));
    }
    const std::vector<KernelStatus> fresh(slices.size(), KernelStatus{0, -1, 0});
    status_.upload(fresh.data(), fresh.size());
    const float *hold = hold_.upload(), *interp = interp_.upload();
    const uint32_t* uniforms = uniforms_.upload();
    const int* forced = forced_.upload();
    state_.upload();
    size_t label = 0, logit = 0;
    for (size_t i = 0; i < slices.size(); ++i) {
      const Job& job = *slices[i].job;
      KernelArgs& a = args[i];
      if (a.base == nullptr) a.base = hold + at[0][i];
      if (plan_taps() > 0 && a.interp == nullptr) a.interp = interp + at[1][i];
      if (job.words) a.uniforms = uniforms + at[2][i];
      if (job.forced_labels) a.forced = forced + at[3][i];
      a.state = state_.buffer.get() + i * width;
      a.status = status_.get() + i;
      a.labels = labels_.get() + label;
      label += size_t(slices[i].steps);
      if (!job.logits) continue;
      a.logits = logits_.get() + logit * 512;
      logit += size_t(slices[i].steps);
    }
    if (one_->plan.shape.clocks) args[0].clocks = clocks_.get();
    KernelArgs launch{};
    launch.streams = args_.upload(args.data(), args.size());
    launch.blocks = unsigned(slices.size()) * unsigned(form.plan.shape.cluster);
    return launch;
  }

  int plan_taps() const { return one_->plan.shape.taps; }

  // What needs no memory of the launch.
  KernelArgs stream_arguments(const Form& form, const Slice& s) const {
    const StreamState& state = *s.job->state;
    KernelArgs a{};
    a.weights = form.weights.get();
    a.words = words_.get();
    a.steps = unsigned(s.steps);
    a.seed = state.key.seed;
    a.item = state.key.item;
    a.fold = state.key.fold;
    a.step0 = state.step;
    a.hop = unsigned(config().hop_length);
    a.poll_limit = kPollLimit;
    a.inv_temperature = state.inv_temperature;
    a.greedy = state.greedy;
    return a;
  }

  // Rows of the frames that these steps see, as in the dense engine; `base` and `interp` stay null
  // where they go to a pool.
  void put_conditioning(KernelArgs& a, const Slice& s, std::vector<size_t>* at) {
    const Job& job = *s.job;
    const int64_t position = int64_t(job.state->position()), hop = config().hop_length;
    const int64_t row = position / hop - s.first_frame;
    const int64_t rows = (position % hop + s.steps + hop - 1) / hop;
    const int64_t width = 3 * config().hidden_size;
    a.phase0 = unsigned(position % hop);
    at[0].push_back(hold_.values.size());
    at[1].push_back(interp_.values.size());
    if (job.hold == nullptr) {
      a.base = base_.get();
    } else {
      a.base_stride = unsigned(width);
      if (job.hold_on_device)
        a.base = job.hold + row * width;
      else
        for (int64_t i = 0; i < rows * width; ++i)
          hold_.values.push_back(job.hold[row * width + i] + bias_[size_t(i % width)]);
    }
    if (plan_taps() == 0) return;
    a.upsample = upsample_.get();
    if (job.interp_on_device)
      a.interp = job.interp + row * width;
    else
      interp_.add(job.interp + row * width, size_t((rows + plan_taps() - 1) * width));
  }

  void take_results(std::vector<Slice>& slices) {
    const size_t width = size_t(config().hidden_size) + 2;
    std::vector<KernelStatus> status(slices.size());
    status_.download(status.data(), status.size());
    size_t steps = 0, logit_steps = 0;
    for (const Slice& s : slices) {
      steps += size_t(s.steps);
      if (s.job->logits) logit_steps += size_t(s.steps);
    }
    std::vector<int> labels(steps);
    std::vector<float> logits(logit_steps * 512), state(slices.size() * width);
    labels_.download(labels.data(), labels.size());
    logits_.download(logits.data(), logits.size());
    state_.buffer.download(state.data(), state.size());
    const int* label = labels.data();
    const float* logit = logits.data();
    const KernelStatus* stalled = nullptr;
    for (size_t i = 0; i < slices.size(); ++i) {
      const Slice& s = slices[i];
      const bool whole = status[i].stall == 0 && status[i].steps_done == unsigned(s.steps);
      if (!whole) stalled = &status[i];
      if (s.job->logits) {
        if (whole) std::copy(logit, logit + s.steps * 512, s.job->logits + *s.done * 512);
        logit += s.steps * 512;
      }
      if (whole) take(s, status[i], label, state.data() + i * width);
      label += s.steps;
    }
    if (stalled) report_stall(*stalled);
  }

  static void take(const Slice& s, const KernelStatus& status, const int* labels,
                   const float* state) {
    std::copy(labels, labels + s.steps, s.job->labels + *s.done);
    StreamState& to = *s.job->state;
    std::copy(state, state + to.hidden.size(), to.hidden.begin());
    std::copy(state + to.hidden.size(), state + to.hidden.size() + 2, to.feedback);
    to.step += uint64_t(s.steps);
    if (status.failed_step >= 0 && s.job->failed_step < 0)
      s.job->failed_step = *s.done + status.failed_step;
    *s.done += s.steps;
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
  std::vector<float> bias_;           // [3H]
  std::unique_ptr<Form> one_, many_;  // plans of least time and of most samples
  Buffer<Word> words_{*device_};      // [2] whose numbers reports of a stall have
  Buffer<float> base_{*device_}, upsample_{*device_}, logits_{*device_};
  Pool<float> hold_{*device_}, interp_{*device_}, state_{*device_};
  Pool<uint32_t> uniforms_{*device_};
  Pool<int> forced_{*device_};
  Buffer<int> labels_{*device_};
  Buffer<KernelStatus> status_{*device_};
  Buffer<KernelArgs> args_{*device_};
  Buffer<long long> clocks_{*device_};
  std::mutex mutex_;
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
    fail<DeviceError>("There is a GPU kernel for the dual core only; use device=\"cpu\".");
  return std::make_unique<SparseEngine>(request, sparse, weights, std::move(device));
}

}  // namespace wavernn_fast::gpu
