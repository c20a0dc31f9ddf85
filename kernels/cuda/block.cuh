/// \file block.cuh
/// Sums and maxima over a warp and over a block, in an order that is always the same.
#ifndef PHX_KERNELS_CUDA_BLOCK_CUH
#define PHX_KERNELS_CUDA_BLOCK_CUH

#include <stdint.h>

struct add_op {
    template <typename T> __device__ T operator()(T a, T b) const
    {
        return a + b;
    }
};

struct max_op {
    template <typename T> __device__ T operator()(T a, T b) const
    {
        return a > b ? a : b;
    }
    __device__ float operator()(float a, float b) const /* NaNs are passed over */
    {
        return fmaxf(a, b);
    }
};

/// Every lane gets the result.
template <typename T, typename Op> __device__ inline T warp_reduce(T x, Op op)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(~0u, x, offset));
    return x;
}

/// Every x[i]; every thread gets the results. All threads of the block call it; 1, 2, 4, ... 32
/// whole warps.
template <typename T, int N, typename Op>
__device__ inline void block_reduce_all(T (&x)[N], Op op, T (*shared)[32])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = warp_reduce(x[i], op);
    __syncthreads(); /* who still reads the last result */
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane == 0) shared[i][warp] = x[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = shared[i][lane % n_warps];
        for (int offset = n_warps / 2; offset > 0; offset /= 2)
            x[i] = op(x[i], __shfl_xor_sync(~0u, x[i], offset));
    }
}

/// The same of one value. `shared` holds 32 values.
template <typename T, typename Op> __device__ inline T block_reduce(T x, Op op, T *shared)
{
    T all[1] = {x};
    block_reduce_all(all, op, (T(*)[32])shared);
    return all[0];
}

#endif
