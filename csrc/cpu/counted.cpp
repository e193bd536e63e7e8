#include "cpu/counted.h"

#include <cstdint>
#include <memory>
#include <numeric>

#include "common/error.h"
#include "cpu/isa.h"
#include "cpu/stepper.h"
#include "plan/sparse.h"

namespace wavernn_fast::cpu {
namespace {

// Requests of a program to callgrind, which stands in their numbers as 'C' 'T'.
enum Request : uintptr_t { kZero = 0x43540001, kDumpAt = 0x43540003, kStart, kStop };

// A sequence of instructions that changes nothing, and that Valgrind looks for. Its code is part of
// Valgrind's documented interface and does not change; no header of it is needed.
void tell_callgrind(Request request, const char* text = nullptr) {
  volatile uintptr_t args[6] = {request, uintptr_t(text), 0, 0, 0, 0};
#if defined(__x86_64__)
  uintptr_t result = 0;
  asm volatile(
      "rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\t"
      "xchgq %%rbx, %%rbx"
      : "=d"(result)
      : "a"(&args[0]), "0"(result)
      : "cc", "memory");
#elif defined(__aarch64__)
  asm volatile(
      "mov x3, xzr\n\tmov x4, %0\n\t"
      "ror x12, x12, #3\n\tror x12, x12, #13\n\tror x12, x12, #51\n\tror x12, x12, #61\n\t"
      "orr x10, x10, x10"
      :
      : "r"(&args[0])
      : "cc", "memory", "x3", "x4");
#else
  (void)args;
#endif
}

}  // namespace

std::vector<double> run_counted(const ModelConfig& config, const CanonicalWeights& weights,
                                const Options& options, const std::vector<int>& stretches,
                                const std::string& label) {
  const KernelTable& kernels = kernels_for(options.isa);
  const PlanRequest request{config,
                            options.dtype,
                            1,
                            panel_blocks(kernels, options.dtype),
                            layout_from_name(options.sparse),
                            kernels.sparse_lists};
  const Plan plan = make_plan(request, weights);
  const float* kernel = nullptr;
  if (config.interp_size() > 0)
    kernel = weights.get("upsample.kernel", {config.hop_length, config.taps()});
  const std::unique_ptr<Stepper> stepper = make_stepper(plan, kernels, kernel);
  StageClock clock;
  if (options.clocks) stepper->set_clock(&clock);

  for (const int n : stretches) WF_CHECK(n > 0, "a stretch has ", n, " steps, expected 1 or more");
  const int all = std::accumulate(stretches.begin(), stretches.end(), 0);
  const size_t frames = size_t(all / config.hop_length + config.taps() + 2);
  const std::vector<float> interp(frames * size_t(config.interp_size()), 0.1f);
  const std::vector<float> hold(frames * size_t(config.hold_size()), 0.1f);
  std::vector<int32_t> labels(size_t(all) * size_t(config.bands));
  std::vector<float> values(static_cast<size_t>(all));
  StreamState state = make_stream(config, {1, 0, 0});
  Job job;
  job.state = &state;
  job.n_steps = all;
  job.interp = interp.empty() ? nullptr : interp.data();
  job.hold = hold.empty() ? nullptr : hold.data();
  job.labels = labels.data();
  job.values = values.data();
  Lane lane{&job, 0, 0};
  const std::atomic<bool> over{false};
  for (const int n : stretches) {
    const std::string name = label + " " + std::to_string(n);
    stepper->load({&lane}, 1);
    tell_callgrind(kStart);
    tell_callgrind(kZero);
    const int done = stepper->steps_alone(n, Stepper::Clock::time_point::max(), over);
    tell_callgrind(kDumpAt, name.c_str());
    tell_callgrind(kStop);
    stepper->store(done);
  }
  if (config.draws_values()) return {values.begin(), values.end()};
  return {labels.begin(), labels.end()};
}

}  // namespace wavernn_fast::cpu
