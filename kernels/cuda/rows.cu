/* Operations on whole rows of the hidden size: embedding, residual and norm, gathering. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/blocks.h"
#include "kernels/cuda/types.cuh"

enum { THREADS = 256 };

/* ---- embed ---- */

template <typename W, typename T>
__global__ void embed(const W *table, int64_t share, int64_t pitch, int32_t vocab_begin,
                      const int32_t *ids, const int32_t *last_ids, float scale, T *out,
                      int64_t out_stride, int64_t cols)
{
    const int64_t n = blockIdx.x;
    wait_for_predecessor();
    const int64_t row = (int64_t)token_at(ids, last_ids, n) - vocab_begin;
    const bool ours = row >= 0 && row < share;
    for (int64_t c = threadIdx.x; c < cols; c += THREADS)
        out[n * out_stride + c] = from_f32<T>(ours ? to_f32(table[row * pitch + c]) * scale : 0.0f);
}

extern "C" enum phx_status phx_cuda_embed(struct phx_stream *stream, const struct phx_embed *args)
{
    const struct phx_weight *table = args->table;
    PHX_TRY(phx_cuda_use(stream->device));
    if (!phx_dtype_traits(table->shape.dtype)->is_float) return phx_cuda_blocks_embed(stream, args);
    return with_type(table->shape.dtype, [&](auto w) {
        return with_type(args->out.dtype, [&](auto t) {
            using W = decltype(w);
            using T = decltype(t);
            return launch(stream, "embed", {(unsigned)args->out.rows, THREADS}, embed<W, T>,
                          (const W *)table->buffer->address, table->shape.rows,
                          phx_cuda_pitch(table->shape.cols), args->vocab_begin,
                          address_of<const int32_t>(args->ids),
                          address_of<const int32_t>(args->last_ids), args->scale,
                          address_of<T>(args->out), args->out.stride, args->out.cols);
        });
    });
}

/* ---- add_norm ---- */

struct norm_args {
    const void *x; /* NULL: the residual stays */
    int64_t x_stride;
    const float *post; /* NULL: x is added as it is */
    float *residual;
    int64_t residual_stride;
    bool start;
    const float *weight; /* NULL: the residual goes out as it is */
    float epsilon;
    void *out;
    int64_t out_stride;
    int64_t cols;
};

template <typename T> struct alignas(4 * sizeof(T)) four {
    T values[4];
};

/* A thread reads again only what it wrote itself. VECTORS: everything lies at multiples of 4. */
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(1024) add_norm(struct norm_args a)
{
    constexpr int V = VECTORS ? 4 : 1;
    __shared__ float shared[32];
    const int64_t n = blockIdx.x;
    const T *x = a.x != NULL ? (const T *)a.x + n * a.x_stride : NULL;
    float *residual = a.residual + n * a.residual_stride;
    T *out = (T *)a.out + n * a.out_stride;
    float squares = 0, post_scale = 1;
    wait_for_predecessor();
    if (a.post != NULL) {
        float x_squares = 0;
        for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x)
            x_squares += to_f32(x[c]) * to_f32(x[c]);
        x_squares = block_reduce(x_squares, add_op(), shared);
        post_scale = 1 / sqrtf(x_squares / (float)a.cols + a.epsilon);
    }
    for (int64_t c = (int64_t)threadIdx.x * V; c < a.cols; c += (int64_t)blockDim.x * V) {
        alignas(16) float r[V];
        if (VECTORS)
            *(float4 *)r = a.start ? make_float4(0, 0, 0, 0) : *(const float4 *)(residual + c);
        else
            r[0] = a.start ? 0 : residual[c];
        if (x != NULL) {
            alignas(16) T more[V];
            if (VECTORS)
                *(four<T> *)more = *(const four<T> *)(x + c);
            else
                more[0] = x[c];
#pragma unroll
            for (int v = 0; v < V; v++) {
                const float value = to_f32(more[v]);
                r[v] += a.post != NULL ? value * post_scale * a.post[c + v] : value;
            }
            if (VECTORS)
                *(float4 *)(residual + c) = *(const float4 *)r;
            else
                residual[c] = r[0];
        }
#pragma unroll
        for (int v = 0; v < V; v++) squares += r[v] * r[v];
    }
    squares = block_reduce(squares, add_op(), shared);
    if (a.weight == NULL) {
        for (int64_t c = (int64_t)threadIdx.x * V; c < a.cols; c += (int64_t)blockDim.x * V)
#pragma unroll
            for (int v = 0; v < V; v++) out[c + v] = from_f32<T>(residual[c + v]);
        return;
    }
    const float scale = 1 / sqrtf(squares / (float)a.cols + a.epsilon);
    for (int64_t c = (int64_t)threadIdx.x * V; c < a.cols; c += (int64_t)blockDim.x * V) {
        if (VECTORS) {
            const float4 r = *(const float4 *)(residual + c), w = *(const float4 *)(a.weight + c);
            four<T> y;
            y.values[0] = from_f32<T>(r.x * scale * w.x);
            y.values[1] = from_f32<T>(r.y * scale * w.y);
            y.values[2] = from_f32<T>(r.z * scale * w.z);
            y.values[3] = from_f32<T>(r.w * scale * w.w);
            *(four<T> *)(out + c) = y;
        } else {
            out[c] = from_f32<T>(residual[c] * scale * a.weight[c]);
        }
    }
}

static bool in_fours(const void *address, int64_t stride, size_t value_bytes)
{
    return (uintptr_t)address % (4 * value_bytes) == 0 && stride % 4 == 0;
}

extern "C" enum phx_status phx_cuda_add_norm(struct phx_stream *stream,
                                             const struct phx_add_norm *args)
{
    const struct norm_args a = {address_of<const void>(args->x),
                                args->x.stride,
                                address_of<const float>(args->post),
                                address_of<float>(args->residual),
                                args->residual.stride,
                                args->start,
                                address_of<const float>(args->weight),
                                args->epsilon,
                                address_of<void>(args->out),
                                args->out.stride,
                                args->out.cols};
    PHX_TRY(phx_cuda_use(stream->device));
    return with_type(args->out.dtype, [&](auto type) {
        using T = decltype(type);
        const bool vectors =
            a.cols % 4 == 0 && (a.x == NULL || in_fours(a.x, a.x_stride, sizeof(T))) &&
            in_fours(a.residual, a.residual_stride, sizeof(float)) &&
            in_fours(a.weight, 0, sizeof(float)) && in_fours(a.out, a.out_stride, sizeof(T));
        const struct launch_shape shape = {(unsigned)args->out.rows, a.cols >= 2048 ? 512u : 128u};
        return launch(stream, "add_norm", shape, vectors ? add_norm<T, true> : add_norm<T, false>,
                      a);
    });
}

/* ---- gather_rows ---- */

template <typename Word>
__global__ void gather(const char *x, int64_t x_pitch, const int32_t *rows, char *out,
                       int64_t out_pitch, int64_t n_words)
{
    wait_for_predecessor();
    const Word *from = (const Word *)(x + rows[blockIdx.x] * x_pitch);
    Word *to = (Word *)(out + blockIdx.x * out_pitch);
    for (int64_t i = threadIdx.x; i < n_words; i += THREADS) to[i] = from[i];
}

extern "C" enum phx_status phx_cuda_gather_rows(struct phx_stream *stream,
                                                const struct phx_gather_rows *args)
{
    const struct phx_tensor x = args->x, out = args->out;
    const int64_t x_pitch = (int64_t)phx_dtype_bytes(x.dtype, x.stride);
    const int64_t out_pitch = (int64_t)phx_dtype_bytes(out.dtype, out.stride);
    const int64_t row_bytes = (int64_t)phx_dtype_bytes(x.dtype, x.cols);
    const char *from = address_of<const char>(x);
    char *to = address_of<char>(out);
    const int32_t *rows = address_of<const int32_t>(args->rows);
    const struct launch_shape shape = {(unsigned)out.rows, THREADS};
    PHX_TRY(phx_cuda_use(stream->device));
    const uintptr_t all = (uintptr_t)from | (uintptr_t)to | (uintptr_t)x_pitch |
                          (uintptr_t)out_pitch | (uintptr_t)row_bytes;
    if (row_bytes == 0) return PHX_OK;
    const int word = all % 16 == 0 ? 16 : all % 2 == 0 ? 2 : 1;
    return launch(stream, "gather", shape,
                  word == 16  ? gather<uint4>
                  : word == 2 ? gather<uint16_t>
                              : gather<uint8_t>,
                  from, x_pitch, rows, to, out_pitch, row_bytes / word);
}
