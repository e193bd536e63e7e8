// Output layers of many streams of the residual and the embedded core, and what is drawn from them.
#pragma once

#include "cuda/kernels/many_units.cuh"
#include "cuda/kernels/residual_draw.cuh"

namespace wavernn_fast::gpu {

// --- tiles and biases ----------------------------------------------------------------------------

// Layers are fc1 (0), fc2 and fc3, or of the embedded core fc1 and fc2; the last one gives logits.
WF_INLINE int layers() { return kResidual ? 3 : 2; }
WF_INLINE bool gives_logits(int layer) { return layer == layers() - 1; }

// Tiles of a layer of this block: in L2 where they are packed, in shared memory those that are kept
// there.
WF_INLINE int dense_place(int layer) {
  return layer == 0 ? kFc1Place : layer == 1 ? kFc2Place : kFc3Place;
}
WF_INLINE int dense_rows(int layer) {
  return gives_logits(layer) ? kFc2Tiles : kFc1Tiles;
}  // tiles
WF_INLINE int dense_columns(int layer) { return layer == 0 ? kHiddenTiles : kFcTiles; }
WF_INLINE int dense_words(int layer) {
  return dense_rows(layer) * dense_columns(layer) * 32 * kTileWords;
}
WF_INLINE const unsigned* packed_dense(const KernelArgs& launch, int layer) {
  const int at = layer == 0 ? kFc1At : layer == 1 ? kFc2At : kFc3At;
  const int part = gives_logits(layer) && kFc3Whole ? 0 : rank_in_team();
  return static_cast<const unsigned*>(launch.weights) + at + part * dense_words(layer);
}
WF_INLINE unsigned* kept_dense(float* shared, int layer) {
  int before = 0;
  for (int i = 0; i < layer; ++i) before += dense_place(i) == kInShared ? dense_words(i) : 0;
  return reinterpret_cast<unsigned*>(shared + kSharedWeights) + before;
}

// Of what a layer is given: fc1 w or h, fc2 p, fc3 q.
WF_INLINE int layer_area(int layer) { return kResidual ? (layer + 1) % 2 : layer; }

WF_INLINE void multiply_dense(const Team& t, int layer) {
  const int place = dense_place(layer);
  const unsigned* weights =
      place == kInShared ? kept_dense(t.shared, layer) : packed_dense(t.launch, layer);
  multiply_layer(weights, place, dense_rows(layer), dense_columns(layer), layer_area(layer),
                 t.shared);
}

// Of rows of the layer that gives logits; those of other layers are before them.
WF_INLINE float* choice_biases(float* shared) {
  const int rows = 16 * kFc1Tiles;
  return shared + kSharedBiases + (kResidual ? 2 * rows * kStreams : rows);
}

// --- what is handed on ---------------------------------------------------------------------------

// Words of a layer that gives no logits.
WF_INLINE int layer_words(int layer) {
  return state_words(state_messages()) + layer * kStreamTiles * 64 * kFcTiles;
}
WF_INLINE Message layer_message(int layer) {
  return {state_messages() + layer, layer_words(layer), kFcTiles, kFc1Tiles, layer_area(layer + 1)};
}
WF_INLINE int choices_message() { return state_messages() + layers() - 1; }
WF_INLINE int outcomes_message() { return choices_message() + 1; }
// Logits of a stream, unless every block has all rows of fc3; its outcomes [band], in two halves.
WF_INLINE int stream_choices(int s) { return layer_words(layers() - 1) + s * kChoiceWords; }
WF_INLINE int stream_outcome(int s) {
  return stream_choices(kFc3Whole ? 0 : kStreams) + 2 * kBands * s;
}

// relu of two rows of one stream a thread. bias(row, s): of a row of this block; used(row, s): that
// of it and the next is used.
template <class Bias, class Used>
WF_INLINE void hand_on_dense(const Team& t, int layer, const Bias& bias, const Used& used) {
  WF_ROLLED
  for (int i = thread_index(); i < 8 * kFc1Tiles * kStreams; i += kThreads) {
    const int s = i % kStreams, row = i / kStreams * 2, m = row / 16;
    const int global = rank_in_team() * 16 * kFc1Tiles + row;
    if (global >= 16 * kFcTiles) continue;
    const int tile = s / streams_of_tile(), column = s % streams_of_tile();
    const int place = tile * kFc1Tiles + m, stride = kStreamTiles * kFc1Tiles;
    WF_REGISTERS(float, y, 2);
    WF_UNROLL
    for (int e = 0; e < 2; ++e) {
      const float sum = total(t.shared, place, stride, kWarps, row % 16 + e, column);
      y[e] = largest(add(sum, bias(row + e, s)), 0.0f);
    }
    send_pair(t.exchange, layer_message(layer), tile, global / 2, column, y[0], y[1], t.shared);
    used(row, s);
  }
}

// Where a warp has the logits of the stream that it draws for: with all rows of fc3 in every block
// a place for each stream, else one for each warp, among the activations, which are not wanted
// then. In a cluster, where peers write into them, they are apart, a place for each stream that the
// block draws for.
WF_INLINE float* drawn_logits(float* shared, int s) {
  const int place = kFc3Whole ? s : kCluster > 1 ? drawn_place(s) : warp_index();
  return shared + kSharedLogits + place * kChoiceWords;
}

// The same of rows that fc3 has not, which stand for the places behind each band's choices.
WF_INLINE int any_choice_place(int row) {
  if (kBands == 1 || row < kClasses) return choice_place(row);
  const int missing = kBandWords - kChoices, i = row - kClasses;
  return place_of_choice(i / missing, kChoices + i % missing);
}

// Dealt out are all places of logits: those that no row of fc3 has get what they are masked by.
WF_INLINE void hand_on_choices(const Team& t) {
  const int rows = kFc3Whole ? kClasses : kFc2Rows, all = kFc3Whole ? kClasses : kChoiceWords;
  const int outputs = kMixtures > 0 ? 3 * kMixtures : kBands * kChoices;
  WF_ROLLED
  for (int i = thread_index(); i < 16 * kFc2Tiles * kStreams; i += kThreads) {
    const int s = i % kStreams, row = i / kStreams;
    const int k = (kFc3Whole ? 0 : rank_in_team() * kFc2Rows) + row;
    if (row >= rows || k >= all) continue;
    const int tile = s / streams_of_tile(), column = s % streams_of_tile();
    const float sum = total(t.shared, tile * kFc2Tiles + row / 16, kStreamTiles * kFc2Tiles, kWarps,
                            row % 16, column);
    const float logit = add(sum, choice_biases(t.shared)[row]);
    const unsigned bits = static_cast<unsigned>(bits_of_float(logit)) & ~1u;
    const float given = float_of_bits(static_cast<int>(bits));
    if (kFc3Whole)
      drawn_logits(t.shared, s)[any_choice_place(k)] = given;
    else if (kCluster > 1)
      push_logit(choices_message(), drawn_logits(t.shared, s) + any_choice_place(k), s, given,
                 t.shared);
    else
      send(t.exchange, stream_choices(s) + any_choice_place(k), bits);
    const Slot& slot = slot_of(t.shared, s);
    const KernelArgs& args = stream_args(t.shared, s);
    if (kFull && slot.active && args.logits != nullptr && k < outputs &&
        (!kFc3Whole || rank_in_team() == 0))
      args.logits[static_cast<long long>(slot.step) * outputs + k] = given;
  }
}

// --- draws ---------------------------------------------------------------------------------------

// By one warp: the logits of one stream from all blocks.
WF_INLINE void collect_stream(const Team& t, int s) {
  float* to = drawn_logits(t.shared, s);
  const int count = kChoiceWords / 4;
  warp_sync();  // it may still read those of the stream before
  WF_ROLLED
  for (int first = lane_index(); first < count; first += 128) {
    WF_REGISTERS(unsigned, got, 16);
    WF_REGISTERS(int, places, 4);
    WF_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = first + 32 * i;
      places[i] = stream_choices(s) + 4 * (at < count ? at : first);
    }
    receive(t.exchange, places, count <= 32 ? 1 : count <= 64 ? 2 : 4, got);
    WF_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = first + 32 * i;
      if (at >= count) continue;
      WF_UNROLL
      for (int e = 0; e < 2; ++e)
        store2(to + 4 * at + 2 * e, {float_of_bits(static_cast<int>(got[4 * i + 2 * e])),
                                     float_of_bits(static_cast<int>(got[4 * i + 2 * e + 1]))});
    }
  }
  warp_sync();
}

// The outcome of a stream's step, as stage_outcome of residual_draw.cuh. In two halves it travels
// whole, beside the flags.
WF_INLINE void keep_outcome(const Team& t, int s, int band, int outcome) {
  int* kept = class_of(t.shared, band, s);
  if (kDrawApart && kCluster > 1) {
    push_to_all(outcomes_message(), reinterpret_cast<float*>(kept), float_of_bits(outcome),
                t.shared);
    return;
  }
  *kept = outcome;
  if (!kDrawApart) return;
  const unsigned bits = static_cast<unsigned>(outcome);
  const int place = stream_outcome(s) + 2 * band;
  send(t.exchange, place, bits >> 16 << 1);
  send(t.exchange, place + 1, (bits & 0xffffu) << 1);
}

// By one warp, for one band of one stream, whose logits it has. `speaks`: this block reports a
// logit that is not finite.
WF_INLINE void draw_band(const Team& t, int s, int band, float* logits, bool speaks) {
  const Slot& slot = slot_of(t.shared, s);
  const KernelArgs& args = stream_args(t.shared, s);
  const unsigned first = random_word(args, band, slot.step, s, t.shared);
  const unsigned second = kMixtures > 0 ? random_word(args, 1, slot.step, s, t.shared) : 0;
  float top = -1e30f;
  WF_UNROLL
  for (int i = 0; i < kDrawPairs; ++i) {
    const Float2 l = choice_logits(logits, i);
    top = largest(largest(l.x, l.y), top);
  }
  top = warp_max(top);
  const bool failed = not_finite(logits), forced = kFull && args.forced != nullptr;
  if (failed && speaks && lane_index() == 0) report_band(args, slot.step, band);
  if (failed || forced) {
    if (lane_index() != 0) return;
    keep_outcome(t, s, band, forced ? args.forced[slot.step * kBands + band] : silence());
    return;
  }
  if (kReal != kNotReal) {
    const float value = draw_real(args, logits, first);
    if (lane_index() == 0) keep_outcome(t, s, band, bits_of_float(value));
    return;
  }
  // Sums of weights take the places of the logits, unless means and scales are wanted yet.
  float* weighed =
      kMixtures > 0 ? t.shared + kSharedWeighed + 64 * kDrawPairs * warp_index() : logits;
  const int k = kFull && args.greedy ? largest_choice(logits, top)
                                     : draw_choice(args, logits, top, first, weighed);
  if (k < 0) return;
  const bool mixes = kMixtures > 0;
  keep_outcome(t, s, band, mixes ? bits_of_float(value_of_mixture(args, logits, k, second)) : k);
}

// By one warp, for one stream: its bands one after the other.
WF_INLINE void draw_outcome(const Team& t, int s, bool speaks) {
  if (!kFc3Whole && kCluster == 1) collect_stream(t, s);
  WF_ROLLED
  for (int band = 0; band < kBands; ++band)
    draw_band(t, s, band, drawn_logits(t.shared, s) + band * kBandWords, speaks);
}

// Outcomes from the blocks that have drawn them.
WF_INLINE void take_outcomes(const Team& t) {
  if (kCluster > 1) return await(t.exchange, outcomes_message(), 4 * kBands * kStreams, t.shared);
  WF_ROLLED
  for (int i = thread_index(); i < kStreams * kBands / 2; i += kThreads) {
    WF_REGISTERS(unsigned, halves, 4);
    const int place = stream_outcome(0) + 4 * i;
    receive(t.exchange, &place, 1, halves);
    WF_UNROLL
    for (int e = 0; e < 2; ++e)
      *class_of(t.shared, (2 * i + e) % kBands, (2 * i + e) / kBands) =
          static_cast<int>(halves[2 * e] >> 1 << 16 | halves[2 * e + 1] >> 1);
  }
}

WF_INLINE void draw_outcomes(const Team& t) {
  const int step = kDrawApart ? kBlocks * kWarps : kWarps;
  const int first = kDrawApart ? warp_index() * kBlocks + rank_in_team() : warp_index();
  // By all threads, also those that draw nothing: the next logits may come when these are all here.
  if (kCluster > 1 && !kFc3Whole)
    await(t.exchange, choices_message(), 4 * kChoiceWords * drawn_here(), t.shared);
  WF_ROLLED
  for (int s = first; s < kStreams; s += step) {
    if (slot_of(t.shared, s).active)
      draw_outcome(t, s, kDrawApart || rank_in_team() == 0);
    else if (lane_index() == 0)
      for (int band = 0; band < kBands; ++band) keep_outcome(t, s, band, 0);
  }
  if (kDrawApart) take_outcomes(t);
}

}  // namespace wavernn_fast::gpu
