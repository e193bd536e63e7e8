// Threads of the CPU engine: how many, a pool that parks, a barrier that spins briefly.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace wavernn_fast::cpu {

// Least CPU quota, in processors, of this process's cgroup and those above it (version 2 cpu.max or
// version 1 cpu.cfs_*), which the file `own` names and which lie below `cgroup_root`; 0 where there
// is none. In a container the root is mostly its own cgroup; a service of systemd has one further
// down.
double cpu_quota(const std::string& cgroup_root = "/sys/fs/cgroup",
                 const std::string& own = "/proc/self/cgroup");

// Processors this process may use: scheduler affinity, cut by that quota; at least 1.
int available_threads(const std::string& cgroup_root = "/sys/fs/cgroup",
                      const std::string& own = "/proc/self/cgroup");

// Every member of a team calls wait(); all leave when the last has come.
// Each member owns one cache line, so a meeting costs one line transfer each way. A waiter spins
// for 100 microseconds and then yields its time slice: when another program holds a core, a pure
// spin would burn the rest of it. Readers of `slow_waits` may then use fewer threads. A team with
// more members than processors sleeps at once, since some member cannot run before it does.
class Barrier {
 public:
  explicit Barrier(int members, bool sleeps = false) : slots_(members), sleeps_(sleeps) {}
  void wait(int member);
  // Meetings of `member` in which the spin limit was not enough, and all of them; then zero.
  struct Counts {
    uint64_t slow, all;
  };
  Counts take_counts(int member);

 private:
  struct alignas(128) Slot {
    std::atomic<uint32_t> arrived{0};
    uint64_t slow_waits = 0, waits = 0;
  };
  std::vector<Slot> slots_;
  const bool sleeps_;
};

// Workers 1..n-1 wait for jobs: they spin briefly, then sleep in the kernel. A job that needs fewer
// leaves the others asleep.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // DeviceError where the system gives fewer
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  // Runs job(0) on the caller and job(i) on worker i < members; returns when all are done, or
  // throws what the first of them has thrown.
  void run(int members, const std::function<void(int)>& job);
  int threads() const { return int(workers_.size()) + 1; }

 private:
  void work(int index);
  void do_job(int index);
  void wake(int index);
  void end();
  const std::function<void(int)>* job_ = nullptr;
  struct alignas(128) Slot {
    std::atomic<uint32_t> generation{0};
  };
  std::vector<Slot> slots_;  // [threads], of a worker each
  std::atomic<uint32_t> busy_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;          // of what follows
  std::exception_ptr error_;  // of the job that runs
  std::vector<std::thread> workers_;
};

}  // namespace wavernn_fast::cpu
