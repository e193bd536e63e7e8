// How the emulator runs: in which order, and with which fault planted.
#pragma once

#include <cstdint>
#include <string>

namespace wavernn_fast::emulate {

// In which order fibers run. Results must not depend on it.
struct Schedule {
  enum class Kind { fair, random, starve, slow } kind = Kind::fair;
  uint64_t seed = 0;  // random
  int block = 0;      // starve: this block runs only when no other can; slow: this warp of each
};

// What a test leaves out of the machine, to see that its checks can fail.
struct Fault {
  bool tag = false;     // a poll takes whatever is there
  bool parity = false;  // reads are always from the first buffer
  int barrier = -1;     // this one does not wait
  long long word = -1;  // this one of the exchange area never comes
  int message = -1;     // what blocks of a cluster push of this one never comes
};

struct Options {
  Schedule schedule;
  Fault fault;
  bool generic = false;    // the build without the processor's own fused multiply-add
  unsigned first_tag = 1;  // of the first launch of an engine: tests begin near the last one
  int room = 0;            // blocks that are resident together; 0: one a multiprocessor
};

// "fair", "random:SEED", "starve:BLOCK" or "slow:WARP"; after it may follow, each with a slash
// before it, "lose:tag", "lose:parity", "lose:barrier:N", "lose:word:N", "lose:message:N",
// "generic", "tag:N" and "room:N". "auto" is "fair". Error if it is none of these.
Options parse_options(const std::string& text);
std::string describe(const Options& options);

}  // namespace wavernn_fast::emulate
