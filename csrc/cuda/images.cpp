#include "cuda/images.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "common/error.h"

namespace wavernn_fast::cuda {

namespace {

// Images that a driver took, of the whole process: a second engine of a shape compiles nothing.
struct Memory {
  std::mutex mutex;
  std::map<std::pair<std::string, int>, Image> images;  // by source hash and architecture
};

Memory& memory() {
  static Memory& instance = *new Memory;
  return instance;
}

// "sm_90", "sm_90a" and "compute_90" are 90; 0 for anything else.
int arch_of(const std::string& target) {
  const size_t digits = target.find_first_of("0123456789");
  return digits == std::string::npos ? 0 : std::atoi(target.c_str() + digits);
}

std::string exact_target(int arch) { return "sm_" + std::to_string(arch); }

}  // namespace

Images::Images(Toolchain toolchain, int arch, int driver_version)
    : toolchain_(std::move(toolchain)), arch_(arch), driver_version_(driver_version) {}

const Nvrtc* Images::compiler() {
  const std::lock_guard lock(mutex_);
  if (looked_) return compiler_;
  looked_ = true;
  try {
    compiler_ = &Nvrtc::find(toolchain_.nvrtc, arch_, driver_version_);
  } catch (const DeviceError& error) {
    no_compiler_ = error.what();
  }
  return compiler_;
}

std::optional<Image> Images::find_cached(const std::string& hash) {
  const ImageFolder folder = ImageFolder::of_user();
  const Nvrtc* nvrtc = compiler();
  if (!nvrtc) return folder.read_any(hash, exact_target(arch_), driver_version_);
  return folder.read(entry_name(hash, nvrtc->target(arch_, driver_version_), nvrtc->version()));
}

std::optional<Image> Images::find(const gpu::KernelSpec& spec, Origin origin) {
  const std::string hash = source_hash(spec);
  std::optional<Image> image;
  switch (origin) {
    case Origin::memory: {
      const std::lock_guard lock(memory().mutex);
      const auto found = memory().images.find({hash, arch_});
      if (found != memory().images.end()) image = found->second;
      if (image) image->origin = "memory";
      break;
    }
    case Origin::cache:
      image = find_cached(hash);
      if (image) image->origin = "cache";
      break;
    case Origin::package:
      image = ImageFolder(toolchain_.cubins).read_any(hash, exact_target(arch_), driver_version_);
      if (image) image->origin = "package";
      break;
    case Origin::compiler: {
      const Nvrtc* nvrtc = compiler();
      if (!nvrtc) throw DeviceError(no_compiler_);
      Compiled compiled = nvrtc->compile(spec, nvrtc->target(arch_, driver_version_));
      image = Image{std::move(compiled.image), std::move(compiled.log), "compiler"};
      break;
    }
  }
  return image;
}

void Images::keep(const gpu::KernelSpec& spec, const Image& image) {
  if (image.origin == "memory") return;
  const std::string hash = source_hash(spec);
  if (image.origin == "compiler") {
    const std::string target = compiler_->target(arch_, driver_version_);
    ImageFolder::of_user().write(entry_name(hash, target, compiler_->version()), image);
  }
  const std::lock_guard lock(memory().mutex);
  memory().images[{hash, arch_}] = image;
}

Compiled compile_for(const gpu::KernelSpec& spec, const std::string& target,
                     const std::string& nvrtc, const std::string& folder) {
  const Nvrtc& compiler = Nvrtc::open(nvrtc);
  compiler.target(arch_of(target), 0);  // a better sentence than the compiler's own
  Compiled compiled = compiler.compile(spec, target);
  if (folder.empty()) return compiled;
  const std::string name = entry_name(source_hash(spec), target, compiler.version());
  WF_CHECK(ImageFolder(folder).write(name, {compiled.image, compiled.log, ""}),
           "cannot write the kernel ", name, " to ", folder,
           "; name a folder that you may write to, on a disk with room");
  return compiled;
}

}  // namespace wavernn_fast::cuda
