/// \file comm_nccl_parts.cuh
/// The values in a line of comm_nccl_fused.cu, and sums over a block.
#ifndef PHX_PARALLEL_COMM_NCCL_PARTS_CUH
#define PHX_PARALLEL_COMM_NCCL_PARTS_CUH

#include <stdint.h>

#include "kernels/cuda/elements.cuh"
#include "parallel/comm_nccl_lines.h"

/// The data of a line.
template <typename T> struct alignas(PHX_LINE_DATA_BYTES) part {
    static constexpr int N = PHX_LINE_DATA_BYTES / sizeof(T);
    T values[N];
};

/// Up to a part's values: `n` of them, then zeros. Those that are `whole`, in aligned memory, are
/// read at once.
template <typename T> __device__ inline uint2 load_part(const T *x, int64_t n, bool whole)
{
    if (whole) return *(const uint2 *)x;
    part<T> p;
    uint2 bits;
#pragma unroll
    for (int v = 0; v < part<T>::N; v++) p.values[v] = v < n ? x[v] : from_f32<T>(0);
    memcpy(&bits, &p, sizeof bits);
    return bits;
}

template <typename T>
__device__ inline void store_part(T *x, int64_t n, bool whole, const float (&values)[part<T>::N])
{
    part<T> p;
#pragma unroll
    for (int v = 0; v < part<T>::N; v++) p.values[v] = from_f32<T>(values[v]);
    if (whole) {
        *(part<T> *)x = p;
        return;
    }
#pragma unroll
    for (int v = 0; v < part<T>::N; v++)
        if (v < n) x[v] = p.values[v];
}

template <int N> struct alignas(N * sizeof(float)) floats {
    float values[N];
};

template <int N>
__device__ inline void load_floats(float (&to)[N], const float *x, int64_t n, bool whole)
{
    floats<N> f;
    if (whole) f = *(const floats<N> *)x;
#pragma unroll
    for (int v = 0; v < N; v++) to[v] = whole ? f.values[v] : v < n ? x[v] : 0;
}

template <int N>
__device__ inline void store_floats(float *x, int64_t n, bool whole, const float (&from)[N])
{
    floats<N> f;
#pragma unroll
    for (int v = 0; v < N; v++) f.values[v] = from[v];
    if (whole) {
        *(floats<N> *)x = f;
        return;
    }
#pragma unroll
    for (int v = 0; v < N; v++)
        if (v < n) x[v] = f.values[v];
}

/// All threads of the block call it, whole warps; every one gets the sum, added in an order that is
/// always the same. `shared` holds 32 values.
__device__ inline float block_sum(float x, float *shared)
{
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    __syncthreads(); /* who still reads the last sum */
    if (lane == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = lane < n_warps ? shared[lane] : 0;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    return x;
}

#endif
