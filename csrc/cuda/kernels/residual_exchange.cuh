// What blocks of the residual core exchange: one tagged word a value, two buffers by parity of the
// tag, as in exchange.cuh and for the same reason. Here it is the gates of GRU 1 that keep all
// together: those of step t + 1 need words of every block, which a block publishes in step t after
// it has read the words that step t began with; and those of step t + 2, which it publishes in step
// t + 1, come after everything of step t was read. Nobody overwrites for t + 2 before it has them.
// So every block owns at least one unit.
#pragma once

#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/stage_dense.cuh"

namespace wavernn_fast::gpu {

// Words of one buffer: R1 h1 for the next step [reset, update, candidate][H]; h2 [H]; what fc1 and
// fc2 give [F] each; logits, unless every block has them by itself.
WF_INLINE int second_words() { return 3 * kHidden; }
WF_INLINE int p_words() { return 4 * kHidden; }
WF_INLINE int q_words() { return p_words() + kFc; }
WF_INLINE int choice_words() { return q_words() + kFc; }

WF_INLINE Word* step_words(const KernelArgs& args, unsigned tag) {
  return args.words + static_cast<int>(tag & 1) * kBufferWords;
}

// Place of a class among the logits: the lane that draws from classes 2 n lane + 0 .. 2 n - 1, with
// n = kDrawPairs, reads them in pairs, and all lanes' pairs of one read are neighbours. Of a
// mixture n is 1, and every value stands where it is. Of several bands each has places of its own.
WF_INLINE int place_of_choice(int band, int k) {
  const int lane = k / (2 * kDrawPairs), e = k % (2 * kDrawPairs);
  return band * kBandWords + e / 2 * 64 + 2 * lane + (e & 1);
}
WF_INLINE int choice_place(int row) {
  return kBands > 1 ? place_of_choice(row / kChoices, row % kChoices) : place_of_choice(0, row);
}
// Whether there is a class at this place and the next; they are an even number.
WF_INLINE bool is_choice(int place) {
  if (kMixtures > 0) return place < kClasses;
  if (kBands > 1) place %= kBandWords;
  return place % 64 * kDrawPairs + place / 64 * 2 < (kBands > 1 ? kChoices : kClasses);
}

WF_INLINE bool always(int) { return true; }

// Waits for this thread's pairs of `n` words from `words` on, and hands each to `take(first,
// pair)`; `wanted(first)` says which there are, or n is 0: all that the threads have places for,
// and those of one thread are waited for together.
template <class Wanted, class Take>
WF_INLINE void collect_pairs(const Poller& poller, const Word* words, int n, int rounds,
                             unsigned tag, const Wanted& wanted, const Take& take) {
  if (n == 0) {
    WF_REGISTERS(float, all, 8);
    const int first = 2 * thread_index();
    poll_pairs(poller, words + first, 2 * kThreads, rounds, tag, all);
    WF_UNROLL
    for (int i = 0; i < rounds; ++i)
      take(first + 2 * kThreads * i, Float2{all[2 * i], all[2 * i + 1]});
    return;
  }
  WF_UNROLL
  for (int i = 0; i < rounds; ++i) {
    const int first = 2 * (thread_index() + i * kThreads);
    if (first >= n || !wanted(first)) continue;
    WF_REGISTERS(float, pair, 2);
    poll_pairs(poller, words + first, 0, 1, tag, pair);
    take(first, Float2{pair[0], pair[1]});
  }
}

// `n`, or 0 if every thread has the same number of pairs of them.
WF_INLINE int uneven(int n, int rounds) {
  return rounds <= 4 && n == 2 * kThreads * rounds ? 0 : n;
}

// All of h2 to where it stays, and w = v + h2.
WF_INLINE void collect_second(const Poller& poller, unsigned tag, float* shared) {
  collect_pairs(poller, step_words(poller.args, tag) + second_words(), uneven(kHidden, kGateRounds),
                kGateRounds, tag, always, [&](int i, Float2 h) {
                  const Float2 v = load2(shared + kSharedV + i);
                  store2(shared + kSharedSecond + i, h);
                  store2(shared + kSharedW + i, {add(v.x, h.x), add(v.y, h.y)});
                });
}

// All of p (layer 0) or q (1).
WF_INLINE void collect_layer(const Poller& poller, int layer, unsigned tag, float* shared) {
  float* to = shared + (layer == 0 ? kSharedP : kSharedQ);
  collect_pairs(poller, step_words(poller.args, tag) + (layer == 0 ? p_words() : q_words()),
                uneven(kFc, kFcRounds), kFcRounds, tag, always,
                [&](int i, Float2 y) { store2(to + i, y); });
}

WF_INLINE void collect_choices(const Poller& poller, unsigned tag, float* shared) {
  const int n = kClasses == kChoiceWords ? uneven(kClasses, kLogitRounds) : kChoiceWords;
  collect_pairs(poller, step_words(poller.args, tag) + choice_words(), n, kLogitRounds, tag,
                is_choice, [&](int i, Float2 l) { store2(shared + kSharedLogits + i, l); });
}

}  // namespace wavernn_fast::gpu
