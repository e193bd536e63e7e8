// The primary context of one device, which other CUDA libraries of the process (PyTorch, CuPy) use
// too, and the stream that everything acts on.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <string>

#include "cuda/driver.h"
#include "gpu/device.h"

namespace wavernn_fast::cuda {

class Context {
 public:
  // `stream` is a handle of the caller, who keeps it alive; without one a stream is made.
  Context(int ordinal, std::optional<uint64_t> stream);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Driver& driver() const { return driver_; }
  const gpu::DeviceLimits& limits() const { return limits_; }
  StreamHandle stream() const { return stream_; }
  int ordinal() const { return ordinal_; }
  std::string where() const;  // "device 0, <name>"

  // DeviceError unless the call succeeded. After an error that breaks the context every later call
  // is refused with one sentence.
  void check(const std::string& call, Result result, const std::string& detail = {});
  void synchronize();

 private:
  friend class Current;
  void open_stream(std::optional<uint64_t> stream);
  void refuse_if_unusable();
  bool usable() const noexcept { return !dead_ && !driver_.forked(); }

  const Driver& driver_;
  int ordinal_;
  DeviceHandle device_ = 0;
  gpu::DeviceLimits limits_;
  ContextHandle handle_ = nullptr;
  StreamHandle stream_ = nullptr;
  bool own_stream_ = false;
  std::atomic<bool> dead_ = false;
  std::mutex mutex_;   // of what follows
  std::string cause_;  // the error that broke the context
};

// Makes the context current on this thread, and gives the thread back the one it had.
class Current {
 public:
  explicit Current(Context& context);  // DeviceError if the context cannot be used
  // For destructors: never throws, `entered()` tells whether calls make sense.
  Current(Context& context, std::nothrow_t) noexcept;
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  bool entered() const { return entered_; }

 private:
  Context& context_;
  bool entered_ = false;
};

}  // namespace wavernn_fast::cuda
