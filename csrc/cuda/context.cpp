#include "cuda/context.h"

#include "common/error.h"
#include "cuda/probe.h"
#include "gpu/errors.h"

namespace wavernn_fast::cuda {

Context::Context(int ordinal, std::optional<uint64_t> stream)
    : driver_(Driver::get()), ordinal_(ordinal) {
  const DeviceFacts facts = read_device(driver_, ordinal);
  limits_ = facts.limits;
  if (!facts.problem.empty())
    fail<DeviceError>(where(), " cannot run the kernels: ", facts.problem,
                      "; use another GPU or device='cpu'");
  check("cuDeviceGet", driver_.cuDeviceGet(&device_, ordinal));
  check("cuDevicePrimaryCtxRetain", driver_.cuDevicePrimaryCtxRetain(&handle_, device_));
  try {
    open_stream(stream);
  } catch (...) {
    driver_.cuDevicePrimaryCtxRelease(device_);
    throw;
  }
}

void Context::open_stream(std::optional<uint64_t> stream) {
  own_stream_ = !stream.has_value();
  if (stream) {
    stream_ = reinterpret_cast<StreamHandle>(*stream);
    return;
  }
  const Current current(*this);
  // Non-blocking: work of others on the default stream and ours do not wait for each other.
  check("cuStreamCreate", driver_.cuStreamCreate(&stream_, kStreamNonBlocking));
}

// Errors are ignored: at the end of the process the driver may have gone before us.
Context::~Context() {
  if (driver_.forked()) return;  // the context belongs to the parent
  if (own_stream_) {
    const Current current(*this, std::nothrow);
    if (current.entered()) driver_.cuStreamDestroy(stream_);
  }
  driver_.cuDevicePrimaryCtxRelease(device_);
}

std::string Context::where() const {
  return "device " + std::to_string(ordinal_) + ", " + limits_.name;
}

void Context::check(const std::string& call, Result result, const std::string& detail) {
  if (result == kSuccess) return;
  const std::string sentence = driver_.failure(call, result, where(), detail);
  if (is_sticky(result)) {
    const std::lock_guard lock(mutex_);
    if (!dead_) cause_ = call + ": " + driver_.describe(result);
    dead_ = true;
  }
  if (result == kCooperativeLaunchTooLarge) throw gpu::TooManyBlocks(sentence, 0);
  throw DeviceError(sentence);
}

void Context::refuse_if_unusable() {
  driver_.refuse_fork();
  if (!dead_) return;
  const std::lock_guard lock(mutex_);
  fail<DeviceError>(where(), " cannot be used any more in this process since ", cause_,
                    "; start a new process");
}

void Context::synchronize() { check("cuStreamSynchronize", driver_.cuStreamSynchronize(stream_)); }

Current::Current(Context& context) : context_(context) {
  context.refuse_if_unusable();
  context.check("cuCtxPushCurrent", context.driver_.cuCtxPushCurrent(context.handle_));
  entered_ = true;
}

Current::Current(Context& context, std::nothrow_t) noexcept : context_(context) {
  entered_ = context.usable() && context.driver_.cuCtxPushCurrent(context.handle_) == kSuccess;
}

Current::~Current() {
  ContextHandle popped = nullptr;
  if (entered_) context_.driver_.cuCtxPopCurrent(&popped);
}

}  // namespace wavernn_fast::cuda
