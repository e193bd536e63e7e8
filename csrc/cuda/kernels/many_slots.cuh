// Slots of a team: places for streams that run side by side. Each has a queue of streams, known
// when the launch begins; when one ends its slot takes the next, in the same step in every block.
#pragma once

#include "cuda/kernels/args.h"
#include "cuda/kernels/sample.cuh"
#include "cuda/kernels/stage_gates.cuh"

namespace wavernn_fast::gpu {

constexpr int kArgsWords = static_cast<int>(sizeof(KernelArgs) / 4);
static_assert(sizeof(KernelArgs) % 8 == 0);

// Where the stream of a slot is. In shared memory, changed by one thread at the end of a step.
struct Slot {
  unsigned stream, end;  // of KernelArgs::streams: the one that runs, and behind the last
  unsigned step;         // of its steps
  Cursor at;
  int active;   // a stream runs
  int changes;  // it ends with this step, or has just begun
  int unused;
};
constexpr int kSlotWords = static_cast<int>(sizeof(Slot) / 4);

WF_INLINE Slot& slot_of(float* shared, int s) {
  return *reinterpret_cast<Slot*>(shared + kSharedSlots + s * kSlotWords);
}
WF_INLINE const KernelArgs& stream_args(float* shared, int s) {
  return *reinterpret_cast<const KernelArgs*>(shared + kSharedSlotArgs + s * kArgsWords);
}

WF_INLINE int team_index() { return block_index() / kBlocks; }
WF_INLINE int rank_in_team() { return block_index() % kBlocks; }
WF_INLINE int slots_of_launch(const KernelArgs& launch) {
  return static_cast<int>(launch.blocks) / kBlocks * kStreams;
}

// Of how many GRUs a stream has a state.
WF_INLINE int states_of_stream() { return kResidual ? 2 : 1; }

// Scaled classes of the last step, [coarse, fine][stream]; the classes of this one behind them. Of
// the residual core: the last sample of each band, and their outcomes of this step.
WF_INLINE int input_rows() { return kResidual && kBands > 2 ? kBands : 2; }
WF_INLINE float* input_of(float* shared, int side, int s) {
  return shared + kSharedInputs + side * kStreams + s;
}
WF_INLINE int* class_of(float* shared, int side, int s) {
  return reinterpret_cast<int*>(shared + kSharedInputs) + (input_rows() + side) * kStreams + s;
}

// By one thread: the slot's next stream, or none.
WF_INLINE void begin_stream(const KernelArgs& launch, Slot& slot, int s, float* shared) {
  slot.active = slot.stream < slot.end;
  slot.changes = 1;
  slot.step = 0;
  if (!slot.active) {
    for (int side = 0; side < input_rows(); ++side) {
      *input_of(shared, side, s) = 0.0f;
      *class_of(shared, side, s) = 0;
    }
    return;
  }
  const unsigned* from = reinterpret_cast<const unsigned*>(launch.streams + slot.stream);
  unsigned* to = reinterpret_cast<unsigned*>(shared + kSharedSlotArgs + s * kArgsWords);
  for (int i = 0; i < kArgsWords; ++i) to[i] = from[i];
  const KernelArgs& args = stream_args(shared, s);
  slot.at = {0, args.phase0};
  for (int side = 0; side < input_rows(); ++side)
    *input_of(shared, side, s) = args.state[states_of_stream() * kHidden + side];
}

// Conditioning of one row of those that are interpolated, 3H or 4H, for a step.
WF_INLINE float condition_of(const KernelArgs& args, Cursor at, int row) {
  const int mixed = (kResidual ? 4 : 3) * kHidden;
  float sum = load_constant(args.base + static_cast<long long>(at.frame) * args.base_stride + row);
  WF_UNROLL
  for (int j = 0; j < kTaps; ++j) {
    const float scale = load_constant(args.upsample + at.phase * kTaps + j);
    const float v = load_constant(args.interp + static_cast<long long>(at.frame + j) * mixed + row);
    sum = fma(scale, v, sum);
  }
  return sum;
}

}  // namespace wavernn_fast::gpu
