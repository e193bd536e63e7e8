// Draws of the gaussian and beta heads by inversion of one word: common/real_draws.h in single
// precision, every lane of the drawing warp with the same value. Errors are those of a word a
// millionth larger or smaller, which is what rounded outputs of the network bring anyway.
#pragma once

#include "cuda/kernels/math.cuh"

namespace wavernn_fast::gpu {

WF_INLINE float clipped(float x) { return smallest(largest(x, -1.0f), 1.0f); }

// v = (word + 1/2) / 2^32; 1 - v is that of the word's complement, so that neither loses what lies
// near 0.
WF_INLINE float share_of(unsigned word) {
  // Upper and lower 16 bits, each exact in float.
  const float high = mul(to_float(static_cast<int>(word >> 16)), 1.52587890625e-5f);
  const float low = add(to_float(static_cast<int>(word & 0xffff)), 0.5f);
  return fma(low, 2.3283064365386963e-10f, high);
}

// --- gaussian
// -------------------------------------------------------------------------------------

// z with P(normal < z) = v: Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), routine
// PPND7, good to 1e-7. What it does for v below 1.4e-11 no word needs.
WF_INLINE float normal_quantile(unsigned word) {
  const int centred = static_cast<int>(word ^ 0x80000000u);
  const float q = fma(add(to_float(centred & 0xffff), 0.5f), 2.3283064365386963e-10f,
                      mul(to_float(centred >> 16), 1.52587890625e-5f));  // v - 1/2
  if (absolute(q) <= 0.425f) {
    const float r = fma(-q, q, 0.180625f);
    const float above =
        fma(fma(fma(59.109374720f, r, 159.29113202f), r, 50.434271938f), r, 3.3871327179f);
    const float below = fma(fma(fma(67.187563600f, r, 78.757757664f), r, 17.895169469f), r, 1.0f);
    return mul(q, mul(above, reciprocal(below)));
  }
  const float tail = share_of(centred < 0 ? word : ~word);
  const float r = sub(square_root(-log_of(tail)), 1.6f);
  const float above =
      fma(fma(fma(0.17023821103f, r, 1.3067284816f), r, 2.7568153900f), r, 1.4234372777f);
  const float below = fma(fma(0.12021132975f, r, 0.73700164250f), r, 1.0f);
  const float z = mul(above, reciprocal(below));
  return centred < 0 ? -z : z;
}

// Outputs: mean and log-deviation.
WF_INLINE float draw_gaussian(const KernelArgs& args, const float* outputs, unsigned word) {
  const float mean = outputs[0];
  if (kFull && args.greedy) return clipped(mean);
  const float deviation = exp_of(smallest(largest(outputs[1], -7.0f), 80.0f));
  const float scaled = mul(deviation, reciprocal(args.inv_temperature));
  return clipped(fma(scaled, normal_quantile(word), mean));
}

// --- beta
// -----------------------------------------------------------------------------------------

// As class BetaQuantile describes: the density of t = ln(y / (1 - y)) on both sides of its top t0 =
// ln(a / b), in panels that double away from it. Lanes 0 to 15 have the left side and 16 to 31 the
// right one; eight lanes have the nodes of a panel.
struct BetaSide {
  float a, b;        // as seen when looking away from t0
  float mean, rest;  // a / (a + b), b / (a + b)
};

// Of the nodes of a panel this lane's: from -1 to 1, and its weight.
struct BetaNode {
  float at, weight;
};
WF_INLINE BetaNode beta_node() {
  const int pair = lane_index() >> 1 & 3;
  const float at = pair == 0   ? 0.18343464249564978f
                   : pair == 1 ? 0.525532409916329f
                   : pair == 2 ? 0.7966664774136267f
                               : 0.9602898564975362f;
  const float weight = pair == 0   ? 0.36268378337836166f
                       : pair == 1 ? 0.3137066458778869f
                       : pair == 2 ? 0.22238103445337443f
                                   : 0.10122853629037706f;
  return {lane_index() & 1 ? at : -at, weight};
}

// ln of the density at t0 + d over that at t0, d >= 0:
//   -a ln(1 + rest (exp(-d) - 1)) - b ln(1 + mean (exp(d) - 1)).
// Near t0 both logarithms keep the digits of their small arguments, far away they are those of sums
// of positive numbers. Beyond `far` the first stays as it is and the second grows by d.
WF_INLINE float beta_fall(const BetaSide& side, float d) {
  constexpr float kFar = 80.0f;
  const float near = smallest(d, kFar), growth = exp_minus_one(near, kFar),
              grown = add(growth, 1.0f);
  const float shrunk = reciprocal(grown), lost = -mul(growth, shrunk);
  const float first = log_near_one(mul(side.rest, lost), fma(side.rest, shrunk, side.mean));
  const float second = log_near_one(mul(side.mean, growth), fma(side.mean, grown, side.rest));
  return fma(-side.b, add(second, sub(d, near)), -mul(side.a, first));
}

// exp(x) for x <= 0, of which nothing is left below -80.
WF_INLINE float density_of(float fall) { return exp_of(largest(fall, -80.0f)); }

// Sum over a panel's lanes, in each of them.
WF_INLINE float panel_sum(float x) {
  x = add(x, from_lane(x, 4));
  x = add(x, from_lane(x, 2));
  return add(x, from_lane(x, 1));
}

// What both sides hold: the same in all lanes, but `mass` and `tail`.
struct BetaMasses {
  int panels;  // of either side
  float end;   // where they end
  float mass;  // of panel 2 k and the next: lane k of their eight
  float tail;  // of this lane's side, beyond the end
  float own;   // all of this lane's side
};

// Panel 0 reaches from t0 to `width`, panel i > 0 from 2^(i - 1) to 2^i times that.
WF_INLINE BetaMasses beta_masses(const BetaSide& side, const BetaNode& node, float width,
                                 float reach) {
  constexpr int kMostRounds = 8;  // two panels each; parameters in range need six
  constexpr float kDepth = -26.0f;
  BetaMasses m{0, 0.0f, 0.0f, 0.0f, 0.0f};
  float to = width;
  bool flat = false;  // this side ended where it falls like an exponential
  WF_ROLLED
  for (int round = 0; round < kMostRounds; ++round) {
    const bool second = lane_index() & 8;
    const float end = second ? add(to, to) : to, from = round > 0 || second ? mul(0.5f, end) : 0.0f;
    const float half = mul(0.5f, sub(end, from)), d = fma(half, node.at, mul(0.5f, add(from, end)));
    const float fall = beta_fall(side, d);
    const float mass = panel_sum(mul(mul(node.weight, half), density_of(fall)));
    if ((lane_index() & 7) == round) m.mass = mass;
    m.own = add(m.own, add(mass, from_lane(mass, 8)));
    m.panels += 2;
    m.end = add(to, to);
    to = mul(to, 4.0f);
    // The last lane of each side has the outermost node.
    flat = d > reach;
    const unsigned over = warp_ballot(flat || fall < kDepth);
    if ((over >> 15 & 1) != 0 && over >> 31 != 0) break;
  }
  // There the density is exp(-b d) times a constant.
  if ((warp_ballot(flat) & 0x80008000u) != 0) {
    m.tail = mul(density_of(beta_fall(side, m.end)), reciprocal(side.b));
    m.own = add(m.own, m.tail);
  }
  return m;
}

// d so that `beyond` of the mass of a side lies further from t0 than d: the panel first, then
// Newton steps inside it, which start at its near end or where a bisection has put them.
WF_INLINE float beta_distance(const BetaSide& side, const BetaNode& node, const BetaMasses& m,
                              int first_lane, float width, float beyond) {
  const float tail = of_lane(m.tail, first_lane);
  if (beyond < tail) return fma(log_of(mul(tail, reciprocal(beyond))), reciprocal(side.b), m.end);
  int panel = m.panels - 1;
  float outside = tail, mass;
  WF_ROLLED
  for (;; --panel) {
    mass = of_lane(m.mass, first_lane + 8 * (panel & 1) + (panel >> 1));
    if (panel == 0 || add(outside, mass) >= beyond) break;
    outside = add(outside, mass);
  }
  float high = mul(width, power_of_two(panel));
  float low = panel == 0 ? 0.0f : mul(0.5f, high);
  const float end = high, near_enough = mul(1e-4f, end);  // what is left is the square of that
  float d =
      sub(high, mul(sub(high, low), smallest(1.0f, mul(sub(beyond, outside), reciprocal(mass)))));
  const bool at_d = lane_index() & 8;  // these lanes have the density at d
  WF_ROLLED
  for (int i = 0; i < 30; ++i) {
    const float half = mul(0.5f, sub(end, d));
    const float density = density_of(beta_fall(side, at_d ? d : fma(half, add(node.at, 1.0f), d)));
    const float sum = panel_sum(at_d ? density : mul(mul(node.weight, half), density));
    const float other = from_lane(sum, 8);
    const float integral = at_d ? other : sum, slope = mul(0.125f, at_d ? sum : other);
    const float excess = sub(add(outside, integral), beyond);  // falls with d
    if (excess > 0.0f)
      low = d;
    else
      high = d;
    const float last = d, next = fma(excess, reciprocal(slope), d);
    d = next >= low && next <= high ? next : mul(0.5f, add(low, high));
    if (absolute(sub(d, last)) <= near_enough) break;
  }
  return d;
}

// Outputs: logarithms of alpha and beta; 2 y - 1 of a beta variable y. A temperature T divides both
// parameters by T^2.
WF_INLINE float draw_beta(const KernelArgs& args, const float* outputs, unsigned word) {
  constexpr float kLeast = -20.723265837f;  // ln(1e-9)
  constexpr float kMost = 80.0f;
  const float log_a = smallest(largest(outputs[0], -20.0f), kMost);
  const float log_b = smallest(largest(outputs[1], -20.0f), kMost);
  float top = sub(log_a, log_b);
  if (kFull && args.greedy) return tanh_near_zero(mul(0.5f, top));
  const float cooled = mul(2.0f, log_of(args.inv_temperature));
  float a = add(log_a, cooled), b = add(log_b, cooled);
  if (smallest(a, b) < kLeast) {
    a = largest(a, kLeast);
    b = largest(b, kLeast);
    top = sub(a, b);
  }
  a = smallest(a, kMost);
  b = smallest(b, kMost);
  // a b / (a + b), of which the deviation is the square root where the density is like a gaussian.
  const float spread = add(exp_of(-a), exp_of(-b));
  const float deviation = square_root(spread);
  if (spread < 1e-8f)  // what skews it is of the size of the deviation, squared
    return tanh_near_zero(mul(0.5f, fma(deviation, normal_quantile(word), top)));
  const float width = smallest(deviation, 1.0f);
  const bool right = lane_index() >= 16;
  const float share = reciprocal(add(1.0f, exp_of(smallest(largest(-top, -80.0f), 80.0f))));
  const float other = reciprocal(add(1.0f, exp_of(smallest(largest(top, -80.0f), 80.0f))));
  a = exp_of(a);
  b = exp_of(b);
  const BetaNode node = beta_node();
  const BetaSide own = right ? BetaSide{a, b, share, other} : BetaSide{b, a, other, share};
  constexpr float kLevel = 18.5f;  // exp(-18.5) = 1e-8
  const float reach = add(kLevel, largest(right ? -top : top, 0.0f));
  const BetaMasses m = beta_masses(own, node, width, reach);
  const float opposite = from_lane(m.own, 16), total = add(m.own, opposite);
  const float below = mul(share_of(word), total), left = right ? opposite : m.own;
  if (below < left) {
    const BetaSide side{b, a, other, share};
    const float d = beta_distance(side, node, m, 0, width, below);
    return tanh_near_zero(mul(0.5f, sub(top, d)));
  }
  const BetaSide side{a, b, share, other};
  const float d = beta_distance(side, node, m, 16, width, mul(share_of(~word), total));
  return tanh_near_zero(mul(0.5f, add(top, d)));
}

}  // namespace wavernn_fast::gpu
