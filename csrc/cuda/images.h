// Where a compiled kernel comes from: memory, the cache on disk, the package, the compiler.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cuda/cache.h"
#include "cuda/nvrtc.h"

namespace wavernn_fast::cuda {

// What the caller knows of this installation.
struct Toolchain {
  std::vector<std::string> nvrtc;  // libraries to try, in order
  std::string cubins;              // folder of packaged kernels; empty: none
};

enum class Origin { memory, cache, package, compiler };
constexpr Origin kOrigins[] = {Origin::memory, Origin::cache, Origin::package, Origin::compiler};

class Images {
 public:
  Images(Toolchain toolchain, int arch, int driver_version);
  // Nothing, if this origin has none. The compiler has one, or says in a DeviceError why not.
  std::optional<Image> find(const gpu::KernelSpec& spec, Origin origin);
  // Keeps an image that the driver took: in memory, and on disk if it was compiled now.
  void keep(const gpu::KernelSpec& spec, const Image& image);
  bool has_compiler() { return compiler() != nullptr; }

 private:
  const Nvrtc* compiler();  // null if there is none; no_compiler_ then says why
  std::optional<Image> find_cached(const std::string& hash);

  Toolchain toolchain_;
  int arch_, driver_version_;
  std::mutex mutex_;  // of what follows
  bool looked_ = false;
  const Nvrtc* compiler_ = nullptr;
  std::string no_compiler_;
};

// Compiles for a target ("sm_90") by one NVRTC; no device or driver is needed. With a folder, the
// result is stored there as a packaged kernel.
Compiled compile_for(const gpu::KernelSpec& spec, const std::string& target,
                     const std::string& nvrtc, const std::string& folder);

}  // namespace wavernn_fast::cuda
