#include "backends.h"

#include "common/error.h"
#include "cpu/engine_cpu.h"
#include "reference/engine_reference.h"

namespace wavernn_fast {

std::vector<std::string> available_devices() { return {"cpu", "reference"}; }

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const EngineOptions& options) {
  WF_CHECK(options.threads >= 0 && options.threads <= 1024, "threads is ", options.threads,
           ", expected 0 (automatic) to 1024");
  if (options.device == "cpu")
    return cpu::make_engine(config, weights,
                            {dtype_from_name(options.dtype), options.threads, options.isa});
  if (options.device == "reference") return reference::make_engine(config, weights);
  fail<DeviceError>("device ", options.device, " is not in this build; it has cpu and reference");
}

}  // namespace wavernn_fast
