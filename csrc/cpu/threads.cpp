#include "cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <utility>

#include "common/error.h"

namespace wavernn_fast::cpu {
namespace {

// A meeting of members that all run takes well below 1 us, plus what the others are behind. A pause
// takes 40 to 140 cycles, so the first looks do without: the answer may come between two of them.
constexpr int kEagerLooks = 200;
constexpr int kPausesPerClock = 16;
constexpr auto kSpinTime = std::chrono::microseconds(100);  // then a core is probably stolen
constexpr int kPoolSpins = 20000;                           // before a worker sleeps

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Quota in processors of one cgroup, or 0 when there is none.
double quota_of(const std::string& group) {
  std::ifstream v2(group + "/cpu.max");
  std::string quota;
  double period = 0;
  // "max", like all that is no number, is no limit.
  if (v2 >> quota >> period) return period > 0 ? std::strtod(quota.c_str(), nullptr) / period : 0;
  std::ifstream q(group + "/cpu.cfs_quota_us"), p(group + "/cpu.cfs_period_us");
  double limit = 0;
  if (q >> limit && p >> period && limit > 0 && period > 0) return limit / period;
  return 0;
}

// The cgroups whose processors are counted, as lines of /proc/self/cgroup name them: version 2
// "0::/path", version 1 "4:cpu,cpuacct:/path". Of each version the root, at least.
std::vector<std::pair<std::string, std::string>> cgroups(const std::string& root,
                                                         const std::string& own) {
  std::vector<std::pair<std::string, std::string>> groups{{root, ""}, {root + "/cpu", ""}};
  std::ifstream lines(own);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos || line[second + 1] != '/') continue;
    std::string controllers(",");
    controllers.append(line, first + 1, second - first - 1).append(",");
    if (controllers == ",,") groups[0].second = line.substr(second + 1);
    if (controllers.find(",cpu,") != std::string::npos) groups[1].second = line.substr(second + 1);
  }
  return groups;
}

}  // namespace

double cpu_quota(const std::string& root, const std::string& own) {
  double least = 0;
  for (auto& [mounted, path] : cgroups(root, own)) {
    for (;;) {
      const double quota = quota_of(mounted + path);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      if (path.empty()) break;
      path.erase(path.find_last_of('/'));
    }
  }
  return least;
}

int available_threads(const std::string& cgroup_root, const std::string& own) {
  int n = int(std::thread::hardware_concurrency());
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  const double quota = cpu_quota(cgroup_root, own);
  if (quota > 0) n = int(std::min<double>(n, std::ceil(quota)));
  return std::max(1, n);
}

void Barrier::wait(int member) {
  Slot& mine = slots_[member];
  const uint32_t meeting = mine.arrived.load(std::memory_order_relaxed) + 1;
  mine.arrived.store(meeting, std::memory_order_release);
  ++mine.waits;
  // Signed difference, so that the 32-bit count may wrap.
  const auto absent = [meeting](const Slot& slot) {
    return int32_t(slot.arrived.load(std::memory_order_acquire) - meeting) < 0;
  };
  if (sleeps_) {
    mine.arrived.notify_all();
    for (const Slot& other : slots_)
      while (absent(other)) other.arrived.wait(meeting - 1, std::memory_order_acquire);
    return;
  }
  int looks = 0;
  for (const Slot& other : slots_)
    while (absent(other) && looks < kEagerLooks) ++looks;
  if (looks < kEagerLooks) return;
  const auto limit = std::chrono::steady_clock::now() + kSpinTime;
  bool slow = false;
  for (const Slot& other : slots_) {
    for (int pauses = 1; absent(other); ++pauses) {
      if (slow)
        sched_yield();
      else
        pause_cpu();
      if (pauses % kPausesPerClock == 0) slow = slow || std::chrono::steady_clock::now() > limit;
    }
  }
  mine.slow_waits += slow;
}

Barrier::Counts Barrier::take_counts(int member) {
  Slot& mine = slots_[member];
  const Counts counts{mine.slow_waits, mine.waits};
  mine.slow_waits = mine.waits = 0;
  return counts;
}

ThreadPool::ThreadPool(int threads) : slots_(threads) {
  workers_.reserve(slots_.size());
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::exception& error) {  // no thread, or no memory for one
    const int begun = this->threads();
    end();  // a thread that nobody has joined would end the process
    fail<DeviceError>("only ", begun, " of ", threads, " threads could be started (", error.what(),
                      "): ask for fewer (cpu_threads, --threads, WAVERNN_FAST_THREADS), or raise ",
                      "the limit of threads or memory");
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
  stop_.store(true);
  for (int i = 1; i < threads(); ++i) wake(i);
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::wake(int index) {
  slots_[index].generation.fetch_add(1, std::memory_order_acq_rel);
  slots_[index].generation.notify_one();
}

void ThreadPool::work(int index) {
  std::atomic<uint32_t>& generation = slots_[index].generation;
  uint32_t seen = 0;
  for (;;) {
    for (int spins = 0; generation.load(std::memory_order_acquire) == seen && spins < kPoolSpins;
         ++spins)
      pause_cpu();
    generation.wait(seen, std::memory_order_acquire);
    seen = generation.load(std::memory_order_acquire);
    if (stop_.load()) return;
    do_job(index);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void ThreadPool::do_job(int index) {
  try {
    (*job_)(index);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run(int members, const std::function<void(int)>& job) {
  members = std::min(members, threads());
  if (members <= 1) {
    job(0);
    return;
  }
  job_ = &job;
  busy_.store(uint32_t(members - 1), std::memory_order_relaxed);
  for (int i = 1; i < members; ++i) wake(i);
  do_job(0);
  for (int spins = 0; spins < kPoolSpins && busy_.load(std::memory_order_acquire) != 0; ++spins)
    pause_cpu();
  for (uint32_t left = busy_.load(std::memory_order_acquire); left != 0;
       left = busy_.load(std::memory_order_acquire))
    busy_.wait(left, std::memory_order_acquire);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace wavernn_fast::cpu
