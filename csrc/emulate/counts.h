// What a launch with stage clocks counts: a machine without a clock can still say how often its
// threads wait for each other.
//
// Every thread has a depth: how many messages between blocks, each sent after the one before was
// taken, led to where it is (Lamport's clock). A message carries the depth of its sender, and 1;
// who takes it, or meets others at a barrier or in a warp, is as deep as the deepest of them. So
// the depth at the end is the number of exchanges that no number of blocks could have run side by
// side.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>

namespace wavernn_fast::emulate {

struct Counts {
  int64_t launches = 0;
  int64_t words = 0;      // put into the memory that all blocks share
  int64_t additions = 0;  // to words of it
  int64_t pushes = 0;     // values put into the shared memory of a block of the cluster
  int64_t barriers = 0;   // of blocks, or of some of their warps: once for all who meet there
  int64_t hops = 0;       // the greatest depth of each launch

  void add(const Counts& other) {
    launches += other.launches;
    words += other.words;
    additions += other.additions;
    pushes += other.pushes;
    barriers += other.barriers;
    hops += other.hops;
  }
};

// Depths of the messages that lie at an address.
class Depths {
 public:
  void sent(const void* at, int depth) {
    int& there = depths_[at];
    there = std::max(there, depth + 1);
  }
  int at(const void* place) const {
    const auto found = depths_.find(place);
    return found == depths_.end() ? 0 : found->second;
  }

 private:
  std::unordered_map<const void*, int> depths_;
};

}  // namespace wavernn_fast::emulate
