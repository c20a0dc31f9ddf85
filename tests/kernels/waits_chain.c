#include "tests/kernels/waits_chain.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"

/* ---- memory ---- */

static struct phx_tensor take(struct chain *c, const char *name, enum phx_dtype dtype, int64_t rows,
                              int64_t cols)
{
    struct phx_tensor t = phx_tensor_view(c->buffer, c->used, dtype, rows, cols);
    assert_true(c->n_places < MAX_PLACES);
    c->places[c->n_places].name = name;
    c->places[c->n_places++].begin = c->used;
    c->used += (phx_tensor_span_bytes(t) + 255) & ~(size_t)255;
    return t;
}

static void set(struct chain *c, struct phx_tensor t, int64_t i, double value)
{
    unsigned char *to = c->image + t.offset_bytes + phx_dtype_bytes(t.dtype, i);
    const float f32 = (float)value;
    const int32_t i32 = (int32_t)value;
    const uint16_t f16 = phx_f16_from_f32(f32), bf16 = phx_bf16_from_f32(f32);
    memcpy(to,
           t.dtype == PHX_F32   ? (const void *)&f32
           : t.dtype == PHX_F16 ? (const void *)&f16
           : t.dtype == PHX_I32 ? (const void *)&i32
                                : (const void *)&bf16,
           phx_dtype_bytes(t.dtype, 1));
}

static uint32_t counter;

static void fill(struct chain *c, struct phx_tensor t, double center, double scale)
{
    for (int64_t i = 0; i < t.rows * t.cols; i++)
        set(c, t, i, center + scale * ((double)phx_mix32(++counter) * 0x1p-31 - 1));
}

static struct phx_tensor filled(struct chain *c, const char *name, enum phx_dtype dtype,
                                int64_t rows, int64_t cols, double center, double scale)
{
    struct phx_tensor t = take(c, name, dtype, rows, cols);
    fill(c, t, center, scale);
    return t;
}

static void clear(struct chain *c, struct phx_tensor t)
{
    memset(c->image + t.offset_bytes, 0, phx_tensor_span_bytes(t));
}

/* ---- what a step reads ---- */

/* Blocks of a d and any bits. */
static void write_blocks(struct chain *c, struct phx_weight *weight)
{
    const struct phx_weight_shape shape = phx_weight_shape(weight);
    const size_t block = (size_t)phx_dtype_traits(shape.dtype)->block_bytes;
    const size_t pitch = phx_dtype_bytes(shape.dtype, phx_weight_stored_cols(&shape));
    const uint16_t d = phx_f16_from_f32(0.01f);
    unsigned char *blocks = malloc((size_t)shape.rows * pitch);
    assert_non_null(blocks);
    for (size_t i = 0; i < (size_t)shape.rows * pitch; i++)
        blocks[i] = (unsigned char)phx_mix64(++counter);
    for (size_t i = 0; i < (size_t)shape.rows * pitch; i += block) memcpy(blocks + i, &d, sizeof d);
    assert_ok(phx_weight_write(c->stream, weight, 0, shape.rows, shape.dtype, blocks, pitch));
    free(blocks);
}

static struct phx_weight *make_weight(struct chain *c, int64_t rows, int64_t cols)
{
    const struct phx_weight_shape shape = {.dtype = c->shape->weight, .rows = rows, .cols = cols};
    const struct phx_dummy dummy = {phx_mix64(++counter), 0, 0.1f};
    struct phx_weight *weight;
    assert_ok(phx_weight_create(c->device, &shape, &weight));
    if (phx_dtype_traits(shape.dtype)->is_float)
        assert_ok(phx_weight_write_dummy(c->stream, weight, 0, rows, &dummy, 0, 0));
    else
        write_blocks(c, weight);
    return weight;
}

static void make_weights(struct chain *c)
{
    const struct shape *s = c->shape;
    const int64_t q = (int64_t)s->heads * s->dim, kv = (int64_t)s->kv_heads * s->dim;
    c->table = make_weight(c, VOCAB, s->hidden);
    c->qkv_w = make_weight(c, q + 2 * kv, s->hidden);
    c->o_w = make_weight(c, s->hidden, q);
    c->gate_up_w = make_weight(c, 2 * (int64_t)s->ffn, s->hidden);
    c->down_w = make_weight(c, s->hidden, s->ffn);
    c->head_w = make_weight(c, VOCAB, s->hidden);
    c->router_w = make_weight(c, EXPERTS + 1, s->hidden);
    c->experts_gate_up_w = make_weight(c, (EXPERTS - 2) * 2 * (int64_t)s->ffn, s->hidden);
    c->experts_down_w = make_weight(c, (EXPERTS - 2) * (int64_t)s->hidden, s->ffn);
    c->qkv_bias = filled(c, "qkv_bias", PHX_F32, 1, q + 2 * kv, 0, 0.5);
    c->gate_up_bias = filled(c, "gate_up_bias", PHX_F32, 1, 2 * (int64_t)s->ffn, 0, 0.5);
    c->norm = filled(c, "norm", PHX_F32, 1, s->hidden, 1, 0.2);
    c->head_norm = filled(c, "head_norm", PHX_F32, 1, s->dim, 1, 0.2);
    c->inv_freq = filled(c, "inv_freq", PHX_F32, 1, s->dim / 2, 0.5, 0.4);
}

static bool is_padding(const struct chain *c, int32_t seq)
{
    return seq == c->n_seqs - 1;
}

static int32_t rows_of(const struct chain *c, int32_t seq)
{
    return seq < c->shape->n_single || is_padding(c, seq) ? 1 : c->shape->n_prompt;
}

/* Keys of a sequence before step `step`. */
static int32_t length_before(const struct chain *c, int32_t seq, int32_t step)
{
    return is_padding(c, seq) ? 0 : seq * 211 % 700 + 3 + step * rows_of(c, seq);
}

void chain_set_step(struct chain *c, int32_t step)
{
    for (int32_t seq = 0, row = 0; seq < c->n_seqs; seq++) {
        const int32_t before = length_before(c, seq, step), n = rows_of(c, seq);
        for (int32_t r = 0; r < n; r++) set(c, c->layout.positions, row++, before + r);
        set(c, c->layout.seq_length, seq, is_padding(c, seq) ? 0 : before + n);
        set(c, c->out_positions, seq, before + n);
    }
}

void chain_upload(struct chain *c, struct phx_tensor t)
{
    assert_ok(phx_tensor_upload(c->stream, t, c->image + t.offset_bytes));
}

static void make_layout(struct chain *c)
{
    struct phx_step_layout *l = &c->layout;
    c->n_seqs = c->shape->n_single + (c->shape->n_prompt > 0) + 1;
    c->n_slots = c->n_seqs + 1;
    c->n_pages = c->n_slots * BLOCKS;
    for (int32_t seq = 0; seq < c->n_seqs; seq++) c->n_rows += rows_of(c, seq);
    *l = (struct phx_step_layout){.n_rows = c->n_rows, .n_seqs = c->n_seqs};
    l->max_seq_rows = c->shape->n_prompt > 0 ? c->shape->n_prompt : 1;
    l->positions = take(c, "positions", PHX_I32, c->n_rows, 1);
    l->row_seq = take(c, "row_seq", PHX_I32, c->n_rows, 1);
    l->seq_rows = take(c, "seq_rows", PHX_I32, c->n_seqs + 1, 1);
    l->seq_slot = take(c, "seq_slot", PHX_I32, c->n_seqs, 1);
    l->seq_length = take(c, "seq_length", PHX_I32, c->n_seqs, 1);
    l->block_table = take(c, "block_table", PHX_I32, c->n_slots, BLOCKS);
    c->ids = take(c, "ids", PHX_I32, c->n_rows, 1);
    c->slots = take(c, "slots", PHX_I32, c->n_rows, 1);
    c->out_rows = take(c, "out_rows", PHX_I32, c->n_seqs, 1);
    c->out_slots = take(c, "out_slots", PHX_I32, c->n_seqs, 1);
    c->out_positions = take(c, "out_positions", PHX_I32, c->n_seqs, 1);
    int32_t row = 0;
    for (int32_t seq = 0; seq < c->n_seqs; seq++) {
        const int32_t slot = is_padding(c, seq) ? -1 : seq + 1;
        set(c, l->seq_rows, seq, row);
        set(c, l->seq_slot, seq, slot);
        set(c, c->out_slots, seq, slot);
        for (int32_t r = 0; r < rows_of(c, seq); r++, row++) {
            /* A sequence of one row goes on with its newest token. */
            const bool newest = slot >= 0 && rows_of(c, seq) == 1;
            set(c, l->row_seq, row, seq);
            set(c, c->slots, row, slot);
            set(c, c->ids, row, slot < 0 ? 0 : newest ? -1 - slot : row * 37 % VOCAB);
        }
        set(c, c->out_rows, seq, row - 1);
    }
    set(c, l->seq_rows, c->n_seqs, row);
    for (int32_t i = 0; i < c->n_pages; i++) set(c, l->block_table, i, (i * 17 + 3) % c->n_pages);
}

static void make_cache(struct chain *c)
{
    const struct shape *s = c->shape;
    const int64_t rows = (int64_t)c->n_pages * s->kv_heads * PHX_PAGE_TOKENS;
    for (int l = 0; l < LAYERS; l++) {
        struct phx_tensor k = filled(c, "k pages", s->act, rows, s->dim, 0, 1);
        struct phx_tensor v = filled(c, "v pages", s->act, rows, s->dim, 0, 1);
        c->kv[l] = (struct phx_kv_pages){k, v, c->n_pages, s->kv_heads, s->dim};
    }
}

/* Slots that draw in different ways, most of them with penalties. */
static void make_sampling(struct chain *c)
{
    struct phx_sampling_table *t = &c->sampling;
    t->params = take(c, "params", PHX_U8, c->n_slots, sizeof(struct phx_sampling));
    t->counts = take(c, "counts", PHX_U16, c->n_slots, VOCAB);
    t->bias_ids = take(c, "bias_ids", PHX_I32, c->n_slots, PHX_MAX_BIAS);
    t->bias_values = take(c, "bias_values", PHX_F32, c->n_slots, PHX_MAX_BIAS);
    clear(c, t->counts);
    for (int32_t slot = 0; slot < c->n_slots; slot++) {
        struct phx_sampling p = {.temperature = slot % 4 == 3 ? 0 : 0.9f, .top_p = 1, .n_bias = 2};
        p.top_k = slot % 2 * (7 + slot);
        p.repeat_penalty = slot % 3 == 0 ? 1 : 1.2f;
        p.frequency_penalty = 0.3f;
        p.seed = (uint64_t)slot * 1000003u;
        memcpy(c->image + t->params.offset_bytes + (size_t)slot * sizeof p, &p, sizeof p);
        for (int32_t i = 0; i < p.n_bias; i++) {
            set(c, t->bias_ids, slot * PHX_MAX_BIAS + i, slot * 11 + 500 * i);
            set(c, t->bias_values, slot * PHX_MAX_BIAS + i, 2 - 3 * i);
        }
    }
}

/* What ops write is 0xff before the first step: no number, no token. */
static void make_activations(struct chain *c)
{
    const struct shape *s = c->shape;
    const enum phx_dtype act = s->act;
    const int64_t n = c->n_rows, m = c->n_seqs, q = (int64_t)s->heads * s->dim;
    const int64_t record = (CANDIDATES + 1) * (int64_t)sizeof(struct phx_candidate);
    c->spare = filled(c, "spare", PHX_F32, 2, SPARE_BYTES / (int64_t)sizeof(float), 0, 1);
    c->rope = take(c, "rope", PHX_F32, n, s->dim / 2 * 2);
    c->partial = take(c, "partial", act, n, s->hidden);
    c->residual = take(c, "residual", PHX_F32, n, s->hidden);
    c->x = take(c, "x", act, n, s->hidden);
    c->qkv = take(c, "qkv", act, n, q + 2 * (int64_t)s->kv_heads * s->dim);
    c->attended = take(c, "attended", act, n, q);
    c->lse = take(c, "lse", PHX_F32, n, s->heads);
    c->ffn = take(c, "ffn", act, n, s->ffn);
    c->router = take(c, "router", PHX_F32, n, EXPERTS + 1);
    c->routing = (struct phx_routing){
        .n_experts = EXPERTS,
        .first_local = 1,
        .n_local = EXPERTS - 2,
        .ids = take(c, "experts chosen", PHX_I32, n, CHOSEN),
        .weights = take(c, "their weights", PHX_F32, n, CHOSEN),
        .groups = take(c, "notes of experts", PHX_I32, 1, EXPERTS - 2 + 1 + n * CHOSEN)};
    c->experts = take(c, "experts", act, n * CHOSEN, s->ffn);
    c->parts = take(c, "parts", act, n * CHOSEN, s->hidden);
    c->mixed = take(c, "mixed", act, n, s->hidden);
    c->out_residual = take(c, "out_residual", PHX_F32, m, s->hidden);
    c->out_partial = take(c, "out_partial", act, m, s->hidden);
    c->out_x = take(c, "out_x", act, m, s->hidden);
    c->logits = take(c, "logits", PHX_F32, m, VOCAB);
    c->adjusted = take(c, "adjusted", PHX_F32, m, VOCAB);
    c->records = take(c, "records", PHX_U8, m, record);
    c->new_ids = take(c, "new_ids", PHX_I32, m, 1);
    c->logprobs = take(c, "logprobs", PHX_F32, m, 1);
    c->last_ids = take(c, "last_ids", PHX_I32, c->n_slots, 1);
    c->full_ids = take(c, "full_ids", PHX_I32, m, 1);
    c->full_logprobs = take(c, "full_logprobs", PHX_F32, m, 1);
    c->full_last_ids = take(c, "full_last_ids", PHX_I32, c->n_slots, 1);
    clear(c, c->attended); /* rows of padding stay as they are */
    for (int32_t i = 0; i < c->n_slots; i++) set(c, c->last_ids, i, 100 + i);
}

struct chain *chain_open(struct phx_device *device, const struct shape *shape)
{
    const struct phx_limits limits = {.max_rows = 64,
                                      .max_seqs = 16,
                                      .max_length = BLOCKS * PHX_PAGE_TOKENS,
                                      .max_in = 1024,
                                      .max_out = 1536,
                                      .max_vocab = VOCAB,
                                      .max_heads = 8,
                                      .max_kv_heads = 3,
                                      .max_head_dim = 128,
                                      .quantised = true};
    struct chain *c = calloc(1, sizeof *c);
    void *pinned;
    assert_non_null(c);
    c->shape = shape;
    c->device = device;
    c->image = malloc(BUFFER_BYTES);
    assert_non_null(c->image);
    memset(c->image, 0xff, BUFFER_BYTES);
    assert_ok(phx_stream_create(device, &limits, &c->stream));
    assert_ok(phx_buffer_create(device, BUFFER_BYTES, &c->buffer));
    make_weights(c);
    make_layout(c);
    make_cache(c);
    make_sampling(c);
    make_activations(c);
    assert_ok(phx_host_alloc(device, (size_t)c->n_seqs * sizeof *c->pinned, &pinned));
    c->pinned = pinned;
    return c;
}

void chain_close(struct chain *c)
{
    phx_weight_destroy(c->table);
    phx_weight_destroy(c->qkv_w);
    phx_weight_destroy(c->o_w);
    phx_weight_destroy(c->gate_up_w);
    phx_weight_destroy(c->down_w);
    phx_weight_destroy(c->head_w);
    phx_weight_destroy(c->router_w);
    phx_weight_destroy(c->experts_gate_up_w);
    phx_weight_destroy(c->experts_down_w);
    phx_host_free(c->device, c->pinned);
    phx_buffer_destroy(c->buffer);
    phx_stream_destroy(c->stream);
    free(c->image);
    free(c);
}
