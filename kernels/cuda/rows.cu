/* Operations on whole rows of the hidden size: embedding, residual and norm, gathering. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/blocks.h"
#include "kernels/cuda/types.cuh"

enum { THREADS = 256, NORM_THREADS = 1024 /* at most */ };

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

/* Zeros where there is nothing to load. */
template <typename T> __device__ inline void load_four(const T *from, bool there, float (&to)[4])
{
    four<T> x;
    if (there) x = *(const four<T> *)from;
#pragma unroll
    for (int v = 0; v < 4; v++) to[v] = there ? to_f32(x.values[v]) : 0;
}

template <typename T> __device__ inline void store_four(T *to, const float (&from)[4])
{
    four<T> x;
#pragma unroll
    for (int v = 0; v < 4; v++) x.values[v] = from_f32<T>(from[v]);
    *(four<T> *)to = x;
}

template <int TURNS> __device__ inline float squares_of(const float (&x)[TURNS][4])
{
    float squares = 0;
#pragma unroll
    for (int t = 0; t < TURNS; t++)
#pragma unroll
        for (int v = 0; v < 4; v++) squares += x[t][v] * x[t][v];
    return squares;
}

__device__ inline float norm_scale(const struct norm_args &a, float squares)
{
    return 1 / sqrtf(squares / (float)a.cols + a.epsilon);
}

/* Four columns a thread, in each of TURNS turns: all of a row is asked for at once and stays in
 * registers. Everything lies at multiples of 4. */
template <typename T, int TURNS>
__global__ void __launch_bounds__(NORM_THREADS) add_norm(struct norm_args a)
{
    __shared__ float shared[32];
    const int64_t n = blockIdx.x;
    const T *x = a.x != NULL ? (const T *)a.x + n * a.x_stride : NULL;
    float *residual = a.residual + n * a.residual_stride;
    T *out = (T *)a.out + n * a.out_stride;
    const auto col = [](int t) { return (int)(threadIdx.x + t * blockDim.x) * 4; };
    const int cols = (int)a.cols;
    float r[TURNS][4], more[TURNS][4], weight[TURNS][4];
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
        if (col(t) >= cols) break;
        prefetch(residual + col(t));
        if (a.weight != NULL) prefetch(a.weight + col(t));
        if (a.post != NULL) prefetch(a.post + col(t));
    }
    wait_for_predecessor();
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
        const bool is_col = col(t) < cols;
        load_four(x + col(t), is_col && x != NULL, more[t]);
        load_four(residual + col(t), is_col && !a.start, r[t]);
        load_four(a.weight + col(t), is_col && a.weight != NULL, weight[t]);
    }
    if (a.post != NULL) {
        const float scale = norm_scale(a, block_reduce(squares_of(more), add_op(), shared));
#pragma unroll
        for (int t = 0; t < TURNS; t++) {
            float post[4];
            load_four(a.post + col(t), col(t) < cols, post);
#pragma unroll
            for (int v = 0; v < 4; v++) more[t][v] = more[t][v] * scale * post[v];
        }
    }
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
#pragma unroll
        for (int v = 0; v < 4; v++) r[t][v] += more[t][v];
        if (x != NULL && col(t) < cols) store_four(residual + col(t), r[t]);
    }
    if (a.weight != NULL) {
        const float scale = norm_scale(a, block_reduce(squares_of(r), add_op(), shared));
#pragma unroll
        for (int t = 0; t < TURNS; t++)
#pragma unroll
            for (int v = 0; v < 4; v++) r[t][v] = r[t][v] * scale * weight[t][v];
    }
#pragma unroll
    for (int t = 0; t < TURNS; t++)
        if (col(t) < cols) store_four(out + col(t), r[t]);
}

/* Rows that lie askew or are too long to be kept. A thread reads again only what it wrote itself.
 */
template <typename T> __global__ void __launch_bounds__(NORM_THREADS) add_norm_any(norm_args a)
{
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
        post_scale = norm_scale(a, block_reduce(x_squares, add_op(), shared));
    }
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x) {
        float r = a.start ? 0 : residual[c];
        if (x != NULL) {
            r += a.post != NULL ? to_f32(x[c]) * post_scale * a.post[c] : to_f32(x[c]);
            residual[c] = r;
        }
        squares += r * r;
    }
    const float scale = norm_scale(a, block_reduce(squares, add_op(), shared));
    for (int64_t c = threadIdx.x; c < a.cols; c += blockDim.x)
        out[c] = from_f32<T>(a.weight != NULL ? residual[c] * scale * a.weight[c] : residual[c]);
}

static bool in_fours(const void *address, int64_t stride, size_t value_bytes)
{
    return (uintptr_t)address % (4 * value_bytes) == 0 && stride % 4 == 0;
}

/* Whole warps, a power of two of them, that take `cols` columns in `turns` turns. */
static unsigned norm_threads(int64_t cols, int turns)
{
    unsigned threads = 32;
    while (threads < NORM_THREADS && (int64_t)threads * 4 * turns < cols) threads *= 2;
    return threads;
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
    const unsigned rows = (unsigned)args->out.rows;
    PHX_TRY(phx_cuda_use(stream->device));
    return with_type(args->out.dtype, [&](auto type) {
        using T = decltype(type);
        const bool fours = a.cols % 4 == 0 && in_fours(a.x, a.x_stride, sizeof(T)) &&
                           in_fours(a.residual, a.residual_stride, sizeof(float)) &&
                           in_fours(a.weight, 0, sizeof(float)) &&
                           in_fours(a.post, 0, sizeof(float)) &&
                           in_fours(a.out, a.out_stride, sizeof(T));
        if (!fours || a.cols > 4 * 4 * NORM_THREADS)
            return launch(stream, "add_norm", {rows, 512}, add_norm_any<T>, a);
        if (a.cols > 2 * 4 * NORM_THREADS)
            return launch(stream, "add_norm", {rows, NORM_THREADS}, add_norm<T, 4>, a);
        return launch(stream, "add_norm", {rows, norm_threads(a.cols, 2)}, add_norm<T, 2>, a);
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
