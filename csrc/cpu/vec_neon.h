// The dozen vector operations on AArch64 NEON: 16 floats are four registers.
// Semantics: vec_scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

#define WF_INLINE static inline __attribute__((always_inline))
#define WF_EACH for (int i = 0; i < 4; ++i)

namespace wavernn_fast::cpu::neon {

inline constexpr PanelBlocks kPanelBlocks = {2, 6, 6, 3, 3};
inline constexpr int kWidestPanel = kMaxPanelBlocks;
inline constexpr int kMaxAccumulators = 6;      // 24 of 32 registers
inline constexpr int kStreamTile = 3;           // streams of a tile of an int8 or pruned batch
inline constexpr int kSparseLists = 4;          // of a panel of a pruned matrix
inline constexpr int kGateBlocks = 2;           // 16 units each, whose gates run side by side
inline constexpr int kSparseInt8Streams = 2;    // of a tile of pruned int8 products
inline constexpr bool kUnrolledScalars = true;  // of the gates, compiled for each number

// A tile of a batch of floats: two times four registers of rows for three streams, 24 of 32 hold
// sums.
inline constexpr int kTileParts = 2;
inline constexpr int kTileStreams = 3;
inline constexpr int kWideStreams = 3;
inline constexpr int kNarrowParts = 2;
inline constexpr int kNarrowStreams = 0;
inline constexpr int kPartLanes = 16;   // rows of a register
inline constexpr int kGroupBlocks = 2;  // whose weights are in L1 together
inline constexpr int kFetchedStreams =
    2;  // of a tile; for fewer the hardware fetches better by itself
inline constexpr bool kWidensInTiles = true;  // 16-bit weights, where MatmulArgs says so

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};

WF_INLINE F set1(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
WF_INLINE F zero() { return set1(0.0f); }
WF_INLINE F load(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
WF_INLINE void store(float* p, F x) { WF_EACH vst1q_f32(p + 4 * i, x.v[i]); }
WF_INLINE F load_quad(const float* p) {
  const float32x4_t v = vld1q_f32(p);
  return {{v, v, v, v}};
}
WF_INLINE F gather(const float* p, const uint16_t* index) {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = p[index[i]];
  return load(values);
}
WF_INLINE F add(F x, F y) {
  WF_EACH x.v[i] = vaddq_f32(x.v[i], y.v[i]);
  return x;
}
WF_INLINE F sub(F x, F y) {
  WF_EACH x.v[i] = vsubq_f32(x.v[i], y.v[i]);
  return x;
}
WF_INLINE F mul(F x, F y) {
  WF_EACH x.v[i] = vmulq_f32(x.v[i], y.v[i]);
  return x;
}
WF_INLINE F div(F x, F y) {
  WF_EACH x.v[i] = vdivq_f32(x.v[i], y.v[i]);
  return x;
}
WF_INLINE F fma(F x, F y, F z) {
  WF_EACH z.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]);
  return z;
}
WF_INLINE F max(F x, F y) {
  WF_EACH x.v[i] = vmaxq_f32(x.v[i], y.v[i]);
  return x;
}
// A NaN stays one.
WF_INLINE F larger(F x, F y) { return max(x, y); }
WF_INLINE F min(F x, F y) {
  WF_EACH x.v[i] = vminq_f32(x.v[i], y.v[i]);
  return x;
}
WF_INLINE F abs(F x) {
  WF_EACH x.v[i] = vabsq_f32(x.v[i]);
  return x;
}
// [0 + 2, 1 + 3] of a quad.
WF_INLINE float32x2_t fold(float32x4_t q) { return vadd_f32(vget_low_f32(q), vget_high_f32(q)); }
WF_INLINE float32x4_t quad_sums_of(F x) {
  return vcombine_f32(vpadd_f32(fold(x.v[0]), fold(x.v[1])), vpadd_f32(fold(x.v[2]), fold(x.v[3])));
}
WF_INLINE F quad_sums(F a, F b, F c, F d) {
  return {{quad_sums_of(a), quad_sums_of(b), quad_sums_of(c), quad_sums_of(d)}};
}
WF_INLINE void split_quads(F a, F b, F c, F d, F (&q)[4]) {
  const F all[4] = {a, b, c, d};
  WF_EACH {
    // A transposition of four quads: pairs of numbers, then pairs of pairs.
    const float32x4x2_t top = vtrnq_f32(all[i].v[0], all[i].v[1]);
    const float32x4x2_t bottom = vtrnq_f32(all[i].v[2], all[i].v[3]);
    q[0].v[i] = vcombine_f32(vget_low_f32(top.val[0]), vget_low_f32(bottom.val[0]));
    q[1].v[i] = vcombine_f32(vget_low_f32(top.val[1]), vget_low_f32(bottom.val[1]));
    q[2].v[i] = vcombine_f32(vget_high_f32(top.val[0]), vget_high_f32(bottom.val[0]));
    q[3].v[i] = vcombine_f32(vget_high_f32(top.val[1]), vget_high_f32(bottom.val[1]));
  }
}
WF_INLINE float reduce_max(F x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}
WF_INLINE bool all_zero(F x) {
  uint32x4_t ok = vdupq_n_u32(0xFFFFFFFFu);
  WF_EACH ok = vandq_u32(ok, vceqzq_f32(x.v[i]));
  return vminvq_u32(ok) == 0xFFFFFFFFu;
}
WF_INLINE I round_int(F x) {
  I r;
  WF_EACH r.v[i] = vcvtnq_s32_f32(x.v[i]);
  return r;
}
WF_INLINE F to_float(I x) {
  F r;
  WF_EACH r.v[i] = vcvtq_f32_s32(x.v[i]);
  return r;
}
WF_INLINE I zero_int() {
  const int32x4_t v = vdupq_n_s32(0);
  return {{v, v, v, v}};
}
WF_INLINE I load_int(const int32_t* p) {
  return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}
WF_INLINE void store_int(int32_t* p, I x) { WF_EACH vst1q_s32(p + 4 * i, x.v[i]); }
WF_INLINE I sub_int(I x, I y) {
  WF_EACH x.v[i] = vsubq_s32(x.v[i], y.v[i]);
  return x;
}
WF_INLINE F scale_exponent(F x, I n) {
  WF_EACH x.v[i] =
      vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.v[i]), vshlq_n_s32(n.v[i], 23)));
  return x;
}
WF_INLINE uint32_t reduce_add(I x) {
  return uint32_t(vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3]))));
}
WF_INLINE F load_bf16(const uint16_t* p) {
  F r;
  WF_EACH r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return r;
}
WF_INLINE F load_fp16(const uint16_t* p) {
  F r;
  WF_EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}
// What a tile of a batch is made of.
using Part = F;
WF_INLINE Part load_part(const float* p) { return load(p); }
WF_INLINE Part load_part_fp16(const uint16_t* p) { return load_fp16(p); }
WF_INLINE Part load_part_bf16(const uint16_t* p) { return load_bf16(p); }
WF_INLINE Part set1_part(float x) { return set1(x); }
WF_INLINE F load_fp16_once(const uint16_t* p) { return load_fp16(p); }
// Holds a value in its register at this point: gcc 12 otherwise spills sums inside the int8 loop.
WF_INLINE void keep(I&) {}
struct Q {
  int8x16_t v[4];
};
WF_INLINE Q load_q(const int8_t* p) {
  Q r;
  WF_EACH r.v[i] = vld1q_s8(p + 16 * i);
  return r;
}
WF_INLINE void keep(Q&) {}
WF_INLINE I dot4(I acc, Q w, const uint8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  // The activations are at most 127, so they are signed bytes as well.
  const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(four));
  WF_EACH {
    const int32x4_t lo = vpaddlq_s16(vmull_s8(x, vget_low_s8(w.v[i])));
    const int32x4_t hi = vpaddlq_s16(vmull_s8(x, vget_high_s8(w.v[i])));
    acc.v[i] = vaddq_s32(acc.v[i], vpaddq_s32(lo, hi));
  }
  return acc;
}
WF_INLINE int32_t four(const uint8_t* q) {
  int32_t word;
  std::memcpy(&word, q, 4);
  return word;
}
WF_INLINE int32x4_t dot_quad(int32x4_t acc, const int8_t* w, int8x8_t x) {
  const int8x16_t q = vld1q_s8(w);
  const int32x4_t lo = vpaddlq_s16(vmull_s8(x, vget_low_s8(q)));
  const int32x4_t hi = vpaddlq_s16(vmull_s8(x, vget_high_s8(q)));
  return vaddq_s32(acc, vpaddq_s32(lo, hi));
}
struct I4 {
  int32x4_t v[1];
};
struct I8 {
  int32x4_t v[2];
};
template <class Sum>
WF_INLINE void clear(Sum& acc) {
  for (int32x4_t& part : acc.v) part = vdupq_n_s32(0);
}
template <class Sum>
WF_INLINE void dot(Sum& acc, const int8_t* w, int32_t word) {
  // The activations are at most 127, so they are signed bytes as well.
  const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(word));
  for (int32x4_t& part : acc.v) {
    part = dot_quad(part, w, x);
    w += 16;
  }
}
// 16 sums out of consecutive ones of 4 or 8 rows.
WF_INLINE I join(const I4* x) { return {{x[0].v[0], x[1].v[0], x[2].v[0], x[3].v[0]}}; }
WF_INLINE I join(const I8* x) { return {{x[0].v[0], x[0].v[1], x[1].v[0], x[1].v[1]}}; }
WF_INLINE I join(const I* x) { return *x; }
WF_INLINE void keep(I4&) {}
WF_INLINE void keep(I8&) {}
WF_INLINE I high_bits(I x) {
  WF_EACH x.v[i] = vshrq_n_s32(x.v[i], 7);
  return x;
}
WF_INLINE I low_bits(I x) {
  WF_EACH x.v[i] = vandq_s32(x.v[i], vdupq_n_s32(127));
  return x;
}
WF_INLINE void store_u8(uint8_t* p, I x) {
  uint16x4_t n[4];
  WF_EACH n[i] = vmovn_u32(vreinterpretq_u32_s32(x.v[i]));
  vst1q_u8(p,
           vcombine_u8(vmovn_u16(vcombine_u16(n[0], n[1])), vmovn_u16(vcombine_u16(n[2], n[3]))));
}

}  // namespace wavernn_fast::cpu::neon
#undef WF_EACH
