// A sample of the embedded core: GRU over the gate inputs of the last label, which are a row of a
// table, and of the frame; p = relu(fc1 h); fc2 p; draw. Three meetings, or two where the output
// layers and the recurrent product of the next sample overlap.
#include "plan/embedded.h"

#include <cstring>
#include <tuple>

#include "cpu/stepper.h"

namespace wavernn_fast::cpu {
namespace {

using namespace wavernn_fast::embedded;

class EmbeddedStepper final : public Stepper {
 public:
  using Stepper::Stepper;

 private:
  int hidden_arrays() const override { return 1; }

  void resize(size_t streams) override {
    const ModelConfig& c = plan_.request.config;
    resize_sums(recurrent_, streams, kGru);
    p_.resize(streams, c.fc_size);
    logits_.resize(streams, c.n_classes + 16);
  }

  void sample(const Member& me, int step, bool is_last) override {
    const bool overlapped = plan_.overlapped && me.members > 1;
    prepare_sample(me, step);
    if (step == 0 || !overlapped) {
      recurrent(me, step & 1);
      if (overlapped) meet(me);  // its rows are not dealt as the units are
    }
    if (overlapped) open_share(me, 0, kGru, 0);
    update_units(me, step);
    meet(me);
    if (!overlapped) return outputs(me, step);
    if (me.index == 0) outputs(alone(me), step);
    if (!is_last) recurrent(me, ~step & 1, true);
    meet(me);
  }

  // For the hidden state with this parity: this member's rows, or those that it gets.
  void recurrent(const Member& me, int parity, bool shared = false) {
    multiply_state(me, kGru, hidden_[0][parity], recurrent_, -1, shared ? 0 : -1);
  }

  void product(const Member& me, int matrix, Rows<float>& x, bool is_signed, Rows<float>& y) {
    matmul(me, {matrix, x.row(0), x.width, is_signed, y.row(0), y.width});
  }

  void update_units(const Member& me, int step) {
    const int h = plan_.request.config.hidden_size;
    GruArgs args{};
    args.hidden_size = h;
    std::tie(args.first_block, args.last_block) = unit_blocks(me, 0);
    for (size_t s = 0; s < streams(); ++s) {
      const int label = int(me.drawn->feedback[kMostBands * s]);
      args.recurrent = recurrent_.sums.row(s);
      args.recurrent_rest = recurrent_.rest(s);
      args.base = plan_.vectors[kLabelGates].data() + size_t(label) * 3 * h;
      args.conditioning = me.local->conditioning[s];
      args.h_old = hidden_[0][step & 1].row(s);
      args.h_new = hidden_[0][~step & 1].row(s);
      gru(args);
    }
    done(me, kGates);
  }

  void outputs(const Member& me, int step) {
    product(me, kFc1, hidden_[0][~step & 1], true, p_);
    const auto [first, last] = rows_of(me, kFc1);
    for (size_t s = 0; s < streams(); ++s) kernels_.relu(p_.row(s), nullptr, first, last);
    done(me, kRelu);
    meet(me);
    product(me, kFc2, p_, false, logits_);
    meet(me);
    for (size_t s = 0; s < streams(); ++s) choose(me, s, step);
    done(me, kDraw);
  }

  void choose(const Member& me, size_t s, int step) {
    const int n_classes = plan_.request.config.n_classes;
    const Lane& lane = *lanes_[s];
    const int64_t index = lane.done + step;
    int k = draw(me, s, logits_.row(s), n_classes, me.local->words[s][0]);
    if (k < 0) {
      report_failure(me, s, step);
      k = n_classes / 2;
    }
    if (lane.job->forced_labels != nullptr) k = lane.job->forced_labels[index];
    me.local->feedback[kMostBands * s] = float(k);
    if (me.index != 0) return;
    lane.job->labels[index] = k;
    if (lane.job->logits != nullptr)
      std::memcpy(lane.job->logits + index * n_classes, logits_.row(s),
                  sizeof(float) * size_t(n_classes));
  }

  RecurrentSums recurrent_;
  Rows<float> p_;       // [streams][fc_size]
  Rows<float> logits_;  // [streams][n_classes]
};

}  // namespace

std::unique_ptr<Stepper> make_embedded_stepper(const Plan& plan, const KernelTable& kernels,
                                               const float* upsample_kernel) {
  return std::make_unique<EmbeddedStepper>(plan, kernels, upsample_kernel);
}

}  // namespace wavernn_fast::cpu
