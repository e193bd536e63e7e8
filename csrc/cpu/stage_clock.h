// Where the time of a sample goes, as the thread sees it that called the engine.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace wavernn_fast::cpu {

// Products have the number of their matrix in the plan; what else happens comes behind them.
inline constexpr int kMostMatrices = 8;
enum Stage : int {
  kPrepare = kMostMatrices,  // random words, where the conditioning of this sample lies
  kQuantize,                 // int8: inputs of a product to integers
  kGates,                    // of GRUs, with the conditioning that they hear
  kRelu,
  kDraw,
  kMeetings,  // waiting for the other threads of the team
  kSlices,    // between samples: states in and out, threads woken, the caller's interrupt
  kPlaces
};
inline constexpr const char* kStageNames[kPlaces - kMostMatrices] = {
    "prepare", "quantise", "gates", "relu", "draw", "meetings", "slices"};

// Sums of ticks and how often each stage came. Every moment from begin() on belongs to the stage
// that is done next, so the stages of a run add up to the time it took.
class StageClock {
 public:
  StageClock() : first_tick_(tick()), first_time_(Time::now()) {}
  void begin() { last_ = tick(); }
  void done(int place) {
    spent(place);
    ++counts_[place];
  }
  // Until now it was this stage, which goes on later.
  void spent(int place) {
    const uint64_t now = tick();
    ticks_[place] += now - last_;
    last_ = now;
  }
  int64_t count(int place) const { return int64_t(counts_[place]); }
  // A tick is as long as it was on average since this clock was made.
  int64_t nanoseconds(int place) const {
    const std::chrono::duration<double, std::nano> passed = Time::now() - first_time_;
    const auto ticks = double(tick() - first_tick_);
    return ticks > 0 ? int64_t(double(ticks_[place]) * passed.count() / ticks) : 0;
  }

 private:
  using Time = std::chrono::steady_clock;
  // The processor's own counter, of a constant rate: some 20 cycles, where the system's clock
  // takes three times as long.
  static uint64_t tick() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t value;
    asm volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#else
    return uint64_t(Time::now().time_since_epoch().count());
#endif
  }

  std::array<uint64_t, kPlaces> ticks_{}, counts_{};
  uint64_t last_ = 0, first_tick_;
  Time::time_point first_time_;
};

}  // namespace wavernn_fast::cpu
