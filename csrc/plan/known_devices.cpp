#include "plan/known_devices.h"

#include "common/error.h"

namespace wavernn_fast::gpu {

// Multiprocessors, shared memory a block may ask for, L2 and boost clock as the vendor's data
// sheets and programming guide give them.
const std::vector<DeviceLimits>& known_devices() {
  static const std::vector<DeviceLimits> devices = [] {
    constexpr int kKiB = 1024;
    constexpr int64_t kMiB = 1024 * 1024;
    struct Row {
      const char* name;
      int arch, multiprocessors, shared_kib;
      int64_t l2_mib;
      int clock_mhz;
    };
    const Row rows[] = {
        {"P100", 60, 56, 48, 4, 1400},      {"V100", 70, 80, 96, 6, 1530},
        {"T4", 75, 40, 64, 4, 1590},        {"A100", 80, 108, 163, 40, 1410},
        {"RTX 3090", 86, 82, 99, 6, 1695},  {"RTX 4090", 89, 128, 99, 72, 2520},
        {"H100", 90, 132, 227, 50, 1980},   {"H200", 90, 132, 227, 50, 1980},
        {"B200", 100, 148, 227, 126, 1965},
    };
    std::vector<DeviceLimits> result;
    for (const Row& r : rows) {
      DeviceLimits d;
      d.name = r.name;
      d.arch = r.arch;
      d.multiprocessors = r.multiprocessors;
      d.shared_per_block = r.shared_kib * kKiB;
      d.l2_bytes = r.l2_mib * kMiB;
      d.clock_khz = r.clock_mhz * 1000;
      result.push_back(d);
    }
    return result;
  }();
  return devices;
}

const DeviceLimits& known_device(const std::string& name) {
  std::string names;
  for (const DeviceLimits& d : known_devices()) {
    if (d.name == name) return d;
    names += (names.empty() ? "" : ", ") + d.name;
  }
  fail("There is no known GPU \"", name, "\"; there are ", names, ".");
}

}  // namespace wavernn_fast::gpu
