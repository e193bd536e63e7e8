#include "reference/engine_reference.h"

#include <algorithm>
#include <cmath>

#include "common/integers.h"
#include "common/real_draws.h"
#include "common/sampling.h"

namespace wavernn_fast::reference {
namespace {

using Vector = std::vector<double>;

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

Vector slice(const Vector& x, int begin, int count) {
  return Vector(x.begin() + begin, x.begin() + begin + count);
}

void relu(Vector& x) {
  for (double& v : x) v = v < 0.0 ? 0.0 : v;  // a NaN stays one
}

class ReferenceEngine final : public Engine {
 public:
  ReferenceEngine(const ModelConfig& config, const CanonicalWeights& weights)
      : c_(config), w_(weights) {}

  const ModelConfig& config() const override { return c_; }
  std::string device() const override { return "reference"; }
  std::string isa() const override { return "double"; }
  std::string dtype() const override { return "fp64"; }
  int threads() const override { return 1; }
  uint64_t weight_bytes() const override { return 8 * uint64_t(macs_per_step()); }
  int64_t macs_per_step() const override {
    const int64_t h = c_.hidden_size, f = c_.fc_size;
    if (c_.core == Core::embedded) return 3 * h * h + f * h + c_.n_classes * f;
    return c_.core == Core::dual ? 3 * h * h + 2 * (f * h / 2 + 256 * f)
                                 : 9 * h * h + f * h + f * f + c_.logits_size() * f;
  }
  std::string describe() const override { return c_.describe() + "\ndouble, readable twin\n"; }

  void run(std::vector<Job>& jobs, const Interrupt& interrupt) override {
    check_jobs(c_, jobs);
    for (Job& job : jobs) {
      const int64_t first_frame = int64_t(job.state->position()) / c_.hop_length;
      for (int64_t i = 0; i < job.n_steps; ++i) {
        prepare(job, i, first_frame);
        if (c_.core == Core::embedded)
          embedded_step(job, i);
        else if (c_.core == Core::dual)
          dual_step(job, i);
        else
          residual_step(job, i);
        ++job.state->step;
        if (interrupt && i % 64 == 63) interrupt();
      }
    }
  }

 private:
  // y = W[:, first:first+len(x)] x + b, W [rows][cols].
  Vector linear(const std::string& weight, int rows, int cols, int first, const Vector& x,
                const std::string& bias) const {
    const float* w = w_.get(weight, {rows, cols});
    const float* b = bias.empty() ? nullptr : w_.get(bias, {rows});
    Vector y(rows);
    for (int i = 0; i < rows; ++i) {
      double sum = b ? b[i] : 0.0;
      for (size_t k = 0; k < x.size(); ++k) sum += double(w[int64_t(i) * cols + first + k]) * x[k];
      y[i] = sum;
    }
    return y;
  }

  // The conditioning of this sample (cond_) and its four random numbers (words_).
  void prepare(const Job& job, int64_t i, int64_t first_frame) {
    if (job.words != nullptr) {
      const int draws = c_.draws_per_step();
      std::copy_n(job.words + i * draws, draws, words_.begin());
    } else {
      words_ = philox4x32(job.state->key, job.state->step);
    }
    const bool residual = c_.core == Core::residual;
    interp_.assign(residual ? 4 * c_.hidden_size : 3 * c_.hidden_size, 0.0);
    hold_.assign(residual ? 7 * c_.hidden_size + 2 * c_.fc_size : 3 * c_.hidden_size, 0.0);
    const int64_t position = int64_t(job.state->position());
    const int64_t row = position / c_.hop_length - first_frame;
    if (job.hold != nullptr)
      for (size_t k = 0; k < hold_.size(); ++k) hold_[k] = job.hold[row * c_.hold_size() + k];
    if (job.interp == nullptr) return;
    const float* kernel = w_.get("upsample.kernel", {c_.hop_length, c_.taps()}) +
                          position % c_.hop_length * c_.taps();
    for (size_t k = 0; k < interp_.size(); ++k)
      for (int j = 0; j < c_.taps(); ++j)
        interp_[k] += double(kernel[j]) * job.interp[(row + j) * c_.interp_size() + k];
  }

  // h' = u h + (1 - u) e for units [first, last), from gate inputs x [3H] and R h + b [3H].
  static void update(Vector& h, const Vector& x, const Vector& recurrent, int first, int last) {
    const int n = int(h.size());
    for (int j = first; j < last; ++j) {
      const double r = sigmoid(recurrent[j] + x[j]);
      const double u = sigmoid(recurrent[n + j] + x[n + j]);
      const double e = std::tanh(r * recurrent[2 * n + j] + x[2 * n + j]);
      h[j] = u * h[j] + (1.0 - u) * e;
    }
  }

  int draw(const StreamState& state, const Vector& logits, int n, uint32_t word, Job& job,
           int64_t i, int band = 0) const {
    double top = logits[0];
    for (int k = 0; k < n; ++k) {
      if (!std::isfinite(logits[k])) {
        if (job.failed_step < 0) job.failed_step = i, job.failed_band = band;
        return n / 2;
      }
      top = std::max(top, logits[k]);
    }
    const double one = double(1u << weight_bits(n));
    std::vector<int32_t> w(round_up(n, 16), 0);
    std::vector<uint32_t> sums(w.size() / 16, 0);
    int best = 0;
    for (int k = 0; k < n; ++k) {
      w[k] = int32_t(std::nearbyint(std::exp((logits[k] - top) * state.inv_temperature) * one));
      sums[k / 16] += uint32_t(w[k]);
      if (logits[k] > logits[best]) best = k;
    }
    return state.greedy ? best : draw_from_weights(w.data(), sums.data(), int(w.size()), word);
  }

  void dual_step(Job& job, int64_t i) const {
    const int n = c_.hidden_size, half = n / 2, f = c_.fc_size;
    StreamState& state = *job.state;
    const Vector h_old(state.hidden.begin(), state.hidden.end());
    const Vector recurrent = linear("gru.w_recurrent", 3 * n, n, 0, h_old, "gru.b_recurrent");
    const Vector last{state.feedback[0], state.feedback[1]};
    Vector x = linear("gru.w_sample", 3 * n, 3, 0, last, "gru.b_input");
    for (int k = 0; k < 3 * n; ++k) x[k] += interp_[k] + hold_[k];

    Vector h = h_old;
    int halves[2];
    for (int side = 0; side < 2; ++side) {
      const std::string name = side == 0 ? "coarse" : "fine";
      if (side == 1) {
        const Vector c_now = linear("gru.w_sample", 3 * n, 3, 2, {state.feedback[0]}, "");
        for (int k = 0; k < 3 * n; ++k) x[k] += c_now[k];
      }
      update(h, x, recurrent, side * half, (side + 1) * half);
      Vector y =
          linear(name + "_fc1.weight", f, half, 0, slice(h, side * half, half), name + "_fc1.bias");
      relu(y);
      const Vector logits = linear(name + "_fc2.weight", 256, f, 0, y, name + "_fc2.bias");
      int k = draw(state, logits, 256, words_[side], job, i);
      if (job.forced_labels) k = side == 0 ? job.forced_labels[i] >> 8 : job.forced_labels[i] & 255;
      halves[side] = k;
      state.feedback[side] = scale_half(k);
      if (job.logits)
        for (int j = 0; j < 256; ++j) job.logits[i * 512 + side * 256 + j] = float(logits[j]);
    }
    state.hidden.assign(h.begin(), h.end());
    job.labels[i] = 256 * halves[0] + halves[1];
  }

  // Gate inputs W_ih [v; conditioning] + b: `known` holds the conditioning part.
  void residual_step(Job& job, int64_t i) const {
    const int n = c_.hidden_size, f = c_.fc_size, a = c_.aux_size;
    const int inputs = c_.bands + c_.n_mels + a;
    StreamState& state = *job.state;
    Vector h1(state.hidden.begin(), state.hidden.begin() + n);
    Vector h2(state.hidden.begin() + n, state.hidden.end());
    const Vector x(state.feedback, state.feedback + c_.bands);

    // u = I [x; mel; a1] + b and W_ih1 u; the conditioning brings both of its products.
    Vector u = linear("input.weight", n, inputs, 0, x, "input.bias");
    Vector gates1 = linear("gru1.w_input", 3 * n, n, 0, u, "gru1.b_input");
    for (int k = 0; k < n; ++k) u[k] += interp_[k] + hold_[k];
    for (int k = 0; k < 3 * n; ++k) gates1[k] += interp_[n + k] + hold_[n + k];
    update(h1, gates1, linear("gru1.w_recurrent", 3 * n, n, 0, h1, "gru1.b_recurrent"), 0, n);

    Vector v(n), w(n);
    for (int k = 0; k < n; ++k) v[k] = u[k] + h1[k];
    Vector gates2 = linear("gru2.w_input", 3 * n, n + a, 0, v, "gru2.b_input");
    for (int k = 0; k < 3 * n; ++k) gates2[k] += hold_[4 * n + k];
    update(h2, gates2, linear("gru2.w_recurrent", 3 * n, n, 0, h2, "gru2.b_recurrent"), 0, n);
    for (int k = 0; k < n; ++k) w[k] = v[k] + h2[k];

    Vector p = linear("fc1.weight", f, n + a, 0, w, "fc1.bias");
    for (int k = 0; k < f; ++k) p[k] += hold_[7 * n + k];
    relu(p);
    Vector q = linear("fc2.weight", f, f + a, 0, p, "fc2.bias");
    for (int k = 0; k < f; ++k) q[k] += hold_[7 * n + f + k];
    relu(q);
    const Vector o = linear("fc3.weight", c_.logits_size(), f, 0, q, "fc3.bias");

    for (int k = 0; k < n; ++k) state.hidden[k] = float(h1[k]), state.hidden[n + k] = float(h2[k]);
    finish_residual(job, i, o);
  }

  void finish_residual(Job& job, int64_t i, const Vector& o) const {
    StreamState& state = *job.state;
    const int n = c_.n_classes, size = c_.logits_size();
    if (job.logits)
      for (int k = 0; k < size; ++k) job.logits[i * size + k] = float(o[k]);
    if (c_.head == Head::softmax) {
      for (int band = 0; band < c_.bands; ++band) {
        int k = draw(state, slice(o, band * n, n), n, words_[band], job, i, band);
        if (job.forced_labels) k = job.forced_labels[i * c_.bands + band];
        state.feedback[band] =
            c_.feedback == Feedback::mu_law ? expand_label(k, n) : scale_label(k, n);
        job.labels[i * c_.bands + band] = k;
      }
      return;
    }
    const float x = c_.head == Head::mol ? mixture(job, i, o) : real(job, i, o);
    state.feedback[0] = job.forced_values ? job.forced_values[i] : x;
    job.values[i] = state.feedback[0];
  }

  float real(Job& job, int64_t i, const Vector& o) const {
    const StreamState& state = *job.state;
    const float outputs[2] = {float(o[0]), float(o[1])};
    if (std::isfinite(outputs[0]) && std::isfinite(outputs[1]))
      return draw_real(c_.head, outputs, 1.0 / state.inv_temperature, state.greedy, words_[0]);
    if (job.failed_step < 0) job.failed_step = i;
    return 0.0f;
  }

  float mixture(Job& job, int64_t i, const Vector& o) const {
    const StreamState& state = *job.state;
    const int n_mix = c_.n_classes / 3;
    const int k = draw(state, slice(o, 0, n_mix), n_mix, words_[0], job, i);
    const float mean = float(o[n_mix + k]), log_scale = float(o[2 * n_mix + k]);
    if (!std::isfinite(mean) || !std::isfinite(log_scale)) {
      if (job.failed_step < 0) job.failed_step = i;
      return 0.0f;
    }
    return state.greedy ? std::clamp(mean, -1.0f, 1.0f)
                        : draw_logistic(mean, log_scale, 1.0f / state.inv_temperature, words_[1]);
  }

  // Gate inputs W_ih [e(k); c] + b for the label k before; `hold_` is the conditioning part.
  void embedded_step(Job& job, int64_t i) const {
    const int n = c_.hidden_size, e = c_.embedding_size, f = c_.fc_size;
    StreamState& state = *job.state;
    const float* row =
        w_.get("embedding.weight", {c_.n_classes, e}) + int64_t(state.feedback[0]) * e;
    Vector h(state.hidden.begin(), state.hidden.end());
    Vector x = linear("gru.w_label", 3 * n, e, 0, Vector(row, row + e), "gru.b_input");
    for (int k = 0; k < 3 * n; ++k) x[k] += hold_[k];
    update(h, x, linear("gru.w_recurrent", 3 * n, n, 0, h, "gru.b_recurrent"), 0, n);
    Vector y = linear("fc1.weight", f, n, 0, h, "fc1.bias");
    relu(y);
    const Vector o = linear("fc2.weight", c_.n_classes, f, 0, y, "fc2.bias");

    state.hidden.assign(h.begin(), h.end());
    if (job.logits)
      for (int k = 0; k < c_.n_classes; ++k) job.logits[i * c_.n_classes + k] = float(o[k]);
    int k = draw(state, o, c_.n_classes, words_[0], job, i);
    if (job.forced_labels) k = job.forced_labels[i];
    state.feedback[0] = float(k);
    job.labels[i] = k;
  }

  ModelConfig c_;
  CanonicalWeights w_;
  Vector interp_, hold_;             // conditioning channels of this sample
  std::array<uint32_t, 4> words_{};  // random numbers of this sample
};

}  // namespace

std::unique_ptr<Engine> make_engine(const ModelConfig& config, const CanonicalWeights& weights) {
  return std::make_unique<ReferenceEngine>(config, weights);
}

}  // namespace wavernn_fast::reference
