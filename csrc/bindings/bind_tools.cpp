// Errors, generator, de-emphasis, probes, and what this machine offers.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "backends.h"
#include "bindings/bindings.h"
#include "common/error.h"
#include "common/rng.h"
#include "cpu/isa.h"
#include "cpu/probe.h"
#include "cpu/threads.h"

namespace py = pybind11;

namespace wavernn_fast {
namespace {

// The Python family lives in wavernn_fast.errors; the core knows only sentences.
void raise_as(const char* name, const char* message) {
  const py::object type = py::module_::import("wavernn_fast.errors").attr(name);
  PyErr_SetString(type.ptr(), message);
}

py::tuple deemphasis(const py::array_t<double, py::array::c_style | py::array::forcecast>& wave,
                     double coefficient, double state) {
  py::array_t<double> out(wave.size());
  const double* x = wave.data();
  double* y = out.mutable_data();
  for (py::ssize_t i = 0; i < wave.size(); ++i) y[i] = state = x[i] + coefficient * state;
  return py::make_tuple(out, state);
}

}  // namespace

void bind_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const DeviceError& e) {
      raise_as("DeviceError", e.what());
    } catch (const EngineError& e) {
      raise_as("EngineError", e.what());
    } catch (const Error& e) {
      raise_as("InputError", e.what());
    }
  });
}

void bind_tools(py::module_& m) {
  m.def("available_isas", &cpu::available_isas, "Instruction sets of this processor, best last.");
  m.def("available_devices", &available_devices, "Devices of this build.");
  m.def("available_threads", &cpu::available_threads, py::arg("cgroup_root") = "/sys/fs/cgroup",
        "Processors this process may use: affinity, cut by the cgroup quota.");
  m.def(
      "philox",
      [](uint64_t seed, uint64_t step, uint32_t item, uint32_t fold) {
        const auto w = philox4x32({seed, item, fold}, step);
        return py::make_tuple(w[0], w[1], w[2], w[3]);
      },
      py::arg("seed"), py::arg("step"), py::arg("item") = 0, py::arg("fold") = 0,
      "The four random 32-bit words of one step.");
  m.def("deemphasis", &deemphasis, py::arg("wave"), py::arg("coefficient"), py::arg("state"),
        "y[t] = x[t] + coefficient * y[t-1] from y[-1] = state; returns (y, last y).");
  m.def("probe", &cpu::probe, py::arg("kind"), py::arg("bytes_per_thread"), py::arg("threads"),
        py::arg("seconds"), py::arg("isa") = "auto", py::call_guard<py::gil_scoped_release>(),
        "Measured rate of this machine now: read (bytes/s), fma (flop/s), int8 (MAC/s).");
}

}  // namespace wavernn_fast
