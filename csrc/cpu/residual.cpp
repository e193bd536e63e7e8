// A sample of the residual core: u = I [x; mel; a1] + b; GRU1; v = u + h1; GRU2 over [v; a2];
// w = v + h2; p = relu(fc1 [w; a3]); q = relu(fc2 [p; a4]); fc3 q; draw. Five meetings, or three
// where the output layers and the recurrent products of the next sample overlap. Of several bands x
// is what each drew before, and fc3 has the classes of each.
#include "plan/residual.h"

#include <cstring>
#include <tuple>

#include "common/integers.h"
#include "common/real_draws.h"
#include "cpu/stepper.h"

namespace wavernn_fast::cpu {
namespace {

using namespace wavernn_fast::residual;

class ResidualStepper final : public Stepper {
 public:
  using Stepper::Stepper;

 private:
  int hidden_arrays() const override { return 2; }

  void resize(size_t streams) override {
    const ModelConfig& c = plan_.request.config;
    resize_sums(recurrent_[0], streams, kGru1);
    resize_sums(recurrent_[1], streams, kGru2);
    gru2_input_.resize(streams, 3 * c.hidden_size);
    for (Rows<float>* rows : {&u_, &v_, &w_}) rows->resize(streams, c.hidden_size);
    for (Rows<float>* rows : {&p_, &q_}) rows->resize(streams, c.fc_size);
    logits_.resize(streams, c.logits_size() + 16);
  }

  void sample(const Member& me, int step, bool is_last) override {
    const bool overlapped = plan_.overlapped && me.members > 1;
    prepare_sample(me, step);
    if (step == 0 || !overlapped) {
      recurrent(me, step & 1);
      if (overlapped) meet(me);
    }
    if (overlapped) {
      open_share(me, 0, kGru1, 0);
      open_share(me, 1, kGru2, 0);
    }
    first_gru(me, step);
    meet(me);
    product(me, kGru2Input, v_, true, gru2_input_);
    second_gru(me, step);
    meet(me);
    // Overlapped: member 0 runs the output layers and draws, alone, while the others already
    // multiply the new states for the next sample; it joins them with fewer rows.
    if (!overlapped) return outputs(me, step);
    if (me.index == 0) outputs(alone(me), step);
    if (!is_last) recurrent(me, ~step & 1, true);
    meet(me);
  }

  // For the hidden states with this parity: this member's rows, or those that it gets.
  void recurrent(const Member& me, int parity, bool shared = false) {
    multiply_state(me, kGru1, hidden_[0][parity], recurrent_[0], -1, shared ? 0 : -1);
    multiply_state(me, kGru2, hidden_[1][parity], recurrent_[1], -1, shared ? 1 : -1);
  }

  void outputs(const Member& me, int step) {
    const ModelConfig& c = plan_.request.config;
    product(me, kFc1, w_, true, p_);
    relu(me, kFc1, p_, 7 * c.hidden_size);
    meet(me);
    product(me, kFc2, p_, false, q_);
    relu(me, kFc2, q_, 7 * c.hidden_size + c.fc_size);
    meet(me);
    product(me, kFc3, q_, false, logits_);
    meet(me);
    for (size_t s = 0; s < streams(); ++s) choose(me, s, step);
    done(me, kDraw);
  }

  void product(const Member& me, int matrix, Rows<float>& x, bool is_signed, Rows<float>& y) {
    matmul(me, {matrix, x.row(0), x.width, is_signed, y.row(0), y.width});
  }

  // The conditioning channels from `channel` on; with `interpolated` false only the held ones.
  Conditioning channels(const Member& me, size_t s, int channel, bool interpolated) const {
    Conditioning cond = me.local->conditioning[s];
    if (cond.hold != nullptr) cond.hold += channel;
    if (interpolated && cond.interp != nullptr) cond.interp += channel;
    if (!interpolated) cond.taps = 0;
    return cond;
  }

  void first_gru(const Member& me, int step) {
    const int h = plan_.request.config.hidden_size;
    GruArgs args{};
    args.hidden_size = h;
    args.base = plan_.vectors[kGru1Bias].data();
    const int bands = plan_.request.config.bands;
    args.n_scalars = bands;
    for (int b = 0; b < bands; ++b)
      args.scalar_weights[b] = plan_.vectors[kGru1X].data() + b * 3 * h;
    for (size_t s = 0; s < streams(); ++s) {
      const float* x = &me.drawn->feedback[kMostBands * s];
      args.recurrent = recurrent_[0].sums.row(s);
      args.recurrent_rest = recurrent_[0].rest(s);
      for (int b = 0; b < bands; ++b) args.scalars[b] = x[b];
      args.conditioning = channels(me, s, h, true);
      args.h_old = hidden_[0][step & 1].row(s);
      args.h_new = hidden_[0][~step & 1].row(s);
      const auto [first, last] = update_units(me, args);
      input_layer(channels(me, s, 0, true), x, first, last, u_.row(s));
      kernels_.add(u_.row(s), args.h_new, first, last, v_.row(s));
    }
    done(me, kGates);
  }

  // u = I x + b and its conditioning, units [first, last).
  void input_layer(const Conditioning& conditioning, const float* x, int first, int last,
                   float* u) {
    const ModelConfig& c = plan_.request.config;
    const float *bias = plan_.vectors[kInputBias].data(), *w = plan_.vectors[kInputX].data();
    if (c.bands == 1)
      kernels_.input_layer(bias, conditioning, w, x[0], first, last, u);
    else
      kernels_.input_layer_of(bias, conditioning, w, c.hidden_size, x, c.bands, first, last, u);
  }

  void second_gru(const Member& me, int step) {
    const int h = plan_.request.config.hidden_size;
    GruArgs args{};
    args.hidden_size = h;
    args.base = plan_.vectors[kGru2Bias].data();
    for (size_t s = 0; s < streams(); ++s) {
      args.recurrent = recurrent_[1].sums.row(s);
      args.recurrent_rest = recurrent_[1].rest(s);
      args.input = gru2_input_.row(s);
      args.conditioning = channels(me, s, 4 * h, false);
      args.h_old = hidden_[1][step & 1].row(s);
      args.h_new = hidden_[1][~step & 1].row(s);
      const auto [first, last] = update_units(me, args);
      kernels_.add(v_.row(s), args.h_new, first, last, w_.row(s));
    }
    done(me, kGates);
  }

  // Runs the gates of this member's units and returns them as [first, last).
  std::pair<int, int> update_units(const Member& me, GruArgs& args) {
    std::tie(args.first_block, args.last_block) = unit_blocks(me, 0);
    gru(args);
    return {kRowsPerBlock * args.first_block, kRowsPerBlock * args.last_block};
  }

  // Of what `matrix` was multiplied to.
  void relu(const Member& me, int matrix, Rows<float>& y, int hold_channel) {
    const auto [first, last] = rows_of(me, matrix);
    for (size_t s = 0; s < streams(); ++s) {
      const float* hold = me.local->conditioning[s].hold;
      kernels_.relu(y.row(s), hold ? hold + hold_channel : nullptr, first, last);
    }
    done(me, kRelu);
  }

  void choose(const Member& me, size_t s, int step) {
    const ModelConfig& c = plan_.request.config;
    const Lane& lane = *lanes_[s];
    const int64_t index = lane.done + step;
    float* feedback = &me.local->feedback[kMostBands * s];
    if (c.draws_values()) {
      feedback[0] = choose_value(me, s, step);
      if (lane.job->forced_values != nullptr) feedback[0] = lane.job->forced_values[index];
      if (me.index == 0) lane.job->values[index] = feedback[0];
    } else {
      for (int band = 0; band < c.bands; ++band) feedback[band] = choose_label(me, s, step, band);
    }
    if (me.index == 0 && lane.job->logits != nullptr)
      std::memcpy(lane.job->logits + index * c.logits_size(), logits_.row(s),
                  sizeof(float) * c.logits_size());
  }

  float choose_label(const Member& me, size_t s, int step, int band) {
    const ModelConfig& c = plan_.request.config;
    const Lane& lane = *lanes_[s];
    const int64_t index = (lane.done + step) * c.bands + band;
    const float* logits = logits_.row(s) + band * c.n_classes;
    int k = draw(me, s, logits, c.n_classes, me.local->words[s][band]);
    if (k < 0) {
      report_failure(me, s, step, band);
      k = c.n_classes / 2;
    }
    if (lane.job->forced_labels != nullptr) k = lane.job->forced_labels[index];
    if (me.index == 0) lane.job->labels[index] = k;
    return c.feedback == Feedback::mu_law ? expand_label(k, c.n_classes)
                                          : scale_label(k, c.n_classes);
  }

  float choose_value(const Member& me, size_t s, int step) {
    const Head head = plan_.request.config.head;
    if (head == Head::mol) return choose_mixture(me, s, step);
    const Job& job = *lanes_[s]->job;
    const StreamState& state = *job.state;
    const float* o = logits_.row(s);
    const bool finite = o[0] - o[0] == 0.0f && o[1] - o[1] == 0.0f;
    if (finite && job.forced_values != nullptr) return 0.0f;  // a beta is not drawn for nothing
    if (finite)
      return draw_real(head, o, 1.0 / state.inv_temperature, state.greedy, me.local->words[s][0]);
    report_failure(me, s, step);
    return 0.0f;
  }

  // Mixture of logistics: logits, means, log-scales of n/3 components each.
  float choose_mixture(const Member& me, size_t s, int step) {
    const int n_mix = plan_.request.config.n_classes / 3;
    const StreamState& state = *lanes_[s]->job->state;
    const float* o = logits_.row(s);
    float mixture[64];
    for (int k = 0; k < round_up(n_mix, 16); ++k) mixture[k] = k < n_mix ? o[k] : -1e30f;
    const int k = draw(me, s, mixture, n_mix, me.local->words[s][0]);
    bool finite = k >= 0;
    for (int j = n_mix; j < 3 * n_mix; ++j) finite = finite && o[j] - o[j] == 0.0f;
    if (!finite) {
      report_failure(me, s, step);
      return 0.0f;
    }
    const float mean = o[n_mix + k], log_scale = o[2 * n_mix + k];
    if (state.greedy) return std::clamp(mean, -1.0f, 1.0f);
    return draw_logistic(mean, log_scale, 1.0f / state.inv_temperature, me.local->words[s][1]);
  }

  RecurrentSums recurrent_[2];  // of each GRU
  Rows<float> gru2_input_;      // [streams][3H] W_ih2 v
  Rows<float> u_, v_, w_;       // [streams][H]
  Rows<float> p_, q_;           // [streams][fc_size]
  Rows<float> logits_;          // [streams][bands n_classes]
};

}  // namespace

std::unique_ptr<Stepper> make_residual_stepper(const Plan& plan, const KernelTable& kernels,
                                               const float* upsample_kernel) {
  return std::make_unique<ResidualStepper>(plan, kernels, upsample_kernel);
}

}  // namespace wavernn_fast::cpu
