// Plan M: many streams, 8 for the price of one. A team of kBlocks blocks runs kStreams of them side
// by side in its slots; teams know nothing of each other.
//
// A tile of weights is multiplied with 8 streams by one instruction (many_product.cuh), and stays
// where it is, in registers or in shared memory, for the whole launch. A block has some units with
// all their gates, and some rows of each output layer. Six messages a sample go from block to
// block: both halves of the state, of y and of the logits; seven and eight are the classes, where
// streams are so many that each is drawn by one block only. R times the state is multiplied while
// the blocks wait for y. many_exchange.cuh has the messages through L2, many_cluster.cuh those of a
// team that is a cluster.
#pragma once

#include "cuda/kernels/many_gates.cuh"
#include "cuda/kernels/many_team.cuh"
#include "cuda/kernels/stage_draw.cuh"

namespace wavernn_fast::gpu {

// --- messages of a half --------------------------------------------------------------------------

WF_INLINE Message hidden_message(int side) {
  return {4 * side, hidden_words(side), kHalfTiles, kUnitTiles, 0};
}
WF_INLINE Message y_message(int side) {
  return {4 * side + 1, y_pair_words(side), kFcTiles, kFc1Tiles, 1};
}
WF_INLINE int logits_message(int side) { return 4 * side + 2; }
WF_INLINE int classes_message(int side) { return 4 * side + 3; }

// --- gates and output layers ---------------------------------------------------------------------

// Two units of one stream a thread.
WF_INLINE void many_gates(Team& t, int side) {
  WF_ROLLED
  for (int i = thread_index(); i < own_units() / 2 * kStreams; i += kThreads) {
    const int s = i % kStreams, unit = i / kStreams * 2;
    if (first_unit() + unit >= kHalf) continue;
    const float a = update_unit(side, unit, s, t.shared);
    const float b = update_unit(side, unit + 1, s, t.shared);
    send_pair(t.exchange, hidden_message(side), s / streams_of_tile(), (first_unit() + unit) / 2,
              s % streams_of_tile(), a, b, t.shared);
  }
  stage_done(t.clock, kClockCoarseGates + side * kStagesOfHalf);
}

// Tiles of O1, O2, O3, O4 of this block: in L2 where they are packed, in shared memory those that
// are kept there; and the biases of their rows.
WF_INLINE int layer_place(int layer) { return layer % 2 == 0 ? kFc1Place : kFineFc2Place; }
WF_INLINE int layer_size(int layer) {  // words
  return (layer % 2 == 0 ? kFc1Tiles * kHalfTiles : kFc2Tiles * kFcTiles) * 32 * kTileWords;
}
WF_INLINE const unsigned* packed_layer(const KernelArgs& launch, int layer) {
  const int at = layer == 0   ? kCoarseFc1At
                 : layer == 1 ? kCoarseFc2At
                 : layer == 2 ? kFineFc1At
                              : kFineFc2At;
  return static_cast<const unsigned*>(launch.weights) + at + rank_in_team() * layer_size(layer);
}
WF_INLINE unsigned* kept_layer(float* shared, int layer) {
  int before = 0;
  for (int i = 0; i < layer; ++i) before += layer_place(i) == kInShared ? layer_size(i) : 0;
  return reinterpret_cast<unsigned*>(shared + kSharedWeights) + before;
}
WF_INLINE float* layer_biases(float* shared, int layer) {
  const int fc1 = 16 * kFc1Tiles, fc2 = 16 * kFc2Tiles;
  return shared + kSharedBiases + layer / 2 * (fc1 + fc2) + layer % 2 * fc1;
}

WF_INLINE void run_layer(const Team& t, int layer, int rows, int columns) {
  const int place = layer_place(layer);
  const unsigned* weights =
      place == kInShared ? kept_layer(t.shared, layer) : packed_layer(t.launch, layer);
  multiply_layer(weights, place, rows, columns, layer % 2, t.shared);
}

WF_INLINE void hand_on_y(const Team& t, int side) {
  const float* biases = layer_biases(t.shared, 2 * side);
  WF_ROLLED
  for (int i = thread_index(); i < 8 * kFc1Tiles * kStreams; i += kThreads) {
    const int s = i % kStreams, row = i / kStreams * 2, m = row / 16;
    const int global = rank_in_team() * 16 * kFc1Tiles + row;
    if (global >= 16 * kFcTiles) continue;
    const int tile = s / streams_of_tile(), column = s % streams_of_tile();
    const int place = tile * kFc1Tiles + m, stride = kStreamTiles * kFc1Tiles;
    WF_REGISTERS(float, y, 2);
    WF_UNROLL
    for (int e = 0; e < 2; ++e)
      y[e] = largest(
          add(total(t.shared, place, stride, kWarps, row % 16 + e, column), biases[row + e]), 0.0f);
    send_pair(t.exchange, y_message(side), tile, global / 2, column, y[0], y[1], t.shared);
  }
}

// Logits of a stream in a block of a cluster that draws for it.
WF_INLINE float* logits_here(float* shared, int s) {
  return shared + kSharedLogits + 256 * drawn_place(s);
}

// In a cluster a thread has four neighbouring rows, which travel together.
WF_INLINE void hand_on_logits(const Team& t, int side) {
  const float* biases = layer_biases(t.shared, 2 * side + 1);
  const int count = kCluster > 1 ? 4 : 1;
  WF_ROLLED
  for (int i = thread_index(); i < 16 * kFc2Tiles / count * kStreams; i += kThreads) {
    const int s = i % kStreams, row = i / kStreams * count, k = rank_in_team() * kFc2Rows + row;
    if (row >= kFc2Rows || k >= 256) continue;
    const int tile = s / streams_of_tile(), column = s % streams_of_tile();
    const Slot& slot = slot_of(t.shared, s);
    const KernelArgs& args = stream_args(t.shared, s);
    WF_REGISTERS(float, given, 4);
    WF_UNROLL
    for (int e = 0; e < count; ++e) {
      const float sum = total(t.shared, tile * kFc2Tiles + row / 16, kStreamTiles * kFc2Tiles,
                              kWarps, row % 16 + e, column);
      const int bits = bits_of_float(add(sum, biases[row + e]));
      given[e] = float_of_bits(bits & ~1);
      if (kFull && slot.active && args.logits != nullptr)
        args.logits[static_cast<long long>(slot.step) * 512 + side * 256 + k + e] = given[e];
    }
    if (kCluster > 1)
      push_logits(logits_message(side), logits_here(t.shared, s) + stream_logit_place(k), s, given,
                  t.shared);
    else
      send(t.exchange, stream_logits(side, s) + stream_logit_place(k),
           static_cast<unsigned>(bits_of_float(given[0])));
  }
}

// --- draws ---------------------------------------------------------------------------------------

// Of classes 8 lane + 0..7, once they are there.
WF_INLINE void take_logits(const Team& t, int side, int s, float* l) {
  if (kCluster > 1) {
    const float* from = logits_here(t.shared, s) + 4 * lane_index();
    load4(from, l);
    load4(from + 128, l + 4);
    return;
  }
  WF_REGISTERS(unsigned, bits, 8);
  const int places[2] = {stream_logits(side, s) + 4 * lane_index(),
                         stream_logits(side, s) + 4 * lane_index() + 128};
  receive(t.exchange, places, 2, bits);
  WF_UNROLL
  for (int e = 0; e < 8; ++e) l[e] = float_of_bits(static_cast<int>(bits[e]));
}

// The class of a stream that this block draws for.
WF_INLINE void keep_class(const Team& t, int side, int s, int k) {
  int* place = class_of(t.shared, side, s);
  if (kDrawApart && kCluster > 1) {
    push_to_all(classes_message(side), reinterpret_cast<float*>(place), float_of_bits(k), t.shared);
    return;
  }
  *place = k;
  if (kDrawApart) send(t.exchange, stream_classes(side, s), 2 * static_cast<unsigned>(k));
}

// By one warp, for one stream. `speaks`: this block reports a logit that is not finite.
WF_INLINE void draw_stream(const Team& t, int side, int s, bool speaks) {
  const Slot& slot = slot_of(t.shared, s);
  const KernelArgs& args = stream_args(t.shared, s);
  WF_REGISTERS(float, l, 8);
  const unsigned word = random_word(args, side, slot.step, s, t.shared);
  take_logits(t, side, s, l);
  float top = l[0], probe = 0.0f;
  WF_UNROLL
  for (int e = 0; e < 8; ++e) {
    top = largest(l[e], top);
    probe = fma(l[e], 0.0f, probe);
  }
  top = warp_max(top);
  int k;
  if (warp_ballot(!(probe == 0.0f)) != 0) {
    if (speaks && lane_index() == 0 && args.status->failed_step < 0)
      args.status->failed_step = static_cast<int>(slot.step);
    k = lane_index() == 0 ? forced_class(args, side, slot.step, 128) : -1;
  } else if (kFull && args.forced != nullptr) {
    k = lane_index() == 0 ? forced_class(args, side, slot.step, 0) : -1;
  } else {
    k = kFull && args.greedy ? first_largest(l, top) : draw_class(args, l, top, word);
  }
  if (k >= 0) keep_class(t, side, s, k);
}

// Classes from the blocks that have drawn them.
WF_INLINE void take_classes(const Team& t, int side) {
  if (kCluster > 1) return await(t.exchange, classes_message(side), 4 * kStreams, t.shared);
  WF_ROLLED
  for (int i = thread_index(); i < kStreams / 4; i += kThreads) {
    WF_REGISTERS(unsigned, classes, 4);
    const int place = stream_classes(side, 4 * i);
    receive(t.exchange, &place, 1, classes);
    WF_UNROLL
    for (int e = 0; e < 4; ++e)
      *class_of(t.shared, side, 4 * i + e) = static_cast<int>(classes[e] / 2);
  }
}

WF_INLINE void many_draws(const Team& t, int side) {
  const int step = kDrawApart ? kBlocks * kWarps : kWarps;
  const int first = kDrawApart ? warp_index() * kBlocks + rank_in_team() : warp_index();
  // By all threads, also those that draw nothing: the next logits may come when these are all here.
  if (kCluster > 1) await(t.exchange, logits_message(side), 4 * 256 * drawn_here(), t.shared);
  WF_ROLLED
  for (int s = first; s < kStreams; s += step) {
    if (slot_of(t.shared, s).active)
      draw_stream(t, side, s, kDrawApart || rank_in_team() == 0);
    else if (kDrawApart && lane_index() == 0)
      keep_class(t, side, s, 0);
  }
  if (kDrawApart) take_classes(t, side);
}

// --- a sample ------------------------------------------------------------------------------------

WF_INLINE void many_half(Team& t, int side) {
  const int stage = side * kStagesOfHalf;
  many_gates(t, side);
  sync_to_push(kManyHidden + side);
  push_message(hidden_message(side), t.shared);
  take_message(t.exchange, hidden_message(side), t.shared);
  sync_taken(kManyHidden + side);
  run_layer(t, 2 * side, kFc1Tiles, kHalfTiles);
  block_sync(kManySumsY + side);
  hand_on_y(t, side);
  block_sync(kManyTakenY + side);
  push_message(y_message(side), t.shared);
  recurrent_product(t.gru, side, kNextStep, t.shared);
  stage_done(t.clock, kClockCoarseY + stage);
  take_message(t.exchange, y_message(side), t.shared);
  block_sync(kManyY + side);
  run_layer(t, 2 * side + 1, kFc2Tiles, kFcTiles);
  block_sync(kManySumsLogits + side);
  hand_on_logits(t, side);
  stage_done(t.clock, kClockCoarseLogits + stage);
  many_draws(t, side);
  block_sync(kManyDrawn + side);
  stage_done(t.clock, kClockCoarseDraw + stage);
}

// A thread a slot: what its stream drew, and on to its next step.
WF_INLINE void advance(const Team& t) {
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads) {
    Slot& slot = slot_of(t.shared, s);
    slot.changes = 0;
    if (!slot.active) continue;
    const KernelArgs& args = stream_args(t.shared, s);
    const int coarse = *class_of(t.shared, 0, s), fine = *class_of(t.shared, 1, s);
    if (rank_in_team() == 0) args.labels[slot.step] = 256 * coarse + fine;
    *input_of(t.shared, 0, s) = scaled(coarse);
    *input_of(t.shared, 1, s) = scaled(fine);
    slot.at = next(args, slot.at);
    if (++slot.step < args.steps) continue;
    slot.changes = 1;
    *changed_flag(t.shared) = t.step + 1;
  }
  if (thread_index() == 0) *many_leave_flag(t.shared, t.step) = *t.exchange.poller.stop;
  block_sync(kManyAdvanced);
}

// --- streams that end and begin ------------------------------------------------------------------

WF_INLINE void store_states(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < 2 * own_units() * kStreams; i += kThreads) {
    const int s = i % kStreams, unit = i / kStreams % own_units(),
              side = i / kStreams / own_units();
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.active || !slot.changes || first_unit() + unit >= kHalf) continue;
    stream_args(t.shared, s).state[side * kHalf + first_unit() + unit] =
        *hidden_of(t.shared, side, unit, s);
  }
  if (rank_in_team() != 0) return;
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads) {
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.active || !slot.changes) continue;
    const KernelArgs& args = stream_args(t.shared, s);
    for (int side = 0; side < 2; ++side) args.state[kHidden + side] = *input_of(t.shared, side, s);
    args.status->steps_done = slot.step;
  }
}

WF_INLINE void load_states(const Team& t) {
  WF_ROLLED
  for (int i = thread_index(); i < 2 * own_units() * kStreams; i += kThreads) {
    const int s = i % kStreams, unit = i / kStreams % own_units(),
              side = i / kStreams / own_units();
    const Slot& slot = slot_of(t.shared, s);
    if (!slot.changes) continue;
    const bool there = slot.active && first_unit() + unit < kHalf;
    *hidden_of(t.shared, side, unit, s) =
        there ? stream_args(t.shared, s).state[side * kHalf + first_unit() + unit] : 0.0f;
  }
}

// The next stream of every slot whose stream has ended: its state, and R times its state. The same
// for the first of all slots.
WF_INLINE void begin_streams(const Team& t) {
  begin_in_slots(t);
  block_sync(kManyBegun);
  load_states(t);
  for (int side = 0; side < 2; ++side) {
    load_columns(t, side * kHalf, 8 * kHalfTiles);
    block_sync(kManyLoaded + side);
    if (side == 0)
      recurrent_product(t.gru, 0, kChanging, t.shared);
    else
      recurrent_product(t.gru, 1, kChanging, t.shared);
  }
  block_sync(kManyReady);
}

// The streams that this step was the last of.
WF_INLINE void end_streams(const Team& t) {
  store_states(t);
  block_sync(kManyStored);
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads)
    if (slot_of(t.shared, s).changes && slot_of(t.shared, s).active) ++slot_of(t.shared, s).stream;
}

// --- a launch ------------------------------------------------------------------------------------

WF_INLINE void load_layers(const KernelArgs& launch, float* shared) {
  for (int layer = 0; layer < 4; ++layer) {
    if (layer_place(layer) != kInShared) continue;
    WF_ROLLED
    for (int i = kTileWords * thread_index(); i < layer_size(layer); i += kTileWords * kThreads) {
      unsigned tile[kTileWords];
      load_tile(packed_layer(launch, layer) + i, tile);
      keep_tile(kept_layer(shared, layer) + i, tile);
    }
  }
}

WF_INLINE void load_biases(const KernelArgs& launch, float* shared) {
  const float* packed = static_cast<const float*>(launch.weights);
  for (int layer = 0; layer < 4; ++layer) {
    const int rows = 16 * (layer % 2 == 0 ? kFc1Tiles : kFc2Tiles);
    const int dealt = layer % 2 == 0 ? rows : kFc2Rows, all = layer % 2 == 0 ? kFc : 256;
    const float* from = packed + kFcBiasAt + layer / 2 * (kFc + 256) + layer % 2 * kFc;
    WF_ROLLED
    for (int i = thread_index(); i < rows; i += kThreads) {
      const int row = rank_in_team() * dealt + i;
      layer_biases(shared, layer)[i] = i < dealt && row < all ? load_constant(from + row) : 0.0f;
    }
  }
  WF_ROLLED
  for (int i = thread_index(); i < 2 * own_units(); i += kThreads) {
    const int side = i / own_units(), unit = first_unit() + i % own_units();
    shared[kSharedInnerBias + i] =
        unit < kHalf ? load_constant(packed + kInnerBiasAt + side * kHalf + unit) : 0.0f;
  }
  WF_ROLLED
  for (int i = thread_index(); i < 15 * own_units(); i += kThreads) {
    const int unit = first_unit() + i % own_units(), row = i / own_units();
    shared[kSharedSample + i] =
        unit < kHalf ? load_constant(packed + kSampleAt + row * kHalf + unit) : 0.0f;
  }
}

WF_INLINE void run_many(const KernelArgs& launch) {
  float* shared = shared_memory();
  WF_REGISTERS(unsigned, kept, kGruKept * 3 * kUnitTiles * kTileWords);
  const RecurrentTiles gru = load_recurrent(launch, kept, shared);
  load_layers(launch, shared);
  load_biases(launch, shared);
  load_slots(launch, shared);
  start_team(shared);
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  Team t{launch, {{launch, stop}, kFirstRound}, shared, gru, {}, 0};
  t.clock.sums = kClocks && block_index() == 0 && thread_index() == 0 ? launch.clocks : nullptr;
  const unsigned steps = launch.queues[slots_of_launch(launch) + 1 + team_index()];
  if (kClocks) t.clock.last = clock_ticks();
  bool begins = true;
  for (; t.step < steps; ++t.step, ++t.exchange.round) {
    if (begins) begin_streams(t);
    many_half(t, 0);
    many_half(t, 1);
    advance(t);
    if (*many_leave_flag(shared, t.step) != 0) break;
    begins = *changed_flag(shared) == t.step + 1;
    if (begins) end_streams(t);
  }
  end_team();
}

}  // namespace wavernn_fast::gpu
