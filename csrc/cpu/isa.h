// Which instruction set the kernels run on.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "plan/plan.h"

namespace wavernn_fast::cpu {

// Compiled in and supported by this processor, best last.
std::vector<std::string> available_isas();

// The table for `name`; "auto" takes WAVERNN_FAST_ISA from the environment, else the best.
// DeviceError, listing what is available, when the processor or the build lacks it.
const KernelTable& kernels_for(const std::string& name);

// Products of one or two streams (kFewStreams) in fp32 and fp16: reading or converting is what
// limits them, and on Zen 4 256-bit instructions do both faster than 512-bit ones (fp32 from
// L3: 7.1k against 5.6k samples/s of the 896-unit model; fp16 conversion: 53 against 29 G/s).
// Tables differ in speed, never in bits.
inline constexpr int kFewStreams = 2;
const KernelTable& few_streams_kernels(const KernelTable& kernels);

// From so many tiles of streams on a batch widens 16-bit weights once for all and stores them; for
// fewer each tile widens them for itself. AMD's processors convert beside multiply-adds, so that
// the second way always wins there (Zen 4: by 5 to 80 %) but where it takes two instructions (bf16
// on AVX2: to eight streams). Intel's convert in their place: for two tiles both ways are as much
// work.
int widened_tiles(const KernelTable& kernels, Dtype dtype);

// Widest panel of a dense matrix.
int panel_blocks(const KernelTable& kernels, Dtype dtype);

}  // namespace wavernn_fast::cpu
