// What the machine can do at this moment: the floor that benchmarks are measured against.
#pragma once

#include <string>

namespace wavernn_fast::cpu {

// "read": bytes/s streaming `bytes_per_thread` from cache or memory; "fma": flop/s of fp32
// multiply-adds (2 each) in registers; "int8", "fp16", "bf16": multiply-adds/s with weights of that
// format from L1, widening included. All threads together.
double probe(const std::string& kind, size_t bytes_per_thread, int threads, double seconds,
             const std::string& isa);

}  // namespace wavernn_fast::cpu
