#include "bindings/read.h"

#include <pybind11/numpy.h>

#include <cmath>
#include <map>

#include "common/error.h"

namespace py = pybind11;

namespace wavernn_fast {

ModelConfig read_config(const py::dict& d) {
  ModelConfig c;
  const std::string core = py::cast<std::string>(d["core"]);
  const std::string head = py::cast<std::string>(d["head"]);
  WF_CHECK(core == "dual" || core == "residual" || core == "embedded", "core ", core,
           " is not dual, residual or embedded");
  c.core = core == "dual" ? Core::dual : core == "residual" ? Core::residual : Core::embedded;
  const std::map<std::string, Head> heads = {{"dual_softmax", Head::dual_softmax},
                                             {"softmax", Head::softmax},
                                             {"mol", Head::mol},
                                             {"gaussian", Head::gaussian},
                                             {"beta", Head::beta}};
  WF_CHECK(heads.count(head) == 1, "head ", head, " is not known to this engine");
  c.head = heads.at(head);
  WF_CHECK((c.core == Core::dual) == (c.head == Head::dual_softmax), "head ", head,
           " does not belong to a ", core, " core");
  WF_CHECK(c.core != Core::embedded || c.head == Head::softmax, "head ", head,
           " does not belong to an embedded core");
  WF_CHECK(c.head != Head::mol || py::cast<int>(d["n_classes"]) <= 192,
           "a mixture of more than 64 logistics is not supported");
  const auto number = [&d](const char* name) { return py::cast<int>(d[name]); };
  c.hidden_size = number("hidden_size");
  c.fc_size = number("fc_size");
  c.n_classes = number("n_classes");
  c.hop_length = number("hop_length");
  c.n_mels = number("n_mels");
  c.aux_size = number("aux_size");
  c.upsample_left = number("upsample_left");
  c.upsample_right = number("upsample_right");
  c.first_input = py::cast<float>(d["first_input"]);
  WF_CHECK(c.hop_length > 0 && c.n_mels >= 0 && c.aux_size >= 0 && c.upsample_left >= 0 &&
               c.upsample_right >= 0,
           "hop_length must be positive and the other sizes not negative");
  c.bands = number("bands");
  WF_CHECK(c.bands == 1 || c.bands == 2 || c.bands == 4, "bands is ", c.bands,
           ", must be 1, 2 or 4");
  WF_CHECK(c.bands == 1 || (c.core == Core::residual && c.head == Head::softmax),
           "several bands need a residual core with a softmax head");
  WF_CHECK(c.hop_length % c.bands == 0, "hop_length ", c.hop_length, " is not a multiple of the ",
           c.bands, " bands");
  c.hop_length /= c.bands;  // samples there, steps here
  const std::string feedback = py::cast<std::string>(d["feedback"]);
  WF_CHECK(feedback == "linear" || feedback == "mu_law", "feedback ", feedback,
           " is not linear or mu_law");
  c.feedback = feedback == "mu_law" ? Feedback::mu_law : Feedback::linear;
  WF_CHECK(c.feedback == Feedback::linear || (c.core == Core::residual && c.head == Head::softmax),
           "mu-law feedback needs a residual core with a softmax head");
  if (c.core != Core::embedded) return c;
  c.embedding_size = number("embedding_size");
  c.first_label = number("first_label");
  WF_CHECK(c.embedding_size > 0, "embedding_size is ", c.embedding_size, ", must be positive");
  WF_CHECK(c.first_label >= 0 && c.first_label < c.n_classes, "first_label is ", c.first_label,
           ", not a label (0 to ", c.n_classes - 1, ")");
  return c;
}

CanonicalWeights read_weights(const py::dict& d) {
  CanonicalWeights weights;
  for (const auto& [key, value] : d) {
    const auto array =
        py::cast<py::array_t<float, py::array::c_style | py::array::forcecast>>(value);
    Tensor tensor;
    tensor.shape.assign(array.shape(), array.shape() + array.ndim());
    tensor.data.assign(array.data(), array.data() + array.size());
    for (float x : tensor.data)
      WF_CHECK(std::isfinite(x), "weight ", py::cast<std::string>(key), " holds ", x);
    weights.add(py::cast<std::string>(key), std::move(tensor));
  }
  return weights;
}

py::dict limits_of(const gpu::DeviceLimits& limits) {
  py::dict d;
  d["name"] = limits.name;
  d["arch"] = limits.arch;
  d["multiprocessors"] = limits.multiprocessors;
  d["registers"] = limits.registers;
  d["shared_per_block"] = limits.shared_per_block;
  d["l2_bytes"] = limits.l2_bytes;
  d["clock_khz"] = limits.clock_khz;
  d["cooperative"] = limits.cooperative;
  d["watchdog"] = limits.watchdog;
  return d;
}

}  // namespace wavernn_fast
