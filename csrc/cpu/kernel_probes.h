// Probes of the hardware floor for kernels.cpp: what benchmarks are measured against.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

uint64_t probe_read(const void* data, size_t bytes) {
  const auto* p = static_cast<const float*>(data);
  const size_t n = bytes / sizeof(float) / (8 * kLanes) * (8 * kLanes);
  F acc[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) acc[j] = zero();
  for (size_t i = 0; i < n; i += 8 * kLanes) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) acc[j] = max(acc[j], load(p + i + j * kLanes));
  }
  float sink = 0;
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) sink += reduce_max(acc[j]);
  return n * sizeof(float) + (sink == 12345.0f ? 1 : 0);
}

uint64_t probe_fma(const float* start, uint64_t rounds) {
  constexpr int kChains = kMaxAccumulators < 12 ? kMaxAccumulators : 12;
  F acc[kChains];
  const F a = load(start), b = load(start + kLanes);
  // Different values in every lane, or the compiler would compute equal chains once.
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) acc[j] = load(start + kLanes * (j + 2));
  for (uint64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = fma(acc[j], a, b);
  }
  float sink = 0;
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) sink += reduce_max(acc[j]);
  return rounds * kChains * kLanes + (sink == 12345.0f ? 1 : 0);
}

// 16-bit weights from L1 widened and multiplied: what a product can do when memory is no limit.
template <class Format>
uint64_t probe_widen(const void* data, size_t bytes, uint64_t rounds) {
  constexpr int kChains = 6;
  const auto* w = static_cast<const typename Format::Weight*>(data);
  const size_t step = size_t(kLanes) * kChains, n = bytes / sizeof(*w) / step * step;
  F acc[kChains];
#pragma GCC unroll 8
  for (int j = 0; j < kChains; ++j) acc[j] = zero();
  const F x = set1(1.0f);
  for (uint64_t i = 0; i < rounds; ++i) {
    for (size_t k = 0; k < n; k += step) {
#pragma GCC unroll 8
      for (int j = 0; j < kChains; ++j)
        acc[j] = fma(Format::load_block(w + k + kLanes * j), x, acc[j]);
    }
  }
  float sink = 0;
#pragma GCC unroll 8
  for (int j = 0; j < kChains; ++j) sink += reduce_max(acc[j]);
  return rounds * n + (sink == 12345.0f ? 1 : 0);
}

// Dot products in registers alone, as many sums in flight as hide the latency of the instruction.
uint64_t probe_int8(const void* data, uint64_t rounds) {
  constexpr int kChains = kMaxAccumulators < 12 ? 4 : 12;
  Q weights = load_q(static_cast<const int8_t*>(data));
  const uint8_t q[4] = {1, 2, 3, 4};
  I acc[kChains];
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) acc[j] = zero_int();
  for (uint64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      keep(weights);  // or the compiler would share what is not a sum among the chains
      acc[j] = dot4(acc[j], weights, q);
      keep(acc[j]);
    }
  }
  uint64_t sink = 0;
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) sink += reduce_add(acc[j]);
  return rounds * kChains * 4 * kLanes + (sink == 12345 ? 1 : 0);
}

}  // namespace
}  // namespace wavernn_fast::cpu::WF_ISA
