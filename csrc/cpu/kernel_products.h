// Dense products of kernels.cpp, which includes this after the vector operations of its
// instruction set: weight formats, register tiles, panels.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

struct Fp32 {
  using Weight = float;
  WF_ALWAYS F load_block(const Weight* w) { return load(w); }
};
struct Fp16 {
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_fp16(w); }
};
struct Bf16 {
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_bf16(w); }
};
inline constexpr int kWideBlocks = kMaxAccumulators / kStreamTile;  // of a tile of a batch

// acc += w x of one column: x [kStreams], ldx apart.
template <class Format, int kBlocks, int kStreams>
WF_ALWAYS void add_column(const typename Format::Weight* w, const float* x, ptrdiff_t ldx,
                          F (&acc)[kBlocks][kStreams]) {
  if constexpr (kStreams == 1) {
    // One widened block alive at a time: the accumulators fill the registers.
    const F input = set1(x[0]);
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b)
      acc[b][0] = fma(Format::load_block(w + kLanes * b), input, acc[b][0]);
  } else {
    F weights[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) weights[b] = Format::load_block(w + kLanes * b);
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) {
      const F input = set1(x[s * ldx]);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) acc[b][s] = fma(weights[b], input, acc[b][s]);
    }
  }
}

// One block of columns for a tile of rows and streams: y = total + W x.
struct TileArgs {
  const void* weights;  // [cols][step]
  ptrdiff_t step;       // weights between columns
  int cols;
  const float* x;  // [streams][ldx]
  ptrdiff_t ldx;
  const float* total;  // [streams][ld_total]
  ptrdiff_t ld_total;
  float* y;  // [streams][ldy]
  ptrdiff_t ldy;
  const char* ahead;  // weights of the next block of columns, fetched a piece a column
  ptrdiff_t ahead_step;
};

// Partial sums stay in registers. Totals live in memory: the registers are full, and they are in
// the first-level cache.
template <class Format, int kBlocks, int kStreams>
WF_ALWAYS void add_columns(TileArgs t) {  // a copy, which stores through y cannot change
  F acc[kBlocks][kStreams];
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) acc[b][s] = zero();
  }
  const auto* w = static_cast<const typename Format::Weight*>(t.weights);
  for (int k = 0; k < t.cols; ++k, w += t.step) {
    if constexpr (kStreams > 1) __builtin_prefetch(t.ahead + k * t.ahead_step);
    add_column<Format, kBlocks, kStreams>(w, t.x + k, t.ldx, acc);
  }
#pragma GCC unroll 8
  for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const F total = load(t.total + s * t.ld_total + kLanes * b);
      store(t.y + s * t.ldy + kLanes * b, add(total, acc[b][s]));
    }
  }
}

WF_ALWAYS int columns_from(const MatmulArgs& a, int k) {
  return a.cols - k < kColumnBlock ? a.cols - k : kColumnBlock;
}

// A panel for one stream, all blocks at once, so that enough sums are in flight.
// No software prefetch: the weights are one sequential stream, which the hardware follows better
// by itself (measured on Zen 4 from L3: 97 GB/s without, 66 GB/s with a prefetch of every line).
template <class Format, int kBlocks>
WF_ALWAYS void single_panel(const MatmulArgs& a) {
  const auto* w = static_cast<const typename Format::Weight*>(a.weights);
  const float* x = static_cast<const float*>(a.x);
  TileArgs t{w, ptrdiff_t(kLanes) * kBlocks, 0, x, a.ldx, a.start, a.ld_start, a.y, a.ldy, nullptr,
             0};
  for (int k = 0; k < a.cols; k += t.cols) {
    t.cols = columns_from(a, k);
    t.weights = w + k * t.step;
    t.x = x + k;
    add_columns<Format, kBlocks, 1>(t);
    t.total = a.y;
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
        Q block_weights = load_q(w + 4 * kLanes * b);
        if constexpr (kPieces > 1) keep(block_weights);  // or every dot would load it again
#pragma GCC unroll 8
        for (int p = 0; p < kPieces; ++p)
          acc[p][b][0] = dot4(acc[p][b][0], block_weights, x + p * a.cols + k);
      }
    } else {
      Q weights[kBlocks];
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) {
        weights[b] = load_q(w + 4 * kLanes * b);
        keep(weights[b]);  // or every dot would load it again
      }
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
    const float* start = a.start + (stream + s) * a.ld_start;
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const int row = kLanes * (block + b);
      const I top = a.row_sum ? sub_int(acc[0][b][s], load_int(a.row_sum + row)) : acc[0][b][s];
      F sum = to_float(top);
      if constexpr (kPieces == 2) sum = fma(sum, set1(128.0f), to_float(acc[1][b][s]));
      const F scale = mul(load(a.row_scale + row), x_scale);
      store(a.y + (stream + s) * a.ldy + row, fma(sum, scale, load(start + row)));
    }
  }
}

// Streams [0, count) of a tile; each count its own function, with its sums in registers.
template <int kBlocks, int kStreams>
__attribute__((noinline)) void tile(const TileArgs& t) {
  add_columns<Fp32, kBlocks, kStreams>(t);
}
using Tile = void (*)(const TileArgs&);
template <int kBlocks, int kStreams>
constexpr Tile tile_if_used() {
  if constexpr (kStreams <= kStreamTile)
    return tile<kBlocks, kStreams>;
  else
    return nullptr;
}
template <int kBlocks>
WF_ALWAYS void tile_of(const TileArgs& t, int count) {
  static_assert(kStreamTile <= 8);
  constexpr Tile kTiles[] = {tile_if_used<kBlocks, 1>(), tile_if_used<kBlocks, 2>(),
                             tile_if_used<kBlocks, 3>(), tile_if_used<kBlocks, 4>(),
                             tile_if_used<kBlocks, 5>(), tile_if_used<kBlocks, 6>(),
                             tile_if_used<kBlocks, 7>(), tile_if_used<kBlocks, 8>()};
  kTiles[count - 1](t);
}

// Rows of `kBlocks` blocks for all streams, a block of columns at a time: its weights come into the
// first-level cache once, and 16-bit ones are widened once, for all tiles of streams. These are
// dealt evenly: a last tile of one or two would wait for its own sums.
template <class Format, int kBlocks>
void batch_rows(const MatmulArgs& a, int block) {
  alignas(64) float widened[__is_same(Format, Fp32) ? 1 : kColumnBlock * kBlocks * kLanes];
  const ptrdiff_t step = ptrdiff_t(kLanes) * a.blocks;
  const auto* w = static_cast<const typename Format::Weight*>(a.weights) + kLanes * block;
  const float* x = static_cast<const float*>(a.x);
  const float* total = a.start + kLanes * block;
  ptrdiff_t ld_total = a.ld_start;
  const int tiles = (a.streams + kStreamTile - 1) / kStreamTile;
  // The weights are one stream of bytes over blocks of columns and panels.
  const ptrdiff_t block_bytes = ptrdiff_t(kColumnBlock) * step * sizeof(*w);
  const ptrdiff_t even = block_bytes / (tiles * kColumnBlock), ahead_step = even < 64 ? even : 64;
  for (int k = 0; k < a.cols; k += kColumnBlock, w += kColumnBlock * step) {
    const char* ahead = reinterpret_cast<const char*>(w) + block_bytes;
    TileArgs t{w,     step,  columns_from(a, k), x + k, a.ldx, total, ld_total, nullptr,
               a.ldy, ahead, ahead_step};
    if constexpr (!__is_same(Format, Fp32)) {
      for (int i = 0; i < t.cols; ++i) {
        for (int b = 0; b < kBlocks; ++b)
          store(widened + (i * kBlocks + b) * kLanes,
                Format::load_block(w + i * step + kLanes * b));
      }
      t.weights = widened;
      t.step = kBlocks * kLanes;
    }
    t.y = a.y + kLanes * block;
    for (int i = 0, stream = 0; i < tiles; ++i) {
      const int count = (a.streams - stream) / (tiles - i);
      tile_of<kBlocks>(t, count);
      stream += count;
      t.x += count * t.ldx;
      t.ahead += kColumnBlock * ahead_step;
      t.total += count * t.ld_total;
      t.y += count * t.ldy;
    }
    total = a.y + kLanes * block;
    ld_total = a.ldy;
  }
}

// By the number of blocks; no plan has wider panels than kWidestPanel.
template <class Format, int kBlocks>
WF_ALWAYS void single_panel_if(const MatmulArgs& a) {
  if constexpr (kBlocks <= kWidestPanel) single_panel<Format, kBlocks>(a);
}
template <class Format>
void matmul_single(const MatmulArgs& a) {
  switch (a.blocks) {
    case 1:
      return single_panel_if<Format, 1>(a);
    case 2:
      return single_panel_if<Format, 2>(a);
    case 3:
      return single_panel_if<Format, 3>(a);
    case 4:
      return single_panel_if<Format, 4>(a);
    case 5:
      return single_panel_if<Format, 5>(a);
    default:
      return single_panel_if<Format, 6>(a);
  }
}

template <class Format>
void matmul(const MatmulArgs& a) {
  if (a.streams == 1) return matmul_single<Format>(a);
  int block = 0;
  for (; block + kWideBlocks <= a.blocks; block += kWideBlocks)
    batch_rows<Format, kWideBlocks>(a, block);
  if constexpr (kWideBlocks > 2)
    if (a.blocks - block == 2) return batch_rows<Format, 2>(a, block);
  if constexpr (kWideBlocks > 1)
    if (a.blocks - block == 1) return batch_rows<Format, 1>(a, block);
}

// The same for int8: whole sums in registers, all columns at once.
template <int kPieces, int kBlocks, int kStreams>
WF_ALWAYS void int8_tile_if(const MatmulArgs& a, int block, int stream) {
  if constexpr (kStreams <= kStreamTile / kPieces || kStreams == 1)
    matmul_tile_int8<kPieces, kBlocks, kStreams>(a, block, stream);
}
template <int kPieces, int kBlocks>
void int8_rows(const MatmulArgs& a, int block) {
  constexpr int kTile = kStreamTile / kPieces > 0 ? kStreamTile / kPieces : 1;
  const int tiles = (a.streams + kTile - 1) / kTile;
  for (int i = 0, stream = 0; i < tiles; ++i) {
    const int count = (a.streams - stream) / (tiles - i);
    switch (count) {
      case 1:
        int8_tile_if<kPieces, kBlocks, 1>(a, block, stream);
        break;
      case 2:
        int8_tile_if<kPieces, kBlocks, 2>(a, block, stream);
        break;
      case 3:
        int8_tile_if<kPieces, kBlocks, 3>(a, block, stream);
        break;
      case 4:
        int8_tile_if<kPieces, kBlocks, 4>(a, block, stream);
        break;
      case 5:
        int8_tile_if<kPieces, kBlocks, 5>(a, block, stream);
        break;
      case 6:
        int8_tile_if<kPieces, kBlocks, 6>(a, block, stream);
        break;
      case 7:
        int8_tile_if<kPieces, kBlocks, 7>(a, block, stream);
        break;
      default:
        int8_tile_if<kPieces, kBlocks, 8>(a, block, stream);
        break;
    }
    stream += count;
  }
}

template <int kPieces, int kBlocks>
WF_ALWAYS void int8_panel_if(const MatmulArgs& a) {
  if constexpr (kBlocks <= kWidestPanel) matmul_tile_int8<kPieces, kBlocks, 1>(a, 0, 0);
}
template <int kPieces>
void matmul_int8_single(const MatmulArgs& a) {
  switch (a.blocks) {
    case 1:
      return int8_panel_if<kPieces, 1>(a);
    case 2:
      return int8_panel_if<kPieces, 2>(a);
    case 3:
      return int8_panel_if<kPieces, 3>(a);
    case 4:
      return int8_panel_if<kPieces, 4>(a);
    case 5:
      return int8_panel_if<kPieces, 5>(a);
    default:
      return int8_panel_if<kPieces, 6>(a);
  }
}

template <int kPieces>
void matmul_int8(const MatmulArgs& a) {
  if (a.streams == 1) return matmul_int8_single<kPieces>(a);
  int block = 0;
  for (; block + kWideBlocks <= a.blocks; block += kWideBlocks)
    int8_rows<kPieces, kWideBlocks>(a, block);
  if constexpr (kWideBlocks > 2)
    if (a.blocks - block == 2) return int8_rows<kPieces, 2>(a, block);
  if constexpr (kWideBlocks > 1)
    if (a.blocks - block == 1) return int8_rows<kPieces, 1>(a, block);
}

}  // namespace
}  // namespace wavernn_fast::cpu::WF_ISA
