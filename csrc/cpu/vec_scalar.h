// The dozen vector operations in plain C++: the readable twin of the other vec_*.h files.
//
// A vector is always 16 floats, whatever the hardware width, and every operation rounds exactly
// as IEEE 754 says (fma rounds once). So all instruction sets give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

namespace wavernn_fast::cpu::scalar {

inline constexpr PanelBlocks kPanelBlocks = {3, 3, 3, 3, 3};
inline constexpr int kWidestPanel = 3;
inline constexpr int kMaxAccumulators = 6;       // 16-row blocks times streams held at once
inline constexpr int kStreamTile = 4;            // streams of a tile of an int8 or pruned batch
inline constexpr int kSparseLists = 4;           // of a panel of a pruned matrix
inline constexpr int kGateBlocks = 1;            // 16 units each, whose gates run side by side
inline constexpr int kSparseInt8Streams = 2;     // of a tile of pruned int8 products
inline constexpr bool kUnrolledScalars = false;  // of the gates, compiled for each number

// A tile of a batch of floats: a block of rows for four streams.
inline constexpr int kTileParts = 1;
inline constexpr int kTileStreams = 4;
inline constexpr int kWideStreams = 4;
inline constexpr int kNarrowParts = 1;
inline constexpr int kNarrowStreams = 0;
inline constexpr int kPartLanes = 16;   // rows of a register
inline constexpr int kGroupBlocks = 1;  // whose weights are in L1 together
inline constexpr int kFetchedStreams =
    2;  // of a tile; for fewer the hardware fetches better by itself
inline constexpr bool kWidensInTiles = false;  // 16-bit weights, where MatmulArgs says so

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};

// a * b + c rounded once. The product of two floats is exact in double; rounding the sum to odd
// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008) keeps the second
// rounding to float correct.
inline float fma1(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  const double p = double(a) * double(b), z = double(c);
  double s = p + z;
  const double t = s - p;
  const double error = (p - (s - t)) + (z - t);
  // Without branches, which the processor would guess wrong half of the time, and with nothing
  // that SSE2 has no vector instruction for.
  uint64_t bits, error_bits;
  std::memcpy(&bits, &s, 8);
  std::memcpy(&error_bits, &error, 8);
  const uint64_t magnitude = error_bits << 1;
  const uint64_t inexact = (magnitude | (0 - magnitude)) >> 63;  // 1 if error is not zero
  const uint64_t toward_zero = (bits ^ error_bits) >> 63;        // 1 if the signs differ
  const uint64_t step = inexact & ~bits;                         // lowest bit: 1 if s is even too
  bits += ((step & 1) ^ (0 - toward_zero)) + toward_zero;        // or minus it
  std::memcpy(&s, &bits, 8);
  return float(s);
#endif
}

#define WF_EACH for (int i = 0; i < 16; ++i)
inline F zero() { return F{}; }
inline F load(const float* p) {
  F r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
inline F set1(float x) {
  F r;
  WF_EACH r.v[i] = x;
  return r;
}
// Four floats, four times.
inline F load_quad(const float* p) {
  F r;
  WF_EACH r.v[i] = p[i % 4];
  return r;
}
inline F gather(const float* p, const uint16_t* index) {
  F r;
  WF_EACH r.v[i] = p[index[i]];
  return r;
}
inline F add(F a, F b) {
  WF_EACH a.v[i] += b.v[i];
  return a;
}
inline F sub(F a, F b) {
  WF_EACH a.v[i] -= b.v[i];
  return a;
}
inline F mul(F a, F b) {
  WF_EACH a.v[i] *= b.v[i];
  return a;
}
inline F div(F a, F b) {
  WF_EACH a.v[i] /= b.v[i];
  return a;
}
#if defined(__FMA__) || defined(__aarch64__)
inline F fma(F a, F b, F c) {
  WF_EACH a.v[i] = fma1(a.v[i], b.v[i], c.v[i]);
  return a;
}
#else
// A sum rounded to double and then to float is the sum rounded once, unless the double lies just
// between two floats (or the float is subnormal and keeps fewer bits): everything that rounds to
// that double is on no other side of any such middle. So that is asked of all 16, and fma1 seldom.
// It stands in the program once: inlined, the gates alone are hundreds of kilobytes and minutes of
// the compiler's time.
[[gnu::noinline]] static void fma_into(F& r, const F& a, const F& b, const F& c) {
  constexpr uint64_t kBelowFloat = (1ull << 29) - 1, kMiddle = 1ull << 28;
  constexpr uint64_t kSmallest = uint64_t(1023 - 126) << 52;  // normal float, as a double
  uint64_t doubtful = 0;
  float out[16];
  WF_EACH {
    const double s = double(a.v[i]) * double(b.v[i]) + double(c.v[i]);
    uint64_t bits;
    std::memcpy(&bits, &s, 8);
    // SSE2 compares no 64 bits: the sign of a difference tells.
    doubtful |= ((bits & kBelowFloat) ^ kMiddle) - 1;
    doubtful |= (bits & ~(1ull << 63)) - kSmallest;
    out[i] = float(s);
  }
  if (doubtful >> 63) {
    WF_EACH out[i] = fma1(a.v[i], b.v[i], c.v[i]);
  }
  std::memcpy(r.v, out, sizeof out);
}
inline F fma(const F& a, const F& b, const F& c) {
  F r;
  fma_into(r, a, b, c);
  return r;
}
#endif
inline F max(F a, F b) {
  WF_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
// Of two that are not negative; a NaN is larger than any number.
inline F larger(F a, F b) {
  WF_EACH a.v[i] = a.v[i] >= b.v[i] || a.v[i] != a.v[i] ? a.v[i] : b.v[i];
  return a;
}
inline F min(F a, F b) {
  WF_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
inline F abs(F a) {
  WF_EACH a.v[i] = a.v[i] < 0 ? -a.v[i] : a.v[i];
  return a;
}
// q[k]: number k of every four neighbours, those of a, then of b, c and d.
inline void split_quads(F a, F b, F c, F d, F (&q)[4]) {
  const F all[4] = {a, b, c, d};
  WF_EACH {
    for (int k = 0; k < 4; ++k) q[k].v[i] = all[i / 4].v[i % 4 * 4 + k];
  }
}
// Sums of four neighbours, in the same order: (q[0] + q[2]) + (q[1] + q[3]).
inline F quad_sums(F a, F b, F c, F d) {
  const F all[4] = {a, b, c, d};
  F r;
  WF_EACH {
    const float* q = all[i / 4].v + i % 4 * 4;
    r.v[i] = (q[0] + q[2]) + (q[1] + q[3]);
  }
  return r;
}
inline float reduce_max(F a) {
  float m = a.v[0];
  WF_EACH m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline bool all_zero(F a) {
  bool ok = true;
  WF_EACH ok = ok && a.v[i] == 0.0f;  // a NaN is not zero
  return ok;
}
// Nearest integer, ties to even.
inline I round_int(F a) {
  I r;
  WF_EACH r.v[i] = int32_t(__builtin_nearbyintf(a.v[i]));
  return r;
}
inline F to_float(I a) {
  F r;
  WF_EACH r.v[i] = float(a.v[i]);
  return r;
}
inline I zero_int() { return I{}; }
inline I load_int(const int32_t* p) {
  I r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void store_int(int32_t* p, I a) { std::memcpy(p, a.v, sizeof a.v); }
inline I sub_int(I a, I b) {
  WF_EACH a.v[i] -= b.v[i];
  return a;
}
// a * 2^n by adding n to the exponent field; a and the result are normal numbers.
inline F scale_exponent(F a, I n) {
  WF_EACH {
    int32_t bits;
    std::memcpy(&bits, &a.v[i], 4);
    bits += int32_t(uint32_t(n.v[i]) << 23);
    std::memcpy(&a.v[i], &bits, 4);
  }
  return a;
}
inline uint32_t reduce_add(I a) {
  uint32_t s = 0;
  WF_EACH s += uint32_t(a.v[i]);
  return s;
}
inline F load_bf16(const uint16_t* p) {
  F r;
  WF_EACH {
    const uint32_t bits = uint32_t(p[i]) << 16;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
inline F load_fp16(const uint16_t* p) {
  F r;
  WF_EACH {
    const uint32_t h = p[i], sign = (h & 0x8000u) << 16, rest = h & 0x7FFFu;
    // Shift into place, then multiply by 2^112: exact, subnormals included (weights are finite).
    const uint32_t bits = rest << 13;
    float x;
    std::memcpy(&x, &bits, 4);
    x *= 5.192296858534828e33f;
    uint32_t out;
    std::memcpy(&out, &x, 4);
    out |= sign;
    std::memcpy(&r.v[i], &out, 4);
  }
  return r;
}
// What a tile of a batch is made of.
using Part = F;
inline Part load_part(const float* p) { return load(p); }
inline Part load_part_fp16(const uint16_t* p) { return load_fp16(p); }
inline Part load_part_bf16(const uint16_t* p) { return load_bf16(p); }
inline Part set1_part(float x) { return set1(x); }
inline F load_fp16_once(const uint16_t* p) { return load_fp16(p); }
// Holds a value in its register at this point: gcc 12 otherwise spills sums inside the int8 loop.
inline void keep(I&) {}
// A block of int8 weights: 16 rows of 4 columns.
struct Q {
  int8_t v[64];
};
inline Q load_q(const int8_t* p) {
  Q r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void keep(Q&) {}
// acc[row] += sum over 4 columns of q[column] * w[row][column]; q holds four unsigned bytes (at
// most 127, so no instruction set saturates).
inline I dot4(I acc, const Q& w, const uint8_t* q) {
  WF_EACH {
    int32_t s = 0;
    for (int j = 0; j < 4; ++j) s += int32_t(q[j]) * int32_t(w.v[4 * i + j]);
    acc.v[i] += s;
  }
  return acc;
}
// The same for 4, 8 or 16 rows whose weights lie at `w`, with the four bytes in one word.
struct I4 {
  int32_t v[4];
};
struct I8 {
  int32_t v[8];
};
inline int32_t four(const uint8_t* q) {
  int32_t word;
  std::memcpy(&word, q, 4);
  return word;
}
template <class Sum>
inline void clear(Sum& acc) {
  acc = Sum{};
}
template <class Sum>
inline void dot(Sum& acc, const int8_t* w, int32_t word) {
  for (int i = 0; i < int(sizeof acc.v / 4); ++i)
    for (int j = 0; j < 4; ++j) acc.v[i] += (word >> 8 * j & 255) * int32_t(w[4 * i + j]);
}
// 16 sums out of consecutive ones of 4 or 8 rows.
template <class Sum>
inline I join(const Sum* acc) {
  I r;
  std::memcpy(r.v, acc, sizeof r.v);
  return r;
}
inline void keep(I4&) {}
inline void keep(I8&) {}
// Bits 7 and up, and bits 0 to 6, of values in [0, 2^14).
inline I high_bits(I a) {
  WF_EACH a.v[i] >>= 7;
  return a;
}
inline I low_bits(I a) {
  WF_EACH a.v[i] &= 127;
  return a;
}
// 16 values in [0, 255] to bytes.
inline void store_u8(uint8_t* p, I a) { WF_EACH p[i] = uint8_t(a.v[i]); }
#undef WF_EACH

}  // namespace wavernn_fast::cpu::scalar
