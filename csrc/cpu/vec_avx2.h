// The dozen vector operations on AVX2 + FMA + F16C: 16 floats are two registers.
// Semantics: vec_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

#define WF_INLINE static inline __attribute__((always_inline))

namespace wavernn_fast::cpu::avx2 {

inline constexpr PanelBlocks kPanelBlocks = {2, 6, 6, 3, 3};
inline constexpr int kMaxAccumulators = 6;  // 12 of 16 registers
inline constexpr int kStreamTile = 3;       // streams of a batch's tile

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
WF_INLINE F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
WF_INLINE F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
WF_INLINE F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
WF_INLINE F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
WF_INLINE F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
WF_INLINE F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
WF_INLINE F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
WF_INLINE F abs(F x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
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
