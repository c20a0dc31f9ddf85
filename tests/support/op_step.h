/// \file op_step.h
/// A step's layout for the cases of rope_append and attention: sequences over shuffled pages.
#ifndef PHX_TESTS_SUPPORT_OP_STEP_H
#define PHX_TESTS_SUPPORT_OP_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "tests/support/op_run.h"

enum { OP_STEP_SEQS = 40 };

/// `rows` of the step belong to the sequence, which has `length` keys after it. Length OP_PADDING:
/// a padding sequence, whose length in the layout is junk. A list of these ends with rows 0.
struct op_seq {
    int32_t length, rows;
};
enum { OP_PADDING = -1 };

enum op_where {
    OP_ALL,   ///< this rank holds all blocks
    OP_HOLES, ///< others hold about a third of them: -1 in the table
    OP_SUBSET ///< the table has every other block of the text only, with their positions
};

struct op_step {
    struct phx_step_layout layout;
    int32_t n_rows, n_seqs, n_slots, n_blocks, n_pages;
    int32_t positions[1024], row_seq[1024];
    int32_t seq_rows[OP_STEP_SEQS + 1], seq_slot[OP_STEP_SEQS], seq_length[OP_STEP_SEQS];
    int32_t *block_table;   ///< [n_slots][n_blocks]; entries past a sequence's blocks are junk
    int32_t *page_position; ///< the same; NULL unless OP_SUBSET
};

void op_step_open(struct op_run *run, const struct op_seq *seqs, enum op_where where,
                  struct op_step *step);
void op_step_close(struct op_step *step);

/// Key i of a sequence: its position, and its page (-1: held by another rank).
int32_t op_step_key_position(const struct op_step *step, int32_t seq, int32_t i);
int32_t op_step_key_page(const struct op_step *step, int32_t seq, int32_t i);
/// Where, in pages of `hk` heads of `d` values, head h of a key that this rank holds begins.
int64_t op_step_key_value(const struct op_step *step, int32_t seq, int32_t i, int32_t hk, int32_t h,
                          int32_t d);

#endif
