// Dense int8 products for kernels.cpp: whole sums in registers, all columns at once. Sums are
// integers, so their order is no matter.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

inline constexpr int kWideBlocks = kMaxAccumulators / kStreamTile;  // of a batch's tile

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

template <int kPieces, int kBlocks, int kStreams>
WF_ALWAYS void int8_tile_if(const MatmulArgs& a, int block, int stream) {
  if constexpr (kStreams <= kStreamTile / kPieces || kStreams == 1)
    matmul_tile_int8<kPieces, kBlocks, kStreams>(a, block, stream);
}
template <int kPieces, int kBlocks>
void int8_rows(const MatmulArgs& a, int block) {
  constexpr int kTile = kStreamTile / kPieces > 0 ? kStreamTile / kPieces : 1;
  const Even tiles(a.streams, kTile);
  for (int i = 0, stream = 0; i < tiles.pieces; stream += tiles.piece(i++)) {
    switch (tiles.piece(i)) {
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
