#include "cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "common/error.h"

namespace wavernn_fast::cuda {

namespace {

constexpr int kOldestDriver = 12000;  // cubins of NVRTC 12 run on any CUDA 12 driver, none older

std::string library_name() {
  const char* wanted = std::getenv("WAVERNN_FAST_LIBCUDA");
  return wanted && *wanted ? wanted : "libcuda.so.1";
}

void* open_library(const std::string& path) {
  if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  const char* reason = dlerror();
  fail<DeviceError>("there is no NVIDIA driver here: ", path, " cannot be loaded (",
                    reason ? reason : "no reason given",
                    "); install the driver, or start the container with the GPU");
}

// Held while a driver starts, which may take seconds. Recursive, since a driver may fork() itself
// then, to load its kernel module.
std::recursive_mutex& starting() {
  static auto& mutex = *new std::recursive_mutex;
  // A fork() waits for the start: its child has no thread that would give the lock back. The child
  // makes it anew, since it belongs to the thread of the parent by number.
  static const int kept = pthread_atfork([] { starting().lock(); }, [] { starting().unlock(); },
                                         [] { new (&starting()) std::recursive_mutex; });
  (void)kept;
  return mutex;
}

}  // namespace

Driver::Driver(std::string path) : path_(std::move(path)) {
  void* library = open_library(path_);
  std::string missing;
#define WF_RESOLVE_CALL(name, symbol, ...)                         \
  name = reinterpret_cast<decltype(name)>(dlsym(library, symbol)); \
  if (!name) missing += (missing.empty() ? "" : ", ") + std::string(symbol);
  WF_DRIVER_CALLS(WF_RESOLVE_CALL)
#undef WF_RESOLVE_CALL
  if (!missing.empty())
    fail<DeviceError>("the NVIDIA driver ", path_, " has no ", missing,
                      ": it is too old; update it to CUDA 12.0 or newer (driver 525)");
}

const Driver& Driver::get() {
  // Never destroyed: objects that Python ends late may still call the driver.
  static auto& drivers = *new std::map<std::string, std::unique_ptr<Driver>>;
  const std::lock_guard lock(starting());
  const std::string path = library_name();
  std::unique_ptr<Driver>& driver = drivers[path];
  if (!driver) driver.reset(new Driver(path));
  driver->refuse_fork();
  if (driver->pid_ == 0) driver->initialize();
  return *driver;
}

void Driver::initialize() {
  check("cuInit", cuInit(0));
  check("cuDriverGetVersion", cuDriverGetVersion(&version_));
  if (version_ < kOldestDriver)
    fail<DeviceError>("the NVIDIA driver ", path_, " is too old: it is for ", version_text(),
                      ", needed is CUDA 12.0 or newer (driver 525); update it");
  pid_ = int(getpid());
}

std::string Driver::version_text() const {
  return "CUDA " + std::to_string(version_ / 1000) + "." + std::to_string(version_ % 1000 / 10);
}

bool Driver::forked() const noexcept { return pid_ != 0 && pid_ != int(getpid()); }

void Driver::refuse_fork() const {
  if (forked())
    fail<DeviceError>("process ", getpid(), " was forked from process ", pid_,
                      " after that had opened CUDA, which does not work in a child; use spawn: "
                      "multiprocessing.get_context('spawn'), or open the GPU in the workers only");
}

std::string Driver::describe(Result result) const {
  const char *name = nullptr, *text = nullptr;
  cuGetErrorName(result, &name);
  cuGetErrorString(result, &text);
  std::string words = (name ? std::string(name) : "error") + " (" + std::to_string(result) + ")";
  return text ? words + ", " + text : words;
}

std::string Driver::failure(const std::string& call, Result result, const std::string& where,
                            const std::string& detail) const {
  std::string sentence = call + " failed" + (where.empty() ? "" : " on " + where) + ": " +
                         describe(result) + (detail.empty() ? "" : "; " + detail);
  if (version_ > 0) sentence += " (driver for " + version_text() + ")";
  return sentence + ". " + advice(result);
}

void Driver::check(const std::string& call, Result result) const {
  if (result != kSuccess) throw DeviceError(failure(call, result));
}

}  // namespace wavernn_fast::cuda
