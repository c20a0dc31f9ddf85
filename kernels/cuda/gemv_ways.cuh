/// \file gemv_ways.cuh
/// How a warp multiplies some rows of a weight, GEMV_STEP columns of each, by up to N rows of x. A
/// way has
///   weight           its type of values
///   ROWS             rows of the weight
///   LOADS            of a thread: load l is of row row(l, lane), from column(l, lane) on
///   BLOCKS, GROUPS   of a multiprocessor; of a block's warps, at most, that have rows of their own
///   load(a, k, lane)      gets what it needs of x from column k on
///   multiply(w, lane, f)  calls f(row, i, sum) for the sums that are this lane's
#ifndef PHX_KERNELS_CUDA_GEMV_WAYS_CUH
#define PHX_KERNELS_CUDA_GEMV_WAYS_CUH

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/types.cuh"

enum { GEMV_STEP = 32 * 8 };

/// As struct phx_cuda_product. Of a gated product the weight has 2 * n_out rows: gates, then what
/// they gate.
struct gemv_args {
    const void *x;
    const void *weight;
    const float *bias;
    void *out;
    enum phx_dtype out_dtype;
    enum phx_activation activation;
    int64_t n_out; ///< columns of out
    int64_t x_stride, out_stride;
    float scale, soft_cap;
    int n, in;
};

/// Eight values of row i of x from k on; past an end zeros.
template <typename X> __device__ inline eight<X> load_x(const struct gemv_args &a, int i, int k)
{
    if (i >= a.n || k >= a.in) return {};
    return load_eight((const X *)a.x + i * a.x_stride + k);
}

/// Sums over a warp of M values, a power of 2: lane l has that of value l / (32 / M).
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

/// A thread multiplies what it has loaded, and all sums are added up over the lanes at once.
template <typename WEIGHT, typename X, int ROWS_OF_X> struct by_thread {
    using weight = WEIGHT;
    static constexpr int N = ROWS_OF_X, BLOCKS = N <= 2 ? 2 : 1, GROUPS = 8;
    static constexpr int ROWS = 32 / BLOCKS / (int)sizeof(weight) / N, LOADS = ROWS;
    eight<X> x[N];

    static __device__ int row(int l, int)
    {
        return l;
    }
    static __device__ int column(int, int lane)
    {
        return lane * 8;
    }
    __device__ void load(const struct gemv_args &a, int k, int lane)
    {
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = load_x<X>(a, i, k + lane * 8);
    }
    template <typename F>
    __device__ void multiply(const eight<weight> (&w)[LOADS], int lane, F f) const
    {
        float sums[ROWS * N] = {};
#pragma unroll
        for (int i = 0; i < N; i++) {
            float other[8];
            widen(x[i], other);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float wide[8];
                widen(w[r], wide);
#pragma unroll
                for (int v = 0; v < 8; v++)
                    sums[r * N + i] = fmaf(wide[v], other[v], sums[r * N + i]);
            }
        }
        constexpr int LANES = 32 / (ROWS * N); /* that have the same sum */
        const float sum = warp_sums(sums, lane);
        if (lane % LANES == 0) f(lane / LANES / N, lane / LANES % N, sum);
    }
};

/// On tensor cores, for 16-bit values: 16 rows of the weight by eight of x.
///
/// A load is of four rows, 128 bytes of each: whole lines. Of two of them, of rows 0 to 3 and 4 to
/// 7, a lane gives one half away, four lanes on or back, and has then with three others 128 bytes
/// of one row, as mma.sync wants it; which columns come first does not matter, as long as x has
/// them in the same order.
template <typename T> struct by_tile {
    using weight = T;
    static constexpr int N = 8, ROWS = 16, LOADS = 16, BLOCKS = 1, GROUPS = 2;
    static constexpr int LINE = 64; /* columns of a load */
    uint4 x[GEMV_STEP / LINE][2];

    static __device__ int row(int l, int lane)
    {
        return l / 8 * 8 + l % 2 * 4 + lane / 8;
    }
    static __device__ int column(int l, int lane)
    {
        return l % 8 / 2 * LINE + lane % 8 * 8;
    }
    __device__ void load(const struct gemv_args &a, int k, int lane)
    {
#pragma unroll
        for (int c = 0; c < GEMV_STEP / LINE; c++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                x[c][h] = load_x<T>(a, lane / 4, k + c * LINE + h * 32 + lane % 4 * 8).words[0];
    }

    /* first, second: columns 8 * (lane % 4) and 32 + 8 * (lane % 4) of the row that is the lane's.
     */
    static __device__ void exchange(const eight<T> &upper, const eight<T> &lower, int lane,
                                    uint4 &first, uint4 &second)
    {
        const bool odd = lane & 4;
        const uint4 give = odd ? upper.words[0] : lower.words[0];
        uint4 got;
        got.x = __shfl_xor_sync(~0u, give.x, 4);
        got.y = __shfl_xor_sync(~0u, give.y, 4);
        got.z = __shfl_xor_sync(~0u, give.z, 4);
        got.w = __shfl_xor_sync(~0u, give.w, 4);
        first = odd ? got : upper.words[0];
        second = odd ? lower.words[0] : got;
    }

    template <typename F> __device__ void multiply(const eight<T> (&w)[LOADS], int lane, F f) const
    {
        float sums[4] = {};
#pragma unroll
        for (int c = 0; c < GEMV_STEP / LINE; c++) {
            uint4 a[2][2]; /* [rows from 0 or 8 on][first or second columns] */
            exchange(w[2 * c], w[2 * c + 1], lane, a[0][0], a[0][1]);
            exchange(w[8 + 2 * c], w[8 + 2 * c + 1], lane, a[1][0], a[1][1]);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t low[4] = {a[0][h].x, a[1][h].x, a[0][h].y, a[1][h].y};
                const uint32_t high[4] = {a[0][h].z, a[1][h].z, a[0][h].w, a[1][h].w};
                ::multiply(T(), sums, low, x[c][h].x, x[c][h].y);
                ::multiply(T(), sums, high, x[c][h].z, x[c][h].w);
            }
        }
        const int row = lane / 4 % 2 * 4 + lane / 8; /* as exchanged */
#pragma unroll
        for (int j = 0; j < 4; j++) f(row + j / 2 * 8, lane % 4 * 2 + j % 2, sums[j]);
    }
};

#endif
