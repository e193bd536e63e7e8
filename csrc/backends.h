// The one place that knows every backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/device_cuda.h"
#include "engine/engine.h"
#include "model/weights.h"

namespace wavernn_fast {

struct EngineOptions {
  std::string device = "cpu";   // cpu, cuda, emu or reference
  std::string dtype = "auto";   // fp32, fp16, bf16, int8, int8-fast; auto is fp32
  int threads = 0;              // 0: what the process may use
  std::string isa = "auto";     // cpu: instruction set; emu: schedule, see emulate/options.h
  std::string sparse = "auto";  // auto, off (all dense), or the blocks to pack in, as 16x1; gpu: on
  // Of the persistent kernel:
  std::string gpu = "H200";                               // emu: the GPU it stands for
  int exchanges = 0, blocks = 0, warps = 0, cluster = 0;  // 0: the planner's choice
  int streams = 1;         // that the engine is made for, side by side; 0: as many as are fastest
  bool split = false;      // of many streams: activations in two halves
  bool exact = true;       // IEEE operations only
  bool clocks = false;     // time the stages of a sample
  cuda::OpenOptions cuda;  // which device and stream, where its compiler is
};

std::vector<std::string> available_devices();
std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const EngineOptions& options);

}  // namespace wavernn_fast
