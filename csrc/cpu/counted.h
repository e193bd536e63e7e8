// Steps for an instrument that counts the instructions they take: no clock decides anything here.
#pragma once

#include <string>
#include <vector>

#include "cpu/engine_cpu.h"

namespace wavernn_fast::cpu {

// Runs stretches of so many steps of one stream on one thread, one after the other, without slices.
// Under `valgrind --tool=callgrind --instr-atstart=no` only they are counted, and the count of each
// is written to a file whose trigger is "LABEL STEPS"; otherwise nothing else happens. Options of
// which `threads` and `clocks`: one thread, and whether the stages are timed. Returns the labels or
// values drawn, as numbers, so that two builds can be compared.
std::vector<double> run_counted(const ModelConfig& config, const CanonicalWeights& weights,
                                const Options& options, const std::vector<int>& stretches,
                                const std::string& label);

}  // namespace wavernn_fast::cpu
