/* Cases of attention. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/op_step.h"
#include "tests/support/reference_ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const struct attention_case {
    int32_t hq, hk, d;
    enum phx_dtype kv;
    int32_t window;
    float soft_cap;
    bool lse;
    enum op_where where;
    int64_t gap;
    bool large;
    struct op_seq seqs[40];
} attention_cases[] = {
    {3, 3, 16, PHX_F32, 0, 0, false, OP_ALL, 0, false, {{1, 1}}},
    {6, 2, 64, PHX_F32, 0, 0, true, OP_ALL, 0, false, {{63, 1}, {64, 1}, {65, 2}, {127, 1}}},
    {14,
     2,
     64,
     PHX_BF16,
     0,
     0,
     false,
     OP_ALL,
     5,
     false,
     {{200, 17}, {1, 1}, {65, 65}, {OP_PADDING, 3}, {130, 1}}},
    {8, 1, 128, PHX_F16, 0, 0, true, OP_ALL, 0, false, {{1000, 1}, {64, 3}, {2, 2}}},
    {5, 1, 24, PHX_F32, 16, 0, false, OP_ALL, 8, false, {{200, 40}, {17, 1}, {16, 16}, {15, 2}}},
    {12,
     4,
     80,
     PHX_BF16,
     100,
     0,
     true,
     OP_ALL,
     0,
     false,
     {{300, 2}, {99, 99}, {101, 1}, {OP_PADDING, 1}}},
    {8, 8, 8, PHX_F32, 0, 5, false, OP_ALL, 0, false, {{130, 130}}},
    {10, 2, 256, PHX_F32, 0, 0, true, OP_ALL, 0, false, {{127, 17}, {128, 1}}},
    {71, 1, 64, PHX_F16, 0, 0, true, OP_ALL, 0, false, {{100, 2}, {65, 1}}},
    {6,
     2,
     64,
     PHX_F32,
     0,
     0,
     true,
     OP_HOLES,
     0,
     false,
     {{500, 3}, {64, 1}, {1000, 1}, {40, 1}, {130, 40}}},
    {7, 1, 16, PHX_BF16, 16, 0, true, OP_HOLES, 5, false, {{400, 100}, {33, 3}, {64, 2}, {12, 1}}},
    {12, 3, 32, PHX_BF16, 0, 0, true, OP_SUBSET, 0, false, {{200, 5}, {65, 1}, {0, 2}, {64, 17}}},
    {15, 5, 32, PHX_F32, 64, 0, true, OP_SUBSET, 0, false, {{200, 100}, {65, 1}, {64, 3}}},
    {4, 2, 16, PHX_F32, 1, 0, true, OP_ALL, 0, false, {{70, 70}, {1, 1}, {129, 1}}},
    {7, 7, 64, PHX_F16, 64, 0, false, OP_ALL, 0, false, {{200, 40}, {64, 1}, {65, 1}, {128, 2}}},
    {12,
     4,
     32,
     PHX_BF16,
     0,
     0,
     true,
     OP_ALL,
     0,
     false,
     {{2500, 1}, {3100, 3}, {70, 1}, {1025, 1}, {1024, 2}}},
    {6,
     2,
     16,
     PHX_F32,
     1500,
     0,
     true,
     OP_ALL,
     0,
     false,
     {{2200, 60}, {2600, 1}, {2523, 1}, {3, 1}}},
    {9, 3, 30, PHX_F16, 0, 3, true, OP_ALL, 8, false, {{77, 5}, {1, 1}, {300, 1}}},
    {2, 1, 2, PHX_F32, 100, 20, false, OP_ALL, 0, false, {{130, 5}, {3, 3}}},
    {5, 5, 130, PHX_BF16, 0, 0, false, OP_ALL, 0, false, {{66, 3}, {90, 90}}},
    {3, 1, 64, PHX_F32, 0, 0, true, OP_ALL, 0, false, {{0, 1}, {0, 17}, {5, 2}}},
    {8, 2, 64, PHX_BF16, 0, 0, true, OP_ALL, 0, false, {{300, 130}, {64, 64}, {65, 1}, {2, 2}}},
    {6, 2, 128, PHX_BF16, 0, 30, true, OP_HOLES, 0, false, {{500, 70}, {130, 3}, {OP_PADDING, 2}}},
    {10, 2, 128, PHX_F16, 70, 0, true, OP_ALL, 8, false, {{400, 200}, {33, 33}}},
    {12, 4, 128, PHX_BF16, 0, 0, true, OP_SUBSET, 0, false, {{400, 100}, {65, 3}, {0, 2}}},
    {3, 1, 128, PHX_BF16, 0, 0, false, OP_ALL, 8, false, {{700, 300}}},
    {2, 2, 128, PHX_BF16, 0, 0, true, OP_ALL, 0, false, {{65, 65}, {128, 128}, {129, 66}, {1, 1}}},
    {6, 2, 64, PHX_F16, 0, 0, true, OP_ALL, 8, false, {{300, 300}, {64, 2}, {257, 43}}},
    {14, 2, 128, PHX_F16, 100, 0, true, OP_ALL, 0, false, {{500, 200}, {OP_PADDING, 3}, {90, 90}}},
    {16, 2, 64, PHX_BF16, 64, 20, false, OP_ALL, 0, false, {{129, 129}, {640, 9}, {191, 17}}},
    {8, 2, 128, PHX_BF16, 150, 0, true, OP_HOLES, 0, false, {{700, 130}, {193, 64}, {40, 40}}},
    {8, 1, 64, PHX_F16, 0, 0, true, OP_SUBSET, 0, false, {{330, 150}, {64, 17}, {0, 20}}},
    {8, 2, 128, PHX_BF16, 0, 0, true, OP_SUBSET, 8, false, {{1000, 200}, {129, 33}}},
    {8,
     2,
     128,
     PHX_BF16,
     0,
     0,
     true,
     OP_ALL,
     0,
     false,
     {{700, 1}, {OP_PADDING, 1}, {130, 1}, {OP_PADDING, 1}, {OP_PADDING, 1}}},
    {5, 1, 24, PHX_F32, 40, 0, true, OP_SUBSET, 5, false, {{OP_PADDING, 1}, {70, 1}}},
    {6, 3, 64, PHX_F16, 0, 0, true, OP_ALL, 0, false, {{OP_PADDING, 1}, {OP_PADDING, 1}}},
    {8, 2, 128, PHX_BF16, 0, 0, true, OP_ALL, 0, false, {{1, 1}}},
    {12, 4, 64, PHX_BF16, 150, 0, true, OP_ALL, 5, false, {{700, 1}}},
    {16, 2, 128, PHX_F16, 0, 0, true, OP_ALL, 0, false, {{2500, 1}}},
    {4, 1, 128, PHX_BF16, 0, 10, true, OP_HOLES, 0, false, {{3000, 1}}},
    {3, 3, 128, PHX_BF16, 0, 0, true, OP_SUBSET, 0, false, {{0, 1}}},
    {8,
     2,
     128,
     PHX_BF16,
     0,
     0,
     true,
     OP_ALL,
     0,
     false,
     {{5, 1},   {64, 1},  {65, 1}, {130, 1}, {1, 1},   {300, 1}, {128, 1},        {OP_PADDING, 1},
      {77, 1},  {200, 1}, {3, 1},  {90, 1},  {64, 1},  {400, 1}, {129, 1},        {12, 1},
      {33, 1},  {256, 1}, {70, 1}, {1, 1},   {500, 1}, {64, 1},  {OP_PADDING, 1}, {18, 1},
      {192, 1}, {63, 1},  {7, 1},  {321, 1}, {66, 1},  {140, 1}, {2, 1},          {257, 1},
      {96, 1},  {610, 1}, {31, 1}, {100, 1}, {450, 1}}},
    {32, 8, 128, PHX_F32, 0, 0, false, OP_ALL, 0, true, {{4096, 1}}},
    {32, 8, 128, PHX_BF16, 0, 0, false, OP_ALL, 0, true, {{4096, 1}}},
    {32, 8, 64, PHX_BF16, 0, 0, false, OP_ALL, 0, true, {{512, 512}}},
    {32, 8, 128, PHX_F32, 0, 0, false, OP_ALL, 0, true, {{512, 512}}},
    {32, 8, 128, PHX_BF16, 0, 0, false, OP_ALL, 0, true, {{8192, 256}}},
    {8,
     1,
     128,
     PHX_BF16,
     0,
     0,
     false,
     OP_ALL,
     0,
     true,
     {{1000, 1}, {8192, 1}, {300, 1}, {2500, 1}}},
};

static enum phx_status launch_attention(struct phx_stream *stream, const void *args)
{
    return phx_op_attention(stream, args);
}

static void attention_describe(size_t index, const struct phx_device_info *info,
                               struct op_case *out)
{
    static const char *const where[] = {"", ", holes", ", subset"};
    const struct attention_case *c = &attention_cases[index];
    double rows = 0, keys = 0, pairs = 0;
    for (const struct op_seq *s = c->seqs; s->rows > 0; s++) {
        if (s->length == OP_PADDING) continue;
        rows += s->rows;
        keys += s->length;
        for (int32_t r = 0; r < s->rows; r++) {
            double seen = fmax(s->length - r, 0);
            pairs += c->window > 0 ? fmin(seen, c->window) : seen;
        }
    }
    snprintf(out->name, sizeof out->name,
             "%dq %dkv, D %d, kv %s, window %d, cap %g%s, %g rows over %g keys", c->hq, c->hk, c->d,
             phx_dtype_traits(c->kv)->name, c->window, (double)c->soft_cap, where[c->where], rows,
             keys);
    out->tolerance = op_tolerance(info->activation);
    out->bytes = 2 * rows * c->hq * c->d * (double)phx_dtype_bytes(info->activation, 1) +
                 2 * keys * c->hk * c->d * (double)phx_dtype_bytes(c->kv, 1);
    out->flops = 4 * pairs * c->hq * c->d;
    out->large = c->large;
}

/* Random keys where a sequence has them and this rank holds them, elsewhere NaN. */
static struct operand *random_pages(struct op_run *run, const struct attention_case *c,
                                    const struct op_step *step, double mean)
{
    const int64_t rows = (int64_t)step->n_pages * c->hk * PHX_PAGE_TOKENS;
    double *values = op_alloc(rows * c->d, sizeof *values);
    for (int64_t i = 0; i < rows * c->d; i++) values[i] = NAN;
    for (int32_t seq = 0; seq < step->n_seqs; seq++) {
        if (step->seq_slot[seq] < 0) continue;
        for (int32_t i = 0; i < step->seq_length[seq]; i++) {
            if (op_step_key_page(step, seq, i) < 0) continue;
            for (int32_t h = 0; h < c->hk; h++) {
                double *value = values + op_step_key_value(step, seq, i, c->hk, h, c->d);
                for (int32_t d = 0; d < c->d; d++) value[d] = mean + op_normal(run);
            }
        }
    }
    struct operand *pages = op_values(run, c->kv, rows, c->d, 0, values);
    free(values);
    return pages;
}

/* One KV head of a sequence, key after key. */
static struct ref_keys gather_keys(const struct attention_case *c, const struct op_step *step,
                                   int32_t seq, int32_t h, const double *k_pages,
                                   const double *v_pages)
{
    const int32_t n = step->seq_slot[seq] < 0 ? 0 : step->seq_length[seq];
    int32_t *positions = op_alloc(n, sizeof *positions);
    bool *absent = op_alloc(n, sizeof *absent);
    double *k = op_alloc((int64_t)n * c->d, sizeof *k), *v = op_alloc((int64_t)n * c->d, sizeof *v);
    for (int32_t i = 0; i < n; i++) {
        positions[i] = op_step_key_position(step, seq, i);
        absent[i] = op_step_key_page(step, seq, i) < 0;
        if (absent[i]) continue;
        int64_t from = op_step_key_value(step, seq, i, c->hk, h, c->d);
        memcpy(k + (int64_t)i * c->d, k_pages + from, sizeof *k * (size_t)c->d);
        memcpy(v + (int64_t)i * c->d, v_pages + from, sizeof *v * (size_t)c->d);
    }
    return (struct ref_keys){n, positions, absent, k, v, c->d};
}

static void free_keys(struct ref_keys *keys)
{
    free((void *)keys->positions);
    free((void *)keys->absent);
    free((void *)keys->k);
    free((void *)keys->v);
}

/* Query head h reads KV head h / G. Of large shapes only some rows are checked. */
static void attention_expected(const struct attention_case *c, const struct op_step *step,
                               const double *q, const double *k_pages, const double *v_pages,
                               double scale, double *out, double *lse)
{
    const int32_t group = c->hq / c->hk, row_step = c->large ? 31 : 1;
    for (int64_t i = 0; i < (int64_t)step->n_rows * c->hq * c->d; i++) out[i] = NAN;
    for (int64_t i = 0; i < (int64_t)step->n_rows * c->hq; i++) lse[i] = NAN;
    for (int32_t seq = 0; seq < step->n_seqs; seq++) {
        if (step->seq_slot[seq] < 0) continue;
        for (int32_t h = 0; h < c->hk; h++) {
            struct ref_keys keys = gather_keys(c, step, seq, h, k_pages, v_pages);
            for (int32_t row = step->seq_rows[seq]; row < step->seq_rows[seq + 1];
                 row += row_step) {
                for (int32_t g = 0; g < group; g++) {
                    int64_t at = (int64_t)row * c->hq + h * group + g;
                    lse[at] = ref_attention(&keys, c->d, q + at * c->d, step->positions[row],
                                            c->window, scale, (double)c->soft_cap, out + at * c->d);
                }
            }
            free_keys(&keys);
        }
    }
}

static void attention_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct attention_case *c = &attention_cases[index];
    struct op_step step;
    op_step_open(run, c->seqs, c->where, &step);
    const int64_t n = step.n_rows, width = (int64_t)c->hq * c->d;
    const float scale = 1.5f / sqrtf((float)c->d);
    struct operand *q = op_random(run, run->info.activation, n, width, c->gap, 0, 1);
    struct operand *k = random_pages(run, c, &step, 0);
    struct operand *v = random_pages(run, c, &step, 0.5);
    struct operand *out = op_output(run, run->info.activation, n, width, c->gap);
    struct operand *lse = op_output(run, PHX_F32, n, c->hq, c->gap);
    double *expected = op_alloc(n * width, sizeof *expected);
    double *expected_lse = op_alloc(n * c->hq, sizeof *expected_lse);
    attention_expected(c, &step, q->values, k->values, v->values, (double)scale, expected,
                       expected_lse);

    struct phx_attention args = {.q = q->view,
                                 .n_heads = c->hq,
                                 .kv = {k->view, v->view, step.n_pages, c->hk, c->d},
                                 .layout = &step.layout,
                                 .window = c->window,
                                 .scale = scale,
                                 .soft_cap = c->soft_cap,
                                 .out = out->view};
    if (c->lse) args.lse = lse->view;
    op_launch_once(run, launch_attention, &args);
    op_compare(run, "out", out, expected, tolerance);
    if (c->lse)
        op_compare(run, "lse", lse, expected_lse, tolerance);
    else
        op_unchanged(run, "lse", lse);
    for (int32_t row = 0; row < step.n_rows; row++) {
        if (step.seq_slot[step.row_seq[row]] >= 0) continue;
        op_row_unchanged(run, "out", out, row);
        op_row_unchanged(run, "lse", lse, row);
    }
    op_unchanged(run, "q", q);
    op_unchanged(run, "k pages", k);
    op_unchanged(run, "v pages", v);
    op_launch_timed(run, launch_attention, &args, n_timed);
    op_step_close(&step);
    free(expected);
    free(expected_lse);
}

const struct op_table op_table_attention = {"attention", COUNT(attention_cases), attention_describe,
                                            attention_run};
