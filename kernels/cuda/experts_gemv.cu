/* Products by expert for a few rows: bound by reading the weights of the experts that were chosen,
 * in 16-byte loads of which several are under way. A warp computes an output of a pair, or of a row
 * over all its pairs. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/experts.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    STEP = 32 * 8, /* values of a row that a warp reads at once */
    SUMS = 2       /* outputs of a warp that adds up pairs */
};

/* Eight values of x; past its end zeros. */
template <typename X, bool STRAIGHT>
__device__ inline void load_x(const X *x, int64_t k, int64_t in, float (&to)[8])
{
    if constexpr (STRAIGHT) {
        widen(load_eight(x + k), to);
    } else {
#pragma unroll
        for (int v = 0; v < 8; v++) to[v] = k + v < in ? to_f32(x[k + v]) : 0;
    }
}

/* acc[r] += sum over UNROLL steps of 8 values at k, k + STEP, ... of w[r] and x. */
template <typename W, typename X, bool STRAIGHT, int UNROLL>
__device__ inline void accumulate(const W *const (&w)[2], const X *x, int64_t k, int64_t in,
                                  float (&acc)[2])
{
    eight<W> raw[UNROLL][2];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int r = 0; r < 2; r++) raw[u][r] = load_streamed(w[r] + k + u * STEP);
#pragma unroll
    for (int u = 0; u < UNROLL; u++) {
        float other[8];
        load_x<X, STRAIGHT>(x, k + u * STEP, in, other);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float wide[8];
            widen(raw[u][r], wide);
#pragma unroll
            for (int v = 0; v < 8; v++) acc[r] = fmaf(wide[v], other[v], acc[r]);
        }
    }
}

/* A lane's part of the products of two rows of a weight with x. */
template <typename W, typename X, bool STRAIGHT>
__device__ inline void multiply(const W *const (&w)[2], const X *x, int64_t in, float (&acc)[2])
{
    constexpr int UNROLL = sizeof(W) == 2 ? 4 : 2;
    int64_t k = threadIdx.x % 32 * 8;
    acc[0] = acc[1] = 0;
    for (; k + (UNROLL - 1) * STEP < in; k += UNROLL * STEP)
        accumulate<W, X, STRAIGHT, UNROLL>(w, x, k, in, acc);
    for (; k < in; k += STEP) accumulate<W, X, STRAIGHT, 1>(w, x, k, in, acc);
}

template <typename W, typename X, bool STRAIGHT>
__global__ void __launch_bounds__(THREADS) gated_few(struct phx_cuda_experts e)
{
    const int64_t pair = blockIdx.y, out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    wait_for_predecessor();
    const int32_t expert = local_expert(e, pair);
    if (!is_local(e, expert) || out >= e.n_out) return;
    const W *gate = (const W *)e.weight + (2 * expert * e.n_out + out) * e.pitch;
    const W *const w[2] = {gate, gate + e.n_out * e.pitch};
    float acc[2];
    multiply<W, X, STRAIGHT>(w, (const X *)e.x + pair / e.per_row * e.x_stride, e.in, acc);
#pragma unroll
    for (int r = 0; r < 2; r++) acc[r] = warp_reduce(acc[r], add_op());
    if (threadIdx.x % 32 == 0)
        ((X *)e.out)[pair * e.out_stride + out] =
            from_f32<X>(activate(e.activation, acc[0]) * acc[1]);
}

template <typename W, typename X, bool STRAIGHT>
__global__ void __launch_bounds__(THREADS)
    sum_few(struct phx_cuda_experts e, struct phx_cuda_expert_sums s)
{
    const int64_t row = blockIdx.y;
    const int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * SUMS;
    wait_for_predecessor();
    if (first >= e.n_out) return;
    const int64_t second = first + 1 < e.n_out ? first + 1 : first; /* past the end: again */
    float sum[2] = {};
    for (int32_t j = 0; j < e.k; j++) {
        const int64_t pair = row * e.k + j;
        const int32_t expert = local_expert(e, pair);
        if (!is_local(e, expert)) continue;
        const W *weight = (const W *)e.weight + expert * e.n_out * e.pitch;
        const W *const w[2] = {weight + first * e.pitch, weight + second * e.pitch};
        float acc[2];
        multiply<W, X, STRAIGHT>(w, (const X *)e.x + pair * e.x_stride, e.in, acc);
#pragma unroll
        for (int r = 0; r < 2; r++) sum[r] = fmaf(e.weights[pair], acc[r], sum[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) sum[r] = warp_reduce(sum[r], add_op());
    if (threadIdx.x % 32 != 0) return;
    finish_sum<X>(s, row, first, sum[0]);
    if (second > first) finish_sum<X>(s, row, second, sum[1]);
}

/* Call f with values of the weight's and the activations' type. */
template <typename F> static enum phx_status with_types(const struct phx_cuda_experts *e, F f)
{
    return with_type(e->weight_dtype,
                     [&](auto w) { return with_type(e->act, [&](auto x) { return f(w, x); }); });
}

extern "C" enum phx_status phx_cuda_experts_gated_few(struct phx_stream *stream,
                                                      const struct phx_cuda_experts *e)
{
    const dim3 grid((unsigned)ceil_div(e->n_out, WARPS), (unsigned)e->n_pairs);
    return with_types(e, [&](auto w, auto x) {
        using W = decltype(w);
        using X = decltype(x);
        return launch(stream, "gated_few", {grid, THREADS},
                      e->straight ? gated_few<W, X, true> : gated_few<W, X, false>, *e);
    });
}

extern "C" enum phx_status phx_cuda_experts_sum_few(struct phx_stream *stream,
                                                    const struct phx_cuda_experts *e,
                                                    const struct phx_cuda_expert_sums *sums)
{
    const dim3 grid((unsigned)ceil_div(e->n_out, WARPS * SUMS), (unsigned)(e->n_pairs / e->k));
    return with_types(e, [&](auto w, auto x) {
        using W = decltype(w);
        using X = decltype(x);
        return launch(stream, "sum_few", {grid, THREADS},
                      e->straight ? sum_few<W, X, true> : sum_few<W, X, false>, *e, *sums);
    });
}
