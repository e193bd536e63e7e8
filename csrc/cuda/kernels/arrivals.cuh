// Waiting for what peers of a cluster push.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

// Waits until the phase of this parity is over. One of the threads that wait announces how many
// bytes it has: here, where it waits anyway, though some may have come before. A phase takes one
// announcement, so there is none after somebody gave up. `word` and `tag` are for the report of a
// stall.
WF_INLINE void await_bytes(const Poller& poller, Arrivals* arrivals, bool announces, int bytes,
                           unsigned parity, const Word* word, unsigned tag) {
  if (announces && !*poller.stop) expect_bytes(arrivals, static_cast<unsigned>(bytes));
  for (long long deadline = 0; !checked(phase_over(arrivals, static_cast<int>(parity)));)
    if (!keep_waiting(poller, deadline, word, tag)) return;
}

}  // namespace wavernn_fast::gpu
