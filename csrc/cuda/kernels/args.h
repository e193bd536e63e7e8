// What a launch of the persistent kernel is given: one POD, by value. Shared by the kernel, the
// host and the emulator, so it uses built-in types only and includes nothing.
#pragma once

namespace wavernn_fast::gpu {

// A message between blocks: payload in the low half, tag of its step in the high half. Data and
// flag are one word, so nothing needs a fence and nothing is ever cleared.
using Word = unsigned long long;

// Written by the kernel, read by the host after the launch.
struct KernelStatus {
  unsigned long long stall;  // 0, or where the first thread gave up waiting
  int failed_step;           // first step of this launch with a logit that is not finite, or -1;
                             // of several bands times their number, and the band
  unsigned steps_done;       // steps whose samples are written
};

// KernelStatus::stall, from its lowest bit: 32 bits of the tag that was waited for, so many of the
// index of its word in the exchange area, then the block that waited.
constexpr int kStallWordBits = 24;

// Of steps of a launch of many streams (many_exchange.cuh).
constexpr unsigned kFirstRound = 2;

struct KernelArgs {
  const void* weights;       // packed as plan/gpu_pack.cpp says
  const float* base;         // [frames, channels] biases and per-frame conditioning
  const float* interp;       // [frames + taps - 1, channels] or null
  const float* upsample;     // [hop, taps], weights of `interp` by phase
  Word* words;               // exchange area, zero before the first launch
  float* state;              // [H + 2] hidden state, scaled coarse, scaled fine; in and out. Of the
                             // residual core [2H + 2]: h1, h2, the last sample, 0; of B bands
                             // [2H + B], the last sample of each; of the embedded core [H + 2]:
                             // h, the last label, 0
  const unsigned* uniforms;  // [steps, 2] random words in place of Philox, or null; 4 bands: 4
  const int* forced;         // [steps, B] outcomes fed back in place of the drawn, or null
  int* labels;               // out [steps, B] outcomes: 256 c + f, a label, or the bits of a value
  float* logits;             // out [steps, 512 or what fc3 gives] or null
  KernelStatus* status;      // out
  long long* clocks;         // out [stages] sums of clock ticks of block 0, or null
  unsigned long long seed;   // Philox key
  unsigned long long step0;  // Philox counter of the first step
  unsigned item, fold;       // Philox counter, upper words
  unsigned steps;            // to run in this launch
  unsigned tag0;             // tag of the first step; the next launch begins at tag0 + steps + 1
  unsigned hop;              // samples a frame
  unsigned phase0;           // of the first step within its frame
  unsigned base_stride;      // floats from one row of `base` to the next; 0: one row for all
  unsigned poll_limit;       // failed polls of one word until a thread gives up
  float inv_temperature;
  int greedy;
  // Where a launch runs many streams: the arguments of each. Of a pruned model there is one a team
  // of blocks (sparse.cuh). With `queues` there are several one after the other in every slot
  // (many.cuh): slot i of all teams has streams [queues[i], queues[i + 1]), and behind these
  // numbers stands how many steps each team runs. What differs by stream is then said there.
  const KernelArgs* streams;
  const unsigned* queues;
  unsigned blocks;  // of this launch; 0: all that the kernel was made for
};

}  // namespace wavernn_fast::gpu
