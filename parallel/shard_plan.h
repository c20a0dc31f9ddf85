/// \file shard_plan.h
/// How a model is cut over ranks: pure arithmetic, no device, no file, no communication.
///
/// The law of heads: H query heads, K KV heads, G = H / K; query head q reads KV head q / G. Rank r
/// of T owns KV heads [k0, k1) and the query heads [k0 G, k1 G): whole groups, contiguous, in
/// order; the first K mod T ranks own one group more. Feed-forward columns and the vocabulary are
/// cut in grains of 8, evenly to one grain, independent of the heads.
///
/// Experts are cut like the feed-forward columns, each of them over all ranks; or, with
/// expert_parallel, they stay whole and ranks own contiguous runs of them, evenly to one expert.
#ifndef PHX_PARALLEL_SHARD_PLAN_H
#define PHX_PARALLEL_SHARD_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

/// The named dimensions that a weight can span. Elements, not heads: Q is H * head_dim long.
enum phx_dim {
    PHX_DIM_ONE,    ///< length 1: the row dimension of vectors
    PHX_DIM_HIDDEN, ///< never cut
    PHX_DIM_HEAD,   ///< head_dim; never cut
    PHX_DIM_Q,
    PHX_DIM_KV,
    PHX_DIM_FFN,
    PHX_DIM_VOCAB,
    PHX_DIM_EXPERTS,    ///< one row an expert: the router's; never cut
    PHX_DIM_MOE_FFN,    ///< columns of each expert
    PHX_DIM_SHARED_FFN, ///< columns of what all rows go through beside their experts
    PHX_DIM_COUNT
};

struct phx_interval {
    int64_t begin, end; ///< half-open
};

static inline int64_t phx_interval_length(struct phx_interval interval)
{
    return interval.end - interval.begin;
}

/// Rank's part of `length` things that are cut in grains: contiguous, in order, evenly to one
/// grain; only the last grain is short. Every cut over ranks but that of heads is this one.
struct phx_interval phx_interval_share(int64_t length, int64_t grain, int size, int rank);

/// The shape of one decoder layer, whole.
struct phx_layer_shape {
    int32_t n_heads;    ///< H
    int32_t n_kv_heads; ///< K
    int32_t head_dim;   ///< D
    int64_t ffn;        ///< feed-forward columns; 0 where there are experts
    int32_t n_experts;  ///< 0: none
    int64_t moe_ffn;    ///< columns of each expert
    int64_t shared_ffn; ///< 0: there is no shared expert
};

struct phx_model_shape {
    int64_t hidden;
    int64_t vocab;
    int32_t n_layers;
    const struct phx_layer_shape *layers; ///< [n_layers]
    bool expert_parallel;                 ///< ranks own experts, not a part of each
};

struct phx_shard_plan;

/// Copies what it needs of `shape`. Refuses, in one sentence that names the dimension, the numbers
/// and what would work: size above K of some layer, or above the number of feed-forward or
/// vocabulary grains, or of experts where those are divided, so that a rank would own none
/// (PHX_USAGE); H not a multiple of K, a dimension < 1 (PHX_BAD_DATA).
enum phx_status phx_shard_plan_create(const struct phx_model_shape *shape, int size, int rank,
                                      struct phx_shard_plan **out);
void phx_shard_plan_destroy(struct phx_shard_plan *plan);

int phx_shard_plan_rank(const struct phx_shard_plan *plan);
int phx_shard_plan_size(const struct phx_shard_plan *plan);

/// The part of `dim` that `rank` owns in `layer`; the whole of it where the dimension is never cut.
/// HIDDEN and VOCAB do not depend on the layer.
struct phx_interval phx_shard_plan_interval(const struct phx_shard_plan *plan, int rank,
                                            int32_t layer, enum phx_dim dim);
/// The length of the whole dimension.
int64_t phx_shard_plan_full(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim);

/// Ownership of heads, stated apart from the cut of the projections' rows: KV heads and query
/// heads.
struct phx_interval phx_shard_plan_kv_heads(const struct phx_shard_plan *plan, int rank,
                                            int32_t layer);
struct phx_interval phx_shard_plan_q_heads(const struct phx_shard_plan *plan, int rank,
                                           int32_t layer);

/// Which experts' weights `rank` holds, whole or a part of each.
struct phx_interval phx_shard_plan_experts(const struct phx_shard_plan *plan, int rank,
                                           int32_t layer);

#endif
