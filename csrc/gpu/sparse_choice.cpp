#include "common/error.h"
#include "gpu/engine_sparse.h"

namespace wavernn_fast::gpu {
namespace {

bool is_shape(const std::string& sparse) { return sparse == "4x4" || sparse == "16x1"; }

// Why the model does not run by plan S though it is pruned; empty if it does.
std::string reason_against(const GpuRequest& request, const CanonicalWeights& weights) {
  const auto model = sparse_tiles(request, "auto", weights);
  if (!is_pruned(*model)) return "-";
  fill_bins(*model);
  int dense = 0;
  try {
    dense = choose_gpu_plan(request).latency.total();
  } catch (const DeviceError&) {
    choose_sparse_plan({request, false}, model);  // its sentence is the one that helps
    return "";
  }
  try {
    const int sparse = choose_sparse_plan({request, false}, model).latency.total();
    // A sample of one stream may take that much longer: there is room for so many more streams.
    constexpr double kMostSlower = 1.3;
    if (sparse < kMostSlower * dense) return "";
    return std::to_string(sparse) + " cycles a sample are predicted for the sparse plan, " +
           std::to_string(dense) + " for this";
  } catch (const DeviceError& refusal) {
    return refusal.what();
  }
}

}  // namespace

std::shared_ptr<BinnedModel> sparse_tiles(const GpuRequest& request, const std::string& sparse,
                                          const CanonicalWeights& weights) {
  return std::make_shared<BinnedModel>(
      find_tiles(request.config, weights, is_shape(sparse) ? sparse : ""));
}

bool is_sparse(const GpuRequest& request, const std::string& sparse,
               const CanonicalWeights& weights, std::string& note) {
  WF_CHECK(sparse == "auto" || sparse == "on" || sparse == "off" || is_shape(sparse),
           "sparse is \"", sparse, "\", expected \"auto\", \"on\", \"off\", \"4x4\" or \"16x1\"");
  if (sparse != "auto") return sparse != "off";
  if (request.config.core != Core::dual || request.exchanges || request.blocks || request.warps ||
      request.cluster)
    return false;
  const std::string reason = reason_against(request, weights);
  if (reason.size() > 1) note = "sparse: no. " + reason + "\n";
  return reason.empty();
}

}  // namespace wavernn_fast::gpu
