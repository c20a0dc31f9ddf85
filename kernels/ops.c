/* Every argument of every op is checked here, once, before the backend's table is called. */
#include "kernels/ops.h"

#include <math.h>

#include "kernels/backend.h"
#include "kernels/base/check.h"
#include "kernels/stages.h"

/* ---- what tensors must be ---- */

/* A rows x cols matrix of `dtype` within the memory of the stream's device. */
static bool is(const struct phx_stream *stream, struct phx_tensor t, enum phx_dtype dtype,
               int64_t rows, int64_t cols)
{
    return phx_tensor_present(t) && t.buffer->device == stream->device && t.dtype == dtype &&
           t.rows == rows && t.cols == cols && t.stride >= t.cols &&
           t.offset_bytes % (size_t)phx_dtype_traits(dtype)->block_bytes == 0 &&
           t.offset_bytes + phx_tensor_span_bytes(t) <= t.buffer->bytes;
}

static bool is_act(const struct phx_stream *stream, struct phx_tensor t, int64_t rows, int64_t cols)
{
    return is(stream, t, stream->device->info.activation, rows, cols);
}

static bool is_f32(const struct phx_stream *stream, struct phx_tensor t, int64_t rows, int64_t cols)
{
    return is(stream, t, PHX_F32, rows, cols);
}

/* A list of numbers, one a row, without gaps. */
static bool is_list(const struct phx_stream *stream, struct phx_tensor t, enum phx_dtype dtype,
                    int64_t rows)
{
    return is(stream, t, dtype, rows, 1) && t.stride == 1;
}

/* Rows of `n` structs of `bytes` each, all of them aligned to `alignment`. */
static bool is_structs(const struct phx_stream *stream, struct phx_tensor t, int64_t rows,
                       int64_t n, size_t bytes, size_t alignment)
{
    return is(stream, t, PHX_U8, rows, n * (int64_t)bytes) && t.offset_bytes % alignment == 0 &&
           (size_t)t.stride % alignment == 0;
}

static bool is_params(const struct phx_stream *stream, struct phx_tensor t)
{
    return is_structs(stream, t, t.rows, 1, sizeof(struct phx_sampling), 8);
}

static bool is_records(const struct phx_stream *stream, struct phx_tensor t, int64_t rows,
                       int64_t n_ranks, int32_t n_candidates)
{
    return n_candidates >= 1 && n_candidates <= PHX_MAX_CANDIDATES && n_ranks >= 1 &&
           is_structs(stream, t, rows, n_ranks * (n_candidates + 1), sizeof(struct phx_candidate),
                      sizeof(struct phx_candidate));
}

static bool is_weight(const struct phx_stream *stream, const struct phx_weight *weight,
                      int64_t rows, int64_t cols)
{
    return weight != NULL && weight->device == stream->device && weight->shape.rows == rows &&
           weight->shape.cols == cols;
}

/* No element of `a` lies in `b`. Columns side by side of one matrix are told apart. */
static bool apart(struct phx_tensor a, struct phx_tensor b)
{
    if (!phx_tensor_present(a) || !phx_tensor_present(b)) return true;
    size_t a_bytes = phx_tensor_span_bytes(a), b_bytes = phx_tensor_span_bytes(b);
    if (a_bytes == 0 || b_bytes == 0) return true;
    uintptr_t a_begin = (uintptr_t)phx_tensor_address(a);
    uintptr_t b_begin = (uintptr_t)phx_tensor_address(b);
    if (a_begin + a_bytes <= b_begin || b_begin + b_bytes <= a_begin) return true;
    size_t pitch = phx_dtype_bytes(a.dtype, a.stride);
    if (pitch != phx_dtype_bytes(b.dtype, b.stride)) return false;
    size_t a_col = a_begin % pitch, b_col = b_begin % pitch;
    size_t a_to_b = (b_col + pitch - a_col) % pitch;
    return a_to_b >= phx_dtype_bytes(a.dtype, a.cols) &&
           a_to_b + phx_dtype_bytes(b.dtype, b.cols) <= pitch;
}

static bool same(struct phx_tensor a, struct phx_tensor b)
{
    return phx_tensor_address(a) == phx_tensor_address(b) && a.stride == b.stride;
}

static bool absent(struct phx_tensor t)
{
    return !phx_tensor_present(t);
}

static bool positive(float x)
{
    return x > 0 && isfinite(x);
}

/* ---- what several ops share ---- */

static void check_layout(const struct phx_stream *stream, const struct phx_step_layout *layout)
{
    const struct phx_tensor blocks = layout->block_table, where = layout->page_position;
    PHX_ASSERT(layout->n_rows >= 0 && layout->n_rows <= stream->limits.max_rows);
    PHX_ASSERT(layout->n_seqs >= 0 && layout->n_seqs <= stream->limits.max_seqs);
    PHX_ASSERT(layout->max_seq_rows >= 0 && layout->max_seq_rows <= layout->n_rows);
    PHX_ASSERT(is_list(stream, layout->positions, PHX_I32, layout->n_rows));
    PHX_ASSERT(is_list(stream, layout->row_seq, PHX_I32, layout->n_rows));
    PHX_ASSERT(is_list(stream, layout->seq_rows, PHX_I32, layout->n_seqs + 1));
    PHX_ASSERT(is_list(stream, layout->seq_slot, PHX_I32, layout->n_seqs));
    PHX_ASSERT(is_list(stream, layout->seq_length, PHX_I32, layout->n_seqs));
    PHX_ASSERT(is(stream, blocks, PHX_I32, blocks.rows, blocks.cols));
    PHX_ASSERT(absent(where) || is(stream, where, PHX_I32, blocks.rows, blocks.cols));
}

static void check_pages(const struct phx_stream *stream, const struct phx_kv_pages *kv)
{
    const int64_t rows = (int64_t)kv->n_pages * kv->n_kv_heads * PHX_PAGE_TOKENS;
    PHX_ASSERT(kv->n_pages >= 0);
    PHX_ASSERT(kv->n_kv_heads >= 1 && kv->n_kv_heads <= stream->limits.max_kv_heads);
    PHX_ASSERT(kv->head_dim >= 1 && kv->head_dim <= stream->limits.max_head_dim);
    PHX_ASSERT(phx_dtype_traits(kv->k.dtype)->is_float);
    PHX_ASSERT(is(stream, kv->k, kv->k.dtype, rows, kv->head_dim));
    PHX_ASSERT(is(stream, kv->v, kv->k.dtype, rows, kv->head_dim));
    PHX_ASSERT(kv->k.stride == kv->head_dim && kv->v.stride == kv->head_dim);
    PHX_ASSERT(apart(kv->k, kv->v));
}

/* Whole groups of query heads for each KV head. */
static void check_heads(const struct phx_stream *stream, int32_t n_heads,
                        const struct phx_kv_pages *kv)
{
    PHX_ASSERT(n_heads >= 1 && n_heads <= stream->limits.max_heads);
    PHX_ASSERT(n_heads % kv->n_kv_heads == 0);
}

/* Logits of M rows, as given and adjusted. */
static void check_logits(const struct phx_stream *stream, struct phx_tensor logits,
                         struct phx_tensor adjusted)
{
    PHX_ASSERT(logits.rows <= stream->limits.max_rows);
    PHX_ASSERT(logits.cols >= 1 && logits.cols <= stream->limits.max_vocab);
    PHX_ASSERT(is_f32(stream, logits, logits.rows, logits.cols));
    PHX_ASSERT(is_f32(stream, adjusted, logits.rows, logits.cols));
    PHX_ASSERT(same(adjusted, logits) || apart(adjusted, logits));
}

/* Where drawn tokens go. */
static void check_drawn(const struct phx_stream *stream, struct phx_tensor ids,
                        struct phx_tensor logprobs, struct phx_tensor last_ids, int64_t rows,
                        int64_t slots)
{
    PHX_ASSERT(is_list(stream, ids, PHX_I32, rows));
    PHX_ASSERT(is_list(stream, logprobs, PHX_F32, rows));
    PHX_ASSERT(is_list(stream, last_ids, PHX_I32, slots));
    PHX_ASSERT(apart(ids, logprobs) && apart(ids, last_ids) && apart(logprobs, last_ids));
}

/* ---- the ops ---- */

/* The stage that an op is of. */
enum {
    STAGE_embed = PHX_STAGE_NORMS,
    STAGE_add_norm = PHX_STAGE_NORMS,
    STAGE_linear = PHX_STAGE_PRODUCTS,
    STAGE_gate_up = PHX_STAGE_PRODUCTS,
    STAGE_route = PHX_STAGE_NORMS,
    STAGE_experts_gate_up = PHX_STAGE_PRODUCTS,
    STAGE_experts_down = PHX_STAGE_PRODUCTS,
    STAGE_rope_table = PHX_STAGE_NORMS,
    STAGE_head_squares = PHX_STAGE_NORMS,
    STAGE_rope_append = PHX_STAGE_NORMS,
    STAGE_attention = PHX_STAGE_ATTENTION,
    STAGE_attention_tapped = PHX_STAGE_ATTENTION,
    STAGE_gather_rows = PHX_STAGE_NORMS,
    STAGE_count_tokens = PHX_STAGE_SAMPLING,
    STAGE_adjust_logits = PHX_STAGE_SAMPLING,
    STAGE_sample_candidates = PHX_STAGE_SAMPLING,
    STAGE_sample_pick = PHX_STAGE_SAMPLING,
    STAGE_sample_full = PHX_STAGE_SAMPLING,
};

static enum phx_status end_stage(struct phx_stream *stream, enum phx_stage stage,
                                 struct phx_stage_mark begun, enum phx_status status)
{
    phx_stream_stage_end(stream, stage, begun);
    return status;
}

#define RUN(op)                                                                                    \
    do {                                                                                           \
        const enum phx_stage stage = (enum phx_stage)STAGE_##op;                                   \
        const struct phx_stage_mark begun = phx_stream_stage_begin(stream);                        \
        return end_stage(stream, stage, begun,                                                     \
                         phx_stream_leaves_out(stream, stage)                                      \
                             ? phx_stream_stand_in(stream)                                         \
                             : stream->device->backend->op(stream, args));                         \
    } while (0)

enum phx_status phx_op_embed(struct phx_stream *stream, const struct phx_embed *args)
{
    const int64_t n = args->out.rows, e = args->out.cols, slots = args->last_ids.rows;
    PHX_ASSERT(n <= stream->limits.max_rows && e >= 1);
    PHX_ASSERT(args->table != NULL && is_weight(stream, args->table, args->table->shape.rows, e));
    PHX_ASSERT(args->table->n_bands == 0);
    PHX_ASSERT(args->vocab_begin >= 0 && isfinite(args->scale));
    PHX_ASSERT(is_list(stream, args->ids, PHX_I32, n));
    PHX_ASSERT(absent(args->last_ids) || is_list(stream, args->last_ids, PHX_I32, slots));
    PHX_ASSERT(is_act(stream, args->out, n, e));
    PHX_ASSERT(apart(args->out, args->ids) && apart(args->out, args->last_ids));
    if (n == 0) return PHX_OK;
    RUN(embed);
}

enum phx_status phx_op_add_norm(struct phx_stream *stream, const struct phx_add_norm *args)
{
    const int64_t n = args->out.rows, e = args->out.cols;
    PHX_ASSERT(n <= stream->limits.max_rows && e >= 1);
    PHX_ASSERT(absent(args->x) ? !args->start : is_act(stream, args->x, n, e));
    PHX_ASSERT(absent(args->post) || (!absent(args->x) && is_f32(stream, args->post, 1, e)));
    PHX_ASSERT(is_f32(stream, args->residual, n, e));
    PHX_ASSERT(absent(args->weight) || is_f32(stream, args->weight, 1, e));
    PHX_ASSERT(args->epsilon >= 0 && isfinite(args->epsilon));
    PHX_ASSERT(is_act(stream, args->out, n, e));
    PHX_ASSERT(apart(args->residual, args->x) && apart(args->residual, args->weight));
    PHX_ASSERT(apart(args->out, args->x) && apart(args->out, args->residual));
    PHX_ASSERT(apart(args->out, args->weight) && apart(args->out, args->post));
    PHX_ASSERT(apart(args->residual, args->post));
    if (n == 0) return PHX_OK;
    RUN(add_norm);
}

static enum phx_status run_linear(struct phx_stream *stream, const struct phx_linear *args)
{
    RUN(linear);
}

/* A weight of several types: one after another, to columns side by side. */
static enum phx_status linear_bands(struct phx_stream *stream, const struct phx_linear *args)
{
    int64_t col = 0;
    for (int i = 0; i < args->weight->n_bands; i++) {
        const struct phx_weight *band = args->weight->bands[i];
        int64_t rows = band->shape.rows;
        struct phx_linear part = *args;
        part.weight = band;
        part.out = phx_tensor_cols(args->out, col, rows);
        if (!absent(args->bias)) part.bias = phx_tensor_cols(args->bias, col, rows);
        PHX_TRY(run_linear(stream, &part));
        col += rows;
    }
    return PHX_OK;
}

enum phx_status phx_op_linear(struct phx_stream *stream, const struct phx_linear *args)
{
    const int64_t n = args->x.rows, in = args->x.cols, out = args->out.cols;
    PHX_ASSERT(n <= stream->limits.max_rows && in >= 1 && in <= stream->limits.max_in && out >= 1);
    PHX_ASSERT(is_act(stream, args->x, n, in));
    PHX_ASSERT(is_weight(stream, args->weight, out, in));
    PHX_ASSERT(absent(args->bias) || is_f32(stream, args->bias, 1, out));
    PHX_ASSERT(is_act(stream, args->out, n, out) || is_f32(stream, args->out, n, out));
    PHX_ASSERT(isfinite(args->scale) && (args->soft_cap == 0 || positive(args->soft_cap)));
    PHX_ASSERT(apart(args->out, args->x) && apart(args->out, args->bias));
    if (n == 0) return PHX_OK;
    return args->weight->n_bands > 0 ? linear_bands(stream, args) : run_linear(stream, args);
}

enum phx_status phx_op_gate_up(struct phx_stream *stream, const struct phx_gate_up *args)
{
    const int64_t n = args->x.rows, in = args->x.cols, f = args->out.cols;
    PHX_ASSERT(n <= stream->limits.max_rows && in >= 1 && in <= stream->limits.max_in);
    PHX_ASSERT(f >= 1 && f <= stream->limits.max_out);
    PHX_ASSERT(is_act(stream, args->x, n, in));
    PHX_ASSERT(is_weight(stream, args->weight, 2 * f, in) && args->weight->n_bands == 0);
    PHX_ASSERT(absent(args->bias) || is_f32(stream, args->bias, 1, 2 * f));
    PHX_ASSERT(args->activation == PHX_SILU || args->activation == PHX_GELU_TANH);
    PHX_ASSERT(is_act(stream, args->out, n, f));
    PHX_ASSERT(apart(args->out, args->x) && apart(args->out, args->bias));
    if (n == 0) return PHX_OK;
    RUN(gate_up);
}

/* Lists for N rows. */
static void check_routing(const struct phx_stream *stream, const struct phx_routing *r, int64_t n)
{
    const int64_t k = r->ids.cols;
    PHX_ASSERT(r->n_experts >= 1 && r->n_experts <= PHX_MAX_EXPERTS);
    PHX_ASSERT(r->first_local >= 0 && r->n_local >= 1);
    PHX_ASSERT(r->n_local <= r->n_experts - r->first_local);
    PHX_ASSERT(n <= stream->limits.max_rows && k >= 1 && k <= r->n_experts && k <= PHX_MAX_CHOSEN);
    PHX_ASSERT(is(stream, r->ids, PHX_I32, n, k) && r->ids.stride == k);
    PHX_ASSERT(is_f32(stream, r->weights, n, k) && r->weights.stride == k);
    PHX_ASSERT(is(stream, r->groups, PHX_I32, 1, r->n_local + 1 + n * k));
}

enum phx_status phx_op_route(struct phx_stream *stream, const struct phx_route *args)
{
    const struct phx_routing *r = &args->routing;
    const int64_t n = args->logits.rows;
    check_routing(stream, r, n);
    PHX_ASSERT(is_f32(stream, args->logits, n, r->n_experts));
    PHX_ASSERT(apart(args->logits, r->ids) && apart(args->logits, r->weights));
    PHX_ASSERT(apart(args->logits, r->groups) && apart(r->ids, r->weights));
    PHX_ASSERT(apart(r->ids, r->groups) && apart(r->weights, r->groups));
    if (n == 0) return PHX_OK;
    RUN(route);
}

enum phx_status phx_op_experts_gate_up(struct phx_stream *stream,
                                       const struct phx_experts_gate_up *args)
{
    const struct phx_routing *r = &args->routing;
    const int64_t n = args->x.rows, in = args->x.cols, f = args->out.cols;
    check_routing(stream, r, n);
    PHX_ASSERT(in >= 1 && in <= stream->limits.max_in && f >= 1);
    PHX_ASSERT(is_act(stream, args->x, n, in));
    PHX_ASSERT(is_weight(stream, args->weight, r->n_local * 2 * f, in));
    PHX_ASSERT(args->weight->n_bands == 0);
    PHX_ASSERT(args->activation == PHX_SILU || args->activation == PHX_GELU_TANH);
    PHX_ASSERT(is_act(stream, args->out, n * r->ids.cols, f));
    PHX_ASSERT(apart(args->out, args->x) && apart(args->out, r->ids));
    PHX_ASSERT(apart(args->out, r->weights) && apart(args->out, r->groups));
    if (n == 0) return PHX_OK;
    RUN(experts_gate_up);
}

enum phx_status phx_op_experts_down(struct phx_stream *stream, const struct phx_experts_down *args)
{
    const struct phx_routing *r = &args->routing;
    const int64_t n = args->out.rows, e = args->out.cols, in = args->x.cols, k = r->ids.cols;
    check_routing(stream, r, n);
    PHX_ASSERT(in >= 1 && in <= stream->limits.max_in && e >= 1);
    PHX_ASSERT(is_act(stream, args->x, n * k, in));
    PHX_ASSERT(is_weight(stream, args->weight, r->n_local * e, in));
    PHX_ASSERT(args->weight->n_bands == 0);
    PHX_ASSERT(is_act(stream, args->parts, n * k, e));
    PHX_ASSERT(absent(args->add) == absent(args->add_gate));
    PHX_ASSERT(absent(args->add) || is_act(stream, args->add, n, e));
    PHX_ASSERT(absent(args->add) || is_f32(stream, args->add_gate, n, 1));
    PHX_ASSERT(is_act(stream, args->out, n, e));
    PHX_ASSERT(apart(args->parts, args->x) && apart(args->parts, args->out));
    PHX_ASSERT(apart(args->parts, args->add) && apart(args->parts, args->add_gate));
    PHX_ASSERT(apart(args->out, args->x) && apart(args->out, args->add));
    PHX_ASSERT(apart(args->out, args->add_gate));
    if (n == 0) return PHX_OK;
    RUN(experts_down);
}

enum phx_status phx_op_rope_table(struct phx_stream *stream, const struct phx_rope_table *args)
{
    const int64_t n = args->out.rows, half = args->inv_freq.cols;
    PHX_ASSERT(n <= stream->limits.max_rows && half >= 1);
    PHX_ASSERT(is_list(stream, args->positions, PHX_I32, n));
    PHX_ASSERT(is_f32(stream, args->inv_freq, 1, half));
    PHX_ASSERT(isfinite(args->scale));
    PHX_ASSERT(is_f32(stream, args->out, n, 2 * half));
    PHX_ASSERT(apart(args->out, args->positions) && apart(args->out, args->inv_freq));
    if (n == 0) return PHX_OK;
    RUN(rope_table);
}

enum phx_status phx_op_head_squares(struct phx_stream *stream, const struct phx_head_squares *args)
{
    const int64_t n = args->qkv.rows, d = args->head_dim, h = args->n_heads, k = args->n_kv_heads;
    PHX_ASSERT(n <= stream->limits.max_rows && d >= 1 && d <= stream->limits.max_head_dim);
    PHX_ASSERT(h >= 1 && h <= stream->limits.max_heads);
    PHX_ASSERT(k >= 1 && k <= stream->limits.max_kv_heads && h % k == 0);
    PHX_ASSERT(is_act(stream, args->qkv, n, (h + 2 * k) * d));
    PHX_ASSERT(is_f32(stream, args->out, n, 2) && args->out.stride == 2);
    PHX_ASSERT(apart(args->out, args->qkv));
    if (n == 0) return PHX_OK;
    RUN(head_squares);
}

enum phx_status phx_op_rope_append(struct phx_stream *stream, const struct phx_rope_append *args)
{
    const bool over_all = !absent(args->squares);
    const struct phx_kv_pages *kv = &args->kv;
    const int64_t n = args->layout->n_rows, d = kv->head_dim, r = args->cos_sin.cols;
    check_layout(stream, args->layout);
    check_pages(stream, kv);
    check_heads(stream, args->n_heads, kv);
    PHX_ASSERT(is_act(stream, args->qkv, n, (args->n_heads + 2 * (int64_t)kv->n_kv_heads) * d));
    PHX_ASSERT(absent(args->cos_sin) ||
               (is_f32(stream, args->cos_sin, n, r) && r % 2 == 0 && r >= 2 && r <= d));
    PHX_ASSERT(absent(args->q_norm) ||
               is_f32(stream, args->q_norm, 1, over_all ? args->n_heads * d : d));
    PHX_ASSERT(absent(args->k_norm) ||
               is_f32(stream, args->k_norm, 1, over_all ? kv->n_kv_heads * d : d));
    PHX_ASSERT(!over_all || (is_f32(stream, args->squares, n, 2) && args->squares.stride == 2));
    PHX_ASSERT(!over_all || (!absent(args->q_norm) && !absent(args->k_norm)));
    PHX_ASSERT(!over_all || (args->q_full >= 1 && args->k_full >= 1));
    PHX_ASSERT(args->epsilon >= 0 && isfinite(args->epsilon));
    PHX_ASSERT(apart(args->qkv, args->cos_sin) && apart(args->qkv, args->q_norm));
    PHX_ASSERT(apart(args->qkv, args->k_norm) && apart(args->qkv, args->squares));
    PHX_ASSERT(apart(args->qkv, kv->k) && apart(args->qkv, kv->v));
    if (n == 0) return PHX_OK;
    RUN(rope_append);
}

/* Places for the tapped rows, of the same number everywhere. */
static void check_tap(const struct phx_stream *stream, const struct phx_attention *args)
{
    const struct phx_attention_tap *tap = args->tap;
    const int64_t entries = tap->sums.rows, blocks = args->layout->block_table.cols;
    PHX_ASSERT(entries % args->n_heads == 0);
    PHX_ASSERT(is_list(stream, tap->rows, PHX_I32, args->layout->n_rows));
    PHX_ASSERT(is_structs(stream, tap->used, 1, 1, sizeof(struct phx_attention_used), 4));
    PHX_ASSERT(
        is_structs(stream, tap->reads, entries, blocks, sizeof(struct phx_attention_read), 8));
    PHX_ASSERT(is_f32(stream, tap->scores, entries, blocks * PHX_PAGE_TOKENS));
    PHX_ASSERT(is_f32(stream, tap->weights, entries, blocks * PHX_PAGE_TOKENS));
    PHX_ASSERT(is_f32(stream, tap->maxima, entries, blocks * PHX_PAGE_TOKENS));
    PHX_ASSERT(is_f32(stream, tap->sums, entries, 2));
}

enum phx_status phx_op_attention(struct phx_stream *stream, const struct phx_attention *args)
{
    const struct phx_kv_pages *kv = &args->kv;
    const int64_t n = args->layout->n_rows, width = args->n_heads * (int64_t)kv->head_dim;
    check_layout(stream, args->layout);
    check_pages(stream, kv);
    check_heads(stream, args->n_heads, kv);
    PHX_ASSERT(is_act(stream, args->q, n, width));
    PHX_ASSERT(args->window >= 0 && isfinite(args->scale));
    PHX_ASSERT(args->soft_cap == 0 || positive(args->soft_cap));
    PHX_ASSERT(is_act(stream, args->out, n, width));
    PHX_ASSERT(absent(args->lse) || is_f32(stream, args->lse, n, args->n_heads));
    PHX_ASSERT(apart(args->out, args->q) && apart(args->out, kv->k) && apart(args->out, kv->v));
    PHX_ASSERT(apart(args->lse, args->q) && apart(args->lse, args->out));
    if (args->tap != NULL) check_tap(stream, args);
    if (n == 0) return PHX_OK;
    if (args->tap == NULL) RUN(attention);
    RUN(attention_tapped);
}

enum phx_status phx_op_gather_rows(struct phx_stream *stream, const struct phx_gather_rows *args)
{
    const struct phx_tensor x = args->x;
    const int64_t m = args->out.rows;
    PHX_ASSERT(m <= stream->limits.max_rows);
    PHX_ASSERT(is(stream, x, x.dtype, x.rows, x.cols));
    PHX_ASSERT(is_list(stream, args->rows, PHX_I32, m));
    PHX_ASSERT(is(stream, args->out, x.dtype, m, x.cols));
    PHX_ASSERT(apart(args->out, x) && apart(args->out, args->rows));
    if (m == 0) return PHX_OK;
    RUN(gather_rows);
}

enum phx_status phx_op_count_tokens(struct phx_stream *stream, const struct phx_count_tokens *args)
{
    const int64_t n = args->ids.rows, b = args->counts.rows;
    PHX_ASSERT(is_list(stream, args->ids, PHX_I32, n));
    PHX_ASSERT(absent(args->last_ids) || is_list(stream, args->last_ids, PHX_I32, b));
    PHX_ASSERT(is_list(stream, args->slots, PHX_I32, n));
    PHX_ASSERT(args->vocab_begin >= 0);
    PHX_ASSERT(args->kind == PHX_COUNT_PROMPT || args->kind == PHX_COUNT_OUTPUT ||
               args->kind == PHX_COUNT_BIAS);
    PHX_ASSERT(is(stream, args->counts, PHX_U16, b, args->counts.cols));
    PHX_ASSERT(apart(args->counts, args->ids) && apart(args->counts, args->last_ids));
    PHX_ASSERT(apart(args->counts, args->slots));
    if (n == 0) return PHX_OK;
    RUN(count_tokens);
}

enum phx_status phx_op_adjust_logits(struct phx_stream *stream,
                                     const struct phx_adjust_logits *args)
{
    const struct phx_sampling_table *table = &args->table;
    const int64_t m = args->logits.rows, b = table->params.rows;
    check_logits(stream, args->logits, args->adjusted);
    PHX_ASSERT(is_list(stream, args->slots, PHX_I32, m));
    PHX_ASSERT(args->vocab_begin >= 0);
    PHX_ASSERT(is_params(stream, table->params));
    PHX_ASSERT(is(stream, table->counts, PHX_U16, b, args->logits.cols));
    PHX_ASSERT(is(stream, table->bias_ids, PHX_I32, b, PHX_MAX_BIAS));
    PHX_ASSERT(is(stream, table->bias_values, PHX_F32, b, PHX_MAX_BIAS));
    PHX_ASSERT(apart(args->adjusted, table->counts) && apart(args->adjusted, args->slots));
    if (m == 0) return PHX_OK;
    RUN(adjust_logits);
}

enum phx_status phx_op_sample_candidates(struct phx_stream *stream,
                                         const struct phx_sample_candidates *args)
{
    const int64_t m = args->logits.rows;
    check_logits(stream, args->logits, args->adjusted);
    PHX_ASSERT(is_list(stream, args->slots, PHX_I32, m));
    PHX_ASSERT(is_list(stream, args->positions, PHX_I32, m));
    PHX_ASSERT(args->vocab_begin >= 0);
    PHX_ASSERT(is_params(stream, args->params));
    PHX_ASSERT(is_records(stream, args->records, m, 1, args->n_candidates));
    PHX_ASSERT(apart(args->records, args->logits) && apart(args->records, args->adjusted));
    if (m == 0) return PHX_OK;
    RUN(sample_candidates);
}

enum phx_status phx_op_sample_pick(struct phx_stream *stream, const struct phx_sample_pick *args)
{
    const int64_t m = args->records.rows;
    PHX_ASSERT(m <= stream->limits.max_rows);
    PHX_ASSERT(is_records(stream, args->records, m, args->n_ranks, args->n_candidates));
    PHX_ASSERT(is_list(stream, args->slots, PHX_I32, m));
    PHX_ASSERT(is_params(stream, args->params));
    check_drawn(stream, args->ids, args->logprobs, args->last_ids, m, args->params.rows);
    if (m == 0) return PHX_OK;
    RUN(sample_pick);
}

enum phx_status phx_op_sample_full(struct phx_stream *stream, const struct phx_sample_full *args)
{
    const int64_t m = args->logits.rows;
    check_logits(stream, args->logits, args->adjusted);
    PHX_ASSERT(is_list(stream, args->slots, PHX_I32, m));
    PHX_ASSERT(is_list(stream, args->positions, PHX_I32, m));
    PHX_ASSERT(is_params(stream, args->params));
    check_drawn(stream, args->ids, args->logprobs, args->last_ids, m, args->params.rows);
    if (m == 0) return PHX_OK;
    RUN(sample_full);
}
