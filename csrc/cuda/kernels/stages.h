// Names of what happens in a sample, for clocks and for the emulator's reports.
#pragma once

namespace wavernn_fast::gpu {

// Barriers of a block, one after each stage that shared memory carries to the next; and two of a
// cluster.
enum Barrier : int {
  kStartReady,    // the state, before the first product
  kStartRead,     // the first product, before the state changes
  kCoarseHidden,  // coarse half of the new state
  kCoarseY,       // all of y, or this block's share of it
  kCoarseDrawn,
  kFineHidden,
  kFineY,
  kFineDrawn,
  kStartCluster,  // of a whole cluster: before its first exchange
  kEndCluster,    // and after its last
  kBarriers
};
constexpr int kBarriersOfHalf = 3;

// The same of a pruned model: its warps have two roles (sparse.cuh). A half has its own first four.
enum SparseBarrier : int {
  kSparseHidden = kBarriers,  // half of the new state; the fine one for all warps
  kSparseY = kSparseHidden + 2,
  kSparseLogits = kSparseY + 2,
  kSparseDrawn = kSparseLogits + 2,  // the class
  kSparseReady = kSparseDrawn + 2,   // pre-activations of the gates, if a team is one block
  kSparseArgs = kSparseReady + 2,    // the arguments
  kSparseStart,                      // everything else in shared memory
  kSparseStartCluster,
  kSparseEndCluster,
  kSparseBarriers
};

// The same of many streams (many.cuh). A half has its own of the first eight.
enum ManyBarrier : int {
  kManyHidden = kSparseBarriers,         // the half of all units as activations
  kManySumsY = kManyHidden + 2,          // products of O1, by warp
  kManyTakenY = kManySumsY + 2,          // they have been read
  kManySumsGates = kManyTakenY + 2,      // products of R, by warp
  kManyTakenGates = kManySumsGates + 2,  // they have been read
  kManyY = kManyTakenGates + 2,          // y as activations
  kManySumsLogits = kManyY + 2,          // products of O2, by warp
  kManyDrawn = kManySumsLogits + 2,      // classes of all streams
  kManyAdvanced = kManyDrawn + 2,        // every slot is at its next step
  kManyStored,                           // states of the streams that end
  kManyBegun,                            // arguments of those that begin; at first everything
  kManyLoaded,                           // half of their states as activations
  kManyReady = kManyLoaded + 2,          // pre-activations of their first gates
  kManyStartCluster,                     // of a team that is a cluster: before its first message
  kManyEndCluster,                       // and after its last; of all cores
  kManyBarriers
};

// The same of the residual core (residual.cuh).
enum ResidualBarrier : int {
  kResidualReady = kManyBarriers,  // the states, before the first products
  kResidualRead,                   // the first products, before the states change
  kResidualV,                      // h1 and v
  kResidualW,                      // h2 and w
  kResidualP,
  kResidualQ,
  kResidualLogits,
  kResidualDrawn,  // the outcome
  kResidualBarriers
};

// The same of many streams of the residual and the embedded core (many_residual.cuh,
// many_embedded.cuh): of the embedded one those of h1, p, logits and all from kManyUnitsDrawn on.
enum ManyUnitsBarrier : int {
  kManyUnitsV = kResidualBarriers,  // v of all units as activations
  kManyUnitsSumsV,                  // products of W_ih2, by warp
  kManyUnitsH1,                     // h1 as activations
  kManyUnitsH2,
  kManyUnitsSumsH1,  // products of R1, by warp
  kManyUnitsSumsH2,  // of R2
  kManyUnitsW,       // w as activations
  kManyUnitsSumsP,   // products of fc1, by warp
  kManyUnitsTakenP,  // they have been read; embedded
  kManyUnitsP,
  kManyUnitsSumsQ,
  kManyUnitsQ,
  kManyUnitsSumsLogits,
  kManyUnitsLogits,    // logits, if every block has all rows of fc3
  kManyUnitsDrawn,     // outcomes of all streams
  kManyUnitsAdvanced,  // every slot is at its next step
  kManyUnitsStored,    // states of the streams that end
  kManyUnitsBegun,     // arguments of those that begin; at first everything
  kManyUnitsLoadedH1,  // a state of theirs as activations
  kManyUnitsLoadedH2,
  kManyUnitsReady,  // pre-activations of their first gates; embedded
  kManyUnitsBarriers
};

// The same of the embedded core (embedded.cuh).
enum EmbeddedBarrier : int {
  kEmbeddedReady = kManyUnitsBarriers,  // the state, before the first product
  kEmbeddedRead,                        // the first product, before the state changes
  kEmbeddedHidden,                      // the new state
  kEmbeddedP,
  kEmbeddedLogits,
  kEmbeddedDrawn,  // the label
  kEmbeddedBarriers
};

// Stretches of a sample whose ticks are summed when kClocks is set, in order.
enum Stage : int {
  kClockCoarseGates,   // gates of the coarse half, barrier
  kClockCoarseY,       // O1, barrier; with four exchanges R times the half and waiting for y
  kClockCoarseLogits,  // O2, collecting the next gate words; with two exchanges R times the half
  kClockCoarseDraw,    // waiting for logits and drawing, barrier
  kClockFineGates,
  kClockFineY,
  kClockFineLogits,
  kClockFineDraw,
  kClockStages
};
constexpr int kStagesOfHalf = 4;

constexpr const char* kStageNames[kClockStages] = {"coarse gates", "coarse y",   "coarse logits",
                                                   "coarse draw",  "fine gates", "fine y",
                                                   "fine logits",  "fine draw"};

// The same of the residual core.
enum ResidualStage : int {
  kClockFirstGates,   // gates of GRU 1, barrier
  kClockSecondGates,  // rows of W_ih2, gates of own units; R1 times h1; all of h2; barrier
  kClockP,            // fc1; R2 times h2; all of p; barrier
  kClockQ,            // fc2; all of q; barrier
  kClockLogits,       // fc3; what the next gates need; all logits; barrier
  kClockDraw,         // the draw, barrier
  kResidualClockStages
};

constexpr const char* kResidualStageNames[kResidualClockStages] = {
    "gates of GRU 1", "GRU 2", "p", "q", "logits", "draw"};

// The same of the embedded core.
enum EmbeddedStage : int {
  kClockUnits,        // the row of the label, gates, barrier
  kClockHiddenLayer,  // fc1; R times h; all of p; barrier
  kClockLabels,       // fc2; what the next gates need; all logits; barrier
  kClockLabel,        // the draw, barrier
  kEmbeddedClockStages
};

constexpr const char* kEmbeddedStageNames[kEmbeddedClockStages] = {"gates", "p", "logits", "draw"};

}  // namespace wavernn_fast::gpu
