// The CPU engine: resident packed weights, a thread pool, teams of threads over streams.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"
#include "model/weights.h"
#include "plan/plan.h"

namespace wavernn_fast::cpu {

struct Options {
  Dtype dtype = Dtype::fp32;
  int threads = 0;  // 0: available_threads()
  std::string isa = "auto";
  std::string sparse = "auto";  // or off, or the name of a block: see plan/sparse.h
  bool clocks = false;          // time the stages of a sample
};

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights,
                                    const Options& options);

}  // namespace wavernn_fast::cpu
