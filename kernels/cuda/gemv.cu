/* Products for one or two rows of x: bound by reading the weight, once.
 *
 * A block takes consecutive outputs, as many as every other block to within one. Its warps share
 * each row of the weight: a warp has the same columns of all rows, so its part of x stays in
 * registers, and sums of warps meet in shared memory. What a thread loads first is on its way, or
 * there, before the kernels that compute x have ended: nothing on a stream writes a weight then
 * (weight.c).
 *
 * Registers are the room for loads under way, and the two blocks of a multiprocessor take all of
 * them. So the grid is what the GPU holds at a time, and no block finds its place taken, or two
 * where one was meant, whatever else ran when it came. */
#include <limits.h>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/gemv.cuh"

enum {
    WARPS = 16,
    THREADS = WARPS * 32,
    BLOCKS_PER_SM = 2,
    STEP = 32 * 8,  /* values of a row that a warp reads at once */
    MAX_GROUPS = 8, /* rows that a block reads at once, but for those that a thread has under way */
    PACE = 2        /* loads of a thread under way while the predecessor runs */
};

/* How the outputs are dealt to blocks, and a block's rows to its warps. */
struct gemv_shares {
    int least, more; /* outputs of a block; blocks that have one more */
    int split;       /* warps that share a row, a power of 2; the others have other rows */
};

/* How many rows a thread loads before it uses them, with N rows of x: what registers hold. */
template <typename W, int N> __host__ __device__ constexpr int rows_at_once()
{
    return 16 / (int)sizeof(W) / N;
}

/* Goes on when `x` has arrived: no load passes a fence that may come. */
template <typename T> __device__ inline void arrive(const eight<T> &x)
{
    if (x.words[0].x == 0x9e3779b9u) __threadfence_block();
}

/* Sums over a warp of M values, a power of 2: lane l has that of value l / (32 / M). */
template <int OFFSET = 16, int M> __device__ inline float warp_sums(const float (&v)[M], int lane)
{
    if constexpr (M > 1) {
        const bool upper = lane & OFFSET;
        float half[M / 2];
#pragma unroll
        for (int i = 0; i < M / 2; i++) {
            const float given = upper ? v[i] : v[i + M / 2];
            half[i] = (upper ? v[i + M / 2] : v[i]) + __shfl_xor_sync(~0u, given, OFFSET);
        }
        return warp_sums<OFFSET / 2>(half, lane);
    }
    float sum = v[0];
#pragma unroll
    for (int offset = OFFSET; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    return sum;
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

/* acc[r * N + i] = w[r] . x[i] */
template <typename W, typename X, int N, int ROWS>
__device__ inline void multiply(const eight<W> (&w)[ROWS], const eight<X> (&x)[N],
                                float (&acc)[ROWS * N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        float other[8];
        widen(x[i], other);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float wide[8];
            widen(w[r], wide);
            acc[r * N + i] = 0;
#pragma unroll
            for (int v = 0; v < 8; v++) acc[r * N + i] = fmaf(wide[v], other[v], acc[r * N + i]);
        }
    }
}

/* Computes TILE rows at a time; `parts` alternates so that they meet once for each. */
template <typename W, typename X, int N, bool GATED>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    gemv(struct gemv_args a, struct gemv_shares shares)
{
    constexpr int ROWS = rows_at_once<W, N>(), TILE = MAX_GROUPS * ROWS, PER_OUT = GATED ? 2 : 1;
    __shared__ float parts[2][TILE][WARPS * N + 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int part = warp & (shares.split - 1), shift = __ffs(shares.split) - 1;
    const int group = warp >> shift, groups = WARPS >> shift;
    const int block = blockIdx.x, n_outs = shares.least + (block < shares.more);
    const int64_t begin = (int64_t)block * shares.least + min(block, shares.more);
    const rows_view<W, GATED> rows = {(const W *)a.weight + begin * a.in, a.n_out * a.in, a.in,
                                      n_outs * PER_OUT};
    const int step = shares.split * STEP, first = part * STEP + lane * 8;
    eight<W> w[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        w[r] = rows.load(r * groups + group, first);
        if (r % PACE == PACE - 1) arrive(w[r]);
    }
    wait_for_predecessor();

    eight<X> x[N];
    bool is_loaded = true;
    for (int tile = 0, turn = 0; tile < rows.count; tile += TILE, turn ^= 1) {
        const int tile_end = min(tile + TILE, rows.count);
        for (int from = 0; from < a.in; from += step) {
            const int k = from + first;
            for (int row = tile; row < tile_end; row += ROWS * groups) {
                if (!is_loaded)
#pragma unroll
                    for (int r = 0; r < ROWS; r++) w[r] = rows.load(row + r * groups + group, k);
                is_loaded = false;
                if (row == tile && (tile == 0 || step < a.in)) /* else it is there */
#pragma unroll
                    for (int i = 0; i < N; i++)
                        x[i] = i < a.n && k < a.in ? load_eight((const X *)a.x + i * a.x_stride + k)
                                                   : eight<X>{};
                float acc[ROWS * N];
                multiply<W, X, N, ROWS>(w, x, acc);
                const float sum = warp_sums(acc, lane);
                const int index = lane / (32 / (ROWS * N)), r = index / N, i = index % N;
                float *to = &parts[turn][row - tile + r * groups + group][part * N + i];
                if (lane % (32 / (ROWS * N)) == 0) *to = from == 0 ? sum : *to + sum;
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

/* Among how many warps a row of `in` values is best divided where a block has `rows` of them, of
 * which a thread loads `at_once`: so that a warp waits for loads the fewest times, then so that it
 * has the fewest. */
static int best_split(int64_t rows, int64_t in, int at_once)
{
    int best = WARPS;
    int64_t best_waits = INT64_MAX, best_loads = INT64_MAX;
    for (int split = WARPS; split >= WARPS / MAX_GROUPS; split /= 2) {
        const int64_t steps = ceil_div(in, split * STEP), mine = ceil_div(rows, WARPS / split);
        const int64_t waits = steps * ceil_div(mine, at_once), loads = steps * mine;
        if (waits > best_waits || (waits == best_waits && loads >= best_loads)) continue;
        best = split;
        best_waits = waits;
        best_loads = loads;
    }
    return best;
}

template <typename W, typename X, int N, bool GATED>
static enum phx_status run_rows(struct phx_stream *stream, const struct gemv_args &a)
{
    const int64_t n_units = stream->device->info.n_units, n_rows = a.n_out * (GATED ? 2 : 1);
    const int at_once = rows_at_once<W, N>();
    /* one block where it has all that it reads under way at once */
    const bool is_small = n_rows * a.in <= n_units * THREADS * at_once * 8;
    const int64_t blocks = n_units * (is_small ? 1 : BLOCKS_PER_SM);
    const struct gemv_shares shares = {(int)(a.n_out / blocks), (int)(a.n_out % blocks),
                                       best_split(ceil_div(n_rows, blocks), a.in, at_once)};
    return launch(stream, "gemv", {(unsigned)blocks, THREADS}, gemv<W, X, N, GATED>, a, shares);
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
    if (a.n > 2) return phx_cuda_gemv_few(stream, p->weight_dtype, p->x_dtype, GATED, a);
    return with_type(p->weight_dtype, [&](auto w) {
        return with_type(p->x_dtype, [&](auto x) {
            using W = decltype(w);
            using X = decltype(x);
            if (a.n == 1) return run_rows<W, X, 1, GATED>(stream, a);
            return run_rows<W, X, 2, GATED>(stream, a);
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
