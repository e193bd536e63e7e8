// Plan S: a pruned model, many streams at once. A team of one block, or of the blocks of a cluster,
// has one stream; teams know nothing of each other.
//
// The warps of a block have two roles. The chain goes from gates through both output layers to the
// draw, all by itself in every block of the team: O1..O4 are few weights, and no trip to another
// block is as short as multiplying them again. The other warps multiply the rows of R, dealt to the
// team's blocks, as soon as the fine half of a step is known: first those of the next coarse gates,
// which are waited for, then those of the fine ones. They run beside the chain and fill what its
// waits leave of the schedulers.
//
// The state has two buffers by parity of the step: while R is multiplied with one, the next coarse
// half is written to the other. The chain writes the fine half of step t only when it has all rows
// of R times step t - 1, so that buffer is no longer read when step t + 1 begins in it.
#pragma once

#include "cuda/kernels/sample.cuh"
#include "cuda/kernels/sparse_gates.cuh"
#include "cuda/kernels/sparse_product.cuh"
#include "cuda/kernels/stage_draw.cuh"

namespace wavernn_fast::gpu {

// Named barriers of a block, by number; 0 is that of all its threads.
constexpr int kChainBarrier = 1, kReadyBarrier = 2, kAllBarrier = 4;

WF_INLINE int chain_threads() { return 32 * kChainWarps; }
WF_INLINE void chain_sync(int where) { part_sync(where, kChainBarrier, chain_threads()); }
// Of both roles, which come to it by different ways.
WF_INLINE void all_sync(int where) { part_sync(where, kAllBarrier, kThreads); }
WF_INLINE int team_rank() { return block_index() % kCluster; }

// State of step t, [coarse H/2, fine H/2]; before step 0 is step -1.
WF_INLINE float* state_of(float* shared, unsigned step) {
  return shared + kSharedHidden + (step & 1 ? kHidden : 0);
}
// Where a class stands as the gates see it, scaled: coarse ones by parity of the step, since the
// fine half wants two of them. In shared memory they cost no register from draw to draw.
WF_INLINE float* input_place(float* shared, int side, unsigned step) {
  return shared + kSharedArrivals + (side == 0 ? 10 + static_cast<int>(step & 1) : 12);
}
WF_INLINE Inputs inputs_of(float* shared, int side, unsigned step) {
  return {*input_place(shared, 0, step - 1), *input_place(shared, 1, step),
          side == 0 ? 0.0f : *input_place(shared, 0, step)};
}
// Whether all threads leave after step t: written before a barrier of all.
WF_INLINE volatile int* leave_flag(float* shared, unsigned step) {
  return reinterpret_cast<volatile int*>(shared + kSharedArrivals + 8) + (step & 1);
}

WF_INLINE const KernelArgs& load_team(const KernelArgs& launch, float* shared) {
  const KernelArgs* own = launch.streams + block_index() / kCluster;
  const int words = static_cast<int>(sizeof(KernelArgs) / 4);
  for (int i = thread_index(); i < words; i += kThreads)
    reinterpret_cast<unsigned*>(shared + kSharedArgs)[i] =
        reinterpret_cast<const unsigned*>(own)[i];
  return *reinterpret_cast<const KernelArgs*>(shared + kSharedArgs);
}

// Biases in shared memory: O1 [64 kFcPairs], O2 [256], then the same of O3 and O4.
WF_INLINE int bias_stride() { return 64 * kFcPairs + 256; }

// Input weights, biases of the output layers and the state; zeros behind y.
WF_INLINE void load_sparse_shared(const KernelArgs& args, float* shared) {
  const float* packed = static_cast<const float*>(args.weights);
  const int skipped = kCoarseSamplePlace == kInShared ? 0 : 6 * kHalf;
  for (int i = thread_index(); i < 15 * kHalf - skipped; i += kThreads)
    shared[kSharedSample + i] = load_constant(packed + kSampleAt + skipped + i);
  for (int i = thread_index(); i < 2 * bias_stride(); i += kThreads) {
    const int layer = i % bias_stride(), from = i / bias_stride() * (kFc + 256);
    const int class_at = layer - 64 * kFcPairs;  // of O2; rows of O1 that are padding have zero
    const int row = class_at >= 0 ? kFc + class_at : layer;
    shared[kSharedBiases + i] =
        class_at >= 0 || row < kFc ? load_constant(packed + kFcBiasAt + from + row) : 0.0f;
  }
  for (int i = thread_index(); i < kHidden; i += kThreads) state_of(shared, ~0u)[i] = args.state[i];
  for (int i = thread_index(); i < 64 * kFcPairs; i += kThreads) shared[kSharedY + i] = 0.0f;
  if (thread_index() < 2)
    *input_place(shared, thread_index(), ~0u) = args.state[kHidden + thread_index()];
  if (thread_index() < 2) *leave_flag(shared, static_cast<unsigned>(thread_index())) = 0;
  if (thread_index() < kSharedControl) reinterpret_cast<int*>(shared)[thread_index()] = 0;
  if (kCluster > 1 && thread_index() == 0) begin_pre_arrivals(shared);
}

WF_INLINE void start() {
  if (kCluster > 1)
    cluster_sync(kSparseStartCluster);  // nobody pushes before its peers count
  else
    block_sync(kSparseStart);
}

// --- the warps that multiply R -------------------------------------------------------------------

WF_INLINE void multiply_half(const KernelArgs& args, const Bins& rows, int side, unsigned step,
                             Cursor at, float* shared) {
  const auto publish_sums = [&](int row, const float* sums) {
    publish_rows(args, at, side, step, row, sums, shared);
  };
  multiply_rows(rows, side == 0 ? kCoarseGruKept : kFineGruKept, kGruRuns,
                state_of(shared, step - 1), shared, publish_sums);
  if (kCluster == 1) part_arrive(kSparseReady + side, kReadyBarrier + side, kThreads);
}

WF_INLINE void run_recurrent(const KernelArgs& args, float* shared) {
  WF_REGISTERS(Weight, coarse_weights, kCoarseGruKept * kChunkPairs);
  WF_REGISTERS(Weight, fine_weights, kFineGruKept * kChunkPairs);
  const int warps = kWarps - kChainWarps, own = team_rank() * warps + warp_index() - kChainWarps;
  const Bins coarse{coarse_weights, 0}, fine{fine_weights, 1};
  keep_bins(args, own, kCoarseGruKept, coarse_weights, coarse, shared);
  keep_bins(args, kCluster * warps + own, kFineGruKept, fine_weights, fine, shared);
  warp_sync();
  Cursor at{0, args.phase0};
  for (unsigned step = 0; step < args.steps; ++step) {
    multiply_half(args, coarse, 0, step, at, shared);
    multiply_half(args, fine, 1, step, at, shared);
    all_sync(kSparseHidden + 1);
    if (*leave_flag(shared, step) != 0) return;
    at = next(args, at);
  }
}

// --- the chain -----------------------------------------------------------------------------------

struct Chain {
  const KernelArgs& args;
  Poller poller;
  float* shared;
  Bins fc[4];  // O1, O2, O3, O4
  float* pre;  // [kGateRounds][kPreSize], see collect_gates
  Cursor at;
  StageClock clock;
  unsigned step;
};

// Pre-activations of the gates that come next. Every thread waits for them by itself, or, in a team
// of one block, with the warps that make them.
WF_INLINE void await_gates(Chain& r, int side, unsigned step) {
  if (kCluster > 1)
    wait_for_pre(r.poller, side, step, r.shared);
  else
    part_sync(kSparseReady + side, kReadyBarrier + side, kThreads);
  collect_pre(side, step, r.shared, r.pre);
}

WF_INLINE void sparse_y(Chain& r, const Bins& rows, int kept, int side) {
  const float* biases = r.shared + kSharedBiases + side * bias_stride();
  float* y = r.shared + kSharedY;
  const auto take = [&](int row, const float* sums) {
    WF_REGISTERS(float, v, 4);
    load4(biases + row, v);
    WF_UNROLL
    for (int e = 0; e < 4; ++e) v[e] = largest(add(sums[e], v[e]), 0.0f);
    store4(y + row, v);
  };
  multiply_rows(rows, kept, kFc1Runs, state_of(r.shared, r.step) + side * kHalf, r.shared, take);
}

WF_INLINE void sparse_logits(Chain& r, const Bins& rows, int kept, int side) {
  const float* biases = r.shared + kSharedBiases + side * bias_stride() + 64 * kFcPairs;
  float* logits = r.shared + kSharedLogits;
  const auto take = [&](int row, const float* sums) {
    WF_REGISTERS(float, v, 4);
    load4(biases + row, v);
    WF_UNROLL
    for (int e = 0; e < 4; ++e) v[e] = add(sums[e], v[e]);
    store2(logits + logit_place(row), {v[0], v[1]});
    store2(logits + logit_place(row + 2), {v[2], v[3]});
    if (kFull && r.args.logits != nullptr && team_rank() == 0)
      for (int e = 0; e < 4; ++e)
        r.args.logits[static_cast<long long>(r.step) * 512 + side * 256 + row + e] = v[e];
  };
  multiply_rows(rows, kept, kFc2Runs, r.shared + kSharedY, r.shared, take);
}

// The last warp of the chain draws for its block and hands the class on in shared memory.
WF_INLINE void sparse_draw(Chain& r, int side) {
  WF_REGISTERS(float, l, 8);
  WF_UNROLL
  for (int i = 0; i < 4; ++i) {  // in the order of logit_place
    const Float2 pair = load2(r.shared + kSharedLogits + 64 * i + 2 * lane_index());
    l[2 * i] = pair.x;
    l[2 * i + 1] = pair.y;
  }
  const int k = stage_draw(r.args, side, r.step, r.shared, l);
  if (k >= 0) {
    reinterpret_cast<int*>(r.shared)[side] = k;
    *input_place(r.shared, side, r.step) = scaled(k);
  }
  if (side == 1 && (r.step & 31) == 31) refresh(r.args, r.step + 1, r.shared);
}

// Gates of one half; the fine half of the state is for all warps.
WF_INLINE void sparse_gates(Chain& r, int side) {
  const float* before = state_of(r.shared, r.step - 1) + side * kHalf;
  stage_gates(r.args, side, r.pre, inputs_of(r.shared, side, r.step), before,
              state_of(r.shared, r.step) + side * kHalf, r.shared);
  if (side == 0) {
    chain_sync(kSparseHidden);
  } else {
    if (thread_index() == 0) *leave_flag(r.shared, r.step) = *r.poller.stop;
    all_sync(kSparseHidden + 1);
  }
  stage_done(r.clock, kClockCoarseGates + side * kStagesOfHalf);
}

// From one half of the state to its class.
WF_INLINE void sparse_class(Chain& r, int side) {
  const int stage = side * kStagesOfHalf;
  sparse_y(r, r.fc[2 * side], side == 0 ? kCoarseFc1Kept : kFineFc1Kept, side);
  chain_sync(kSparseY + side);
  stage_done(r.clock, kClockCoarseY + stage);
  sparse_logits(r, r.fc[2 * side + 1], side == 0 ? kCoarseFc2Kept : kFineFc2Kept, side);
  const bool more = side == 0 || r.step + 1 < r.args.steps;
  if (more) collect_outer(r.args, 1 - side, side == 0 ? r.at : next(r.args, r.at), r.pre);
  chain_sync(kSparseLogits + side);
  stage_done(r.clock, kClockCoarseLogits + stage);
  if (warp_index() == kChainWarps - 1) sparse_draw(r, side);
  chain_sync(kSparseDrawn + side);
  if (more) await_gates(r, 1 - side, side == 0 ? r.step : r.step + 1);
  stage_done(r.clock, kClockCoarseDraw + stage);
}

WF_INLINE void sparse_samples(Chain& r) {
  for (r.step = 0; r.step < r.args.steps; ++r.step) {
    sparse_gates(r, 0);
    sparse_class(r, 0);
    sparse_gates(r, 1);
    if (*leave_flag(r.shared, r.step) != 0) return;
    sparse_class(r, 1);
    const volatile int* drawn = reinterpret_cast<const volatile int*>(r.shared);
    if (speaks() && thread_index() == 0) r.args.labels[r.step] = 256 * drawn[0] + drawn[1];
    r.at = next(r.args, r.at);
  }
}

WF_INLINE void store_sparse_state(const Chain& r) {
  if (!speaks()) return;
  const float* hidden = state_of(r.shared, r.step - 1);
  for (int i = thread_index(); i < kHidden; i += chain_threads()) r.args.state[i] = hidden[i];
  if (thread_index() != 0) return;
  for (int side = 0; side < 2; ++side)
    r.args.state[kHidden + side] = *input_place(r.shared, side, r.step - 1);
  r.args.status->steps_done = r.step;
}

WF_INLINE void run_chain(const KernelArgs& args, float* shared) {
  WF_REGISTERS(Weight, coarse_fc1, kCoarseFc1Kept * kChunkPairs);
  WF_REGISTERS(Weight, coarse_fc2, kCoarseFc2Kept * kChunkPairs);
  WF_REGISTERS(Weight, fine_fc1, kFineFc1Kept * kChunkPairs);
  WF_REGISTERS(Weight, fine_fc2, kFineFc2Kept * kChunkPairs);
  WF_REGISTERS(float, pre, kPreSize* kGateRounds);
  // The table has the rows of R first.
  const int own = 2 * kCluster * (kWarps - kChainWarps) + warp_index();
  volatile int* stop = reinterpret_cast<volatile int*>(shared) + 2;
  Chain r{args,   {args, stop},
          shared, {{coarse_fc1, 0}, {coarse_fc2, 1}, {fine_fc1, 2}, {fine_fc2, 3}},
          pre,    {0, args.phase0},
          {},     0};
  keep_bins(args, own, kCoarseFc1Kept, coarse_fc1, r.fc[0], shared);
  keep_bins(args, own + kChainWarps, kCoarseFc2Kept, coarse_fc2, r.fc[1], shared);
  keep_bins(args, own + 2 * kChainWarps, kFineFc1Kept, fine_fc1, r.fc[2], shared);
  keep_bins(args, own + 3 * kChainWarps, kFineFc2Kept, fine_fc2, r.fc[3], shared);
  r.clock.sums = kClocks && speaks() && thread_index() == 0 ? args.clocks : nullptr;
  warp_sync();
  if (warp_index() == kChainWarps - 1) refresh(args, 0, shared);
  collect_outer(args, 0, r.at, pre);
  await_gates(r, 0, 0);
  if (kClocks) r.clock.last = clock_ticks();
  sparse_samples(r);
  store_sparse_state(r);
}

WF_INLINE void run_sparse(const KernelArgs& launch) {
  static_assert(sizeof(KernelArgs) <= 256 && sizeof(KernelArgs) % 4 == 0);
  float* shared = shared_memory();
  const KernelArgs& args = load_team(launch, shared);
  block_sync(kSparseArgs);
  load_sparse_shared(args, shared);
  start();
  if (warp_index() < kChainWarps)
    run_chain(args, shared);
  else
    run_recurrent(args, shared);
  if (kCluster > 1) cluster_sync(kSparseEndCluster);  // nobody leaves while a peer may push to it
}

}  // namespace wavernn_fast::gpu
