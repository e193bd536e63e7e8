// What the plans of the residual and the embedded core share: warps own whole rows of every matrix,
// gates of units or rows of a layer, and a lane has pairs of columns of each.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "plan/gpu.h"

namespace wavernn_fast::gpu {

inline constexpr int kMostSums = 32;   // one warp reduces at most this many at once
inline constexpr int kMostWarps = 16;  // a thread of more warps has too few registers for weights
inline constexpr int kMostLabels = 1024;

// What the kernels of these cores draw from, and where logits are: bands, head, choices.
void set_draw_shape(Shape& shape, const ModelConfig& config);

// Cycles of one draw of a RealHead by one warp.
int real_draw_cycles(int real);

struct RowMatrix {
  int Shape::* place;
  int pairs;  // a lane
};

// 32-bit words a thread.
int words_of(const Shape& shape, const RowMatrix& matrix);

// What the places of the matrices come to: registers, shared memory and bytes of the plan.
void count_bytes(GpuPlan& plan, const std::vector<RowMatrix>& matrices);

bool fits(const GpuPlan& plan);

// Errors of what a request cannot be, whatever the core; of labels beyond kMostLabels.
void check_rows_request(const GpuRequest& request);
void check_labels(int n_classes);
// DeviceError with the numbers of a model that fits nowhere.
[[noreturn]] void weights_do_not_fit(const GpuRequest& request, int64_t weights);

// Cycles of parts of a sample, as in plan/gpu.cpp, where each figure is explained.
class RowCosts {
 public:
  RowCosts(const Shape& shape, const DeviceLimits& limits);
  double pace(int warps) const;  // cycles in which so many warps issue an instruction each
  int rows(int slots, int pairs, int place) const;
  // An exchange of so many words; a product in its shadow may take longer than they do.
  int hop(int words, int shadow) const;
  int hop() const { return hop_; }
  int draw_of_labels() const;  // one warp; a barrier more than in the dual core
  // What `hops` take beyond as many plain ones. More than eight warps were slower than this model
  // has them (the dual core, docs/kernel.md).
  int late(int hops) const;
  int streamed(int64_t bytes, int matrices) const;  // read from L2

 private:
  const Shape& s_;
  const DeviceLimits& d_;
  int hop_;
};

// --- the search ----------------------------------------------------------------------------------

// Of `ways` to place the matrices, a Place each, the one of least `predict(plan)` that fits, the
// first of equals; false if none does.
template <class Ways, class Predict>
bool best_places(GpuPlan& plan, const std::vector<RowMatrix>& matrices, const Ways& ways,
                 const Predict& predict) {
  Shape& s = plan.shape;
  std::optional<Shape> best;
  Latency least;
  for (const auto& places : ways) {
    for (size_t i = 0; i < matrices.size(); ++i) s.*matrices[i].place = places[i];
    count_bytes(plan, matrices);
    if (!fits(plan)) continue;
    const Latency latency = predict(plan);
    if (best && latency.total() >= least.total()) continue;
    best = s;
    least = latency;
  }
  if (!best) return false;
  s = *best;
  plan.latency = least;
  return true;
}

// The fastest of all blocks, warps and variants [0, variants) for which `form(plan, blocks, warps,
// variant)` makes a plan and returns true. Of equals the one with fewer blocks: fewer readers of
// every word.
template <class Form>
std::optional<GpuPlan> fastest_plan(const GpuRequest& request, int variants, const Form& form) {
  const int most = std::min(request.limits.multiprocessors, request.config.hidden_size);
  const int last = request.blocks ? request.blocks : most;
  std::vector<int> all_warps{8, 4, 12, 16};
  if (request.warps) all_warps = {request.warps};
  std::optional<GpuPlan> best;
  GpuPlan plan;
  plan.request = request;
  for (int blocks = std::max(1, request.blocks); blocks <= last; ++blocks)
    for (const int warps : all_warps)
      for (int variant = 0; variant < variants; ++variant) {
        if (!form(plan, blocks, warps, variant)) continue;
        if (!best || plan.latency.total() < best->latency.total()) best = plan;
      }
  return best;
}

// --- packing -------------------------------------------------------------------------------------

// Packed as [parts][warps][rows of a warp][pairs][32 lanes] pairs of neighbouring columns.
struct RowSource {
  const char* name;    // in reports and for tests
  const char* tensor;  // canonical
  int rows, cols;      // of it that are multiplied a sample
  int stride;          // columns of the tensor
  int slots, pairs, at;
  int dealt;   // units, or rows and padding, that are dealt to the parts
  int parts;   // blocks, or 1: every block has all
  bool units;  // rows are gates of units
};

void pack_rows(const Shape& shape, const std::vector<RowSource>& sources,
               const CanonicalWeights& weights, std::vector<uint32_t>& out);
std::vector<float> unpack_rows(const Shape& shape, const std::vector<RowSource>& sources,
                               const std::vector<uint32_t>& packed, const std::string& name);
void put_floats(std::vector<uint32_t>& out, int at, const float* values, int count);

}  // namespace wavernn_fast::gpu
