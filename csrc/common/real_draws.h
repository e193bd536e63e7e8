// Draws of real values by inversion: one random word, one value, which moves smoothly with the word
// and with the two outputs of the network. Only exp, log and tanh are the C library's; everything
// else is written out, so that every instruction set computes the same (docs/numerics.md).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/config.h"

namespace wavernn_fast {

inline constexpr double kLogStdFloor = -7.0;  // of the published gaussian samplers

// Never 0 or 1.
inline double uniform_of(uint32_t word) { return (double(word) + 0.5) / 4294967296.0; }

// z with P(normal < z) = v: Wichura, "Algorithm AS 241: the percentage points of the normal
// distribution", Applied Statistics 37 (1988), routine PPND16; relative error about 1e-16.
inline double normal_quantile(double v) {
  const auto ratio = [](double r, const double (&p)[8], const double (&q)[8]) {
    double above = p[7], below = q[7];
    for (int i = 6; i >= 0; --i) {
      above = above * r + p[i];
      below = below * r + q[i];
    }
    return above / below;
  };
  static constexpr double kMiddle[2][8] = {
      {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
       1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
       3.3430575583588128105e4, 2.5090809287301226727e3},
      {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
       2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
       5.2264952788528545610e3}};
  static constexpr double kNear[2][8] = {
      {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
       3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
       2.27238449892691845833e-2, 7.74545014278341407640e-4},
      {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
       1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
       1.05075007164441684324e-9}};
  const double q = v - 0.5;
  if (std::abs(q) <= 0.425) return q * ratio(0.180625 - q * q, kMiddle[0], kMiddle[1]);
  // The third region of the routine begins at v = 1.4e-11: no word of 32 bits lies there.
  const double r = std::sqrt(-std::log(std::min(v, 1.0 - v)));
  const double z = ratio(r - 1.6, kNear[0], kNear[1]);
  return q < 0.0 ? -z : z;
}

// What a beta variable y looks like where it is drawn, on the line of t = ln(y / (1 - y)). Its
// density there is
//   exp(g(t)),  g(t) = -a ln(1 + exp(-t)) - b ln(1 + exp(t)) + constant,
// which is log-concave for every a, b > 0 (unlike that of y, which has poles for a < 1), has its
// top at t0 = ln(a / b), and falls off like a gaussian near it and like an exponential far away. So
// few nodes integrate it: panels that double away from t0, each with Gauss-Legendre nodes.
class BetaQuantile {
 public:
  BetaQuantile(double a, double b) : a_(a), b_(b), top_(std::log(a / b)) {
    const double n = a * b / (a + b);  // -g''(t0)
    width_ = n > 1.0 ? 1.0 / std::sqrt(n) : 1.0;
    is_narrow_ = n > 1e12;  // as good as gaussian: what skews it is of the size 1 / sqrt(n)
  }

  // 2 y - 1 of the mean, a / (a + b), which is where t0 lies.
  double centre() const { return std::tanh(0.5 * top_); }

  // 2 y - 1 for the y with P(beta < y) = v.
  double operator()(double v) const {
    if (is_narrow_) return std::tanh(0.5 * (top_ + width_ * normal_quantile(v)));
    Side left = fill(b_, a_), right = fill(a_, b_);
    const double total = left.mass + right.mass;
    const double below = v * total;
    const double t = below < left.mass ? top_ - distance(left, below)
                                       : top_ + distance(right, (1.0 - v) * total);
    return std::tanh(0.5 * t);
  }

 private:
  static constexpr double kDepth = 26.0;  // panels end where the density is exp(-26) of its top
  static constexpr int kPanels = 64;      // far more than parameters in range need
  static constexpr double kNodes[4] = {0.18343464249564978, 0.525532409916329, 0.7966664774136267,
                                       0.9602898564975362};
  static constexpr double kWeights[4] = {0.36268378337836166, 0.3137066458778869,
                                         0.22238103445337443, 0.10122853629037706};

  struct Side {
    double a, b;        // as seen when looking away from t0 to the right
    double mean, rest;  // a / (a + b), b / (a + b)
    int panels = 0;
    double masses[kPanels];  // of each panel, nearest first
    double mass = 0.0;

    // g(t0 + d) - g(t0), d >= 0. The first form loses no digits to cancellation near t0; the second
    // does not overflow.
    double fall(double d) const {
      const double decay = std::exp(-d);
      const double lost = d < 1.0 ? std::expm1(-d) : decay - 1.0;
      // Where 1 + rest * lost is nearly 0 it is a sum of two positive numbers, not a difference.
      const double below = rest * lost;
      const double first = below < -1.0 + 1e-6 ? std::log(mean + rest * decay) : std::log1p(below);
      if (d > 30.0) return -(a + b) * first - b * d;
      return -a * first - b * std::log1p(-mean * lost / decay);
    }
  };

  static double integral(double from, double to, const Side& side) {
    const double middle = 0.5 * (from + to), half = 0.5 * (to - from);
    double sum = 0.0;
    for (int i = 0; i < 4; ++i) {
      const double step = half * kNodes[i];
      sum +=
          kWeights[i] * (std::exp(side.fall(middle - step)) + std::exp(side.fall(middle + step)));
    }
    return sum * half;
  }

  // Panel i reaches from edge(i) to edge(i + 1).
  double edge(int i) const { return i == 0 ? 0.0 : std::ldexp(width_, i - 1); }

  Side fill(double a, double b) const {
    Side side{a, b, a / (a + b), b / (a + b), 0, {}, 0.0};
    while (side.panels < kPanels) {
      const double from = edge(side.panels), to = edge(side.panels + 1);
      side.masses[side.panels] = integral(from, to, side);
      side.mass += side.masses[side.panels++];
      if (side.fall(to) < -kDepth) break;
    }
    return side;
  }

  // d so that `beyond` of the mass lies further from t0 than d: the panel first, then Newton steps
  // inside it, which start at its near end or where a bisection has put them.
  double distance(const Side& side, double beyond) const {
    int panel = side.panels - 1;
    double outside = 0.0;
    while (panel > 0 && outside + side.masses[panel] < beyond) outside += side.masses[panel--];
    const double end = edge(panel + 1);
    double low = edge(panel), high = end;
    double d = high - (high - low) * std::min(1.0, (beyond - outside) / side.masses[panel]);
    for (int i = 0; i < 50; ++i) {
      const double excess = outside + integral(d, end, side) - beyond;  // falls with d
      (excess > 0.0 ? low : high) = d;
      const double next = d + excess / std::exp(side.fall(d));
      const double last = d;
      d = next > low && next < high ? next : 0.5 * (low + high);
      if (std::abs(d - last) <= 1e-7 * end) break;  // what is left is the square of that
    }
    return d;
  }

  double a_, b_;
  double top_;    // t0
  double width_;  // of the first panel: the deviation near t0, or 1 where that is wider
  bool is_narrow_;
};

// One draw of a head with two outputs; x in [-1, 1].
//
// gaussian: mean and log-deviation (floor -7), clipped. beta: logarithms of alpha and beta, x is
// 2 y - 1. A temperature T multiplies the deviation: of a beta by dividing both parameters by T^2,
// which leaves the mean. Greedy is the limit T -> 0: the mean.
inline float draw_real(Head head, const float* outputs, double temperature, bool greedy,
                       uint32_t word) {
  if (head == Head::gaussian) {
    const double mean = outputs[0];
    const double deviation = std::exp(std::max(double(outputs[1]), kLogStdFloor)) * temperature;
    const double x = greedy ? mean : mean + deviation * normal_quantile(uniform_of(word));
    return float(std::clamp(x, -1.0, 1.0));
  }
  // Beyond these limits a beta is a coin, or a point, in float32.
  const auto parameter = [](float log, double share) {
    return std::max(std::exp(std::clamp(double(log), -20.0, 80.0)) * share, 1e-9);
  };
  if (greedy)
    return float(BetaQuantile(parameter(outputs[0], 1), parameter(outputs[1], 1)).centre());
  const double share = 1.0 / std::max(temperature * temperature, 1e-76);
  const BetaQuantile quantile(parameter(outputs[0], share), parameter(outputs[1], share));
  return float(quantile(uniform_of(word)));
}

}  // namespace wavernn_fast
