/// \file experts.cuh
/// What the kernels of mixtures of experts share.
#ifndef PHX_KERNELS_CUDA_EXPERTS_CUH
#define PHX_KERNELS_CUDA_EXPERTS_CUH

#include "kernels/cuda/experts.h"
#include "kernels/cuda/types.cuh"

/// The expert of a pair among this rank's; negative or from n_local on: another rank's.
__device__ inline int32_t local_expert(const struct phx_cuda_experts &e, int64_t pair)
{
    return e.ids[pair] - e.first;
}

__device__ inline bool is_local(const struct phx_cuda_experts &e, int32_t expert)
{
    return expert >= 0 && expert < e.n_local;
}

/// One element of a sum over a row's pairs to its place.
template <typename T>
__device__ inline void finish_sum(const struct phx_cuda_expert_sums &s, int64_t row, int64_t col,
                                  float sum)
{
    if (s.add != NULL) {
        const float gate = 1 / (1 + expf(-s.add_gate[row * s.gate_stride]));
        sum = fmaf(gate, to_f32(((const T *)s.add)[row * s.add_stride + col]), sum);
    }
    ((T *)s.out)[row * s.out_stride + col] = from_f32<T>(sum);
}

#endif
