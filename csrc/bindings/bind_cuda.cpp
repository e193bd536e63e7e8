// The CUDA runtime for `doctor`, device="auto" and the tests; synthesis goes through Engine.
#include <pybind11/stl.h>

#include <map>
#include <optional>

#include "bindings/bindings.h"
#include "bindings/read.h"
#include "bindings/unlocked.h"
#include "cuda/device_cuda.h"
#include "cuda/probe.h"

namespace py = pybind11;

namespace wavernn_fast {
namespace {

using Texts = std::map<std::string, std::string>;
using Device = cuda::DeviceCuda;
using Kernel = cuda::KernelCuda;

py::list cuda_devices() {
  std::vector<cuda::DeviceFacts> found;
  {
    const Unlocked unlocked;  // a driver may take seconds to start
    found = cuda::list_devices();
  }
  py::list devices;
  for (const cuda::DeviceFacts& facts : found) {
    py::dict d = limits_of(facts.limits);
    d["ordinal"] = facts.ordinal;
    d["memory_bytes"] = facts.memory_bytes;
    d["problem"] = facts.problem;
    devices.append(d);
  }
  return devices;
}

gpu::KernelSpec make_spec(const std::string& name, const std::string& source, const Texts& headers,
                          const Texts& defines, int max_registers) {
  gpu::KernelSpec spec;
  spec.name = name;
  spec.entry = name + ".cu";
  spec.sources.assign(headers.begin(), headers.end());
  spec.sources.emplace_back(spec.entry, source);
  spec.defines.assign(defines.begin(), defines.end());
  spec.max_registers = max_registers;
  return spec;
}

py::tuple compile_kernel(const std::string& name, const std::string& source,
                         const std::string& target, const std::string& nvrtc, const Texts& headers,
                         const Texts& defines, int max_registers, const std::string& folder) {
  cuda::Compiled compiled;
  {
    const Unlocked unlocked;
    compiled = cuda::compile_for(make_spec(name, source, headers, defines, max_registers), target,
                                 nvrtc, folder);
  }
  return py::make_tuple(py::bytes(compiled.image), compiled.log);
}

std::unique_ptr<Kernel> load(Device& device, const std::string& name, const std::string& source,
                             const Texts& headers, const Texts& defines, int max_registers,
                             int blocks, int threads, int shared_bytes, int cluster) {
  gpu::KernelSpec spec = make_spec(name, source, headers, defines, max_registers);
  spec.blocks = blocks;
  spec.threads = threads;
  spec.shared_bytes = shared_bytes;
  spec.cluster = cluster;
  return std::unique_ptr<Kernel>(static_cast<Kernel*>(device.load(spec).release()));
}

void launch(Kernel& kernel, uint64_t weights, uint64_t state, uint64_t labels, uint64_t status,
            uint64_t seed, unsigned steps) {
  gpu::KernelArgs args{};
  args.weights = reinterpret_cast<const void*>(weights);
  args.state = reinterpret_cast<float*>(state);
  args.labels = reinterpret_cast<int*>(labels);
  args.status = reinterpret_cast<gpu::KernelStatus*>(status);
  args.seed = seed;
  args.steps = steps;
  kernel.launch(args);
}

py::bytes download(Device& device, uint64_t address, size_t bytes) {
  std::string data(bytes, '\0');
  {
    const Unlocked unlocked;
    device.download(data.data(), address, bytes);
  }
  return data;
}

void bind_device(py::module_& m) {
  const py::call_guard<Unlocked> unlocked;
  py::class_<Kernel>(m, "CudaKernel", "A kernel loaded on one device.")
      .def_property_readonly("origin", [](const Kernel& k) { return k.image().origin; })
      .def_property_readonly("log", [](const Kernel& k) { return k.image().log; })
      .def("launch", &launch, py::kw_only(), py::arg("weights") = 0, py::arg("state") = 0,
           py::arg("labels") = 0, py::arg("status") = 0, py::arg("seed") = 0, py::arg("steps") = 0,
           unlocked);
  py::class_<Device>(m, "CudaDevice", "Memory and kernels of one GPU, for doctor and tests.")
      .def(py::init([](int ordinal, std::optional<uint64_t> stream, std::vector<std::string> nvrtc,
                       std::string cubins) {
             return std::make_unique<Device>(
                 cuda::OpenOptions{ordinal, stream, {std::move(nvrtc), std::move(cubins)}});
           }),
           py::arg("ordinal") = 0, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("nvrtc") = std::vector<std::string>(), py::arg("cubins") = "", unlocked)
      .def_property_readonly("limits", [](const Device& d) { return limits_of(d.limits()); })
      .def("allocate", &Device::allocate, py::arg("bytes"), unlocked)
      .def("release", &Device::release, py::arg("address"), unlocked)
      .def(
          "upload",
          [](Device& device, uint64_t to, const py::bytes& data) {
            const std::string_view view = data;
            const Unlocked unlocked;
            device.upload(to, view.data(), view.size());
          },
          py::arg("to"), py::arg("data"))
      .def("download", &download, py::arg("address"), py::arg("bytes"))
      .def("zero", &Device::zero, py::arg("address"), py::arg("bytes"), unlocked)
      .def("load", &load, py::arg("name"), py::arg("source"), py::kw_only(),
           py::arg("headers") = Texts(), py::arg("defines") = Texts(),
           py::arg("max_registers") = 255, py::arg("blocks") = 1, py::arg("threads") = 32,
           py::arg("shared_bytes") = 0, py::arg("cluster") = 1, unlocked);
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("cuda_devices", &cuda_devices,
        "Facts of every visible NVIDIA GPU; DeviceError says why there is none.");
  m.def("compile_kernel", &compile_kernel, py::arg("name"), py::arg("source"), py::arg("target"),
        py::kw_only(), py::arg("nvrtc"), py::arg("headers") = Texts(), py::arg("defines") = Texts(),
        py::arg("max_registers") = 255, py::arg("folder") = "",
        "Compile for a target such as sm_90 by the NVRTC at a path; returns (image, log). With a "
        "folder the image is stored there as a packaged kernel.");
  bind_device(m);
}

}  // namespace wavernn_fast
