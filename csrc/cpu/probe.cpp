#include "cpu/probe.h"

#include <chrono>
#include <numeric>
#include <vector>

#include "common/aligned.h"
#include "common/error.h"
#include "cpu/isa.h"
#include "cpu/threads.h"

namespace wavernn_fast::cpu {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

double probe(const std::string& kind, size_t bytes_per_thread, int threads, double seconds,
             const std::string& isa) {
  const KernelTable& kernels = kernels_for(isa);
  WF_CHECK(kind == "read" || kind == "fma" || kind == "int8", "probe kind ", kind,
           " is not known; use read, fma or int8");
  WF_CHECK(threads >= 1 && bytes_per_thread <= (size_t(1) << 34), "probe needs 1 or more threads",
           " and at most 16 GiB a thread");
  constexpr size_t kInt8Set = 16384;  // stays in L1
  const size_t bytes = kind == "read" ? bytes_per_thread : kInt8Set;
  std::vector<AlignedBuffer<uint8_t>> sets(threads);
  std::vector<double> rates(threads);
  ThreadPool pool(threads);
  pool.run(threads, [&](int i) {
    sets[i].resize(bytes + 8192);  // first touched by its own thread; room for prefetches
    kernels.probe_read(sets[i].data(), bytes);
    uint64_t work = 0;
    const auto begin = Clock::now();
    double elapsed = 0;
    while ((elapsed = seconds_since(begin)) < seconds) {
      if (kind == "read")
        work += kernels.probe_read(sets[i].data(), bytes);
      else if (kind == "fma")
        work += 2 * kernels.probe_fma(4096);
      else
        work += kernels.probe_int8(sets[i].data(), bytes, 4);
    }
    rates[i] = double(work) / elapsed;
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace wavernn_fast::cpu
