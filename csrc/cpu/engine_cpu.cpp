#include "cpu/engine_cpu.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "common/error.h"
#include "cpu/isa.h"
#include "cpu/stage_clock.h"
#include "cpu/stepper.h"
#include "cpu/team_choice.h"
#include "cpu/threads.h"
#include "engine/turn.h"
#include "plan/sparse.h"

namespace wavernn_fast::cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSliceSeconds = 0.01;                         // between interrupt checks
constexpr auto kLongestSlice = std::chrono::milliseconds(30);  // the machine may turn out slower
constexpr int kFirstSlice = 8;                                 // steps, before the speed is known
// Streams a thread from which each thread works alone. One that does reads all weights for its own
// streams; where they come from a cache that is shared, sharing the products pays for longer
// (16 streams, two threads, 896 units: 46 against 37 thousand samples/s in fp32; 256 units, which
// lie beside a core: 335 against 373).
constexpr int kSplitStreams = 8, kSplitStreamsFar = 16;
constexpr uint64_t kBesideACore = 2 << 20;  // bytes of weights that a core keeps to itself
constexpr int kBestStreams = 32;            // streams a thread from which more make it no faster

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void drop_finished(std::vector<Lane*>& lanes) {
  std::erase_if(lanes, [](const Lane* lane) { return lane->done == lane->job->n_steps; });
}

// Steps of a slice: as many as the time for one allows, none beyond the end of a lane.
int slice_steps(const std::vector<Lane*>& lanes, double seconds_per_lane_step) {
  int64_t shortest = 1 << 20;
  for (const Lane* lane : lanes) shortest = std::min(shortest, lane->job->n_steps - lane->done);
  const double per_step = seconds_per_lane_step * double(lanes.size());
  const int64_t wanted = per_step > 0 ? int64_t(kSliceSeconds / per_step) : kFirstSlice;
  return int(std::clamp<int64_t>(wanted, 1, shortest));
}

// From the beginning of a run to its end, however it ends, every moment is some stage's.
class Timed {
 public:
  explicit Timed(StageClock* clock) : clock_(clock) {
    if (clock_ != nullptr) clock_->begin();
  }
  ~Timed() {
    if (clock_ != nullptr) clock_->done(kSlices);
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  StageClock* clock_;
};

// Lanes that wait for a place, in order; threads may share it.
class Queue {
 public:
  explicit Queue(std::vector<Lane>& lanes) : lanes_(lanes) {}
  // Adds the next ones to `active` until it has `places`.
  void fill(std::vector<Lane*>& active, size_t places) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (active.size() < places && next_ < lanes_.size()) active.push_back(&lanes_[next_++]);
  }

 private:
  std::vector<Lane>& lanes_;
  size_t next_ = 0;
  std::mutex mutex_;
};

// The threads of a process, and what only one run at a time may use and change.
struct Crew {
  explicit Crew(int threads) : pool(threads), choice(threads), apart_seconds(threads, 0.0) {
    const int available = available_threads();  // reads files
    for (int members : team_sizes(threads))
      barriers.push_back(std::make_unique<Barrier>(members, members > available));
  }
  std::timed_mutex mutex;
  ThreadPool pool;
  std::vector<std::unique_ptr<Barrier>> barriers;  // [team sizes]
  std::vector<std::unique_ptr<Stepper>> steppers;  // [threads]
  TeamChoice choice;
  double seconds_per_lane_step = 0;
  std::vector<double> apart_seconds;  // the same of each thread that works alone
};

class CpuEngine final : public Engine {
 public:
  CpuEngine(Plan plan, const KernelTable& kernels, std::vector<float> upsample_kernel, bool clocks)
      : plan_(std::move(plan)), kernels_(kernels), upsample_kernel_(std::move(upsample_kernel)) {
    if (clocks) clock_ = std::make_unique<StageClock>();
    make_crew();
  }

  ~CpuEngine() override {
    if (getpid() != pid_) (void)crew_.release();  // its threads live in the parent process
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

  int lanes() const override { return kBestStreams * threads(); }

  std::vector<std::pair<std::string, int64_t>> stage_ticks() override {
    const std::lock_guard<std::timed_mutex> lock(crew().mutex);
    return of_stages([this](int place) { return clock_->nanoseconds(place); });
  }
  std::vector<std::pair<std::string, int64_t>> counts() override {
    const std::lock_guard<std::timed_mutex> lock(crew().mutex);
    return of_stages([this](int place) { return clock_->count(place); });
  }

  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    run_in(jobs, 0, interrupt);
  }

  void run_in(std::vector<Job>& jobs, int places, const Interrupt& interrupt) override {
    const auto turn = take_turn(crew().mutex, interrupt);
    check_jobs(config(), jobs);
    const Timed timed(clock_.get());
    std::vector<Lane> lanes;
    lanes.reserve(jobs.size());
    // Rows handed over start at the first frame; `position` moves on, `first_frame` stays.
    for (Job& job : jobs)
      if (job.n_steps > 0)
        lanes.push_back({&job, 0, int64_t(job.state->position()) / config().hop_length});
    Queue queue(lanes);
    std::vector<Lane*> active;
    for (;;) {
      queue.fill(active, size_t(places > 0 ? places : this->lanes()));
      if (active.empty()) return;
      if (threads() > 1 && int(active.size()) >= split_streams() * threads()) {
        run_apart(active, queue, interrupt);
        continue;
      }
      run_slice(active);
      drop_finished(active);
      if (interrupt) interrupt();
    }
  }

 private:
  int split_streams() const {
    return plan_.weight_bytes > kBesideACore ? kSplitStreamsFar : kSplitStreams;
  }

  void make_crew() {
    const int n = plan_.request.threads;
    auto crew = std::make_unique<Crew>(n);
    for (int i = 0; i < n; ++i) crew->steppers.push_back(make_stepper());
    crew->steppers[0]->set_clock(clock_.get());  // thread 0 is the caller's
    crew_ = std::move(crew);
    pid_ = getpid();
  }

  // A child of fork() has only the thread that called it, and a copy of the crew as it was at that
  // moment, perhaps in the middle of a run: it is left alone, and the first caller makes another.
  Crew& crew() {
    const pid_t mine = getpid();
    for (pid_t seen = pid_; seen != mine; seen = pid_) {
      if (seen == -mine || !pid_.compare_exchange_strong(seen, -mine)) {
        std::this_thread::yield();
        continue;
      }
      (void)crew_.release();
      try {
        make_crew();
      } catch (...) {
        pid_ = 0;  // the next caller may have more luck
        throw;
      }
    }
    return *crew_;
  }

  // By name: matrices as in the plan, then what else happens. Empty without a clock.
  template <class Of>
  std::vector<std::pair<std::string, int64_t>> of_stages(Of of) const {
    std::vector<std::pair<std::string, int64_t>> result;
    if (!clock_) return result;
    for (int i = 0; i < int(plan_.matrices.size()); ++i)
      result.emplace_back(plan_.matrices[i].name, of(i));
    for (int i = kMostMatrices; i < kPlaces; ++i)
      result.emplace_back(kStageNames[i - kMostMatrices], of(i));
    return result;
  }

  std::unique_ptr<Stepper> make_stepper() const {
    return cpu::make_stepper(plan_, kernels_, upsample_kernel_.data());
  }

  // Advances every lane by the same number of steps.
  void run_slice(const std::vector<Lane*>& active) {
    const int n = slice_steps(active, crew_->seconds_per_lane_step);
    const auto begin = Clock::now();
    const int done = run_together(active, n, begin + kLongestSlice);
    crew_->seconds_per_lane_step = seconds_since(begin) / double(done) / double(active.size());
  }

  // Some or all threads share every product; they meet several times a sample.
  int run_together(const std::vector<Lane*>& active, int n, Clock::time_point deadline) {
    Stepper& stepper = *crew_->steppers[0];
    const int members = crew_->choice.members();
    Barrier& barrier = *crew_->barriers[crew_->choice.team()];
    stepper.load(active, members);
    const auto begin = Clock::now();
    int done = 0;
    crew_->pool.run(members, [&](int i) {
      const int mine = stepper.steps(i, members, &barrier, n, deadline);
      if (i == 0) done = mine;
    });
    const double seconds = seconds_since(begin) / done;
    stepper.store(done);
    const Barrier::Counts counts = barrier.take_counts(0);
    const bool slow_meetings = counts.slow >= 3 && counts.slow * 50 > counts.all;
    if (done > kFirstSlice)
      crew_->choice.record(int(active.size()), seconds, members > 1 && (slow_meetings || done < n));
    return done;
  }

  // What threads that work apart share.
  struct Apart {
    Queue& queue;
    const Interrupt& interrupt;
    std::vector<std::vector<Lane*>> shares;  // of each thread
    std::atomic<bool> over{false};
    std::mutex mutex;          // of what follows
    std::exception_ptr error;  // the first
  };

  // Each thread steps its own share of the lanes, takes the next one that waits whenever one of its
  // own has ended, and never waits for another thread; lanes carry their own counts. It is over
  // when a thread finds too few lanes: the caller then deals again what the others have left.
  void run_apart(std::vector<Lane*>& active, Queue& queue, const Interrupt& interrupt) {
    const int count = threads(), n = int(active.size());
    Apart apart{queue, interrupt, {}, {}, {}, {}};
    for (int i = 0; i < count; ++i)
      apart.shares.emplace_back(active.begin() + part_begin(n, count, i),
                                active.begin() + part_begin(n, count, i + 1));
    crew_->pool.run(count, [&](int i) { work_apart(apart, i); });
    active.clear();
    for (const std::vector<Lane*>& share : apart.shares)
      active.insert(active.end(), share.begin(), share.end());
    if (apart.error) std::rethrow_exception(apart.error);
  }

  void work_apart(Apart& apart, int i) {
    std::vector<Lane*>& share = apart.shares[i];
    Stepper& stepper = *crew_->steppers[i];
    const size_t places = share.size();
    try {
      while (!apart.over) {
        const auto begin = Clock::now();
        const int n = slice_steps(share, crew_->apart_seconds[i]);
        stepper.load(share, 1);
        const int done = stepper.steps_alone(n, begin + kLongestSlice, apart.over);
        stepper.store(done);
        crew_->apart_seconds[i] = seconds_since(begin) / double(done) / double(share.size());
        drop_finished(share);
        apart.queue.fill(share, places);
        if (int(share.size()) < split_streams()) apart.over = true;
        if (i == 0 && apart.interrupt) apart.interrupt();  // thread 0 is the caller's
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(apart.mutex);
      if (!apart.error) apart.error = std::current_exception();
      apart.over = true;
    }
  }

  Plan plan_;
  const KernelTable& kernels_;
  std::vector<float> upsample_kernel_;  // [hop_length, taps]
  std::unique_ptr<StageClock> clock_;   // null: off
  std::unique_ptr<Crew> crew_;
  std::atomic<pid_t> pid_ = 0;  // of the process whose crew it is; negative while it makes one
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
  if (config.interp_size() > 0) {
    const int64_t taps = config.taps();
    const float* k = weights.get("upsample.kernel", {config.hop_length, taps});
    kernel.assign(k, k + config.hop_length * taps);
  }
  return std::make_unique<CpuEngine>(make_plan(request, weights), kernels, std::move(kernel),
                                     options.clocks);
}

}  // namespace wavernn_fast::cpu
