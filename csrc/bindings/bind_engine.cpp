// The Engine and Stream classes. Shapes are checked here; below, everything is trusted.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "backends.h"
#include "bindings/bindings.h"
#include "bindings/device_array.h"
#include "bindings/read.h"
#include "bindings/unlocked.h"
#include "common/error.h"
#include "plan/sparse.h"

namespace py = pybind11;

namespace wavernn_fast {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using DoubleArray = py::array_t<double, py::array::c_style | py::array::forcecast>;
using IntArray = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

struct Stream {
  StreamState state;
  int bands = 1;  // of the engine that opened it
};
using Streams = std::vector<std::shared_ptr<Stream>>;  // whatever becomes of the caller's list

// A call of an engine on this thread. A callback or a signal handler of a run may call again; of
// the same engine, that would wait for ever for the run it is in.
class Entered {
 public:
  explicit Entered(const Engine& engine) : engine_(engine), outer_(innermost_) {
    for (const Entered* one = outer_; one != nullptr; one = one->outer_)
      WF_CHECK(
          &one->engine_ != &engine || one->process_ != getpid(),
          "this engine is in a run on this thread: a callback or signal handler of the run may "
          "end it by an exception, and call again afterwards or from another thread");
    innermost_ = this;
  }
  ~Entered() { innermost_ = outer_; }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  const Engine& engine_;
  const pid_t process_ = getpid();
  const Entered* outer_;
  static inline thread_local const Entered* innermost_ = nullptr;
};

// What Python counts in samples, in steps of as many draws as the model has bands.
int64_t steps_of(int64_t samples, const ModelConfig& c, const std::string& name) {
  WF_CHECK(samples % c.bands == 0, name, " is ", samples, ", expected a multiple of ", c.bands,
           ": this model draws its ", c.bands, " bands side by side");
  return samples / c.bands;
}

// Beyond, every draw takes the largest logit; infinity would make NaN of that logit's own 0. Below,
// all classes are drawn alike; 0 would do the same to those that pad the last 16, whose logit is
// -1e30.
constexpr double kLargestInverse = 1e38, kSmallestInverse = 1e-25;

Stream open_stream(const Engine& engine, uint64_t seed, uint32_t item, uint32_t fold,
                   uint64_t start, double temperature, bool greedy) {
  WF_CHECK(temperature > 0 && std::isfinite(temperature), "temperature is ", temperature,
           ", expected a positive number (use greedy=True for no randomness)");
  const ModelConfig& c = engine.config();
  Stream stream{make_stream(c, {seed, item, fold}), c.bands};
  stream.state.start = uint64_t(steps_of(int64_t(start), c, "start"));
  stream.state.inv_temperature =
      float(std::clamp(1.0 / temperature, kSmallestInverse, kLargestInverse));
  stream.state.greedy = greedy;
  return stream;
}

// Everything one call hands to the core, kept alive while the GIL is released.
struct Call {
  std::vector<Job> jobs;
  std::vector<py::object> keep;
  std::vector<uint64_t> producers;  // streams to await: their work makes rows on the device
  std::vector<std::vector<uint32_t>> words;
  py::list results;
};

// What the conditioning of a job must be.
struct Expected {
  std::string name;  // "hold of stream 0"
  int64_t rows = 0;  // at least
  int channels = 0;  // 0: nothing
};

void check_shape(const Expected& expected, const py::ssize_t* shape, py::ssize_t ndim) {
  WF_CHECK(ndim == 2 && shape[0] >= expected.rows && shape[1] == expected.channels, expected.name,
           " has shape [", ndim > 0 ? shape[0] : 0, ", ", ndim > 1 ? shape[1] : 0,
           "], expected at least [", expected.rows, ", ", expected.channels, "]");
}

// The first of the rows given, on the device or on the host.
const float* conditioning_rows(const Engine& engine, Call& call, const py::object& given,
                               const Expected& expected, bool& on_device) {
  if (expected.channels == 0) return nullptr;
  WF_CHECK(!given.is_none(), expected.name, " is missing: this model is conditioned");
  if (const auto array = read_device_array(given, expected.name)) {
    if (expected.rows > 0) {  // an array without rows need not lie anywhere
      const std::string problem = engine.unreadable(array->address);
      WF_CHECK(problem.empty(), expected.name, " ", problem);
    }
    check_shape(expected, array->shape.data(), py::ssize_t(array->shape.size()));
    if (array->stream) call.producers.push_back(*array->stream);
    call.keep.push_back(given);
    on_device = true;
    return reinterpret_cast<const float*>(uintptr_t(array->address));
  }
  const auto array = py::cast<FloatArray>(given);
  check_shape(expected, array.shape(), array.ndim());
  call.keep.push_back(array);
  return array.data();
}

void set_words(Call& call, Job& job, const py::object& given, size_t index, const ModelConfig& c) {
  if (given.is_none()) return;
  const int draws = c.draws_per_step();
  const auto u = py::cast<DoubleArray>(given);
  const int a_sample = draws / c.bands;
  WF_CHECK(u.size() == job.n_steps * draws, "uniforms of stream ", index, " hold ", u.size(),
           " numbers, expected [", job.n_steps * c.bands, ", ", a_sample, "]");
  std::vector<uint32_t> words(u.size());
  for (size_t i = 0; i < words.size(); ++i) {
    const double x = u.data()[i];
    WF_CHECK(x >= 0.0 && x < 1.0, "uniform ", i, " of stream ", index, " is ", x,
             ", expected [0, 1)");
    words[i] = uint32_t(x * 4294967296.0);
  }
  call.words.push_back(std::move(words));
  job.words = call.words.back().data();
}

void set_forced(Call& call, Job& job, const py::object& given, size_t index, const ModelConfig& c) {
  if (given.is_none()) return;
  if (c.draws_values()) {
    const auto x = py::cast<FloatArray>(given);
    WF_CHECK(x.size() >= job.n_steps, "forced of stream ", index, " holds ", x.size(),
             " values, expected ", job.n_steps);
    call.keep.push_back(x);
    job.forced_values = x.data();
    return;
  }
  const auto k = py::cast<IntArray>(given);
  const int limit = c.core == Core::dual ? 65536 : c.n_classes;
  const int64_t n = job.n_steps * c.bands;
  WF_CHECK(k.size() >= n, "forced of stream ", index, " holds ", k.size(), " labels, expected ", n);
  for (int64_t i = 0; i < n; ++i)
    WF_CHECK(k.data()[i] >= 0 && k.data()[i] < limit, "forced label ", i, " of stream ", index,
             " is ", k.data()[i], ", expected 0 to ", limit - 1);
  call.keep.push_back(k);
  job.forced_labels = k.data();
}

void set_outputs(Call& call, Job& job, const ModelConfig& c, bool return_logits) {
  const py::ssize_t n = job.n_steps * c.bands;
  py::object samples, logits = py::none();
  if (c.draws_values()) {
    FloatArray out(n);
    job.values = out.mutable_data();
    samples = out;
  } else {
    IntArray out(n);
    job.labels = out.mutable_data();
    samples = out;
  }
  if (return_logits) {
    FloatArray out({n, py::ssize_t(c.logits_size() / c.bands)});
    job.logits = out.mutable_data();
    logits = out;
  }
  call.results.append(py::make_tuple(samples, logits));
}

py::object item_of(const py::object& list, size_t i) {
  return list.is_none() ? py::object(py::none()) : py::object(list[py::int_(i)]);
}

void check_length(const py::object& list, size_t n, const char* name) {
  WF_CHECK(list.is_none() || py::len(list) == n, name, " has ", list.is_none() ? 0 : py::len(list),
           " entries for ", n, " streams");
}

// Runs with the GIL released; Python signals (and `interrupt`) are served at slice borders.
void run_jobs(Engine& engine, Call& call, int lanes, const py::object& interrupt) {
  {
    Unlocked unlocked;
    const Interrupt serve = [&] {
      unlocked.locked([&] {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (!interrupt.is_none()) interrupt();
      });
    };
    for (const uint64_t stream : call.producers) engine.await(stream);
    engine.run_in(call.jobs, lanes, serve);
  }
  for (size_t i = 0; i < call.jobs.size(); ++i) {
    const Job& job = call.jobs[i];
    if (job.failed_step < 0) continue;
    const uint64_t bands = uint64_t(engine.config().bands);
    const uint64_t failed = job.state->step - uint64_t(job.n_steps) + uint64_t(job.failed_step);
    const uint64_t step = failed * bands + uint64_t(job.failed_band);
    fail<EngineError>("a logit of stream ", i, " is not finite at step ", step,
                      "; the weights or the mel are out of range for dtype ", engine.dtype());
  }
}

// A run in another thread holds the engine's lock when it asks for the GIL.
template <auto kOf>
auto of_the_clock(Engine& engine) {
  const Entered entered(engine);
  const Unlocked unlocked;
  return (engine.*kOf)();
}

py::list run(Engine& engine, const Streams& streams, const std::vector<int64_t>& n_steps,
             const py::object& interp, const py::object& hold, const py::object& uniforms,
             const py::object& forced, bool return_logits, int lanes, const py::object& interrupt) {
  const ModelConfig& c = engine.config();
  WF_CHECK(n_steps.size() == streams.size(), "n_steps has ", n_steps.size(), " entries for ",
           streams.size(), " streams");
  WF_CHECK(lanes >= 0, "lanes is ", lanes, ", expected a number of streams, or 0 for the best");
  check_length(interp, streams.size(), "interp");
  check_length(hold, streams.size(), "hold");
  check_length(uniforms, streams.size(), "uniforms");
  check_length(forced, streams.size(), "forced");
  const Entered entered(engine);
  Call call;
  call.jobs.resize(streams.size());
  call.words.reserve(streams.size());
  for (size_t i = 0; i < streams.size(); ++i) {
    Job& job = call.jobs[i];
    WF_CHECK(streams[i] != nullptr, "stream ", i, " is None");
    WF_CHECK(n_steps[i] >= 0, "n_steps of stream ", i, " is ", n_steps[i]);
    job.state = &streams[i]->state;
    WF_CHECK(streams[i]->bands == c.bands, "stream ", i, " was opened on a model of ",
             streams[i]->bands, " bands, this one has ", c.bands);
    job.n_steps = steps_of(n_steps[i], c, "n_steps of stream " + std::to_string(i));
    const int64_t phase = int64_t(job.state->position()) % c.hop_length;
    const int64_t frames = (phase + job.n_steps + c.hop_length - 1) / c.hop_length;
    const int64_t extra = frames > 0 ? c.taps() - 1 : 0;
    const std::string of = " of stream " + std::to_string(i);
    job.interp =
        conditioning_rows(engine, call, item_of(interp, i),
                          {"interp" + of, frames + extra, c.interp_size()}, job.interp_on_device);
    job.hold = conditioning_rows(engine, call, item_of(hold, i),
                                 {"hold" + of, frames, c.hold_size()}, job.hold_on_device);
    set_words(call, job, item_of(uniforms, i), i, c);
    set_forced(call, job, item_of(forced, i), i, c);
    set_outputs(call, job, c, return_logits);
  }
  run_jobs(engine, call, lanes, interrupt);
  return call.results;
}

std::unique_ptr<Engine> construct(const py::dict& config, const py::dict& tensors,
                                  const std::string& device, const std::string& dtype, int threads,
                                  const std::string& isa, const std::string& sparse,
                                  const std::string& gpu, int exchanges, int blocks, int warps,
                                  int cluster, int streams, bool split, bool exact, bool clocks,
                                  int ordinal, std::optional<uint64_t> stream,
                                  const std::vector<std::string>& nvrtc,
                                  const std::string& cubins) {
  const ModelConfig c = read_config(config);
  const CanonicalWeights weights = read_weights(tensors);
  const EngineOptions options{
      device,  dtype,     threads, isa,    sparse,
      gpu,     exchanges, blocks,  warps,  cluster,
      streams, split,     exact,   clocks, {ordinal, stream, {nvrtc, cubins}}};
  const Unlocked unlocked;  // packing takes seconds, compiling a kernel more
  return make_engine(c, weights, options);
}

// What the plan holds of each weight matrix, for tests: {name: [rows, cols]} in canonical order.
py::dict unpack_plan(const py::dict& config, const py::dict& tensors, const std::string& dtype,
                     int threads, const std::string& sparse) {
  PlanRequest request{read_config(config), dtype_from_name(dtype), threads};
  request.layout = layout_from_name(sparse);
  const Plan plan = make_plan(request, read_weights(tensors));
  py::dict result;
  for (const PackedMatrix& m : plan.matrices) {
    int rows = 0, cols = m.source_cols;
    for (int row : m.row_of) rows = std::max(rows, row + 1);
    FloatArray out({py::ssize_t(rows), py::ssize_t(cols)});
    const std::vector<float> flat = unpack(plan, m, rows, cols);
    std::copy(flat.begin(), flat.end(), out.mutable_data());
    result[py::str(m.name)] = out;
  }
  return result;
}

}  // namespace

void bind_engine(py::module_& m) {
  m.def("unpack_plan", &unpack_plan, py::arg("config"), py::arg("tensors"), py::kw_only(),
        py::arg("dtype") = "fp32", py::arg("threads") = 1, py::arg("sparse") = "auto",
        "The weights as packed for the kernels, unpacked again (for tests).");
  py::class_<Stream, std::shared_ptr<Stream>>(
      m, "Stream", "One utterance in flight: all that influences its next samples.")
      .def_property_readonly(
          "step", [](const Stream& s) { return s.state.step * uint64_t(s.bands); },
          "Samples drawn so far.")
      .def("copy", [](const Stream& s) { return s; });
  py::class_<Engine>(m, "Engine", "Resident weights and the sampling loop on one device.")
      .def(py::init(&construct), py::arg("config"), py::arg("tensors"), py::kw_only(),
           py::arg("device") = "cpu", py::arg("dtype") = "auto", py::arg("threads") = 0,
           py::arg("isa") = "auto", py::arg("sparse") = "auto", py::arg("gpu") = "H200",
           py::arg("exchanges") = 0, py::arg("blocks") = 0, py::arg("warps") = 0,
           py::arg("cluster") = 0, py::arg("streams") = 1, py::arg("split") = false,
           py::arg("exact") = true, py::arg("clocks") = false, py::arg("ordinal") = 0,
           py::arg("stream") = py::none(), py::arg("nvrtc") = std::vector<std::string>(),
           py::arg("cubins") = "")
      .def_property_readonly("device", &Engine::device)
      .def_property_readonly("dtype", &Engine::dtype)
      .def_property_readonly("isa", &Engine::isa)
      .def_property_readonly("threads", &Engine::threads)
      .def_property_readonly("lanes", &Engine::lanes)
      // Of a sample, as all that Python counts.
      .def_property_readonly(
          "weight_bytes",
          [](const Engine& e) { return e.weight_bytes() / uint64_t(e.config().bands); })
      .def_property_readonly("macs_per_step",
                             [](const Engine& e) { return e.macs_per_step() / e.config().bands; })
      .def_property_readonly("interp_size",
                             [](const Engine& e) { return e.config().interp_size(); })
      .def_property_readonly("hold_size", [](const Engine& e) { return e.config().hold_size(); })
      .def_property_readonly("hold_bias",
                             [](const Engine& e) {
                               const std::vector<float> bias = e.hold_bias();
                               return FloatArray(py::ssize_t(bias.size()), bias.data());
                             })
      .def_property_readonly(
          "logits_size",
          [](const Engine& e) { return e.config().logits_size() / e.config().bands; })
      .def_property_readonly(
          "draws_per_step",
          [](const Engine& e) { return e.config().draws_per_step() / e.config().bands; })
      .def_property_readonly("compiled", &Engine::compiled)
      .def("describe", &Engine::describe)
      .def_property_readonly("sparse", &Engine::sparse)
      .def("stage_ticks", &of_the_clock<&Engine::stage_ticks>)
      .def("counts", &of_the_clock<&Engine::counts>)
      .def("open", &open_stream, py::arg("seed"), py::kw_only(), py::arg("item") = 0,
           py::arg("fold") = 0, py::arg("start") = 0, py::arg("temperature") = 1.0,
           py::arg("greedy") = false)
      .def("run", &run, py::arg("streams"), py::arg("n_steps"), py::arg("interp"), py::arg("hold"),
           py::kw_only(), py::arg("uniforms") = py::none(), py::arg("forced") = py::none(),
           py::arg("return_logits") = false, py::arg("lanes") = 0,
           py::arg("interrupt") = py::none());
}

}  // namespace wavernn_fast
