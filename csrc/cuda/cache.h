// Compiled kernels as files: the user's cache, and the folder that ships in the package. Both hold
// the same files under the same names, so a packaged kernel is a cache entry that was made earlier.
#pragma once

#include <optional>
#include <string>

#include "gpu/device.h"

namespace wavernn_fast::cuda {

struct Image {
  std::string bytes;   // cubin or PTX
  std::string log;     // of the compiler
  std::string origin;  // memory, cache, package or compiler
};

// What a kernel is compiled from: sources, macros and options. Its shape is in the macros.
std::string source_hash(const gpu::KernelSpec& spec);  // 64 hexadecimal digits

// "<source hash>-sm_90-nvrtc12.9.kernel": all that its content depends on.
std::string entry_name(const std::string& source_hash, const std::string& target,
                       int nvrtc_version);

class ImageFolder {
 public:
  explicit ImageFolder(std::string path) : path_(std::move(path)) {}
  // WAVERNN_FAST_CACHE, XDG_CACHE_HOME/wavernn_fast or ~/.cache/wavernn_fast; none of them: no
  // folder, nothing is found or kept.
  static ImageFolder of_user();

  const std::string& path() const { return path_; }
  // An entry whose content has the hash that it states; anything else is no entry.
  std::optional<Image> read(const std::string& name) const;
  // The newest whole entry of a kernel and target by any NVRTC that the driver can follow.
  std::optional<Image> read_any(const std::string& source_hash, const std::string& target,
                                int driver_version) const;
  // Whole or not at all, also beside other processes that write the same. False: not written, as
  // where the folder is read-only or the disk is full.
  bool write(const std::string& name, const Image& image) const;

 private:
  std::string path_;
};

}  // namespace wavernn_fast::cuda
