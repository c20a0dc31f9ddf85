/// \file elements.cuh
/// Element types in kernels: conversion to and from f32, and the way from a phx_dtype to a type.
#ifndef PHX_KERNELS_CUDA_ELEMENTS_CUH
#define PHX_KERNELS_CUDA_ELEMENTS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/base/check.h"
#include "kernels/base/dtype.h"

typedef __half phx_f16;
typedef __nv_bfloat16 phx_bf16;

__device__ inline float to_f32(float x)
{
    return x;
}
__device__ inline float to_f32(phx_f16 x)
{
    return __half2float(x);
}
__device__ inline float to_f32(phx_bf16 x)
{
    return __bfloat162float(x);
}

template <typename T> __device__ inline T from_f32(float x);
template <> __device__ inline float from_f32<float>(float x)
{
    return x;
}
template <> __device__ inline phx_f16 from_f32<phx_f16>(float x)
{
    return __float2half_rn(x);
}
template <> __device__ inline phx_bf16 from_f32<phx_bf16>(float x)
{
    return __float2bfloat16_rn(x);
}

/// Call f with a value of the type that `dtype` names.
template <typename F> static enum phx_status with_type(enum phx_dtype dtype, F f)
{
    if (dtype == PHX_F16) return f(phx_f16());
    if (dtype == PHX_BF16) return f(phx_bf16());
    PHX_ASSERT(dtype == PHX_F32);
    return f(float());
}

static inline int64_t ceil_div(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

#endif
