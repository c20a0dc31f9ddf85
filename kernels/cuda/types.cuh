/// \file types.cuh
/// What the kernels of this backend share: launches on its streams, values of a type known only at
/// run time, eight values at a time. All include this, and launch.cuh and elements.cuh with it.
#ifndef PHX_KERNELS_CUDA_TYPES_CUH
#define PHX_KERNELS_CUDA_TYPES_CUH

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.cuh"

/// On a stream of this backend.
template <typename... Parameters, typename... Arguments>
static enum phx_status launch(struct phx_stream *stream, const char *name,
                              const struct launch_shape &shape, void (*kernel)(Parameters...),
                              const Arguments &...arguments)
{
    return launch_on(phx_cuda_stream_native(stream), phx_cuda_device(stream)->starts_early, name,
                     shape, kernel, arguments...);
}

/// Value `index` of an array whose type is known only at run time.
__device__ inline float load_any(enum phx_dtype dtype, const void *x, int64_t index)
{
    if (dtype == PHX_F32) return ((const float *)x)[index];
    if (dtype == PHX_F16) return to_f32(((const phx_f16 *)x)[index]);
    return to_f32(((const phx_bf16 *)x)[index]);
}

__device__ inline void store_any(enum phx_dtype dtype, void *x, int64_t index, float value)
{
    if (dtype == PHX_F32)
        ((float *)x)[index] = value;
    else if (dtype == PHX_F16)
        ((phx_f16 *)x)[index] = from_f32<phx_f16>(value);
    else
        ((phx_bf16 *)x)[index] = from_f32<phx_bf16>(value);
}

/// Eight values as they lie in memory, from a multiple of 16 bytes.
template <typename T> struct eight {
    uint4 words[sizeof(T) / 2];
};

/// Read once: not kept in the first-level cache.
template <typename T> __device__ inline eight<T> load_streamed(const T *from)
{
    eight<T> x;
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) x.words[i] = __ldcs((const uint4 *)from + i);
    return x;
}

template <typename T> __device__ inline eight<T> load_eight(const T *from)
{
    eight<T> x;
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) x.words[i] = ((const uint4 *)from)[i];
    return x;
}

__device__ inline void widen_word(uint32_t word, phx_f16, float *to)
{
    float2 pair = __half22float2(*(const __half2 *)&word);
    to[0] = pair.x;
    to[1] = pair.y;
}

__device__ inline void widen_word(uint32_t word, phx_bf16, float *to)
{
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000u);
}

template <typename T> __device__ inline void widen(const eight<T> &x, float (&to)[8])
{
    const uint32_t words[4] = {x.words[0].x, x.words[0].y, x.words[0].z, x.words[0].w};
#pragma unroll
    for (int i = 0; i < 4; i++) widen_word(words[i], T(), to + 2 * i);
}

template <> __device__ inline void widen(const eight<float> &x, float (&to)[8])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        to[4 * i + 0] = __uint_as_float(x.words[i].x);
        to[4 * i + 1] = __uint_as_float(x.words[i].y);
        to[4 * i + 2] = __uint_as_float(x.words[i].z);
        to[4 * i + 3] = __uint_as_float(x.words[i].w);
    }
}

/// Blocks of `threads` columns of a row; rows in the grid's other direction, where a kernel goes on
/// by gridDim.y.
static inline dim3 grid_of(int64_t rows, int64_t cols, int threads)
{
    const int64_t most = 65535;
    return dim3((unsigned)ceil_div(cols, threads), (unsigned)(rows < most ? rows : most));
}

/// Where an optional list or matrix lies; NULL if it is absent.
template <typename T> static inline T *address_of(struct phx_tensor t)
{
    return phx_tensor_present(t) ? (T *)phx_tensor_address(t) : NULL;
}

/// Token n of a list whose negative entries stand for the newest token of slot -1 - ids[n].
__device__ inline int32_t token_at(const int32_t *ids, const int32_t *last_ids, int64_t n)
{
    int32_t id = ids[n];
    return id >= 0 ? id : last_ids[-1 - id];
}

#endif
