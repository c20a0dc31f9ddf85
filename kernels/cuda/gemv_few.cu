/* Products for three to eight rows of x: bound by reading the weight, once, in 16-byte loads of
 * which several are under way. A warp computes a few outputs for all rows; x comes from the caches.
 * What a warp reads of the weight first is on its way while the kernel before still runs. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/gemv.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    STEP = 32 * 8,    /* values of a row that a warp reads at once */
    ROWS = 4,         /* of the weight, that a warp takes */
    UNROLL = 2,       /* steps at once */
    BLOCKS_PER_SM = 8 /* about as many fit */
};

/* acc[r][i] += sum over steps of 8 values at k, k + STEP, ... of w[r] and x's row i. */
template <typename W, typename X, int N, int STEPS>
__device__ inline void accumulate(const W *const (&w)[ROWS], const X *const (&x)[N], int64_t k,
                                  float (&acc)[ROWS][N])
{
    eight<W> raw[STEPS][ROWS];
#pragma unroll
    for (int u = 0; u < STEPS; u++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) raw[u][r] = load_streamed(w[r] + k + u * STEP);
#pragma unroll
    for (int u = 0; u < STEPS; u++) {
        float wide[ROWS][8];
#pragma unroll
        for (int r = 0; r < ROWS; r++) widen(raw[u][r], wide[r]);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float other[8];
            widen(load_eight(x[i] + k + u * STEP), other);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int v = 0; v < 8; v++) acc[r][i] = fmaf(wide[r][v], other[v], acc[r][i]);
        }
    }
}

/* Where GATED, the first half of a warp's rows gates the second. */
template <typename W, typename X, int N, bool GATED>
__global__ void __launch_bounds__(THREADS) gemv_few(struct gemv_args a, unsigned n_early)
{
    constexpr int OUTS = GATED ? ROWS / 2 : ROWS;
    const int lane = threadIdx.x % 32;
    const int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * OUTS;
    int64_t k = lane * 8;
    const W *w[ROWS];
    const X *x[N];
    float acc[ROWS][N] = {};
#pragma unroll
    for (int r = 0; r < ROWS; r++) { /* past the end: the last one again */
        int64_t out = first + r % OUTS;
        int64_t row = (out < a.n_out ? out : a.n_out - 1) + (r < OUTS ? 0 : a.n_out);
        w[r] = (const W *)a.weight + row * a.in;
    }
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = (const X *)a.x + (i < a.n ? i : a.n - 1) * a.x_stride;
    if (blockIdx.x < n_early) /* that may be there before the predecessor has ended */
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (k + u * STEP < a.in) prefetch(w[r] + k + u * STEP);
    wait_for_predecessor();
    if (first >= a.n_out) return;

    for (; k + (UNROLL - 1) * STEP < a.in; k += UNROLL * STEP)
        accumulate<W, X, N, UNROLL>(w, x, k, acc);
    for (; k < a.in; k += STEP) accumulate<W, X, N, 1>(w, x, k, acc);

#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < N; i++) acc[r][i] = warp_reduce(acc[r][i], add_op());
    if (lane != 0) return;
#pragma unroll
    for (int r = 0; r < OUTS; r++)
#pragma unroll
        for (int i = 0; i < N; i++)
            if (first + r < a.n_out && i < a.n)
                finish<GATED>(a, first + r, i, acc[r][i], acc[GATED ? OUTS + r : r][i]);
}

template <typename W, typename X, int N, bool GATED>
static enum phx_status run_rows(struct phx_stream *stream, const struct gemv_args &a)
{
    const int64_t outs = (GATED ? ROWS / 2 : ROWS) * WARPS;
    const unsigned n_early = (unsigned)stream->device->info.n_units * BLOCKS_PER_SM;
    return launch(stream, "gemv_few", {(unsigned)ceil_div(a.n_out, outs), THREADS},
                  gemv_few<W, X, N, GATED>, a, n_early);
}

enum phx_status phx_cuda_gemv_few(struct phx_stream *stream, enum phx_dtype weight,
                                  enum phx_dtype x_dtype, bool is_gated, const struct gemv_args &a)
{
    return with_type(weight, [&](auto w) {
        return with_type(x_dtype, [&](auto x) {
            using W = decltype(w);
            using X = decltype(x);
            if (is_gated)
                return a.n <= 4 ? run_rows<W, X, 4, true>(stream, a)
                                : run_rows<W, X, 8, true>(stream, a);
            return a.n <= 4 ? run_rows<W, X, 4, false>(stream, a)
                            : run_rows<W, X, 8, false>(stream, a);
        });
    });
}
