/// \file format_fault.h
/// The faults that a test plants into what reads model files, one at a time (plant_formats.cmake):
/// what one program or another has got wrong about GGUF.
#ifndef PHX_TESTS_FAULTS_FORMAT_FAULT_H
#define PHX_TESTS_FAULTS_FORMAT_FAULT_H

#include <stdbool.h>

/// X(name, what is wrong)
#define TEST_FORMAT_FAULTS(X)                                                                      \
    X(NONE, "nothing")                                                                             \
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

enum test_format_fault {
#define TEST_FORMAT_FAULT_ENUM(name, text) FORMAT_FAULT_##name,
    TEST_FORMAT_FAULTS(TEST_FORMAT_FAULT_ENUM)
#undef TEST_FORMAT_FAULT_ENUM
        FORMAT_FAULT_COUNT
};

/// Set before anything runs.
extern enum test_format_fault test_format_fault;

static inline bool test_format_fault_is(enum test_format_fault fault)
{
    return test_format_fault == fault;
}

#endif
