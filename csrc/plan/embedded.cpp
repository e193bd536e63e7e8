// What the embedded core keeps: R, the two output layers, and the gate inputs of every label.
#include "plan/embedded.h"

#include <vector>

#include "common/error.h"

namespace wavernn_fast {

// W_label is turned first, so that the innermost loop runs over gates, which a compiler may do side
// by side.
std::vector<float> embedded::label_gates(const ModelConfig& c, const CanonicalWeights& weights) {
  constexpr int64_t kMostTable = 1 << 29;  // values, 2 GiB: as much as a model file may have
  WF_CHECK(int64_t(c.n_classes) * 3 * c.hidden_size <= kMostTable, c.n_classes, " labels of ",
           c.hidden_size, " units make a table of more than ", kMostTable, " values");
  const int gates = 3 * c.hidden_size, e = c.embedding_size;
  const float* w = weights.get("gru.w_label", {gates, e});
  const float* embedding = weights.get("embedding.weight", {c.n_classes, e});
  const float* bias = weights.get("gru.b_input", {gates});
  std::vector<double> turned(size_t(e) * gates), sum(gates);
  for (int g = 0; g < gates; ++g)
    for (int i = 0; i < e; ++i) turned[size_t(i) * gates + g] = w[size_t(g) * e + i];
  std::vector<float> table(size_t(c.n_classes) * gates);
  for (int k = 0; k < c.n_classes; ++k) {
    for (int g = 0; g < gates; ++g) sum[g] = bias[g];
    for (int i = 0; i < e; ++i) {
      const double x = embedding[size_t(k) * e + i];
      const double* column = &turned[size_t(i) * gates];
      for (int g = 0; g < gates; ++g) sum[g] += x * column[g];
    }
    for (int g = 0; g < gates; ++g) table[size_t(k) * gates + g] = float(sum[g]);
  }
  return table;
}

Plan make_embedded_plan(const PlanRequest& request, const CanonicalWeights& weights) {
  const ModelConfig& c = request.config;
  const int h = c.hidden_size, f = c.fc_size, n = c.n_classes;
  PlanBuilder builder(request);
  MatrixSource gru = gate_source("gru", weights.get("gru.w_recurrent", {3 * h, h}), h, h, h,
                                 weights.get("gru.b_recurrent", {3 * h}), request);
  UnitEdges edges = deal_units({&gru}, 1, request.threads);
  set_units(gru, edges);
  builder.set_unit_edges(std::move(edges));
  const int64_t outputs = int64_t(f) * h + int64_t(n) * f;
  builder.set_overlapped(deal_overlapped({&gru}, 1, outputs, request));
  builder.add_matrix(gru);
  builder.add_output(plain_source("fc1", weights.get("fc1.weight", {f, h}), f, h, h,
                                  weights.get("fc1.bias", {f}), request));
  MatrixSource fc2 = plain_source("fc2", weights.get("fc2.weight", {n, f}), n, f, f,
                                  weights.get("fc2.bias", {n}), request);
  fc2.padded_bias = -1e30f;  // padding classes are never drawn
  builder.add_output(fc2);
  builder.add_vector(embedded::label_gates(c, weights).data(), n * 3 * h);
  return builder.finish();
}

}  // namespace wavernn_fast
