/* What fills and reads weights: dummy values, and conversion between types. */
#include "kernels/cuda/types.cuh"

enum { THREADS = 256 };

template <typename From, typename To>
__global__ void convert(const From *from, int64_t from_stride, To *to, int64_t to_stride,
                        int64_t rows, int64_t cols)
{
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    wait_for_predecessor();
    if (c >= cols) return;
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y)
        to[r * to_stride + c] = from_f32<To>(to_f32(from[r * from_stride + c]));
}

template <typename T>
__global__ void dummy(T *to, int64_t stride, int64_t rows, int64_t cols, struct phx_dummy rule,
                      int64_t global_row, int64_t global_col)
{
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    wait_for_predecessor();
    if (c >= cols) return;
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
        uint32_t key = phx_dummy_row_key(rule.key, global_row + r);
        float unit = phx_dummy_unit(key, (uint32_t)(global_col + c));
        to[r * stride + c] = from_f32<T>(__fadd_rn(rule.center, __fmul_rn(rule.scale, unit)));
    }
}

extern "C" cudaError_t phx_cuda_probe(int *architecture)
{
    struct cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, dummy<float>);
    if (error == cudaSuccess) *architecture = attributes.ptxVersion;
    return error;
}

extern "C" enum phx_status phx_cuda_convert(struct phx_stream *stream, enum phx_dtype from_dtype,
                                            const void *from, int64_t from_stride,
                                            enum phx_dtype to_dtype, void *to, int64_t to_stride,
                                            int64_t rows, int64_t cols)
{
    if (rows == 0 || cols == 0) return PHX_OK;
    return with_type(from_dtype, [&](auto from_type) {
        return with_type(to_dtype, [&](auto to_type) {
            using From = decltype(from_type);
            using To = decltype(to_type);
            return launch(stream, "convert", {grid_of(rows, cols, THREADS), THREADS},
                          convert<From, To>, (const From *)from, from_stride, (To *)to, to_stride,
                          rows, cols);
        });
    });
}

extern "C" enum phx_status phx_cuda_dummy(struct phx_stream *stream, enum phx_dtype dtype, void *to,
                                          int64_t stride, int64_t rows, int64_t cols,
                                          const struct phx_dummy *rule, int64_t global_row,
                                          int64_t global_col)
{
    if (rows == 0 || cols == 0) return PHX_OK;
    return with_type(dtype, [&](auto type) {
        using T = decltype(type);
        return launch(stream, "dummy", {grid_of(rows, cols, THREADS), THREADS}, dummy<T>, (T *)to,
                      stride, rows, cols, *rule, global_row, global_col);
    });
}
