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
  const bool known =
      kind == "read" || kind == "fma" || kind == "int8" || kind == "fp16" || kind == "bf16";
  WF_CHECK(known, "probe kind ", kind, " is not known; use read, fma, int8, fp16 or bf16");
  WF_CHECK(threads >= 1 && bytes_per_thread <= (size_t(1) << 34), "probe needs 1 or more threads",
           " and at most 16 GiB a thread");
  constexpr size_t kL1Set = 16384;
  const size_t bytes = kind == "read" ? bytes_per_thread : kL1Set;
  std::vector<AlignedBuffer<uint8_t>> sets(threads);
  std::vector<double> rates(threads);
  ThreadPool pool(threads);
  pool.run(threads, [&](int i) {
    sets[i].resize(bytes + 8192);  // first touched by its own thread; room for prefetches
    const uint8_t* set = sets[i].data();
    std::vector<float> start(14 * kLanes);
    for (size_t j = 0; j < start.size(); ++j) start[j] = float(j) / float(start.size() + 1);
    const auto once = [&]() -> uint64_t {
      if (kind == "read") return kernels.probe_read(set, bytes);
      if (kind == "fma") return 2 * kernels.probe_fma(start.data(), 4096);
      if (kind == "int8") return kernels.probe_int8(set, 4096);
      return (kind == "fp16" ? kernels.probe_fp16 : kernels.probe_bf16)(set, bytes, 4);
    };
    once();
    uint64_t work = 0;
    double elapsed = 0;
    const auto begin = Clock::now();
    while ((elapsed = seconds_since(begin)) < seconds) work += once();
    rates[i] = double(work) / elapsed;
  });
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace wavernn_fast::cpu
