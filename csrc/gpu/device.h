// A machine that runs the persistent kernel: memory, kernels, launches. The driver (cuda/) and the
// emulator (emulate/) are two of them; the engine above (gpu/engine_gpu.cpp) knows this only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"
#include "plan/device_limits.h"

namespace wavernn_fast::gpu {

// A kernel made for one plan: what to compile and how it is launched.
struct KernelSpec {
  std::string name;                                          // extern "C" name of the kernel
  std::string entry;                                         // file of `sources` to compile
  std::vector<std::pair<std::string, std::string>> sources;  // file name, text
  std::vector<std::pair<std::string, std::string>> defines;  // macro, value; sorted
  Shape shape;  // what the macros say, for a device that needs no compiler
  int blocks = 0;
  int threads = 0;       // a block
  int cluster = 1;       // blocks that run on neighbouring multiprocessors; 1: any
  bool together = true;  // blocks of different clusters wait for each other
  int shared_bytes = 0;  // dynamic shared memory a block
  int max_registers = 255;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  // Runs all blocks together (cooperatively) and waits for the end. DeviceError if the device
  // refuses or fails; what the kernel itself reports is in args.status.
  virtual void launch(const KernelArgs& args) = 0;
};

// Device memory is named by its address. All calls act in order, and uploads, downloads and
// launches have happened when they return.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string kind() const = 0;  // "cuda" or "emu"
  virtual std::string detail() const { return limits().name; }
  virtual const DeviceLimits& limits() const = 0;
  // Whether this process is a child of fork() and the device its parent's. Waits for nobody.
  virtual bool forked() const noexcept { return false; }
  // DeviceError in such a child. Asked before a lock is taken: a thread of the parent may have held
  // it when the child was made, and nobody there would ever give it back.
  virtual void refuse_fork() const {}
  virtual int shortest_slice() const { return 1; }  // steps below which starting a launch dominates
  virtual unsigned first_tag() const { return 1; }  // of an engine's first launch
  virtual uint64_t allocate(size_t bytes) = 0;      // 256-byte aligned
  virtual void release(uint64_t address) noexcept = 0;
  virtual void upload(uint64_t to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, uint64_t from, size_t bytes) = 0;
  virtual void zero(uint64_t address, size_t bytes) = 0;
  // Memory and streams of others: see Engine.
  virtual std::string unreadable(uint64_t address) const = 0;
  virtual void await(uint64_t stream) = 0;
  // What launches of kernels with stage clocks have counted, where the device can.
  virtual std::vector<std::pair<std::string, int64_t>> counts() const { return {}; }
  // The blocks of a kernel that can be resident together are asked first; DeviceError if fewer
  // than spec.blocks.
  virtual std::unique_ptr<Kernel> load(const KernelSpec& spec) = 0;
  // The same device once more: calls there do not wait for those here, nor these for them, and the
  // memory of either is that of both.
  virtual std::unique_ptr<Device> beside() = 0;
  // Whether a kernel had to be compiled, since nobody had kept it.
  virtual bool compiled() const { return false; }
};

}  // namespace wavernn_fast::gpu
