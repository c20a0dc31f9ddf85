/* Step 1 of the sampling rule: what was seen, and how that moves the logits. */
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"

enum { IN_PROMPT = 1 << 15, HAS_BIAS = 1 << 14, TIMES = HAS_BIAS - 1 };

static uint16_t counted(uint16_t count, enum phx_count_kind kind)
{
    switch (kind) {
    case PHX_COUNT_PROMPT:
        return (uint16_t)(count | IN_PROMPT);
    case PHX_COUNT_BIAS:
        return (uint16_t)(count | HAS_BIAS);
    case PHX_COUNT_OUTPUT:
        break;
    }
    return (count & TIMES) < TIMES ? (uint16_t)(count + 1) : count;
}

/* A token may come twice: on one thread. */
enum phx_status phx_cpu_count_tokens(struct phx_stream *stream, const struct phx_count_tokens *args)
{
    (void)stream;
    const struct phx_tensor counts = args->counts;
    for (int64_t n = 0; n < args->ids.rows; n++) {
        const int64_t slot = phx_i32_at(args->slots, n, 0);
        if (slot < 0) continue;
        PHX_ASSERT(slot < counts.rows);
        const int64_t col = (int64_t)phx_token_at(args->ids, args->last_ids, n) - args->vocab_begin;
        if (col < 0 || col >= counts.cols) continue;
        uint16_t *count = (uint16_t *)phx_tensor_address(counts) + slot * counts.stride + col;
        *count = counted(*count, args->kind);
    }
    return PHX_OK;
}

static bool has_penalties(const struct phx_sampling *p)
{
    return p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static void penalise(const struct phx_sampling *p, const uint16_t *counts, float *z, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint16_t times = counts[i] & TIMES;
        if (times != 0 || (counts[i] & IN_PROMPT) != 0)
            z[i] = z[i] > 0 ? z[i] / p->repeat_penalty : z[i] * p->repeat_penalty;
        if (times != 0) z[i] -= p->presence_penalty + p->frequency_penalty * (float)times;
    }
}

static void adjust_row(const struct phx_adjust_logits *args, int64_t m)
{
    const int64_t n = args->logits.cols, slot = phx_i32_at(args->slots, m, 0);
    const float *logits = phx_f32_row(args->logits, m);
    float *z = phx_f32_row(args->adjusted, m);
    if (z != logits) memcpy(z, logits, sizeof *z * (size_t)n);
    if (slot < 0) return;

    const struct phx_sampling_table *table = &args->table;
    const struct phx_sampling *p = phx_sampling_at(table->params, slot);
    const struct phx_tensor counts = table->counts;
    if (has_penalties(p))
        penalise(p, (const uint16_t *)phx_tensor_address(counts) + slot * counts.stride, z, n);
    PHX_ASSERT(p->n_bias >= 0 && p->n_bias <= PHX_MAX_BIAS);
    for (int32_t i = 0; i < p->n_bias; i++) {
        const int64_t col = (int64_t)phx_i32_at(table->bias_ids, slot, i) - args->vocab_begin;
        if (col >= 0 && col < n) z[col] += phx_f32_row(table->bias_values, slot)[i];
    }
}

static void adjust_rows(void *user, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t m = begin; m < end; m++) adjust_row(user, m);
}

enum phx_status phx_cpu_adjust_logits(struct phx_stream *stream,
                                      const struct phx_adjust_logits *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->logits.rows, 1, adjust_rows, (void *)args);
    return PHX_OK;
}
