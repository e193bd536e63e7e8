// NVIDIA's run-time compiler, found at run time: kernels become programs for the exact device.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "gpu/device.h"

namespace wavernn_fast::cuda {

// CALL(member, parameters...): the symbols are "nvrtc" + member.
// clang-format off
#define WF_NVRTC_CALLS(CALL)                                                                       \
  CALL(Version, int* major, int* minor)                                                            \
  CALL(GetNumSupportedArchs, int* count)                                                           \
  CALL(GetSupportedArchs, int* archs)                                                              \
  CALL(CreateProgram, ProgramHandle*, const char* source, const char* name, int headers,           \
       const char* const* header_texts, const char* const* header_names)                           \
  CALL(DestroyProgram, ProgramHandle*)                                                             \
  CALL(CompileProgram, ProgramHandle, int options, const char* const* texts)                       \
  CALL(GetProgramLogSize, ProgramHandle, size_t* bytes)                                            \
  CALL(GetProgramLog, ProgramHandle, char* text)                                                   \
  CALL(GetCUBINSize, ProgramHandle, size_t* bytes)                                                 \
  CALL(GetCUBIN, ProgramHandle, char* bytes)                                                       \
  CALL(GetPTXSize, ProgramHandle, size_t* bytes)                                                   \
  CALL(GetPTX, ProgramHandle, char* bytes)
// clang-format on

struct Compiled {
  std::string image;  // cubin, or PTX with its closing zero
  std::string log;    // of compiler and assembler: registers, spills
};

// Options of a kernel, those of the target left out.
std::vector<std::string> compile_options(const gpu::KernelSpec& spec);

class Nvrtc {
 public:
  using ProgramHandle = struct OpaqueProgram*;

  // The first library that suits device and driver: WAVERNN_FAST_NVRTC alone if it is set, else one
  // that the process has loaded already, `paths`, then the system's. driver_version 0: no driver
  // to suit. DeviceError lists what was found and why it does not do.
  static const Nvrtc& find(const std::vector<std::string>& paths, int arch, int driver_version);
  static const Nvrtc& open(const std::string& path);

  const std::string& path() const { return path_; }
  int version() const { return 1000 * major_ + 10 * minor_; }  // as the driver counts
  std::string version_text() const;                            // "12.9"

  // "sm_90", or "compute_120" where the device is newer than the compiler: PTX, which the driver
  // finishes. DeviceError if device or driver are too old for it.
  std::string target(int arch, int driver_version) const;
  // DeviceError shows the log.
  Compiled compile(const gpu::KernelSpec& spec, const std::string& target) const;

 private:
  explicit Nvrtc(const std::string& path);
  void check(const std::string& call, int result) const;
  std::string log_of(ProgramHandle program) const;
  std::string image_of(ProgramHandle program, bool ptx) const;

#define WF_DECLARE_CALL(name, ...) int (*name)(__VA_ARGS__) = nullptr;
  WF_NVRTC_CALLS(WF_DECLARE_CALL)
#undef WF_DECLARE_CALL
  const char* (*GetErrorString)(int) = nullptr;
  std::string path_;
  int major_ = 0, minor_ = 0;
  std::vector<int> archs_;  // ascending
};

}  // namespace wavernn_fast::cuda
