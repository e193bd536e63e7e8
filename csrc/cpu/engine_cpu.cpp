#include "cpu/engine_cpu.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>

#include "common/error.h"
#include "cpu/isa.h"
#include "cpu/stepper.h"
#include "cpu/threads.h"
#include "plan/sparse.h"

namespace wavernn_fast::cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSliceSeconds = 0.01;  // between interrupt checks
constexpr double kLongestSlice = 0.03;  // when the machine turns out slower than expected
constexpr int kFirstSlice = 8;          // steps, before the speed is known
constexpr int kSplitStreams = 8;        // streams a thread from which each thread works alone
constexpr int kCalmSlices = 50;         // slices for which the choice of members stands

class CpuEngine final : public Engine {
 public:
  CpuEngine(Plan plan, const KernelTable& kernels, std::vector<float> upsample_kernel)
      : plan_(std::move(plan)), kernels_(kernels), upsample_kernel_(std::move(upsample_kernel)) {
    start_threads();
  }

  ~CpuEngine() override {
    if (getpid() != pid_) (void)pool_.release();  // the threads live in the parent process
  }

  const ModelConfig& config() const override { return plan_.request.config; }
  std::string device() const override { return "cpu"; }
  std::string isa() const override { return kernels_.name; }
  std::string dtype() const override { return dtype_name(plan_.request.dtype); }
  int threads() const override { return plan_.request.threads; }
  uint64_t weight_bytes() const override { return plan_.weight_bytes; }
  int64_t macs_per_step() const override { return plan_.macs_per_step; }
  std::string describe() const override { return plan_.describe(); }
  std::string sparse() const override { return plan_.describe_sparse(); }

  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    check_jobs(config(), jobs);
    if (getpid() != pid_) start_threads();  // after fork() only the calling thread exists
    std::vector<Lane> lanes;
    for (Job& job : jobs)
      lanes.push_back({&job, 0, int64_t(job.state->position()) / config().hop_length});
    // Rows handed over start at the first frame; `position` moves on, `first_frame` stays.
    while (run_slice(lanes))
      if (interrupt) interrupt();
  }

 private:
  void start_threads() {
    (void)pool_.release();  // null at first; after fork() its threads are not ours to join
    pid_ = getpid();
    const int n = plan_.request.threads;
    pool_ = std::make_unique<ThreadPool>(n);
    barrier_ = std::make_unique<Barrier>(n);
    steppers_.clear();
    for (int i = 0; i < n; ++i)
      steppers_.push_back(config().core == Core::dual
                              ? make_dual_stepper(plan_, kernels_, upsample_kernel_.data())
                              : make_residual_stepper(plan_, kernels_, upsample_kernel_.data()));
  }

  // Advances every unfinished lane by the same number of steps; false when all are finished.
  bool run_slice(std::vector<Lane>& lanes) {
    std::vector<Lane*> active;
    int64_t shortest = INT64_MAX;
    for (Lane& lane : lanes) {
      const int64_t left = lane.job->n_steps - lane.done;
      if (left <= 0) continue;
      active.push_back(&lane);
      shortest = std::min(shortest, left);
    }
    if (active.empty()) return false;
    const double per_step = seconds_per_lane_step_ * double(active.size());
    const int64_t wanted = per_step > 0 ? int64_t(kSliceSeconds / per_step) : kFirstSlice;
    const int n = int(std::clamp<int64_t>(wanted, 1, std::min<int64_t>(shortest, 1 << 20)));

    const auto begin = Clock::now();
    const auto deadline = begin + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(kLongestSlice));
    const bool alone = threads() > 1 && int(active.size()) >= kSplitStreams * threads();
    const int done = alone ? run_alone(active, n, deadline) : run_together(active, n, deadline);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    seconds_per_lane_step_ = seconds / double(done) / double(active.size());
    return true;
  }

  // All threads share every product; they meet several times a sample.
  int run_together(const std::vector<Lane*>& active, int n, Clock::time_point deadline) {
    Stepper& stepper = *steppers_[0];
    const int members = calm_slices_ > 0 ? 1 : threads();
    stepper.load(active);
    const auto begin = Clock::now();
    int done = 0;
    pool_->run(members, [&](int i) {
      const int mine = stepper.steps(i, members, barrier_.get(), n, deadline);
      if (i == 0) done = mine;
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / done;
    stepper.store(done);
    if (threads() > 1 && done > kFirstSlice) choose_members(members, seconds, done < n);
    return done;
  }

  // One thread is faster for a small or pruned model, whose meetings take longer than what they
  // share, and for any while a stolen core makes every meeting wait for the scheduler. A few slow
  // meetings prove nothing (a neighbour's burst on the memory, a tick of the system), so one slice
  // is tried on one thread, at first and when meetings are slow, and the faster way goes on for a
  // while.
  void choose_members(int members, double seconds_per_step, bool late) {
    if (members == 1) {
      --calm_slices_;
      if (trying_alone_) {
        doubtful_ = seconds_per_step < team_seconds_;
        (doubtful_ ? calm_slices_ : trusted_slices_) = kCalmSlices;
        trying_alone_ = false;
      }
      return;
    }
    const Barrier::Counts counts = barrier_->take_counts(0);
    if (trusted_slices_ > 0) {
      --trusted_slices_;
    } else if (doubtful_ || late || (counts.slow >= 3 && counts.slow * 50 > counts.all)) {
      team_seconds_ = seconds_per_step;
      trying_alone_ = true;
      calm_slices_ = 1;
    }
  }

  // Each thread steps its own share of the lanes and never waits for another. Shares may end
  // their slices at different steps; the lanes carry their own counts.
  int run_alone(const std::vector<Lane*>& active, int n, Clock::time_point deadline) {
    const int count = threads(), lanes = int(active.size());
    std::vector<int> done(count);
    for (int i = 0; i < count; ++i)
      steppers_[i]->load({active.begin() + part_begin(lanes, count, i),
                          active.begin() + part_begin(lanes, count, i + 1)});
    pool_->run(count, [&](int i) { done[i] = steppers_[i]->steps(0, 1, nullptr, n, deadline); });
    for (int i = 0; i < count; ++i) steppers_[i]->store(done[i]);
    return std::max(1, *std::min_element(done.begin(), done.end()));
  }

  Plan plan_;
  const KernelTable& kernels_;
  std::vector<float> upsample_kernel_;  // [hop_length, taps]
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Barrier> barrier_;
  std::vector<std::unique_ptr<Stepper>> steppers_;
  std::mutex mutex_;
  pid_t pid_ = 0;
  double seconds_per_lane_step_ = 0;
  int calm_slices_ = 0;     // to be run on one thread
  int trusted_slices_ = 0;  // of the team in which slow meetings are no reason to try one thread
  bool doubtful_ = true;    // whether a team is faster
  bool trying_alone_ = false;
  double team_seconds_ = 0;  // a step of the slice that had slow meetings
};

}  // namespace

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const Options& options) {
  const KernelTable& kernels = kernels_for(options.isa);
  PlanRequest request{config,
                      options.dtype,
                      options.threads,
                      panel_blocks(kernels, options.dtype),
                      layout_from_name(options.sparse),
                      kernels.sparse_lists};
  if (request.threads <= 0) request.threads = available_threads();
  std::vector<float> kernel;
  if (config.n_mels > 0) {
    const int64_t taps = config.taps();
    const float* k = weights.get("upsample.kernel", {config.hop_length, taps});
    kernel.assign(k, k + config.hop_length * taps);
  }
  return std::make_unique<CpuEngine>(make_plan(request, weights), kernels, std::move(kernel));
}

}  // namespace wavernn_fast::cpu
