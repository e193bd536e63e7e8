// One team of threads stepping a group of streams; a core's topology derives from it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "common/integers.h"
#include "common/sampling.h"
#include "cpu/kernels.h"
#include "cpu/shares.h"
#include "cpu/stage_clock.h"
#include "cpu/threads.h"
#include "engine/engine.h"
#include "plan/plan.h"

namespace wavernn_fast::cpu {

// A job and how much of it is done.
struct Lane {
  Job* job = nullptr;
  int64_t done = 0;
  int64_t first_frame = 0;  // of the conditioning rows handed over
};

// A [streams][width] array; rows are padded so that every row is 64-byte aligned.
template <class T>
struct Rows {
  AlignedBuffer<T> data;
  ptrdiff_t width = 0;
  void resize(size_t streams, int columns) {
    width = round_up(columns, 64);
    if (data.size() < streams * width) data.resize(streams * width);
  }
  T* row(size_t s) { return data.data() + s * width; }
};

// R h + b of a GRU, [streams][3H] in blocks of 16 reset, 16 update, 16 candidate rows; and what
// these sums lost, where that is kept.
struct RecurrentSums {
  Rows<float> sums, rests;
  bool keeps_rests = false;
  void resize(size_t streams, int hidden_size, bool keep) {
    keeps_rests = keep;
    sums.resize(streams, 3 * hidden_size);
    if (keep) rests.resize(streams, 3 * hidden_size);
  }
  float* rest(size_t s) { return keeps_rests ? rests.row(s) : nullptr; }
};

class Stepper {
 public:
  Stepper(const Plan& plan, const KernelTable& kernels, const float* upsample_kernel);
  virtual ~Stepper() = default;

  // `lanes` stay fixed from load() to store(). Between them each of `members` calls steps().
  void load(std::vector<Lane*> lanes, int members);
  void store(int n_steps);
  // Up to `n` samples of every lane; `member` of `members`, which meet at `barrier` (null when
  // alone). Returns the samples done, the same for all members: member 0 ends the slice early when
  // it passes `deadline`, as happens when another program takes the core of a member.
  using Clock = std::chrono::steady_clock;
  int steps(int member, int members, Barrier* barrier, int n, Clock::time_point deadline);
  // The same of a thread that works alone; also ends early, after one sample at least, when `over`.
  int steps_alone(int n, Clock::time_point deadline, const std::atomic<bool>& over);
  // Member 0 tells it what it has done; null: nobody does.
  void set_clock(StageClock* clock) { clock_ = clock; }

 protected:
  // Private to one thread: quantised inputs, draw weights, and a copy of every lane's feedback
  // (all members draw the same outcomes, which saves a meeting a draw).
  struct alignas(128) Local {
    Rows<uint8_t> quantised;
    AlignedBuffer<float> scales;
    AlignedBuffer<int32_t> weights;
    AlignedBuffer<uint32_t> sums;
    std::vector<float> feedback;                 // [streams][kMostBands]
    std::vector<float> last;                     // [streams][2] feedback before this sample (dual)
    std::vector<Conditioning> conditioning;      // [streams], of this sample
    std::vector<std::array<uint32_t, 4>> words;  // [streams], of this sample
  };
  struct Member {
    int index, members;
    int team;  // number of this size in team_sizes()
    Barrier* barrier;
    Local* local;
    int part_begin, part_end;  // parts of every matrix that this member multiplies
    const Local* drawn;        // whose feedback is current: its own where every member draws
    StageClock* clock;         // of member 0, or null
  };
  // y = bias + W x over a member's rows, all lanes. Column ranges of the matrix are taken in order;
  // each but the first adds to y.
  struct Product {
    int matrix;
    const float* x;  // [streams][ldx], from column 0 on
    ptrdiff_t ldx;
    bool is_signed;
    float* y;  // [streams][ldy]
    ptrdiff_t ldy;
    int range = -1;         // -1: all
    float* rest = nullptr;  // [streams][ldy], of a pruned matrix: see SparseArgs
    int share = -1;         // which shares_ it is taken from; -1: every member does its own
  };

  virtual int hidden_arrays() const = 0;  // GRUs
  virtual void resize(size_t streams) = 0;
  // `is_last`: nothing needs to be prepared for the sample after this one.
  virtual void sample(const Member& me, int step, bool is_last) = 0;

  size_t streams() const { return lanes_.size(); }
  void matmul(const Member& me, const Product& p);
  // What the sums of a pruned matrix lose is kept: it costs little there, and such weights are few
  // and large. 16-bit and int8 weights are rounded more coarsely than that.
  void resize_sums(RecurrentSums& y, size_t streams, int matrix) const {
    const bool is_pruned = plan_.matrices[matrix].layout != Layout::dense;
    y.resize(streams, plan_.request.config.hidden_size,
             is_pruned && plan_.request.dtype == Dtype::fp32);
  }
  void multiply_state(const Member& me, int matrix, Rows<float>& h, RecurrentSums& y,
                      int range = -1, int share = -1) {
    matmul(me,
           {matrix, h.row(0), h.width, true, y.sums.row(0), y.sums.width, range, y.rest(0), share});
  }
  // Of the panels of one range of columns of a dense matrix, before the meeting that precedes their
  // product.
  void open_share(const Member& me, int share, int matrix, int range) {
    shares_[share].open(me.index, panels_of(me, me.index, matrix, range));
  }
  void gru(const GruArgs& args) const {
    (plan_.request.dtype == Dtype::fp32 ? kernels_.gru : kernels_.plain_gru)(args);
  }
  // Member 0 doing a whole team's work by itself.
  Member alone(const Member& me) const {
    return {0, 1, 0, nullptr, me.local, 0, plan_.request.threads, me.local, me.clock};
  }
  // First and last 16-unit block of a range of units that this member updates. Its parts follow
  // each other: as one piece they leave fewer blocks that are not done side by side with others.
  std::pair<int, int> unit_blocks(const Member& me, int range) const {
    const std::vector<int>& edges = plan_.unit_edges[range];
    return {edges[me.part_begin], edges[me.part_end]};
  }
  // First and last output of a matrix (not of gates) that this member multiplies.
  std::pair<int, int> rows_of(const Member& me, int matrix) const {
    const std::vector<int>& edges = plan_.matrices[matrix].edges;
    return {kRowsPerBlock * edges[me.part_begin], kRowsPerBlock * edges[me.part_end]};
  }
  void meet(const Member& me) const {
    if (me.barrier == nullptr) return;
    me.barrier->wait(me.index);
    done(me, kMeetings);
  }
  // What this member did since it last said so was this stage, or the product of this matrix.
  void done(const Member& me, int stage) const {
    if (me.clock != nullptr) me.clock->done(stage);
  }
  void spent(const Member& me, int stage) const {
    if (me.clock != nullptr) me.clock->spent(stage);
  }
  void prepare_sample(const Member& me, int step) const;
  // The class drawn from `logits`, or the greedy one; -1 when a logit is not finite.
  int draw(const Member& me, size_t lane, const float* logits, int n_classes, uint32_t word) const;
  void report_failure(const Member& me, size_t lane, int step, int band = 0);

 private:
  using ProductFunction = void (*)(const MatmulArgs&);
  Member member_of(int member, int members, Barrier* barrier);
  void matmul_sparse(const Member& me, const Product& p) const;
  void quantize(const Member& me, const Product& p, int first, int cols) const;
  void matmul_range(const Member& me, const Product& p, int index);
  int panels_of(const Member& me, int member, int matrix, int range) const;
  const Panel& panel_of(const Member& me, int member, int matrix, int range, int item) const;
  template <class Multiply>
  void take_panels(const Member& me, const Product& p, int range, Multiply multiply);
  ProductFunction product_of(Dtype dtype) const;

 protected:
  const Plan& plan_;
  const KernelTable& kernels_;
  const int widened_tiles_;       // see MatmulArgs
  const float* upsample_kernel_;  // [hop_length, taps]
  std::vector<Lane*> lanes_;
  std::atomic<int> last_step_{0};  // of this slice, once member 0 has seen the deadline pass
  std::vector<Local> locals_;
  StageClock* clock_ = nullptr;
  std::vector<Shares> shares_;  // of products that a team does beside something else
  // [gru][parity]: step i reads parity i & 1 and writes the other, so nobody waits for readers.
  Rows<float> hidden_[2][2];
};

// The stepper of the plan's core.
std::unique_ptr<Stepper> make_stepper(const Plan&, const KernelTable&,
                                      const float* upsample_kernel);
std::unique_ptr<Stepper> make_dual_stepper(const Plan&, const KernelTable&, const float*);
std::unique_ptr<Stepper> make_residual_stepper(const Plan&, const KernelTable&, const float*);
std::unique_ptr<Stepper> make_embedded_stepper(const Plan&, const KernelTable&, const float*);

}  // namespace wavernn_fast::cpu
