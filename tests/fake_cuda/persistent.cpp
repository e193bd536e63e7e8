// What a launch of the persistent kernel leaves where it is only pretended: label i of step i. It
// is C++ to share the kernel's own declaration of its arguments.
#include <cstddef>

#include "cuda/kernels/args.h"

extern "C" int pretend(const void* given, int (*inside)(unsigned long long, size_t)) {
  const auto& args = *static_cast<const wavernn_fast::gpu::KernelArgs*>(given);
  const auto address = [](const void* p) { return reinterpret_cast<unsigned long long>(p); };
  if (!inside(address(args.labels), 4 * args.steps) || !inside(address(args.weights), 4) ||
      !inside(address(args.status), sizeof *args.status))
    return 700;
  for (unsigned i = 0; i < args.steps; ++i) args.labels[i] = int((args.step0 + i) % 65536);
  args.status->steps_done = args.steps;
  return 0;
}
