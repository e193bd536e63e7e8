#include "bindings/device_array.h"

#include <pybind11/stl.h>

#include "common/error.h"

namespace py = pybind11;

namespace wavernn_fast {
namespace {

// A field of the interface; None stands for one that is not there.
py::object field(const py::dict& interface, const char* name) {
  return interface.contains(name) ? py::object(interface[name]) : py::object(py::none());
}

bool is_contiguous(const std::vector<py::ssize_t>& shape, const py::object& strides) {
  if (strides.is_none()) return true;
  const auto given = py::cast<std::vector<py::ssize_t>>(strides);
  py::ssize_t expected = sizeof(float);
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] > 1 && given.at(i) != expected) return false;
    expected *= shape[i];
  }
  return true;
}

}  // namespace

std::optional<DeviceArray> read_device_array(const py::object& given, const std::string& name) {
  constexpr const char* kName = "__cuda_array_interface__";
  if (!py::hasattr(given, kName)) return std::nullopt;
  const auto interface = py::cast<py::dict>(given.attr(kName));
  DeviceArray array;
  array.shape = py::cast<std::vector<py::ssize_t>>(interface["shape"]);
  const auto type = py::cast<std::string>(interface["typestr"]);
  WF_CHECK(type == "<f4", name, " has type ", type, ", expected float32 (<f4)");
  WF_CHECK(is_contiguous(array.shape, field(interface, "strides")), name,
           " is not C-contiguous: make a contiguous copy of it on its device");
  WF_CHECK(field(interface, "mask").is_none(), name, " has a mask, which is not supported");
  array.address = py::cast<uint64_t>(py::cast<py::tuple>(interface["data"])[0]);
  WF_CHECK(array.address % 8 == 0, name, " begins at address ", array.address,
           ", expected a multiple of 8");  // the kernel loads pairs
  const py::object stream = field(interface, "stream");
  if (!stream.is_none()) {
    array.stream = py::cast<uint64_t>(stream);
    WF_CHECK(*array.stream != 0, name,
             " names stream 0, which __cuda_array_interface__ does not allow: 1 is the legacy "
             "default stream");
  }
  return array;
}

}  // namespace wavernn_fast
