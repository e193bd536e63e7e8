#include "gpu/engine_gpu.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "common/error.h"
#include "cuda/kernels/stages.h"
#include "engine/turn.h"
#include "gpu/buffer.h"
#include "gpu/engine_many.h"
#include "gpu/engine_parts.h"
#include "gpu/engine_sparse.h"
#include "gpu/errors.h"
#include "gpu/kernel_sources.h"
#include "gpu/stream_batch.h"
#include "gpu/word_names.h"
#include "plan/gpu_embedded.h"
#include "plan/gpu_residual.h"

namespace wavernn_fast::gpu {
namespace {

using Clock = std::chrono::steady_clock;

// Channels of a row of biases: of gates, and in the residual core of two layers besides.
int64_t channels_of(const ModelConfig& c) {
  return c.core == Core::residual ? 7 * c.hidden_size + 2 * c.fc_size : 3 * c.hidden_size;
}

// [3H] biases of the gates of the dual core that are added before the activations; the candidate's
// recurrent bias is not among them, it stands inside the reset product.
std::vector<float> gate_bias(const ModelConfig& c, const CanonicalWeights& weights) {
  const int64_t rows = 3 * int64_t(c.hidden_size);
  const float* input = weights.get("gru.b_input", {rows});
  const float* recurrent = weights.get("gru.b_recurrent", {rows});
  std::vector<float> bias(input, input + rows);
  for (int64_t i = 0; i < 2 * rows / 3; ++i) bias[i] += recurrent[i];  // the candidate's is inside
  return bias;
}

class GpuEngine final : public Engine {
 public:
  // `note`: a line of describe().
  GpuEngine(const GpuRequest& request, const CanonicalWeights& weights,
            std::unique_ptr<Device> device, std::string note)
      : GpuEngine(weights, std::move(device)) {
    note_ = std::move(note);
    make_ready(request);
    bring_constants();
  }
  GpuEngine(const GpuPlan& plan, const CanonicalWeights& weights, std::unique_ptr<Device> device)
      : GpuEngine(weights, std::move(device)) {
    plan_ = plan;
    load_plain();
    bring_weights();
    bring_constants();
  }

  const ModelConfig& config() const override { return plan_.request.config; }
  std::string device() const override { return device_->kind(); }
  std::string isa() const override { return device_->detail(); }
  std::string dtype() const override { return dtype_name(plan_.request.dtype); }
  int threads() const override { return plan_.shape.blocks; }
  uint64_t weight_bytes() const override {
    return uint64_t(macs_per_step()) * dtype_bytes(plan_.request.dtype);
  }
  int64_t macs_per_step() const override { return multiplied(config()); }
  bool compiled() const override { return device_->compiled(); }
  std::string describe() const override { return plan_.describe() + note_; }

  std::string unreadable(uint64_t address) const override { return device_->unreadable(address); }
  void await(uint64_t stream) override { device_->await(stream); }
  std::vector<float> hold_bias() const override {
    return config().hold_size() > 0 ? bias_ : std::vector<float>();
  }

  std::vector<std::pair<std::string, int64_t>> stage_ticks() override {
    device_->refuse_fork();
    const std::lock_guard<std::timed_mutex> lock(mutex_);
    return config().core == Core::dual       ? read_ticks(clocks_)
           : config().core == Core::residual ? read_ticks(clocks_, kResidualStageNames)
                                             : read_ticks(clocks_, kEmbeddedStageNames);
  }
  std::vector<std::pair<std::string, int64_t>> counts() override {
    device_->refuse_fork();
    const std::lock_guard<std::timed_mutex> lock(mutex_);
    return clocks_.get() == nullptr ? Engine::counts() : device_->counts();
  }

  // One stream after the other: this kernel is made for one utterance at a time.
  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    device_->refuse_fork();
    const auto turn = take_turn(mutex_, interrupt);
    check_jobs(config(), jobs);
    for (Job& job : jobs) {
      const int64_t first_frame = int64_t(job.state->position()) / config().hop_length;
      for (int64_t done = 0; done < job.n_steps;) {
        done += run_slice(job, done, first_frame);
        if (interrupt) interrupt();
      }
    }
    fail_where_rows_are_not_finite(config(), jobs);
  }

 private:
  GpuEngine(const CanonicalWeights& weights, std::unique_ptr<Device> device)
      : device_(std::move(device)), canonical_(weights) {}

  // Plans for what the device has, and brings kernel and weights there.
  void make_ready(GpuRequest request) {
    for (;;) {
      plan_ = choose_gpu_plan(request);
      try {
        load_plain();
        break;
      } catch (const TooManyBlocks& refusal) {
        request = smaller(refusal);
      }
    }
    bring_weights();
  }

  void bring_weights() {
    const std::vector<uint32_t> packed = pack_gpu(plan_, canonical_);
    weights_.upload(packed.data(), packed.size());
    words_.reserve(size_t(exchange_words(plan_.shape)));
    words_.zero();
    tag_ = device_->first_tag();
  }

  // What does not depend on the plan.
  void bring_constants() {
    // Not before the core is known to have a kernel.
    bias_ = channel_bias(config(), canonical_);
    base_.upload(bias_.data(), bias_.size());
    if (plan_.shape.taps > 0) {
      const int64_t hop = config().hop_length, taps = plan_.shape.taps;
      upsample_.upload(canonical_.get("upsample.kernel", {hop, taps}), size_t(hop * taps));
    }
    if (plan_.shape.clocks) begin_ticks(clocks_);
  }

  void load_plain() {
    full_.reset();
    plain_ = device_->load(kernel_spec(plan_, false));
  }

  Kernel& kernel_for(const Job& job) {
    if (!needs_full(job)) return *plain_;
    if (!full_) full_ = device_->load(kernel_spec(plan_, true));
    return *full_;
  }

  // Others use the device, or it keeps some of itself back: plans for what is left.
  GpuRequest smaller(const TooManyBlocks& refusal) const {
    GpuRequest request = plan_.request;
    const int fitting = refusal.fitting > 0 ? refusal.fitting : plan_.shape.blocks / 2;
    if (request.blocks != 0 || fitting < 1 || fitting >= plan_.shape.blocks) throw refusal;
    request.limits.multiprocessors = fitting;
    return request;
  }
  void retreat(const TooManyBlocks& refusal) {
    const GpuRequest request = smaller(refusal);
    lost_ = true;  // until plan, kernel and weights belong together again
    make_ready(request);
    lost_ = false;
  }

  int slice_steps(const Job& job, int64_t done) const {
    const int64_t most = job.logits ? kLogitSlice : kLongestSlice;
    return int(std::min(gpu::slice_steps(*device_, seconds_per_step_, most), job.n_steps - done));
  }

  // Runs steps [done, done + n) of a job in one launch; returns n, or 0 after a new plan.
  int run_slice(Job& job, int64_t done, int64_t first_frame) {
    if (lost_)
      fail<DeviceError>("The engine on ", device_->detail(),
                        " could not be planned again for fewer blocks and cannot go on; make a new "
                        "one, or use device='cpu'.");
    const int n = slice_steps(job, done);
    KernelArgs args = arguments(job, done, first_frame, n);
    tag_ += unsigned(n) + 1;  // of words that a launch may have published before it failed, too
    const auto begin = Clock::now();
    try {
      kernel_for(job).launch(args);
    } catch (const TooManyBlocks& refusal) {
      retreat(refusal);
      return 0;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    seconds_per_step_ = seconds / n;
    take_results(job, done, n);
    return n;
  }

  KernelArgs arguments(const Job& job, int64_t done, int64_t first_frame, int n) {
    const StreamState& state = *job.state;
    KernelArgs a{};
    a.weights = weights_.get();
    a.words = words_.get();
    a.steps = unsigned(n);
    a.seed = state.key.seed;
    a.item = state.key.item;
    a.fold = state.key.fold;
    a.step0 = state.step;
    a.hop = unsigned(config().hop_length);
    a.poll_limit = kPollLimit;
    if (config().core == Core::dual && plan_.shape.exchanges == 2)  // sums begin at zero
      device_->zero(uint64_t(uintptr_t(words_.get() + 2 * buffer_words(plan_.shape))),
                    2 * 256 * sizeof(Word));
    a.inv_temperature = state.inv_temperature;
    a.greedy = state.greedy;
    a.tag0 = next_tag(n);
    put_conditioning(a, job, first_frame, n);
    std::vector<float> h = state.hidden;
    h.insert(h.end(), state.feedback, state.feedback + feedback_size(config()));
    a.state = state_.upload(h.data(), h.size());
    put_outcomes(a, job, done, n);
    a.labels = labels_.reserve(size_t(n) * size_t(config().bands));
    if (job.logits) a.logits = logits_.reserve(size_t(n) * size_t(config().logits_size()));
    const KernelStatus fresh{0, -1, 0};
    a.status = status_.upload(&fresh, 1);
    if (plan_.shape.clocks) a.clocks = clocks_.get();
    return a;
  }

  // Random words and outcomes that are given. The kernel takes two words a step, or four.
  void put_outcomes(KernelArgs& a, const Job& job, int64_t done, int n) {
    const int draws = config().draws_per_step(), bands = config().bands;
    if (job.words && draws > 1) {
      a.uniforms = uniforms_.upload(job.words + draws * done, size_t(draws) * size_t(n));
    } else if (job.words) {
      std::vector<uint32_t> pairs(2 * size_t(n), 0);
      for (int i = 0; i < n; ++i) pairs[2 * size_t(i)] = job.words[done + i];
      a.uniforms = uniforms_.upload(pairs.data(), pairs.size());
    }
    if (job.forced_labels)
      a.forced = forced_.upload(job.forced_labels + bands * done, size_t(bands) * size_t(n));
    if (job.forced_values) {
      std::vector<int> bits(static_cast<size_t>(n));
      std::memcpy(bits.data(), job.forced_values + done, size_t(n) * sizeof(int));
      a.forced = forced_.upload(bits.data(), bits.size());
    }
  }

  // Tags are never used twice; before they run out the exchange area is cleared.
  unsigned next_tag(int n) {
    if (tag_ > UINT32_MAX - unsigned(n) - 2) {
      words_.zero();
      tag_ = 1;
    }
    return tag_;
  }

  // Rows of the frames that these steps see. Biases are added here, once a frame, to rows of the
  // host; those on the device are used where they are.
  void put_conditioning(KernelArgs& a, const Job& job, int64_t first_frame, int n) {
    const int64_t position = int64_t(job.state->position()), hop = config().hop_length;
    const int64_t row = position / hop - first_frame, rows = (position % hop + n + hop - 1) / hop;
    const int64_t width = channels_of(config());
    a.phase0 = unsigned(position % hop);
    a.base = base_.get();
    a.base_stride = 0;
    if (job.hold_on_device) {
      a.base = job.hold + row * width;
      a.base_stride = unsigned(width);
    } else if (job.hold != nullptr) {
      std::vector<float> base(size_t(rows * width));
      for (int64_t i = 0; i < rows * width; ++i)
        base[size_t(i)] = job.hold[row * width + i] + bias_[size_t(i % width)];
      a.base = hold_.upload(base.data(), base.size());
      a.base_stride = unsigned(width);
    }
    if (plan_.shape.taps > 0) {
      const int64_t mixed = config().interp_size();
      const float* interp = job.interp + row * mixed;
      a.interp = job.interp_on_device
                     ? interp
                     : interp_.upload(interp, size_t((rows + plan_.shape.taps - 1) * mixed));
      a.upsample = upsample_.get();
    }
  }

  void take_results(Job& job, int64_t done, int n) {
    KernelStatus status;
    status_.download(&status, 1);
    if (status.stall != 0 || status.steps_done != unsigned(n)) report_stall(status);
    const int bands = config().bands;
    if (config().draws_values()) {
      std::vector<int> bits(static_cast<size_t>(n));
      labels_.download(bits.data(), size_t(n));
      std::memcpy(job.values + done, bits.data(), size_t(n) * sizeof(int));
    } else {
      labels_.download(job.labels + bands * done, size_t(bands) * size_t(n));
    }
    const int64_t width = config().logits_size();
    if (job.logits) logits_.download(job.logits + width * done, size_t(n * width));
    StreamState& state = *job.state;
    const int heard = feedback_size(config());
    std::vector<float> h(state.hidden.size() + size_t(heard));
    state_.download(h.data(), h.size());
    std::copy(h.begin(), h.end() - heard, state.hidden.begin());
    std::copy(h.end() - heard, h.end(), state.feedback);
    state.step += uint64_t(n);
    if (status.failed_step < 0 || job.failed_step >= 0) return;
    job.failed_step = done + status.failed_step / bands;
    job.failed_band = status.failed_step % bands;
  }

  [[noreturn]] void report_stall(const KernelStatus& status) const {
    if (status.stall == 0)
      fail<EngineError>("The kernel on ", device_->detail(), " ended after ", status.steps_done,
                        " steps without a reason.");
    const auto place = unsigned(status.stall >> 32);
    const int word = int(place & ((1u << kStallWordBits) - 1));
    fail<EngineError>("The kernel on ", device_->detail(), " stalled: block ",
                      place >> kStallWordBits, " waited in vain for ", word_name(plan_.shape, word),
                      " (tag ", unsigned(status.stall),
                      "). The stream is as it was before this slice and may be run again.");
  }

  GpuPlan plan_;
  std::unique_ptr<Device> device_;        // outlives the kernel and the buffers
  CanonicalWeights canonical_;            // for another plan
  std::vector<float> bias_;               // [channels]
  std::unique_ptr<Kernel> plain_, full_;  // full_: null until a job needs it
  Buffer<uint32_t> weights_{*device_};
  Buffer<Word> words_{*device_};
  Buffer<float> base_{*device_}, hold_{*device_}, interp_{*device_}, upsample_{*device_};
  Buffer<float> state_{*device_}, logits_{*device_};
  Buffer<uint32_t> uniforms_{*device_};
  Buffer<int> forced_{*device_}, labels_{*device_};
  Buffer<KernelStatus> status_{*device_};
  Buffer<long long> clocks_{*device_};
  std::timed_mutex mutex_;
  unsigned tag_ = 1;
  std::string note_;
  bool lost_ = false;  // no plan that can run: see retreat
  double seconds_per_step_ = 0;
};

}  // namespace

std::vector<float> channel_bias(const ModelConfig& c, const CanonicalWeights& weights) {
  return c.core == Core::dual       ? gate_bias(c, weights)
         : c.core == Core::residual ? residual_bias(c, weights)
                                    : embedded_bias(c, weights);
}

KernelSpec kernel_spec(const GpuPlan& plan, bool full) {
  KernelSpec spec;
  spec.shape = plan.shape;
  spec.shape.full = full;
  const bool residual = spec.shape.residual, embedded = spec.shape.embedded;
  spec.name = residual ? "wavernn_residual" : embedded ? "wavernn_embedded" : "wavernn_persistent";
  spec.entry = residual   ? "cuda/kernels/entry_residual.cuh"
               : embedded ? "cuda/kernels/entry_embedded.cuh"
                          : "cuda/kernels/entry_device.cuh";
  spec.sources = kernel_sources();
  spec.defines = shape_macros(spec.shape);
  spec.blocks = plan.shape.blocks;
  spec.threads = plan.shape.threads;
  spec.cluster = plan.shape.cluster;
  spec.shared_bytes = plan.shared_bytes;
  return spec;
}

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const EngineRequest& request, std::unique_ptr<Device> device) {
  GpuRequest wanted;
  wanted.config = config;
  wanted.dtype = request.dtype;
  wanted.exact = request.exact;
  wanted.clocks = request.clocks;
  wanted.exchanges = request.exchanges;
  wanted.blocks = request.blocks;
  wanted.warps = request.warps;
  wanted.cluster = request.cluster;
  wanted.limits = device->limits();
  if (request.streams != 1)
    return make_many_engine({wanted, request.streams, request.split}, weights, std::move(device));
  std::string note;
  if (is_sparse(wanted, request.sparse, weights, note))
    return make_sparse_engine(wanted, request.sparse, weights, std::move(device));
  return std::make_unique<GpuEngine>(wanted, weights, std::move(device), std::move(note));
}

std::unique_ptr<Engine> make_engine(const GpuPlan& plan, const CanonicalWeights& weights,
                                    std::unique_ptr<Device> device) {
  return std::make_unique<GpuEngine>(plan, weights, std::move(device));
}

}  // namespace wavernn_fast::gpu
