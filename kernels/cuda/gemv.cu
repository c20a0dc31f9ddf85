/* Products for a few rows of x: bound by reading the weight, once, in 16-byte loads of which
 * several are under way. A warp computes a few outputs for all rows; x comes from the caches. What
 * a warp reads of the weight first is on its way while the kernel before still runs. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/types.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    STEP = 32 * 8,    /* values of a row that a warp reads at once */
    BLOCKS_PER_SM = 8 /* about as many fit */
};

struct gemv_args {
    const void *x;      /* [n, in] */
    const void *weight; /* [n_rows of it, in] */
    const float *bias;
    void *out;
    enum phx_dtype out_dtype;
    int64_t in, n_out; /* n_out: columns of out */
    int64_t x_stride, out_stride;
    float scale, soft_cap;
    int n; /* rows of x: at most N */
    enum phx_activation activation;
    unsigned n_early; /* blocks that may be there before the predecessor has ended */
};

/* acc[r][i] += sum over steps of 8 values at k, k + STEP, ... of w[r] and x's row i. */
template <typename W, typename X, int N, int ROWS, int UNROLL>
__device__ inline void accumulate(const W *const (&w)[ROWS], const X *const (&x)[N], int64_t k,
                                  float (&acc)[ROWS][N])
{
    eight<W> raw[UNROLL][ROWS];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) raw[u][r] = load_streamed(w[r] + k + u * STEP);
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
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

/* ROWS rows of the weight a warp; where GATED, the first half of them gates the second. */
template <typename W, typename X, int N, int ROWS, bool GATED>
__global__ void __launch_bounds__(THREADS) gemv(struct gemv_args a)
{
    constexpr int OUTS = GATED ? ROWS / 2 : ROWS;
    constexpr int UNROLL = sizeof(W) == 2 && ROWS <= 2 ? 4 : 2;
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
    if (blockIdx.x < a.n_early)
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                if (k + u * STEP < a.in) prefetch(w[r] + k + u * STEP);
    wait_for_predecessor();
    if (first >= a.n_out) return;

    for (; k + (UNROLL - 1) * STEP < a.in; k += UNROLL * STEP)
        accumulate<W, X, N, ROWS, UNROLL>(w, x, k, acc);
    for (; k < a.in; k += STEP) accumulate<W, X, N, ROWS, 1>(w, x, k, acc);

#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int i = 0; i < N; i++) acc[r][i] = warp_reduce(acc[r][i], add_op());
    if (lane != 0) return;
#pragma unroll
    for (int r = 0; r < OUTS; r++) {
        const int64_t out = first + r;
        if (out >= a.n_out) break;
        const float bias = a.bias != NULL ? a.bias[out] : 0;
        const float up_bias = GATED && a.bias != NULL ? a.bias[a.n_out + out] : 0;
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (i >= a.n) break;
            float value = acc[r][i] + bias;
            if (GATED)
                value = activate(a.activation, value) * (acc[OUTS + r][i] + up_bias);
            else
                value = scaled_and_capped(value, a.scale, a.soft_cap);
            store_any(a.out_dtype, a.out, i * a.out_stride + out, value);
        }
    }
}

template <typename W, typename X, int N, bool GATED>
static enum phx_status run_rows(struct phx_stream *stream, const struct gemv_args &a)
{
    constexpr int ROWS = N <= 2 ? 2 : 4;
    const int64_t outs = (GATED ? ROWS / 2 : ROWS) * WARPS;
    return launch(stream, "gemv", {(unsigned)ceil_div(a.n_out, outs), THREADS},
                  gemv<W, X, N, ROWS, GATED>, a);
}

template <bool GATED>
static enum phx_status run(struct phx_stream *stream, const struct phx_cuda_product *p,
                           int64_t n_out, enum phx_activation activation)
{
    const struct gemv_args a = {
        p->x,          p->weight,
        p->bias,       p->out,
        p->out_dtype,  p->in,
        n_out,         p->x_stride,
        p->out_stride, p->scale,
        p->soft_cap,   (int)p->n,
        activation,    (unsigned)stream->device->info.n_units * BLOCKS_PER_SM};
    PHX_ASSERT(p->n >= 1 && p->n <= PHX_CUDA_GEMV_MAX_ROWS);
    return with_type(p->weight_dtype, [&](auto w) {
        return with_type(p->x_dtype, [&](auto x) {
            using W = decltype(w);
            using X = decltype(x);
            if (p->n == 1) return run_rows<W, X, 1, GATED>(stream, a);
            if (p->n == 2) return run_rows<W, X, 2, GATED>(stream, a);
            if (p->n <= 4) return run_rows<W, X, 4, GATED>(stream, a);
            return run_rows<W, X, 8, GATED>(stream, a);
        });
    });
}

extern "C" enum phx_status phx_cuda_gemv(struct phx_stream *stream,
                                         const struct phx_cuda_product *product)
{
    return run<false>(stream, product, product->n_out, PHX_SILU);
}

extern "C" enum phx_status phx_cuda_gemv_gated(struct phx_stream *stream,
                                               const struct phx_cuda_product *product,
                                               enum phx_activation activation)
{
    return run<true>(stream, product, product->n_out / 2, activation);
}
