/* Cases of rope_table, head_squares and rope_append. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/op_step.h"
#include "tests/support/reference_ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- rope_table ---- */

static const struct table_case {
    int32_t n, half, last; /* positions up to `last` */
    float base, scale;
    int64_t gap;
} table_cases[] = {
    {1, 1, 0, 1e4f, 1, 0},          {3, 8, 40, 1e4f, 1, 5},
    {17, 15, 4095, 5e5f, 1.25f, 0}, {130, 32, 131071, 1e6f, 0.5f, 8},
    {40, 64, 1000000, 1e4f, 1, 0},
};

static enum phx_status launch_rope_table(struct phx_stream *stream, const void *args)
{
    return phx_op_rope_table(stream, args);
}

static void table_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct table_case *c = &table_cases[index];
    (void)info;
    snprintf(out->name, sizeof out->name, "%d x %d, positions to %d", c->n, 2 * c->half, c->last);
    out->tolerance = 1e-6;
    out->bytes = 8.0 * c->n * c->half;
}

static void table_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct table_case *c = &table_cases[index];
    int32_t *positions = op_alloc(c->n, sizeof *positions);
    double *frequencies = op_alloc(c->half, sizeof *frequencies);
    double *expected = op_alloc(2 * (int64_t)c->n * c->half, sizeof *expected);
    for (int32_t n = 0; n < c->n; n++) positions[n] = (int32_t)op_below(run, (int64_t)c->last + 1);
    positions[c->n - 1] = c->last;
    for (int32_t i = 0; i < c->half; i++)
        frequencies[i] = pow((double)c->base, -(double)i / c->half);
    struct operand *inv_freq = op_values(run, PHX_F32, 1, c->half, 0, frequencies);
    struct operand *out = op_output(run, PHX_F32, c->n, 2 * c->half, c->gap);
    ref_rope_table(c->n, c->half, positions, inv_freq->values, (double)c->scale, expected);
    struct phx_rope_table args = {.positions = op_ints(run, c->n, 1, positions)->view,
                                  .inv_freq = inv_freq->view,
                                  .scale = c->scale,
                                  .out = out->view};
    op_launch_once(run, launch_rope_table, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_launch_timed(run, launch_rope_table, &args, n_timed);
    free(positions);
    free(frequencies);
    free(expected);
}

const struct op_table op_table_rope_table = {"rope_table", COUNT(table_cases), table_describe,
                                             table_run};

/* ---- head_squares ---- */

static const struct squares_case {
    int32_t n, hq, hk, d;
    int64_t gap;
} squares_cases[] = {{1, 3, 3, 8, 0}, {17, 10, 2, 97, 5}, {130, 7, 1, 24, 8}, {40, 12, 4, 256, 0}};

static enum phx_status launch_head_squares(struct phx_stream *stream, const void *args)
{
    return phx_op_head_squares(stream, args);
}

static void squares_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct squares_case *c = &squares_cases[index];
    snprintf(out->name, sizeof out->name, "%d rows, %dq %dkv, D %d", c->n, c->hq, c->hk, c->d);
    out->tolerance = 1e-5; /* the result is f32 on every device */
    out->bytes = (double)phx_dtype_bytes(info->activation, (int64_t)c->n * (c->hq + c->hk) * c->d);
    out->flops = 2.0 * c->n * (c->hq + c->hk) * c->d;
}

static void squares_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct squares_case *c = &squares_cases[index];
    const int64_t q = (int64_t)c->hq * c->d, k = (int64_t)c->hk * c->d, width = q + 2 * k;
    struct operand *qkv = op_random(run, run->info.activation, c->n, width, c->gap, 0.1, 1);
    struct operand *out = op_output(run, PHX_F32, c->n, 2, 0);
    double *expected = op_alloc(2 * (int64_t)c->n, sizeof *expected);
    for (int64_t n = 0; n < c->n; n++)
        for (int64_t i = 0; i < q + k; i++) {
            double x = qkv->values[n * width + i];
            expected[2 * n + (i < q ? 0 : 1)] += x * x;
        }
    struct phx_head_squares args = {.qkv = qkv->view,
                                    .n_heads = c->hq,
                                    .n_kv_heads = c->hk,
                                    .head_dim = c->d,
                                    .out = out->view};
    op_launch_once(run, launch_head_squares, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "qkv", qkv);
    op_launch_timed(run, launch_head_squares, &args, n_timed);
    free(expected);
}

const struct op_table op_table_head_squares = {"head_squares", COUNT(squares_cases),
                                               squares_describe, squares_run};

/* ---- rope_append ---- */

static const struct append_case {
    int32_t hq, hk, d, rotated;
    enum { NO_NORM, NORM_Q, NORM_K, NORM_BOTH, NORM_ALL } norm; /* ALL: over all heads */
    enum phx_dtype kv;
    enum op_where where;
    int64_t gap;
    struct op_seq seqs[6];
} append_cases[] = {
    {3, 3, 8, 8, NO_NORM, PHX_F32, OP_ALL, 0, {{1, 1}}},
    {6, 2, 64, 64, NORM_BOTH, PHX_BF16, OP_ALL, 0, {{63, 1}, {64, 1}, {65, 1}, {130, 3}}},
    {5, 1, 24, 16, NORM_K, PHX_F16, OP_ALL, 5, {{200, 40}, {OP_PADDING, 3}, {17, 17}}},
    {7, 1, 80, 80, NORM_Q, PHX_F32, OP_ALL, 8, {{70, 70}, {1, 1}, {OP_PADDING, 1}}},
    {14, 2, 128, 0, NO_NORM, PHX_BF16, OP_ALL, 0, {{127, 2}, {1000, 17}}},
    {8, 4, 30, 10, NORM_BOTH, PHX_F32, OP_HOLES, 0, {{300, 300}, {64, 1}, {40, 2}}},
    {12, 3, 32, 32, NO_NORM, PHX_F16, OP_SUBSET, 5, {{200, 100}, {65, 3}, {64, 1}}},
    {10, 2, 256, 256, NORM_BOTH, PHX_F32, OP_ALL, 0, {{66, 17}, {128, 2}}},
    {6, 2, 24, 24, NORM_ALL, PHX_F32, OP_ALL, 5, {{70, 70}, {1, 1}, {OP_PADDING, 1}}},
    {5, 1, 128, 64, NORM_ALL, PHX_BF16, OP_ALL, 0, {{130, 3}, {65, 1}}},
    {8,
     2,
     64,
     64,
     NORM_BOTH,
     PHX_BF16,
     OP_ALL,
     0,
     {{130, 1}, {OP_PADDING, 1}, {64, 1}, {OP_PADDING, 1}, {OP_PADDING, 1}}},
    {5, 1, 24, 24, NO_NORM, PHX_F32, OP_SUBSET, 0, {{OP_PADDING, 1}, {70, 1}}},
};

static bool norms_q(const struct append_case *c)
{
    return c->norm == NORM_Q || c->norm >= NORM_BOTH;
}

static bool norms_k(const struct append_case *c)
{
    return c->norm >= NORM_K;
}

static enum phx_status launch_rope_append(struct phx_stream *stream, const void *args)
{
    return phx_op_rope_append(stream, args);
}

static void append_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    static const char *const where[] = {"", ", holes", ", subset"};
    const struct append_case *c = &append_cases[index];
    double rows = 0;
    for (const struct op_seq *s = c->seqs; s->rows > 0; s++) rows += s->rows;
    static const char *const norms[] = {"", ", q norm", ", k norm", ", norms", ", norms over all"};
    snprintf(out->name, sizeof out->name, "%dq %dkv, D %d, R %d, kv %s%s%s, %g rows", c->hq, c->hk,
             c->d, c->rotated, phx_dtype_traits(c->kv)->name, norms[c->norm], where[c->where],
             rows);
    out->tolerance = op_tolerance(info->activation);
    out->bytes = rows * c->d *
                 ((2 * c->hq + 2 * c->hk) * (double)phx_dtype_bytes(info->activation, 1) +
                  2 * c->hk * (double)phx_dtype_bytes(c->kv, 1));
    out->flops = 6.0 * rows * c->d * (c->hq + c->hk);
}

/* What a row's k and v turn the pages into, if a block here holds its position. */
static void append_expected(const struct append_case *c, const struct op_step *step, int32_t row,
                            const double *k, const double *v, double *k_pages, double *v_pages)
{
    const int32_t seq = step->row_seq[row];
    for (int32_t i = 0; i < step->seq_length[seq]; i++) {
        if (op_step_key_position(step, seq, i) != step->positions[row]) continue;
        if (op_step_key_page(step, seq, i) < 0) continue;
        for (int32_t h = 0; h < c->hk; h++) {
            int64_t to = op_step_key_value(step, seq, i, c->hk, h, c->d);
            memcpy(k_pages + to, k + (int64_t)h * c->d, sizeof *k * (size_t)c->d);
            memcpy(v_pages + to, v + (int64_t)h * c->d, sizeof *v * (size_t)c->d);
        }
    }
}

static void append_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct append_case *c = &append_cases[index];
    struct op_step step;
    op_step_open(run, c->seqs, c->where, &step);
    const int64_t d = c->d, width = (c->hq + 2 * c->hk) * d, n = step.n_rows;
    const int64_t page_rows = (int64_t)step.n_pages * c->hk * PHX_PAGE_TOKENS;
    const double epsilon = (double)1e-5f;
    struct operand *qkv = op_random(run, run->info.activation, n, width, c->gap, 0, 1);
    struct operand *cos_sin =
        op_random(run, PHX_F32, n, c->rotated > 0 ? c->rotated : 2, c->gap, 0, 1);
    const bool all = c->norm == NORM_ALL;
    struct operand *q_norm = op_random(run, PHX_F32, 1, all ? c->hq * d : d, 0, 1, 0.3);
    struct operand *k_norm = op_random(run, PHX_F32, 1, all ? c->hk * d : d, 0, 1, 0.3);
    /* As if other ranks had two parts of three. */
    const int64_t q_full = 3 * c->hq * d, k_full = 3 * c->hk * d;
    double *sums = op_alloc(2 * n, sizeof *sums);
    for (int64_t i = 0; i < 2 * n; i++)
        sums[i] = (double)(i % 2 == 0 ? q_full : k_full) * (0.5 + op_uniform(run));
    struct operand *squares = op_values(run, PHX_F32, n, 2, 0, sums);
    free(sums);
    struct operand *k = op_random(run, c->kv, page_rows, d, 0, 0, 1);
    struct operand *v = op_random(run, c->kv, page_rows, d, 0, 0, 1);

    for (int64_t row = 0; row < n; row++) {
        if (step.seq_slot[step.row_seq[row]] < 0) continue; /* padding stays as it is */
        double *q = qkv->values + row * width;
        const double *cs = cos_sin->values + row * cos_sin->view.cols;
        const double *sq = squares->values + 2 * row;
        for (int64_t h = 0; h < c->hq; h++)
            ref_rope_head(d, q + h * d, norms_q(c) ? q_norm->values + (all ? h * d : 0) : NULL,
                          all ? sq[0] / (double)q_full : -1, epsilon, c->rotated, cs);
        double *own_k = q + c->hq * d, *own_v = own_k + c->hk * d;
        for (int64_t h = 0; h < c->hk; h++)
            ref_rope_head(d, own_k + h * d, norms_k(c) ? k_norm->values + (all ? h * d : 0) : NULL,
                          all ? sq[1] / (double)k_full : -1, epsilon, c->rotated, cs);
        append_expected(c, &step, (int32_t)row, own_k, own_v, k->values, v->values);
        for (int64_t i = c->hq * d; i < width; i++) q[i] = NAN;
    }

    struct phx_rope_append args = {.qkv = qkv->view,
                                   .n_heads = c->hq,
                                   .epsilon = 1e-5f,
                                   .kv = {k->view, v->view, step.n_pages, c->hk, c->d},
                                   .layout = &step.layout};
    if (c->rotated > 0) args.cos_sin = cos_sin->view;
    if (norms_q(c)) args.q_norm = q_norm->view;
    if (norms_k(c)) args.k_norm = k_norm->view;
    if (all) {
        args.squares = squares->view;
        args.q_full = q_full;
        args.k_full = k_full;
    }
    op_launch_once(run, launch_rope_append, &args);
    op_compare(run, "q", qkv, qkv->values, tolerance);
    op_compare(run, "k pages", k, k->values, op_tolerance(c->kv));
    op_compare(run, "v pages", v, v->values, op_tolerance(c->kv));
    for (int64_t row = 0; row < n; row++)
        if (step.seq_slot[step.row_seq[row]] < 0) op_row_unchanged(run, "qkv", qkv, row);
    op_unchanged(run, "cos_sin", cos_sin);
    op_launch_timed(run, launch_rope_append, &args, n_timed);
    op_step_close(&step);
}

const struct op_table op_table_rope_append = {"rope_append", COUNT(append_cases), append_describe,
                                              append_run};
