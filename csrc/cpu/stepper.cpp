#include "cpu/stepper.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "common/integers.h"
#include "cpu/isa.h"

namespace wavernn_fast::cpu {
namespace {

constexpr int kStepsPerLook = 4;  // between looks at the clock
constexpr int kMostShares = 2;    // a product for each half of the state, or each GRU

}  // namespace

Stepper::Stepper(const Plan& plan, const KernelTable& kernels, const float* upsample_kernel)
    : plan_(plan),
      kernels_(kernels),
      widened_tiles_(widened_tiles(kernels, plan.request.dtype)),
      upsample_kernel_(upsample_kernel),
      locals_(plan.request.threads) {
  for (int i = 0; i < kMostShares; ++i) shares_.emplace_back(plan.request.threads);
}

void Stepper::load(std::vector<Lane*> lanes, int members) {
  lanes_ = std::move(lanes);
  last_step_.store(-1, std::memory_order_relaxed);
  const ModelConfig& c = plan_.request.config;
  const size_t n = lanes_.size();
  for (int gru = 0; gru < hidden_arrays(); ++gru)
    for (Rows<float>& rows : hidden_[gru]) rows.resize(n, c.hidden_size);
  resize(n);
  const int widest = std::max(c.hidden_size, c.fc_size);
  const int classes = std::max(c.n_classes, 16) + 16;
  const std::span<Local> used(locals_.data(), size_t(members));
  for (Local& local : used) {
    local.quantised.resize(n, 2 * widest);
    if (local.scales.size() < n) local.scales.resize(n);
    if (local.weights.size() == 0) {
      local.sums.resize(classes / 16 + 1);  // before what the condition asks for
      local.weights.resize(classes);
    }
    local.feedback.resize(kMostBands * n);
    local.last.resize(2 * n);
    local.conditioning.resize(n);
    local.words.resize(n);
  }
  for (size_t s = 0; s < n; ++s) {
    const StreamState& state = *lanes_[s]->job->state;
    for (int gru = 0; gru < hidden_arrays(); ++gru)
      std::memcpy(hidden_[gru][0].row(s), state.hidden.data() + gru * c.hidden_size,
                  sizeof(float) * c.hidden_size);
    for (Local& local : used)
      std::memcpy(&local.feedback[kMostBands * s], state.feedback, sizeof state.feedback);
  }
}

void Stepper::store(int n_steps) {
  const ModelConfig& c = plan_.request.config;
  const int parity = n_steps & 1;
  for (size_t s = 0; s < lanes_.size(); ++s) {
    StreamState& state = *lanes_[s]->job->state;
    for (int gru = 0; gru < hidden_arrays(); ++gru)
      std::memcpy(state.hidden.data() + gru * c.hidden_size, hidden_[gru][parity].row(s),
                  sizeof(float) * c.hidden_size);
    std::memcpy(state.feedback, &locals_[0].feedback[kMostBands * s], sizeof state.feedback);
    state.step += uint64_t(n_steps);
    lanes_[s]->done += n_steps;
  }
}

Stepper::Member Stepper::member_of(int member, int members, Barrier* barrier) {
  const int parts = plan_.request.threads;
  const std::vector<int> sizes = team_sizes(parts);
  return {member,
          members,
          int(std::find(sizes.begin(), sizes.end(), members) - sizes.begin()),
          members > 1 ? barrier : nullptr,
          &locals_[member],
          part_begin(parts, members, member),
          part_begin(parts, members, member + 1),
          &locals_[members > 1 && plan_.overlapped ? 0 : member],
          member == 0 ? clock_ : nullptr};
}

int Stepper::steps(int member, int members, Barrier* barrier, int n, Clock::time_point deadline) {
  const Member me = member_of(member, members, barrier);
  done(me, kSlices);
  for (int step = 0; step < n; ++step) {
    // Written before the meetings of this sample and read after them, so all members agree.
    if (member == 0 && step % kStepsPerLook == 0 && Clock::now() > deadline)
      last_step_.store(step, std::memory_order_relaxed);
    sample(me, step, step + 1 == n);
    if (last_step_.load(std::memory_order_relaxed) == step) return step + 1;
  }
  return n;
}

int Stepper::steps_alone(int n, Clock::time_point deadline, const std::atomic<bool>& over) {
  const Member me = member_of(0, 1, nullptr);
  done(me, kSlices);
  for (int step = 0; step < n; ++step) {
    sample(me, step, step + 1 == n);
    if (over.load(std::memory_order_relaxed)) return step + 1;
    if (step % kStepsPerLook == 0 && Clock::now() > deadline) return step + 1;
  }
  return n;
}

void Stepper::matmul(const Member& me, const Product& p) {
  if (plan_.matrices[p.matrix].layout != Layout::dense) return matmul_sparse(me, p);
  const auto& ranges = plan_.matrices[p.matrix].ranges;
  for (int i = 0; i < int(ranges.size()); ++i) {
    if (p.range >= 0 && p.range != i) continue;
    matmul_range(me, p, i);
    spent(me, p.matrix);  // before the next range is quantised
  }
  done(me, p.matrix);
}

// Panels of a member of this team.
int Stepper::panels_of(const Member& me, int member, int matrix, int range) const {
  int count = 0;
  const auto& parts = plan_.matrices[matrix].ranges[range].parts;
  const int threads = int(parts.size());
  for (int part = part_begin(threads, me.members, member);
       part < part_begin(threads, me.members, member + 1); ++part)
    count += int(parts[part].size());
  return count;
}

const Panel& Stepper::panel_of(const Member& me, int member, int matrix, int range,
                               int item) const {
  const auto& parts = plan_.matrices[matrix].ranges[range].parts;
  int part = part_begin(int(parts.size()), me.members, member);
  for (; item >= int(parts[part].size()); ++part) item -= int(parts[part].size());
  return parts[part][item];
}

// Its own panels, or of a shared product those that it gets. In int8 a panel of 896
// units takes but half a microsecond: sharing cost 2 % there (two threads).
template <class Multiply>
void Stepper::take_panels(const Member& me, const Product& p, int range, Multiply multiply) {
  if (p.share < 0 || is_int8(plan_.request.dtype)) {
    for (int part = me.part_begin; part < me.part_end; ++part)
      for (const Panel& panel : plan_.matrices[p.matrix].ranges[range].parts[part]) multiply(panel);
    return;
  }
  Shares& shares = shares_[p.share];
  for (int i; (i = shares.next(me.index)) >= 0;)
    multiply(panel_of(me, me.index, p.matrix, range, i));
  for (int away = 1; away < me.members; ++away) {
    const int other = (me.index + away) % me.members;
    for (int i; (i = shares.last(other)) >= 0;) multiply(panel_of(me, other, p.matrix, range, i));
  }
}

void Stepper::matmul_range(const Member& me, const Product& p, int index) {
  const PackedMatrix& m = plan_.matrices[p.matrix];
  const ColumnRange& range = m.ranges[index];
  const Dtype dtype = plan_.request.dtype;
  MatmulArgs args{};
  args.cols = range.cols;
  args.streams = int(streams());
  args.widened_tiles = widened_tiles_;
  args.x = p.x + range.first;
  args.ldx = p.ldx;
  args.ldy = p.ldy;
  args.ld_start = index == 0 ? 0 : p.ldy;
  if (is_int8(dtype)) {
    quantize(me, p, range.first, range.cols);
    const Local& local = *me.local;
    args.x = local.quantised.data.data();
    args.ldx = local.quantised.width;
    args.x_scale = local.scales.data();
  }
  auto* const function = product_of(dtype);
  take_panels(me, p, index, [&](const Panel& panel) {
    const int row = kRowsPerBlock * panel.block;
    args.weights = plan_.blob.data() + panel.offset;
    args.blocks = panel.blocks;
    args.row_scale = m.row_scale.data() + row;
    args.row_sum = p.is_signed ? range.row_sum.data() + row : nullptr;
    args.y = p.y + row;
    args.start = index == 0 ? m.bias.data() + row : args.y;
    function(args);
  });
}

void Stepper::matmul_sparse(const Member& me, const Product& p) const {
  const PackedMatrix& m = plan_.matrices[p.matrix];
  const Dtype dtype = plan_.request.dtype;
  SparseArgs args{};
  args.blob = plan_.blob.data();
  args.streams = int(streams());
  args.is_signed = p.is_signed;
  args.cols = m.cols;
  args.x = p.x;
  args.ldx = p.ldx;
  args.y = p.y;
  args.ldy = p.ldy;
  args.rest = p.rest;
  if (is_int8(dtype)) {
    quantize(me, p, 0, m.cols);
    const Local& local = *me.local;
    args.x = local.quantised.data.data();
    args.ldx = local.quantised.width;
    args.x_scale = local.scales.data();
  }
  const std::vector<SparsePanel>& panels = m.sparse_teams[me.team][me.index];
  args.panels = panels.data();
  args.n_panels = int(panels.size());
  kernels_.sparse[int(dtype)][int(m.layout)](args);
  done(me, p.matrix);
}

// Columns [first, first + cols) of every lane's input.
void Stepper::quantize(const Member& me, const Product& p, int first, int cols) const {
  const int pieces = plan_.request.dtype == Dtype::int8 ? 2 : 1;
  Local& local = *me.local;
  for (size_t s = 0; s < streams(); ++s)
    local.scales[s] = kernels_.quantize(p.x + first + s * p.ldx, cols, pieces, p.is_signed,
                                        local.quantised.row(s));
  done(me, kQuantize);
}

Stepper::ProductFunction Stepper::product_of(Dtype dtype) const {
  const KernelTable& floats = streams() <= kFewStreams ? few_streams_kernels(kernels_) : kernels_;
  return dtype == Dtype::fp32   ? floats.matmul_fp32
         : dtype == Dtype::fp16 ? floats.matmul_fp16
         : dtype == Dtype::bf16 ? kernels_.matmul_bf16
         : dtype == Dtype::int8 ? kernels_.matmul_int8
                                : kernels_.matmul_int8_fast;
}

void Stepper::prepare_sample(const Member& me, int step) const {
  const ModelConfig& c = plan_.request.config;
  for (size_t s = 0; s < streams(); ++s) {
    const Lane& lane = *lanes_[s];
    const StreamState& state = *lane.job->state;
    const int64_t index = lane.done + step;
    if (lane.job->words != nullptr) {
      const int draws = c.draws_per_step();
      std::memcpy(me.local->words[s].data(), lane.job->words + index * draws,
                  sizeof(uint32_t) * draws);
    } else {
      me.local->words[s] = philox4x32(state.key, state.step + step);
    }
    Conditioning& cond = me.local->conditioning[s];
    cond = Conditioning{};
    if (lane.job->interp == nullptr && lane.job->hold == nullptr) continue;
    const int64_t position = int64_t(state.position()) + step;
    const int64_t row = position / c.hop_length - lane.first_frame;
    if (lane.job->hold != nullptr) cond.hold = lane.job->hold + row * c.hold_size();
    if (lane.job->interp == nullptr) continue;
    cond.taps = c.taps();
    cond.stride = c.interp_size();
    cond.interp = lane.job->interp + row * cond.stride;
    cond.kernel = upsample_kernel_ + (position % c.hop_length) * cond.taps;
  }
  done(me, kPrepare);
}

int Stepper::draw(const Member& me, size_t lane, const float* logits, int n_classes,
                  uint32_t word) const {
  const StreamState& state = *lanes_[lane]->job->state;
  Local& local = *me.local;
  const int padded = round_up(n_classes, 16);
  if (!kernels_.categorical(logits, padded, state.inv_temperature, weight_bits(n_classes),
                            local.weights.data(), local.sums.data()))
    return -1;
  if (state.greedy) return argmax(logits, n_classes);
  return draw_from_weights(local.weights.data(), local.sums.data(), padded, word);
}

void Stepper::report_failure(const Member& me, size_t lane, int step, int band) {
  Job& job = *lanes_[lane]->job;
  if (me.index != 0 || job.failed_step >= 0) return;
  job.failed_step = lanes_[lane]->done + step;
  job.failed_band = band;
}

std::unique_ptr<Stepper> make_stepper(const Plan& plan, const KernelTable& kernels,
                                      const float* upsample_kernel) {
  switch (plan.request.config.core) {
    case Core::dual:
      return make_dual_stepper(plan, kernels, upsample_kernel);
    case Core::residual:
      return make_residual_stepper(plan, kernels, upsample_kernel);
    case Core::embedded:
      break;
  }
  return make_embedded_stepper(plan, kernels, upsample_kernel);
}

}  // namespace wavernn_fast::cpu
