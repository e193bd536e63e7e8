// Errors, generator, de-emphasis, probes, and what this machine offers.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "backends.h"
#include "bindings/bindings.h"
#include "bindings/read.h"
#include "bindings/unlocked.h"
#include "common/error.h"
#include "common/real_draws.h"
#include "common/rng.h"
#include "cpu/counted.h"
#include "cpu/frames_gru.h"
#include "cpu/isa.h"
#include "cpu/matvec.h"
#include "cpu/probe.h"
#include "cpu/shares.h"
#include "cpu/team_choice.h"
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

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

py::array_t<double> bidirectional_gru(const Doubles& inputs, const Doubles& weights,
                                      const Doubles& biases) {
  const bool deep = inputs.ndim() == 3 && weights.ndim() == 3 && biases.ndim() == 2;
  const py::ssize_t n = deep ? inputs.shape(1) : 0, hidden = deep ? weights.shape(1) : 0;
  WF_CHECK(deep && inputs.shape(0) == 2 && weights.shape(0) == 2 && biases.shape(0) == 2 &&
               inputs.shape(2) == 3 * hidden && weights.shape(2) == 3 * hidden &&
               biases.shape(1) == 3 * hidden,
           "inputs must be [2, n, 3H], weights [2, H, 3H] and biases [2, 3H]");
  py::array_t<double> out({n, 2 * hidden});
  const double *a = inputs.data(), *w = weights.data(), *b = biases.data();
  double* to = out.mutable_data();
  {
    Unlocked unlocked;
    cpu::bidirectional_gru(a, w, b, size_t(n), size_t(hidden), to, [&] {
      unlocked.locked([] {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      });
    });
  }
  return out;
}

py::array_t<float> draw_reals(
    const std::string& head,
    const py::array_t<float, py::array::c_style | py::array::forcecast>& outputs,
    const py::array_t<uint32_t, py::array::c_style | py::array::forcecast>& words,
    double temperature, bool greedy) {
  WF_CHECK(head == "gaussian" || head == "beta", "head ", head, " is not gaussian or beta");
  WF_CHECK(outputs.ndim() == 2 && outputs.shape(1) == 2 && outputs.shape(0) == words.size(),
           "outputs must be [n, 2] for n words; there are ", words.size(), " words");
  py::array_t<float> out(words.size());
  float* x = out.mutable_data();
  const Head kind = head == "beta" ? Head::beta : Head::gaussian;
  for (py::ssize_t i = 0; i < words.size(); ++i)
    x[i] = draw_real(kind, outputs.data() + 2 * i, temperature, greedy, words.data()[i]);
  return out;
}

py::dict matvec(const py::array_t<float, py::array::c_style | py::array::forcecast>& weight,
                const std::string& dtype, const std::string& sparse, int threads, double seconds,
                const std::string& isa) {
  WF_CHECK(weight.ndim() == 2, "weight has ", weight.ndim(), " dimensions, expected [rows, cols]");
  WF_CHECK(threads >= 1 && threads <= 1024, "threads is ", threads, ", expected 1 to 1024");
  const Tensor tensor{{weight.shape(0), weight.shape(1)},
                      {weight.data(), weight.data() + weight.size()}};
  PlanRequest request;
  request.dtype = dtype_from_name(dtype);
  request.threads = threads;
  request.layout = layout_from_name(sparse);
  cpu::Matvec found;
  {
    const Unlocked unlocked;
    found = cpu::measure_matvec(tensor, request, seconds, isa);
  }
  py::dict result;
  result["layout"] = found.layout;
  result["isa"] = cpu::kernels_for(isa).name;
  result["products_per_s"] = found.products_per_second;
  result["weight_bytes"] = found.weight_bytes;
  result["macs"] = found.macs;
  return result;
}

// Steps of a sample for callgrind to count; what they drew.
std::vector<double> run_counted(const py::dict& config, const py::dict& tensors,
                                const std::vector<int>& stretches, const std::string& label,
                                const std::string& dtype, const std::string& isa,
                                const std::string& sparse, bool clocks) {
  const cpu::Options options{dtype_from_name(dtype), 1, isa, sparse, clocks};
  return cpu::run_counted(read_config(config), read_weights(tensors), options, stretches, label);
}

// What compiled this module, as results that depend on it name it.
std::string compiler() {
#if defined(__x86_64__)
  const std::string machine = "x86-64";
#elif defined(__aarch64__)
  const std::string machine = "AArch64";
#else
  const std::string machine = "another machine";
#endif
#if defined(__clang__)
  return "clang " + std::string(__clang_version__) + ", " + machine;
#else
  return "g++ " + std::string(__VERSION__) + ", " + machine;
#endif
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
  py::class_<cpu::TeamChoice>(m, "TeamChoice",
                              "How many threads the next slice of a run is given to (for tests).")
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("members", &cpu::TeamChoice::members)
      .def("record", &cpu::TeamChoice::record, py::arg("lanes"), py::arg("seconds_per_step"),
           py::arg("held_up") = false, "What a slice of so many threads has taken.");
  py::class_<cpu::Shares>(m, "Shares", "Work of a team that is dealt out beforehand (for tests).")
      .def(py::init<int>(), py::arg("members"))
      .def("open", &cpu::Shares::open, py::arg("member"), py::arg("count"),
           "The whole share of a member again.")
      .def("next", &cpu::Shares::next, py::arg("member"), "The next of its own, or -1.")
      .def("last", &cpu::Shares::last, py::arg("other"), "The last of another's, or -1.");
  m.def("available_isas", &cpu::available_isas, "Instruction sets of this processor, best last.");
  m.def("available_devices", &available_devices, "Devices of this build.");
  m.def("cpu_quota", &cpu::cpu_quota, py::arg("cgroup_root") = "/sys/fs/cgroup",
        py::arg("own") = "/proc/self/cgroup",
        "Least quota in processors of the process's cgroups, 0 where there is none.");
  m.def("available_threads", &cpu::available_threads, py::arg("cgroup_root") = "/sys/fs/cgroup",
        py::arg("own") = "/proc/self/cgroup",
        "Processors this process may use: affinity, cut by the cgroup quota.");
  m.def(
      "philox",
      [](uint64_t seed, uint64_t step, uint32_t item, uint32_t fold) {
        const auto w = philox4x32({seed, item, fold}, step);
        return py::make_tuple(w[0], w[1], w[2], w[3]);
      },
      py::arg("seed"), py::arg("step"), py::arg("item") = 0, py::arg("fold") = 0,
      "The four random 32-bit words of one step.");
  m.def("draw_real", &draw_reals, py::arg("head"), py::arg("outputs"), py::arg("words"),
        py::kw_only(), py::arg("temperature") = 1.0, py::arg("greedy") = false,
        "What a gaussian or beta head draws from [n, 2] outputs with [n] words (for tests).");
  m.def("deemphasis", &deemphasis, py::arg("wave"), py::arg("coefficient"), py::arg("state"),
        "y[t] = x[t] + coefficient * y[t-1] from y[-1] = state; returns (y, last y).");
  m.def("bidirectional_gru", &bidirectional_gru, py::arg("inputs"), py::arg("weights"),
        py::arg("biases"),
        "Both directions of a GRU over frames in double: inputs [2, n, 3H], each in its own order; "
        "[n, 2H] by frame.");
  m.def("probe", &cpu::probe, py::arg("kind"), py::arg("bytes_per_thread"), py::arg("threads"),
        py::arg("seconds"), py::arg("isa") = "auto", py::call_guard<Unlocked>(),
        "Measured rate of this machine now: read (bytes/s), fma (flop/s), int8 (MAC/s).");
  m.def("matvec", &matvec, py::arg("weight"), py::kw_only(), py::arg("dtype") = "fp32",
        py::arg("sparse") = "auto", py::arg("threads") = 1, py::arg("seconds") = 0.1,
        py::arg("isa") = "auto", "Measured speed of one product, as the CPU engine makes it.");
  m.def("run_counted", &run_counted, py::arg("config"), py::arg("tensors"), py::arg("stretches"),
        py::kw_only(), py::arg("label") = "", py::arg("dtype") = "fp32", py::arg("isa") = "auto",
        py::arg("sparse") = "auto", py::arg("clocks") = false,
        "Stretches of steps without slices, which callgrind counts one by one; what they drew.");
  m.def("compiler", &compiler, "What compiled this module, and for which processors.");
}

}  // namespace wavernn_fast
