// The dozen vector operations on AVX-512 (F, BW, DQ, VL): 16 floats are one register.
// With WF_VNNI the int8 dot is one instruction. Semantics: vec_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

#define WF_INLINE static inline __attribute__((always_inline))

#ifdef WF_VNNI
namespace wavernn_fast::cpu::avx512vnni {
#else
namespace wavernn_fast::cpu::avx512 {
#endif

inline constexpr PanelBlocks kPanelBlocks = {3, 6, 3, 6, 3};
inline constexpr int kWidestPanel = kMaxPanelBlocks;
inline constexpr int kMaxAccumulators = 24;     // of 32 registers
inline constexpr int kStreamTile = 8;           // streams of a tile of an int8 or pruned batch
inline constexpr int kSparseLists = 8;          // of a panel of a pruned matrix
inline constexpr int kGateBlocks = 4;           // 16 units each, whose gates run side by side
inline constexpr int kSparseInt8Streams = 4;    // of a tile of pruned int8 products
inline constexpr bool kUnrolledScalars = true;  // of the gates, compiled for each number

// A tile of a batch of floats: three registers of rows for eight streams, 24 of 32 hold sums.
inline constexpr int kTileParts = 3;
inline constexpr int kTileStreams = 8;
inline constexpr int kWideStreams = 8;
inline constexpr int kNarrowParts = 3;
inline constexpr int kNarrowStreams = 0;
inline constexpr int kPartLanes = 16;   // rows of a register
inline constexpr int kGroupBlocks = 3;  // whose weights are in L1 together
inline constexpr int kFetchedStreams =
    5;  // of a tile; for fewer the hardware fetches better by itself
inline constexpr bool kWidensInTiles = true;  // 16-bit weights, where MatmulArgs says so

struct F {
  __m512 a;
};
struct I {
  __m512i a;
};

WF_INLINE F zero() { return {_mm512_setzero_ps()}; }
WF_INLINE F load(const float* p) { return {_mm512_loadu_ps(p)}; }
WF_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x.a); }
WF_INLINE F set1(float x) { return {_mm512_set1_ps(x)}; }
WF_INLINE F load_quad(const float* p) { return {_mm512_broadcast_f32x4(_mm_loadu_ps(p))}; }
WF_INLINE F gather(const float* p, const uint16_t* index) {
  const __m256i i = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
  return {_mm512_i32gather_ps(_mm512_cvtepu16_epi32(i), p, 4)};
}
WF_INLINE F add(F x, F y) { return {_mm512_add_ps(x.a, y.a)}; }
WF_INLINE F sub(F x, F y) { return {_mm512_sub_ps(x.a, y.a)}; }
WF_INLINE F mul(F x, F y) { return {_mm512_mul_ps(x.a, y.a)}; }
WF_INLINE F div(F x, F y) { return {_mm512_div_ps(x.a, y.a)}; }
WF_INLINE F fma(F x, F y, F z) { return {_mm512_fmadd_ps(x.a, y.a, z.a)}; }
WF_INLINE F max(F x, F y) { return {_mm512_max_ps(x.a, y.a)}; }
// As integers: those of numbers that are not negative have their order, and NaN comes last.
WF_INLINE F larger(F x, F y) {
  return {
      _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(x.a), _mm512_castps_si512(y.a)))};
}
WF_INLINE F min(F x, F y) { return {_mm512_min_ps(x.a, y.a)}; }
WF_INLINE F abs(F x) { return {_mm512_abs_ps(x.a)}; }
// Of the first quads of a to d, of the second, ...: into the order of a's four, b's four, ...
WF_INLINE F by_vector(__m512 x) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return {_mm512_permutexvar_ps(order, x)};
}
WF_INLINE F quad_sums(F a, F b, F c, F d) {
  // (0 + 2), (1 + 3) of two vectors' quads side by side, then of all four.
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.a, b.a), _mm512_unpackhi_ps(a.a, b.a));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.a, d.a), _mm512_unpackhi_ps(c.a, d.a));
  const __m512 sum =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  return by_vector(sum);
}
WF_INLINE void split_quads(F a, F b, F c, F d, F (&q)[4]) {
  const __m512 ab_01 = _mm512_unpacklo_ps(a.a, b.a), ab_23 = _mm512_unpackhi_ps(a.a, b.a);
  const __m512 cd_01 = _mm512_unpacklo_ps(c.a, d.a), cd_23 = _mm512_unpackhi_ps(c.a, d.a);
  q[0] = by_vector(_mm512_shuffle_ps(ab_01, cd_01, 0x44));
  q[1] = by_vector(_mm512_shuffle_ps(ab_01, cd_01, 0xEE));
  q[2] = by_vector(_mm512_shuffle_ps(ab_23, cd_23, 0x44));
  q[3] = by_vector(_mm512_shuffle_ps(ab_23, cd_23, 0xEE));
}
WF_INLINE float reduce_max(F x) { return _mm512_reduce_max_ps(x.a); }
WF_INLINE bool all_zero(F x) {
  return _mm512_cmp_ps_mask(x.a, _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
}
WF_INLINE I round_int(F x) { return {_mm512_cvtps_epi32(x.a)}; }
WF_INLINE F to_float(I x) { return {_mm512_cvtepi32_ps(x.a)}; }
WF_INLINE I zero_int() { return {_mm512_setzero_si512()}; }
WF_INLINE I load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
WF_INLINE void store_int(int32_t* p, I x) { _mm512_storeu_si512(p, x.a); }
WF_INLINE I sub_int(I x, I y) { return {_mm512_sub_epi32(x.a, y.a)}; }
WF_INLINE F scale_exponent(F x, I n) {
  return {
      _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x.a), _mm512_slli_epi32(n.a, 23)))};
}
WF_INLINE uint32_t reduce_add(I x) { return uint32_t(_mm512_reduce_add_epi32(x.a)); }
// One permutation instead of widening and shifting: each value goes to the upper half of its lane.
WF_INLINE F load_bf16(const uint16_t* p) {
  const __m512i half =
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i index = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8,
                                         7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAAu, index, half))};
}
// Two conversions of 8 values: on Zen 4 faster than one of 16.
WF_INLINE F load_fp16(const uint16_t* p) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  const __m256 lo = _mm256_cvtph_ps(_mm_loadu_si128(q));
  const __m256 hi = _mm256_cvtph_ps(_mm_loadu_si128(q + 1));
  return {_mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1)};
}
// One conversion: on Golden Cove the insertion of the other way costs more.
WF_INLINE F load_fp16_once(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
// What a tile of a batch is made of.
using Part = F;
WF_INLINE Part load_part(const float* p) { return load(p); }
WF_INLINE Part load_part_fp16(const uint16_t* p) { return load_fp16_once(p); }
WF_INLINE Part load_part_bf16(const uint16_t* p) { return load_bf16(p); }
WF_INLINE Part set1_part(float x) { return set1(x); }
// Holds a value in its register at this point: gcc 12 otherwise spills sums inside the int8 loop.
WF_INLINE void keep(I& x) { asm("" : "+v"(x.a)); }
struct Q {
  __m512i a;
};
WF_INLINE Q load_q(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
WF_INLINE void keep(Q& x) { asm("" : "+v"(x.a)); }
WF_INLINE I dot4(I acc, Q w, const uint8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  const __m512i x = _mm512_set1_epi32(four);
#ifdef WF_VNNI
  return {_mm512_dpbusd_epi32(acc.a, x, w.a)};
#else
  const __m512i pairs = _mm512_maddubs_epi16(x, w.a);
  return {_mm512_add_epi32(acc.a, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#endif
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
WF_INLINE void clear(I& acc) { acc.a = _mm512_setzero_si512(); }
WF_INLINE void dot(I4& acc, const int8_t* w, int32_t word) {
  const __m128i x = _mm_set1_epi32(word), q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
#ifdef WF_VNNI
  acc.a = _mm_dpbusd_epi32(acc.a, x, q);
#else
  acc.a = _mm_add_epi32(acc.a, _mm_madd_epi16(_mm_maddubs_epi16(x, q), _mm_set1_epi16(1)));
#endif
}
WF_INLINE void dot(I8& acc, const int8_t* w, int32_t word) {
  const __m256i x = _mm256_set1_epi32(word);
  const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
#ifdef WF_VNNI
  acc.a = _mm256_dpbusd_epi32(acc.a, x, q);
#else
  const __m256i pairs = _mm256_maddubs_epi16(x, q);
  acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
WF_INLINE void dot(I& acc, const int8_t* w, int32_t word) {
  acc = dot4(acc, load_q(w), reinterpret_cast<const uint8_t*>(&word));
}
// 16 sums out of consecutive ones of 4 or 8 rows.
WF_INLINE I join(const I4* x) {
  const __m256i lo = _mm256_set_m128i(x[1].a, x[0].a), hi = _mm256_set_m128i(x[3].a, x[2].a);
  return {_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1)};
}
WF_INLINE I join(const I8* x) {
  return {_mm512_inserti64x4(_mm512_castsi256_si512(x[0].a), x[1].a, 1)};
}
WF_INLINE I join(const I* x) { return *x; }
WF_INLINE void keep(I4& x) { asm("" : "+v"(x.a)); }
WF_INLINE void keep(I8& x) { asm("" : "+v"(x.a)); }
WF_INLINE I high_bits(I x) { return {_mm512_srli_epi32(x.a, 7)}; }
WF_INLINE I low_bits(I x) { return {_mm512_and_si512(x.a, _mm512_set1_epi32(127))}; }
WF_INLINE void store_u8(uint8_t* p, I x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.a));
}

}  // namespace wavernn_fast::cpu::avx512(vnni)
