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

/* A warp's walk over the inner dimension of one pair of a row after the other. */
struct walk {
    int32_t j;      /* of the row's pairs; from k on: the end */
    int64_t at;     /* where the lane is in it */
    int32_t expert; /* of pair `lane`; negative: another rank's */
    float weight;   /* of pair `lane` */

    __device__ void skip_foreign(int32_t k)
    {
        while (j < k && __shfl_sync(~0u, expert, j) < 0) j++;
    }

    __device__ void next(int32_t k, int64_t in, int lane)
    {
        at += STEP;
        if (at - lane * 8 < in) return;
        at = lane * 8;
        j++;
        skip_foreign(k);
    }
};

/* Loads of several pairs are under way together: each has few steps of its own. */
template <typename W, typename X, bool STRAIGHT>
__global__ void __launch_bounds__(THREADS)
    sum_few(struct phx_cuda_experts e, struct phx_cuda_expert_sums s)
{
    constexpr int UNROLL = sizeof(W) == 2 ? 4 : 2;
    const int lane = threadIdx.x % 32;
    const int64_t row = blockIdx.y, first_pair = row * e.k;
    const int64_t out = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * SUMS;
    wait_for_predecessor();
    if (out >= e.n_out) return;
    const int64_t second = out + 1 < e.n_out ? out + 1 : out; /* past the end: again */
    struct walk walk = {0, lane * 8, -1, 0};
    if (lane < e.k) {
        const int32_t expert = local_expert(e, first_pair + lane);
        walk.expert = is_local(e, expert) ? expert : -1;
        walk.weight = e.weights[first_pair + lane];
    }
    walk.skip_foreign(e.k);
    float sum[2] = {};
    while (walk.j < e.k) {
        eight<W> raw[UNROLL][2];
        const X *x[UNROLL];
        float weight[UNROLL];
        int64_t at[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const bool left = walk.j < e.k;
            const int32_t j = left ? walk.j : 0;
            const int64_t expert = __shfl_sync(~0u, walk.expert, j);
            weight[u] = __shfl_sync(~0u, walk.weight, j);
            x[u] = (const X *)e.x + (first_pair + j) * e.x_stride;
            at[u] = left && walk.at < e.in ? walk.at : -1; /* the lane has nothing here */
            if (at[u] >= 0) {
                const W *w = (const W *)e.weight + expert * e.n_out * e.pitch + at[u];
                raw[u][0] = load_streamed(w + out * e.pitch);
                raw[u][1] = load_streamed(w + second * e.pitch);
            }
            if (left) walk.next(e.k, e.in, lane);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            float other[8];
            if (at[u] < 0) continue;
            load_x<X, STRAIGHT>(x[u], at[u], e.in, other);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float wide[8], part = 0;
                widen(raw[u][r], wide);
#pragma unroll
                for (int v = 0; v < 8; v++) part = fmaf(wide[v], other[v], part);
                sum[r] = fmaf(weight[u], part, sum[r]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) sum[r] = warp_reduce(sum[r], add_op());
    if (lane != 0) return;
    finish_sum<X>(s, row, out, sum[0]);
    if (second > out) finish_sum<X>(s, row, second, sum[1]);
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
