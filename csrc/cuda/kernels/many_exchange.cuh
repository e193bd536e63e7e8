// Messages between the blocks of a team of many streams, through L2; those of a team that is a
// cluster are in many_cluster.cuh.
//
// A message is words of 32 bits whose lowest bit says whether they are there. Data and flag are one
// word, so nothing needs a fence and nothing is cleared on the way; half the bytes of a word with a
// tag beside it (docs/decisions/0010).
//
// There are two buffers by parity of the step, and in each the flag turns over with every use:
// bit 1 of the round, which counts steps from 2 on. A launch begins with zeros.
//
// Why two buffers are enough: a block hands on the coarse half of step t + 2 only after it has read
// that of step t + 1 from all blocks, and a block hands that on only after it has read everything
// of step t. So a reader finds what it waits for or what was there two steps ago, and one bit tells
// them apart. It rests on a rule of the planner: every block owns units of each half.
//
// The lowest bit of a value is given up for the flag, always and in every launch, so that a stream
// has the same bits whatever step of a launch it is in, and in clusters too.
#pragma once

#include "cuda/kernels/many_slots.cuh"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

struct Exchange {
  Poller poller;
  unsigned round;
};

// A vector that every block has some tiles of, for all streams, and that every block wants whole as
// activations.
struct Message {
  int number;      // of those of a sample
  int word;        // where it begins, through L2
  int tiles, own;  // of 16 values: all; of a block, but that the last ones may have fewer
  int area;        // of the activations, in a cluster
};

// --- where words are -----------------------------------------------------------------------------

WF_INLINE unsigned* team_words(const Exchange& x) {
  const int buffer = 2 * team_index() + static_cast<int>(x.round & 1);
  return reinterpret_cast<unsigned*>(x.poller.args.words) +
         static_cast<long long>(buffer) * kBufferWords;
}
// Both halves of h and of y: [tile of streams][pair of columns][8]; logits [stream][256], classes
// [stream].
WF_INLINE int hidden_words(int side) { return side * kStreamTiles * 64 * kHalfTiles; }
WF_INLINE int y_pair_words(int side) {
  return hidden_words(2) + side * kStreamTiles * 64 * kFcTiles;
}
WF_INLINE int stream_logits(int side, int s) {
  return y_pair_words(2) + (side * kStreams + s) * 256;
}
WF_INLINE int stream_classes(int side, int s) { return stream_logits(2, 0) + side * kStreams + s; }

// The warp that draws reads 8 neighbouring classes a lane, four with every load.
WF_INLINE int stream_logit_place(int k) { return (k >> 2 & 1) * 128 + (k >> 3) * 4 + (k & 3); }

// --- flags ---------------------------------------------------------------------------------------

WF_INLINE unsigned flag_of(const Exchange& x) { return x.round >> 1 & 1; }

// `bits` has a lowest bit of zero.
WF_INLINE void send(const Exchange& x, int word, unsigned bits) {
  store_word(team_words(x) + word, bits | flag_of(x));
}

// Waits for four words each from `count` places, and gives them without their flags. Gives up after
// args.poll_limit looks: what is there then is undefined and *stop is set.
WF_INLINE void receive(const Exchange& x, const int* words, int count, unsigned* out) {
  const unsigned* from = team_words(x);
  const unsigned flag = flag_of(x);
  for (unsigned tries = 0;;) {
    unsigned wrong = 0;
    WF_UNROLL
    for (int i = 0; i < count; ++i) load_words4(x.poller, from + words[i], out + 4 * i);
    WF_UNROLL
    for (int i = 0; i < 4 * count; ++i) {
      out[i] ^= flag;
      wrong |= out[i];
    }
    const Word* at = reinterpret_cast<const Word*>(from + words[0]);
    if (checked((wrong & 1) == 0) || !keep_polling(x.poller, tries, at, x.round)) return;
  }
}

// --- activations ---------------------------------------------------------------------------------

// Activations in shared memory: pairs of neighbouring columns of a tile's 8 streams, each stream's
// after the other's. The length of one is 4 more than a multiple of 32, so that a warp reads from
// all banks. There is one area of them; in a cluster, where peers write into it, as many as hold
// what may come while others are read.
WF_INLINE int areas() { return kCluster == 1 ? 1 : kResidual ? 4 : 2; }
WF_INLINE int area_words() { return 8 * kStreamTiles * kColumnWords; }
WF_INLINE unsigned* activations(float* shared, int area, int tile, int column) {
  const int before = kCluster == 1 ? 0 : area * area_words();
  return reinterpret_cast<unsigned*>(shared + kSharedColumns) + before +
         (8 * tile + column) * kColumnWords;
}
// Where the states of streams that begin are multiplied: no peer writes there before it has a
// message from this block that is sent after that.
constexpr int kBeginArea = 1;

// Two values in fp16, the first to 10 bits of which the last is left for the flag.
WF_INLINE unsigned pair_word(float first, float second) {
  const unsigned bits = static_cast<unsigned>(bits_of_float(first));
  const unsigned even = (bits + 0x1fffu + (bits >> 14 & 1)) & ~0x3fffu;
  return pack_halves(float_of_bits(static_cast<int>(even)), second) & ~1u;
}
// One value in two halves: itself rounded, in the upper half of the word, and what that left out.
WF_INLINE unsigned split_word(float value) {
  const float rounded = half_value(pack_halves(value, 0.0f));
  return pack_halves(sub(value, rounded), value) & ~1u;
}

// The message of columns (2 p, 2 p + 1) of a tile's streams is 8 words: a pair each, or with kSplit
// both values of each.
WF_INLINE void keep_split(float* shared, int area, int tile, int pair, int s, unsigned first,
                          unsigned second) {
  activations(shared, area, tile, s)[pair] = first >> 16 | (second & 0xffff0000u);
  activations(shared, area, tile, s + 4)[pair] = (first & 0xffffu) | second << 16;
}
// Words 4 q to 4 q + 3 of such a message, to where the products read them.
WF_INLINE void keep_message(float* shared, int tile, int pair, int q, const unsigned* words) {
  if (kSplit) {
    keep_split(shared, 0, tile, pair, 2 * q, words[0], words[1]);
    keep_split(shared, 0, tile, pair, 2 * q + 1, words[2], words[3]);
    return;
  }
  WF_UNROLL
  for (int e = 0; e < 4; ++e) activations(shared, 0, tile, 4 * q + e)[pair] = words[e];
}
// The same values without a message.
WF_INLINE void keep_values(float* shared, int area, int tile, int pair, int s, float first,
                           float second) {
  if (kSplit)
    keep_split(shared, area, tile, pair, s, split_word(first), split_word(second));
  else
    activations(shared, area, tile, s)[pair] = pair_word(first, second);
}

// Two neighbouring values of one stream. In a cluster they stay here until push_message.
WF_INLINE void send_pair(const Exchange& x, const Message& m, int tile, int pair, int s,
                         float first, float second, float* shared) {
  const int word = m.word + (tile * 8 * m.tiles + pair) * 8;
  if (kCluster > 1) {
    keep_values(shared, m.area, tile, pair, s, first, second);
  } else if (kSplit) {
    send(x, word + 2 * s, split_word(first));
    send(x, word + 2 * s + 1, split_word(second));
  } else {
    send(x, word + s, pair_word(first, second));
  }
}

// All of a message, from all blocks.
WF_INLINE void receive_message(const Exchange& x, const Message& m, float* shared) {
  const int count = kStreamTiles * m.tiles * 16;  // four words each
  WF_ROLLED
  for (int first = thread_index(); first < count; first += 4 * kThreads) {
    WF_REGISTERS(unsigned, got, 16);
    WF_REGISTERS(int, places, 4);
    WF_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = first + i * kThreads;
      places[i] = m.word + 4 * (at < count ? at : first);
    }
    receive(x, places, count <= kThreads ? 1 : count <= 2 * kThreads ? 2 : 4, got);
    WF_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = first + i * kThreads, pair = at / 2;
      if (at < count)
        keep_message(shared, pair / (8 * m.tiles), pair % (8 * m.tiles), at % 2, got + 4 * i);
    }
  }
}

}  // namespace wavernn_fast::gpu
