// The NVIDIA driver, found at run time: nothing is linked, so a machine without it only lacks the
// device.
#pragma once

#include <string>

#include "cuda/driver_calls.h"

namespace wavernn_fast::cuda {

class Driver {
 public:
  // The initialised driver of this process: WAVERNN_FAST_LIBCUDA or libcuda.so.1, opened once and
  // never closed. DeviceError in one sentence if there is none, it is too old or finds no device.
  static const Driver& get();

#define WF_DECLARE_CALL(name, symbol, ...) Result (*name)(__VA_ARGS__) = nullptr;
  WF_DRIVER_CALLS(WF_DECLARE_CALL)
#undef WF_DECLARE_CALL

  const std::string& path() const { return path_; }
  int version() const { return version_; }  // 12040 is CUDA 12.4
  std::string version_text() const;         // "CUDA 12.4"

  // CUDA does not survive a fork: DeviceError in a child of the process that called cuInit.
  void refuse_fork() const;
  bool forked() const noexcept;

  // "CUDA_ERROR_NO_DEVICE (100), no CUDA-capable device is detected"
  std::string describe(Result result) const;
  // The whole sentence: call, where, name, number, description, detail, and what to do.
  std::string failure(const std::string& call, Result result, const std::string& where = {},
                      const std::string& detail = {}) const;
  // DeviceError with that sentence unless the call succeeded.
  void check(const std::string& call, Result result) const;

 private:
  explicit Driver(std::string path);
  void initialize();

  std::string path_;
  int version_ = 0;
  int pid_ = 0;  // of the process that called cuInit; 0 before
};

// A failed call of these kinds leaves the context unusable for the rest of the process.
bool is_sticky(Result result);

// What a user can do about a failed call.
std::string advice(Result result);

}  // namespace wavernn_fast::cuda
