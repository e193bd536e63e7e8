// The arithmetic of one step, as a table of functions per instruction set.
//
// kernels.cpp is compiled once per instruction set; every build sums each output in the same
// order, so results do not depend on the instruction set, the batch, the threads or the slicing:
// blocks of kColumnBlock columns, each summed from zero with one fused multiply-add a column, are
// added one after another to the start value (the bias).
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/sparse_format.h"

namespace wavernn_fast::cpu {

inline constexpr int kLanes = 16;          // floats of one vector, rows of one block
inline constexpr int kMaxPanelBlocks = 6;  // widest panel
// Columns of a partial sum. Shorter sums round less; each costs an addition a row and block.
inline constexpr int kColumnBlock = 64;

// int8 products multiply signed weight bytes by 7-bit pieces of the activations, which no
// instruction set can saturate on. Dtype int8 uses two pieces, u = 128 * high + low with 14 bits;
// int8_fast one piece of 7 bits. Signed inputs are stored with an offset of half the range, inputs
// that are never negative (after a ReLU) without.
struct Levels {
  int highest;  // largest quantised magnitude
  int offset;   // added to make it unsigned
};
inline constexpr Levels activation_levels(int pieces, bool is_signed) {
  const int range = pieces == 2 ? 1 << 14 : 1 << 7;
  return is_signed ? Levels{range / 2 - 1, range / 2} : Levels{range - 1, 0};
}

// Rows [0, 16 * blocks) of y = start + W x for `streams` inputs.
// Weights of one panel: [cols][blocks * 16], for int8 [cols / 4][blocks * 16][4].
struct MatmulArgs {
  const void* weights;
  int blocks;  // 16-row blocks, 1 to kMaxPanelBlocks
  int cols;    // multiple of 4
  int streams;
  int widened_tiles;       // from so many tiles of streams on 16-bit weights are widened beforehand
  const float* start;      // [16 * blocks] a stream: the bias, or y to add further columns to it
  ptrdiff_t ld_start;      // elements between streams, 0 for the bias
  const float* row_scale;  // [16 * blocks], int8 only: weight = scale * integer
  const int32_t* row_sum;  // [16 * blocks], int8 with signed inputs: 64 * sum of the integers
  const void* x;           // float or uint8 [streams][ldx]; int8: high pieces, then low pieces
  const float* x_scale;    // [streams], int8 only
  float* y;                // [streams][ldy]
  ptrdiff_t ldx, ldy;      // elements between streams
};

// Rows of some panels of y = bias + W x for `streams` inputs, W in lists of blocks. Every list is
// one chain of fused multiply-adds over its entries, from zero, in order of columns (tile4x4: four
// chains a row, columns 0, 1, 2, 3 of the blocks, added as (0 + 2) + (1 + 3)); then the bias is
// added. So bits do not depend on what stands beside a list.
struct SparseArgs {
  const uint8_t* blob;
  const SparsePanel* panels;
  int n_panels;
  int streams;
  bool is_signed;        // int8: whether the inputs are
  const void* x;         // float or uint8 [streams][ldx]; int8: high pieces, then low pieces
  ptrdiff_t ldx;         // elements between streams
  int cols;              // int8: from high to low pieces
  const float* x_scale;  // [streams], int8 only
  float* y;              // [streams][ldy]
  ptrdiff_t ldy;
  // [streams][ldy] or null; of a GRU in fp32 only: what the additions of four chains and of the
  // bias rounded away, so that y + rest is the sum of the chains to twice the digits. Candidate
  // rows, and perhaps others.
  float* rest;
};
using SparseProduct = void (*)(const SparseArgs&);

// What the conditioning adds to channel vectors of one stream at one sample:
// base + hold + sum_j kernel[j] * interp[j * stride].
struct Conditioning {
  const float* interp = nullptr;  // row of the first tap, or null
  const float* hold = nullptr;    // row of this frame, or null
  const float* kernel = nullptr;  // [taps] of this sample's phase
  int taps = 0;
  ptrdiff_t stride = 0;  // channels of one interp row
};

// GRU update of units [16 * first_block, 16 * last_block) of one stream.
// Pre-activations come in blocks of 48: 16 reset, 16 update, 16 candidate rows.
struct GruArgs {
  int first_block, last_block;
  int hidden_size;                 // distance between gates in `base` and the conditioning channels
  const float* recurrent;          // [blocks * 48] R h + b_recurrent
  const float* recurrent_rest;     // [blocks * 48] what its sums lost (SparseArgs), or null
  const float* input;              // [blocks * 48] W x + 0, or null (no input product)
  const float* base;               // [3 * hidden_size] input bias
  int n_scalars;                   // scalar inputs (samples fed back): 0 to 4
  const float* scalar_weights[4];  // [3 * hidden_size] each
  float scalars[4];
  Conditioning conditioning;  // channel 0 is the first reset channel
  const float* h_old;         // [hidden_size]
  float* h_new;               // [hidden_size]
};

// Blocks side by side in a panel, by dtype. A batch streams a panel best when one pass uses all of
// it (its tile is that many blocks wide); a single stream wants enough sums in flight to hide the
// latency of the multiply-add, more so when each weight is converted first.
struct PanelBlocks {
  int fp32, fp16, bf16, int8, int8_fast;
};

struct KernelTable {
  const char* name;
  PanelBlocks panel_blocks;
  void (*matmul_fp32)(const MatmulArgs&);
  void (*matmul_fp16)(const MatmulArgs&);
  void (*matmul_bf16)(const MatmulArgs&);
  void (*matmul_int8)(const MatmulArgs&);
  void (*matmul_int8_fast)(const MatmulArgs&);
  // Lists of a panel, and [fp32, fp16, bf16, int8, int8_fast][layout], null where not offered.
  int sparse_lists;
  SparseProduct sparse[5][kLayouts];
  // u = round(x * highest / max|x|) + offset, cut into pieces (high [n], then low [n]); returns
  // max|x| / highest, or NaN if an x is not finite. `n` is a multiple of 16.
  float (*quantize)(const float* x, int n, int pieces, bool is_signed, uint8_t* u);
  void (*gru)(const GruArgs&);
  void (*plain_gru)(const GruArgs&);  // in single precision throughout, for 16-bit and int8 weights
  // out = base + conditioning + scalar * weights, channels [first, last) in steps of 16.
  void (*input_layer)(const float* base, const Conditioning& conditioning, const float* weights,
                      float scalar, int first, int last, float* out);
  // The same of several scalars: weights [count][stride].
  void (*input_layer_of)(const float* base, const Conditioning& conditioning, const float* weights,
                         ptrdiff_t stride, const float* scalars, int count, int first, int last,
                         float* out);
  // y = max(0, y + hold) over [first, last); hold may be null.
  void (*relu)(float* y, const float* hold, int first, int last);
  void (*add)(const float* a, const float* b, int first, int last, float* out);
  // Integer weights w[k] = round(exp((l[k] - max) * inv_temperature) * 2^bits) and their sum over
  // each 16; false when a logit is not finite. `n` is a multiple of 16.
  bool (*categorical)(const float* logits, int n, float inv_temperature, int bits, int32_t* w,
                      uint32_t* sums);
  // Probes of the hardware floor: bytes read, multiply-adds done.
  uint64_t (*probe_read)(const void* data, size_t bytes);
  uint64_t (*probe_fma)(const float* start, uint64_t rounds);  // start: [14 * 16] values below 1
  uint64_t (*probe_int8)(const void* data, uint64_t rounds);   // data: 64 weights
  uint64_t (*probe_fp16)(const void* data, size_t bytes, uint64_t rounds);
  uint64_t (*probe_bf16)(const void* data, size_t bytes, uint64_t rounds);
};

}  // namespace wavernn_fast::cpu
