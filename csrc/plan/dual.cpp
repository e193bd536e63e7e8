// What the dual core keeps: R, then O1..O4 (coarse_fc1, coarse_fc2, fine_fc1, fine_fc2).
#include "plan/dual.h"

#include <vector>

namespace wavernn_fast {

Plan make_dual_plan(const PlanRequest& request, const CanonicalWeights& weights) {
  const ModelConfig& c = request.config;
  const int h = c.hidden_size, f = c.fc_size, n = c.n_classes;
  PlanBuilder builder(request);
  MatrixSource gru = gate_source("gru", weights.get("gru.w_recurrent", {3 * h, h}), h, h, h,
                                 weights.get("gru.b_recurrent", {3 * h}), request);
  gru.column_edges = {h / 2};  // the coarse half of the state is ready before the fine half
  UnitEdges edges = deal_units({&gru}, 2, request.threads);
  set_units(gru, edges);
  builder.set_unit_edges(std::move(edges));
  const int64_t outputs = int64_t(f) * (h / 2) + int64_t(n) * f;
  builder.set_overlapped(deal_overlapped({&gru}, 2, outputs, request));
  builder.add_matrix(gru);
  for (const char* half : {"coarse", "fine"}) {
    const std::string fc1 = std::string(half) + "_fc1", fc2 = std::string(half) + "_fc2";
    builder.add_output(plain_source(fc1, weights.get(fc1 + ".weight", {f, h / 2}), f, h / 2, h / 2,
                                    weights.get(fc1 + ".bias", {f}), request));
    builder.add_output(plain_source(fc2, weights.get(fc2 + ".weight", {n, f}), n, f, f,
                                    weights.get(fc2 + ".bias", {n}), request));
  }
  builder.add_vector(weights.get("gru.b_input", {3 * h}), 3 * h);
  const float* w_sample = weights.get("gru.w_sample", {3 * h, 3});
  std::vector<float> column(size_t(3) * h);
  for (int j = 0; j < 3; ++j) {
    for (int i = 0; i < 3 * h; ++i) column[i] = w_sample[3 * i + j];
    builder.add_vector(column.data(), 3 * h);
  }
  return builder.finish();
}

}  // namespace wavernn_fast
