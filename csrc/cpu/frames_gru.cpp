#include "cpu/frames_gru.h"

#include <algorithm>
#include <cmath>
#include <vector>

// The innermost loop is as wide as the processor has it; the order of every sum is the same.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define WF_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WF_CLONES
#endif

namespace wavernn_fast::cpu {
namespace {

// sums += h W for h [rows], W [rows][width]. Four rows a pass, since a sum in memory costs more
// than a product.
WF_CLONES void add_product(const double* h, const double* w, size_t rows, size_t width,
                           double* __restrict sums) {
  size_t k = 0;
  for (; k + 4 <= rows; k += 4) {
    const double *w0 = w + k * width, *w1 = w0 + width, *w2 = w1 + width, *w3 = w2 + width;
    const double h0 = h[k], h1 = h[k + 1], h2 = h[k + 2], h3 = h[k + 3];
    for (size_t j = 0; j < width; ++j) {
      double sum = sums[j];
      sum += h0 * w0[j];
      sum += h1 * w1[j];
      sum += h2 * w2[j];
      sum += h3 * w3[j];
      sums[j] = sum;
    }
  }
  for (; k < rows; ++k)
    for (size_t j = 0; j < width; ++j) sums[j] += h[k] * w[k * width + j];
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// A quarter of the time of std::tanh. Near 0 it has an error of 1e-16, as an addend of a state has.
double tanh_of(double x) { return 2.0 * sigmoid(2.0 * x) - 1.0; }

}  // namespace

void bidirectional_gru(const double* inputs, const double* weights, const double* biases, size_t n,
                       size_t hidden, double* out, const std::function<void()>& interrupt) {
  constexpr size_t kBetweenLooks = 256;  // frames: some ten milliseconds
  const size_t width = 3 * hidden;
  std::vector<double> h(hidden), sums(width);
  for (size_t direction = 0; direction < 2; ++direction) {
    const double* w = weights + direction * hidden * width;
    std::fill(h.begin(), h.end(), 0.0);
    for (size_t t = 0; t < n; ++t) {
      if (t % kBetweenLooks == kBetweenLooks - 1) interrupt();
      const double* a = inputs + (direction * n + t) * width;
      std::copy_n(biases + direction * width, width, sums.begin());
      add_product(h.data(), w, hidden, width, sums.data());
      const size_t frame = direction == 0 ? t : n - 1 - t;
      double* to = out + (2 * frame + direction) * hidden;
      for (size_t i = 0; i < hidden; ++i) {
        const double r = sigmoid(a[i] + sums[i]);
        const double z = sigmoid(a[hidden + i] + sums[hidden + i]);
        const double e = tanh_of(a[2 * hidden + i] + r * sums[2 * hidden + i]);
        to[i] = h[i] = z * h[i] + (1.0 - z) * e;
      }
    }
  }
}

}  // namespace wavernn_fast::cpu
