/// \file fault.h
/// The faults that a test plants into the program, one at a time: the ways in which heads, ranks
/// and caches have been mixed up in one engine or another.
///
/// Those of kernels are edits of their sources (plant_cpu.cmake, plant_cuda.cmake), those of
/// weights change what the loader walks over (fault_weights.c), whatever the device.
#ifndef PHX_TESTS_FAULTS_FAULT_H
#define PHX_TESTS_FAULTS_FAULT_H

#include <stdbool.h>

/// X(name, what is wrong)
#define TEST_FAULTS(X)                                                                             \
    X(NONE, "nothing")                                                                             \
    X(Q_MODULO_K, "query head q reads KV head q % K")                                              \
    X(GROUP_SIZE, "group size off by one")                                                         \
    X(INTERLEAVED_GROUPS, "rank r holds groups r, r + T, ...")                                     \
    X(KV_HEAD_STRIDE, "KV heads lie head_dim * H apart")                                           \
    X(STRIDES_SWAPPED, "token and head stride swapped")                                            \
    X(RANK_OFFSET, "every rank holds the KV heads of rank 0")                                      \
    X(ROPE_POSITION, "rotated by the position of another sequence")                                \
    X(V_OF_NEIGHBOUR, "K right, V of the next KV head")                                            \
    X(BLOCK_TABLE_ROW, "block table row of the wrong sequence")                                    \
    X(TAIL, "the last block is read past the length")                                              \
    X(Q_PADDED, "query heads cut evenly, padded at the tail")                                      \
    X(QK_NORM_OVER_HEADS, "q and k normed over all heads together")                                \
    X(ROPE_PAIRS, "neighbours rotated, not halves")                                                \
    X(SCALE_MISSING, "scores without 1 / sqrt(head_dim)")                                          \
    X(SCALE_TWICE, "scores scaled twice")                                                          \
    X(O_TRANSPOSED, "W_o transposed")                                                              \
    X(O_COLUMNS, "columns of W_o of another rank")                                                 \
    X(BIAS_EVERYWHERE, "bias of o added on every rank")                                            \
    X(LM_HEAD_SHIFTED, "slice of lm_head shifted by a row")                                        \
    X(EXPERT_OF_NEIGHBOUR, "an expert's gate is that of the next expert")

/// Those of what reads model files, what one program or another has got wrong about GGUF: edits too
/// (plant_formats.cmake), found by formats.sh.
#define TEST_FORMAT_FAULTS(X)                                                                      \
    X(HEADS_AS_STORED, "rows of q and k stay interleaved")                                         \
    X(HALVES_SWAPPED, "halves of the heads of q and k are exchanged")                              \
    X(NIBBLES, "four bits of Q4_0 in the wrong order")                                             \
    X(NIBBLES_STORED, "four bits in the wrong order where they are multiplied")                    \
    X(SCALES, "Q4_K takes its scales for its minima")                                              \
    X(NOT_WIDENED, "a cut through a block keeps the block's first columns")                        \
    X(LEAD, "columns of another rank in the first block take part")                                \
    X(NORM_TWICE, "1 is added to norms that have it")                                              \
    X(EXPERT_ORDER, "stacked experts in another order")                                            \
    X(FACTORS_SWAPPED, "rotary factors of long texts for short ones")

enum test_fault {
#define TEST_FAULT_ENUM(name, text) FAULT_##name,
    TEST_FAULTS(TEST_FAULT_ENUM) FAULT_COUNT,
    TEST_FORMAT_FAULTS(TEST_FAULT_ENUM)
#undef TEST_FAULT_ENUM
};

/// Set while no run is under way.
extern enum test_fault test_fault;

static inline bool test_fault_is(enum test_fault fault)
{
    return test_fault == fault;
}

/// After a run: frees what the faults of weights made.
void test_fault_clear(void);

#endif
