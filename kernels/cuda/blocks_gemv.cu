/* Products of quantised weights for a few rows of x: bound by reading the weight, once, in 16-byte
 * loads of which several are under way. The warps of a block of threads have the same rows of the
 * weight and share its columns. Tensor cores multiply whole numbers by x, for eight rows of x at
 * the price of one, and the sum of each run is scaled in f32. With f32 activations, which they do
 * not take, value by value. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/mma.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,

    TILE = 16, /* rows of the weight */
    MAX_ROWS = PHX_CUDA_GEMV_MAX_ROWS,
    BLOCKS_PER_SM = 2
};

struct gemv_args {
    struct phx_cuda_planes planes;
    const void *x;    /* [n, in], from column `lead` of the weight on */
    int64_t in, lead; /* all of planes.cols and 0 where `straight` */
    bool straight;    /* rows of x at multiples of 16 bytes */
    const float *bias;
    void *out;
    enum phx_dtype out_dtype;
    int64_t n_out; /* columns of out */
    int64_t x_stride, out_stride;
    float scale, soft_cap;
    int n; /* rows of x */
    enum phx_activation activation;
    unsigned n_early; /* blocks that may be there before the predecessor has ended */
    /* PAIRS: the expert of each pair; row blockIdx.y of out is its product with row
     * blockIdx.y / per_row of x; n is 1. */
    const int32_t *experts;
    int32_t first_expert, n_local, per_row;
};

enum { RUNS = PHX_CUDA_PART / 16 };

/* Columns [col, col + 4) of the weight's in x. */
template <typename X, bool STRAIGHT>
__device__ inline four<X> load_x(const struct gemv_args &a, const X *x, int64_t col)
{
    four<X> some;
    if constexpr (STRAIGHT) {
        some = *(const four<X> *)(x + col);
    } else {
#pragma unroll
        for (int v = 0; v < 4; v++) {
            const int64_t c = col + v - a.lead;
            some.values[v] = c >= 0 && c < a.in ? x[c] : from_f32<X>(0);
        }
    }
    return some;
}

/* A lane's parts of rows lane / 4 and lane / 4 + 8 of each tile. */
template <enum phx_dtype Q, int TILES> struct lane_parts {
    part<Q> of[TILES][2];
};

/* ---- 16-bit activations ---- */

__device__ inline uint32_t pair_of_ones(phx_f16)
{
    return 0x3c003c00;
}

__device__ inline uint32_t pair_of_ones(phx_bf16)
{
    return 0x3f803f80;
}

/* As multiply() leaves them: of a tile's rows lane / 4 and + 8, rows 2 (lane % 4) and + 1 of x. */
template <typename X, int TILES, bool PAIRS> struct lane_sums {
    float of[TILES][2][2] = {};

    template <enum phx_dtype Q>
    __device__ void add(const lane_parts<Q, TILES> &w, const struct gemv_args &a, const X *from,
                        int64_t index)
    {
        const int lane = threadIdx.x % 32, row = lane / 4;
        const int64_t col = index * PHX_CUDA_PART + lane % 4 * 4;
        four<X> x[RUNS];
        from += (row < a.n ? row : a.n - 1) * a.x_stride; /* past the last: again, not stored */
        if (!PAIRS || a.straight) {
#pragma unroll
            for (int i = 0; i < RUNS; i++) x[i] = load_x<X, true>(a, from, col + 16 * i);
        } else {
#pragma unroll
            for (int i = 0; i < RUNS; i++) x[i] = load_x<X, !PAIRS>(a, from, col + 16 * i);
        }
#pragma unroll
        for (int j = 0; j < RUNS / 2; j++)
            add_group<Q>(w, j, *(const uint2 *)&x[2 * j], *(const uint2 *)&x[2 * j + 1]);
    }

    template <enum phx_dtype Q>
    __device__ void add_group(const lane_parts<Q, TILES> &w, int j, uint2 x0, uint2 x1)
    {
        using type = block_type<Q>;
        const uint32_t ones[4] = {pair_of_ones(X()), pair_of_ones(X()), pair_of_ones(X()),
                                  pair_of_ones(X())};
        float x_sum[4] = {};
        if constexpr (type::LOW) {
            multiply(X(), x_sum, ones, x0.x, x0.y);
            multiply(X(), x_sum, ones, x1.x, x1.y);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int run = 0; run < 32 / type::RUN; run++) {
                float sum[4] = {};
#pragma unroll
                for (int m = run; m < run + type::RUN / 16; m++) {
                    const part<Q>(&rows)[2] = w.of[tile];
                    const uint32_t q[4] = {
                        pair_of(rows[0], j, 2 * m, X()), pair_of(rows[1], j, 2 * m, X()),
                        pair_of(rows[0], j, 2 * m + 1, X()), pair_of(rows[1], j, 2 * m + 1, X())};
                    multiply(X(), sum, q, m == 0 ? x0.x : x1.x, m == 0 ? x0.y : x1.y);
                }
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const block_scale s = scale_of(w.of[tile][h], j, run);
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        float &to = of[tile][h][c];
                        to = fmaf(s.scale, sum[2 * h + c], to);
                        if constexpr (type::LOW) to = fmaf(s.low, x_sum[c], to);
                    }
                }
            }
    }

    __device__ void store(float (&to)[TILES][TILE][MAX_ROWS]) const
    {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int c = 0; c < 2; c++)
                    to[tile][lane / 4 + 8 * h][lane % 4 * 2 + c] = of[tile][h][c];
    }
};

/* ---- f32 activations ---- */

/* Of a tile's rows lane / 4 and + 8, all rows of x, the lane's columns. */
template <int TILES, bool PAIRS> struct lane_sums<float, TILES, PAIRS> {
    float of[TILES][2][MAX_ROWS] = {};

    template <enum phx_dtype Q>
    __device__ void add(const lane_parts<Q, TILES> &w, const struct gemv_args &a, const float *from,
                        int64_t index)
    {
        const int64_t col = index * PHX_CUDA_PART + threadIdx.x % 4 * 4;
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            float values[TILES][2][4];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int h = 0; h < 2; h++) values_of(w.of[tile][h], i / 2, i % 2, values[tile][h]);
#pragma unroll
            for (int n = 0; n < MAX_ROWS; n++) {
                if (n >= a.n) break;
                const float *x_row = from + n * a.x_stride;
                const four<float> x = !PAIRS || a.straight
                                          ? load_x<float, true>(a, x_row, col + 16 * i)
                                          : load_x<float, !PAIRS>(a, x_row, col + 16 * i);
#pragma unroll
                for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
#pragma unroll
                        for (int v = 0; v < 4; v++)
                            of[tile][h][n] = fmaf(values[tile][h][v], x.values[v], of[tile][h][n]);
            }
        }
    }

    __device__ void store(float (&to)[TILES][TILE][MAX_ROWS]) const
    {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int n = 0; n < MAX_ROWS; n++) {
                    float sum = of[tile][h][n];
                    sum += __shfl_xor_sync(~0u, sum, 1);
                    sum += __shfl_xor_sync(~0u, sum, 2);
                    if (lane % 4 == 0) to[tile][lane / 4 + 8 * h][n] = sum;
                }
    }
};

/* ---- */

/* What all warps have summed up, to row(s) of out from element `out_at` on. */
template <int TILES, bool GATED>
__device__ inline void store_outputs(const struct gemv_args &a,
                                     const float (&sums)[WARPS][TILES][TILE][MAX_ROWS],
                                     int64_t first, int64_t out_at)
{
    constexpr int OUTS = GATED ? TILE : TILES * TILE;
    for (int i = threadIdx.x; i < OUTS * a.n; i += THREADS) {
        const int n = i / OUTS, r = i % OUTS;
        const int64_t out = first + r;
        float value = 0, up = 0;
        if (out >= a.n_out) continue;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            value += sums[w][r / TILE][r % TILE][n];
            if (GATED) up += sums[w][TILES - 1][r][n];
        }
        if (a.bias != NULL) value += a.bias[out];
        if (GATED && a.bias != NULL) up += a.bias[a.n_out + out];
        value = GATED ? activate(a.activation, value) * up
                      : scaled_and_capped(value, a.scale, a.soft_cap);
        store_any(a.out_dtype, a.out, out_at + n * a.out_stride + out, value);
    }
}

/* A tile of gate and its tile of up where GATED, else TILES tiles one below the other. */
template <enum phx_dtype Q, typename X, int TILES, bool GATED, bool PAIRS>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) blocks_gemv(struct gemv_args a)
{
    constexpr int OUTS = GATED ? TILE : TILES * TILE;
    constexpr int UNROLL = TILES == 1 && block_type<Q>::WORDS <= 8 ? 4 : 2; /* parts at once */
    __shared__ float sums[WARPS][TILES][TILE][MAX_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t first = (int64_t)blockIdx.x * OUTS, n_parts = a.planes.cols / PHX_CUDA_PART;
    uint32_t rows[TILES][2];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int h = 0; h < 2; h++) { /* past the end: the last one again */
            const int64_t out = first + (GATED ? 0 : tile * TILE) + 8 * h + lane / 4;
            rows[tile][h] =
                (uint32_t)((out < a.n_out ? out : a.n_out - 1) + (GATED ? tile * a.n_out : 0));
        }
    int64_t index = warp * UNROLL;
    if (!PAIRS && blockIdx.x < a.n_early)
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    if (index + u < n_parts)
                        prefetch(quants_at<Q>(a.planes, rows[tile][h], index + u, lane % 4));
    wait_for_predecessor();
    const X *x = (const X *)a.x;
    int64_t out_at = 0;
    if (PAIRS) {
        const int64_t pair = blockIdx.y;
        const int32_t expert = a.experts[pair] - a.first_expert;
        if (expert < 0 || expert >= a.n_local) return; /* another rank's */
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                rows[tile][h] += (uint32_t)(expert * a.n_out * (GATED ? 2 : 1));
        x += pair / a.per_row * a.x_stride;
        out_at = pair * a.out_stride;
    }

    lane_sums<X, TILES, PAIRS> own;
    for (; index < n_parts; index += WARPS * UNROLL) {
        lane_parts<Q, TILES> w[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    if (index + u < n_parts)
                        w[u].of[tile][h] =
                            load_part<Q>(a.planes, rows[tile][h], index + u, lane % 4);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (index + u >= n_parts) break;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int h = 0; h < 2; h++) unpack_scales(&w[u].of[tile][h], u);
            own.add(w[u], a, x, index + u);
        }
    }
    own.store(sums[warp]);
    __syncthreads();
    store_outputs<TILES, GATED>(a, sums, first, out_at);
}

template <enum phx_dtype Q, typename X, int TILES, bool GATED, bool PAIRS>
static enum phx_status run_tiles(struct phx_stream *stream, const struct gemv_args &a,
                                 unsigned n_pairs)
{
    const int64_t outs = (GATED ? 1 : TILES) * TILE;
    const dim3 grid((unsigned)ceil_div(a.n_out, outs), n_pairs);
    return launch(stream, "blocks_gemv", {grid, THREADS}, blocks_gemv<Q, X, TILES, GATED, PAIRS>,
                  a);
}

template <bool GATED, bool PAIRS>
static enum phx_status run(struct phx_stream *stream, enum phx_dtype dtype, enum phx_dtype x_dtype,
                           const struct gemv_args &a, unsigned n_pairs)
{
    /* x is read again for each block of rows: fewer of them where it weighs as much as they do. */
    const bool wide = a.n > 2 && a.n_out >= 2 * TILE * (int64_t)stream->device->info.n_units;
    return with_block_type(dtype, [&](auto tag) {
        return with_type(x_dtype, [&](auto x) {
            constexpr enum phx_dtype Q = decltype(tag)::value;
            using X = decltype(x);
            if constexpr (GATED) return run_tiles<Q, X, 2, true, PAIRS>(stream, a, n_pairs);
            if constexpr (sizeof(X) == 2 && !PAIRS)
                if (wide) return run_tiles<Q, X, 2, false, false>(stream, a, n_pairs);
            return run_tiles<Q, X, 1, false, PAIRS>(stream, a, n_pairs);
        });
    });
}

static struct gemv_args args_of(struct phx_stream *stream, const struct phx_cuda_product *p)
{
    struct gemv_args a = {};
    PHX_ASSERT(p->n >= 1 && p->n <= MAX_ROWS && p->in == p->planes.cols);
    a.planes = p->planes;
    a.x = p->x;
    a.in = p->in;
    a.straight = true;
    a.bias = p->bias;
    a.out = p->out;
    a.out_dtype = p->out_dtype;
    a.n_out = p->n_out;
    a.x_stride = p->x_stride;
    a.out_stride = p->out_stride;
    a.scale = p->scale;
    a.soft_cap = p->soft_cap;
    a.n = (int)p->n;
    a.n_early = (unsigned)stream->device->info.n_units * BLOCKS_PER_SM;
    return a;
}

extern "C" enum phx_status phx_cuda_blocks_gemv(struct phx_stream *stream,
                                                const struct phx_cuda_product *product)
{
    const struct gemv_args a = args_of(stream, product);
    return run<false, false>(stream, product->weight_dtype, product->x_dtype, a, 1);
}

extern "C" enum phx_status phx_cuda_blocks_gemv_gated(struct phx_stream *stream,
                                                      const struct phx_cuda_product *product,
                                                      enum phx_activation activation)
{
    struct gemv_args a = args_of(stream, product);
    a.n_out /= 2;
    a.activation = activation;
    return run<true, false>(stream, product->weight_dtype, product->x_dtype, a, 1);
}

extern "C" enum phx_status phx_cuda_blocks_experts(struct phx_stream *stream,
                                                   const struct phx_cuda_experts *e, bool gated)
{
    struct gemv_args a = {};
    a.planes = e->planes;
    a.x = e->x;
    a.in = e->in;
    a.lead = e->lead;
    a.straight = e->straight;
    a.out = e->out;
    a.out_dtype = e->act;
    a.n_out = e->n_out;
    a.x_stride = e->x_stride;
    a.out_stride = e->out_stride;
    a.n = 1;
    a.activation = e->activation;
    a.experts = e->ids;
    a.first_expert = e->first;
    a.n_local = e->n_local;
    a.per_row = e->per_row;
    return gated ? run<true, true>(stream, e->weight_dtype, e->act, a, (unsigned)e->n_pairs)
                 : run<false, true>(stream, e->weight_dtype, e->act, a, (unsigned)e->n_pairs);
}
