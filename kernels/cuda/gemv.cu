/* Products for a few rows of x: bound by reading the weight, once.
 *
 * A block takes consecutive outputs, as many as every other block to within one. Its warps share
 * each row of the weight: a warp has the same columns of all rows, so its part of x stays in
 * registers, and sums of warps meet in shared memory. What a thread loads first is on its way, or
 * there, before the kernels that compute x have ended: nothing on a stream writes a weight then
 * (weight.c).
 *
 * Registers are the room for loads under way, and a multiprocessor has them for BLOCKS blocks and
 * no more. So the grid is what the GPU holds at a time, and no block finds its place taken, or two
 * where one was meant, whatever else ran when it came. */
#include <limits.h>
#include <type_traits>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/gemv_ways.cuh"

enum {
    WARPS = 16,
    THREADS = WARPS * 32,
    PACE = 2 /* loads of a thread under way while the predecessor runs */
};

/* How the outputs are dealt to blocks, and a block's rows to its warps. */
struct gemv_shares {
    int least, more; /* outputs of a block; blocks that have one more */
    int split;       /* warps that share a row, a power of 2; the others have other rows */
};

/* Output `out` of row i from its sum and, where GATED, the sum that it gates. */
template <bool GATED>
__device__ inline void finish(const struct gemv_args &a, int64_t out, int i, float sum, float gated)
{
    if (a.bias != NULL) sum += a.bias[out];
    if (GATED && a.bias != NULL) gated += a.bias[a.n_out + out];
    const float value =
        GATED ? activate(a.activation, sum) * gated : scaled_and_capped(sum, a.scale, a.soft_cap);
    store_any(a.out_dtype, a.out, i * a.out_stride + out, value);
}

/* Rows of the weight that belong to a block; where GATED, a gate and what it gates in turn. */
template <typename W, bool GATED> struct rows_view {
    const W *weight;
    int64_t gated; /* values from a gate's row to the gated one */
    int in, count;

    /* Eight values of `row` from k on; past an end zeros. */
    __device__ eight<W> load(int row, int k) const
    {
        if (row >= count || k >= in) return {};
        const int64_t begin = (int64_t)(GATED ? row / 2 : row) * in;
        return load_streamed(weight + begin + (GATED && row % 2 ? gated : 0) + k);
    }
};

/* Goes on when `x` has arrived: no load passes a fence that may come. */
template <typename T> __device__ inline void arrive(const eight<T> &x)
{
    if (x.words[0].x == 0x9e3779b9u) __threadfence_block();
}

/* Computes TILE rows at a time; `parts` alternates so that the block meets once for each. */
template <typename Way, bool GATED>
__global__ void __launch_bounds__(THREADS, Way::BLOCKS)
    gemv(struct gemv_args a, struct gemv_shares shares)
{
    using W = typename Way::weight;
    constexpr int N = Way::N, TILE = Way::GROUPS * Way::ROWS, PER_OUT = GATED ? 2 : 1;
    __shared__ float parts[2][TILE][WARPS * N + 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int part = warp & (shares.split - 1), shift = __ffs(shares.split) - 1;
    const int group = warp >> shift, groups = WARPS >> shift;
    const int block = blockIdx.x, n_outs = shares.least + (block < shares.more);
    const int64_t begin = (int64_t)block * shares.least + min(block, shares.more);
    const rows_view<W, GATED> rows = {(const W *)a.weight + begin * a.in, a.n_out * a.in, a.in,
                                      n_outs * PER_OUT};
    const int step = shares.split * GEMV_STEP, first = part * GEMV_STEP;
    Way way;
    eight<W> w[Way::LOADS];
#pragma unroll
    for (int l = 0; l < Way::LOADS; l++) {
        w[l] = rows.load(way.row(l, lane) * groups + group, first + way.column(l, lane));
        if (l % PACE == PACE - 1) arrive(w[l]);
    }
    wait_for_predecessor();

    bool is_loaded = true;
    for (int tile = 0, turn = 0; tile < rows.count; tile += TILE, turn ^= 1) {
        const int tile_end = min(tile + TILE, rows.count);
        for (int from = 0; from < a.in; from += step) {
            const int k = from + first;
            for (int row = tile; row < tile_end; row += Way::ROWS * groups) {
                if (!is_loaded)
#pragma unroll
                    for (int l = 0; l < Way::LOADS; l++)
                        w[l] = rows.load(row + way.row(l, lane) * groups + group,
                                         k + way.column(l, lane));
                is_loaded = false;
                if (row == tile && (tile == 0 || step < a.in)) way.load(a, k, lane);
                way.multiply(w, lane, [&](int r, int i, float sum) {
                    float *to = &parts[turn][row - tile + r * groups + group][part * N + i];
                    *to = from == 0 ? sum : *to + sum;
                });
            }
        }
        __syncthreads();
        for (int t = threadIdx.x; t < (tile_end - tile) / PER_OUT * N; t += THREADS) {
            const int out = t / N, i = t % N;
            float sum[PER_OUT] = {};
            for (int p = 0; p < shares.split; p++)
#pragma unroll
                for (int j = 0; j < PER_OUT; j++)
                    sum[j] += parts[turn][out * PER_OUT + j][p * N + i];
            if (i < a.n)
                finish<GATED>(a, begin + tile / PER_OUT + out, i, sum[0], sum[PER_OUT - 1]);
        }
    }
}

/* Among how many warps a row of `in` values is best divided where a block has `rows` of them: so
 * that a warp waits for loads the fewest times, then so that it has the fewest. */
template <typename Way> static int best_split(int64_t rows, int64_t in)
{
    int best = WARPS;
    int64_t best_waits = INT64_MAX, best_loads = INT64_MAX;
    for (int split = WARPS; split >= WARPS / Way::GROUPS; split /= 2) {
        const int64_t steps = ceil_div(in, split * GEMV_STEP);
        const int64_t mine = ceil_div(rows, WARPS / split);
        const int64_t waits = steps * ceil_div(mine, Way::ROWS), loads = steps * mine;
        if (waits > best_waits || (waits == best_waits && loads >= best_loads)) continue;
        best = split;
        best_waits = waits;
        best_loads = loads;
    }
    return best;
}

template <typename Way, bool GATED>
static enum phx_status run_way(struct phx_stream *stream, const struct gemv_args &a)
{
    const int64_t n_units = stream->device->info.n_units, n_rows = a.n_out * (GATED ? 2 : 1);
    /* one block where it has all that it reads under way at once */
    const bool is_small = n_rows * a.in <= n_units * THREADS * Way::LOADS * 8;
    const int64_t blocks = n_units * (is_small ? 1 : Way::BLOCKS);
    const struct gemv_shares shares = {(int)(a.n_out / blocks), (int)(a.n_out % blocks),
                                       best_split<Way>(ceil_div(n_rows, blocks), a.in)};
    return launch(stream, "gemv", {(unsigned)blocks, THREADS}, gemv<Way, GATED>, a, shares);
}

template <bool GATED>
static enum phx_status run(struct phx_stream *stream, const struct phx_cuda_product *p,
                           enum phx_activation activation)
{
    PHX_ASSERT(p->n >= 1 && p->n <= PHX_CUDA_GEMV_MAX_ROWS && p->in <= INT_MAX / 2);
    struct gemv_args a = {};
    a.x = p->x;
    a.weight = p->weight;
    a.bias = p->bias;
    a.out = p->out;
    a.out_dtype = p->out_dtype;
    a.activation = activation;
    a.n_out = GATED ? p->n_out / 2 : p->n_out;
    a.x_stride = p->x_stride;
    a.out_stride = p->out_stride;
    a.scale = p->scale;
    a.soft_cap = p->soft_cap;
    a.n = (int)p->n;
    a.in = (int)p->in;
    return with_type(p->weight_dtype, [&](auto w) {
        return with_type(p->x_dtype, [&](auto x) {
            using W = decltype(w);
            using X = decltype(x);
            if (a.n == 1) return run_way<by_thread<W, X, 1>, GATED>(stream, a);
            if (a.n == 2) return run_way<by_thread<W, X, 2>, GATED>(stream, a);
            if constexpr (std::is_same_v<W, X> && sizeof(W) == 2)
                return run_way<by_tile<W>, GATED>(stream, a);
            else
                return a.n <= 4 ? run_way<by_thread<W, X, 4>, GATED>(stream, a)
                                : run_way<by_thread<W, X, 8>, GATED>(stream, a);
        });
    });
}

extern "C" enum phx_status phx_cuda_gemv(struct phx_stream *stream,
                                         const struct phx_cuda_product *product)
{
    return run<false>(stream, product, PHX_SILU);
}

extern "C" enum phx_status phx_cuda_gemv_gated(struct phx_stream *stream,
                                               const struct phx_cuda_product *product,
                                               enum phx_activation activation)
{
    return run<true>(stream, product, activation);
}
