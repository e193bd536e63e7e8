// Work of a team that is dealt out beforehand, and taken over from a member that is slow.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace wavernn_fast::cpu {

// Each member has a share, items [0, count). It begins at the first; another that has done its own
// takes the last that nobody has begun. So the shares need not be equal, nor the processors equally
// fast: a neighbour on the same core makes one a third slower for a while, and whoever waited for
// it would lose that too. Who does an item must not change its result.
//
// A member that takes its own touches a cache line that nobody else writes before the end.
class Shares {
 public:
  explicit Shares(int members) : left_(members) {}

  // The whole share of a member again. It must not be in use: there is a meeting between the last
  // next() or last() and this, and between this and the first.
  void open(int member, int count) {
    left_[member].range.store(uint64_t(uint32_t(count)) << 32, std::memory_order_relaxed);
  }
  // The next of a member's own, or -1.
  int next(int member) {
    return take(member, 1, [](uint64_t range) { return begin_of(range); });
  }
  // The last of another's, or -1.
  int last(int other) {
    return take(other, uint64_t(-1) << 32, [](uint64_t range) { return end_of(range) - 1; });
  }

 private:
  static int begin_of(uint64_t range) { return int(uint32_t(range)); }
  static int end_of(uint64_t range) { return int(range >> 32); }

  // Nothing but the item is handed over: the meetings order all that is read and written.
  template <class Item>
  int take(int member, uint64_t change, Item item) {
    std::atomic<uint64_t>& shared = left_[member].range;
    uint64_t range = shared.load(std::memory_order_relaxed);
    do {
      if (begin_of(range) >= end_of(range)) return -1;
    } while (!shared.compare_exchange_weak(range, range + change, std::memory_order_relaxed));
    return item(range);
  }

  struct alignas(128) Left {
    std::atomic<uint64_t> range{0};  // first item in the low half, end in the high half
  };
  std::vector<Left> left_;
};

}  // namespace wavernn_fast::cpu
