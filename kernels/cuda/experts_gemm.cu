/* Products by expert for many rows. A block computes a tile of 64 pairs of one expert and 64 rows
 * of its weight; where gated, 32 rows of gate and the 32 of up that belong to them. There are as
 * many blocks as tiles can be at most, and each finds its tile in the notes. On tensor cores where
 * weight and activations have the same 16-bit type and lie straight; else on plain f32 arithmetic.
 */
#include <cuda_pipeline.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/plain_tile.cuh"

constexpr int HALF = TILE / 2;

/* ---- tiles ---- */

struct tile {
    int32_t expert, begin, n; /* pairs[begin, begin + n); n 0: none is left */
};

/* The index-th tile of all experts; every thread of the block calls it. */
__device__ inline struct tile find_tile(const struct phx_cuda_experts &e, int32_t index)
{
    __shared__ struct tile found;
    const int lane = threadIdx.x;
    if (threadIdx.x == 0) found.n = 0;
    __syncthreads();
    for (int32_t first = 0; threadIdx.x < 32 && first < e.n_local; first += 32) {
        const int32_t own = first + lane;
        const int32_t begin = own < e.n_local ? e.starts[own] : 0;
        const int32_t n = own < e.n_local ? e.starts[own + 1] - begin : 0;
        const int32_t n_tiles = (n + TILE - 1) / TILE;
        int32_t end = n_tiles; /* tiles up to this expert's last */
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const int32_t more = __shfl_up_sync(~0u, end, offset);
            if (lane >= offset) end += more;
        }
        const int32_t at = index - (end - n_tiles);
        if (at >= 0 && at < n_tiles)
            found = {own, begin + at * TILE, n - at * TILE < TILE ? n - at * TILE : TILE};
        const int32_t all = __shfl_sync(~0u, end, 31);
        if (index < all) break;
        index -= all;
    }
    __syncthreads();
    return found;
}

/* Row r of a tile's weight: past the last output the last one again. */
template <bool GATED>
__device__ inline int64_t weight_row(const struct phx_cuda_experts &e, int32_t expert, int64_t col,
                                     int r)
{
    const int64_t out = col + (GATED ? r % HALF : r);
    const int64_t row = out < e.n_out ? out : e.n_out - 1;
    return GATED ? (2 * expert + r / HALF) * e.n_out + row : expert * e.n_out + row;
}

/* ---- plain ---- */

template <typename W, typename X, bool GATED>
__global__ void __launch_bounds__(PLAIN_THREADS) experts_plain(struct phx_cuda_experts e)
{
    __shared__ plain_operand x, w;
    const int64_t col = (int64_t)blockIdx.y * (GATED ? HALF : TILE);
    const int down = threadIdx.x / SIDE, across = threadIdx.x % SIDE;
    float acc[EACH][EACH] = {};
    wait_for_predecessor();
    const struct tile t = find_tile(e, blockIdx.x);
    if (t.n == 0) return;
    for (int64_t k = 0; k < e.in; k += DEPTH) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += PLAIN_THREADS) {
            const int r = i / DEPTH, c = i % DEPTH;
            const bool inside = k + c < e.in;
            const int64_t from = r < t.n ? e.pairs[t.begin + r] / e.per_row : 0;
            x[c][r] = inside && r < t.n ? to_f32(((const X *)e.x)[from * e.x_stride + k + c]) : 0;
            const int64_t row = weight_row<GATED>(e, t.expert, col, r);
            w[c][r] = inside ? to_f32(((const W *)e.weight)[row * e.pitch + k + c]) : 0;
        }
        __syncthreads();
        multiply_plain(x, w, down, across, acc);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int r = down + i * SIDE;
        if (r >= t.n) continue;
        X *out = (X *)e.out + e.pairs[t.begin + r] * e.out_stride;
#pragma unroll
        for (int j = 0; j < (GATED ? EACH / 2 : EACH); j++) {
            const int64_t o = col + across + j * SIDE;
            float value = acc[i][j];
            if (GATED) value = activate(e.activation, value) * acc[i][j + EACH / 2];
            if (o < e.n_out) out[o] = from_f32<X>(value);
        }
    }
}

/* ---- on tensor cores: a warp computes 32 pairs with 16 + 16 rows of the weight ---- */

enum {
    THREADS = 128,
    STEP = 64,        /* of the inner dimension at a time */
    PITCH = STEP + 8, /* of a row in shared memory: odd in 16 bytes, no bank conflicts */
    CHUNKS = STEP / 8,
    ROWS_APART = THREADS / CHUNKS,
    ROWS_EACH = TILE / ROWS_APART
};

template <typename T> struct operands {
    T x[TILE * PITCH], w[TILE * PITCH];
};

/* What a thread copies: 16 bytes of every ROWS_APART-th row. */
template <typename T> struct sources {
    const T *x[ROWS_EACH], *w[ROWS_EACH];
};

/* Steps past the end are zeros; one group of copies, empty from `n_steps` on. */
template <typename T>
__device__ inline void load_step(const struct phx_cuda_experts &e, const sources<T> &from,
                                 int64_t step, int64_t n_steps, operands<T> *to)
{
    if (step < n_steps) {
        const int chunk = threadIdx.x % CHUNKS * 8, first = threadIdx.x / CHUNKS;
        const int64_t k = step * STEP + chunk;
        const bool inside = k < e.pitch;
#pragma unroll
        for (int i = 0; i < ROWS_EACH; i++) {
            const int at = (first + i * ROWS_APART) * PITCH + chunk;
            __pipeline_memcpy_async(to->x + at, from.x[i] + (inside ? k : 0), 16, inside ? 0 : 16);
            __pipeline_memcpy_async(to->w + at, from.w[i] + (inside ? k : 0), 16, inside ? 0 : 16);
        }
    }
    __pipeline_commit();
}

/* acc[m][f]: 16 pairs from m * 16 of the warp's on, 8 rows of the weight: f 0 and 1 of the tile's
 * first half, 2 and 3 of its second. */
template <typename T>
__device__ inline void multiply_step(const operands<T> *in, float (&acc)[2][4][4])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T *x = in->x + (warp / 2 * 32 + lane % 16) * PITCH + lane / 16 * 8;
    const T *w = in->w + (warp % 2 * 16 + lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) load_matrices(a[m], x + m * 16 * PITCH + k);
#pragma unroll
        for (int h = 0; h < 2; h++) load_matrices(b[h], w + h * HALF * PITCH + k);
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int f = 0; f < 4; f++)
                multiply(T(), acc[m][f], a[m], b[f / 2][f % 2 * 2], b[f / 2][f % 2 * 2 + 1]);
    }
}

template <typename T, bool GATED>
__device__ inline void store_tile(const struct phx_cuda_experts &e, const struct tile &t,
                                  int64_t col, const float (&acc)[2][4][4])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = warp / 2 * 32 + m * 16 + half * 8 + lane / 4;
            if (r >= t.n) continue;
            T *out = (T *)e.out + e.pairs[t.begin + r] * e.out_stride;
#pragma unroll
            for (int f = 0; f < (GATED ? 2 : 4); f++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int64_t o =
                        col + f / 2 * HALF + warp % 2 * 16 + f % 2 * 8 + lane % 4 * 2 + i;
                    float value = acc[m][f][half * 2 + i];
                    if (GATED)
                        value = activate(e.activation, value) * acc[m][(f + 2) % 4][half * 2 + i];
                    if (o < e.n_out) out[o] = from_f32<T>(value);
                }
        }
}

template <typename T, bool GATED>
__global__ void __launch_bounds__(THREADS) experts_mma(struct phx_cuda_experts e)
{
    alignas(16) __shared__ operands<T> stages[2];
    const int64_t col = (int64_t)blockIdx.y * (GATED ? HALF : TILE);
    const int64_t n_steps = (e.pitch + STEP - 1) / STEP;
    float acc[2][4][4] = {};
    sources<T> from;
    wait_for_predecessor();
    const struct tile t = find_tile(e, blockIdx.x);
    if (t.n == 0) return;
#pragma unroll
    for (int i = 0; i < ROWS_EACH; i++) { /* past the last pair: the last one again */
        const int r = threadIdx.x / CHUNKS + i * ROWS_APART;
        const int64_t row = e.pairs[t.begin + (r < t.n ? r : t.n - 1)] / e.per_row;
        from.x[i] = (const T *)e.x + row * e.x_stride;
        from.w[i] = (const T *)e.weight + weight_row<GATED>(e, t.expert, col, r) * e.pitch;
    }
    load_step(e, from, 0, n_steps, &stages[0]);
    for (int64_t step = 0; step < n_steps; step++) {
        load_step(e, from, step + 1, n_steps, &stages[(step + 1) % 2]);
        __pipeline_wait_prior(1);
        __syncthreads();
        multiply_step(&stages[step % 2], acc);
        __syncthreads();
    }
    store_tile<T, GATED>(e, t, col, acc);
}

/* ---- */

/* At most: a tile that is not full for each expert that has one. */
static unsigned most_tiles(const struct phx_cuda_experts *e)
{
    const int64_t partly = e->n_pairs < e->n_local ? e->n_pairs : e->n_local;
    return (unsigned)(e->n_pairs / TILE + partly);
}

template <bool GATED>
static enum phx_status run(struct phx_stream *stream, const struct phx_cuda_experts *e)
{
    const dim3 grid(most_tiles(e), (unsigned)ceil_div(e->n_out, GATED ? HALF : TILE));
    const bool tensor = e->straight && e->act == e->weight_dtype;
    if (tensor && e->act == PHX_BF16)
        return launch(stream, "experts_mma", {grid, THREADS}, experts_mma<phx_bf16, GATED>, *e);
    if (tensor && e->act == PHX_F16)
        return launch(stream, "experts_mma", {grid, THREADS}, experts_mma<phx_f16, GATED>, *e);
    return with_type(e->weight_dtype, [&](auto w) {
        return with_type(e->act, [&](auto x) {
            using W = decltype(w);
            using X = decltype(x);
            return launch(stream, "experts_plain", {grid, PLAIN_THREADS},
                          experts_plain<W, X, GATED>, *e);
        });
    });
}

extern "C" enum phx_status phx_cuda_experts_many(struct phx_stream *stream,
                                                 const struct phx_cuda_experts *e, bool gated)
{
    return gated ? run<true>(stream, e) : run<false>(stream, e);
}
