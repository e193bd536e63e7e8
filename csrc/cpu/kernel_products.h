// Dense products of kernels.cpp, which includes this after the vector operations of its
// instruction set: weight formats, register tiles, panels.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

struct Fp32 {
  static constexpr int kStreamTile = kStreamTiles.plain;
  static constexpr int kSums = kStreamTile;  // accumulators a block
  using Weight = float;

  WF_ALWAYS F load_block(const Weight* w) { return load(w); }
};
struct Fp16 {
  static constexpr int kStreamTile = kStreamTiles.widened;
  static constexpr int kSums = kStreamTile;
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_fp16(w); }
};
struct Bf16 {
  static constexpr int kStreamTile = kStreamTiles.widened;
  static constexpr int kSums = kStreamTile;
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_bf16(w); }
};

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
  static constexpr int kStreamTile = kStreamTiles.plain / kPieces;
  static constexpr int kSums = kStreamTiles.plain;
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
template <class Format, int kBlocks>
WF_ALWAYS void tile_of(const MatmulArgs& a, int block, int stream, int count) {
  constexpr int kTile = Format::kStreamTile;
  switch (count) {
    case 1:
      one_tile<Format, kBlocks, 1>(a, block, stream);
      break;
    case 2:
      one_tile<Format, kBlocks, 2>(a, block, stream);
      break;
    case 3:
      if constexpr (kTile > 2) one_tile<Format, kBlocks, 3>(a, block, stream);
      break;
    case 4:
      if constexpr (kTile > 3) one_tile<Format, kBlocks, 4>(a, block, stream);
      break;
    case 5:
      if constexpr (kTile > 4) one_tile<Format, kBlocks, 5>(a, block, stream);
      break;
    case 6:
      if constexpr (kTile > 5) one_tile<Format, kBlocks, 6>(a, block, stream);
      break;
    case 7:
      if constexpr (kTile > 6) one_tile<Format, kBlocks, 7>(a, block, stream);
      break;
    case 8:
      if constexpr (kTile > 7) one_tile<Format, kBlocks, 8>(a, block, stream);
      break;
    default:
      break;
  }
}

// The same for all streams, dealt evenly: a last tile of one or two would wait for its own sums.
// The weights stay in the cache from tile to tile.
template <class Format, int kBlocks>
void matmul_blocks(const MatmulArgs& a, int block) {
  const int tiles = (a.streams + Format::kStreamTile - 1) / Format::kStreamTile;
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
    case 1:
      one_tile<Format, 1, 1>(a, 0, 0);
      break;
    case 2:
      one_tile<Format, 2, 1>(a, 0, 0);
      break;
    case 3:
      one_tile<Format, 3, 1>(a, 0, 0);
      break;
    case 4:
      one_tile<Format, 4, 1>(a, 0, 0);
      break;
    case 5:
      one_tile<Format, 5, 1>(a, 0, 0);
      break;
    case 6:
      one_tile<Format, 6, 1>(a, 0, 0);
      break;
    default:
      break;
  }
}

template <class Format>
void matmul(const MatmulArgs& a) {
  if (a.streams == 1) return matmul_single<Format>(a);
  constexpr int kWide = kMaxAccumulators / Format::kSums;
  int block = 0;
  for (; block + kWide <= a.blocks; block += kWide) matmul_blocks<Format, kWide>(a, block);
  switch (a.blocks - block) {
    case 1:
      if constexpr (kWide > 1) matmul_blocks<Format, 1>(a, block);
      break;
    case 2:
      if constexpr (kWide > 2) matmul_blocks<Format, 2>(a, block);
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace wavernn_fast::cpu::WF_ISA
