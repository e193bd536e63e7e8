// The dozen vector operations on AVX2 + FMA + F16C: 16 floats are two registers.
// Semantics: vec_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

#define WF_INLINE static inline __attribute__((always_inline))

namespace wavernn_fast::cpu::avx2 {

inline constexpr PanelBlocks kPanelBlocks = {3, 6, 6, 3, 3};
inline constexpr int kWidestPanel = kMaxPanelBlocks;
inline constexpr int kMaxAccumulators = 6;      // 12 of 16 registers
inline constexpr int kStreamTile = 3;           // streams of a tile of an int8 or pruned batch
inline constexpr int kSparseLists = 4;          // of a panel of a pruned matrix
inline constexpr int kGateBlocks = 2;           // 16 units each, whose gates run side by side
inline constexpr int kSparseInt8Streams = 2;    // of a tile of pruned int8 products
inline constexpr bool kUnrolledScalars = true;  // of the gates, compiled for each number

// A tile of a batch of floats: three registers of rows for four streams, two for five or six (one
// tile of them beats two of three), six for two: 12 of 16 registers hold sums.
inline constexpr int kTileParts = 3;
inline constexpr int kTileStreams = 4;
inline constexpr int kWideStreams = 6;
inline constexpr int kNarrowParts = 6;
inline constexpr int kNarrowStreams = 2;
inline constexpr int kPartLanes = 8;    // rows of a register
inline constexpr int kGroupBlocks = 3;  // whose weights are in L1 together
inline constexpr int kFetchedStreams =
    3;  // of a tile; for fewer the hardware fetches better by itself
inline constexpr bool kWidensInTiles = true;  // 16-bit weights, where MatmulArgs says so

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};

WF_INLINE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
WF_INLINE F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
WF_INLINE void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
WF_INLINE F set1(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
// A register of a batch's tile: half a block of rows, so that a tile is 24 rows for 4 streams.
struct Part {
  __m256 a;
};
WF_INLINE Part load_part(const float* p) { return {_mm256_loadu_ps(p)}; }
WF_INLINE Part load_part_fp16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
WF_INLINE Part load_part_bf16(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
WF_INLINE Part set1_part(float x) { return {_mm256_set1_ps(x)}; }
WF_INLINE Part add(Part x, Part y) { return {_mm256_add_ps(x.a, y.a)}; }
WF_INLINE Part fma(Part x, Part y, Part z) { return {_mm256_fmadd_ps(x.a, y.a, z.a)}; }
WF_INLINE void store(float* p, Part x) { _mm256_storeu_ps(p, x.a); }
WF_INLINE F load_quad(const float* p) {
  const __m256 v = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  return {v, v};
}
WF_INLINE F gather(const float* p, const uint16_t* index) {
  const auto* i = reinterpret_cast<const __m128i*>(index);
  return {_mm256_i32gather_ps(p, _mm256_cvtepu16_epi32(_mm_loadu_si128(i)), 4),
          _mm256_i32gather_ps(p, _mm256_cvtepu16_epi32(_mm_loadu_si128(i + 1)), 4)};
}
WF_INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
WF_INLINE F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
WF_INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
WF_INLINE F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
WF_INLINE F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
WF_INLINE F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
// As integers: those of numbers that are not negative have their order, and NaN comes last.
WF_INLINE __m256 larger_half(__m256 x, __m256 y) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
WF_INLINE F larger(F x, F y) { return {larger_half(x.a, y.a), larger_half(x.b, y.b)}; }
WF_INLINE F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
WF_INLINE F abs(F x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
// [a b c d] of the first quad of each half, then of the second.
WF_INLINE __m256 quad_sums_of_half(__m256 a, __m256 b, __m256 c, __m256 d) {
  // (0 + 2), (1 + 3) of two vectors' quads side by side, then of all four.
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  return _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
}
// Of the first two quads of a to d and of the others: into the order of a's four, b's four, ...
WF_INLINE F by_vector(__m256 lo, __m256 hi) {
  __m128 r0 = _mm256_castps256_ps128(lo), r1 = _mm256_extractf128_ps(lo, 1);
  __m128 r2 = _mm256_castps256_ps128(hi), r3 = _mm256_extractf128_ps(hi, 1);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  return {_mm256_set_m128(r1, r0), _mm256_set_m128(r3, r2)};
}
WF_INLINE F quad_sums(F a, F b, F c, F d) {
  return by_vector(quad_sums_of_half(a.a, b.a, c.a, d.a), quad_sums_of_half(a.b, b.b, c.b, d.b));
}
WF_INLINE void split_half(__m256 a, __m256 b, __m256 c, __m256 d, __m256 (&q)[4]) {
  const __m256 ab_01 = _mm256_unpacklo_ps(a, b), ab_23 = _mm256_unpackhi_ps(a, b);
  const __m256 cd_01 = _mm256_unpacklo_ps(c, d), cd_23 = _mm256_unpackhi_ps(c, d);
  q[0] = _mm256_shuffle_ps(ab_01, cd_01, 0x44);
  q[1] = _mm256_shuffle_ps(ab_01, cd_01, 0xEE);
  q[2] = _mm256_shuffle_ps(ab_23, cd_23, 0x44);
  q[3] = _mm256_shuffle_ps(ab_23, cd_23, 0xEE);
}
WF_INLINE void split_quads(F a, F b, F c, F d, F (&q)[4]) {
  __m256 lo[4], hi[4];
  split_half(a.a, b.a, c.a, d.a, lo);
  split_half(a.b, b.b, c.b, d.b, hi);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) q[i] = by_vector(lo[i], hi[i]);
}
WF_INLINE float reduce_max(F x) {
  const __m256 m = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  q = _mm_max_ss(q, _mm_shuffle_ps(q, q, 1));
  return _mm_cvtss_f32(q);
}
WF_INLINE bool all_zero(F x) {
  const __m256 z = _mm256_setzero_ps();
  const __m256 bad =
      _mm256_or_ps(_mm256_cmp_ps(x.a, z, _CMP_NEQ_UQ), _mm256_cmp_ps(x.b, z, _CMP_NEQ_UQ));
  return _mm256_movemask_ps(bad) == 0;
}
WF_INLINE I round_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
WF_INLINE F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
WF_INLINE I zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
WF_INLINE I load_int(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
WF_INLINE void store_int(int32_t* p, I x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
WF_INLINE I sub_int(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
WF_INLINE F scale_exponent(F x, I n) {
  return {
      _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.a), _mm256_slli_epi32(n.a, 23))),
      _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.b), _mm256_slli_epi32(n.b, 23)))};
}
WF_INLINE uint32_t reduce_add(I x) {
  const __m256i s = _mm256_add_epi32(x.a, x.b);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1));
  return uint32_t(_mm_cvtsi128_si32(q));
}
WF_INLINE F load_bf16(const uint16_t* p) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  return {
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16)),
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16))};
}
WF_INLINE F load_fp16(const uint16_t* p) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
WF_INLINE F load_fp16_once(const uint16_t* p) { return load_fp16(p); }
// Holds a value in its register at this point: gcc 12 otherwise spills sums inside the int8 loop.
WF_INLINE void keep(I& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
struct Q {
  __m256i a, b;
};
WF_INLINE Q load_q(const int8_t* p) {
  const auto* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
WF_INLINE void keep(Q& x) { asm("" : "+x"(x.a), "+x"(x.b)); }
WF_INLINE I dot4(I acc, Q w, const uint8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  const __m256i x = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
  const __m256i lo = _mm256_maddubs_epi16(x, w.a), hi = _mm256_maddubs_epi16(x, w.b);
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(lo, ones)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(hi, ones))};
}
WF_INLINE int32_t four(const uint8_t* q) {
  int32_t word;
  std::memcpy(&word, q, 4);
  return word;
}
struct I4 {
  __m128i a;
};
struct I8 {
  __m256i a;
};
WF_INLINE void clear(I4& acc) { acc.a = _mm_setzero_si128(); }
WF_INLINE void clear(I8& acc) { acc.a = _mm256_setzero_si256(); }
WF_INLINE void clear(I& acc) { acc = zero_int(); }
WF_INLINE void dot(I4& acc, const int8_t* w, int32_t word) {
  const __m128i x = _mm_set1_epi32(word), q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
  acc.a = _mm_add_epi32(acc.a, _mm_madd_epi16(_mm_maddubs_epi16(x, q), _mm_set1_epi16(1)));
}
WF_INLINE void dot(I8& acc, const int8_t* w, int32_t word) {
  const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(word), q);
  acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
WF_INLINE void dot(I& acc, const int8_t* w, int32_t word) {
  acc = dot4(acc, load_q(w), reinterpret_cast<const uint8_t*>(&word));
}
// 16 sums out of consecutive ones of 4 or 8 rows.
WF_INLINE I join(const I4* x) {
  return {_mm256_set_m128i(x[1].a, x[0].a), _mm256_set_m128i(x[3].a, x[2].a)};
}
WF_INLINE I join(const I8* x) { return {x[0].a, x[1].a}; }
WF_INLINE I join(const I* x) { return *x; }
WF_INLINE void keep(I4& x) { asm("" : "+x"(x.a)); }
WF_INLINE void keep(I8& x) { asm("" : "+x"(x.a)); }
WF_INLINE I high_bits(I x) { return {_mm256_srli_epi32(x.a, 7), _mm256_srli_epi32(x.b, 7)}; }
WF_INLINE I low_bits(I x) {
  const __m256i mask = _mm256_set1_epi32(127);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
WF_INLINE void store_u8(uint8_t* p, I x) {
  const __m256i packed = _mm256_packus_epi32(x.a, x.b);  // 16-bit, halves interleaved
  const __m256i order = _mm256_permute4x64_epi64(packed, 0xD8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(order), _mm256_extracti128_si256(order, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

}  // namespace wavernn_fast::cpu::avx2
