// The readable twin: every core straight from the equations, in double precision, one stream and
// one number at a time. Every fast engine is tested against it; it is never fast.
#pragma once

#include <memory>

#include "engine/engine.h"
#include "model/weights.h"

namespace wavernn_fast::reference {

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights);

}  // namespace wavernn_fast::reference
