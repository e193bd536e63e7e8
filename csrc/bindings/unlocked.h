// Python's lock, given away while the core works.
//
// pybind11's gil_scoped_release takes it back in a destructor. Up to 3.13, CPython ends a daemon
// thread that asks for the lock when the interpreter is ending by pthread_exit(), which unwinds the
// stack: out of a destructor that is std::terminate(), an abort where the process was to end
// quietly; and further up it would run destructors that count references without the lock. So such
// a thread rests here until the process is gone, as CPython lets it from 3.14 on.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <exception>
#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace wavernn_fast {

class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    or_rest([&] { PyEval_RestoreThread(state_); });
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

  // Calls Python with the lock held, on the thread that gave it away.
  template <class F>
  void locked(F&& call) {
    or_rest([&] {
      PyEval_RestoreThread(state_);
      try {
        call();
      } catch (const std::exception&) {  // what interrupts a run
        state_ = PyEval_SaveThread();
        throw;
      }
      state_ = PyEval_SaveThread();
    });
  }

 private:
  template <class F>
  static void or_rest(F&& f) {
#if defined(__GLIBCXX__)
    try {
      f();
    } catch (const abi::__forced_unwind&) {
      for (;;) pause();
    }
#else
    f();
#endif
  }

  PyThreadState* state_;
};

}  // namespace wavernn_fast
