/* Cases of the ops of mixtures of experts: route, experts_gate_up, experts_down. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/reference_ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static enum phx_status launch_route(struct phx_stream *stream, const void *args)
{
    return phx_op_route(stream, args);
}

/* Lists of N rows for L of X experts. */
static struct phx_routing make_routing(struct op_run *run, int32_t n, int32_t k, int32_t n_experts,
                                       int32_t first, int32_t n_local, struct operand **ids,
                                       struct operand **weights)
{
    *ids = op_output(run, PHX_I32, n, k, 0);
    *weights = op_output(run, PHX_F32, n, k, 0);
    const int64_t notes = n_local + 1 + (int64_t)n * k;
    return (struct phx_routing){.n_experts = n_experts,
                                .first_local = first,
                                .n_local = n_local,
                                .ids = (*ids)->view,
                                .weights = (*weights)->view,
                                .groups = op_output(run, PHX_I32, 1, notes, 0)->view};
}

/* ---- route ---- */

static const struct route_case {
    int32_t n, n_experts, k;
    bool normalize;
    enum { SPREAD, TIES, NANS } kind;
    int64_t gap;
} route_cases[] = {
    {1, 4, 2, true, SPREAD, 0},    {3, 8, 8, true, SPREAD, 1},   {17, 60, 4, false, SPREAD, 1},
    {2, 128, 8, true, SPREAD, 0},  {130, 128, 8, true, TIES, 3}, {40, 33, 5, false, TIES, 0},
    {1, 1, 1, false, SPREAD, 0},   {9, 4, 2, true, NANS, 0},     {512, 64, 6, true, SPREAD, 0},
    {5, 1000, 32, true, TIES, 24},
};

static void route_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    static const char *const kinds[] = {"", ", equals", ", NaNs"};
    const struct route_case *c = &route_cases[index];
    (void)info;
    snprintf(out->name, sizeof out->name, "%d x %d of %d%s%s", c->n, c->k, c->n_experts,
             c->normalize ? ", normalised" : "", kinds[c->kind]);
    out->tolerance = 2e-6;
    out->bytes = 4.0 * c->n * (c->n_experts + 2 * c->k);
    out->flops = 3.0 * c->n * c->n_experts;
}

static void route_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct route_case *c = &route_cases[index];
    const int64_t n_logits = (int64_t)c->n * c->n_experts, n_pairs = (int64_t)c->n * c->k;
    double *logits = op_alloc(n_logits, sizeof *logits);
    double *expected = op_alloc(2 * n_pairs, sizeof *expected);
    for (int64_t i = 0; i < n_logits; i++) {
        logits[i] = 3 * op_normal(run);
        if (c->kind == TIES) logits[i] = (double)op_below(run, 5) - 2;
        if (c->kind == NANS && i % 3 == 1) logits[i] = NAN;
    }
    struct operand *x = op_values(run, PHX_F32, c->n, c->n_experts, c->gap, logits), *ids, *weights;
    struct phx_route args = {
        .logits = x->view,
        .normalize = c->normalize,
        .routing = make_routing(run, c->n, c->k, c->n_experts, 0, c->n_experts, &ids, &weights)};
    ref_route(c->n, c->n_experts, c->k, x->values, c->normalize, expected, expected + n_pairs);
    op_launch_once(run, launch_route, &args);
    op_compare(run, "ids", ids, expected, 0);
    op_compare(run, "weights", weights, expected + n_pairs, tolerance);
    op_unchanged(run, "logits", x);
    op_launch_timed(run, launch_route, &args, n_timed);
    free(logits);
    free(expected);
}

const struct op_table op_table_route = {"route", COUNT(route_cases), route_describe, route_run};

/* ---- products ---- */

static const struct experts_case {
    int32_t n, in, out; /* out: F of gate_up, E of down */
    int32_t n_experts, k, first, n_local;
    enum phx_dtype dtype;
    enum { ANY, SAME, FEW } choice; /* SAME: every row the same; FEW: some experts have no row */
    bool add;
    int64_t gap;
    bool large;
} experts_cases[] = {
    {1, 64, 48, 4, 2, 0, 4, PHX_BF16, ANY, false, 0, false},
    {1, 97, 33, 8, 3, 0, 8, PHX_F32, ANY, true, 0, false},
    {2, 33, 21, 6, 2, 1, 3, PHX_F16, ANY, true, 5, false},
    {3, 288, 40, 5, 5, 0, 5, PHX_BF16, ANY, false, 8, false},
    {7, 72, 24, 8, 2, 5, 3, PHX_BF16, SAME, true, 0, false},
    {8, 130, 17, 60, 4, 0, 60, PHX_F32, ANY, false, 0, false},
    {17, 257, 65, 8, 2, 0, 8, PHX_F32, FEW, true, 5, false},
    {40, 96, 100, 4, 2, 0, 4, PHX_BF16, SAME, false, 0, false},
    {97, 333, 30, 128, 8, 40, 77, PHX_F16, ANY, false, 8, false},
    {130, 64, 257, 7, 3, 2, 1, PHX_BF16, ANY, true, 8, false},
    {300, 71, 90, 3, 1, 0, 3, PHX_BF16, FEW, false, 3, false},
    {512, 48, 64, 8, 2, 0, 8, PHX_F16, SAME, true, 0, false},
    {2, 256, 48, 6, 2, 1, 3, PHX_Q4_K, ANY, true, 5, false},
    {8, 96, 40, 5, 3, 0, 5, PHX_Q8_0, ANY, false, 0, false},
    {17, 160, 65, 8, 2, 0, 8, PHX_Q5_1, FEW, true, 5, false},
    {40, 512, 100, 4, 2, 0, 4, PHX_Q6_K, SAME, false, 0, false},
    {20, 1024, 1000, 3, 2, 0, 3, PHX_Q4_0, ANY, false, 0, false}, /* more than scratch at once */
    {1, 2048, 768, 128, 8, 0, 128, PHX_BF16, ANY, false, 0, true},
    {8, 2048, 768, 128, 8, 0, 128, PHX_BF16, ANY, false, 0, true},
    {512, 2048, 768, 128, 8, 0, 128, PHX_BF16, ANY, false, 0, true},
};

struct experts_args {
    struct phx_route route;
    struct phx_experts_gate_up gate_up;
    struct phx_experts_down down;
};

/* With the routing, which a product cannot do without. */
static enum phx_status launch_experts_gate_up(struct phx_stream *stream, const void *args)
{
    const struct experts_args *a = args;
    PHX_TRY(phx_op_route(stream, &a->route));
    return phx_op_experts_gate_up(stream, &a->gate_up);
}

static enum phx_status launch_experts_down(struct phx_stream *stream, const void *args)
{
    const struct experts_args *a = args;
    PHX_TRY(phx_op_route(stream, &a->route));
    return phx_op_experts_down(stream, &a->down);
}

static void experts_describe(const struct experts_case *c, int64_t rows, bool down,
                             const struct phx_device_info *info, struct op_case *out)
{
    static const char *const choices[] = {"", ", all the same", ", few"};
    const struct phx_dtype_traits *traits = phx_dtype_traits(c->dtype);
    const double pairs = (double)c->n * c->k * c->n_local / c->n_experts;
    const double read = pairs < c->n_local ? pairs : c->n_local; /* experts */
    snprintf(out->name, sizeof out->name, "%d x %d -> %d, %d of %d (%d), %s%s%s", c->n, c->in,
             c->out, c->k, c->n_experts, c->n_local, phx_dtype_traits(c->dtype)->name,
             choices[c->choice], down && c->add ? ", add" : "");
    out->tolerance = op_tolerance(info->activation);
    out->bytes = read * (double)(rows * c->in) * traits->block_bytes / traits->block_elements +
                 (double)phx_dtype_bytes(info->activation, 1) * c->n * (c->in + c->k * c->out);
    out->flops = 2.0 * pairs * c->in * (double)rows;
    out->large = c->large;
}

/* Routes by random logits. `ids` and `weights` are what must come of them, [N k] each. */
static void make_route(struct op_run *run, const struct experts_case *c, struct phx_route *route,
                       double *ids, double *weights)
{
    double *logits = op_alloc((int64_t)c->n * c->n_experts, sizeof *logits);
    struct operand *unused[2];
    for (int64_t i = 0; i < (int64_t)c->n * c->n_experts; i++) {
        const int64_t e = i % c->n_experts;
        logits[i] = op_normal(run);
        if (c->choice == SAME && i >= c->n_experts) logits[i] = logits[e];
        if (c->choice == FEW && e % 2 == 1) logits[i] -= 20;
    }
    struct operand *x = op_values(run, PHX_F32, c->n, c->n_experts, 1, logits);
    *route = (struct phx_route){.logits = x->view,
                                .normalize = c->k > 2,
                                .routing = make_routing(run, c->n, c->k, c->n_experts, c->first,
                                                        c->n_local, &unused[0], &unused[1])};
    ref_route(c->n, c->n_experts, c->k, x->values, route->normalize, ids, weights);
    free(logits);
}

/* The expert of this rank that a pair goes to, or -1. */
static int32_t local_expert(const struct experts_case *c, const double *ids, int64_t pair)
{
    const int32_t e = (int32_t)ids[pair] - c->first;
    return e >= 0 && e < c->n_local ? e : -1;
}

static void gate_up_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct experts_case *c = &experts_cases[index];
    experts_describe(c, 2 * (int64_t)c->out, false, info, out);
}

static void gate_up_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct experts_case *c = &experts_cases[index];
    const enum phx_dtype act = run->info.activation;
    const enum phx_activation activation = index % 3 == 1 ? PHX_GELU_TANH : PHX_SILU;
    const int64_t pairs = (int64_t)c->n * c->k, rows = 2 * (int64_t)c->out;
    struct operand *x = op_random(run, act, c->n, c->in, c->gap, 0, 1);
    double *weight = op_weight(run, c->dtype, c->n_local * rows, c->in, 0.1);
    double *ids = op_alloc(2 * pairs, sizeof *ids);
    double *expected = op_alloc(pairs * c->out, sizeof *expected);
    struct experts_args args;
    make_route(run, c, &args.route, ids, ids + pairs);
    for (int64_t p = 0; p < pairs; p++) {
        const int32_t e = local_expert(c, ids, p);
        for (int64_t i = 0; i < c->out && e < 0; i++) expected[p * c->out + i] = NAN;
        if (e >= 0)
            ref_gate_up(1, c->in, c->out, x->values + p / c->k * c->in, weight + e * rows * c->in,
                        NULL, activation, expected + p * c->out);
    }
    struct operand *out = op_output(run, act, pairs, c->out, c->gap);
    args.gate_up = (struct phx_experts_gate_up){.x = x->view,
                                                .routing = args.route.routing,
                                                .weight = run->weight,
                                                .activation = activation,
                                                .out = out->view};
    op_launch_once(run, launch_experts_gate_up, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "x", x);
    op_launch_timed(run, launch_experts_gate_up, &args, n_timed);
    free(weight);
    free(ids);
    free(expected);
}

const struct op_table op_table_experts_gate_up = {"experts_gate_up", COUNT(experts_cases),
                                                  gate_up_describe, gate_up_run};

static void down_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct experts_case *c = &experts_cases[index];
    experts_describe(c, c->out, true, info, out);
}

static void expect_down(const struct experts_case *c, const double *x, const double *weight,
                        const double *ids, const double *weights, const double *add,
                        const double *gate, double *expected)
{
    double *part = op_alloc(c->out, sizeof *part);
    for (int64_t p = 0; p < (int64_t)c->n * c->k; p++) {
        const int32_t e = local_expert(c, ids, p);
        double *row = expected + p / c->k * c->out;
        if (e < 0) continue;
        ref_linear(1, c->in, c->out, x + p * c->in, weight + (int64_t)e * c->out * c->in, NULL,
                   part);
        for (int64_t i = 0; i < c->out; i++) row[i] += weights[p] * part[i];
    }
    for (int64_t n = 0; n < c->n && c->add; n++)
        for (int64_t i = 0; i < c->out; i++)
            expected[n * c->out + i] += add[n * c->out + i] / (1 + exp(-gate[n]));
    free(part);
}

static void down_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct experts_case *c = &experts_cases[index];
    const enum phx_dtype act = run->info.activation;
    const int64_t pairs = (int64_t)c->n * c->k;
    struct operand *x = op_random(run, act, pairs, c->in, c->gap, 0.1, 1);
    struct operand *add = op_random(run, act, c->n, c->out, c->gap, 0, 2);
    struct operand *gate = op_random(run, PHX_F32, c->n, 1, 3, 0, 1.5);
    double *weight = op_weight(run, c->dtype, c->n_local * (int64_t)c->out, c->in, 0.5);
    double *ids = op_alloc(2 * pairs, sizeof *ids);
    double *expected = op_alloc((int64_t)c->n * c->out, sizeof *expected);
    struct experts_args args;
    make_route(run, c, &args.route, ids, ids + pairs);
    expect_down(c, x->values, weight, ids, ids + pairs, add->values, gate->values, expected);
    struct operand *out = op_output(run, act, c->n, c->out, c->gap);
    args.down = (struct phx_experts_down){.x = x->view,
                                          .routing = args.route.routing,
                                          .weight = run->weight,
                                          .parts = op_output(run, act, pairs, c->out, c->gap)->view,
                                          .out = out->view};
    if (c->add) {
        args.down.add = add->view;
        args.down.add_gate = gate->view;
    }
    op_launch_once(run, launch_experts_down, &args);
    op_compare(run, "out", out, expected, tolerance);
    op_unchanged(run, "x", x);
    op_unchanged(run, "add", add);
    op_launch_timed(run, launch_experts_down, &args, n_timed);
    free(weight);
    free(ids);
    free(expected);
}

const struct op_table op_table_experts_down = {"experts_down", COUNT(experts_cases), down_describe,
                                               down_run};
