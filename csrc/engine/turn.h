// An engine serves one call after the other.
#pragma once

#include <chrono>
#include <mutex>

#include "engine/engine.h"

namespace wavernn_fast {

// Whoever waits looks this often whether to stop: the call before may take hours.
inline constexpr auto kBetweenLooks = std::chrono::milliseconds(50);

inline std::unique_lock<std::timed_mutex> take_turn(std::timed_mutex& mutex,
                                                    const Interrupt& interrupt) {
  std::unique_lock<std::timed_mutex> turn(mutex, std::defer_lock);
  while (!turn.try_lock_for(kBetweenLooks))
    if (interrupt) interrupt();
  return turn;
}

}  // namespace wavernn_fast
