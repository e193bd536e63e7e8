// What the residual core keeps: R1, the v columns of W_ih2, R2, the state columns of fc1 and fc2,
// and fc3; the conditioning columns of each are multiplied per frame (plan/residual.h).
#include "plan/residual.h"

#include <vector>

namespace wavernn_fast {
namespace {

// y = W x + b in double, W [rows][cols] row-major.
std::vector<float> product(const float* w, int rows, int cols, const std::vector<float>& x,
                           const float* b) {
  std::vector<float> y(rows);
  for (int i = 0; i < rows; ++i) {
    double sum = b ? b[i] : 0.0;
    for (int k = 0; k < cols; ++k) sum += double(w[size_t(i) * cols + k]) * x[k];
    y[i] = float(sum);
  }
  return y;
}

}  // namespace

residual::InputLayer residual::hoist_input(const ModelConfig& c, const CanonicalWeights& weights) {
  const int h = c.hidden_size, inputs = c.bands + c.n_mels + c.aux_size;
  const float* w_ih1 = weights.get("gru1.w_input", {3 * h, h});
  const float* w_input = weights.get("input.weight", {h, inputs});
  const float* b_input = weights.get("input.bias", {h});
  InputLayer input;
  const std::vector<float> bias(b_input, b_input + h);
  input.gru1_bias = product(w_ih1, 3 * h, h, bias, weights.get("gru1.b_input", {3 * h}));
  for (int band = 0; band < c.bands; ++band) {
    std::vector<float> column(static_cast<size_t>(h));
    for (int i = 0; i < h; ++i) column[size_t(i)] = w_input[size_t(i) * inputs + band];
    const std::vector<float> heard = product(w_ih1, 3 * h, h, column, nullptr);
    input.x_columns.insert(input.x_columns.end(), column.begin(), column.end());
    input.gru1_x.insert(input.gru1_x.end(), heard.begin(), heard.end());
  }
  return input;
}

Plan make_residual_plan(const PlanRequest& request, const CanonicalWeights& weights) {
  const ModelConfig& c = request.config;
  const int h = c.hidden_size, f = c.fc_size, n = c.bands * c.n_classes, a = c.aux_size;

  PlanBuilder builder(request);
  MatrixSource gru1 = gate_source("gru1", weights.get("gru1.w_recurrent", {3 * h, h}), h, h, h,
                                  weights.get("gru1.b_recurrent", {3 * h}), request);
  MatrixSource gru2 = gate_source("gru2", weights.get("gru2.w_recurrent", {3 * h, h}), h, h, h,
                                  weights.get("gru2.b_recurrent", {3 * h}), request);
  MatrixSource gru2_input = gate_source("gru2_input", weights.get("gru2.w_input", {3 * h, h + a}),
                                        h, h, h + a, nullptr, request);
  UnitEdges edges = deal_units({&gru1, &gru2, &gru2_input}, 1, request.threads);
  for (MatrixSource* source : {&gru1, &gru2, &gru2_input}) set_units(*source, edges);
  builder.set_unit_edges(std::move(edges));
  const int64_t outputs = int64_t(f) * h + int64_t(f) * f + int64_t(n) * f;
  builder.set_overlapped(deal_overlapped({&gru1, &gru2}, 1, outputs, request));
  builder.add_matrix(gru1);
  builder.add_matrix(gru2_input);
  builder.add_matrix(gru2);
  builder.add_output(plain_source("fc1", weights.get("fc1.weight", {f, h + a}), f, h, h + a,
                                  weights.get("fc1.bias", {f}), request));
  builder.add_output(plain_source("fc2", weights.get("fc2.weight", {f, f + a}), f, f, f + a,
                                  weights.get("fc2.bias", {f}), request));
  MatrixSource fc3 = plain_source("fc3", weights.get("fc3.weight", {n, f}), n, f, f,
                                  weights.get("fc3.bias", {n}), request);
  fc3.padded_bias = -1e30f;  // padding classes are never drawn; of several bands there are none
  builder.add_output(fc3);

  const residual::InputLayer input = residual::hoist_input(c, weights);
  builder.add_vector(weights.get("input.bias", {h}), h);
  builder.add_vector(input.x_columns.data(), c.bands * h);
  builder.add_vector(input.gru1_bias.data(), 3 * h);
  builder.add_vector(input.gru1_x.data(), c.bands * 3 * h);
  builder.add_vector(weights.get("gru2.b_input", {3 * h}), 3 * h);
  return builder.finish();
}

}  // namespace wavernn_fast
