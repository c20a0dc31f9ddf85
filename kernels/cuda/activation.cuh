/// \file activation.cuh
/// What follows a product: the activations of phx_gate_up, scale and cap of phx_linear.
#ifndef PHX_KERNELS_CUDA_ACTIVATION_CUH
#define PHX_KERNELS_CUDA_ACTIVATION_CUH

#include "kernels/ops.h"

__device__ inline float activate(enum phx_activation activation, float z)
{
    if (activation == PHX_SILU) return z / (1 + expf(-z));
    return 0.5f * z * (1 + tanhf(0.7978845608f * (z + 0.044715f * z * z * z)));
}

/// 0: none.
__device__ inline float scaled_and_capped(float z, float scale, float cap)
{
    if (scale != 0) z *= scale;
    return cap != 0 ? cap * tanhf(z / cap) : z;
}

#endif
