/// \file rms.h
/// The sum under the root of an RMS norm. Only kernels/cpu includes this.
#ifndef PHX_KERNELS_CPU_RMS_H
#define PHX_KERNELS_CPU_RMS_H

#include <math.h>
#include <stdint.h>

/// sum(x^2). Sixteen sums side by side, so that the compiler can use vectors; added pairwise.
static inline float phx_sum_squares(const float *x, int64_t n)
{
    float sums[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int lane = 0; lane < 16; lane++) sums[lane] += x[i + lane] * x[i + lane];
    for (int lane = 0; i < n; i++, lane++) sums[lane] += x[i] * x[i];
    for (int half = 8; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    return sums[0];
}

/// 1 / sqrt(mean(x^2) + epsilon).
static inline float phx_rms_scale(const float *x, int64_t n, float epsilon)
{
    return 1 / sqrtf(phx_sum_squares(x, n) / (float)n + epsilon);
}

#endif
