// Registration of the compiled engine: numpy in, numpy out, the GIL released while samples are
// made.
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled engine of wavernn_fast.";
  m.attr("__version__") = WF_VERSION;
  wavernn_fast::bind_errors(m);
  wavernn_fast::bind_engine(m);
  wavernn_fast::bind_gpu(m);
  wavernn_fast::bind_tools(m);
  wavernn_fast::bind_cuda(m);
}
