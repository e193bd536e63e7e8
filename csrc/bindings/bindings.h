#pragma once

#include <pybind11/pybind11.h>

namespace wavernn_fast {

void bind_errors(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_gpu(pybind11::module_& m);
void bind_tools(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);

}  // namespace wavernn_fast
