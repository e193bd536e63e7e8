// A sample of the dual core: R h for all units; gates of the coarse half; O1, O2, draw c;
// gates of the fine half with c; O3, O4, draw f. Six meetings of the team, or four where the output
// layers and the recurrent product of the next sample overlap.
#include "plan/dual.h"

#include <cstring>
#include <tuple>

#include "cpu/stepper.h"

namespace wavernn_fast::cpu {
namespace {

using namespace wavernn_fast::dual;

class DualStepper final : public Stepper {
 public:
  using Stepper::Stepper;

 private:
  int hidden_arrays() const override { return 1; }

  void resize(size_t streams) override {
    const ModelConfig& c = plan_.request.config;
    for (RecurrentSums& sums : recurrent_) resize_sums(sums, streams, kGru);
    relu_.resize(streams, c.fc_size);
    for (Rows<float>& rows : logits_) rows.resize(streams, c.n_classes);
  }

  void sample(const Member& me, int step, bool is_last) override {
    Rows<float>& old = hidden_[0][step & 1];
    Rows<float>& now = hidden_[0][~step & 1];
    prepare_sample(me, step);
    if (plan_.overlapped && me.members > 1) return overlapped_sample(me, step, is_last, old, now);
    multiply_state(me, kGru, old, recurrent_[0]);
    for (int half = 0; half < 2; ++half) {
      gates(me, half, recurrent_[0], old, now);
      meet(me);
      outputs(me, half, now);
      meet(me);
      choose(me, half, step);
    }
  }

  // As soon as a half of the new state is there, its columns of R are multiplied for the next
  // sample, while member 0 runs the output layers of that half and draws, alone. The sums of this
  // sample are still read meanwhile: there are two buffers.
  void overlapped_sample(const Member& me, int step, bool is_last, Rows<float>& old,
                         Rows<float>& now) {
    RecurrentSums& sums = recurrent_[step & 1];
    if (step == 0) {
      multiply_state(me, kGru, old, sums);
      meet(me);
    }
    for (int half = 0; half < 2; ++half) {
      gates(me, half, sums, old, now);
      open_share(me, half, kGru, half);
      meet(me);
      if (me.index == 0) {
        outputs(alone(me), half, now);
        choose(alone(me), half, step);
      }
      if (!is_last) multiply_state(me, kGru, now, recurrent_[~step & 1], half, half);
      meet(me);
    }
  }

  // Units of one half. The coarse half sees c and f of the last sample, the fine half c as well.
  void gates(const Member& me, int half, RecurrentSums& recurrent, Rows<float>& old,
             Rows<float>& now) {
    GruArgs args{};
    args.hidden_size = plan_.request.config.hidden_size;
    args.base = plan_.vectors[kInputBias].data();
    args.n_scalars = 2 + half;
    std::tie(args.first_block, args.last_block) = unit_blocks(me, half);
    for (int i = 0; i < 3; ++i) args.scalar_weights[i] = plan_.vectors[kLastCoarse + i].data();
    for (size_t s = 0; s < streams(); ++s) {
      args.recurrent = recurrent.sums.row(s);
      args.recurrent_rest = recurrent.rest(s);
      args.conditioning = me.local->conditioning[s];
      args.h_old = old.row(s);
      args.h_new = now.row(s);
      const float* feedback = &me.drawn->feedback[kMostBands * s];
      const float* last = half == 0 ? feedback : &me.drawn->last[2 * s];
      args.scalars[0] = last[0];
      args.scalars[1] = last[1];
      args.scalars[2] = feedback[0];
      gru(args);
    }
    done(me, kGates);
  }

  // logits = O2 relu(O1 h_half).
  void outputs(const Member& me, int half, Rows<float>& now) {
    const ModelConfig& c = plan_.request.config;
    const int fc1 = half == 0 ? kCoarseFc1 : kFineFc1, fc2 = half == 0 ? kCoarseFc2 : kFineFc2;
    matmul(me, {fc1, now.row(0) + half * c.half(), now.width, true, relu_.row(0), relu_.width});
    const auto [first, end] = rows_of(me, fc1);
    for (size_t s = 0; s < streams(); ++s) kernels_.relu(relu_.row(s), nullptr, first, end);
    done(me, kRelu);
    meet(me);
    Rows<float>& logits = logits_[half];
    matmul(me, {fc2, relu_.row(0), relu_.width, false, logits.row(0), logits.width});
  }

  void choose(const Member& me, int half, int step) {
    for (size_t s = 0; s < streams(); ++s) {
      const Lane& lane = *lanes_[s];
      const int64_t index = lane.done + step;
      const float* logits = logits_[half].row(s);
      float* feedback = &me.local->feedback[kMostBands * s];
      if (half == 0) std::memcpy(&me.local->last[2 * s], feedback, 8);
      int k = draw(me, s, logits, 256, me.local->words[s][half]);
      if (k < 0) {
        report_failure(me, s, step);
        k = 128;
      }
      if (lane.job->forced_labels != nullptr)
        k = half == 0 ? lane.job->forced_labels[index] >> 8 : lane.job->forced_labels[index] & 255;
      feedback[half] = scale_half(k);
      if (me.index != 0) continue;
      int32_t& label = lane.job->labels[index];
      label = half == 0 ? k << 8 : label | k;
      if (lane.job->logits != nullptr)
        std::memcpy(lane.job->logits + index * 512 + half * 256, logits, 256 * sizeof(float));
    }
    done(me, kDraw);
  }

  RecurrentSums recurrent_[2];  // of this and the next sample
  Rows<float> relu_;            // [streams][fc_size]
  Rows<float> logits_[2];       // [streams][256], coarse and fine
};

}  // namespace

std::unique_ptr<Stepper> make_dual_stepper(const Plan& plan, const KernelTable& kernels,
                                           const float* upsample_kernel) {
  return std::make_unique<DualStepper>(plan, kernels, upsample_kernel);
}

}  // namespace wavernn_fast::cpu
