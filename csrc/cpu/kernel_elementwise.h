// Elementwise work of kernels.cpp: quantising activations, gates, activation functions, the weights
// of a draw.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

float quantize(const float* x, int n, int pieces, bool is_signed, uint8_t* u) {
  const Levels levels = activation_levels(pieces, is_signed);
  // Four at a time, which do not wait for one another.
  F tops[4] = {zero(), zero(), zero(), zero()};
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) tops[j] = larger(tops[j], abs(load(x + i + j * kLanes)));
  for (; i < n; i += kLanes) tops[0] = larger(tops[0], abs(load(x + i)));
  const F top = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
  if (!all_zero(mul(top, zero()))) return __builtin_nanf("");  // and so is all that comes of it
  const float largest = reduce_max(top);
  const F factor = set1(largest > 1e-30f ? float(levels.highest) / largest : 0.0f);
  const F offset = set1(float(levels.offset));
  for (i = 0; i < n; i += kLanes) {
    const I value = round_int(fma(load(x + i), factor, offset));
    store_u8(u + i, pieces == 2 ? high_bits(value) : value);
    if (pieces == 2) store_u8(u + n + i, low_bits(value));
  }
  return largest / float(levels.highest);
}

// exp(r) - 1 for |r| <= ln 2 / 2: degree-6 polynomial with the coefficients of the Cephes library
// (S. Moshier, expf).
inline constexpr float kExp[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
WF_ALWAYS F exp_polynomial(F r) {
  F p = set1(kExp[0]);
#pragma GCC unroll 5
  for (int k = 1; k < 6; ++k) p = fma(p, r, set1(kExp[k]));
  return fma(p, mul(r, r), r);
}

// Cody and Waite's ln 2 in two parts: n * kLn2High is exact.
inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// exp(x) - 1 without its power of two: sets n to the nearest integer of x / ln 2 and returns
// exp(x - n ln 2) - 1.
WF_ALWAYS F reduced_exp(F x, I& n) {
  n = round_int(mul(x, set1(kLog2E)));
  const F nf = to_float(n);
  const F r = fma(nf, set1(-kLn2High), x);
  return exp_polynomial(fma(nf, set1(-kLn2Low), r));
}

// A NaN stays one, also on x86, where min and max give their second operand if either is NaN.
WF_ALWAYS F clamp(F x, float low, float high) { return min(set1(high), max(set1(low), x)); }

// exp to about 1 ulp for x in [-86, 88] (clamped).
WF_ALWAYS F exp_of(F x) {
  I n;
  const F p = reduced_exp(clamp(x, -86.0f, 88.0f), n);
  return scale_exponent(add(p, set1(1.0f)), n);
}

// 1 - sigmoid(x) = 1 / (2 + m), m = exp(x) - 1 with all its digits near 0: one rounding less than
// 1 / (1 + exp(x)).
WF_ALWAYS F one_minus_sigmoid(F x) {
  I n;
  const F p = reduced_exp(clamp(x, -86.0f, 86.0f), n);
  const F power = scale_exponent(set1(1.0f), n);
  const F m = fma(power, p, sub(power, set1(1.0f)));
  return div(set1(1.0f), add(set1(2.0f), m));
}

// A number in two parts, high + low: low holds what rounding high would lose.
struct Two {
  F high, low;
};

// high + low = a + b for |a| >= |b|.
WF_ALWAYS Two two_sum(F a, F b) {
  const F sum = add(a, b);
  return {sum, sub(b, sub(sum, a))};
}

// The rounding of each addition goes to `low`; if b is the larger, that of b may be lost.
WF_ALWAYS void add_to(Two& a, F b) {
  const Two sum = two_sum(a.high, b);
  a = {sum.high, add(a.low, sum.low)};
}
WF_ALWAYS void add_product_to(Two& a, F x, F y) {
  const F sum = fma(x, y, a.high);
  a = {sum, add(a.low, fma(x, y, sub(a.high, sum)))};
}

// a / b in two parts; a and b are those, a.low and b.low the small rests.
WF_ALWAYS Two divide(Two a, Two b) {
  const F inverse = div(set1(1.0f), b.high);
  const F quotient = mul(a.high, inverse), minus = sub(zero(), quotient);
  const F rest = add(fma(minus, b.high, a.high), fma(minus, b.low, a.low));
  return {quotient, mul(rest, inverse)};
}

// 1 / (1 + power + power p), exp(-x) = power (1 + p). Beyond 40 the gate is shut or open.
WF_ALWAYS Two sigmoid(F x) {
  I n;
  const F p = reduced_exp(clamp(sub(zero(), x), -40.0f, 40.0f), n);
  const F power = scale_exponent(set1(1.0f), n);
  return divide({set1(1.0f), zero()}, two_sum(add(power, set1(1.0f)), mul(power, p)));
}

// m / (m + 2), m = exp(2 x) - 1 = (power - 1) + power p. Near 0, where 1 - 2 / (1 + exp(2 x)) would
// lose digits, it keeps them: those errors add up in the state. Beyond 10 tanh is 1 in float32. The
// rounding of addends beyond 1e8 is no small rest any more: the polynomial would give any number.
WF_ALWAYS F tanh_of(Two x) {
  const F twice = clamp(add(x.high, x.high), -20.0f, 20.0f);
  const I n = round_int(mul(twice, set1(kLog2E)));
  const F low = clamp(x.low, -0.5f, 0.5f);
  const F nf = to_float(n), rest = fma(nf, set1(-kLn2Low), add(low, low));
  const F p = exp_polynomial(add(fma(nf, set1(-kLn2High), twice), rest));
  const F power = scale_exponent(set1(1.0f), n), scaled = mul(power, p);
  const Two y =
      divide(two_sum(sub(power, set1(1.0f)), scaled), two_sum(add(power, set1(1.0f)), scaled));
  return add(y.high, y.low);
}

// A sum of their own: the outer taps, with small weights, are rounded as small sums.
WF_ALWAYS F interpolate(const Conditioning& c, int channel) {
  F sum = mul(set1(c.kernel[0]), load(c.interp + channel));
  for (int j = 1; j < c.taps; ++j)
    sum = fma(set1(c.kernel[j]), load(c.interp + j * c.stride + channel), sum);
  return sum;
}

WF_ALWAYS F condition(F acc, const Conditioning& c, int channel) {
  if (c.hold != nullptr) acc = add(acc, load(c.hold + channel));
  return c.taps == 0 ? acc : add(acc, interpolate(c, channel));
}

// `kScalars` scalar inputs, or what the arguments say.
inline constexpr int kAnyScalars = -1;
template <int kScalars>
WF_ALWAYS int scalars_of(const GruArgs& a) {
  return kScalars == kAnyScalars ? a.n_scalars : kScalars;
}

template <int kScalars>
WF_ALWAYS F gate_input(const GruArgs& a, int block, int gate) {
  const int channel = gate * a.hidden_size + kLanes * block;
  F x = condition(load(a.base + channel), a.conditioning, channel);
  for (int i = 0; i < scalars_of<kScalars>(a); ++i)
    x = fma(set1(a.scalars[i]), load(a.scalar_weights[i] + channel), x);
  if (a.input != nullptr) x = add(x, load(a.input + 3 * kLanes * block + kLanes * gate));
  return x;
}

// Adds what gate_input does, to the candidate's recurrent part: mostly the largest, so it is first.
template <int kScalars>
WF_ALWAYS void add_candidate_input(Two& x, const GruArgs& a, int block) {
  const int channel = 2 * a.hidden_size + kLanes * block;
  const Conditioning& c = a.conditioning;
  add_to(x, load(a.base + channel));
  if (c.hold != nullptr) add_to(x, load(c.hold + channel));
  if (c.taps != 0) add_to(x, interpolate(c, channel));
  for (int i = 0; i < scalars_of<kScalars>(a); ++i)
    add_product_to(x, set1(a.scalars[i]), load(a.scalar_weights[i] + channel));
  if (a.input != nullptr) add_to(x, load(a.input + 3 * kLanes * block + kLanes * 2));
}

// r = sigmoid(.), u = sigmoid(.), e = tanh(r * (R_e h + b) + I_e x), h' = h + (1 - u) (e - h).
//
// The state keeps errors, so the way to it is exact to about one rounding: the candidate's argument
// is carried in two parts, reset included (and its recurrent sum, where that is so), and a unit
// that keeps its state long, u near 1, is moved by 1 - u, which has all its digits there.
template <int kScalars>
WF_ALWAYS void gru_units(const GruArgs& a) {
  for (int block = a.first_block; block < a.last_block; ++block) {
    const float* recurrent = a.recurrent + 3 * kLanes * block;
    const Two r = sigmoid(add(load(recurrent), gate_input<kScalars>(a, block, 0)));
    const F share =
        one_minus_sigmoid(add(load(recurrent + kLanes), gate_input<kScalars>(a, block, 1)));
    const F own = load(recurrent + 2 * kLanes), product = mul(r.high, own);
    Two x = {product, fma(r.low, own, fma(r.high, own, sub(zero(), product)))};
    if (a.recurrent_rest != nullptr)
      x.low = fma(r.high, load(a.recurrent_rest + 3 * kLanes * block + 2 * kLanes), x.low);
    add_candidate_input<kScalars>(x, a, block);
    const F h = load(a.h_old + kLanes * block);
    store(a.h_new + kLanes * block, fma(share, sub(tanh_of(x), h), h));
  }
}

// exp(x), no further than e^40 either way: products of two such sums are finite. Of several vectors
// a step at a time: the steps of one wait for each other, and a core looks only some hundred
// instructions ahead for others to do meanwhile.
template <int kCount>
WF_ALWAYS void bounded_exp(F (&x)[kCount]) {
  I n[kCount];
  F r[kCount], square[kCount];
#define WF_EACH _Pragma("GCC unroll 8") for (int i = 0; i < kCount; ++i)
  WF_EACH x[i] = clamp(x[i], -40.0f, 40.0f);
  WF_EACH n[i] = round_int(mul(x[i], set1(kLog2E)));
  WF_EACH r[i] = fma(to_float(n[i]), set1(-kLn2High), x[i]);
  WF_EACH r[i] = fma(to_float(n[i]), set1(-kLn2Low), r[i]);
  WF_EACH x[i] = fma(set1(kExp[0]), r[i], set1(kExp[1]));
  WF_EACH x[i] = fma(x[i], r[i], set1(kExp[2]));
  WF_EACH square[i] = mul(r[i], r[i]);
  WF_EACH x[i] = fma(x[i], r[i], set1(kExp[3]));
  WF_EACH x[i] = fma(x[i], r[i], set1(kExp[4]));
  WF_EACH x[i] = fma(x[i], r[i], set1(kExp[5]));
  WF_EACH x[i] = scale_exponent(add(fma(x[i], square[i], r[i]), set1(1.0f)), n[i]);
#undef WF_EACH
}

// The same in plain single precision, for weights of 16 or 8 bits, whose rounding is a thousand
// times what two parts save: half the operations. Reset and update share a division.
template <int kScalars, int kBlocks>
WF_ALWAYS void plain_gru_blocks(const GruArgs& a, int block) {
  const F one = set1(1.0f);
  const float* recurrent = a.recurrent + 3 * kLanes * block;
  const float* h_old = a.h_old + kLanes * block;
  F gates[2 * kBlocks];  // 1 / r, then 1 / (1 - u)
  F share[kBlocks], x[kBlocks];
#define WF_EACH _Pragma("GCC unroll 4") for (int b = 0; b < kBlocks; ++b)
  WF_EACH {
    const float* sums = recurrent + 3 * kLanes * b;
    gates[b] = sub(zero(), add(load(sums), gate_input<kScalars>(a, block + b, 0)));
    gates[kBlocks + b] = add(load(sums + kLanes), gate_input<kScalars>(a, block + b, 1));
  }
  bounded_exp(gates);
  WF_EACH {
    const F closed = add(one, gates[b]), kept = add(one, gates[kBlocks + b]);
    const F both = div(one, mul(closed, kept));
    share[b] = mul(closed, both);
    x[b] = fma(mul(kept, both), load(recurrent + 3 * kLanes * b + 2 * kLanes),
               gate_input<kScalars>(a, block + b, 2));
    x[b] = add(x[b], x[b]);
  }
  bounded_exp(x);  // tanh = 1 - 2 / (1 + exp(2 x))
  WF_EACH x[b] = sub(one, div(set1(2.0f), add(one, x[b])));
  WF_EACH {
    const F h = load(h_old + kLanes * b);
    store(a.h_new + kLanes * (block + b), fma(share[b], sub(x[b], h), h));
  }
#undef WF_EACH
}

template <int kScalars>
WF_ALWAYS void plain_gru_units(const GruArgs& a) {
  int block = a.first_block;
  for (; block + kGateBlocks <= a.last_block; block += kGateBlocks)
    plain_gru_blocks<kScalars, kGateBlocks>(a, block);
  for (; block < a.last_block; ++block) plain_gru_blocks<kScalars, 1>(a, block);
}

// By the number of scalar inputs, where a loop over them would cost time.
#define WF_BY_SCALARS(function)      \
  if constexpr (!kUnrolledScalars) { \
    function<kAnyScalars>(a);        \
  } else {                           \
    switch (a.n_scalars) {           \
      case 1:                        \
        return function<1>(a);       \
      case 2:                        \
        return function<2>(a);       \
      case 3:                        \
        return function<3>(a);       \
      case 4:                        \
        return function<4>(a);       \
      default:                       \
        return function<0>(a);       \
    }                                \
  }
void gru(const GruArgs& a) { WF_BY_SCALARS(gru_units) }
void plain_gru(const GruArgs& a) { WF_BY_SCALARS(plain_gru_units) }
#undef WF_BY_SCALARS

void input_layer(const float* base, const Conditioning& conditioning, const float* weights,
                 float scalar, int first, int last, float* out) {
  const F x = set1(scalar);
  for (int i = first; i < last; i += kLanes)
    store(out + i, fma(x, load(weights + i), condition(load(base + i), conditioning, i)));
}

// One after the other, in order.
void input_layer_of(const float* base, const Conditioning& conditioning, const float* weights,
                    ptrdiff_t stride, const float* scalars, int count, int first, int last,
                    float* out) {
  for (int i = first; i < last; i += kLanes) {
    F sum = condition(load(base + i), conditioning, i);
    for (int k = 0; k < count; ++k)
      sum = fma(set1(scalars[k]), load(weights + k * stride + i), sum);
    store(out + i, sum);
  }
}

void relu(float* y, const float* hold, int first, int last) {
  for (int i = first; i < last; i += kLanes) {
    const F sum = hold == nullptr ? load(y + i) : add(load(y + i), load(hold + i));
    store(y + i, max(zero(), sum));  // a NaN stays one
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
