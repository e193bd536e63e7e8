// Dense products of floats for kernels.cpp, which includes this after the vector operations of its
// instruction set: weight formats, panels of one stream, register tiles of a batch.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

struct Fp32 {
  using Weight = float;
  WF_ALWAYS F load_block(const Weight* w) { return load(w); }
  WF_ALWAYS Part load_rows(const Weight* w) { return load_part(w); }
};
struct Fp16 {
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_fp16(w); }
  WF_ALWAYS Part load_rows(const Weight* w) { return load_part_fp16(w); }
};
struct Bf16 {
  using Weight = uint16_t;
  WF_ALWAYS F load_block(const Weight* w) { return load_bf16(w); }
  WF_ALWAYS Part load_rows(const Weight* w) { return load_part_bf16(w); }
};

WF_ALWAYS int columns_from(const MatmulArgs& a, int k) {
  return a.cols - k < kColumnBlock ? a.cols - k : kColumnBlock;
}

// A panel for one stream, all blocks at once, so that enough sums are in flight. Partial sums stay
// in registers; totals live in memory: the registers are full, and they are in the first-level
// cache. One widened block is alive at a time, for the same reason.
// No software prefetch: the weights are one sequential stream, which the hardware follows better
// by itself (measured on Zen 4 from L3: 97 GB/s without, 66 GB/s with a prefetch of every line).
template <class Format, int kBlocks>
WF_ALWAYS void single_panel(const MatmulArgs& a) {
  const auto* w = static_cast<const typename Format::Weight*>(a.weights);
  const float* x = static_cast<const float*>(a.x);
  const float* total = a.start;
  for (int k = 0; k < a.cols; k += kColumnBlock) {
    F acc[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) acc[b] = zero();
    for (int i = k, end = k + columns_from(a, k); i < end; ++i, w += kLanes * kBlocks) {
      const F input = set1(x[i]);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b)
        acc[b] = fma(Format::load_block(w + kLanes * b), input, acc[b]);
    }
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b)
      store(a.y + kLanes * b, add(load(total + kLanes * b), acc[b]));
    total = a.y;
  }
}

// One block of columns for some tiles: y = total + W x.
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

// A tile of a batch, all sums in registers: kParts registers of rows for kStreams streams. Of
// weights and inputs the fewer stay in registers beside them.
template <class Format, int kParts, int kStreams>
WF_ALWAYS void batch_tile(const TileArgs& t) {
  Part acc[kStreams][kParts];
#pragma GCC unroll 8
  for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) acc[s][p] = Part{};
  }
  const auto* w = static_cast<const typename Format::Weight*>(t.weights);
  for (int k = 0; k < t.cols; ++k, w += t.step) {
    if constexpr (kStreams >= kFetchedStreams) __builtin_prefetch(t.ahead + k * t.ahead_step);
    if constexpr (kParts <= kStreams) {
      Part weights[kParts];
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) weights[p] = Format::load_rows(w + kPartLanes * p);
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) {
        const Part input = set1_part(t.x[s * t.ldx + k]);
#pragma GCC unroll 8
        for (int p = 0; p < kParts; ++p) acc[s][p] = fma(weights[p], input, acc[s][p]);
      }
    } else {
      Part inputs[kStreams];
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) inputs[s] = set1_part(t.x[s * t.ldx + k]);
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) {
        const Part weights = Format::load_rows(w + kPartLanes * p);
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s) acc[s][p] = fma(weights, inputs[s], acc[s][p]);
      }
    }
  }
  const float* total = t.total;
  float* y = t.y;
#pragma GCC unroll 8
  for (int s = 0; s < kStreams; ++s, total += t.ld_total, y += t.ldy) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p)
      store(y + kPartLanes * p, add(load_part(total + kPartLanes * p), acc[s][p]));
  }
}

// Tiles of as many rows and streams each, `tall` below one another and `wide` side by side. A tile
// of 64 columns is over in some 400 cycles; where each was called by itself, the next began 25 to
// 40 later (AVX2). Leaves `t` at the streams that follow.
template <class Format, int kParts, int kStreams>
__attribute__((noinline)) void tiles(TileArgs& args, int tall, int wide) {
  TileArgs t = args;  // which stores through y cannot change
  const auto* weights = static_cast<const typename Format::Weight*>(args.weights);
  for (int i = 0; i < tall; ++i) {
    t.weights = weights + i * kParts * kPartLanes;
    t.x = args.x;
    t.total = args.total + i * kParts * kPartLanes;
    t.y = args.y + i * kParts * kPartLanes;
    for (int j = 0; j < wide; ++j) {
      batch_tile<Format, kParts, kStreams>(t);
      t.x += kStreams * t.ldx;
      t.total += kStreams * t.ld_total;
      t.y += kStreams * t.ldy;
      t.ahead += kColumnBlock * t.ahead_step;
    }
  }
  args.x += wide * kStreams * t.ldx;
  args.total += wide * kStreams * t.ld_total;
  args.y += wide * kStreams * t.ldy;
  args.ahead = t.ahead;
}
using Tiles = void (*)(TileArgs&, int, int);

// Most registers of rows of a tile for so many streams.
constexpr int most_parts(int streams) {
  return streams <= kNarrowStreams ? kNarrowParts : streams <= kTileStreams ? kTileParts : 2;
}
template <class Format, int kParts, int kStreams>
constexpr Tiles tiles_if_used() {
  if constexpr (kStreams <= kWideStreams && kParts <= most_parts(kStreams))
    return tiles<Format, kParts, kStreams>;
  else
    return nullptr;
}
template <class Format, int kParts>
inline constexpr Tiles kTiles[] = {
    tiles_if_used<Format, kParts, 1>(), tiles_if_used<Format, kParts, 2>(),
    tiles_if_used<Format, kParts, 3>(), tiles_if_used<Format, kParts, 4>(),
    tiles_if_used<Format, kParts, 5>(), tiles_if_used<Format, kParts, 6>(),
    tiles_if_used<Format, kParts, 7>(), tiles_if_used<Format, kParts, 8>()};
template <class Format>
WF_ALWAYS Tiles tiles_of(int parts, int streams) {
  static_assert(kGroupBlocks * kLanes / kPartLanes <= 6 && kWideStreams <= 8);
  switch (parts) {
    case 1:
      return kTiles<Format, 1>[streams - 1];
    case 2:
      return kTiles<Format, 2>[streams - 1];
    case 3:
      return kTiles<Format, 3>[streams - 1];
    case 4:
      return kTiles<Format, 4>[streams - 1];
    default:
      return kTiles<Format, 6>[streams - 1];
  }
}

// `total` in as few pieces of at most `most` as there can be, which differ by one at most: first
// those of `fewest`, then `with_more` that have one more. A last piece of one or two would not have
// enough sums in flight.
struct Even {
  int pieces, fewest, with_more;
  Even(int total, int most)
      : pieces((total + most - 1) / most), fewest(total / pieces), with_more(total % pieces) {}
  int piece(int i) const { return fewest + (i >= pieces - with_more); }
  int most() const { return fewest + (with_more > 0); }
};

// y = total + W x of one block of columns, in `tall` rows of tiles.
template <class Format>
WF_ALWAYS void all_tiles(TileArgs& t, int parts, int tall, const Even& columns) {
  tiles_of<Format>(parts / tall, columns.fewest)(t, tall, columns.pieces - columns.with_more);
  if (columns.with_more > 0)
    tiles_of<Format>(parts / tall, columns.fewest + 1)(t, tall, columns.with_more);
}

// A group of blocks for all streams, a block of columns at a time: its weights come into the
// first-level cache once for all tiles. 16-bit ones are widened in each tile, or once for so many
// tiles that it pays to store them.
template <class Format>
void batch_group(const MatmulArgs& a, int block, int blocks) {
  constexpr bool kIsFp32 = __is_same(Format, Fp32);
  alignas(64) float widened[kIsFp32 ? 1 : kColumnBlock * kGroupBlocks * kLanes];
  const ptrdiff_t step = ptrdiff_t(kLanes) * a.blocks;
  const auto* w = static_cast<const typename Format::Weight*>(a.weights) + kLanes * block;
  const float* total = a.start + kLanes * block;
  ptrdiff_t ld_total = a.ld_start;
  float* y = a.y + kLanes * block;
  const Even columns(a.streams, a.streams <= kWideStreams ? kWideStreams : kTileStreams);
  const int parts = blocks * kLanes / kPartLanes, most = most_parts(columns.most());
  int tall = (parts + most - 1) / most;
  while (parts % tall != 0) ++tall;  // of equal tiles
  // The weights are one stream of bytes over blocks of columns and panels.
  const ptrdiff_t block_bytes = ptrdiff_t(kColumnBlock) * step * sizeof(*w);
  const ptrdiff_t even = block_bytes / (columns.pieces * tall * kColumnBlock);
  const bool is_direct = kIsFp32 || (kWidensInTiles && columns.pieces < a.widened_tiles);
  TileArgs t{};
  t.ldx = a.ldx;
  t.ldy = a.ldy;
  t.ahead_step = even < 64 ? even : 64;
  for (int k = 0; k < a.cols; k += kColumnBlock, w += kColumnBlock * step) {
    t.weights = w;
    t.step = step;
    t.cols = columns_from(a, k);
    t.x = static_cast<const float*>(a.x) + k;
    t.total = total;
    t.ld_total = ld_total;
    t.y = y;
    t.ahead = reinterpret_cast<const char*>(w) + block_bytes;
    if (is_direct) {
      if constexpr (kIsFp32 || kWidensInTiles) all_tiles<Format>(t, parts, tall, columns);
    } else {
      for (int i = 0; i < t.cols; ++i) {
        for (int b = 0; b < blocks; ++b)
          store(widened + (i * blocks + b) * kLanes, Format::load_block(w + i * step + kLanes * b));
      }
      t.weights = widened;
      t.step = blocks * kLanes;
      all_tiles<Fp32>(t, parts, tall, columns);
    }
    total = y;
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
  const Even groups(a.blocks, kGroupBlocks);
  for (int i = 0, block = 0; i < groups.pieces; block += groups.piece(i++))
    batch_group<Format>(a, block, groups.piece(i));
}

}  // namespace
}  // namespace wavernn_fast::cpu::WF_ISA
