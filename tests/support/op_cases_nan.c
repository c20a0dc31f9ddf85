/* NaN in what attention reads: it reaches the queries that see it, and no others. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/op_step.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum planted { IN_Q, IN_K, IN_V };

/* In head `head` (of q, else of K and V), dimension `dim`: of the step's row `at`, or of `n` keys
 * of sequence `seq` from `at` on. */
static const struct nan_case {
    int32_t hq, hk, d;
    enum phx_dtype kv;
    int32_t window;
    float soft_cap;
    enum planted planted;
    int32_t seq, at, n, head, dim;
    struct op_seq seqs[5];
} nan_cases[] = {
    {6, 2, 24, PHX_F32, 0, 0, IN_Q, 0, 3, 1, 4, 5, {{70, 2}, {130, 9}, {65, 1}}},
    {14, 2, 64, PHX_BF16, 0, 0, IN_Q, 0, 20, 1, 8, 63, {{200, 70}, {65, 1}}},
    /* visible to some rows: those before the key do not see it */
    {6, 2, 24, PHX_F32, 0, 0, IN_K, 1, 124, 1, 1, 23, {{70, 2}, {130, 9}, {65, 1}}},
    {6, 2, 24, PHX_F32, 0, 7, IN_K, 1, 124, 1, 1, 23, {{70, 2}, {130, 9}, {65, 1}}},
    {5, 1, 24, PHX_F32, 16, 0, IN_K, 0, 165, 1, 0, 0, {{200, 40}, {17, 1}}},
    {8, 2, 64, PHX_BF16, 0, 0, IN_K, 0, 40, 1, 0, 17, {{130, 130}, {65, 1}}},
    {8, 2, 128, PHX_F16, 70, 30, IN_K, 0, 210, 2, 1, 127, {{400, 200}, {33, 33}}},
    {3, 3, 80, PHX_BF16, 0, 0, IN_K, 0, 0, 1, 2, 79, {{33, 33}, {5, 2}}},
    /* to a row alone: in the middle, the last, the first part, all that there is */
    {6, 2, 64, PHX_BF16, 0, 0, IN_K, 1, 1300, 1, 0, 63, {{70, 1}, {2500, 1}, {65, 1}}},
    {12, 4, 128, PHX_F16, 0, 0, IN_K, 0, 129, 1, 3, 0, {{130, 1}, {65, 1}}},
    {12, 4, 32, PHX_F32, 0, 0, IN_K, 0, 0, 1024, 3, 0, {{2500, 1}, {65, 1}}},
    {12, 4, 64, PHX_F16, 0, 0, IN_K, 1, 0, 65, 3, 9, {{2500, 1}, {65, 1}}},
    {9, 3, 30, PHX_F32, 0, 3, IN_K, 1, 0, 1, 0, 29, {{77, 1}, {1, 1}, {300, 1}}},
    {6, 2, 64, PHX_F16, 0, 0, IN_V, 0, 1300, 1, 1, 1, {{2500, 1}, {65, 1}}},
    {5, 5, 24, PHX_F32, 0, 0, IN_V, 1, 100, 1, 4, 7, {{65, 1}, {130, 9}}},
    {4, 2, 16, PHX_F32, 0, 0, IN_V, 1, 126, 1, 0, 15, {{65, 1}, {130, 9}}},
    {8, 2, 64, PHX_BF16, 0, 0, IN_V, 0, 40, 1, 0, 17, {{130, 130}, {65, 1}}},
    /* outside the window of all rows */
    {5, 1, 24, PHX_F32, 16, 0, IN_K, 0, 100, 44, 0, 0, {{200, 40}, {17, 1}}},
    {5, 1, 24, PHX_F32, 16, 0, IN_V, 0, 100, 44, 0, 0, {{200, 40}, {17, 1}}},
    {8, 2, 128, PHX_BF16, 70, 0, IN_K, 0, 0, 131, 1, 3, {{400, 200}, {33, 33}}},
    {8, 2, 128, PHX_BF16, 70, 0, IN_V, 0, 0, 131, 1, 3, {{400, 200}, {33, 33}}},
    {6, 2, 64, PHX_F16, 100, 0, IN_K, 0, 0, 2400, 1, 1, {{2500, 1}, {65, 1}}},
    {6, 2, 64, PHX_F16, 100, 0, IN_V, 0, 0, 2400, 1, 1, {{2500, 1}, {65, 1}}},
};

static enum phx_status launch_attention(struct phx_stream *stream, const void *args)
{
    return phx_op_attention(stream, args);
}

static void nan_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    static const char *const places[] = {"q, row", "K, key", "V, key"};
    const struct nan_case *c = &nan_cases[index];
    (void)info;
    snprintf(out->name, sizeof out->name, "%dq %dkv, D %d, kv %s, window %d, NaN in %s %d", c->hq,
             c->hk, c->d, phx_dtype_traits(c->kv)->name, c->window, places[c->planted], c->at);
}

static struct operand *with_nans(struct op_run *run, const struct nan_case *c,
                                 const struct op_step *step, const struct operand *from)
{
    const int64_t n = from->view.rows * from->view.cols;
    double *values = op_alloc(n, sizeof *values);
    memcpy(values, from->values, sizeof *values * (size_t)n);
    for (int32_t i = c->at; i < c->at + c->n; i++) {
        int64_t row = i;
        if (c->planted != IN_Q)
            row = ((int64_t)op_step_key_page(step, c->seq, i) * c->hk + c->head) * PHX_PAGE_TOKENS +
                  i % PHX_PAGE_TOKENS;
        values[row * from->view.cols + (c->planted == IN_Q ? c->head * c->d : 0) + c->dim] = NAN;
    }
    struct operand *planted =
        op_values(run, from->view.dtype, from->view.rows, from->view.cols, 0, values);
    free(values);
    return planted;
}

/* Whether an element of the result comes from what is planted. */
static bool is_reached(const struct nan_case *c, const struct op_step *step, int32_t row,
                       int32_t head, int32_t dim)
{
    if (c->planted == IN_Q) return row == c->at && head == c->head;
    if (step->row_seq[row] != c->seq || head / (c->hq / c->hk) != c->head) return false;
    if (c->planted == IN_V && dim != c->dim) return false;
    const int32_t position = step->positions[row];
    for (int32_t key = c->at; key < c->at + c->n; key++)
        if (key <= position && (c->window == 0 || key > position - c->window)) return true;
    return false;
}

/* A value that only other rows of the sequence see may be multiplied by 0. */
static bool may_be_reached(const struct op_run *run, const struct nan_case *c,
                           const struct op_step *step, int32_t row)
{
    bool any = false;
    const int32_t seq = step->row_seq[row];
    for (int32_t r = step->seq_rows[seq]; r < step->seq_rows[seq + 1]; r++)
        for (int32_t head = 0; head < c->hq; head++)
            any = any || is_reached(c, step, r, head, c->dim);
    return run->info.kind != PHX_DEVICE_CPU && c->planted == IN_V && any;
}

static void compare(struct op_run *run, const struct nan_case *c, const struct op_step *step,
                    const struct operand *clean, const struct operand *planted)
{
    double *expected = op_download(run, clean), *got = op_download(run, planted);
    for (int32_t row = 0; row < step->n_rows; row++) {
        for (int32_t i = 0; i < c->hq * c->d; i++) {
            const int64_t at = (int64_t)row * c->hq * c->d + i;
            const int32_t head = i / c->d, dim = i % c->d;
            if (is_reached(c, step, row, head, dim) ? isnan(got[at]) : got[at] == expected[at])
                continue;
            if (isnan(got[at]) && dim == c->dim && may_be_reached(run, c, step, row)) continue;
            op_fail(run, "row %d, head %d, dimension %d = %g; %g without NaN", row, head, dim,
                    got[at], expected[at]);
        }
    }
    free(expected);
    free(got);
}

static void nan_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct nan_case *c = &nan_cases[index];
    struct op_step step;
    (void)tolerance;
    op_step_open(run, c->seqs, OP_ALL, &step);
    const enum phx_dtype act = run->info.activation;
    const int64_t n = step.n_rows, width = (int64_t)c->hq * c->d;
    const int64_t page_rows = (int64_t)step.n_pages * c->hk * PHX_PAGE_TOKENS;
    struct operand *q = op_random(run, act, n, width, 0, 0, 1);
    struct operand *k = op_random(run, c->kv, page_rows, c->d, 0, 0, 1);
    struct operand *v = op_random(run, c->kv, page_rows, c->d, 0, 0.5, 1);
    struct operand *clean = op_output(run, act, n, width, 0);
    struct operand *planted = op_output(run, act, n, width, 0);
    struct phx_attention args = {.q = q->view,
                                 .n_heads = c->hq,
                                 .kv = {k->view, v->view, step.n_pages, c->hk, c->d},
                                 .layout = &step.layout,
                                 .window = c->window,
                                 .scale = 1 / sqrtf((float)c->d),
                                 .soft_cap = c->soft_cap,
                                 .out = clean->view};
    op_launch_once(run, launch_attention, &args);
    if (c->planted == IN_Q) args.q = with_nans(run, c, &step, q)->view;
    if (c->planted == IN_K) args.kv.k = with_nans(run, c, &step, k)->view;
    if (c->planted == IN_V) args.kv.v = with_nans(run, c, &step, v)->view;
    args.out = planted->view;
    op_launch_once(run, launch_attention, &args);
    compare(run, c, &step, clean, planted);
    op_launch_timed(run, launch_attention, &args, n_timed);
    op_step_close(&step);
}

const struct op_table op_table_attention_nan = {"attention_nan", COUNT(nan_cases), nan_describe,
                                                nan_run};
