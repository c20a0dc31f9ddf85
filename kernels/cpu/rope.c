#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rms.h"

/* ---- the table ---- */

static void table_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_rope_table *args = user;
    const float *inv_freq = phx_f32_row(args->inv_freq, 0);
    const int64_t half = args->inv_freq.cols;
    (void)thread;
    for (int64_t n = begin; n < end; n++) {
        const float position = (float)phx_i32_at(args->positions, n, 0);
        float *out = phx_f32_row(args->out, n);
        for (int64_t i = 0; i < half; i++) {
            float angle = position * inv_freq[i];
            out[i] = (float)cos((double)angle) * args->scale;
            out[half + i] = (float)sin((double)angle) * args->scale;
        }
    }
}

enum phx_status phx_cpu_rope_table(struct phx_stream *stream, const struct phx_rope_table *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->out.rows, 4, table_rows, (void *)args);
    return PHX_OK;
}

/* ---- norm, rotate, append ---- */

static void square_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_head_squares *args = user;
    const int64_t q = (int64_t)args->n_heads * args->head_dim;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        const float *x = phx_f32_row(args->qkv, row);
        float *out = phx_f32_row(args->out, row);
        out[0] = phx_sum_squares(x, q);
        out[1] = phx_sum_squares(x + q, (int64_t)args->n_kv_heads * args->head_dim);
    }
}

enum phx_status phx_cpu_head_squares(struct phx_stream *stream, const struct phx_head_squares *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->qkv.rows, 4, square_rows, (void *)args);
    return PHX_OK;
}

/* `all_scale`: of the norm over all heads, each with weights of its own; 0: each head has its. */
static void prepare_heads(float *heads, int64_t n_heads, int64_t dim, const float *norm,
                          float all_scale, float epsilon, const float *cos_sin, int64_t rotated)
{
    const int64_t half = rotated / 2;
    for (float *x = heads; x < heads + n_heads * dim; x += dim) {
        if (norm != NULL) {
            const float *weight = all_scale != 0 ? norm + (x - heads) : norm;
            float scale = all_scale != 0 ? all_scale : phx_rms_scale(x, dim, epsilon);
            for (int64_t d = 0; d < dim; d++) x[d] = x[d] * scale * weight[d];
        }
        for (int64_t i = 0; i < half; i++) {
            float a = x[i], b = x[i + half], c = cos_sin[i], s = cos_sin[i + half];
            x[i] = a * c - b * s;
            x[i + half] = b * c + a * s;
        }
    }
}

/* The slot's block that holds the key at `position`, or -1. */
static int64_t find_block(const struct phx_step_layout *layout, int32_t seq, int32_t slot,
                          int32_t position)
{
    if (!phx_tensor_present(layout->page_position)) return position / PHX_PAGE_TOKENS;
    const int64_t length = phx_i32_at(layout->seq_length, seq, 0);
    for (int64_t block = (length - 1) / PHX_PAGE_TOKENS; block >= 0; block--) {
        int64_t key = position - phx_block_position(layout, slot, block);
        if (key >= 0 && key < PHX_PAGE_TOKENS) return block;
    }
    return -1;
}

static void store(struct phx_tensor pages, int64_t page_row, const float *from)
{
    const int64_t dim = pages.cols;
    void *to = (char *)phx_tensor_address(pages) + phx_dtype_bytes(pages.dtype, page_row * dim);
    uint16_t *to16 = to;
    if (pages.dtype == PHX_F32)
        memcpy(to, from, sizeof *from * (size_t)dim);
    else if (pages.dtype == PHX_BF16)
        for (int64_t d = 0; d < dim; d++) to16[d] = phx_bf16_from_f32(from[d]);
    else
        for (int64_t d = 0; d < dim; d++) to16[d] = phx_f16_from_f32(from[d]);
}

static void append_row(const struct phx_rope_append *args, int64_t row)
{
    const struct phx_step_layout *layout = args->layout;
    const int32_t seq = phx_i32_at(layout->row_seq, row, 0);
    const int32_t slot = phx_i32_at(layout->seq_slot, seq, 0);
    if (slot < 0) return;
    const int64_t dim = args->kv.head_dim, n_kv = args->kv.n_kv_heads;
    const float *cos_sin = phx_f32_row(args->cos_sin, row);
    const int64_t rotated = cos_sin != NULL ? args->cos_sin.cols : 0;
    float *q = phx_f32_row(args->qkv, row);
    float *k = q + args->n_heads * dim, *v = k + n_kv * dim;
    const float *squares = phx_f32_row(args->squares, row);
    float q_scale = 0, k_scale = 0;
    if (squares != NULL) {
        q_scale = 1 / sqrtf(squares[0] / (float)args->q_full + args->epsilon);
        k_scale = 1 / sqrtf(squares[1] / (float)args->k_full + args->epsilon);
    }
    prepare_heads(q, args->n_heads, dim, phx_f32_row(args->q_norm, 0), q_scale, args->epsilon,
                  cos_sin, rotated);

    const int32_t position = phx_i32_at(layout->positions, row, 0);
    const int64_t block = find_block(layout, seq, slot, position);
    if (block < 0) return;
    PHX_ASSERT(block < layout->block_table.cols);
    const int64_t page = phx_i32_at(layout->block_table, slot, block);
    if (page < 0) return;
    PHX_ASSERT(page < args->kv.n_pages);
    prepare_heads(k, n_kv, dim, phx_f32_row(args->k_norm, 0), k_scale, args->epsilon, cos_sin,
                  rotated);
    for (int64_t head = 0; head < n_kv; head++) {
        int64_t page_row = (page * n_kv + head) * PHX_PAGE_TOKENS + position -
                           phx_block_position(layout, slot, block);
        store(args->kv.k, page_row, k + head * dim);
        store(args->kv.v, page_row, v + head * dim);
    }
}

static void append_rows(void *user, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t row = begin; row < end; row++) append_row(user, row);
}

enum phx_status phx_cpu_rope_append(struct phx_stream *stream, const struct phx_rope_append *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->layout->n_rows, 4, append_rows, (void *)args);
    return PHX_OK;
}
