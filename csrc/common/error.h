// The one exception of the core: a sentence that says what is wrong, expected and found.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace wavernn_fast {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The device or instruction set asked for is not here.
class DeviceError : public Error {
 public:
  using Error::Error;
};

// Arithmetic failed while sampling (a NaN logit); the message names stream and step.
class EngineError : public Error {
 public:
  using Error::Error;
};

template <class E = Error, class... Parts>
[[noreturn]] void fail(Parts&&... parts) {
  std::ostringstream text;
  (text << ... << std::forward<Parts>(parts));
  throw E(text.str());
}

}  // namespace wavernn_fast

// Checks at the border (bindings, model, plan); kernels trust what they are given.
#define WF_CHECK(condition, ...)                         \
  do {                                                   \
    if (!(condition)) ::wavernn_fast::fail(__VA_ARGS__); \
  } while (0)
