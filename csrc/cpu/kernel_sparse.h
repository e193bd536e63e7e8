// Products with pruned matrices for kernels.cpp, which includes this after the dense ones: lists of
// blocks (plan/sparse_format.h), side by side for one stream, one after another for a batch.
#pragma once

namespace wavernn_fast::cpu::WF_ISA {
namespace {

template <class T>
WF_ALWAYS const T* at(const SparseArgs& a, size_t offset) {
  return reinterpret_cast<const T*>(a.blob + offset);
}

// The columns of entry j of all lists of a panel. Four are loaded as one word and shifted out:
// loads, not shifts, are what the loop over entries has most of.
template <class Shape>
struct Columns {
  static constexpr int kWords = kSparseLists / 4;
  uint64_t word[kWords];
  const uint16_t* first;
  WF_ALWAYS Columns read(const uint16_t* p) {
    Columns c{{}, p};
    if constexpr (Shape::kColumns == 1) std::memcpy(c.word, p, sizeof c.word);
    return c;
  }
};
template <class Shape>
WF_ALWAYS auto columns_of(const Columns<Shape>& c, int list) {
  if constexpr (Shape::kColumns == 1)
    return uint16_t(c.word[list / 4] >> list % 4 * 16);
  else
    return c.first + Shape::kColumns * list;
}

// The inputs that meet the 16 weights of an entry.
struct Rows16 {
  static constexpr int kColumns = 1, kRows = 16;
  WF_ALWAYS F inputs(const float* x, uint16_t column) { return set1(x[column]); }
};
struct Tile4x4 {
  static constexpr int kColumns = 1, kRows = 4;
  WF_ALWAYS F inputs(const float* x, uint16_t column) { return load_quad(x + column); }
};
struct Single {
  static constexpr int kColumns = 16, kRows = 16;
  WF_ALWAYS F inputs(const float* x, const uint16_t* columns) { return gather(x, columns); }
};
// Of one list alone.
template <class Shape>
WF_ALWAYS auto columns_at(const uint16_t* p) {
  if constexpr (Shape::kColumns == 1)
    return *p;
  else
    return p;
}

template <class Format>
WF_ALWAYS F load_entry(const typename Format::Weight* w) {
  if constexpr (__is_same(Format, Fp16))
    return load_fp16_once(w);
  else
    return Format::load_block(w);
}
// Asks for what a loop over entries reads kAhead bytes later, `bytes` at a time: the lists of a
// model lie in the second-level cache, and columns and weights are two streams of short runs.
WF_ALWAYS void prefetch(const void* p, size_t bytes) {
  constexpr size_t kAhead = 2048;
#pragma GCC unroll 8
  for (size_t i = 0; i < bytes; i += 64)
    __builtin_prefetch(static_cast<const char*>(p) + kAhead + i);
}

// What rounding took from sum = a + b, exactly [T. J. Dekker 1971, D. E. Knuth].
WF_ALWAYS F lost_in(F sum, F a, F b) {
  const F b_there = sub(sum, a), a_there = sub(sum, b_there);
  return add(sub(a, a_there), sub(b, b_there));
}
// The same of bias + the sum of four chains, to about one rounding.
WF_ALWAYS F lost_in_quads(F bias, F a, F b, F c, F d) {
  F q[4];
  split_quads(a, b, c, d, q);
  const F even = add(q[0], q[2]), odd = add(q[1], q[3]), sum = add(even, odd);
  const F chains = add(lost_in(even, q[0], q[2]), lost_in(odd, q[1], q[3]));
  return add(add(chains, lost_in(sum, even, odd)), lost_in(add(bias, sum), bias, sum));
}

// Whether the rest of this row is wanted: rows are those of gates, candidates the last 16 of 48.
WF_ALWAYS bool keeps_rest(const SparseArgs& a, int row) {
  return a.rest != nullptr && unsigned(row) % 48 >= 32;
}

// Stores 16 rows of a list where they belong.
template <class Shape>
WF_ALWAYS void put_at(const SparseArgs& a, const SparsePanel& p, int list, F x, float* y) {
  if constexpr (__is_same(Shape, Single)) {
    float values[16];
    store(values, x);
    const int32_t* rows = at<int32_t>(a, p.rows) + 16 * list;
    for (int i = 0; i < 16; ++i) y[rows[i]] = values[i];
  } else {
    store(y + at<int32_t>(a, p.rows)[list], x);
  }
}

// Stores the sums of 16 rows, one list, of the stream whose y begins at `offset`.
template <class Shape>
WF_ALWAYS void put_rows(const SparseArgs& a, const SparsePanel& p, int list, F sum,
                        ptrdiff_t offset) {
  const F bias = load(at<float>(a, p.bias) + 16 * list), total = add(bias, sum);
  put_at<Shape>(a, p, list, total, a.y + offset);
  if (__is_same(Shape, Single) ? a.rest != nullptr : keeps_rest(a, at<int32_t>(a, p.rows)[list]))
    put_at<Shape>(a, p, list, lost_in(total, bias, sum), a.rest + offset);
}

// Four rows each of lists [first, first + 4).
WF_ALWAYS void put_quads(const SparseArgs& a, const SparsePanel& p, int first, F x, float* y) {
  float values[16];
  store(values, x);
  const int32_t* rows = at<int32_t>(a, p.rows) + first;
  for (int i = 0; i < 4 && first + i < p.lists; ++i)
    std::memcpy(y + rows[i], values + 4 * i, 4 * sizeof(float));
}

// Lists [first, first + 4) of tiles: their sums are added up to four rows each.
WF_ALWAYS void put_tiles(const SparseArgs& a, const SparsePanel& p, int first, const F* sums) {
  const F bias = load(at<float>(a, p.bias) + 4 * first);
  put_quads(a, p, first, add(bias, quad_sums(sums[0], sums[1], sums[2], sums[3])), a.y);
  const int32_t* rows = at<int32_t>(a, p.rows) + first;
  bool wanted = false;
  for (int i = 0; i < 4 && first + i < p.lists; ++i) wanted |= keeps_rest(a, rows[i]);
  if (wanted)
    put_quads(a, p, first, lost_in_quads(bias, sums[0], sums[1], sums[2], sums[3]), a.rest);
}

template <class Format, class Shape>
WF_ALWAYS void sparse_single(const SparseArgs& a, const SparsePanel& p) {
  const float* x = static_cast<const float*>(a.x);
  const uint16_t* columns = at<uint16_t>(a, p.columns);
  const auto* w = at<typename Format::Weight>(a, p.weights);
  F acc[kSparseLists];
#pragma GCC unroll 8
  for (int l = 0; l < kSparseLists; ++l) acc[l] = zero();
  for (int j = 0; j < p.count; ++j) {
    const auto here = Columns<Shape>::read(columns);
#pragma GCC unroll 8
    for (int l = 0; l < kSparseLists; ++l)
      acc[l] = fma(load_entry<Format>(w + kLanes * l), Shape::inputs(x, columns_of<Shape>(here, l)),
                   acc[l]);
    w += kLanes * kSparseLists;
    columns += Shape::kColumns * kSparseLists;
    prefetch(w, kLanes * kSparseLists * sizeof(*w));
  }
  if constexpr (Shape::kRows == 4) {
    for (int l = 0; l < p.lists; l += 4) put_tiles(a, p, l, acc + l);
  } else {
    for (int l = 0; l < p.lists; ++l) put_rows<Shape>(a, p, l, acc[l], 0);
  }
}

// Four rows of up to four streams.
WF_ALWAYS void put_of_streams(F x, int streams, float* y, ptrdiff_t ldy) {
  float values[16];
  store(values, x);
  for (int s = 0; s < streams; ++s) std::memcpy(y + s * ldy, values + 4 * s, 4 * sizeof(float));
}

template <class Shape, int kStreams>
WF_ALWAYS void put_streams(const SparseArgs& a, const SparsePanel& p, int list,
                           const F (&sums)[kStreams], int stream) {
  const ptrdiff_t offset = stream * a.ldy;
  if constexpr (Shape::kRows == 16) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) put_rows<Shape>(a, p, list, sums[s], offset + s * a.ldy);
  } else {
    const F bias = load_quad(at<float>(a, p.bias) + 4 * list);
    const ptrdiff_t row = offset + at<int32_t>(a, p.rows)[list];
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; s += 4) {
      const int left = kStreams - s < 4 ? kStreams - s : 4;
      const auto sum = [&](int i) { return s + i < kStreams ? sums[s + i] : zero(); };
      const F total = add(bias, quad_sums(sum(0), sum(1), sum(2), sum(3)));
      put_of_streams(total, left, a.y + row + s * a.ldy, a.ldy);
      if (keeps_rest(a, at<int32_t>(a, p.rows)[list]))
        put_of_streams(lost_in_quads(bias, sum(0), sum(1), sum(2), sum(3)), left,
                       a.rest + row + s * a.ldy, a.ldy);
    }
  }
}

// Streams [0, kStreams) of a tile: a weight is loaded, and widened, once for all.
template <class Format, class Shape, int kStreams>
void sparse_tile(const SparseArgs& a, int stream) {
  const float* x = static_cast<const float*>(a.x) + stream * a.ldx;
  for (int i = 0; i < a.n_panels; ++i) {
    const SparsePanel& p = a.panels[i];
    for (int l = 0; l < p.lists; ++l) {
      const uint16_t* columns = at<uint16_t>(a, p.columns) + Shape::kColumns * l;
      const auto* w = at<typename Format::Weight>(a, p.weights) + kLanes * l;
      F acc[kStreams];
#pragma GCC unroll 8
      for (int s = 0; s < kStreams; ++s) acc[s] = zero();
      for (int j = 0; j < p.counts[l]; ++j) {
        const F weights = load_entry<Format>(w);
        const auto own = columns_at<Shape>(columns);
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s)
          acc[s] = fma(weights, Shape::inputs(x + s * a.ldx, own), acc[s]);
        w += kLanes * kSparseLists;
        columns += Shape::kColumns * kSparseLists;
      }
      put_streams<Shape>(a, p, l, acc, stream);
    }
  }
}

using SparseTile = void (*)(const SparseArgs&, int);
template <class Format, class Shape, int kStreams>
constexpr SparseTile sparse_tile_if_used() {
  if constexpr (kStreams <= kStreamTile)
    return sparse_tile<Format, Shape, kStreams>;
  else
    return nullptr;
}

template <class Format, class Shape>
void sparse(const SparseArgs& a) {
  if (a.streams == 1) {
    for (int i = 0; i < a.n_panels; ++i) sparse_single<Format, Shape>(a, a.panels[i]);
    return;
  }
  constexpr SparseTile kTiles[] = {
      sparse_tile_if_used<Format, Shape, 1>(), sparse_tile_if_used<Format, Shape, 2>(),
      sparse_tile_if_used<Format, Shape, 3>(), sparse_tile_if_used<Format, Shape, 4>(),
      sparse_tile_if_used<Format, Shape, 5>(), sparse_tile_if_used<Format, Shape, 6>(),
      sparse_tile_if_used<Format, Shape, 7>(), sparse_tile_if_used<Format, Shape, 8>()};
  const Even tiles(a.streams, kStreamTile);
  for (int i = 0, stream = 0; i < tiles.pieces; stream += tiles.piece(i++))
    kTiles[tiles.piece(i) - 1](a, stream);
}

// --- int8: sums are integers, so their order is no matter
// ------------------------------------------

// Four columns of 4, 8 or 16 rows; the inputs are four bytes.
struct Int4x4 {
  using Sum = I4;
  static constexpr int kColumns = 1, kRows = 4;
  WF_ALWAYS int32_t inputs(const uint8_t* x, uint16_t column) { return four(x + column); }
};
struct Int8x4 {
  using Sum = I8;
  static constexpr int kColumns = 1, kRows = 8;
  WF_ALWAYS int32_t inputs(const uint8_t* x, uint16_t column) { return four(x + column); }
};
struct Int16x4 {
  using Sum = I;
  static constexpr int kColumns = 4, kRows = 16;
  WF_ALWAYS int32_t inputs(const uint8_t* x, const uint16_t* c) {
    return int32_t(x[c[0]] | uint32_t(x[c[1]]) << 8 | uint32_t(x[c[2]]) << 16 |
                   uint32_t(x[c[3]]) << 24);
  }
};

// y = bias + scale * x_scale * sum for 16 rows, lists [first, first + 16 / rows).
template <int kPieces, class Shape>
WF_ALWAYS void put_int8(const SparseArgs& a, const SparsePanel& p, int first, const I* sums,
                        F x_scale, float* y) {
  const int row = first * Shape::kRows;
  I top = sums[0];
  if (a.is_signed) top = sub_int(top, load_int(at<int32_t>(a, p.sum) + row));
  F sum = to_float(top);
  if constexpr (kPieces == 2) sum = fma(sum, set1(128.0f), to_float(sums[1]));
  const F scale = mul(load(at<float>(a, p.scale) + row), x_scale);
  float values[16];
  store(values, fma(sum, scale, load(at<float>(a, p.bias) + row)));
  const int32_t* rows = at<int32_t>(a, p.rows) + first;
  for (int l = 0; l < 16 / Shape::kRows && first + l < p.lists; ++l)
    std::memcpy(y + rows[l], values + Shape::kRows * l, Shape::kRows * sizeof(float));
}

template <int kPieces, class Shape>
WF_ALWAYS void int8_single(const SparseArgs& a, const SparsePanel& p, int stream) {
  constexpr int kRows = Shape::kRows, kJoined = 16 / kRows;
  const uint8_t* x = static_cast<const uint8_t*>(a.x) + stream * a.ldx;
  const uint16_t* columns = at<uint16_t>(a, p.columns);
  const int8_t* w = at<int8_t>(a, p.weights);
  typename Shape::Sum acc[kPieces][kSparseLists];
#pragma GCC unroll 2
  for (int i = 0; i < kPieces; ++i) {
#pragma GCC unroll 8
    for (int l = 0; l < kSparseLists; ++l) clear(acc[i][l]);
  }
  for (int j = 0; j < p.count; ++j) {
    const auto here = Columns<Shape>::read(columns);
#pragma GCC unroll 8
    for (int l = 0; l < kSparseLists; ++l) {
#pragma GCC unroll 2
      for (int i = 0; i < kPieces; ++i)
        dot(acc[i][l], w + 4 * kRows * l,
            Shape::inputs(x + i * a.cols, columns_of<Shape>(here, l)));
    }
#pragma GCC unroll 8
    for (int l = 0; l < kSparseLists; ++l) {
#pragma GCC unroll 2
      for (int i = 0; i < kPieces; ++i) keep(acc[i][l]);
    }
    w += 4 * kRows * kSparseLists;
    columns += Shape::kColumns * kSparseLists;
    prefetch(w, 4 * kRows * kSparseLists);
  }
  const F x_scale = set1(a.x_scale[stream]);
#pragma GCC unroll 8
  for (int l = 0; l < kSparseLists; l += kJoined) {
    I sums[kPieces];
#pragma GCC unroll 2
    for (int i = 0; i < kPieces; ++i) sums[i] = join(&acc[i][l]);
    put_int8<kPieces, Shape>(a, p, l, sums, x_scale, a.y + stream * a.ldy);
  }
}

// As many lists as have 16 rows, for streams [0, kStreams) of a tile: each weight is loaded once.
template <int kPieces, class Shape, int kStreams>
WF_ALWAYS void int8_lists(const SparseArgs& a, const SparsePanel& p, int first, int stream) {
  constexpr int kRows = Shape::kRows, kJoined = 16 / kRows;
  const uint8_t* x = static_cast<const uint8_t*>(a.x) + stream * a.ldx;
  const uint16_t* columns = at<uint16_t>(a, p.columns) + Shape::kColumns * first;
  const int8_t* w = at<int8_t>(a, p.weights) + 4 * kRows * first;
  typename Shape::Sum acc[kStreams][kPieces][kJoined];
#define WF_EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < n; ++i)
  WF_EACH(s, kStreams) WF_EACH(i, kPieces) WF_EACH(l, kJoined) clear(acc[s][i][l]);
  for (int j = 0; j < p.counts[first]; ++j) {  // the longest of them
    WF_EACH(l, kJoined) {
      const auto own = columns_at<Shape>(columns + Shape::kColumns * l);
      WF_EACH(s, kStreams)
      WF_EACH(i, kPieces)
      dot(acc[s][i][l], w + 4 * kRows * l, Shape::inputs(x + s * a.ldx + i * a.cols, own));
    }
    WF_EACH(s, kStreams) WF_EACH(i, kPieces) WF_EACH(l, kJoined) keep(acc[s][i][l]);
    w += 4 * kRows * kSparseLists;
    columns += Shape::kColumns * kSparseLists;
  }
  WF_EACH(s, kStreams) {
    I sums[kPieces];
    WF_EACH(i, kPieces) sums[i] = join(acc[s][i]);
    put_int8<kPieces, Shape>(a, p, first, sums, set1(a.x_scale[stream + s]),
                             a.y + (stream + s) * a.ldy);
  }
#undef WF_EACH
}

// A single stream has the lists of a panel side by side: one after another they would wait for
// their own sums.
template <int kPieces, class Shape, int kStreams>
void int8_tile(const SparseArgs& a, int stream) {
  for (int i = 0; i < a.n_panels; ++i) {
    if constexpr (kStreams == 1) {
      int8_single<kPieces, Shape>(a, a.panels[i], stream);
    } else {
      for (int l = 0; l < a.panels[i].lists; l += 16 / Shape::kRows)
        int8_lists<kPieces, Shape, kStreams>(a, a.panels[i], l, stream);
    }
  }
}

template <int kPieces, class Shape, int kStreams>
constexpr SparseTile int8_tile_if_used() {
  if constexpr (kStreams <= kSparseInt8Streams)
    return int8_tile<kPieces, Shape, kStreams>;
  else
    return nullptr;
}
template <int kPieces, class Shape>
void sparse_int8(const SparseArgs& a) {
  static_assert(kSparseInt8Streams <= 4);
  constexpr SparseTile kTiles[] = {
      int8_tile_if_used<kPieces, Shape, 1>(), int8_tile_if_used<kPieces, Shape, 2>(),
      int8_tile_if_used<kPieces, Shape, 3>(), int8_tile_if_used<kPieces, Shape, 4>()};
  const Even tiles(a.streams, kSparseInt8Streams);
  for (int i = 0, stream = 0; i < tiles.pieces; stream += tiles.piece(i++))
    kTiles[tiles.piece(i) - 1](a, stream);
}

}  // namespace
}  // namespace wavernn_fast::cpu::WF_ISA
