/* Cases of the ops that work row by row: embed, add_norm, products, gather_rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/reference_ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static size_t act_bytes(const struct phx_device_info *info)
{
    return phx_dtype_bytes(info->activation, 1);
}

static double value_bytes(enum phx_dtype dtype)
{
    const struct phx_dtype_traits *traits = phx_dtype_traits(dtype);
    return (double)traits->block_bytes / traits->block_elements;
}

/* ---- embed ---- */

static const struct embed_case {
    int32_t n, e, vocab, share, begin; /* the table has rows [begin, begin + share) of vocab */
    enum phx_dtype dtype;
    float scale;
    int64_t gap;
    bool newest; /* some ids name slots */
    bool large;
} embed_cases[] = {
    {1, 64, 50, 50, 0, PHX_F32, 1, 0, false, false},
    {2, 97, 131, 40, 17, PHX_BF16, 1, 5, true, false},
    {17, 288, 300, 101, 199, PHX_F16, 1, 0, true, false},
    {130, 33, 100, 48, 26, PHX_BF16, 5.656854f, 8, true, false},
    {2, 96, 131, 40, 17, PHX_Q8_0, 1, 5, true, false},
    {17, 512, 300, 101, 199, PHX_Q6_K, 5.656854f, 0, true, false},
    {40, 256, 70, 70, 0, PHX_Q4_K, 1, 3, false, false},
    {512, 2048, 32000, 16000, 16000, PHX_BF16, 1, 0, true, true},
};

static enum phx_status launch_embed(struct phx_stream *stream, const void *args)
{
    return phx_op_embed(stream, args);
}

static void embed_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct embed_case *c = &embed_cases[index];
    snprintf(out->name, sizeof out->name, "%d x %d of %d rows, %s%s", c->n, c->e, c->share,
             phx_dtype_traits(c->dtype)->name, c->newest ? ", newest tokens" : "");
    out->tolerance = info->activation == PHX_F32 ? 1e-6 : op_tolerance(info->activation);
    out->bytes = (double)c->n * c->e * ((double)act_bytes(info) + value_bytes(c->dtype));
    out->flops = (double)c->n * c->e;
    out->large = c->large;
}

static void embed_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    enum { SLOTS = 7 };
    const struct embed_case *c = &embed_cases[index];
    double *table = op_weight(run, c->dtype, c->share, c->e, 1);
    int32_t *ids = op_alloc(c->n, sizeof *ids), last[SLOTS];
    double *expected = op_alloc((int64_t)c->n * c->e, sizeof *expected);
    for (int i = 0; i < SLOTS; i++) last[i] = (int32_t)op_below(run, c->vocab);
    for (int32_t n = 0; n < c->n; n++) {
        ids[n] = (int32_t)op_below(run, c->vocab);
        if (n % 5 == 3)
            ids[n] = c->begin + (n % 2 == 0 ? 0 : c->share) - n % 3; /* about the ends */
        if (ids[n] < 0 || ids[n] >= c->vocab) ids[n] = c->begin;
        if (c->newest && n % 3 == 1) ids[n] = -1 - (int32_t)op_below(run, SLOTS);
        int32_t id = ids[n] >= 0 ? ids[n] : last[-1 - ids[n]];
        bool mine = id >= c->begin && id < c->begin + c->share;
        for (int32_t e = 0; mine && e < c->e; e++)
            expected[(int64_t)n * c->e + e] =
                table[(int64_t)(id - c->begin) * c->e + e] * (double)c->scale;
    }
    struct operand *out = op_output(run, run->info.activation, c->n, c->e, c->gap);
    struct phx_embed args = {.table = run->weight,
                             .vocab_begin = c->begin,
                             .ids = op_ints(run, c->n, 1, ids)->view,
                             .scale = c->scale,
                             .out = out->view};
    if (c->newest) args.last_ids = op_ints(run, SLOTS, 1, last)->view;
    op_launch_once(run, launch_embed, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_launch_timed(run, launch_embed, &args, n_timed);
    free(table);
    free(ids);
    free(expected);
}

const struct op_table op_table_embed = {"embed", COUNT(embed_cases), embed_describe, embed_run};

/* ---- add_norm ---- */

static const struct norm_case {
    int32_t n, e;
    enum { ADD, START, ALONE } mode;
    float epsilon;
    int64_t gap;
    bool post, bare; /* bare: without weight */
    bool large;
} norm_cases[] = {
    {1, 64, ADD, 1e-5f, 0, false, false, false},      {2, 97, START, 1e-6f, 5, false, false, false},
    {3, 15, ALONE, 1e-5f, 0, false, false, false},    {17, 288, ADD, 1e-5f, 8, false, false, false},
    {40, 1023, START, 1e-6f, 0, false, false, false}, {130, 33, ADD, 1e-2f, 5, false, false, false},
    {17, 288, ADD, 1e-5f, 8, true, false, false},     {40, 97, ADD, 1e-2f, 0, true, true, false},
    {3, 132, START, 1e-6f, 4, false, true, false},    {2, 33, START, 1e-6f, 0, true, false, false},
    {5, 70, ALONE, 1e-6f, 5, false, true, false},     {1, 4096, ADD, 1e-5f, 0, false, false, true},
    {512, 4096, ADD, 1e-5f, 0, false, false, true},   {1, 3584, ADD, 1e-6f, 0, true, false, true},
};

static enum phx_status launch_add_norm(struct phx_stream *stream, const void *args)
{
    return phx_op_add_norm(stream, args);
}

static void norm_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    static const char *const modes[] = {"add", "start", "alone"};
    const struct norm_case *c = &norm_cases[index];
    snprintf(out->name, sizeof out->name, "%d x %d, %s%s%s", c->n, c->e, modes[c->mode],
             c->post ? ", post norm" : "", c->bare ? ", no weight" : "");
    out->tolerance = op_tolerance(info->activation);
    out->bytes = (double)c->n * c->e * (8 + 2 * (double)act_bytes(info));
    out->flops = 5.0 * c->n * c->e;
    out->large = c->large;
}

static void norm_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct norm_case *c = &norm_cases[index];
    const int64_t n = c->n, e = c->e;
    struct operand *x = op_random(run, run->info.activation, n, e, c->gap, 0.5, 2);
    struct operand *residual = op_random(run, PHX_F32, n, e, c->gap, -0.25, 3);
    struct operand *weight = op_random(run, PHX_F32, 1, e, 0, 1, 0.2);
    struct operand *post = op_random(run, PHX_F32, 1, e, 0, 1, 0.3);
    struct operand *out = op_output(run, run->info.activation, n, e, c->gap);
    double *expected = op_alloc(n * e, sizeof *expected);
    ref_add_norm(n, e, c->mode == ALONE ? NULL : x->values, c->post ? post->values : NULL,
                 residual->values, c->mode == START, c->bare ? NULL : weight->values,
                 (double)c->epsilon, expected);
    struct phx_add_norm args = {.residual = residual->view,
                                .start = c->mode == START,
                                .epsilon = c->epsilon,
                                .out = out->view};
    if (c->mode != ALONE) args.x = x->view;
    if (c->post) args.post = post->view;
    if (!c->bare) args.weight = weight->view;
    op_launch_once(run, launch_add_norm, &args);
    op_compare(run, "residual", residual, residual->values, 1e-6);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "x", x);
    op_unchanged(run, "weight", weight);
    op_launch_timed(run, launch_add_norm, &args, n_timed);
    free(expected);
}

const struct op_table op_table_add_norm = {"add_norm", COUNT(norm_cases), norm_describe, norm_run};

/* ---- products ---- */

static const struct product_case {
    int32_t n, in, out; /* out: F of gate_up */
    enum phx_dtype dtype;
    bool bias;
    bool f32_out;
    enum phx_activation activation;
    int64_t gap;
    float scale, cap; /* of linear */
    bool large;
    int32_t lead; /* of a quantised weight */
} product_cases[] = {
    {1, 64, 48, PHX_F32, false, false, PHX_SILU, 0, 0, 0, false, 0},
    {1, 288, 97, PHX_BF16, true, false, PHX_SILU, 0, 0, 0, false, 0},
    {1, 33, 130, PHX_F16, false, true, PHX_GELU_TANH, 0, 0.125f, 3, false, 0},
    {2, 97, 33, PHX_BF16, false, false, PHX_SILU, 5, 0, 0, false, 0},
    {3, 128, 1, PHX_F16, true, false, PHX_GELU_TANH, 8, 0.22f, 0, false, 0},
    {17, 257, 65, PHX_F32, true, false, PHX_SILU, 5, 0.22f, 0, false, 0},
    {40, 96, 300, PHX_BF16, true, true, PHX_GELU_TANH, 0, 0, 5, false, 0},
    {40, 1001, 72, PHX_F16, false, false, PHX_SILU, 0, 0, 0, false, 0},
    {130, 333, 70, PHX_BF16, false, false, PHX_SILU, 8, 0.22f, 0, false, 0},
    {130, 64, 257, PHX_F32, true, false, PHX_SILU, 0, 0, 0, false, 0},
    {9, 200, 136, PHX_BF16, true, false, PHX_SILU, 0, 0, 0, false, 0},
    {16, 1000, 520, PHX_F16, false, true, PHX_GELU_TANH, 0, 0.22f, 0, false, 0},
    {33, 1024, 200, PHX_BF16, true, false, PHX_GELU_TANH, 8, 0, 5, false, 0},
    {64, 1000, 512, PHX_F16, true, false, PHX_SILU, 8, 0, 0, false, 0},
    {64, 640, 504, PHX_BF16, false, true, PHX_SILU, 0, 0, 0, false, 0},
    {1, 2048, 8192, PHX_BF16, false, false, PHX_SILU, 0, 0, 0, true, 0},
    {512, 2048, 3072, PHX_BF16, false, false, PHX_SILU, 0, 0, 0, true, 0},
    {1, 288, 97, PHX_Q8_0, true, false, PHX_SILU, 0, 0, 0, false, 0},
    {2, 96, 33, PHX_Q4_0, false, false, PHX_GELU_TANH, 5, 0, 0, false, 0},
    {8, 224, 130, PHX_Q4_1, false, true, PHX_SILU, 0, 0.125f, 3, false, 0},
    {9, 160, 65, PHX_Q5_0, false, false, PHX_SILU, 3, 0.22f, 0, false, 0},
    {3, 88, 48, PHX_Q5_1, true, false, PHX_SILU, 0, 0, 0, false, 16},
    {1, 1024, 300, PHX_Q4_K, false, false, PHX_GELU_TANH, 0, 0, 0, false, 0},
    {5, 536, 72, PHX_Q5_K, false, false, PHX_SILU, 8, 0, 0, false, 128},
    {7, 768, 400, PHX_Q6_K, true, true, PHX_SILU, 0, 0, 5, false, 0},
    {17, 33, 130, PHX_Q4_0, true, false, PHX_SILU, 0, 0, 0, false, 7},
    {40, 512, 257, PHX_Q4_K, true, false, PHX_SILU, 0, 0, 0, false, 0},
    {130, 300, 70, PHX_Q6_K, false, false, PHX_SILU, 8, 0.22f, 0, false, 60},
    {37, 1024, 1000, PHX_Q5_0, true, false, PHX_SILU, 0, 0, 0, false, 0},
    {33, 416, 24, PHX_Q8_0, false, true, PHX_GELU_TANH, 0, 0, 0, false, 0},
    {1, 4096, 8192, PHX_Q4_K, false, false, PHX_SILU, 0, 0, 0, true, 0},
    {512, 4096, 3072, PHX_Q4_K, false, false, PHX_SILU, 0, 0, 0, true, 0},
};

static enum phx_status launch_linear(struct phx_stream *stream, const void *args)
{
    return phx_op_linear(stream, args);
}

static enum phx_status launch_gate_up(struct phx_stream *stream, const void *args)
{
    return phx_op_gate_up(stream, args);
}

static void product_describe(const struct product_case *c, int64_t rows, const char *what,
                             const struct phx_device_info *info, struct op_case *out)
{
    char cut[40] = "";
    if (c->lead > 0) snprintf(cut, sizeof cut, ", lead %d", c->lead);
    snprintf(out->name, sizeof out->name, "%d x %d -> %d, %s%s%s%s", c->n, c->in, c->out,
             phx_dtype_traits(c->dtype)->name, cut, c->bias ? ", bias" : "", what);
    out->tolerance = op_tolerance(info->activation);
    out->bytes = value_bytes(c->dtype) * (double)(rows * c->in) +
                 (double)act_bytes(info) * c->n * ((double)c->in + c->out);
    out->flops = 2.0 * c->n * c->in * (double)rows;
    out->large = c->large;
}

static void linear_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct product_case *c = &product_cases[index];
    char what[64];
    snprintf(what, sizeof what, "%s%s%s", c->f32_out ? ", f32 out" : "",
             c->scale != 0 ? ", scaled" : "", c->cap != 0 ? ", capped" : "");
    product_describe(c, c->out, what, info, out);
}

static double *product_weight(struct op_run *run, const struct product_case *c, int64_t rows,
                              double deviation)
{
    const struct phx_weight_shape shape = {
        .dtype = c->dtype, .rows = rows, .cols = c->in, .lead = c->lead};
    if (c->lead == 0) return op_weight(run, c->dtype, rows, c->in, deviation);
    return op_weight_of_blocks(run, &shape, deviation);
}

static void linear_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct product_case *c = &product_cases[index];
    const enum phx_dtype act = run->info.activation;
    struct operand *x = op_random(run, act, c->n, c->in, c->gap, 0.1, 1);
    double *weight = product_weight(run, c, c->out, 0.5);
    struct operand *bias = c->bias ? op_random(run, PHX_F32, 1, c->out, 0, 0, 4) : NULL;
    struct operand *out = op_output(run, c->f32_out ? PHX_F32 : act, c->n, c->out, c->gap);
    double *expected = op_alloc((int64_t)c->n * c->out, sizeof *expected);
    ref_linear(c->n, c->in, c->out, x->values, weight, bias != NULL ? bias->values : NULL,
               expected);
    for (int64_t i = 0; i < (int64_t)c->n * c->out; i++) {
        if (c->scale != 0) expected[i] *= (double)c->scale;
        if (c->cap != 0) expected[i] = (double)c->cap * tanh(expected[i] / (double)c->cap);
    }
    struct phx_linear args = {.x = x->view,
                              .weight = run->weight,
                              .out = out->view,
                              .scale = c->scale,
                              .soft_cap = c->cap};
    if (bias != NULL) args.bias = bias->view;
    op_launch_once(run, launch_linear, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "x", x);
    op_launch_timed(run, launch_linear, &args, n_timed);
    free(weight);
    free(expected);
}

const struct op_table op_table_linear = {"linear", COUNT(product_cases), linear_describe,
                                         linear_run};

static void gate_up_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct product_case *c = &product_cases[index];
    product_describe(c, 2 * (int64_t)c->out, c->activation == PHX_SILU ? ", silu" : ", gelu", info,
                     out);
}

static void gate_up_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct product_case *c = &product_cases[index];
    const enum phx_dtype act = run->info.activation;
    struct operand *x = op_random(run, act, c->n, c->in, c->gap, 0, 1);
    double *weight = product_weight(run, c, 2 * (int64_t)c->out, 0.1);
    struct operand *bias =
        c->bias ? op_random(run, PHX_F32, 1, 2 * (int64_t)c->out, 0, 0, 1) : NULL;
    struct operand *out = op_output(run, act, c->n, c->out, c->gap);
    double *expected = op_alloc((int64_t)c->n * c->out, sizeof *expected);
    ref_gate_up(c->n, c->in, c->out, x->values, weight, bias != NULL ? bias->values : NULL,
                c->activation, expected);
    struct phx_gate_up args = {
        .x = x->view, .weight = run->weight, .activation = c->activation, .out = out->view};
    if (bias != NULL) args.bias = bias->view;
    op_launch_once(run, launch_gate_up, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "x", x);
    op_launch_timed(run, launch_gate_up, &args, n_timed);
    free(weight);
    free(expected);
}

const struct op_table op_table_gate_up = {"gate_up", COUNT(product_cases), gate_up_describe,
                                          gate_up_run};

/* ---- gather_rows ---- */

static const struct gather_case {
    int32_t n, m, cols;
    enum phx_dtype dtype;
    int64_t gap;
} gather_cases[] = {
    {1, 1, 7, PHX_F32, 0},    {17, 3, 97, PHX_F32, 5}, {40, 130, 24, PHX_BF16, 8},
    {130, 2, 33, PHX_I32, 0}, {3, 17, 65, PHX_U8, 5},
};

static enum phx_status launch_gather_rows(struct phx_stream *stream, const void *args)
{
    return phx_op_gather_rows(stream, args);
}

static void gather_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct gather_case *c = &gather_cases[index];
    (void)info;
    snprintf(out->name, sizeof out->name, "%d of %d x %d, %s", c->m, c->n, c->cols,
             phx_dtype_traits(c->dtype)->name);
    out->bytes = 2.0 * (double)phx_dtype_bytes(c->dtype, (int64_t)c->m * c->cols);
}

static void gather_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct gather_case *c = &gather_cases[index];
    struct operand *x = op_random(run, c->dtype, c->n, c->cols, c->gap, 100, 20);
    struct operand *out = op_output(run, c->dtype, c->m, c->cols, c->gap);
    int32_t *rows = op_alloc(c->m, sizeof *rows);
    double *expected = op_alloc((int64_t)c->m * c->cols, sizeof *expected);
    for (int32_t m = 0; m < c->m; m++) {
        rows[m] = (int32_t)op_below(run, c->n);
        for (int32_t i = 0; i < c->cols; i++)
            expected[(int64_t)m * c->cols + i] = x->values[(int64_t)rows[m] * c->cols + i];
    }
    struct phx_gather_rows args = {
        .x = x->view, .rows = op_ints(run, c->m, 1, rows)->view, .out = out->view};
    op_launch_once(run, launch_gather_rows, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "x", x);
    op_launch_timed(run, launch_gather_rows, &args, n_timed);
    free(rows);
    free(expected);
}

const struct op_table op_table_gather_rows = {"gather_rows", COUNT(gather_cases), gather_describe,
                                              gather_run};
