// Packing of pruned matrices into lists of blocks (sparse_format.h), and when that is faster.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace wavernn_fast {

// "auto" is nothing, "off" is dense; else the name of a block: 16x1, 4x4, 8x4, 1x1.
std::optional<Layout> layout_from_name(const std::string& name);
const char* layout_name(Layout layout);
// Of a layout that is not dense.
BlockShape block_shape(Layout layout);

// The layout in which a product of this matrix is fastest, by what a block costs; what the request
// says, if it does. Error where that cannot be.
Layout choose_layout(const MatrixSource& source, const PlanRequest& request);

// Weights other than zero, of each 16-row block.
std::vector<int64_t> weights_by_block(const MatrixSource& source);

// Cuts work [n] into contiguous parts of about equal sums: first of each part, and n; [parts + 1].
std::vector<int> deal_by_work(const std::vector<int64_t>& work, int parts);

// Appends the panels of `source` to `bytes` and describes them in `m`, whose rows, scales and bias
// are set. Gives the bytes that the team of all threads reads.
size_t pack_sparse(const MatrixSource& source, const PlanRequest& request, PackedMatrix& m,
                   std::vector<uint8_t>& bytes);

// Adds the weights of `m` to `out` [n_rows][n_cols], which is zero.
void unpack_sparse(const Plan& plan, const PackedMatrix& m, int n_cols, std::vector<float>& out);

}  // namespace wavernn_fast
