// Elementwise work of kernels.cpp: quantising activations, gates, activation functions, the weights
// of a draw.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

float quantize(const float* x, int n, int pieces, bool is_signed, uint8_t* u) {
  const Levels levels = activation_levels(pieces, is_signed);
  F top = zero();
  for (int i = 0; i < n; i += kLanes) top = max(top, abs(load(x + i)));
  const float largest = reduce_max(top);
  const F factor = set1(largest > 0.0f ? float(levels.highest) / largest : 0.0f);
  const F offset = set1(float(levels.offset));
  for (int i = 0; i < n; i += kLanes) {
    const I value = round_int(fma(load(x + i), factor, offset));
    store_u8(u + i, pieces == 2 ? high_bits(value) : value);
    if (pieces == 2) store_u8(u + n + i, low_bits(value));
  }
  return largest / float(levels.highest);
}

// exp(x) - 1 without its power of two: sets n to the nearest integer of x / ln 2 and returns
// exp(x - n ln 2) - 1. Cody-Waite reduction, degree-6 polynomial with the coefficients of the
// Cephes library (S. Moshier, expf).
WF_ALWAYS F reduced_exp(F x, I& n) {
  n = round_int(mul(x, set1(1.44269504088896341f)));
  const F nf = to_float(n);
  F r = fma(nf, set1(-0.693359375f), x);
  r = fma(nf, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  return fma(p, mul(r, r), r);
}

// exp to about 1 ulp for x in [-86, 88] (clamped).
WF_ALWAYS F exp_of(F x) {
  I n;
  const F p = reduced_exp(min(max(x, set1(-86.0f)), set1(88.0f)), n);
  return scale_exponent(add(p, set1(1.0f)), n);
}

// exp(x) - 1 for x in [-limit, limit] (clamped), with all its digits near 0.
WF_ALWAYS F exp_minus_one(F x, float limit) {
  I n;
  const F p = reduced_exp(min(max(x, set1(-limit)), set1(limit)), n);
  const F power = scale_exponent(set1(1.0f), n);
  return fma(power, p, sub(power, set1(1.0f)));
}

// 1 / (2 + m), m = exp(-x) - 1: one rounding less than 1 / (1 + exp(-x)).
WF_ALWAYS F sigmoid(F x) {
  return div(set1(1.0f), add(set1(2.0f), exp_minus_one(sub(zero(), x), 86.0f)));
}

// m / (m + 2), m = exp(2 x) - 1. Near 0, where 1 - 2 / (1 + exp(2 x)) would lose digits, it keeps
// them: those errors add up in the state. Beyond 10 tanh is 1 in float32.
WF_ALWAYS F tanh_of(F x) {
  const F m = exp_minus_one(add(x, x), 20.0f);
  return div(m, add(m, set1(2.0f)));
}

WF_ALWAYS F condition(F acc, const Conditioning& c, int channel) {
  if (c.hold != nullptr) acc = add(acc, load(c.hold + channel));
  if (c.taps == 0) return acc;
  // A sum of their own: the outer taps, with small weights, are rounded as small sums.
  F sum = mul(set1(c.kernel[0]), load(c.interp + channel));
  for (int j = 1; j < c.taps; ++j)
    sum = fma(set1(c.kernel[j]), load(c.interp + j * c.stride + channel), sum);
  return add(acc, sum);
}

template <int kScalars>
WF_ALWAYS F gate_input(const GruArgs& a, int block, int gate) {
  const int channel = gate * a.hidden_size + kLanes * block;
  F x = condition(load(a.base + channel), a.conditioning, channel);
#pragma GCC unroll 3
  for (int i = 0; i < kScalars; ++i)
    x = fma(set1(a.scalars[i]), load(a.scalar_weights[i] + channel), x);
  if (a.input != nullptr) x = add(x, load(a.input + 3 * kLanes * block + kLanes * gate));
  return x;
}

// r = sigmoid(.), u = sigmoid(.), e = tanh(r * (R_e h + b) + I_e x), h' = e + u (h - e).
template <int kScalars>
WF_ALWAYS void gru_units(const GruArgs& a) {
  for (int block = a.first_block; block < a.last_block; ++block) {
    const float* recurrent = a.recurrent + 3 * kLanes * block;
    const F r = sigmoid(add(load(recurrent), gate_input<kScalars>(a, block, 0)));
    const F u = sigmoid(add(load(recurrent + kLanes), gate_input<kScalars>(a, block, 1)));
    const F e = tanh_of(fma(r, load(recurrent + 2 * kLanes), gate_input<kScalars>(a, block, 2)));
    const F h = load(a.h_old + kLanes * block);
    store(a.h_new + kLanes * block, fma(u, sub(h, e), e));
  }
}

void gru(const GruArgs& a) {
  switch (a.n_scalars) {
    case 1:
      gru_units<1>(a);
      break;
    case 2:
      gru_units<2>(a);
      break;
    case 3:
      gru_units<3>(a);
      break;
    default:
      gru_units<0>(a);
      break;
  }
}

void input_layer(const float* base, const Conditioning& conditioning, const float* weights,
                 float scalar, int first, int last, float* out) {
  const F x = set1(scalar);
  for (int i = first; i < last; i += kLanes)
    store(out + i, fma(x, load(weights + i), condition(load(base + i), conditioning, i)));
}

void relu(float* y, const float* hold, int first, int last) {
  for (int i = first; i < last; i += kLanes) {
    const F sum = hold == nullptr ? load(y + i) : add(load(y + i), load(hold + i));
    store(y + i, max(sum, zero()));
  }
}

void add_vectors(const float* a, const float* b, int first, int last, float* out) {
  for (int i = first; i < last; i += kLanes) store(out + i, add(load(a + i), load(b + i)));
}

bool categorical(const float* logits, int n, float inv_temperature, int bits, int32_t* w,
                 uint32_t* sums) {
  F top = load(logits), probe = zero();
  for (int i = 0; i < n; i += kLanes) {
    const F l = load(logits + i);
    top = max(top, l);
    probe = fma(l, zero(), probe);  // NaN as soon as one logit is NaN or infinite
  }
  if (!all_zero(probe)) return false;
  const F highest = set1(reduce_max(top)), factor = set1(inv_temperature);
  const F one = set1(float(1u << bits));
  for (int i = 0; i < n; i += kLanes) {
    const F scaled = mul(sub(load(logits + i), highest), factor);
    const I weight = round_int(mul(exp_of(scaled), one));
    store_int(w + i, weight);
    sums[i / kLanes] = reduce_add(weight);
  }
  return true;
}

}  // namespace
}  // namespace wavernn_fast::cpu::WF_ISA
