/* Kernels that start early (kernels/cuda/launch.cuh) wait for what they read and write: the ops of
 * decoder steps, in their order, in a build whose warps come late on purpose
 * (PHX_CUDA_PLANTED_DELAY), one by one and as a graph, against the same kernels started in turn.
 * All bytes must be the same. In a second build some kernels do not wait
 * (PHX_CUDA_PLANTED_NO_WAIT): there other bytes must show.
 * Exit status 77 where no kernel starts early: skipped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "kernels/ops.h"
#include "tests/support/check.h"

#ifdef PHX_CUDA_PLANTED_NO_WAIT
enum { MUST_DIFFER = true };
#else
enum { MUST_DIFFER = false };
#endif

enum {
    SKIPPED = 77,
    MAX_PLACES = 64,
    BUFFER_BYTES = 48 << 20,
    LAYERS = 2,
    BLOCKS = 16, /* of a sequence */
    STEPS = 4,
    ROUNDS = 3,
    VOCAB = 1500,
    CANDIDATES = 40,
    EXPERTS = 9, /* of which this rank has all but the first and the last */
    CHOSEN = 3,
    SPARE_BYTES = 1000 /* copied and zeroed */
};

/* What decides which kernels run. The last sequence is padding. */
static const struct shape {
    const char *name;
    enum phx_dtype act, weight;
    int32_t hidden, ffn, heads, kv_heads, dim;
    int32_t n_single; /* sequences of one row */
    int32_t n_prompt; /* rows of one more */
} shapes[] = {
    {"one row", PHX_BF16, PHX_BF16, 256, 168, 6, 2, 64, 1, 0},
    {"a few rows, askew", PHX_BF16, PHX_BF16, 252, 171, 5, 1, 80, 5, 0},
    {"a prompt", PHX_F16, PHX_F16, 256, 176, 8, 2, 128, 3, 40},
    {"a prompt in f32, askew", PHX_F32, PHX_F32, 252, 171, 5, 1, 24, 12, 20},
    {"weights of another type", PHX_BF16, PHX_F32, 256, 168, 3, 3, 80, 2, 9},
};

/* Everything that ops read and write lies in one buffer, as `image` before the first step. */
struct chain {
    const struct shape *shape;
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_buffer *buffer;
    unsigned char *image;
    int32_t *pinned; /* ids as they were downloaded */
    size_t used;
    int n_places;
    struct {
        const char *name;
        size_t begin;
    } places[MAX_PLACES];

    int32_t n_rows, n_seqs, n_slots, n_pages;
    struct phx_weight *table, *qkv_w, *o_w, *gate_up_w, *down_w, *head_w;
    struct phx_weight *router_w, *experts_gate_up_w, *experts_down_w;
    struct phx_tensor qkv_bias, gate_up_bias, norm, head_norm, inv_freq;
    struct phx_step_layout layout;
    struct phx_kv_pages kv[LAYERS];
    struct phx_tensor ids, slots, out_rows, out_slots, out_positions;
    struct phx_sampling_table sampling;

    struct phx_tensor rope, partial, residual, x, qkv, attended, lse, ffn;
    struct phx_tensor router, mixed, experts, parts;
    struct phx_routing routing;
    struct phx_tensor out_residual, out_partial, out_x, logits, adjusted, records;
    struct phx_tensor new_ids, logprobs, last_ids;
    struct phx_tensor full_ids, full_logprobs, full_last_ids;
    struct phx_tensor spare;
};

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

static struct phx_weight *make_weight(struct chain *c, int64_t rows, int64_t cols)
{
    const struct phx_weight_shape shape = {.dtype = c->shape->weight, .rows = rows, .cols = cols};
    const struct phx_dummy dummy = {phx_mix64(++counter), 0, 0.1f};
    struct phx_weight *weight;
    assert_ok(phx_weight_create(c->device, &shape, &weight));
    assert_ok(phx_weight_write_dummy(c->stream, weight, 0, rows, &dummy, 0, 0));
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

/* Texts grow from step to step; all else stays. */
static void set_step(struct chain *c, int32_t step)
{
    for (int32_t seq = 0, row = 0; seq < c->n_seqs; seq++) {
        const int32_t before = length_before(c, seq, step), n = rows_of(c, seq);
        for (int32_t r = 0; r < n; r++) set(c, c->layout.positions, row++, before + r);
        set(c, c->layout.seq_length, seq, is_padding(c, seq) ? 0 : before + n);
        set(c, c->out_positions, seq, before + n);
    }
}

static void upload(struct chain *c, struct phx_tensor t)
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

static struct chain *open_chain(struct phx_device *device, const struct shape *shape)
{
    const struct phx_limits limits = {.max_rows = 64,
                                      .max_seqs = 16,
                                      .max_length = BLOCKS * PHX_PAGE_TOKENS,
                                      .max_in = 1024,
                                      .max_out = 1536,
                                      .max_vocab = VOCAB,
                                      .max_heads = 8,
                                      .max_kv_heads = 3,
                                      .max_head_dim = 128};
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

static void close_chain(struct chain *c)
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

/* ---- the ops in their order ---- */

static void norm(const struct chain *c, struct phx_tensor x, struct phx_tensor residual, bool start,
                 struct phx_tensor out)
{
    assert_ok(phx_op_add_norm(c->stream, &(struct phx_add_norm){.x = x,
                                                                .residual = residual,
                                                                .start = start,
                                                                .weight = c->norm,
                                                                .epsilon = 1e-5f,
                                                                .out = out}));
}

static void linear(const struct chain *c, struct phx_tensor x, const struct phx_weight *weight,
                   struct phx_tensor bias, struct phx_tensor out)
{
    assert_ok(phx_op_linear(
        c->stream, &(struct phx_linear){.x = x, .weight = weight, .bias = bias, .out = out}));
}

/* partial -> mixed: what experts make of x is added. */
static void mix(const struct chain *c)
{
    linear(c, c->x, c->router_w, (struct phx_tensor){0}, c->router);
    assert_ok(phx_op_route(c->stream,
                           &(struct phx_route){.logits = phx_tensor_cols(c->router, 0, EXPERTS),
                                               .normalize = true,
                                               .routing = c->routing}));
    assert_ok(phx_op_experts_gate_up(c->stream,
                                     &(struct phx_experts_gate_up){.x = c->x,
                                                                   .routing = c->routing,
                                                                   .weight = c->experts_gate_up_w,
                                                                   .activation = PHX_SILU,
                                                                   .out = c->experts}));
    assert_ok(phx_op_experts_down(
        c->stream, &(struct phx_experts_down){.x = c->experts,
                                              .routing = c->routing,
                                              .weight = c->experts_down_w,
                                              .parts = c->parts,
                                              .add = c->partial,
                                              .add_gate = phx_tensor_cols(c->router, EXPERTS, 1),
                                              .out = c->mixed}));
}

static void layer(const struct chain *c, int l)
{
    const struct shape *s = c->shape;
    const struct phx_tensor none = {0};
    linear(c, c->x, c->qkv_w, c->qkv_bias, c->qkv);
    assert_ok(phx_op_rope_append(c->stream, &(struct phx_rope_append){.qkv = c->qkv,
                                                                      .n_heads = s->heads,
                                                                      .cos_sin = c->rope,
                                                                      .q_norm = c->head_norm,
                                                                      .k_norm = c->head_norm,
                                                                      .epsilon = 1e-5f,
                                                                      .kv = c->kv[l],
                                                                      .layout = &c->layout}));
    assert_ok(phx_op_attention(
        c->stream,
        &(struct phx_attention){.q = phx_tensor_cols(c->qkv, 0, (int64_t)s->heads * s->dim),
                                .n_heads = s->heads,
                                .kv = c->kv[l],
                                .layout = &c->layout,
                                .window = l == 1 ? 300 : 0,
                                .scale = 0.1f,
                                .out = c->attended,
                                .lse = c->lse}));
    linear(c, c->attended, c->o_w, none, c->partial);
    norm(c, c->partial, c->residual, false, c->x);
    assert_ok(phx_op_gate_up(c->stream, &(struct phx_gate_up){.x = c->x,
                                                              .weight = c->gate_up_w,
                                                              .bias = c->gate_up_bias,
                                                              .activation = PHX_SILU,
                                                              .out = c->ffn}));
    linear(c, c->ffn, c->down_w, none, c->partial);
    if (l == 1) mix(c);
    norm(c, l == 1 ? c->mixed : c->partial, c->residual, false, c->x);
}

static void draw(const struct chain *c)
{
    assert_ok(
        phx_op_count_tokens(c->stream, &(struct phx_count_tokens){.ids = c->ids,
                                                                  .last_ids = c->last_ids,
                                                                  .slots = c->slots,
                                                                  .kind = PHX_COUNT_OUTPUT,
                                                                  .counts = c->sampling.counts}));
    assert_ok(
        phx_op_adjust_logits(c->stream, &(struct phx_adjust_logits){.logits = c->logits,
                                                                    .slots = c->out_slots,
                                                                    .table = c->sampling,
                                                                    .adjusted = c->adjusted}));
    assert_ok(phx_op_sample_candidates(
        c->stream, &(struct phx_sample_candidates){.logits = c->logits,
                                                   .adjusted = c->adjusted,
                                                   .slots = c->out_slots,
                                                   .positions = c->out_positions,
                                                   .params = c->sampling.params,
                                                   .n_candidates = CANDIDATES,
                                                   .records = c->records}));
    assert_ok(phx_op_sample_pick(c->stream, &(struct phx_sample_pick){.records = c->records,
                                                                      .n_candidates = CANDIDATES,
                                                                      .n_ranks = 1,
                                                                      .slots = c->out_slots,
                                                                      .params = c->sampling.params,
                                                                      .ids = c->new_ids,
                                                                      .logprobs = c->logprobs,
                                                                      .last_ids = c->last_ids}));
    assert_ok(
        phx_op_sample_full(c->stream, &(struct phx_sample_full){.logits = c->logits,
                                                                .adjusted = c->adjusted,
                                                                .slots = c->out_slots,
                                                                .positions = c->out_positions,
                                                                .params = c->sampling.params,
                                                                .ids = c->full_ids,
                                                                .logprobs = c->full_logprobs,
                                                                .last_ids = c->full_last_ids}));
}

/* Copies stand between kernels too: into the spare matrix, which is zeroed in part. */
static void pass(const struct chain *c)
{
    const struct phx_tensor none = {0};
    assert_ok(
        phx_op_rope_table(c->stream, &(struct phx_rope_table){.positions = c->layout.positions,
                                                              .inv_freq = c->inv_freq,
                                                              .scale = 1,
                                                              .out = c->rope}));
    assert_ok(phx_op_embed(c->stream, &(struct phx_embed){.table = c->table,
                                                          .ids = c->ids,
                                                          .last_ids = c->last_ids,
                                                          .scale = 3,
                                                          .out = c->partial}));
    norm(c, c->partial, c->residual, true, c->x);
    for (int l = 0; l < LAYERS; l++) layer(c, l);
    assert_ok(phx_op_gather_rows(
        c->stream, &(struct phx_gather_rows){c->residual, c->out_rows, c->out_residual}));
    assert_ok(phx_op_gather_rows(
        c->stream, &(struct phx_gather_rows){c->partial, c->out_rows, c->out_partial}));
    norm(c, c->out_partial, c->out_residual, false, c->out_x);
    linear(c, c->out_x, c->head_w, none, c->logits);
    assert_ok(phx_buffer_copy(c->stream, c->buffer, c->spare.offset_bytes, c->buffer,
                              c->logits.offset_bytes, SPARE_BYTES));
    assert_ok(phx_buffer_zero(c->stream, c->buffer, c->spare.offset_bytes + SPARE_BYTES,
                              SPARE_BYTES / 2));
    draw(c);
    assert_ok(phx_tensor_download(c->stream, c->new_ids, c->pinned));
}

/* ---- runs ---- */

/* All that there is after some steps. Two passes in each: nothing but kernels between the end of
 * one and the beginning of the next, which reads the new tokens. */
static void run(struct chain *c, bool recorded, unsigned char *out)
{
    struct phx_graph *graph = NULL;
    set_step(c, 0);
    assert_ok(phx_buffer_upload(c->stream, c->buffer, 0, c->used, c->image, c->used, c->used, 1));
    for (int32_t step = 0; step < STEPS; step++) {
        set_step(c, step);
        upload(c, c->layout.positions);
        upload(c, c->layout.seq_length);
        upload(c, c->out_positions);
        if (recorded && step == 0) assert_ok(phx_graph_begin(c->stream));
        if (!recorded || step == 0) {
            pass(c);
            pass(c);
        }
        if (recorded && step == 0) assert_ok(phx_graph_end(c->stream, &graph));
        if (recorded) assert_ok(phx_graph_launch(graph, c->stream));
    }
    assert_ok(phx_buffer_download(c->stream, c->buffer, 0, c->used, out, c->used, c->used, 1));
    assert_ok(phx_stream_synchronize(c->stream));
    assert_memory_equal(c->pinned, out + c->new_ids.offset_bytes,
                        phx_tensor_span_bytes(c->new_ids));
    phx_graph_destroy(graph);
}

static void check_sane(const struct chain *c, const unsigned char *result)
{
    for (int32_t m = 0; m < c->n_seqs - 1; m++) {
        float drawn, drawn_fully;
        memcpy(&drawn, result + c->logprobs.offset_bytes + (size_t)m * sizeof drawn, sizeof drawn);
        memcpy(&drawn_fully, result + c->full_logprobs.offset_bytes + (size_t)m * sizeof drawn,
               sizeof drawn);
        assert_true(isfinite(drawn) && drawn <= 1e-3f);
        assert_true(isfinite(drawn_fully) && drawn_fully <= 1e-3f);
    }
}

/* Prints where results differ; returns if they do. */
static bool differs(const struct chain *c, const char *how, const unsigned char *expected,
                    const unsigned char *got)
{
    bool any = false;
    for (int i = 0; i < c->n_places; i++) {
        const size_t begin = c->places[i].begin;
        const size_t end = i + 1 < c->n_places ? c->places[i + 1].begin : c->used;
        size_t n = 0;
        for (size_t b = begin; b < end; b++) n += got[b] != expected[b];
        if (n == 0) continue;
        any = true;
        print_message("%s, %s: %zu of %zu bytes of %s differ\n", c->shape->name, how, n,
                      end - begin, c->places[i].name);
    }
    return any;
}

static void check_shape(const struct shape *shape)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device *device;
    options.compute = shape->act;
    assert_ok(phx_device_create(&options, &device));
    bool *starts_early = &((struct phx_cuda_device *)device)->starts_early;
    struct chain *c = open_chain(device, shape);
    unsigned char *expected = malloc(c->used), *got = malloc(c->used);
    assert_true(expected != NULL && got != NULL);

    *starts_early = false;
    run(c, false, expected);
    check_sane(c, expected);
    run(c, true, got);
    assert_false(differs(c, "in turn, a graph", expected, got));
    *starts_early = true;
    bool any = false;
    for (int round = 0; round < ROUNDS; round++) {
        run(c, false, got);
        any = differs(c, "one by one", expected, got) || any;
        run(c, true, got);
        any = differs(c, "a graph", expected, got) || any;
    }
    assert_int_equal(any, MUST_DIFFER);
    free(expected);
    free(got);
    close_chain(c);
    phx_device_destroy(device);
}

static void test_waits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(&shapes[i]);
}

static bool starts_early(void)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device *device;
    if (phx_device_create(&options, &device) != PHX_OK) {
        printf("%s\n", phx_fail_sentence());
        exit(1);
    }
    bool early = ((struct phx_cuda_device *)device)->starts_early;
    phx_device_destroy(device);
    return early;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_waits)};
    const char *reason = NULL;
    if (!phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        printf("skipped: %s\n", reason);
        return SKIPPED;
    }
    if (!starts_early()) {
        printf("skipped: no kernel of this build starts early on this GPU\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("waits for predecessors", tests, NULL, NULL);
}
