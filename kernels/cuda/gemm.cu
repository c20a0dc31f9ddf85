/* Products of any types and sizes, on plain f32 arithmetic: what cuBLASLt does not take. And the
 * small kernels around products. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/plain_tile.cuh"
#include "kernels/cuda/types.cuh"

enum {
    THREADS = PLAIN_THREADS,
    MAX_GRID_Y = 65535,
};

/* TILE rows of a [rows, in] matrix, DEPTH columns from k on, laid down column by column. */
template <typename T>
__device__ inline void load_tile(const T *from, int64_t stride, int64_t row, int64_t rows,
                                 int64_t k, int64_t in, plain_operand &to)
{
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        const int r = i / DEPTH, c = i % DEPTH;
        const bool inside = row + r < rows && k + c < in;
        to[c][r] = inside ? to_f32(from[(row + r) * stride + k + c]) : 0;
    }
}

template <typename W, typename X>
__global__ void __launch_bounds__(THREADS) gemm(struct phx_cuda_product p)
{
    __shared__ plain_operand x, w;
    const int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;
    const int down = threadIdx.x / SIDE, across = threadIdx.x % SIDE;
    float acc[EACH][EACH] = {};
    wait_for_predecessor();
    for (int64_t k = 0; k < p.in; k += DEPTH) {
        load_tile((const X *)p.x, p.x_stride, row, p.n, k, p.in, x);
        load_tile((const W *)p.weight, p.in, col, p.n_out, k, p.in, w);
        __syncthreads();
        multiply_plain(x, w, down, across, acc);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int64_t n = row + down + i * SIDE, o = col + across + j * SIDE;
            if (n >= p.n || o >= p.n_out) continue;
            const float value = acc[i][j] + (p.bias != NULL ? p.bias[o] : 0);
            store_any(p.out_dtype, p.out, n * p.out_stride + o,
                      scaled_and_capped(value, p.scale, p.soft_cap));
        }
}

extern "C" enum phx_status phx_cuda_gemm(struct phx_stream *stream,
                                         const struct phx_cuda_product *product)
{
    return with_type(product->weight_dtype, [&](auto w) {
        return with_type(product->x_dtype, [&](auto x) {
            using W = decltype(w);
            using X = decltype(x);
            const int64_t slab = (int64_t)MAX_GRID_Y * TILE; /* rows that a grid covers */
            for (int64_t row = 0; row < product->n; row += slab) {
                struct phx_cuda_product p = *product;
                p.x = (const X *)p.x + row * p.x_stride;
                p.out = (char *)p.out + phx_dtype_bytes(p.out_dtype, row * p.out_stride);
                p.n = p.n - row < slab ? p.n - row : slab;
                dim3 grid((unsigned)ceil_div(p.n_out, TILE), (unsigned)ceil_div(p.n, TILE));
                PHX_TRY(launch(stream, "gemm", {grid, THREADS}, gemm<W, X>, p));
            }
            return PHX_OK;
        });
    });
}

/* ---- around products: blocks of a row's columns, rows in the grid's other direction ---- */

/* V values of a row, 1 or 8; eight lie at a multiple of 16 bytes. */
template <typename T> __device__ inline void load_values(const T *from, float (&to)[1])
{
    to[0] = to_f32(*from);
}

template <typename T> __device__ inline void load_values(const T *from, float (&to)[8])
{
    widen(load_eight(from), to);
}

template <typename T> __device__ inline void store_values(T *to, const float (&from)[1])
{
    *to = from_f32<T>(from[0]);
}

template <typename T> __device__ inline void store_values(T *to, const float (&from)[8])
{
    eight<T> x;
#pragma unroll
    for (int i = 0; i < 8; i++) ((T *)x.words)[i] = from_f32<T>(from[i]);
#pragma unroll
    for (int i = 0; i < (int)sizeof(T) / 2; i++) ((uint4 *)to)[i] = x.words[i];
}

static bool in_eights(const void *x, int64_t stride, int64_t cols)
{
    return (uintptr_t)x % 16 == 0 && stride % 8 == 0 && cols % 8 == 0;
}

template <typename T, int V> __global__ void finish_product(struct phx_cuda_product p)
{
    const int64_t c = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float bias[V], x[V];
    wait_for_predecessor();
    if (c >= p.n_out) return;
#pragma unroll
    for (int v = 0; v < V; v++) bias[v] = p.bias != NULL ? p.bias[c + v] : 0;
    for (int64_t r = blockIdx.y; r < p.n; r += gridDim.y) {
        T *at = (T *)p.out + r * p.out_stride + c;
        load_values(at, x);
#pragma unroll
        for (int v = 0; v < V; v++) x[v] = scaled_and_capped(x[v] + bias[v], p.scale, p.soft_cap);
        store_values(at, x);
    }
}

extern "C" enum phx_status phx_cuda_finish_product(struct phx_stream *stream,
                                                   const struct phx_cuda_product *product)
{
    const struct phx_cuda_product &p = *product;
    return with_type(p.out_dtype, [&](auto type) {
        using T = decltype(type);
        if (in_eights(p.out, p.out_stride, p.n_out))
            return launch(stream, "finish_product", {grid_of(p.n, p.n_out / 8, THREADS), THREADS},
                          finish_product<T, 8>, p);
        return launch(stream, "finish_product", {grid_of(p.n, p.n_out, THREADS), THREADS},
                      finish_product<T, 1>, p);
    });
}

template <typename T>
__global__ void pack(const T *from, int64_t stride, T *to, int64_t n, int64_t in, int64_t lead,
                     int64_t pitch)
{
    const int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const bool inside = c >= lead && c < lead + in;
    wait_for_predecessor();
    if (c >= pitch) return;
    for (int64_t r = blockIdx.y; r < n; r += gridDim.y)
        to[r * pitch + c] = inside ? from[r * stride + c - lead] : from_f32<T>(0);
}

extern "C" enum phx_status phx_cuda_pack(struct phx_stream *stream, enum phx_dtype dtype,
                                         const void *from, int64_t stride, void *to, int64_t n,
                                         int64_t in, int64_t lead, int64_t pitch)
{
    return with_type(dtype, [&](auto type) {
        using T = decltype(type);
        return launch(stream, "pack", {grid_of(n, pitch, THREADS), THREADS}, pack<T>,
                      (const T *)from, stride, (T *)to, n, in, lead, pitch);
    });
}

template <typename T, int V>
__global__ void gate(const T *x, const float *bias, enum phx_activation activation, T *out,
                     int64_t out_stride, int64_t n, int64_t n_gated)
{
    const int64_t f = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float gate_bias[V], up_bias[V], z[V], up[V];
    wait_for_predecessor();
    if (f >= n_gated) return;
#pragma unroll
    for (int v = 0; v < V; v++) {
        gate_bias[v] = bias != NULL ? bias[f + v] : 0;
        up_bias[v] = bias != NULL ? bias[n_gated + f + v] : 0;
    }
    for (int64_t r = blockIdx.y; r < n; r += gridDim.y) {
        const T *row = x + r * 2 * n_gated + f;
        load_values(row, z);
        load_values(row + n_gated, up);
#pragma unroll
        for (int v = 0; v < V; v++)
            z[v] = activate(activation, z[v] + gate_bias[v]) * (up[v] + up_bias[v]);
        store_values(out + r * out_stride + f, z);
    }
}

extern "C" enum phx_status phx_cuda_gate(struct phx_stream *stream, enum phx_dtype dtype,
                                         const void *x, const float *bias,
                                         enum phx_activation activation, void *out,
                                         int64_t out_stride, int64_t n, int64_t n_gated)
{
    return with_type(dtype, [&](auto type) {
        using T = decltype(type);
        const bool eights = in_eights(x, 0, n_gated) && in_eights(out, out_stride, n_gated);
        const int64_t threads = eights ? n_gated / 8 : n_gated;
        return launch(stream, "gate", {grid_of(n, threads, THREADS), THREADS},
                      eights ? gate<T, 8> : gate<T, 1>, (const T *)x, bias, activation, (T *)out,
                      out_stride, n, n_gated);
    });
}
