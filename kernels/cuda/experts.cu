/* Mixtures of experts around their products: who goes where, and the sums at the end. */
#include <math_constants.h>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/experts.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, COLUMNS = 256 };

/* ---- route: a warp a row; a lane holds every 32nd expert ---- */

struct route_args {
    const float *logits;
    int64_t stride;
    int32_t n_rows, n_experts, k;
    bool normalize;
    int32_t *ids;
    float *weights;
};

/* A value and whose it is; the larger value, then the lower expert. */
struct best {
    float value;
    int32_t expert; /* INT32_MAX: none */
};

struct best_op {
    __device__ bool operator()(const best &a, const best &b) const
    {
        return a.value > b.value || (a.value == b.value && a.expert < b.expert);
    }
};

__device__ inline best warp_best(best x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const best other = {__shfl_xor_sync(~0u, x.value, offset),
                            __shfl_xor_sync(~0u, x.expert, offset)};
        if (best_op()(other, x)) x = other;
    }
    return x;
}

template <int EACH> __global__ void __launch_bounds__(THREADS) route(struct route_args a)
{
    const int lane = threadIdx.x % 32;
    const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    wait_for_predecessor();
    if (row >= a.n_rows) return;
    const float *logits = a.logits + row * a.stride;
    float own[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int32_t e = lane + 32 * i;
        own[i] = e < a.n_experts ? logits[e] : -CUDART_INF_F;
    }
    uint32_t taken = 0; /* of the lane's experts */
    int32_t id = 0;     /* lane j's is the j-th */
    float largest = 0;
    for (int32_t j = 0; j < a.k; j++) {
        best mine = {-CUDART_INF_F, INT32_MAX};
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int32_t e = lane + 32 * i;
            const best one = {isnan(own[i]) ? -CUDART_INF_F : own[i], e};
            if (e < a.n_experts && !(taken >> i & 1) && best_op()(one, mine)) mine = one;
        }
        const int32_t chosen = warp_best(mine).expert;
        if (chosen % 32 == lane) taken |= 1u << chosen / 32;
        if (lane == j) id = chosen;
        if (j == 0) largest = logits[chosen];
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i < a.n_experts) sum += expf(own[i] - largest);
    sum = warp_reduce(sum, add_op());
    float weight = lane < a.k ? expf(logits[id] - largest) / sum : 0;
    if (a.normalize) weight /= warp_reduce(weight, add_op());
    if (lane >= a.k) return;
    a.ids[row * a.k + lane] = id;
    a.weights[row * a.k + lane] = weight;
}

static_assert(PHX_MAX_CHOSEN <= 32, "a lane for each expert chosen");
static_assert(PHX_MAX_EXPERTS <= 32 * 32, "a bit for each of a lane's experts");

extern "C" enum phx_status phx_cuda_route(struct phx_stream *stream, const struct phx_route *args)
{
    const struct phx_routing *r = &args->routing;
    int32_t *notes = address_of<int32_t>(r->groups);
    const struct route_args a = {address_of<const float>(args->logits),
                                 args->logits.stride,
                                 (int32_t)args->logits.rows,
                                 r->n_experts,
                                 (int32_t)r->ids.cols,
                                 args->normalize,
                                 address_of<int32_t>(r->ids),
                                 address_of<float>(r->weights)};
    const struct launch_shape shape = {(unsigned)ceil_div(a.n_rows, WARPS), THREADS};
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_TRY(launch(stream, "route", shape,
                   a.n_experts <= 128   ? route<4>
                   : a.n_experts <= 256 ? route<8>
                                        : route<32>,
                   a));
    if (a.n_rows <= PHX_CUDA_FEW_EXPERT_ROWS) return PHX_OK;
    struct phx_cuda_experts e = {};
    e.ids = a.ids;
    e.starts = notes;
    e.pairs = notes + r->n_local + 1;
    e.first = r->first_local;
    e.n_local = r->n_local;
    e.n_pairs = (int64_t)a.n_rows * a.k;
    return phx_cuda_group_pairs(stream, &e);
}

/* ---- groups: a warp an expert, which looks at all pairs twice and at no other warp ---- */

__global__ void __launch_bounds__(THREADS) group_pairs(struct phx_cuda_experts e)
{
    const int lane = threadIdx.x % 32;
    const int32_t own = blockIdx.x * WARPS + threadIdx.x / 32;
    wait_for_predecessor();
    if (own > e.n_local) return;
    int32_t before = 0;
    for (int64_t p = lane; p < e.n_pairs; p += 32) {
        const int32_t expert = local_expert(e, p);
        before += is_local(e, expert) && expert < own;
    }
    before = warp_reduce(before, add_op());
    if (lane == 0) e.starts[own] = before;
    if (own == e.n_local) return; /* where the last one ends */
    for (int64_t p = lane; p - lane < e.n_pairs; p += 32) {
        const bool mine = p < e.n_pairs && local_expert(e, p) == own;
        const uint32_t all = __ballot_sync(~0u, mine);
        if (mine) e.pairs[before + __popc(all & ((1u << lane) - 1))] = (int32_t)p;
        before += __popc(all);
    }
}

extern "C" enum phx_status phx_cuda_group_pairs(struct phx_stream *stream,
                                                const struct phx_cuda_experts *e)
{
    return launch(stream, "group_pairs", {(unsigned)ceil_div(e->n_local + 1, WARPS), THREADS},
                  group_pairs, *e);
}

/* ---- sums ---- */

template <typename T>
__global__ void __launch_bounds__(COLUMNS)
    sum_parts(struct phx_cuda_experts e, struct phx_cuda_expert_sums s)
{
    const int64_t col = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    wait_for_predecessor();
    const int64_t rows = e.n_pairs / e.k;
    if (col >= e.n_out) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        float sum = 0;
        for (int32_t j = 0; j < e.k; j++) {
            const int64_t pair = row * e.k + j;
            if (!is_local(e, local_expert(e, pair))) continue;
            sum = fmaf(e.weights[pair], to_f32(((const T *)s.parts)[pair * s.parts_stride + col]),
                       sum);
        }
        finish_sum<T>(s, row, col, sum);
    }
}

extern "C" enum phx_status phx_cuda_experts_sum(struct phx_stream *stream,
                                                const struct phx_cuda_experts *e,
                                                const struct phx_cuda_expert_sums *sums)
{
    return with_type(e->act, [&](auto type) {
        using T = decltype(type);
        return launch(stream, "sum_parts", {grid_of(e->n_pairs / e->k, e->n_out, COLUMNS), COLUMNS},
                      sum_parts<T>, *e, *sums);
    });
}
