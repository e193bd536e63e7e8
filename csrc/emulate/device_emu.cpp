#include "emulate/device_emu.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>

#include "common/error.h"
#include "cuda/kernels/stages.h"
#include "emulate/fibers.h"
#include "emulate/kernel_fiber.h"
#include "gpu/errors.h"

namespace wavernn_fast::emulate {
namespace {

std::mutex one_launch;  // the kernel's sizes and the running fiber are the process's

// A fiber's stack holds what a thread keeps in registers, mostly weights. An odd number of lines of
// the cache: the ends of all stacks, which every switch touches, must not share a few sets of it.
size_t stack_bytes(const gpu::Shape& s) {
  const size_t weights = size_t(6 * s.unit_slots + 2 * s.fc1_slots) * size_t(s.half_pairs) +
                         size_t(2 * s.fc2_slots) * size_t(s.fc_pairs) +
                         size_t(s.coarse_gru_kept + s.fine_gru_kept + s.coarse_fc1_kept +
                                s.coarse_fc2_kept + s.fine_fc1_kept + s.fine_fc2_kept) *
                             32 +
                         size_t(12 * s.unit_tiles * (s.gru_kept + 1)) +
                         size_t(9 * s.unit_slots + s.fc1_slots) * size_t(s.hidden_pairs) +
                         size_t(s.fc3_slots) * size_t(s.fc_pairs);
#if defined(__SANITIZE_ADDRESS__)
  return (64 * 1024 + 16 * weights) / 64 * 64 | 64;
#else
  return (12 * 1024 + 8 * weights) / 64 * 64 | 64;
#endif
}

#if defined(WF_FUSED)  // on AArch64 the plain build has it
bool has_fused() { return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2"); }
#endif

class EmuKernel final : public gpu::Kernel {
 public:
  EmuKernel(const gpu::KernelSpec& spec, const Options& options, std::shared_ptr<Counts> counts)
      : spec_(spec), options_(options), counts_(std::move(counts)) {}

  void launch(const gpu::KernelArgs& args) override {
    const std::lock_guard<std::mutex> lock(one_launch);
    const int blocks = args.blocks > 0 ? int(args.blocks) : spec_.blocks;
    Machine fibers({blocks, spec_.threads, spec_.shape.cluster, spec_.shared_bytes / 4,
                    stack_bytes(spec_.shape), spec_.shape.clocks != 0},
                   options_);
    gpu::KernelArgs copy = args;
#if defined(WF_FUSED)
    if (has_fused() && !options_.generic) {
      prepare_fused(spec_.shape);
      fibers.run(&thread_fused, &copy);
      counts_->add(fibers.counts());
      return;
    }
#endif
    prepare_generic(spec_.shape);
    fibers.run(&thread_generic, &copy);
    counts_->add(fibers.counts());
  }

 private:
  gpu::KernelSpec spec_;
  Options options_;
  std::shared_ptr<Counts> counts_;  // of the device
};

class EmuDevice final : public gpu::Device {
 public:
  EmuDevice(const gpu::DeviceLimits& limits, const Options& options)
      : limits_(limits), options_(options) {}

  std::string kind() const override { return "emu"; }
  std::string detail() const override { return describe(options_); }
  const gpu::DeviceLimits& limits() const override { return limits_; }
  int shortest_slice() const override { return 16; }
  unsigned first_tag() const override { return options_.first_tag; }

  uint64_t allocate(size_t bytes) override {
    void* p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (p == nullptr) throw std::bad_alloc();
    return reinterpret_cast<uintptr_t>(p);
  }
  void release(uint64_t address) noexcept override { std::free(pointer(address)); }
  void upload(uint64_t to, const void* from, size_t bytes) override {
    std::memcpy(pointer(to), from, bytes);
  }
  void download(void* to, uint64_t from, size_t bytes) override {
    std::memcpy(to, pointer(from), bytes);
  }
  void zero(uint64_t address, size_t bytes) override { std::memset(pointer(address), 0, bytes); }
  std::string unreadable(uint64_t) const override { return {}; }  // it cannot be told
  void await(uint64_t) override {}
  std::vector<std::pair<std::string, int64_t>> counts() const override {
    const Counts& c = *counts_;
    return {{"launches", c.launches}, {"words", c.words},       {"additions", c.additions},
            {"pushes", c.pushes},     {"barriers", c.barriers}, {"hops", c.hops}};
  }

  std::unique_ptr<gpu::Device> beside() override {
    return std::make_unique<EmuDevice>(limits_, options_);
  }
  std::unique_ptr<gpu::Kernel> load(const gpu::KernelSpec& spec) override {
    if (spec.blocks > limits_.multiprocessors)
      fail<DeviceError>("The kernel has ", spec.blocks, " blocks, ", limits_.name, " has ",
                        limits_.multiprocessors, " multiprocessors.");
    if (options_.room > 0 && spec.blocks > options_.room)
      throw gpu::TooManyBlocks("The kernel has " + std::to_string(spec.blocks) +
                                   " blocks, room is for " + std::to_string(options_.room) + ".",
                               options_.room);
    return std::make_unique<EmuKernel>(spec, options_, counts_);
  }

 private:
  static void* pointer(uint64_t address) { return reinterpret_cast<void*>(uintptr_t(address)); }

  gpu::DeviceLimits limits_;
  Options options_;
  std::shared_ptr<Counts> counts_ = std::make_shared<Counts>();
};

}  // namespace

std::unique_ptr<gpu::Device> open_device(const gpu::DeviceLimits& limits, const Options& options) {
  return std::make_unique<EmuDevice>(limits, options);
}

}  // namespace wavernn_fast::emulate
