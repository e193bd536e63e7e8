// What a team of many streams has whatever its core: the slots of a launch, random words, and how
// its blocks agree on the end of a stream.
#pragma once

#include "cuda/kernels/many_product.cuh"
#include "cuda/kernels/math.cuh"
#include "cuda/kernels/sample.cuh"

namespace wavernn_fast::gpu {

// What a thread carries from stage to stage.
struct Team {
  const KernelArgs& launch;
  Exchange exchange;
  float* shared;
  RecurrentTiles gru;
  StageClock clock;
  unsigned step;
};

// Random words of 32 steps of a stream, made where the first of them is wanted: [half][32]; of more
// than two bands there are four a step.
WF_INLINE int words_of_step() { return kResidual && kBands > 2 ? 4 : 2; }
WF_INLINE unsigned random_word(const KernelArgs& args, int side, unsigned step, int s,
                               float* shared) {
  unsigned* kept = reinterpret_cast<unsigned*>(shared + kSharedChance) + 32 * words_of_step() * s;
  if (side == 0 && (step & 31) == 0) {
    const unsigned own = step + static_cast<unsigned>(lane_index());
    const int count = words_of_step();
    WF_REGISTERS(unsigned, words, 4);
    WF_UNROLL
    for (int i = 0; i < count; ++i) words[i] = 0;
    if (!kFull || args.uniforms == nullptr) {
      if (count == 4)
        philox<4>(args, args.step0 + own, words);
      else
        philox<2>(args, args.step0 + own, words);
    } else if (own < args.steps) {
      WF_UNROLL
      for (int i = 0; i < count; ++i) words[i] = args.uniforms[count * own + i];
    }
    WF_UNROLL
    for (int i = 0; i < count; ++i) kept[32 * i + lane_index()] = words[i];
    warp_sync();
  }
  return kept[32 * side + static_cast<int>(step & 31)];
}

// Written before the barrier that it is read behind: the number of the last step in which a stream
// ended, and, by parity of the step, whether all threads leave.
WF_INLINE volatile unsigned* changed_flag(float* shared) {
  return reinterpret_cast<volatile unsigned*>(shared);
}
WF_INLINE volatile int* many_leave_flag(float* shared, unsigned step) {
  return reinterpret_cast<volatile int*>(shared) + (step & 1 ? 3 : 1);
}

// Before the first sample: the queues of this team's slots, and zeros for what is multiplied.
WF_INLINE void load_slots(const KernelArgs& launch, float* shared) {
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads) {
    Slot& slot = slot_of(shared, s);
    slot.stream = launch.queues[team_index() * kStreams + s];
    slot.end = launch.queues[team_index() * kStreams + s + 1];
    slot.changes = 1;
  }
  unsigned* columns = reinterpret_cast<unsigned*>(shared + kSharedColumns);
  WF_ROLLED
  for (int i = thread_index(); i < areas() * area_words(); i += kThreads) columns[i] = 0;
  if (thread_index() < kSharedControl) reinterpret_cast<int*>(shared)[thread_index()] = 0;
}

// The next stream of every slot whose stream has ended.
WF_INLINE void begin_in_slots(const Team& t) {
  WF_ROLLED
  for (int s = thread_index(); s < kStreams; s += kThreads) {
    Slot& slot = slot_of(t.shared, s);
    if (slot.changes) begin_stream(t.launch, slot, s, t.shared);
  }
}

// Of the states of the streams that begin the values from `first` on, in pairs, as activations;
// zeros for all others.
WF_INLINE void load_columns(const Team& t, int first, int pairs) {
  WF_ROLLED
  for (int i = thread_index(); i < pairs * kStreams; i += kThreads) {
    const int pair = i % pairs, s = i / pairs;
    const Slot& slot = slot_of(t.shared, s);
    const float* state = stream_args(t.shared, s).state + first + 2 * pair;
    const bool there = slot.active && slot.changes;
    keep_values(t.shared, kBeginArea, s / streams_of_tile(), pair, s % streams_of_tile(),
                there ? state[0] : 0.0f, there ? state[1] : 0.0f);
  }
}

}  // namespace wavernn_fast::gpu
