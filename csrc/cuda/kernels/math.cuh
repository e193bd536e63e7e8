// Activation functions. Exact: IEEE operations in a fixed order, the same bits on every device and
// in the emulator. Otherwise the special-function units, good to about 1e-7.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

constexpr float kLog2E = 1.44269504088896341f;

// exp(x) - 1 without its power of two: n is the nearest integer of x / ln 2. Cody-Waite reduction
// and the degree-6 polynomial of the Cephes library (S. Moshier, expf), as in cpu/.
WF_INLINE float reduced_exp(float x, int& n) {
  n = round_to_int(mul(x, kLog2E));
  const float whole = to_float(n);
  const float r = fma(whole, 2.12194440e-4f, fma(whole, -0.693359375f, x));
  float p = 1.9875691500e-4f;
  p = fma(p, r, 1.3981999507e-3f);
  p = fma(p, r, 8.3334519073e-3f);
  p = fma(p, r, 4.1665795894e-2f);
  p = fma(p, r, 1.6666665459e-1f);
  p = fma(p, r, 5.0000001201e-1f);
  return fma(p, mul(r, r), r);
}

WF_INLINE float power_of_two(int n) { return float_of_bits((n + 127) << 23); }

// round(exp(x / T) 2^bits) for x <= 0, the weight of a class in a draw; below -86 as at -86.
WF_INLINE unsigned weight_of(float x, float inv_temperature, int bits = 23) {
  if (!kExact)
    return static_cast<unsigned>(
        round_to_int(fast_exp2(fma(x, mul(inv_temperature, kLog2E), to_float(bits)))));
  int n;
  const float p = reduced_exp(largest(mul(x, inv_temperature), -86.0f), n);
  return static_cast<unsigned>(
      round_to_int(mul(mul(add(p, 1.0f), power_of_two(n)), power_of_two(bits))));
}

// exp(x) - 1 for |x| <= limit, clamped.
WF_INLINE float exp_minus_one(float x, float limit) {
  int n;
  const float p = reduced_exp(smallest(largest(x, -limit), limit), n);
  const float power = power_of_two(n);
  return fma(power, p, sub(power, 1.0f));
}

WF_INLINE float sigmoid(float x) {
  if (!kExact) return fast_reciprocal(add(1.0f, fast_exp2(mul(x, -kLog2E))));
  return reciprocal(add(2.0f, exp_minus_one(-x, 86.0f)));
}

WF_INLINE float tanh_of(float x) {
  if (!kExact)
    return fma(-2.0f, fast_reciprocal(add(1.0f, fast_exp2(mul(x, 2.0f * kLog2E)))), 1.0f);
  const float m = exp_minus_one(add(x, x), 20.0f);
  return mul(m, reciprocal(add(m, 2.0f)));
}

// tanh that keeps its digits near 0 without exact arithmetic, too: a trained residual model needs
// them (docs/numerics.md).
WF_INLINE float tanh_near_zero(float x) {
  const float m = exp_minus_one(add(x, x), 20.0f), n = add(m, 2.0f);
  return mul(m, kExact ? reciprocal(n) : fast_reciprocal(n));
}

// exp(x) for |x| <= 86.
WF_INLINE float exp_of(float x) {
  int n;
  const float p = reduced_exp(x, n);
  const float power = power_of_two(n);
  return fma(power, p, power);
}

// whole ln 2 + ln(1 + m) for m from sqrt(1/2) - 1 to sqrt(2) - 1: the degree-8 polynomial of the
// Cephes library (S. Moshier, logf).
WF_INLINE float log_of_parts(float whole, float m) {
  float p = 7.0376836292e-2f;
  p = fma(p, m, -1.1514610310e-1f);
  p = fma(p, m, 1.1676998740e-1f);
  p = fma(p, m, -1.2420140846e-1f);
  p = fma(p, m, 1.4249322787e-1f);
  p = fma(p, m, -1.6668057665e-1f);
  p = fma(p, m, 2.0000714765e-1f);
  p = fma(p, m, -2.4999993993e-1f);
  p = fma(p, m, 3.3333331174e-1f);
  const float square = mul(m, m);
  const float tail = fma(-0.5f, square, fma(whole, -2.12194440e-4f, mul(mul(p, m), square)));
  return fma(whole, 0.693359375f, add(m, tail));
}

// ln(x) for a normal x > 0, to 1e-7 of the larger of itself and 1: x = 2^n (1 + m).
constexpr int kHalfRoot = 0x3f3504f3;  // bits of sqrt(1/2)
WF_INLINE float log_of(float x) {
  const int bits = bits_of_float(x) - kHalfRoot;
  return log_of_parts(to_float(bits >> 23),
                      sub(float_of_bits((bits & 0x7fffff) + kHalfRoot), 1.0f));
}

// The same of x = 1 + excess, which near 1 keeps the digits of the excess.
WF_INLINE float log_near_one(float excess, float x) {
  const bool near = excess > -0.29f && excess < 0.41f;
  const int bits = bits_of_float(x) - kHalfRoot;
  const float m = sub(float_of_bits((bits & 0x7fffff) + kHalfRoot), 1.0f);
  return log_of_parts(near ? 0.0f : to_float(bits >> 23), near ? excess : m);
}

// Counter and key of Philox4x32-10 (common/rng.h), and one of its rounds.
struct Philox {
  unsigned c0, c1, c2, c3, k0, k1;
};
WF_INLINE void philox_round(Philox& p) {
  const unsigned high0 = multiply_high(0xD2511F53u, p.c0), low0 = 0xD2511F53u * p.c0;
  const unsigned high1 = multiply_high(0xCD9E8D57u, p.c2), low1 = 0xCD9E8D57u * p.c2;
  p.c0 = high1 ^ p.c1 ^ p.k0;
  p.c1 = low1;
  p.c2 = high0 ^ p.c3 ^ p.k1;
  p.c3 = low0;
  p.k0 += 0x9E3779B9u;
  p.k1 += 0xBB67AE85u;
}

// First words for counter (step, item, fold) under key `seed`. Wanted once in 32 samples and beside
// their way, so a short loop is better than a quick one; in clusters no register is free for it.
template <int kCount = 2>
WF_INLINE void philox(const KernelArgs& args, unsigned long long step, unsigned* words) {
  Philox p{
      static_cast<unsigned>(step),      static_cast<unsigned>(step >> 32),     args.item, args.fold,
      static_cast<unsigned>(args.seed), static_cast<unsigned>(args.seed >> 32)};
  if (kCluster > 1) {
    WF_UNROLL
    for (int round = 0; round < 10; ++round) philox_round(p);
  } else {
    WF_ROLLED
    for (int round = 0; round < 10; ++round) philox_round(p);
  }
  words[0] = p.c0;
  words[1] = p.c1;
  if (kCount == 2) return;
  words[2] = p.c2;
  words[3] = p.c3;
}

}  // namespace wavernn_fast::gpu
