#include "parallel/host_sum.h"

#include <string.h>

#include "kernels/base/check.h"

/* Elements summed at a time, so that the sum stays in the first-level cache. */
enum { BLOCK = 512 };

static void load(enum phx_dtype dtype, const char *from, int64_t n, float *sum)
{
    const uint16_t *halves = (const uint16_t *)(const void *)from;
    if (dtype == PHX_F32)
        memcpy(sum, from, (size_t)n * sizeof *sum);
    else if (dtype == PHX_BF16)
        for (int64_t i = 0; i < n; i++) sum[i] = phx_f32_from_bf16(halves[i]);
    else
        for (int64_t i = 0; i < n; i++) sum[i] = phx_f32_from_f16(halves[i]);
}

static void add(enum phx_dtype dtype, const char *from, int64_t n, float *sum)
{
    const uint16_t *halves = (const uint16_t *)(const void *)from;
    const float *floats = (const float *)(const void *)from;
    if (dtype == PHX_F32)
        for (int64_t i = 0; i < n; i++) sum[i] += floats[i];
    else if (dtype == PHX_BF16)
        for (int64_t i = 0; i < n; i++) sum[i] += phx_f32_from_bf16(halves[i]);
    else
        for (int64_t i = 0; i < n; i++) sum[i] += phx_f32_from_f16(halves[i]);
}

static void store(enum phx_dtype dtype, const float *sum, int64_t n, char *to)
{
    uint16_t *halves = (uint16_t *)(void *)to;
    if (dtype == PHX_F32)
        memcpy(to, sum, (size_t)n * sizeof *sum);
    else if (dtype == PHX_BF16)
        for (int64_t i = 0; i < n; i++) halves[i] = phx_bf16_from_f32(sum[i]);
    else
        for (int64_t i = 0; i < n; i++) halves[i] = phx_f16_from_f32(sum[i]);
}

static void sum_block(const struct phx_host_parts *parts, size_t offset_bytes, int64_t n,
                      float *sum)
{
    load(parts->dtype, parts->data[0] + offset_bytes, n, sum);
    for (int r = 1; r < parts->n; r++) add(parts->dtype, parts->data[r] + offset_bytes, n, sum);
}

static int64_t block_end(int64_t begin, int64_t end)
{
    return end - begin < BLOCK ? end : begin + BLOCK;
}

void phx_host_sum(const struct phx_host_parts *parts, int64_t begin, int64_t n, char *to)
{
    float sum[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t length = block_end(i, n) - i;
        sum_block(parts, phx_dtype_bytes(parts->dtype, begin + i), length, sum);
        store(parts->dtype, sum, length, to + phx_dtype_bytes(parts->dtype, i));
    }
}

void phx_host_sum_everywhere(const struct phx_host_parts *parts, int64_t begin, int64_t n)
{
    float sum[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t length = block_end(i, n) - i;
        size_t offset_bytes = phx_dtype_bytes(parts->dtype, begin + i);
        sum_block(parts, offset_bytes, length, sum);
        for (int r = 0; r < parts->n; r++)
            store(parts->dtype, sum, length, parts->data[r] + offset_bytes);
    }
}

void phx_host_sum_residual(const struct phx_host_parts *parts, int64_t begin, int64_t n,
                           float *residual, bool start)
{
    PHX_ASSERT(parts->dtype == PHX_F32);
    float sum[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t length = block_end(i, n) - i;
        sum_block(parts, phx_dtype_bytes(parts->dtype, begin + i), length, sum);
        if (start)
            memcpy(residual + i, sum, (size_t)length * sizeof *sum);
        else
            for (int64_t k = 0; k < length; k++) residual[i + k] += sum[k];
    }
}
