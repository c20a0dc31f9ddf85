/// \file select.cuh
/// Steps 2 and 3 of the sampling rule (struct phx_sampling) by a team, a block or the blocks of a
/// cluster, without sorting: as kernels/cpu/sample_select.c, with sums over the team in place of
/// loops.
///
/// Tokens are anything with `n` and `bool value_at(i, &value)`, false where there is none. Among
/// equal values lower indices come first. All threads of a team call all functions.
#ifndef PHX_KERNELS_CUDA_SELECT_CUH
#define PHX_KERNELS_CUDA_SELECT_CUH

#include <math_constants.h>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/types.cuh"

#define PHX_MASS_ONE 1099511627776.0f /* 2^40: 2^23 tokens fit 64 bits */

/// z after step 1 as it takes part in the draw; NaN counts as -infinity.
__device__ inline float sample_value(float adjusted, float temperature)
{
    if (isnan(adjusted)) return -CUDART_INF_F;
    return temperature > 0 ? __fdiv_rn(adjusted, temperature) : adjusted;
}

__device__ inline float sample_noisy(float value, uint64_t key, int32_t id)
{
    return value - logf(-logf(phx_sample_uniform(key, id)));
}

/// Unsigned integers in the order of the values; both zeros are equal.
__device__ inline uint32_t order_key(float value)
{
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ inline float value_of_key(uint32_t key)
{
    return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

/// Larger for what comes first: the larger value, then the lower index. 0 is below all.
__device__ inline uint64_t rank_key(float value, int32_t index)
{
    return (uint64_t)order_key(value) << 32 | (uint32_t)~index;
}

__device__ inline int32_t index_of_rank(uint64_t rank)
{
    return (int32_t) ~(uint32_t)rank;
}

/// Kept are tokens with keys above `key`, and those with `key` at indices below `end`.
struct bound {
    uint32_t key;
    int32_t end;

    __device__ bool keeps(uint32_t other, int32_t index) const
    {
        return other > key || (other == key && index < end);
    }
};

/// Probability over that of the likeliest token, in units of 2^-40: added as integers, the sum does
/// not depend on the order.
__device__ inline uint64_t mass_of(float value, float max)
{
    if (value == max) return (uint64_t)PHX_MASS_ONE;
    return (uint64_t)(expf(value - max) * PHX_MASS_ONE);
}

struct each_counts {
    __device__ uint64_t operator()(float) const
    {
        return 1;
    }
};

struct each_weighs {
    float max;
    __device__ uint64_t operator()(float value) const
    {
        return mass_of(value, max);
    }
};

enum { SUMS = 3 /* at most, at a time */ };

/// Shared memory of a block for all of this.
struct select_shared {
    uint64_t sums[SUMS][32];
    uint64_t of_block[SUMS]; ///< what the other blocks of the team read
};

/// Blocks of this block's team, and its number among them.
__device__ inline unsigned team_blocks()
{
#if __CUDA_ARCH__ >= 900
    return __clusterSizeInBlocks();
#else
    return 1;
#endif
}

__device__ inline unsigned team_block()
{
#if __CUDA_ARCH__ >= 900
    return __clusterRelativeBlockRank();
#else
    return 0;
#endif
}

__device__ inline int32_t team_thread()
{
    return (int32_t)(team_block() * blockDim.x + threadIdx.x);
}

__device__ inline int32_t team_threads()
{
    return (int32_t)(team_blocks() * blockDim.x);
}

/// x[i] over the team, for each i; every thread gets the results.
template <typename T, int N, typename Op>
__device__ inline void team_reduce_all(T (&x)[N], Op op, select_shared &shared)
{
    static_assert(N <= SUMS && sizeof(T) <= sizeof *shared.of_block, "more than there is room for");
    block_reduce_all(x, op, (T(*)[32])shared.sums);
#if __CUDA_ARCH__ >= 900
    if (team_blocks() == 1) return;
    T *own = (T *)shared.of_block;
    if (threadIdx.x == 0)
#pragma unroll
        for (int i = 0; i < N; i++) own[i] = x[i];
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
    for (unsigned b = 0; b < team_blocks(); b++) {
        const T *other = (const T *)__cluster_map_shared_rank(own, b);
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = b == 0 ? other[i] : op(x[i], other[i]);
    }
    __cluster_barrier_arrive(); /* who still reads */
    __cluster_barrier_wait();
#endif
}

template <typename T, typename Op>
__device__ inline T team_reduce(T x, Op op, select_shared &shared)
{
    T all[1] = {x};
    team_reduce_all(all, op, shared);
    return all[0];
}

/// The sum over the tokens within `outer` that `wanted(key)` holds for.
template <typename Tokens, typename Weight, typename Wanted>
__device__ uint64_t weigh(const Tokens &tokens, bound outer, Weight weight, Wanted wanted,
                          select_shared &shared)
{
    uint64_t sum = 0;
    float value;
#pragma unroll 4
    for (int32_t i = team_thread(); i < tokens.n; i += team_threads()) {
        if (!tokens.value_at(i, &value)) continue;
        const uint32_t key = order_key(value);
        if (outer.keeps(key, i) && wanted(key)) sum += weight(value);
    }
    return team_reduce(sum, add_op(), shared);
}

/// The largest key such that tokens within `outer` from it on weigh at least `wanted`; else 0. Two
/// bits at a time, of the tokens that have all bits found so far; those above weigh `above`.
template <typename Tokens, typename Weight>
__device__ uint32_t find_key(const Tokens &tokens, bound outer, Weight weight, uint64_t wanted,
                             select_shared &shared)
{
    uint32_t found = 0;
    uint64_t above = 0;
    for (int shift = 30; shift >= 0; shift -= 2) {
        uint64_t sums[3] = {0, 0, 0}; /* of the tokens whose next digit is at least 1, 2, 3 */
        float value;
#pragma unroll 4
        for (int32_t i = team_thread(); i < tokens.n; i += team_threads()) {
            if (!tokens.value_at(i, &value)) continue;
            const uint32_t key = order_key(value), rest = (key - found) >> shift;
            if (key < found || rest > 3 || rest == 0 || !outer.keeps(key, i)) continue;
            const uint64_t w = weight(value);
#pragma unroll
            for (uint32_t digit = 1; digit <= 3; digit++)
                if (rest >= digit) sums[digit - 1] += w;
        }
        team_reduce_all(sums, add_op(), shared);
        uint32_t digit = 0;
        uint64_t higher = sums[0]; /* of tokens with a larger digit */
#pragma unroll
        for (uint32_t d = 1; d <= 3; d++)
            if (above + sums[d - 1] >= wanted) {
                digit = d;
                higher = d < 3 ? sums[d] : 0;
            }
        above += higher;
        found |= digit << shift;
    }
    return found;
}

/// The index after the n-th token with `key` within `outer`; tokens.n if there are fewer. Seldom
/// asked for: each block of a team looks by itself.
template <typename Tokens>
__device__ int32_t end_of_equals(const Tokens &tokens, bound outer, uint32_t key, uint64_t n,
                                 select_shared &shared)
{
    const auto is_equal = [&](int32_t i) {
        float value;
        return i < tokens.n && tokens.value_at(i, &value) && order_key(value) == key &&
               outer.keeps(key, i);
    };
    const uint64_t all = weigh(
        tokens, outer, each_counts(), [=](uint32_t other) { return other == key; }, shared);
    if (all <= n) return tokens.n;
    uint64_t seen = 0;
    int32_t i = 0; /* of the block's first thread */
    for (;; i += blockDim.x) {
        const uint64_t more = __syncthreads_count(is_equal(i + (int32_t)threadIdx.x));
        if (seen + more >= n) break;
        seen += more;
    }
    /* The n-th lies among these few. */
    for (;; i++) {
        if (is_equal(i)) seen++;
        if (seen == n) return i + 1;
    }
}

/// Of the tokens within `outer`, in order, the shortest prefix that weighs `wanted`.
template <typename Tokens, typename Weight>
__device__ bound prefix(const Tokens &tokens, bound outer, Weight weight, uint64_t wanted,
                        select_shared &shared)
{
    const uint32_t key = find_key(tokens, outer, weight, wanted, shared);
    const uint64_t before = weigh(
        tokens, outer, weight, [=](uint32_t other) { return other > key; }, shared);
    const uint64_t each = weight(value_of_key(key));
    const uint64_t n = each > 0 ? (wanted - before + each - 1) / each : UINT64_MAX;
    return {key, end_of_equals(tokens, outer, key, n, shared)};
}

/// The best index by `noisy(i, value)` among the tokens within the bound and not below `least`; -1
/// without.
template <typename Tokens, typename Noisy>
__device__ int32_t best_of(const Tokens &tokens, bound kept, float least, Noisy noisy,
                           select_shared &shared)
{
    uint64_t best = 0;
    float value;
#pragma unroll 4
    for (int32_t i = team_thread(); i < tokens.n; i += team_threads()) {
        if (!tokens.value_at(i, &value) || value < least) continue;
        if (!kept.keeps(order_key(value), i)) continue;
        const uint64_t rank = rank_key(noisy(i, value), i);
        if (rank > best) best = rank;
    }
    best = team_reduce(best, max_op(), shared);
    return best == 0 ? -1 : index_of_rank(best);
}

/// The index of the token that the rule draws; -1 without tokens.
template <typename Tokens, typename Noisy>
__device__ int32_t sample_draw(const Tokens &tokens, const struct phx_sampling &params, Noisy noisy,
                               select_shared &shared)
{
    const bound everything = {0, tokens.n};
    if (!(params.temperature > 0)) return best_of(tokens, everything, -CUDART_INF_F, noisy, shared);
    bound kept = everything;
    float max = -CUDART_INF_F;
    if (params.top_p < 1 || params.min_p > 0) {
        uint64_t best = 0;
        float value;
        for (int32_t i = team_thread(); i < tokens.n; i += team_threads())
            if (tokens.value_at(i, &value) && order_key(value) > best) best = order_key(value);
        best = team_reduce(best, max_op(), shared);
        if (best > 0) max = value_of_key((uint32_t)best);
    }
    if (params.top_k > 0 && params.top_k < tokens.n) {
        const uint64_t all = weigh(
            tokens, kept, each_counts(), [](uint32_t) { return true; }, shared);
        if ((uint64_t)params.top_k < all)
            kept = prefix(tokens, kept, each_counts(), (uint64_t)params.top_k, shared);
    }
    if (params.top_p < 1) {
        const each_weighs weight = {max};
        const uint64_t total = weigh(
            tokens, kept, weight, [](uint32_t) { return true; }, shared);
        const uint64_t wanted = (uint64_t)ceil((double)params.top_p * (double)total);
        if (wanted <= total) kept = prefix(tokens, kept, weight, wanted, shared);
    }
    const float least = params.min_p > 0 ? max + logf(params.min_p) : -CUDART_INF_F;
    return best_of(tokens, kept, least, noisy, shared);
}

#endif
