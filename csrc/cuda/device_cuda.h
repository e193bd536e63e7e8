// gpu::Device over the driver: memory, kernels and launches on one NVIDIA GPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cuda/context.h"
#include "cuda/images.h"
#include "gpu/device.h"

namespace wavernn_fast::cuda {

struct OpenOptions {
  int ordinal = 0;                 // among the devices that CUDA_VISIBLE_DEVICES leaves
  std::optional<uint64_t> stream;  // handle of the caller's stream; without one a stream is made
  Toolchain toolchain;
};

// A module and the kernel in it.
struct Handles {
  ModuleHandle module = nullptr;
  FunctionHandle function = nullptr;
  // The last call made and its result; nothing stays open unless it is success.
  std::pair<const char*, Result> open(const Driver& driver, const Image& image,
                                      const std::string& name);
};

class KernelCuda final : public gpu::Kernel {
 public:
  KernelCuda(std::shared_ptr<Context> context, const gpu::KernelSpec& spec, Handles handles,
             Image image);
  ~KernelCuda() override;
  void launch(const gpu::KernelArgs& args) override;
  const Image& image() const { return image_; }

 private:
  void prepare();        // dynamic shared memory
  void demand_blocks();  // TooManyBlocks unless all can be resident together
  void demand_clusters();
  LaunchConfig cluster_launch(LaunchAttribute (&attributes)[2], unsigned blocks) const;

  std::shared_ptr<Context> context_;
  gpu::KernelSpec spec_;  // without sources
  Image image_;
  Handles handles_;
};

class DeviceCuda final : public gpu::Device {
 public:
  explicit DeviceCuda(const OpenOptions& options);
  std::string kind() const override { return "cuda"; }
  const gpu::DeviceLimits& limits() const override { return context_->limits(); }
  bool forked() const noexcept override { return context_->driver().forked(); }
  void refuse_fork() const override { context_->driver().refuse_fork(); }
  uint64_t allocate(size_t bytes) override;
  void release(uint64_t address) noexcept override;
  void upload(uint64_t to, const void* from, size_t bytes) override;
  void download(void* to, uint64_t from, size_t bytes) override;
  void zero(uint64_t address, size_t bytes) override;
  std::string unreadable(uint64_t address) const override;
  void await(uint64_t stream) override;
  std::unique_ptr<gpu::Kernel> load(const gpu::KernelSpec& spec) override;
  std::unique_ptr<gpu::Device> beside() override;
  bool compiled() const override { return compiled_; }

 private:
  std::shared_ptr<Context> context_;  // kernels may outlive the device
  Images images_;
  std::atomic<bool> compiled_{false};
};

std::unique_ptr<gpu::Device> open_device(const OpenOptions& options);

}  // namespace wavernn_fast::cuda
