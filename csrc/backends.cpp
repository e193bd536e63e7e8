#include "backends.h"

#include "common/error.h"
#include "cpu/engine_cpu.h"
#include "emulate/device_emu.h"
#include "gpu/engine_gpu.h"
#include "plan/known_devices.h"
#include "reference/engine_reference.h"

namespace wavernn_fast {

std::vector<std::string> available_devices() { return {"cpu", "cuda", "emu", "reference"}; }

namespace {

gpu::EngineRequest gpu_request(const EngineOptions& options) {
  gpu::EngineRequest request;
  request.dtype = dtype_from_name(options.dtype);
  request.exact = options.exact;
  request.clocks = options.clocks;
  request.exchanges = options.exchanges;
  request.blocks = options.blocks;
  request.warps = options.warps;
  request.cluster = options.cluster;
  request.sparse = options.sparse;
  request.streams = options.streams;
  request.split = options.split;
  return request;
}

}  // namespace

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const EngineOptions& options) {
  WF_CHECK(options.threads >= 0 && options.threads <= 1024, "threads is ", options.threads,
           ", expected 0 (automatic) to 1024");
  if (options.device == "cpu")
    return cpu::make_engine(config, weights,
                            {dtype_from_name(options.dtype), options.threads, options.isa,
                             options.sparse, options.clocks});
  if (options.device == "reference") return reference::make_engine(config, weights);
  if (options.device == "cuda")
    return gpu::make_engine(config, weights, gpu_request(options), cuda::open_device(options.cuda));
  if (options.device == "emu")
    return gpu::make_engine(
        config, weights, gpu_request(options),
        emulate::open_device(gpu::known_device(options.gpu), emulate::parse_options(options.isa)));
  fail<DeviceError>("device ", options.device,
                    " is not in this build; it has cpu, cuda, emu and reference");
}

}  // namespace wavernn_fast
