/// \file sample.cuh
/// What the sampling kernels share: a row's parameters, its tokens and their statistics.
#ifndef PHX_KERNELS_CUDA_SAMPLE_CUH
#define PHX_KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/select.cuh"

/// Values of a row of adjusted logits.
struct row_tokens {
    const float *adjusted;
    float temperature;
    int32_t n;

    __device__ bool value_at(int32_t i, float *value) const
    {
        *value = sample_value(adjusted[i], temperature);
        return true;
    }
};

__device__ inline const struct phx_sampling *params_of(const char *params, int64_t stride,
                                                       int32_t slot)
{
    return (const struct phx_sampling *)(params + slot * stride);
}

/// The largest logit and the sum of exponentials; all threads of a team call it.
__device__ inline struct phx_candidate statistics(const float *logits, int32_t n,
                                                  select_shared &shared)
{
    struct phx_candidate stats = {};
    float max = -CUDART_INF_F, sum = 0;
#pragma unroll 4
    for (int32_t i = team_thread(); i < n; i += team_threads()) max = fmaxf(max, logits[i]);
    max = team_reduce(max, max_op(), shared);
#pragma unroll 4
    for (int32_t i = team_thread(); i < n; i += team_threads()) sum += expf(logits[i] - max);
    stats.value = max;
    stats.raw = team_reduce(sum, add_op(), shared);
    stats.id = -1;
    return stats;
}

#endif
