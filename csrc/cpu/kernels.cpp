// Compiled once per instruction set: WF_ISA names the namespace and the vec_*.h file.
//
// No standard library template may be instantiated here: the linker could pick the copy built
// with AVX-512 for the whole program.
#include "cpu/kernels.h"

#include <cstring>

#define WF_CONCAT_(a, b) a##b
#define WF_CONCAT(a, b) WF_CONCAT_(a, b)
#define WF_STRING_(a) #a
#define WF_STRING(a) WF_STRING_(a)
#include WF_VEC_HEADER

namespace wavernn_fast::cpu::WF_ISA {
namespace {

#define WF_ALWAYS static inline __attribute__((always_inline))


// ---- weight formats: a block is 16 rows of one column (int8: of four columns) ----------------

struct Fp32 {
  static constexpr int kTilePieces = 1;
  using Weight = float;

  WF_ALWAYS F load_block(const Weight* w) { return load(w); }
};
struct Fp16 {
  static constexpr int kTilePieces = 1;
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_fp16(w); }
};
struct Bf16 {
  static constexpr int kTilePieces = 1;
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_bf16(w); }
};

// ---- dense products ---------------------------------------------------------------------------

// `kBlocks` adjacent blocks of a panel for `kStreams` inputs; everything stays in registers.
// No software prefetch: the weights are one sequential stream, which the hardware follows better
// by itself (measured on Zen 4 from L3: 97 GB/s without, 66 GB/s with a prefetch of every line).
template <class Format, int kBlocks, int kStreams>
WF_ALWAYS void matmul_tile(const MatmulArgs& a, int block, int stream) {
  F acc[kBlocks][kStreams];
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) acc[b][s] = load(a.bias + kLanes * (block + b));
  }
  const ptrdiff_t step = ptrdiff_t(kLanes) * a.blocks;
  const auto* w = static_cast<const typename Format::Weight*>(a.weights) + kLanes * block;
  const float* x = static_cast<const float*>(a.x) + stream * a.ldx;
  for (int k = 0; k < a.cols; ++k) {
    if constexpr (kStreams == 1) {
      // One widened block alive at a time: the accumulators fill the registers.
      const F input = set1(x[k]);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b)
        acc[b][0] = fma(Format::load_block(w + kLanes * b), input, acc[b][0]);
    } else {
      F weights[kBlocks];
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) weights[b] = Format::load_block(w + kLanes * b);
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
        const F input = set1(x[s * a.ldx + k]);
#pragma GCC unroll 8
        for (int b = 0; b < kBlocks; ++b) acc[b][s] = fma(weights[b], input, acc[b][s]);
      }
    }
    w += step;
  }
#pragma GCC unroll 8
  for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b)
      store(a.y + (stream + s) * a.ldy + kLanes * (block + b), acc[b][s]);
  }
}

template <int kPieces, int kBlocks, int kStreams>
WF_ALWAYS void matmul_tile_int8(const MatmulArgs& a, int block, int stream) {
  I acc[kPieces][kBlocks][kStreams];
#pragma GCC unroll 8
  for (int p = 0; p < kPieces; ++p) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) acc[p][b][s] = zero_int();
    }
  }
  const ptrdiff_t step = ptrdiff_t(4 * kLanes) * a.blocks;
  const int8_t* w = static_cast<const int8_t*>(a.weights) + 4 * kLanes * block;
  const uint8_t* x = static_cast<const uint8_t*>(a.x) + stream * a.ldx;
  for (int k = 0; k < a.cols; k += 4) {
    if constexpr (kStreams == 1) {
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) {
        const Q block_weights = load_q(w + 4 * kLanes * b);
#pragma GCC unroll 8
        for (int p = 0; p < kPieces; ++p)
          acc[p][b][0] = dot4(acc[p][b][0], block_weights, x + p * a.cols + k);
      }
    } else {
      Q weights[kBlocks];
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) weights[b] = load_q(w + 4 * kLanes * b);
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 8
        for (int p = 0; p < kPieces; ++p) {
          const uint8_t* four = x + s * a.ldx + p * a.cols + k;
#pragma GCC unroll 8
          for (int b = 0; b < kBlocks; ++b) acc[p][b][s] = dot4(acc[p][b][s], weights[b], four);
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPieces; ++p) {
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s) keep(acc[p][b][s]);
      }
    }
    w += step;
  }
#pragma GCC unroll 8
  for (int s = 0; s < kStreams; ++s) {
    const F x_scale = set1(a.x_scale[stream + s]);
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const int row = kLanes * (block + b);
      const I top = a.row_sum ? sub_int(acc[0][b][s], load_int(a.row_sum + row)) : acc[0][b][s];
      F sum = to_float(top);
      if constexpr (kPieces == 2) sum = fma(sum, set1(128.0f), to_float(acc[1][b][s]));
      const F scale = mul(load(a.row_scale + row), x_scale);
      store(a.y + (stream + s) * a.ldy + row, fma(sum, scale, load(a.bias + row)));
    }
  }
}

template <int kPieces>
struct Int8 {
  static constexpr int kTilePieces = kPieces;
};

template <class Format, int kBlocks, int kStreams>
WF_ALWAYS void one_tile(const MatmulArgs& a, int block, int stream) {
  if constexpr (__is_same(Format, Int8<1>)) {
    matmul_tile_int8<1, kBlocks, kStreams>(a, block, stream);
  } else if constexpr (__is_same(Format, Int8<2>)) {
    matmul_tile_int8<2, kBlocks, kStreams>(a, block, stream);
  } else {
    matmul_tile<Format, kBlocks, kStreams>(a, block, stream);
  }
}

// Blocks [block, block + kBlocks) for `count` streams from `stream` on.
template <class Format>
constexpr int tile_streams = kStreamTile / Format::kTilePieces;

template <class Format, int kBlocks>
WF_ALWAYS void tile_of(const MatmulArgs& a, int block, int stream, int count) {
  constexpr int kTile = tile_streams<Format>;
  switch (count) {
    case 1: one_tile<Format, kBlocks, 1>(a, block, stream); break;
    case 2: one_tile<Format, kBlocks, 2>(a, block, stream); break;
    case 3: if constexpr (kTile > 2) one_tile<Format, kBlocks, 3>(a, block, stream); break;
    case 4: if constexpr (kTile > 3) one_tile<Format, kBlocks, 4>(a, block, stream); break;
    case 5: if constexpr (kTile > 4) one_tile<Format, kBlocks, 5>(a, block, stream); break;
    case 6: if constexpr (kTile > 5) one_tile<Format, kBlocks, 6>(a, block, stream); break;
    case 7: if constexpr (kTile > 6) one_tile<Format, kBlocks, 7>(a, block, stream); break;
    case 8: if constexpr (kTile > 7) one_tile<Format, kBlocks, 8>(a, block, stream); break;
    default: break;
  }
}

// The same for all streams, dealt evenly: a last tile of one or two would wait for its own sums.
// The weights stay in the cache from tile to tile.
template <class Format, int kBlocks>
void matmul_blocks(const MatmulArgs& a, int block) {
  const int tiles = (a.streams + tile_streams<Format> - 1) / tile_streams<Format>;
  for (int i = 0, stream = 0; i < tiles; ++i) {
    const int count = (a.streams - stream) / (tiles - i);
    tile_of<Format, kBlocks>(a, block, stream, count);
    stream += count;
  }
}

// One stream: as many blocks at once as there are, so that enough sums are in flight.
template <class Format>
void matmul_single(const MatmulArgs& a) {
  switch (a.blocks) {
    case 1: one_tile<Format, 1, 1>(a, 0, 0); break;
    case 2: one_tile<Format, 2, 1>(a, 0, 0); break;
    case 3: one_tile<Format, 3, 1>(a, 0, 0); break;
    case 4: one_tile<Format, 4, 1>(a, 0, 0); break;
    case 5: one_tile<Format, 5, 1>(a, 0, 0); break;
    case 6: one_tile<Format, 6, 1>(a, 0, 0); break;
    default: break;
  }
}

template <class Format>
void matmul(const MatmulArgs& a) {
  if (a.streams == 1) return matmul_single<Format>(a);
  constexpr int kWide = kMaxAccumulators / kStreamTile;
  int block = 0;
  for (; block + kWide <= a.blocks; block += kWide) matmul_blocks<Format, kWide>(a, block);
  switch (a.blocks - block) {
    case 1: if constexpr (kWide > 1) matmul_blocks<Format, 1>(a, block); break;
    case 2: if constexpr (kWide > 2) matmul_blocks<Format, 2>(a, block); break;
    default: break;
  }
}

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

// ---- elementwise ------------------------------------------------------------------------------

// exp to about 1 ulp for x in [-86, 88] (clamped): Cody-Waite reduction, degree-6 polynomial with
// the coefficients of the Cephes library (S. Moshier, expf).
WF_ALWAYS F exp_of(F x) {
  x = min(max(x, set1(-86.0f)), set1(88.0f));
  const I n = round_int(mul(x, set1(1.44269504088896341f)));
  const F nf = to_float(n);
  F r = fma(nf, set1(-0.693359375f), x);
  r = fma(nf, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, mul(r, r), r);
  return scale_exponent(add(p, set1(1.0f)), n);
}

WF_ALWAYS F sigmoid(F x) {
  const F one = set1(1.0f);
  return div(one, add(one, exp_of(sub(zero(), x))));
}

WF_ALWAYS F tanh_of(F x) {
  const F one = set1(1.0f);
  return fma(set1(-2.0f), div(one, add(one, exp_of(add(x, x)))), one);
}

WF_ALWAYS F condition(F acc, const Conditioning& c, int channel) {
  if (c.hold != nullptr) acc = add(acc, load(c.hold + channel));
  for (int j = 0; j < c.taps; ++j)
    acc = fma(set1(c.kernel[j]), load(c.interp + j * c.stride + channel), acc);
  return acc;
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
    case 1: gru_units<1>(a); break;
    case 2: gru_units<2>(a); break;
    case 3: gru_units<3>(a); break;
    default: gru_units<0>(a); break;
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

// ---- probes of the hardware floor --------------------------------------------------------------

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

uint64_t probe_int8(const void* data, size_t bytes, uint64_t rounds) {
  constexpr int kChains = kMaxAccumulators < 8 ? kMaxAccumulators : 8;
  const auto* w = static_cast<const int8_t*>(data);
  const uint8_t q[4] = {1, 2, 3, 4};
  I acc[kChains];
#pragma GCC unroll 8
  for (int j = 0; j < kChains; ++j) acc[j] = zero_int();
  const size_t step = size_t(4 * kLanes) * kChains, n = bytes / step * step;
  for (uint64_t i = 0; i < rounds; ++i) {
    for (size_t k = 0; k < n; k += step) {
#pragma GCC unroll 8
      for (int j = 0; j < kChains; ++j) acc[j] = dot4(acc[j], load_q(w + k + 4 * kLanes * j), q);
    }
  }
  uint64_t sink = 0;
#pragma GCC unroll 8
  for (int j = 0; j < kChains; ++j) sink += reduce_add(acc[j]);
  return rounds * n + (sink == 12345 ? 1 : 0);
}

}  // namespace

extern const KernelTable kTable;
const KernelTable kTable = {
    .name = WF_STRING(WF_ISA),
    .panel_blocks = kPanelBlocks,
    .matmul_fp32 = matmul<Fp32>,
    .matmul_fp16 = matmul<Fp16>,
    .matmul_bf16 = matmul<Bf16>,
    .matmul_int8 = matmul<Int8<2>>,
    .matmul_int8_fast = matmul<Int8<1>>,
    .quantize = quantize,
    .gru = gru,
    .input_layer = input_layer,
    .relu = relu,
    .add = add_vectors,
    .categorical = categorical,
    .probe_read = probe_read,
    .probe_fma = probe_fma,
    .probe_int8 = probe_int8,
    .probe_fp16 = probe_widen<Fp16>,
    .probe_bf16 = probe_widen<Bf16>,
};

}  // namespace wavernn_fast::cpu::WF_ISA
