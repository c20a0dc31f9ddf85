/* Cases of count_tokens and adjust_logits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/reference_ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- count_tokens ---- */

static const struct count_case {
    int32_t n, slots, vocab, share, begin;
    enum phx_count_kind kind;
    bool newest;
} count_cases[] = {
    {1, 1, 50, 50, 0, PHX_COUNT_PROMPT, false},
    {130, 3, 97, 40, 30, PHX_COUNT_OUTPUT, true},
    {500, 5, 33, 33, 0, PHX_COUNT_OUTPUT, false},
    {40, 7, 77, 26, 51, PHX_COUNT_BIAS, true},
};

static enum phx_status launch_count_tokens(struct phx_stream *stream, const void *args)
{
    return phx_op_count_tokens(stream, args);
}

static void count_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    static const char *const kinds[] = {"prompt", "output", "bias"};
    const struct count_case *c = &count_cases[index];
    (void)info;
    snprintf(out->name, sizeof out->name, "%d tokens, %d slots, %d of %d ids, %s%s", c->n, c->slots,
             c->share, c->vocab, kinds[c->kind], c->newest ? ", newest tokens" : "");
    out->bytes = 12.0 * c->n;
}

static double count_one(double before, enum phx_count_kind kind)
{
    int count = (int)before;
    if (kind == PHX_COUNT_PROMPT) return count | 0x8000;
    if (kind == PHX_COUNT_BIAS) return count | 0x4000;
    return (count & 0x3fff) == 0x3fff ? count : count + 1;
}

static void count_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct count_case *c = &count_cases[index];
    const int64_t cells = (int64_t)c->slots * c->share;
    int32_t *ids = op_alloc(c->n, sizeof *ids), *slots = op_alloc(c->n, sizeof *slots);
    int32_t *last = op_alloc(c->slots, sizeof *last);
    double *counts = op_alloc(cells, sizeof *counts);
    for (int32_t i = 0; i < c->slots; i++) last[i] = (int32_t)op_below(run, c->vocab);
    for (int64_t i = 0; i < cells; i++) /* some in the prompt, some about to be full */
        counts[i] = (double)(op_below(run, 2) * 0x8000 + (op_below(run, 4) == 0 ? 0x3ffd : 0));
    struct operand *out = op_values(run, PHX_U16, c->slots, c->share, 3, counts);
    for (int32_t n = 0; n < c->n; n++) {
        slots[n] = (int32_t)op_below(run, (int64_t)c->slots + 1) - 1;
        ids[n] = (int32_t)op_below(run, c->vocab);
        if (c->newest && n % 4 == 0) ids[n] = -1 - (int32_t)op_below(run, c->slots);
        int32_t col = (ids[n] >= 0 ? ids[n] : last[-1 - ids[n]]) - c->begin;
        if (slots[n] < 0 || col < 0 || col >= c->share) continue;
        double *count = &counts[(int64_t)slots[n] * c->share + col];
        *count = count_one(*count, c->kind);
    }
    struct phx_count_tokens args = {.ids = op_ints(run, c->n, 1, ids)->view,
                                    .slots = op_ints(run, c->n, 1, slots)->view,
                                    .vocab_begin = c->begin,
                                    .kind = c->kind,
                                    .counts = out->view};
    if (c->newest) args.last_ids = op_ints(run, c->slots, 1, last)->view;
    op_launch_once(run, launch_count_tokens, &args);
    op_compare(run, "counts", out, counts, tolerance);
    op_launch_timed(run, launch_count_tokens, &args, n_timed);
    free(ids);
    free(slots);
    free(last);
    free(counts);
}

const struct op_table op_table_count_tokens = {"count_tokens", COUNT(count_cases), count_describe,
                                               count_run};

/* ---- adjust_logits ---- */

static const struct adjust_case {
    int32_t m, slots, vocab, share, begin;
    bool in_place;
    int64_t gap;
} adjust_cases[] = {
    {1, 1, 50, 50, 0, false, 0},
    {3, 5, 97, 40, 30, true, 5},
    {17, 7, 333, 111, 222, false, 8},
    {40, 3, 1000, 1000, 0, true, 0},
};

static enum phx_status launch_adjust_logits(struct phx_stream *stream, const void *args)
{
    return phx_op_adjust_logits(stream, args);
}

static void adjust_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct adjust_case *c = &adjust_cases[index];
    (void)info;
    snprintf(out->name, sizeof out->name, "%d x %d of %d, %d slots%s", c->m, c->share, c->vocab,
             c->slots, c->in_place ? ", in place" : "");
    out->tolerance = 1e-6;
    out->bytes = 10.0 * c->m * c->share;
}

/* The parameters, counts and biases of a slot; biased ids are distinct and anywhere. */
static struct phx_sampling random_penalties(struct op_run *run, const struct adjust_case *c,
                                            int32_t slot, double *counts, int32_t *ids,
                                            double *values)
{
    struct phx_sampling p = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
    if (slot % 3 != 1) p.repeat_penalty = 1.3f;
    if (slot % 2 == 0) p.presence_penalty = 0.7f;
    if (slot % 3 == 0) p.frequency_penalty = -0.11f;
    p.n_bias = (int32_t)op_below(run, c->vocab < 20 ? c->vocab : 20);
    for (int32_t i = 0; i < c->share; i++) {
        int64_t kind = op_below(run, 4);
        counts[i] = (double)((kind & 1) * 0x8000 + (kind >> 1) * op_below(run, 50));
    }
    int32_t *order = op_shuffled(run, c->vocab);
    for (int32_t i = 0; i < p.n_bias; i++) {
        ids[i] = order[i];
        values[i] = (double)(float)(5 * op_normal(run));
        int32_t col = ids[i] - c->begin;
        if (col >= 0 && col < c->share) counts[col] += 0x4000;
    }
    free(order);
    return p;
}

static void adjust_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct adjust_case *c = &adjust_cases[index];
    const int64_t v = c->share;
    struct phx_sampling *params = op_alloc(c->slots, sizeof *params);
    double *counts = op_alloc(c->slots * v, sizeof *counts);
    int32_t *bias_ids = op_alloc((int64_t)c->slots * PHX_MAX_BIAS, sizeof *bias_ids);
    double *bias_values = op_alloc((int64_t)c->slots * PHX_MAX_BIAS, sizeof *bias_values);
    for (int32_t s = 0; s < c->slots; s++)
        params[s] = random_penalties(run, c, s, counts + s * v, bias_ids + s * PHX_MAX_BIAS,
                                     bias_values + s * PHX_MAX_BIAS);

    struct operand *logits = op_random(run, PHX_F32, c->m, v, c->gap, 0, 3);
    struct operand *out = c->in_place ? logits : op_output(run, PHX_F32, c->m, v, c->gap);
    int32_t *slots = op_alloc(c->m, sizeof *slots);
    double *expected = op_alloc(c->m * v, sizeof *expected);
    memcpy(expected, logits->values, sizeof *expected * (size_t)(c->m * v));
    for (int32_t m = 0; m < c->m; m++) {
        slots[m] = (int32_t)op_below(run, (int64_t)c->slots + 1) - 1;
        if (c->m == 1) slots[m] = 0;
        if (slots[m] < 0) continue;
        uint16_t count[1000];
        int32_t ids[20];
        float values[20];
        const struct phx_sampling *p = &params[slots[m]];
        for (int64_t i = 0; i < v; i++) count[i] = (uint16_t)counts[slots[m] * v + i];
        for (int32_t b = 0; b < p->n_bias; b++) {
            ids[b] = bias_ids[slots[m] * PHX_MAX_BIAS + b] - c->begin;
            values[b] = (float)bias_values[slots[m] * PHX_MAX_BIAS + b];
        }
        ref_adjust(v, expected + m * v, count, p, ids, values);
    }

    struct operand *count_operand = op_values(run, PHX_U16, c->slots, v, 3, counts);
    struct phx_adjust_logits args = {
        .logits = logits->view,
        .slots = op_ints(run, c->m, 1, slots)->view,
        .vocab_begin = c->begin,
        .table = {op_bytes(run, c->slots, sizeof *params, params)->view, count_operand->view,
                  op_ints(run, c->slots, PHX_MAX_BIAS, bias_ids)->view,
                  op_values(run, PHX_F32, c->slots, PHX_MAX_BIAS, 0, bias_values)->view},
        .adjusted = out->view};
    op_launch_once(run, launch_adjust_logits, &args);
    op_compare(run, "adjusted", out, expected, tolerance);
    if (!c->in_place) op_unchanged(run, "logits", logits);
    op_unchanged(run, "counts", count_operand);
    op_launch_timed(run, launch_adjust_logits, &args, n_timed);
    free(params);
    free(counts);
    free(bias_ids);
    free(bias_values);
    free(slots);
    free(expected);
}

const struct op_table op_table_adjust_logits = {"adjust_logits", COUNT(adjust_cases),
                                                adjust_describe, adjust_run};
