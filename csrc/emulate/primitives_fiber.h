// The primitives of the kernel in the emulator; cuda/kernels/primitives_device.cuh has the same
// names for a device. Included once, by kernel_fiber.cpp, before the kernel.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"
#include "emulate/fibers.h"
#include "emulate/kernel_fiber.h"

#define WF_INLINE [[maybe_unused]] static inline
#define WF_UNROLL
#define WF_UNROLL_FOUR
#define WF_ROLLED
#define WF_REGISTERS(type, name, count) type name[(count) > 0 ? (count) : 1]

namespace wavernn_fast::gpu {

// On a device these are constants; here they are those of the launch that is running.
static Shape running_shape;
#define WF_CONSTANT(field, constant, macro) \
  [[maybe_unused]] static const int& constant = running_shape.field;
WF_SHAPE(WF_CONSTANT)
#undef WF_CONSTANT
static int kPairWords = 2;

struct Float2 {
  float x, y;
};

// --- who am I ------------------------------------------------------------------------------------

WF_INLINE int thread_index() { return emulate::machine->current().thread; }
WF_INLINE int lane_index() { return thread_index() & 31; }
WF_INLINE int warp_index() { return thread_index() >> 5; }
WF_INLINE int block_index() { return emulate::machine->current().block; }
WF_INLINE float* shared_memory() { return emulate::machine->block().shared.data(); }
WF_INLINE long long clock_ticks() { return emulate::machine->current().depth; }  // not a time

// --- arithmetic ----------------------------------------------------------------------------------

WF_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
WF_INLINE float add(float a, float b) { return a + b; }
WF_INLINE float sub(float a, float b) { return a - b; }
WF_INLINE float mul(float a, float b) { return a * b; }
WF_INLINE float largest(float a, float b) { return __builtin_fmaxf(a, b); }
WF_INLINE float smallest(float a, float b) { return __builtin_fminf(a, b); }
WF_INLINE float reciprocal(float x) { return 1.0f / x; }
WF_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
WF_INLINE int round_to_int(float x) { return emulate::to_int(x); }
WF_INLINE float to_float(int x) { return static_cast<float>(x); }
WF_INLINE float absolute(float x) { return __builtin_fabsf(x); }
WF_INLINE long long to_fixed(float x) { return emulate::to_long(x); }
WF_INLINE float of_fixed(long long x) { return static_cast<float>(x); }
WF_INLINE float float_of_bits(int x) { return __builtin_bit_cast(float, x); }
WF_INLINE int bits_of_float(float x) { return __builtin_bit_cast(int, x); }
WF_INLINE unsigned multiply_high(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
// The special-function units of a device round otherwise: only the exact kernel has equal bits.
WF_INLINE float fast_exp2(float x) { return __builtin_exp2f(x); }
WF_INLINE float fast_reciprocal(float x) { return 1.0f / x; }

WF_INLINE int hidden_value(int x) { return x; }

// --- weights -------------------------------------------------------------------------------------

// Here and not in collectives.cpp, as combine_tile: both are most of the arithmetic in fp16.
WF_INLINE float half_to_float(unsigned half) {
  const unsigned low = half & 0x7fffu;
  // Shifted, its exponent is 112 too small; subnormal numbers come right as well.
  const float magnitude = __builtin_bit_cast(float, low << 13) * 5.192296858534828e33f;
  unsigned bits = __builtin_bit_cast(unsigned, magnitude);
  if (low >= 0x7c00u) bits = low == 0x7c00u ? 0x7f800000u : 0x7fc00000u;  // infinite, NaN
  return __builtin_bit_cast(float, bits | (half & 0x8000u) << 16);
}

using Weight = Float2;
WF_INLINE Float2 widen(Weight w) { return w; }
WF_INLINE Weight load_weight(const unsigned* at) {
  if (kFp16) return {half_to_float(at[0]), half_to_float(at[0] >> 16)};
  return {__builtin_bit_cast(float, at[0]), __builtin_bit_cast(float, at[1])};
}
WF_INLINE Weight shared_weight(const unsigned* at) { return load_weight(at); }
WF_INLINE void shared_weights(const unsigned* at, Weight* out) {
  for (int i = 0; i < 4 / kPairWords; ++i) out[i] = load_weight(at + i * kPairWords);
}

constexpr int kTileWords = 4;
WF_INLINE void load_tile(const unsigned* at, unsigned* out) {
  for (int i = 0; i < kTileWords; ++i) out[i] = at[i];
}
WF_INLINE void shared_tile(const unsigned* at, unsigned* out) { load_tile(at, out); }
WF_INLINE void keep_tile(unsigned* at, const unsigned* tile) { load_tile(tile, at); }
// Sums + weights x activations, column after column. A lane has rows l / 4 and l / 4 + 8, columns
// 2 (l % 4) and the next, and 8 further: fp16 pairs.
struct Tiles {
  unsigned short halves[16 * 16 + 16 * 8];  // weights [row][column], activations [column][stream]
  float values[16 * 16 + 16 * 8];
  float sums[16][8];
};
WF_INLINE void combine_tile(emulate::Warp& w, int) {
  static Tiles tiles;  // not on the stack of a fiber; one launch at a time
  for (int l = 0; l < emulate::kLanes; ++l) {
    const emulate::TileWork& t = w.tile_in[l];
    const int g = l / 4, k = l % 4 * 2;
    for (int e = 0; e < 2; ++e) {
      for (int i = 0; i < 4; ++i)
        tiles.halves[16 * (g + i % 2 * 8) + k + i / 2 * 8 + e] =
            static_cast<unsigned short>(t.weights[i] >> 16 * e);
      for (int i = 0; i < 2; ++i)
        tiles.halves[256 + 8 * (k + 8 * i + e) + g] =
            static_cast<unsigned short>(t.activations[i] >> 16 * e);
    }
    for (int i = 0; i < 4; ++i) tiles.sums[g + i / 2 * 8][k + i % 2] = t.sums[i];
  }
  for (int i = 0; i < 384; ++i) tiles.values[i] = half_to_float(tiles.halves[i]);
  for (int column = 0; column < 16; ++column) {
    const float* const activations = tiles.values + 256 + 8 * column;
    float here[8];  // in registers, whatever the sums are
    for (int s = 0; s < 8; ++s) here[s] = activations[s];
    for (int row = 0; row < 16; ++row)
      for (int s = 0; s < 8; ++s)
        tiles.sums[row][s] =
            __builtin_fmaf(tiles.values[16 * row + column], here[s], tiles.sums[row][s]);
  }
  for (int l = 0; l < emulate::kLanes; ++l)
    for (int i = 0; i < 4; ++i) w.tile_out[l][i] = tiles.sums[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}
WF_INLINE void multiply_tile(const unsigned* tile, unsigned low, unsigned high, float* sums) {
  emulate::Warp& w = emulate::machine->warp();
  emulate::TileWork& mine = w.tile_in[lane_index()];
  for (int i = 0; i < kTileWords; ++i) mine.weights[i] = tile[i], mine.sums[i] = sums[i];
  mine.activations[0] = low;
  mine.activations[1] = high;
  emulate::machine->meet_warp(emulate::kTile, combine_tile, 0);
  for (int i = 0; i < kTileWords; ++i) sums[i] = w.tile_out[lane_index()][i];
}
WF_INLINE unsigned pack_halves(float low, float high) {
  return emulate::float_to_half(low) | emulate::float_to_half(high) << 16;
}
WF_INLINE float half_value(unsigned half) { return half_to_float(half); }

WF_INLINE Float2 load2(const float* at) { return {at[0], at[1]}; }
WF_INLINE void load4(const float* at, float* v) {
  for (int i = 0; i < 4; ++i) v[i] = at[i];
}
WF_INLINE void store4(float* at, const float* v) {
  for (int i = 0; i < 4; ++i) at[i] = v[i];
}
WF_INLINE void store2(float* at, Float2 v) {
  at[0] = v.x;
  at[1] = v.y;
}
WF_INLINE float load_constant(const float* at) { return *at; }
WF_INLINE Float2 load_constant2(const float* at) { return {at[0], at[1]}; }

// --- within a block ------------------------------------------------------------------------------

WF_INLINE void block_sync(int where) { emulate::machine->meet_block(where); }
WF_INLINE void part_sync(int where, int number, int threads) {
  emulate::machine->meet_part(where, number, threads, true);
}
WF_INLINE void part_arrive(int where, int number, int threads) {
  emulate::machine->meet_part(where, number, threads, false);
}
WF_INLINE void warp_sync() {
  emulate::machine->meet_warp(emulate::kWarpSync, emulate::combine_nothing, 0);
}

WF_INLINE float warp_sums(const float* x, int count) {
  emulate::Warp& w = emulate::machine->warp();
  for (int i = 0; i < count; ++i) w.in[i][lane_index()] = x[i];
  emulate::machine->meet_warp(emulate::kSums, emulate::combine_sums, count);
  return w.out[lane_index()];
}
WF_INLINE float warp_max(float x) {
  emulate::Warp& w = emulate::machine->warp();
  w.in[0][lane_index()] = x;
  emulate::machine->meet_warp(emulate::kMax, emulate::combine_max, 0);
  return w.out[lane_index()];
}
WF_INLINE unsigned meet_words(int kind, void (*combine)(emulate::Warp&, int), unsigned x,
                              int argument) {
  emulate::Warp& w = emulate::machine->warp();
  w.words_in[lane_index()] = x;
  emulate::machine->meet_warp(kind, combine, argument);
  return w.words_out[lane_index()];
}
WF_INLINE unsigned warp_prefix_sum(unsigned x) {
  return meet_words(emulate::kPrefix, emulate::combine_prefix, x, 0);
}
WF_INLINE unsigned warp_total(unsigned x) {
  return meet_words(emulate::kTotal, emulate::combine_total, x, 0);
}
WF_INLINE unsigned warp_ballot(bool yes) {
  return meet_words(emulate::kBallot, emulate::combine_ballot, yes ? 1u : 0u, 0);
}
WF_INLINE float from_lane(float x, int distance) {
  const auto bits = __builtin_bit_cast(unsigned, x);
  return __builtin_bit_cast(
      float, meet_words(emulate::kExchange, emulate::combine_exchange, bits, distance));
}
WF_INLINE float of_lane(float x, int lane) {
  const auto bits = __builtin_bit_cast(unsigned, x);
  return __builtin_bit_cast(float,
                            meet_words(emulate::kSpread, emulate::combine_spread, bits, lane));
}
WF_INLINE int first_lane(unsigned ballot) { return __builtin_ffs(static_cast<int>(ballot)) - 1; }

// --- within a cluster of blocks ------------------------------------------------------------------

using Arrivals = unsigned long long;

// The same place of a block of this cluster.
template <class T>
WF_INLINE T* of_peer(T* at, int rank) {
  const auto offset = reinterpret_cast<char*>(at) - reinterpret_cast<char*>(shared_memory());
  return reinterpret_cast<T*>(reinterpret_cast<char*>(emulate::machine->shared_of(rank)) + offset);
}
WF_INLINE void init_arrivals(Arrivals* at) { *at = 0; }
WF_INLINE void publish_arrivals() {}
WF_INLINE void expect_bytes(Arrivals* at, unsigned bytes) {
  emulate::announce_bytes(at, static_cast<int>(bytes));
  emulate::machine->progressed();
}
WF_INLINE void push(float* at, Arrivals* arrivals, int rank, float value) {
  const auto* first = reinterpret_cast<Arrivals*>(shared_memory() + kSharedArrivals);
  if (arrivals - first == emulate::machine->fault().message) return;
  *of_peer(at, rank) = value;
  emulate::deliver_bytes(of_peer(arrivals, rank), 4);
  emulate::machine->sent(of_peer(arrivals, rank), &emulate::Counts::pushes);
  emulate::machine->progressed();
}
WF_INLINE void push4(float* at, Arrivals* arrivals, int rank, const float* v) {
  for (int e = 0; e < 4; ++e) push(at + e, arrivals, rank, v[e]);
}
WF_INLINE bool phase_over(Arrivals* at, int parity) {
  emulate::machine->looked_at(at);
  return emulate::is_over(at, parity);
}
WF_INLINE void cluster_sync(int where) { emulate::machine->meet_cluster(where); }

// --- between blocks ------------------------------------------------------------------------------

WF_INLINE void publish(Word* at, float value, unsigned tag) {
  *at = static_cast<Word>(tag) << 32 | __builtin_bit_cast(unsigned, value);
  emulate::machine->sent(at, &emulate::Counts::words);
  emulate::machine->progressed();
}

struct Poller {
  const KernelArgs& args;
  volatile int* stop;
};

WF_INLINE void load_words(const Poller& poller, const Word* at, int stride, int count, Word* out) {
  if (emulate::machine->fault().parity)
    at = emulate::in_first_buffer(poller.args.words, at, running_shape);
  for (int i = 0; i < count; ++i)
    for (int e = 0; e < 2; ++e) {
      const Word* word = at + i * stride + e;
      emulate::machine->looked_at(word);
      out[2 * i + e] = word - poller.args.words == emulate::machine->fault().word ? 0 : *word;
    }
}

WF_INLINE void store_word(unsigned* at, unsigned word) {
  *at = word;
  emulate::machine->sent(at, &emulate::Counts::words);
  emulate::machine->progressed();
}
WF_INLINE void load_words4(const Poller& poller, const unsigned* at, unsigned* out) {
  const auto* words = reinterpret_cast<const unsigned*>(poller.args.words);
  if (emulate::machine->fault().parity) at = emulate::in_first_buffer(words, at, running_shape);
  for (int i = 0; i < 4; ++i) {
    emulate::machine->looked_at(at + i);
    out[i] = at + i - words == emulate::machine->fault().word ? 0 : at[i];
  }
}

WF_INLINE bool checked(bool ready) {
  ready = ready || emulate::machine->fault().tag;
  emulate::machine->polled(ready);
  if (ready) emulate::machine->progressed();
  return ready;
}

WF_INLINE unsigned long long stall_report(const Poller& poller, const Word* at, unsigned tag) {
  const unsigned word = static_cast<unsigned>(at - poller.args.words);
  const unsigned place = static_cast<unsigned>(block_index()) << kStallWordBits | word;
  return static_cast<unsigned long long>(place) << 32 | tag;
}

WF_INLINE bool keep_polling(const Poller& poller, unsigned& tries, const Word* at, unsigned tag) {
  ++tries;
  if (emulate::machine->wait_for_word()) return true;
  KernelStatus& status = *poller.args.status;
  if (status.stall == 0) status.stall = stall_report(poller, at, tag);
  *poller.stop = 1;
  return false;
}

WF_INLINE bool keep_waiting(const Poller& poller, long long&, const Word* at, unsigned tag) {
  unsigned tries = 0;
  return keep_polling(poller, tries, at, tag);
}

WF_INLINE void add_to_word(Word* at, Word value) {
  *at += value;
  emulate::machine->sent(at, &emulate::Counts::additions);
  emulate::machine->progressed();
}

}  // namespace wavernn_fast::gpu
