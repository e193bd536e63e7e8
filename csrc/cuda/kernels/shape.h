// Everything about a launch that the kernel takes as a constant. On a device each field is a
// constexpr (the host passes WF_... macros to the compiler); in the emulator it is a variable.
// plan/gpu.cpp computes all of them; the kernel computes none.
#pragma once

namespace wavernn_fast::gpu {

// Where a matrix lives while the kernel runs.
enum Place : int { kInRegisters = 0, kInShared = 1, kInL2 = 2 };

// A head with two outputs, of which a value is drawn; kNotReal: labels, or a mixture.
enum RealHead : int { kNotReal = 0, kGaussian = 1, kBeta = 2 };

// WF_SHAPE(X) lists X(field, kConstant, WF_MACRO). "Slots" are per warp; offsets into the packed
// weights are in 32-bit words, offsets into shared memory in floats.
//
// A full kernel takes all that KernelArgs offers: forced labels, given random words, logits out,
// greedy draws. The plain one takes none of it and is a tenth shorter.
#define WF_SHAPE(X)                                                                                \
  X(hidden, kHidden, WF_HIDDEN)                  /* GRU units H */                                 \
  X(half, kHalf, WF_HALF)                        /* H / 2 */                                       \
  X(fc, kFc, WF_FC)                              /* width F of O1 and O3 */                        \
  X(blocks, kBlocks, WF_BLOCKS)                  /* G, one a multiprocessor */                     \
  X(warps, kWarps, WF_WARPS)                     /* a block */                                     \
  X(threads, kThreads, WF_THREADS)               /* 32 warps */                                    \
  X(unit_slots, kUnitSlots, WF_UNIT_SLOTS)       /* GRU units of a warp, both halves */            \
  X(fc1_slots, kFc1Slots, WF_FC1_SLOTS)          /* rows of O1, and of O3 */                       \
  X(fc2_slots, kFc2Slots, WF_FC2_SLOTS)          /* rows of O2, and of O4 */                       \
  X(row_slots, kRowSlots, WF_ROW_SLOTS)          /* the larger of both */                          \
  X(half_pairs, kHalfPairs, WF_HALF_PAIRS)       /* pairs of columns a lane: ceil(H/2 / 64) */     \
  X(fc_pairs, kFcPairs, WF_FC_PAIRS)             /* ceil(F / 64) */                                \
  X(gate_rounds, kGateRounds, WF_GATE_ROUNDS)    /* of a thread: pairs of units; many: sums */     \
  X(fc_rounds, kFcRounds, WF_FC_ROUNDS)          /* pairs of y a thread: ceil(F/2 / T) */          \
  X(exchanges, kExchanges, WF_EXCHANGES)         /* between blocks, a sample: 4, or 2 with sums */ \
  X(cluster, kCluster, WF_CLUSTER)               /* blocks of a cluster; 1: no clusters */         \
  X(class_rounds, kClassRounds, WF_CLASS_ROUNDS) /* 2: classes a thread, ceil(256 / T) */          \
  X(y_pairs, kYPairs, WF_Y_PAIRS)                /* 2: pairs of y that a block computes */         \
  X(taps, kTaps, WF_TAPS)                        /* rows of `interp` that a sample mixes */        \
  X(fp16, kFp16, WF_FP16)                        /* weights of R and O1..O4 in two bytes */        \
  X(exact, kExact, WF_EXACT)                     /* IEEE operations only */                        \
  X(full, kFull, WF_FULL)                        /* what only some runs need, see above */         \
  X(clocks, kClocks, WF_CLOCKS)                  /* sum up the ticks of every stage */             \
  X(gru_place, kGruPlace, WF_GRU_PLACE)          /* Place of R */                                  \
  X(fc1_place, kFc1Place, WF_FC1_PLACE)          /* of O1 and O3 */                                \
  X(coarse_fc2_place, kCoarseFc2Place, WF_COARSE_FC2_PLACE)                                        \
  X(fine_fc2_place, kFineFc2Place, WF_FINE_FC2_PLACE)                                              \
  X(coarse_sample_place, kCoarseSamplePlace, WF_COARSE_SAMPLE_PLACE)                               \
  X(gru_at, kGruAt, WF_GRU_AT)                              /* packed weights: R */                \
  X(coarse_fc1_at, kCoarseFc1At, WF_COARSE_FC1_AT)          /* O1 */                               \
  X(coarse_fc2_at, kCoarseFc2At, WF_COARSE_FC2_AT)          /* O2 */                               \
  X(fine_fc1_at, kFineFc1At, WF_FINE_FC1_AT)                /* O3 */                               \
  X(fine_fc2_at, kFineFc2At, WF_FINE_FC2_AT)                /* O4 */                               \
  X(sample_at, kSampleAt, WF_SAMPLE_AT)                     /* input weights, see stage_gates */   \
  X(inner_bias_at, kInnerBiasAt, WF_INNER_BIAS_AT)          /* [H] inside the reset product */     \
  X(fc_bias_at, kFcBiasAt, WF_FC_BIAS_AT)                   /* [F] O1, [256] O2, [F] O3, [256] */  \
  X(shared_hidden, kSharedHidden, WF_SHARED_HIDDEN)         /* shared: coarse h, fine h */         \
  X(shared_y, kSharedY, WF_SHARED_Y)                        /* relu of O1 or O3 */                 \
  X(shared_seen, kSharedSeen, WF_SHARED_SEEN)               /* 2: sums of the step before */       \
  X(shared_arrivals, kSharedArrivals, WF_SHARED_ARRIVALS)   /* cluster: of y, of logits */         \
  X(shared_logits, kSharedLogits, WF_SHARED_LOGITS)         /* cluster: of one half */             \
  X(shared_chance, kSharedChance, WF_SHARED_CHANCE)         /* random words of 64 steps [2][64] */ \
  X(shared_rows, kSharedRows, WF_SHARED_ROWS)               /* rows and biases of output layers */ \
  X(shared_gate_rows, kSharedGateRows, WF_SHARED_GATE_ROWS) /* rows of the recurrent product */    \
  X(shared_sample, kSharedSample, WF_SHARED_SAMPLE)         /* input weights */                    \
  X(shared_weights, kSharedWeights, WF_SHARED_WEIGHTS)      /* matrices in shared memory */        \
  X(gate_threads, kGateThreads, WF_GATE_THREADS)            /* of a block that compute gates */    \
  /* of a pruned model (sparse.cuh); zero otherwise */                                             \
  X(chain_warps, kChainWarps, WF_CHAIN_WARPS) /* the others multiply R */                          \
  X(tile_rows, kTileRows, WF_TILE_ROWS)       /* of 16 weights */                                  \
  X(tile_cols, kTileCols, WF_TILE_COLS)                                                            \
  X(coarse_gru_kept, kCoarseGruKept, WF_COARSE_GRU_KEPT) /* bins of a warp in registers: R, */     \
  X(fine_gru_kept, kFineGruKept, WF_FINE_GRU_KEPT)       /* rows of either half, */                \
  X(coarse_fc1_kept, kCoarseFc1Kept, WF_COARSE_FC1_KEPT) /* and the output layers */               \
  X(coarse_fc2_kept, kCoarseFc2Kept, WF_COARSE_FC2_KEPT)                                           \
  X(fine_fc1_kept, kFineFc1Kept, WF_FINE_FC1_KEPT)                                                 \
  X(fine_fc2_kept, kFineFc2Kept, WF_FINE_FC2_KEPT)                                                 \
  X(gru_runs, kGruRuns, WF_GRU_RUNS)                      /* block rows of a bin: R */             \
  X(fc1_runs, kFc1Runs, WF_FC1_RUNS)                      /* O1 and O3 */                          \
  X(fc2_runs, kFc2Runs, WF_FC2_RUNS)                      /* O2 and O4 */                          \
  X(head_words, kHeadWords, WF_HEAD_WORDS)                /* of a bin */                           \
  X(heads_at, kHeadsAt, WF_HEADS_AT)                      /* packed: heads of all bins */          \
  X(bins_at, kBinsAt, WF_BINS_AT)                         /* and their weights */                  \
  X(shared_args, kSharedArgs, WF_SHARED_ARGS)             /* KernelArgs of this team's stream */   \
  X(shared_pre, kSharedPre, WF_SHARED_PRE)                /* pre-activations of the gates */       \
  X(shared_partials, kSharedPartials, WF_SHARED_PARTIALS) /* sums of chunks, by warp */            \
  X(shared_biases, kSharedBiases, WF_SHARED_BIASES)       /* of O1 to O4 */                        \
  X(shared_places, kSharedPlaces, WF_SHARED_PLACES)       /* where a warp's bins are */            \
  X(shared_heads, kSharedHeads, WF_SHARED_HEADS)          /* of this block's bins */               \
  /* of many streams (many.cuh); zero otherwise. A tile is 16 rows, 16 columns or 8 streams */     \
  X(stream_tiles, kStreamTiles, WF_STREAM_TILES)            /* of a team */                        \
  X(split, kSplit, WF_SPLIT)                                /* activations in two halves */        \
  X(streams, kStreams, WF_STREAMS)                          /* of a team */                        \
  X(unit_tiles, kUnitTiles, WF_UNIT_TILES)                  /* of a block, each half */            \
  X(half_tiles, kHalfTiles, WF_HALF_TILES)                  /* H / 2 / 16 */                       \
  X(fc_tiles, kFcTiles, WF_FC_TILES)                        /* ceil(F / 16) */                     \
  X(fc1_tiles, kFc1Tiles, WF_FC1_TILES)                     /* of rows of O1 in a block */         \
  X(fc2_tiles, kFc2Tiles, WF_FC2_TILES)                     /* of rows of O2 in a block */         \
  X(fc2_rows, kFc2Rows, WF_FC2_ROWS)                        /* classes of a block */               \
  X(gru_columns, kGruColumns, WF_GRU_COLUMNS)               /* tiles of columns of R, a warp */    \
  X(gru_kept, kGruKept, WF_GRU_KEPT)                        /* of them in registers */             \
  X(draw_apart, kDrawApart, WF_DRAW_APART)                  /* one block draws for a stream */     \
  X(buffer_words, kBufferWords, WF_BUFFER_WORDS)            /* of 32 bits, of a step */            \
  X(column_words, kColumnWords, WF_COLUMN_WORDS)            /* words of a stream's activations */  \
  X(shared_slots, kSharedSlots, WF_SHARED_SLOTS)            /* where each stream is */             \
  X(shared_slot_args, kSharedSlotArgs, WF_SHARED_SLOT_ARGS) /* its KernelArgs */                   \
  X(shared_inputs, kSharedInputs, WF_SHARED_INPUTS)         /* scaled samples [3][streams] */      \
  X(shared_columns, kSharedColumns, WF_SHARED_COLUMNS)      /* activations: h or y */              \
  X(shared_sums, kSharedSums, WF_SHARED_SUMS)               /* of products, by warp */             \
  X(shared_ahead, kSharedAhead, WF_SHARED_AHEAD)            /* R h of the next fine half */        \
  X(shared_inner_bias, kSharedInnerBias, WF_SHARED_INNER_BIAS)                                     \
  X(shared_gru, kSharedGru, WF_SHARED_GRU) /* tiles of R that registers do not hold */             \
  /* of many streams of the residual core (many_residual.cuh) besides. There fc1_tiles */          \
  /* are of fc1 and fc2, fc2_tiles and fc2_rows of fc3, gru_columns of each of W_ih2, R1 */        \
  /* and R2, gru_kept of all three */                                                              \
  X(hidden_tiles, kHiddenTiles, WF_HIDDEN_TILES) /* H / 16 */                                      \
  /* of the residual core (residual.cuh); zero otherwise */                                        \
  X(residual, kResidual, WF_RESIDUAL)            /* 1: it is this core */                          \
  X(hidden_pairs, kHiddenPairs, WF_HIDDEN_PAIRS) /* pairs of columns a lane: ceil(H / 64) */       \
  X(fc3_slots, kFc3Slots, WF_FC3_SLOTS)          /* rows of fc3 */                                 \
  X(fc1_whole, kFc1Whole, WF_FC1_WHOLE)          /* every block has all rows of fc1, */            \
  X(fc2_whole, kFc2Whole, WF_FC2_WHOLE)          /* and so on: one exchange less each */           \
  X(fc3_whole, kFc3Whole, WF_FC3_WHOLE)                                                            \
  X(classes, kClasses, WF_CLASSES)               /* rows of fc3, and one if they are odd */        \
  X(logit_rounds, kLogitRounds, WF_LOGIT_ROUNDS) /* pairs of logits a thread */                    \
  X(choices, kChoices, WF_CHOICES)               /* of a draw: labels, or mixtures */              \
  X(choice_words, kChoiceWords, WF_CHOICE_WORDS) /* places of logits, a multiple of 64 */          \
  X(bands, kBands, WF_BANDS)                     /* that a step draws a label of each */           \
  X(band_words, kBandWords, WF_BAND_WORDS)       /* places of the logits of a band */              \
  X(real, kReal, WF_REAL)                        /* RealHead */                                    \
  X(sample_place, kSamplePlace, WF_SAMPLE_PLACE) /* Place of the columns times x */                \
  X(draw_pairs, kDrawPairs, WF_DRAW_PAIRS)       /* pairs of choices a lane */                     \
  X(weight_bits, kWeightBits, WF_WEIGHT_BITS)    /* of a choice: common/sampling.h */              \
  X(mixtures, kMixtures, WF_MIXTURES)            /* of logistics; 0: the outcome is a label */     \
  X(gru1_place, kGru1Place, WF_GRU1_PLACE)       /* Place of R1 */                                 \
  X(gru2_place, kGru2Place, WF_GRU2_PLACE)       /* of R2 */                                       \
  X(gru2_input_place, kGru2InputPlace, WF_GRU2_INPUT_PLACE) /* of W_ih2 */                         \
  X(fc2_place, kFc2Place, WF_FC2_PLACE)                                                            \
  X(fc3_place, kFc3Place, WF_FC3_PLACE)                                                            \
  X(gru1_at, kGru1At, WF_GRU1_AT) /* packed weights: R1 */                                         \
  X(gru2_at, kGru2At, WF_GRU2_AT) /* and so on */                                                  \
  X(gru2_input_at, kGru2InputAt, WF_GRU2_INPUT_AT)                                                 \
  X(fc1_at, kFc1At, WF_FC1_AT)                                                                     \
  X(fc2_at, kFc2At, WF_FC2_AT)                                                                     \
  X(fc3_at, kFc3At, WF_FC3_AT)                                                                     \
  X(shared_first, kSharedFirst, WF_SHARED_FIRST)       /* shared: h1 */                            \
  X(shared_second, kSharedSecond, WF_SHARED_SECOND)    /* h2 */                                    \
  X(shared_v, kSharedV, WF_SHARED_V)                   /* u + h1 */                                \
  X(shared_w, kSharedW, WF_SHARED_W)                   /* v + h2 */                                \
  X(shared_p, kSharedP, WF_SHARED_P)                   /* relu of fc1 */                           \
  X(shared_q, kSharedQ, WF_SHARED_Q)                   /* relu of fc2 */                           \
  X(shared_weighed, kSharedWeighed, WF_SHARED_WEIGHED) /* sums of weights of a draw */             \
  X(shared_outcomes, kSharedOutcomes,                                                              \
    WF_SHARED_OUTCOMES)                       /* of all bands; 0: of one, in control */            \
  X(shared_own, kSharedOwn, WF_SHARED_OWN)    /* rows and biases of every warp */                  \
  X(expanded_at, kExpandedAt, WF_EXPANDED_AT) /* packed: labels with mu-law undone */              \
  X(shared_expanded, kSharedExpanded, WF_SHARED_EXPANDED) /* the same; 0: heard as they are */     \
  /* of the embedded core (embedded.cuh); zero otherwise. What it shares with the residual core */ \
  /* has its constants */                                                                          \
  X(embedded, kEmbedded, WF_EMBEDDED) /* 1: it is this core */                                     \
  X(table_at, kTableAt, WF_TABLE_AT)  /* packed: W_label e(k) + b of every label k [C][3H] */

struct Shape {
#define WF_FIELD(field, constant, macro) int field = 0;
  WF_SHAPE(WF_FIELD)
#undef WF_FIELD
};

// Shared memory begins with kSharedControl floats: coarse, fine and the stop flag.
inline constexpr int kSharedControl = 4;

inline constexpr int kMostBands = 4;  // as in common/config.h

}  // namespace wavernn_fast::gpu
