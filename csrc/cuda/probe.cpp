#include "cuda/probe.h"

#include <algorithm>

#include "common/error.h"

namespace wavernn_fast::cuda {

namespace {

constexpr int kOldestArch = 60;

std::string problem_of(const gpu::DeviceLimits& limits, int compute_mode) {
  if (limits.arch < kOldestArch)
    return "its compute capability is " + std::to_string(limits.arch / 10) + "." +
           std::to_string(limits.arch % 10) + ", needed is 6.0";
  if (!limits.cooperative) return "it has no cooperative launches";
  if (compute_mode == kComputeModeProhibited)
    return "its compute mode is 'prohibited' (`nvidia-smi -c DEFAULT` changes it)";
  return {};
}

}  // namespace

DeviceFacts read_device(const Driver& driver, int ordinal) {
  int count = 0;
  driver.check("cuDeviceGetCount", driver.cuDeviceGetCount(&count));
  if (count == 0) throw DeviceError(driver.failure("cuDeviceGetCount", kNoDevice));
  if (ordinal < 0 || ordinal >= count)
    fail<DeviceError>("there is no CUDA device ", ordinal, ": this machine shows ", count,
                      ", counted from 0");
  DeviceFacts facts;
  facts.ordinal = ordinal;
  DeviceHandle device = 0;
  driver.check("cuDeviceGet", driver.cuDeviceGet(&device, ordinal));
  char name[256] = "";
  driver.check("cuDeviceGetName", driver.cuDeviceGetName(name, int(sizeof name) - 1, device));
  const auto ask = [&](DeviceAttribute attribute) {
    int value = 0;
    driver.check("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(&value, attribute, device));
    return value;
  };
  gpu::DeviceLimits& limits = facts.limits;
  limits.name = name;
  limits.arch = 10 * ask(kComputeCapabilityMajor) + ask(kComputeCapabilityMinor);
  limits.multiprocessors = ask(kMultiprocessorCount);
  limits.registers = ask(kMaxRegistersPerMultiprocessor);
  limits.shared_per_block = std::max(ask(kMaxSharedPerBlockOptin), ask(kMaxSharedPerBlock));
  limits.l2_bytes = ask(kL2CacheSize);
  limits.clock_khz = ask(kClockRate);
  limits.cooperative = ask(kCooperativeLaunch) != 0;
  limits.watchdog = ask(kKernelExecTimeout) != 0;
  size_t memory = 0;
  driver.check("cuDeviceTotalMem", driver.cuDeviceTotalMem(&memory, device));
  facts.memory_bytes = memory;
  facts.problem = problem_of(limits, ask(kComputeMode));
  return facts;
}

std::vector<DeviceFacts> list_devices() {
  const Driver& driver = Driver::get();
  std::vector<DeviceFacts> devices{read_device(driver, 0)};
  int count = 0;
  driver.check("cuDeviceGetCount", driver.cuDeviceGetCount(&count));
  for (int ordinal = 1; ordinal < count; ++ordinal) devices.push_back(read_device(driver, ordinal));
  return devices;
}

}  // namespace wavernn_fast::cuda
