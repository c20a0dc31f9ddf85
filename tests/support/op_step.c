#include "tests/support/op_step.h"

#include <stdlib.h>

#include "kernels/base/check.h"

enum { JUNK = 1 << 30, SPARE_PAGES = 3, SPARE_SLOTS = 2 };

static int32_t blocks_of(int32_t length)
{
    return (length + PHX_PAGE_TOKENS - 1) / PHX_PAGE_TOKENS;
}

static int32_t table_index(const struct op_step *s, int32_t seq, int32_t i)
{
    return s->seq_slot[seq] * s->n_blocks + i / PHX_PAGE_TOKENS;
}

int32_t op_step_key_position(const struct op_step *s, int32_t seq, int32_t i)
{
    if (s->page_position == NULL) return i;
    return s->page_position[table_index(s, seq, i)] + i % PHX_PAGE_TOKENS;
}

int32_t op_step_key_page(const struct op_step *s, int32_t seq, int32_t i)
{
    return s->block_table[table_index(s, seq, i)];
}

/* The rows of a sequence are its last positions; the first ones if it has no keys here. */
static void add_rows(struct op_step *s, int32_t seq, int32_t rows)
{
    const int32_t length = s->seq_length[seq];
    const bool empty = length == 0 || s->seq_slot[seq] < 0;
    int32_t last = empty ? rows - 1 : op_step_key_position(s, seq, length - 1);
    for (int32_t r = 0; r < rows; r++) {
        PHX_ASSERT(s->n_rows < (int32_t)(sizeof s->positions / sizeof *s->positions));
        s->positions[s->n_rows] = last - (rows - 1) + r;
        s->row_seq[s->n_rows++] = seq;
    }
    s->seq_rows[seq + 1] = s->n_rows;
}

static void measure(const struct op_seq *seqs, struct op_step *s)
{
    s->n_blocks = 1;
    s->n_pages = SPARE_PAGES;
    for (; seqs[s->n_seqs].rows > 0; s->n_seqs++) {
        PHX_ASSERT(s->n_seqs < OP_STEP_SEQS);
        int32_t blocks = blocks_of(seqs[s->n_seqs].length);
        if (blocks > s->n_blocks) s->n_blocks = blocks;
        if (seqs[s->n_seqs].length > 0) s->n_pages += blocks;
    }
    s->n_slots = s->n_seqs + SPARE_SLOTS;
}

static void fill_tables(struct op_run *run, enum op_where where, struct op_step *s)
{
    const int32_t entries = s->n_slots * s->n_blocks;
    int32_t *pages = op_shuffled(run, s->n_pages), used = 0;
    s->block_table = op_alloc(entries, sizeof *s->block_table);
    if (where == OP_SUBSET) s->page_position = op_alloc(entries, sizeof *s->page_position);
    for (int32_t i = 0; i < entries; i++) s->block_table[i] = JUNK;
    for (int32_t seq = 0; seq < s->n_seqs; seq++) {
        if (s->seq_slot[seq] < 0) continue;
        for (int32_t b = 0; b < blocks_of(s->seq_length[seq]); b++) {
            const int32_t at = s->seq_slot[seq] * s->n_blocks + b;
            s->block_table[at] = pages[used++];
            if (where == OP_HOLES && op_below(run, 3) == 0) s->block_table[at] = -1;
            if (where == OP_SUBSET) s->page_position[at] = PHX_PAGE_TOKENS * (2 * b + seq % 2);
        }
    }
    free(pages);
}

void op_step_open(struct op_run *run, const struct op_seq *seqs, enum op_where where,
                  struct op_step *s)
{
    *s = (struct op_step){0};
    measure(seqs, s);
    int32_t *slots = op_shuffled(run, s->n_slots), longest = 0;
    for (int32_t seq = 0; seq < s->n_seqs; seq++) {
        bool padding = seqs[seq].length == OP_PADDING;
        s->seq_slot[seq] = padding ? -1 : slots[seq];
        s->seq_length[seq] = padding ? JUNK : seqs[seq].length;
    }
    free(slots);
    fill_tables(run, where, s);
    for (int32_t seq = 0; seq < s->n_seqs; seq++) {
        add_rows(s, seq, seqs[seq].rows);
        if (seqs[seq].rows > longest) longest = seqs[seq].rows;
    }
    s->layout = (struct phx_step_layout){
        .n_rows = s->n_rows,
        .n_seqs = s->n_seqs,
        .max_seq_rows = longest,
        .positions = op_ints(run, s->n_rows, 1, s->positions)->view,
        .row_seq = op_ints(run, s->n_rows, 1, s->row_seq)->view,
        .seq_rows = op_ints(run, s->n_seqs + 1, 1, s->seq_rows)->view,
        .seq_slot = op_ints(run, s->n_seqs, 1, s->seq_slot)->view,
        .seq_length = op_ints(run, s->n_seqs, 1, s->seq_length)->view,
        .block_table = op_ints(run, s->n_slots, s->n_blocks, s->block_table)->view,
    };
    if (s->page_position != NULL)
        s->layout.page_position = op_ints(run, s->n_slots, s->n_blocks, s->page_position)->view;
}

void op_step_close(struct op_step *s)
{
    free(s->block_table);
    free(s->page_position);
}

int64_t op_step_key_value(const struct op_step *step, int32_t seq, int32_t i, int32_t hk, int32_t h,
                          int32_t d)
{
    int64_t page = op_step_key_page(step, seq, i);
    return ((page * hk + h) * PHX_PAGE_TOKENS + i % PHX_PAGE_TOKENS) * d;
}
