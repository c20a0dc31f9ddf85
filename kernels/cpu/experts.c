/* Mixtures of experts around their products, which linear.c computes. */
#include "kernels/cpu/experts.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"

static bool is_chosen(const int32_t *ids, int64_t n, int32_t e)
{
    for (int64_t j = 0; j < n; j++)
        if (ids[j] == e) return true;
    return false;
}

/* The best of those that ids[0..n) has not; there is one. */
static int32_t best_other(const float *logits, int32_t n_experts, const int32_t *ids, int64_t n)
{
    int32_t best = -1;
    float most = -INFINITY;
    for (int32_t e = 0; e < n_experts; e++) {
        if (is_chosen(ids, n, e)) continue;
        if (best >= 0 && !(logits[e] > most)) continue;
        best = e;
        most = isnan(logits[e]) ? -INFINITY : logits[e];
    }
    return best;
}

static void route_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_route *args = user;
    const struct phx_routing *r = &args->routing;
    const int64_t k = r->ids.cols;
    (void)thread;
    for (int64_t n = begin; n < end; n++) {
        const float *logits = phx_f32_row(args->logits, n);
        float *weights = phx_f32_row(r->weights, n), sum = 0, chosen = 0;
        int32_t *ids = phx_i32_entry(r->ids, n);
        for (int64_t j = 0; j < k; j++) ids[j] = best_other(logits, r->n_experts, ids, j);
        for (int32_t e = 0; e < r->n_experts; e++) sum += expf(logits[e] - logits[ids[0]]);
        for (int64_t j = 0; j < k; j++) {
            weights[j] = expf(logits[ids[j]] - logits[ids[0]]) / sum;
            chosen += weights[j];
        }
        for (int64_t j = 0; j < k && args->normalize; j++) weights[j] /= chosen;
    }
}

/* Pairs by expert: count, add up, place. */
static void group_pairs(const struct phx_routing *r)
{
    int32_t *starts = phx_cpu_expert_starts(r), *pairs = phx_cpu_expert_pairs(r);
    const int32_t *ids = phx_tensor_address(r->ids);
    const int64_t n_pairs = r->ids.rows * r->ids.cols;
    memset(starts, 0, ((size_t)r->n_local + 1) * sizeof *starts);
    for (int64_t p = 0; p < n_pairs; p++) {
        const int32_t e = ids[p] - r->first_local;
        if (e >= 0 && e < r->n_local) starts[e + 1]++;
    }
    for (int32_t e = 0; e < r->n_local; e++) starts[e + 1] += starts[e];
    for (int64_t p = 0; p < n_pairs; p++) {
        const int32_t e = ids[p] - r->first_local;
        if (e >= 0 && e < r->n_local) pairs[starts[e]++] = (int32_t)p;
    }
    memmove(starts + 1, starts, (size_t)r->n_local * sizeof *starts); /* ends became starts */
    starts[0] = 0;
}

enum phx_status phx_cpu_route(struct phx_stream *stream, const struct phx_route *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->logits.rows, 8, route_rows, (void *)args);
    group_pairs(&args->routing);
    return PHX_OK;
}

static void sum_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_experts_down *args = user;
    const struct phx_routing *r = &args->routing;
    const int64_t k = r->ids.cols, cols = args->out.cols;
    (void)thread;
    for (int64_t n = begin; n < end; n++) {
        const int32_t *ids = phx_i32_entry(r->ids, n);
        const float *weights = phx_f32_row(r->weights, n), *add = phx_f32_row(args->add, n);
        float *out = phx_f32_row(args->out, n);
        memset(out, 0, (size_t)cols * sizeof *out);
        for (int64_t j = 0; j < k; j++) {
            const float *part = phx_f32_row(args->parts, n * k + j);
            if (ids[j] < r->first_local || ids[j] >= r->first_local + r->n_local) continue;
            for (int64_t i = 0; i < cols; i++) out[i] += weights[j] * part[i];
        }
        if (add == NULL) continue;
        const float gate = 1 / (1 + expf(-*phx_f32_row(args->add_gate, n)));
        for (int64_t i = 0; i < cols; i++) out[i] += gate * add[i];
    }
}

void phx_cpu_experts_sum(struct phx_stream *stream, const struct phx_experts_down *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->out.rows, 4, sum_rows, (void *)args);
}
