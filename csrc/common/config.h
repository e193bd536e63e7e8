// Sizes of a model, mirrored from wavernn_fast.config.ModelConfig (a test compares the fields).
// Python counts samples, here are steps: of a model of several bands a step draws a sample of each,
// so its hop_length is that of Python divided by the bands.
#pragma once

#include <string>

namespace wavernn_fast {

inline constexpr int kMostBands = 4;  // the generator gives as many words a step

enum class Core { dual, residual, embedded };
enum class Head { dual_softmax, softmax, mol, gaussian, beta };
enum class Feedback { linear, mu_law };  // mu_law: labels are expanded first

struct ModelConfig {
  Core core = Core::dual;
  Head head = Head::dual_softmax;
  int hidden_size = 0;       // GRU units H; dual: first half coarse, second half fine
  int fc_size = 0;           // width F of the output hidden layers
  int n_classes = 0;         // dual: 256 a half; softmax: labels; mol: 3 * mixtures; else 2
  int hop_length = 1;        // steps per frame
  int n_mels = 0;            // mel bins; 0: unconditioned
  int aux_size = 0;          // channels of one auxiliary slice
  int upsample_left = 0;     // frames before the current one in the upsampling kernel
  int upsample_right = 0;    // frames after it
  float first_input = 0.0f;  // fed back at step 0
  int embedding_size = 0;    // embedded: values of the embedding of a label
  int first_label = 0;       // embedded: fed back at step 0
  int bands = 1;             // residual, softmax: sub-bands of which a step draws a label each
  Feedback feedback = Feedback::linear;  // residual, softmax: what is fed back of a label

  int half() const { return hidden_size / 2; }
  int taps() const { return upsample_left + 1 + upsample_right; }
  // Of a step, as are the draws: classes of band 0 first.
  int logits_size() const { return core == Core::dual ? 512 : bands * n_classes; }
  // GRUs with a state of their own.
  int hidden_arrays() const { return core == Core::residual ? 2 : 1; }
  // What a stream feeds back at step 0.
  float first_feedback() const { return core == Core::embedded ? float(first_label) : first_input; }
  int draws_per_step() const { return head == Head::dual_softmax || head == Head::mol ? 2 : bands; }
  // Whether what is drawn is a value in [-1, 1], not a class.
  bool draws_values() const { return head != Head::dual_softmax && head != Head::softmax; }
  // Frame conditioning channels: `interp` rows pass through the upsampling kernel, `hold` rows
  // are constant over a frame. docs/architecture.md has the order of the channels.
  int interp_size() const {
    if (n_mels == 0 || core == Core::embedded) return 0;
    return core == Core::dual ? 3 * hidden_size : 4 * hidden_size;
  }
  int hold_size() const {
    if (core == Core::embedded) return n_mels == 0 ? 0 : 3 * hidden_size;
    if (n_mels == 0 || aux_size == 0) return 0;
    return core == Core::dual ? 3 * hidden_size : 7 * hidden_size + 2 * fc_size;
  }
  std::string describe() const;
};

}  // namespace wavernn_fast
