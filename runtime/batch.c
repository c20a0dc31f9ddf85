#include "runtime/batch.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/* The arrays that change with every step, in one buffer with fixed places, so that one copy brings
 * them and a recorded graph finds them. In i32 elements. */
enum section {
    IDS,
    POSITIONS,
    ROW_SEQ,
    PROMPT_SLOTS,
    OUTPUT_SLOTS,
    SEQ_ROWS,
    SEQ_SLOT,
    SEQ_LENGTH,
    OUT_ROWS,
    OUT_SLOTS,
    OUT_POSITIONS,
    SECTION_COUNT
};

struct phx_batch {
    struct phx_scheduler_limits limits;
    int64_t vocab_begin;
    bool pads;                       /* steps that only decode */
    size_t begin[SECTION_COUNT + 1]; /* elements */
    int32_t *host;                   /* the sections */
    struct phx_buffer *inputs;       /* the sections */
    struct phx_buffer *tables;       /* what follows */
    struct phx_tensor block_table;   /* i32 [B, blocks] */
    struct phx_tensor last_ids;      /* i32 [B, 1] */
    struct phx_tensor bias_slots;    /* i32 [PHX_MAX_BIAS, 1] scratch of a join */
    struct phx_sampling_table sampling;
    int32_t *host_table; /* [B, blocks] */
    bool counted[];      /* [B] the slot has penalties or biases */
};

static void sections(const struct phx_scheduler_limits *l, size_t begin[SECTION_COUNT + 1])
{
    size_t rows = (size_t)l->max_rows, seqs = (size_t)l->max_seqs, outs = (size_t)l->max_outputs;
    const size_t lengths[SECTION_COUNT] = {
        [IDS] = rows,          [POSITIONS] = rows,    [ROW_SEQ] = rows,       [PROMPT_SLOTS] = rows,
        [OUTPUT_SLOTS] = rows, [SEQ_ROWS] = seqs + 1, [SEQ_SLOT] = seqs,      [SEQ_LENGTH] = seqs,
        [OUT_ROWS] = outs,     [OUT_SLOTS] = outs,    [OUT_POSITIONS] = outs,
    };
    begin[0] = 0;
    /* Each at a multiple of 64 elements: views start aligned on every device. */
    for (int i = 0; i < SECTION_COUNT; i++)
        begin[i + 1] = begin[i] + ((lengths[i] + 63) & ~(size_t)63);
}

static struct phx_tensor carve(struct phx_buffer *memory, size_t *used, enum phx_dtype dtype,
                               int64_t rows, int64_t cols)
{
    struct phx_tensor t = {memory, *used, dtype, rows, cols, cols};
    *used += (phx_tensor_span_bytes(t) + 255) & ~(size_t)255;
    return t;
}

static size_t lay_out(const struct phx_scheduler_limits *l, int64_t vocab,
                      struct phx_buffer *memory, struct phx_batch *b)
{
    int64_t seqs = l->max_seqs;
    size_t used = 0;
    b->block_table = carve(memory, &used, PHX_I32, seqs, phx_kv_blocks_for(l->max_length));
    b->last_ids = carve(memory, &used, PHX_I32, seqs, 1);
    b->bias_slots = carve(memory, &used, PHX_I32, PHX_MAX_BIAS, 1);
    b->sampling.params = carve(memory, &used, PHX_U8, seqs, sizeof(struct phx_sampling));
    b->sampling.counts = carve(memory, &used, PHX_U16, seqs, vocab);
    b->sampling.bias_ids = carve(memory, &used, PHX_I32, seqs, PHX_MAX_BIAS);
    b->sampling.bias_values = carve(memory, &used, PHX_F32, seqs, PHX_MAX_BIAS);
    return used;
}

size_t phx_batch_bytes(const struct phx_scheduler_limits *limits, int64_t vocab)
{
    size_t begin[SECTION_COUNT + 1];
    struct phx_batch b;
    sections(limits, begin);
    return begin[SECTION_COUNT] * sizeof(int32_t) + lay_out(limits, vocab, NULL, &b);
}

enum phx_status phx_batch_create(struct phx_device *device,
                                 const struct phx_scheduler_limits *limits,
                                 struct phx_interval vocab, bool pads, struct phx_batch **out)
{
    struct phx_batch *b = calloc(1, sizeof *b + (size_t)limits->max_seqs * sizeof b->counted[0]);
    if (b == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the batch's tables");
    enum phx_status status = PHX_OK;
    b->limits = *limits;
    b->vocab_begin = vocab.begin;
    b->pads = pads;
    sections(limits, b->begin);
    size_t inputs_bytes = b->begin[SECTION_COUNT] * sizeof(int32_t);
    size_t tables_bytes = lay_out(limits, phx_interval_length(vocab), NULL, b);
    PHX_TRY_GOTO(phx_buffer_create(device, inputs_bytes, &b->inputs), fail);
    PHX_TRY_GOTO(phx_buffer_create(device, tables_bytes, &b->tables), fail);
    lay_out(limits, phx_interval_length(vocab), b->tables, b);
    size_t entries = (size_t)(b->block_table.rows * b->block_table.cols);
    b->host = calloc(1, inputs_bytes);
    b->host_table = malloc(entries * sizeof *b->host_table);
    if (b->host == NULL || b->host_table == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for the batch's tables");
        goto fail;
    }
    for (size_t i = 0; i < entries; i++) b->host_table[i] = -1;
    *out = b;
    return PHX_OK;
fail:
    phx_batch_destroy(b);
    return status;
}

void phx_batch_destroy(struct phx_batch *batch)
{
    if (batch == NULL) return;
    phx_buffer_destroy(batch->inputs);
    phx_buffer_destroy(batch->tables);
    free(batch->host);
    free(batch->host_table);
    free(batch);
}

static struct phx_tensor column(const struct phx_batch *b, enum section section, int64_t rows)
{
    return phx_tensor_view(b->inputs, b->begin[section] * sizeof(int32_t), PHX_I32, rows, 1);
}

/* The bias entries of a slot that joins: their table row, and their marks in the counts. */
static enum phx_status upload_bias(struct phx_batch *b, struct phx_stream *s, int32_t slot,
                                   const struct phx_record_bias *biases, int32_t n)
{
    int32_t ids[PHX_MAX_BIAS], slots[PHX_MAX_BIAS];
    float values[PHX_MAX_BIAS];
    for (int32_t i = 0; i < n; i++) {
        ids[i] = biases[i].id;
        values[i] = biases[i].value;
        slots[i] = slot;
    }
    struct phx_tensor row = phx_tensor_cols(phx_tensor_rows(b->sampling.bias_ids, slot, 1), 0, n);
    PHX_TRY(phx_tensor_upload(s, row, ids));
    struct phx_tensor own =
        phx_tensor_cols(phx_tensor_rows(b->sampling.bias_values, slot, 1), 0, n);
    PHX_TRY(phx_tensor_upload(s, own, values));
    struct phx_tensor marks = phx_tensor_rows(b->bias_slots, 0, n);
    PHX_TRY(phx_tensor_upload(s, marks, slots));
    struct phx_tensor column = {row.buffer, row.offset_bytes, PHX_I32, n, 1, 1};
    return phx_op_count_tokens(s, &(struct phx_count_tokens){.ids = column,
                                                             .slots = marks,
                                                             .vocab_begin = (int32_t)b->vocab_begin,
                                                             .kind = PHX_COUNT_BIAS,
                                                             .counts = b->sampling.counts});
}

/* What was shared with other texts is in no row, but counts: piece by piece through the places that
 * the step's own rows are about to take. */
static enum phx_status count_seen(struct phx_batch *b, struct phx_stream *s,
                                  const struct phx_record_join *join, const int32_t *ids)
{
    int32_t *slots = b->host + b->begin[PROMPT_SLOTS];
    for (int32_t i = 0; i < b->limits.max_rows && i < join->n_seen; i++) slots[i] = join->slot;
    for (int32_t from = 0, to; from < join->n_seen; from = to) {
        bool prompt = from < join->n_prompt;
        to = prompt && join->n_prompt < join->n_seen ? join->n_prompt : join->n_seen;
        if (to - from > b->limits.max_rows) to = from + b->limits.max_rows;
        struct phx_tensor own_ids = column(b, IDS, to - from);
        struct phx_tensor own_slots = column(b, PROMPT_SLOTS, to - from);
        PHX_TRY(phx_tensor_upload(s, own_ids, ids + from));
        PHX_TRY(phx_tensor_upload(s, own_slots, slots));
        PHX_TRY(phx_op_count_tokens(
            s, &(struct phx_count_tokens){.ids = own_ids,
                                          .slots = own_slots,
                                          .vocab_begin = (int32_t)b->vocab_begin,
                                          .kind = prompt ? PHX_COUNT_PROMPT : PHX_COUNT_OUTPUT,
                                          .counts = b->sampling.counts}));
    }
    return PHX_OK;
}

static enum phx_status apply_fresh(struct phx_batch *b, struct phx_stream *s,
                                   const struct phx_record_join *join,
                                   const struct phx_record_bias *biases, const int32_t *seen)
{
    const struct phx_sampling *sampling = &join->sampling;
    int32_t slot = join->slot;
    b->counted[slot] = sampling->n_bias > 0 || phx_sampling_counts(sampling);
    if (b->counted[slot]) {
        struct phx_tensor counts = phx_tensor_rows(b->sampling.counts, slot, 1);
        PHX_TRY(
            phx_buffer_zero(s, counts.buffer, counts.offset_bytes, phx_tensor_span_bytes(counts)));
    }
    PHX_TRY(count_seen(b, s, join, seen));
    if (sampling->n_bias == 0) return PHX_OK;
    return upload_bias(b, s, slot, biases, sampling->n_bias);
}

static enum phx_status apply_joins(struct phx_batch *b, struct phx_stream *s,
                                   const struct phx_step_record *r)
{
    const struct phx_record_bias *biases = r->biases;
    const int32_t *seen = r->seen;
    for (int32_t i = 0; i < r->head->n_joins; i++) {
        const struct phx_record_join *join = &r->joins[i];
        struct phx_tensor own = phx_tensor_rows(b->sampling.params, join->slot, 1);
        PHX_TRY(phx_tensor_upload(s, own, &join->sampling));
        if (!join->fresh) continue;
        PHX_TRY(apply_fresh(b, s, join, biases, seen));
        biases += join->sampling.n_bias;
        seen += join->n_seen;
    }
    return PHX_OK;
}

/* Blocks come slot by slot in rising order: each run is one copy. */
static enum phx_status apply_blocks(struct phx_batch *b, struct phx_stream *s,
                                    const struct phx_step_record *r)
{
    for (int32_t i = 0; i < r->head->n_blocks;) {
        int32_t slot = r->blocks[i].slot, first = r->blocks[i].block, n = 0;
        int32_t *row = b->host_table + slot * b->block_table.cols;
        for (; i < r->head->n_blocks && r->blocks[i].slot == slot; i++, n++)
            row[first + n] = r->blocks[i].page;
        struct phx_tensor to = phx_tensor_cols(phx_tensor_rows(b->block_table, slot, 1), first, n);
        PHX_TRY(phx_tensor_upload(s, to, row + first));
    }
    return PHX_OK;
}

int32_t phx_batch_bucket(int32_t n_rows, int32_t most)
{
    int32_t unit = 1;
    while (unit * 8 < n_rows) unit *= 2;
    int32_t rounded = (n_rows + unit - 1) / unit * unit;
    return rounded < most ? rounded : most;
}

static bool only_decodes(const struct phx_step_record *r)
{
    const struct phx_record_head *h = r->head;
    if (h->n_rows != h->n_seqs || h->n_outputs != h->n_seqs) return false;
    for (int32_t m = 0; m < h->n_outputs; m++)
        if (r->outputs[m].slot < 0) return false;
    return true;
}

static void fill_rows(struct phx_batch *b, const struct phx_step_record *r,
                      struct phx_step_layout *layout)
{
    int32_t *at[SECTION_COUNT];
    for (int i = 0; i < SECTION_COUNT; i++) at[i] = b->host + b->begin[i];
    int32_t row = 0;
    memcpy(at[IDS], r->ids, (size_t)r->head->n_rows * sizeof(int32_t));
    for (int32_t q = 0; q < r->head->n_seqs; q++) {
        const struct phx_record_seq *seq = &r->seqs[q];
        at[SEQ_ROWS][q] = row;
        at[SEQ_SLOT][q] = seq->slot;
        at[SEQ_LENGTH][q] = seq->position + seq->n_rows;
        if (seq->n_rows > layout->max_seq_rows) layout->max_seq_rows = seq->n_rows;
        for (int32_t k = 0; k < seq->n_rows; k++, row++) {
            int32_t position = seq->position + k;
            bool prompt = position < seq->n_prompt;
            at[POSITIONS][row] = position;
            at[ROW_SEQ][row] = q;
            at[PROMPT_SLOTS][row] = b->counted[seq->slot] && prompt ? seq->slot : -1;
            at[OUTPUT_SLOTS][row] = b->counted[seq->slot] && !prompt ? seq->slot : -1;
        }
    }
    at[SEQ_ROWS][r->head->n_seqs] = row;
    PHX_ASSERT(row == r->head->n_rows);
    for (int32_t m = 0; m < r->head->n_outputs; m++) {
        at[OUT_ROWS][m] = r->outputs[m].row;
        at[OUT_SLOTS][m] = r->outputs[m].slot;
        at[OUT_POSITIONS][m] = r->outputs[m].position;
    }
    layout->n_rows = r->head->n_rows;
    layout->n_seqs = r->head->n_seqs;
}

/* Further sequences of one row each that compute nothing. */
static void pad_rows(struct phx_batch *b, struct phx_step_layout *layout)
{
    int32_t *at[SECTION_COUNT];
    for (int i = 0; i < SECTION_COUNT; i++) at[i] = b->host + b->begin[i];
    int32_t bucket = phx_batch_bucket(layout->n_seqs, b->limits.max_seqs);
    for (int32_t q = layout->n_seqs; q < bucket; q++) {
        at[IDS][q] = at[POSITIONS][q] = at[SEQ_LENGTH][q] = at[OUT_POSITIONS][q] = 0;
        at[PROMPT_SLOTS][q] = at[OUTPUT_SLOTS][q] = at[SEQ_SLOT][q] = at[OUT_SLOTS][q] = -1;
        at[ROW_SEQ][q] = at[OUT_ROWS][q] = q;
        at[SEQ_ROWS][q + 1] = q + 1;
    }
    layout->n_rows = layout->n_seqs = bucket;
}

enum phx_status phx_batch_apply(struct phx_batch *batch, struct phx_stream *stream,
                                const struct phx_step_record *record, struct phx_step *out)
{
    const struct phx_record_head *h = record->head;
    PHX_ASSERT(h->n_rows > 0 && h->n_rows <= batch->limits.max_rows);
    PHX_ASSERT(h->n_seqs <= batch->limits.max_seqs && h->n_outputs <= batch->limits.max_outputs);
    PHX_TRY(apply_joins(batch, stream, record));
    PHX_TRY(apply_blocks(batch, stream, record));
    struct phx_step_layout layout = {.block_table = batch->block_table};
    fill_rows(batch, record, &layout);
    int32_t n_outputs = h->n_outputs;
    bool decodes = only_decodes(record);
    if (decodes && batch->pads) {
        pad_rows(batch, &layout);
        n_outputs = layout.n_rows;
    }
    size_t bytes = batch->begin[SECTION_COUNT] * sizeof(int32_t);
    PHX_TRY(phx_buffer_upload(stream, batch->inputs, 0, bytes, batch->host, bytes, bytes, 1));
    layout.positions = column(batch, POSITIONS, layout.n_rows);
    layout.row_seq = column(batch, ROW_SEQ, layout.n_rows);
    layout.seq_rows = column(batch, SEQ_ROWS, layout.n_seqs + 1);
    layout.seq_slot = column(batch, SEQ_SLOT, layout.n_seqs);
    layout.seq_length = column(batch, SEQ_LENGTH, layout.n_seqs);
    *out = (struct phx_step){.layout = layout,
                             .ids = column(batch, IDS, layout.n_rows),
                             .last_ids = batch->last_ids,
                             .prompt_slots = column(batch, PROMPT_SLOTS, layout.n_rows),
                             .output_slots = column(batch, OUTPUT_SLOTS, layout.n_rows),
                             .out_rows = column(batch, OUT_ROWS, n_outputs),
                             .out_slots = column(batch, OUT_SLOTS, n_outputs),
                             .out_positions = column(batch, OUT_POSITIONS, n_outputs),
                             .n_outputs = n_outputs,
                             .decodes = decodes,
                             .draw = (enum phx_draw)h->draw,
                             .n_candidates = h->n_candidates,
                             .adjust = h->adjust != 0,
                             .gather_logits = h->want_logits != 0,
                             .table = batch->sampling};
    return PHX_OK;
}
