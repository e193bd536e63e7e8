// Messages of a team of many streams that is a cluster of blocks, compute capability 9.0 and up:
// straight into the shared memory of every block, where an Arrivals a message counts what has come.
//
// A block puts its part of a message where its own products read it, and after a barrier pushes it
// to the same place of every peer. There is one place a message and no second buffer, so a peer
// must not push again before all has been read here. What says so:
//
// - A message goes out only when the sender has all of those before it that it depends on, from all
//   blocks. Every block has units, so a block that does not hand on its state holds all others up.
// - Every block has rows of the layer that gives logits, or, where those stay in the block, of the
//   one before it: a rule of the planner. So what follows a draw comes after everything that this
//   block has read for it. A stream that is drawn by one block tells all others; one stream of a
//   team always runs.
// - Messages that may be on their way while others are read have areas of their own: of the dual
//   core h and y, of the embedded core h and p. Of the residual core there are four: v, then p; w,
//   then q; h1; h2. A peer pushes p when it has w from here, and that goes out after v was read; q
//   when it has p, which is sent after w was read. A block that has no rows of p or q reads for
//   nothing there.
// - A phase of an Arrivals is one step, its parity that of the round. What is said above holds for
//   the count as well: for the next phase nothing comes before this one was waited for.
#pragma once

#include "cuda/kernels/arrivals.cuh"
#include "cuda/kernels/many_exchange.cuh"
#include "cuda/kernels/stages.h"

namespace wavernn_fast::gpu {

WF_INLINE int messages() { return kEmbedded ? 4 : 8; }
WF_INLINE Arrivals* arrivals_of(float* shared, int number) {
  return reinterpret_cast<Arrivals*>(shared + kSharedArrivals) + number;
}

// Before the first message, when all areas have their zeros; and after the last: nobody leaves
// while a peer may push to it.
WF_INLINE void start_team(float* shared) {
  if (kCluster == 1) return;
  if (thread_index() == 0) {
    for (int i = 0; i < messages(); ++i) init_arrivals(arrivals_of(shared, i));
    publish_arrivals();
  }
  cluster_sync(kManyStartCluster);
}
WF_INLINE void end_team() {
  if (kCluster > 1) cluster_sync(kManyEndCluster);
}

// The barrier of a message: in a cluster before it is pushed, through L2 after it has come.
WF_INLINE void sync_to_push(int where) {
  if (kCluster > 1) block_sync(where);
}
WF_INLINE void sync_taken(int where) {
  if (kCluster == 1) block_sync(where);
}

// By all threads: so many bytes of a message.
WF_INLINE void await(const Exchange& x, int number, int bytes, float* shared) {
  await_bytes(x.poller, arrivals_of(shared, number), thread_index() == 0, bytes, x.round & 1,
              x.poller.args.words + number, x.round);
}

// --- activations ---------------------------------------------------------------------------------

// Pairs of this block, from first_own_pair on: none where tiles are fewer than blocks.
WF_INLINE int first_own_pair(const Message& m) { return 8 * m.own * rank_in_team(); }
WF_INLINE int own_pairs(const Message& m) {
  const int left = 8 * m.tiles - first_own_pair(m), most = 8 * m.own;
  return left < 0 ? 0 : left < most ? left : most;
}

// This block's part to all peers, four words at a time. Each begins with its next neighbour, so
// that not all push to the same one.
WF_INLINE void push_message(const Message& m, float* shared) {
  if (kCluster == 1) return;
  const int most = 2 * m.own, columns = 8 * kStreamTiles, own = own_pairs(m) / 4;
  WF_ROLLED
  for (int i = thread_index(); i < most * columns * (kBlocks - 1); i += kThreads) {
    const int quad = i % most, column = i / most % columns;
    const int rank = (rank_in_team() + 1 + i / (most * columns)) % kBlocks;
    if (quad >= own) continue;
    float* at = reinterpret_cast<float*>(activations(shared, m.area, column / 8, column % 8) +
                                         first_own_pair(m) + 4 * quad);
    WF_REGISTERS(float, words, 4);
    load4(at, words);
    push4(at, arrivals_of(shared, m.number), rank, words);
  }
}

// All of a message, as activations.
WF_INLINE void take_message(const Exchange& x, const Message& m, float* shared) {
  if (kCluster == 1)
    receive_message(x, m, shared);
  else
    await(x, m.number, 4 * 8 * kStreamTiles * (8 * m.tiles - own_pairs(m)), shared);
}

// --- logits and classes --------------------------------------------------------------------------

// Where the logits of a stream are in the blocks that draw for it, and of how many streams this one
// has them.
WF_INLINE int drawn_place(int s) { return kDrawApart ? s / kBlocks : s; }
WF_INLINE int drawn_here() {
  return kDrawApart ? (kStreams - rank_in_team() + kBlocks - 1) / kBlocks : kStreams;
}

// One value to all blocks, this one too.
WF_INLINE void push_to_all(int number, float* at, float value, float* shared) {
  WF_ROLLED
  for (int rank = 0; rank < kBlocks; ++rank) push(at, arrivals_of(shared, number), rank, value);
}
// A logit, or four neighbours, to the blocks that draw for their stream.
WF_INLINE void push_logit(int number, float* at, int s, float value, float* shared) {
  if (kDrawApart)
    push(at, arrivals_of(shared, number), s % kBlocks, value);
  else
    push_to_all(number, at, value, shared);
}
WF_INLINE void push_logits(int number, float* at, int s, const float* values, float* shared) {
  const int first = kDrawApart ? s % kBlocks : 0, count = kDrawApart ? 1 : kBlocks;
  WF_ROLLED
  for (int rank = first; rank < first + count; ++rank)
    push4(at, arrivals_of(shared, number), rank, values);
}

}  // namespace wavernn_fast::gpu
