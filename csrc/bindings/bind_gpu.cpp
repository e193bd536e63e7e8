// Plans of the persistent kernel, for predictions, compile tests and the documentation.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/read.h"
#include "bindings/unlocked.h"
#include "common/error.h"
#include "cuda/images.h"
#include "gpu/engine_gpu.h"
#include "gpu/engine_many.h"
#include "gpu/engine_sparse.h"
#include "gpu/kernel_sources.h"
#include "plan/gpu.h"
#include "plan/gpu_many.h"
#include "plan/known_devices.h"

namespace py = pybind11;

namespace wavernn_fast {
namespace {

gpu::GpuPlan choose(const py::dict& config, const std::string& name, const std::string& dtype,
                    int exchanges, int blocks, int warps, int cluster, bool exact, bool clocks) {
  gpu::GpuRequest request;
  request.config = read_config(config);
  request.dtype = dtype_from_name(dtype);
  request.exact = exact;
  request.clocks = clocks;
  request.exchanges = exchanges;
  request.blocks = blocks;
  request.warps = warps;
  request.cluster = cluster;
  request.limits = gpu::known_device(name);
  return gpu::choose_gpu_plan(request);
}

py::dict shape_fields(const gpu::Shape& shape) {
  py::dict fields;
#define WF_FIELD(field, constant, macro) fields[#field] = shape.field;
  WF_SHAPE(WF_FIELD)
#undef WF_FIELD
  return fields;
}

py::dict gpu_plan(const py::dict& config, const std::string& name, const std::string& dtype,
                  int exchanges, int blocks, int warps, int cluster, bool exact, bool clocks,
                  bool full) {
  gpu::GpuPlan plan = choose(config, name, dtype, exchanges, blocks, warps, cluster, exact, clocks);
  plan.shape.full = full;
  py::dict d;
  d["shape"] = shape_fields(plan.shape);
  d["macros"] = gpu::shape_macros(plan.shape);
  d["arch"] = plan.request.limits.arch;
  d["weight_registers"] = plan.weight_registers;
  d["shared_bytes"] = plan.shared_bytes;
  d["resident_bytes"] = plan.resident_bytes;
  d["streamed_bytes"] = plan.streamed_bytes;
  const gpu::Latency& l = plan.latency;
  py::dict latency;
  latency["gates"] = l.gates;
  latency["product"] = l.product;
  latency["hop"] = l.hop;
  latency["late"] = l.late;
  latency["draw"] = l.draw;
  latency["exchanges"] = l.exchanges;
  latency["streamed"] = l.streamed;
  d["latency"] = latency;
  d["cycles"] = l.total();
  d["samples_per_s"] = plan.predicted_samples_per_s();
  d["text"] = plan.describe();
  return d;
}

// The kernel of a plan compiled as it would be at run time: (image, log).
py::tuple compile_plan(const py::dict& config, const std::string& target, const std::string& nvrtc,
                       const std::string& name, const std::string& dtype, bool exact, bool full,
                       const std::string& folder) {
  const gpu::KernelSpec spec =
      gpu::kernel_spec(choose(config, name, dtype, 0, 0, 0, 0, exact, false), full);
  cuda::Compiled compiled;
  {
    const Unlocked unlocked;
    compiled = cuda::compile_for(spec, target, nvrtc, folder);
  }
  return py::make_tuple(py::bytes(compiled.image), compiled.log);
}

// {name: weights} in canonical order, of what `unpack` gives for each matrix.
template <class Unpack>
py::dict unpacked(const Unpack& unpack, Core core = Core::dual) {
  const std::vector<const char*> dual{"gru", "coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2"};
  const std::vector<const char*> residual{"gru1", "gru2", "gru2_input", "fc1", "fc2", "fc3"};
  const std::vector<const char*> embedded{"gru", "fc1", "fc2"};
  py::dict result;
  for (const char* matrix : core == Core::dual       ? dual
                            : core == Core::residual ? residual
                                                     : embedded) {
    const std::vector<float> flat = unpack(matrix);
    result[matrix] = py::array_t<float>(py::ssize_t(flat.size()), flat.data());
  }
  return result;
}

py::dict unpack_gpu_plan(const py::dict& config, const py::dict& tensors, const std::string& name,
                         const std::string& dtype, int exchanges, int blocks, int warps,
                         int cluster) {
  const gpu::GpuPlan plan =
      choose(config, name, dtype, exchanges, blocks, warps, cluster, true, false);
  const std::vector<uint32_t> packed = gpu::pack_gpu(plan, read_weights(tensors));
  return unpacked([&](const char* matrix) { return gpu::unpack_gpu(plan, packed, matrix); },
                  plan.request.config.core);
}

gpu::SparsePlan choose_sparse(const py::dict& config, const CanonicalWeights& weights,
                              const std::string& name, const std::string& dtype, int warps,
                              int cluster, bool exact, bool many, const std::string& tile) {
  gpu::SparseRequest request;
  request.gpu.config = read_config(config);
  request.gpu.dtype = dtype_from_name(dtype);
  request.gpu.exact = exact;
  request.gpu.warps = warps;
  request.gpu.cluster = cluster;
  request.gpu.limits = gpu::known_device(name);
  request.many = many;
  const auto model =
      std::make_shared<gpu::BinnedModel>(gpu::find_tiles(request.gpu.config, weights, tile));
  gpu::fill_bins(*model);
  return gpu::choose_sparse_plan(request, model);
}

py::dict sparse_plan(const py::dict& config, const py::dict& tensors, const std::string& name,
                     const std::string& dtype, int warps, int cluster, bool exact, bool many,
                     const std::string& tile, bool full) {
  const CanonicalWeights weights = read_weights(tensors);
  gpu::SparsePlan plan =
      choose_sparse(config, weights, name, dtype, warps, cluster, exact, many, tile);
  plan.shape.full = full;
  py::dict d;
  d["shape"] = shape_fields(plan.shape);
  d["macros"] = gpu::shape_macros(plan.shape);
  d["arch"] = plan.request.gpu.limits.arch;
  d["tile"] = plan.model->tile.name();
  d["sparsity"] = plan.model->sparsity();
  d["teams"] = plan.teams;
  d["weight_registers"] = plan.weight_registers;
  d["shared_bytes"] = plan.shared_bytes;
  d["resident_bytes"] = plan.resident_bytes;
  py::list bins, fetches;
  for (const gpu::BinnedMatrix& m : plan.model->matrices) {
    int cycles = 0;
    for (const gpu::Bin& bin : m.bins) cycles += bin.fetches;
    bins.append(m.bins.size());
    fetches.append(cycles);
  }
  d["bins"] = bins;
  d["fetches"] = fetches;
  const gpu::SparseLatency& l = plan.latency;
  py::dict latency;
  latency["gates"] = l.gates;
  latency["y"] = l.y;
  latency["logits"] = l.logits;
  latency["draw"] = l.draw;
  latency["late"] = l.late;
  latency["issue"] = l.issue;
  latency["fetch"] = l.fetch;
  d["latency"] = latency;
  d["cycles"] = l.total();
  d["samples_per_s"] = plan.predicted_samples_per_s();
  d["throughput"] = plan.predicted_throughput();
  d["text"] = plan.describe();
  return d;
}

// As unpack_gpu_plan, for a pruned model.
py::dict unpack_sparse_plan(const py::dict& config, const py::dict& tensors,
                            const std::string& name, const std::string& dtype, int warps,
                            int cluster, const std::string& tile) {
  const CanonicalWeights weights = read_weights(tensors);
  const gpu::SparsePlan plan =
      choose_sparse(config, weights, name, dtype, warps, cluster, true, false, tile);
  const std::vector<uint32_t> packed = gpu::pack_sparse(plan, weights);
  py::dict result;
  for (int i = 0; i < gpu::kSparseMatrices; ++i) {
    const std::vector<float> flat = gpu::unpack_sparse(plan, packed, i);
    result[py::str(plan.model->matrices[size_t(i)].name)] =
        py::array_t<float>(py::ssize_t(flat.size()), flat.data());
  }
  return result;
}

gpu::ManyPlan choose_many(const py::dict& config, const std::string& name, int streams, bool split,
                          int blocks, int warps, int cluster, bool exact) {
  gpu::ManyRequest request;
  request.gpu.config = read_config(config);
  request.gpu.dtype = Dtype::fp16;
  request.gpu.exact = exact;
  request.gpu.blocks = blocks;
  request.gpu.warps = warps;
  request.gpu.cluster = cluster;
  request.gpu.limits = gpu::known_device(name);
  request.streams = streams;
  request.split = split;
  return gpu::choose_many_plan(request);
}

py::dict many_plan(const py::dict& config, const std::string& name, int streams, bool split,
                   int blocks, int warps, int cluster, bool exact, bool full) {
  gpu::ManyPlan plan = choose_many(config, name, streams, split, blocks, warps, cluster, exact);
  plan.shape.full = full;
  py::dict d;
  d["shape"] = shape_fields(plan.shape);
  d["macros"] = gpu::shape_macros(plan.shape);
  d["arch"] = plan.request.gpu.limits.arch;
  d["teams"] = plan.teams;
  d["slots"] = plan.slots();
  d["weight_registers"] = plan.weight_registers;
  d["shared_bytes"] = plan.shared_bytes;
  d["resident_bytes"] = plan.resident_bytes;
  const gpu::ManyLatency& l = plan.latency;
  py::dict latency;
  latency["gates"] = l.gates;
  latency["hidden"] = l.hidden;
  latency["y"] = l.y;
  latency["logits"] = l.logits;
  latency["draw"] = l.draw;
  latency["advance"] = l.advance;
  d["latency"] = latency;
  d["cycles"] = l.total();
  d["samples_per_s"] = plan.predicted_samples_per_s();
  d["throughput"] = plan.predicted_throughput();
  d["text"] = plan.describe();
  return d;
}

py::dict unpack_many_plan(const py::dict& config, const py::dict& tensors, const std::string& name,
                          int blocks, int warps, int cluster) {
  const gpu::ManyPlan plan = choose_many(config, name, 1, false, blocks, warps, cluster, true);
  const std::vector<uint32_t> packed = gpu::pack_many(plan, read_weights(tensors));
  return unpacked([&](const char* matrix) { return gpu::unpack_many(plan, packed, matrix); },
                  plan.request.gpu.config.core);
}

// (stream, steps) of every slot, one list a slot.
std::vector<std::vector<std::pair<int, int64_t>>> fill_slots(const std::vector<int64_t>& lengths,
                                                             int slots, int64_t steps) {
  std::vector<Job> jobs(lengths.size());
  std::vector<int64_t> done(lengths.size(), 0);
  std::vector<gpu::Slice> slices;
  for (size_t i = 0; i < lengths.size(); ++i) {
    jobs[i].n_steps = lengths[i];
    slices.push_back({&jobs[i], &done[i], 0, 0});
  }
  std::vector<std::vector<std::pair<int, int64_t>>> result;
  for (const std::vector<int>& slot : gpu::fill_slots(slices, slots, steps)) {
    auto& filled = result.emplace_back();
    for (const int i : slot) filled.emplace_back(i, slices[size_t(i)].steps);
  }
  return result;
}

void bind_many(py::module_& m) {
  m.def("fill_slots", &fill_slots, py::arg("lengths"), py::arg("slots"), py::arg("steps"),
        "Which streams of those lengths run in which slot in one launch, and for how many steps: "
        "a list of (stream, steps) a slot (for tests).");
  m.def("many_plan", &many_plan, py::arg("config"), py::kw_only(), py::arg("gpu") = "H200",
        py::arg("streams") = 0, py::arg("split") = false, py::arg("blocks") = 0,
        py::arg("warps") = 0, py::arg("cluster") = 0, py::arg("exact") = false,
        py::arg("full") = false,
        "How the kernel for many streams would run a model on a GPU; all figures are predictions.");
  m.def("unpack_many_plan", &unpack_many_plan, py::arg("config"), py::arg("tensors"), py::kw_only(),
        py::arg("gpu") = "H200", py::arg("blocks") = 0, py::arg("warps") = 0,
        py::arg("cluster") = 0,
        "The weights as packed for the kernel for many streams, unpacked again (for tests).");
}

void bind_sparse(py::module_& m) {
  m.def("sparse_plan", &sparse_plan, py::arg("config"), py::arg("tensors"), py::kw_only(),
        py::arg("gpu") = "H200", py::arg("dtype") = "fp32", py::arg("warps") = 0,
        py::arg("cluster") = 0, py::arg("exact") = false, py::arg("many") = false,
        py::arg("tile") = "", py::arg("full") = false,
        "How the kernel for pruned models would run one on a GPU; all figures are predictions.");
  m.def("unpack_sparse_plan", &unpack_sparse_plan, py::arg("config"), py::arg("tensors"),
        py::kw_only(), py::arg("gpu") = "H200", py::arg("dtype") = "fp32", py::arg("warps") = 0,
        py::arg("cluster") = 0, py::arg("tile") = "",
        "The weights as packed for the kernel for pruned models, unpacked again (for tests).");
}

}  // namespace

void bind_gpu(py::module_& m) {
  bind_sparse(m);
  bind_many(m);
  m.def(
      "known_gpus",
      [] {
        std::vector<std::string> names;
        for (const gpu::DeviceLimits& d : gpu::known_devices()) names.push_back(d.name);
        return names;
      },
      "Names of the GPUs that plans can be predicted for.");
  m.def(
      "known_gpu", [](const std::string& name) { return limits_of(gpu::known_device(name)); },
      py::arg("name"), "Limits of a GPU that plans can be predicted for.");
  m.def("gpu_plan", &gpu_plan, py::arg("config"), py::kw_only(), py::arg("gpu") = "H200",
        py::arg("dtype") = "fp32", py::arg("exchanges") = 0, py::arg("blocks") = 0,
        py::arg("warps") = 0, py::arg("cluster") = 0, py::arg("exact") = false,
        py::arg("clocks") = false, py::arg("full") = false,
        "How the persistent kernel would run a model on a GPU; all figures are predictions.");
  m.def("compile_plan", &compile_plan, py::arg("config"), py::arg("target"), py::kw_only(),
        py::arg("nvrtc"), py::arg("gpu") = "H200", py::arg("dtype") = "fp32",
        py::arg("exact") = false, py::arg("full") = false, py::arg("folder") = "",
        "Compile the kernel of a plan for a target such as sm_90; returns (image, log). With a "
        "folder the image is stored there as a packaged kernel.");
  m.def("unpack_gpu_plan", &unpack_gpu_plan, py::arg("config"), py::arg("tensors"), py::kw_only(),
        py::arg("gpu") = "H200", py::arg("dtype") = "fp32", py::arg("exchanges") = 0,
        py::arg("blocks") = 0, py::arg("warps") = 0, py::arg("cluster") = 0,
        "The weights as packed for the persistent kernel, unpacked again (for tests).");
  m.def("kernel_sources", &gpu::kernel_sources,
        "(path, text) of every source file of the persistent kernel.");
}

}  // namespace wavernn_fast
