// The GRU of many streams of the embedded core. A block has the gates of its own units for all
// streams of the team. What the last label adds to them is row k of a table, W_label e(k) + b, of
// which a block reads the columns of its units.
#pragma once

#include "cuda/kernels/many_units.cuh"
#include "cuda/kernels/residual_gates.cuh"

namespace wavernn_fast::gpu {

enum EmbeddedMessage : int { kMessageHidden };
enum EmbeddedUnitMatrix : int { kHiddenOfLabels };  // R

// R times h, which stands as activations, for the next step. All conditioning is held for a frame.
WF_INLINE void hidden_ahead(const Team& t, Wanted wanted) {
  const int taken = kCluster > 1 ? -1 : kManyUnitsTakenP;  // there it is before p is pushed
  product_ahead(
      t, {kHiddenOfLabels, 0, 0, 3, kManyUnitsSumsH1, taken}, wanted,
      [](const KernelArgs& args, Cursor at, int kind, int unit) {
        return held(args, at, kind * kHidden + unit);
      },
      [&](int kind, int unit, int s) { return unit_pre(t.shared, kind, unit, s); });
}

// Two units of one stream, and what their row of the table has for them.
struct LabelledPair {
  int unit, s;
  Float2 reset, update, candidate;
};
WF_INLINE LabelledPair labelled_pair(const float* table, int i, float* shared) {
  const int s = i % kStreams, unit = i / kStreams * 2;
  const int label = round_to_int(*input_of(shared, 0, s));
  const float* row = table + static_cast<long long>(label) * 3 * kHidden + first_unit() + unit;
  return {unit, s, load_constant2(row), load_constant2(row + kHidden),
          load_constant2(row + 2 * kHidden)};
}

WF_INLINE float label_unit(float* shared, int unit, int s, float reset, float update,
                           float candidate) {
  const auto pre = [&](int kind) { return *unit_pre(shared, kind, unit, s); };
  float* hidden = hidden_of(shared, 0, unit, s);
  return *hidden = next_state(add(pre(0), reset), add(pre(1), update), pre(kInner),
                              add(pre(kOuter), candidate), *hidden);
}

// The new state, two units of one stream a thread.
WF_INLINE void label_gates(const Team& t) {
  const float* table = static_cast<const float*>(t.launch.weights) + kTableAt;
  WF_ROLLED
  for (int i = thread_index(); i < own_units() / 2 * kStreams; i += kThreads) {
    if (first_unit() + i / kStreams * 2 >= kHidden) continue;
    const LabelledPair p = labelled_pair(table, i, t.shared);
    const float even = label_unit(t.shared, p.unit, p.s, p.reset.x, p.update.x, p.candidate.x);
    const float odd = label_unit(t.shared, p.unit + 1, p.s, p.reset.y, p.update.y, p.candidate.y);
    send_units(t, kMessageHidden, p.s, p.unit, even, odd);
  }
}

}  // namespace wavernn_fast::gpu
