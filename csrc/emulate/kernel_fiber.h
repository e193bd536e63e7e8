// The kernel compiled for the host, and what its primitives need that is not fibers.
#pragma once

#include <cstdint>

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"
#include "emulate/fibers.h"

namespace wavernn_fast::emulate {

enum CollectiveKind { kSums, kMax, kPrefix, kTotal, kBallot, kExchange, kSpread, kWarpSync, kTile };

// Fill what every lane takes out of a collective.
void combine_sums(Warp& w, int count);  // lanes (32 / P) j to (32 / P) (j + 1): sum of value j
void combine_max(Warp& w, int);
void combine_prefix(Warp& w, int);
void combine_total(Warp& w, int);
void combine_ballot(Warp& w, int);
void combine_exchange(Warp& w, int distance);  // of lanes whose numbers differ by these bits
void combine_spread(Warp& w, int lane);        // of one lane
inline void combine_nothing(Warp&, int) {}

// What a block of a cluster counts of the values pushed to it; zero at first. A phase is over when
// bytes were announced for it and so many have come.
void announce_bytes(gpu::Word* at, int bytes);
void deliver_bytes(gpu::Word* at, int bytes);
bool is_over(const gpu::Word* at, int parity);

int to_int(float x);       // to nearest, ties to even; as a device does it out of range
int64_t to_long(float x);  // the same for 64 bits
uint32_t float_to_half(float x);
// The same word of the first of both buffers of the exchange area.
const gpu::Word* in_first_buffer(const gpu::Word* words, const gpu::Word* at,
                                 const gpu::Shape& shape);
const uint32_t* in_first_buffer(const uint32_t* words, const uint32_t* at, const gpu::Shape& shape);

// Sets the sizes of the launch that follows, and the code of one thread of it. `fused`: with the
// processor's own fused multiply-add (the same bits, much faster).
void prepare_generic(const gpu::Shape& shape);
void thread_generic(void* args);
void prepare_fused(const gpu::Shape& shape);
void thread_fused(void* args);

}  // namespace wavernn_fast::emulate
