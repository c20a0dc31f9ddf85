/// \file weights.h
/// The catalogue: which weights a decoder has, what they are called in a checkpoint, and how each
/// spans the named dimensions of the plan. A new family is new rows.
#ifndef PHX_RUNTIME_WEIGHTS_H
#define PHX_RUNTIME_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"
#include "kernels/weight.h"
#include "parallel/shard_plan.h"
#include "runtime/config.h"

/// Where the decoder finds a weight. Matrices first, then vectors (f32 tensors of one row).
enum phx_slot {
    PHX_SLOT_EMBED,   ///< [V, E]
    PHX_SLOT_LM_HEAD, ///< [V, E]; the same weight as EMBED when tied
    PHX_SLOT_QKV,     ///< [(Hq + 2 Hk) D, E]: q above k above v
    PHX_SLOT_O,       ///< [E, Hq D]
    PHX_SLOT_GATE_UP, ///< [2 F, E]: gate above up
    PHX_SLOT_DOWN,    ///< [E, F]
    PHX_SLOT_ROUTER,  ///< [X, E], and below it the shared expert's gate [1, E], where there is one
    PHX_SLOT_SHARED_GATE_UP,  ///< [2 F, E] of the shared expert
    PHX_SLOT_SHARED_DOWN,     ///< [E, F]
    PHX_SLOT_EXPERTS_GATE_UP, ///< [L 2F, E]: of each of this rank's L experts gate above up
    PHX_SLOT_EXPERTS_DOWN,    ///< [L E, F]
    PHX_SLOT_MATRIX_COUNT,
    PHX_SLOT_ATTN_NORM = PHX_SLOT_MATRIX_COUNT, ///< [1, E]
    PHX_SLOT_QKV_BIAS,                          ///< [1, (Hq + 2 Hk) D]
    PHX_SLOT_Q_NORM,                            ///< [1, D]; over all heads [1, Hq D]
    PHX_SLOT_K_NORM,                            ///< [1, D]; over all heads [1, Hk D]
    PHX_SLOT_O_BIAS,         ///< [1, E]; rank 0 only: added once, not once per rank
    PHX_SLOT_ATTN_POST_NORM, ///< [1, E] of what attention gives
    PHX_SLOT_FFN_NORM,       ///< [1, E]
    PHX_SLOT_GATE_UP_BIAS,   ///< [1, 2 F]
    PHX_SLOT_DOWN_BIAS,      ///< [1, E]; rank 0 only
    PHX_SLOT_FFN_POST_NORM,  ///< [1, E] of what the MLP gives
    PHX_SLOT_FINAL_NORM,     ///< [1, E]
    PHX_SLOT_COUNT
};

/// What a weight is part of, for who counts.
enum phx_weight_kind {
    PHX_WEIGHT_EMBEDDING,
    PHX_WEIGHT_ATTENTION,
    PHX_WEIGHT_MLP,     ///< experts and their router too
    PHX_WEIGHT_VECTORS, ///< norms and biases
    PHX_WEIGHT_LM_HEAD, ///< none when tied
    PHX_WEIGHT_KIND_COUNT
};
enum phx_weight_kind phx_slot_kind(enum phx_slot slot);

/// One tensor of a checkpoint and its place. Its rows go below the rows of the earlier rows of the
/// same slot.
struct phx_weight_row {
    const char *name; ///< "model.layers.%d.self_attn.q_proj.weight"; the first %d is the layer, a
                      ///< second one the expert
    enum phx_slot slot;
    enum phx_dim row_dim; ///< output dimension; PHX_DIM_ONE for vectors
    enum phx_dim col_dim; ///< input dimension; for vectors their only one
    bool per_layer;
    bool first_rank_only;
    bool (*wanted)(const struct phx_config *config, int32_t layer); ///< NULL: always
    bool per_expert; ///< one tensor for each; those of an expert stand together in the slot
};

/// Rows of one slot that have the same name read one tensor of a checkpoint, one below the other:
/// where in it the row's part begins, and how many rows it has in all.
struct phx_weight_span {
    int64_t first_row, all_rows;
};
struct phx_weight_span phx_weight_row_span(const struct phx_weight_row *row,
                                           const struct phx_config *config, int32_t layer);

/// The rows of `config`'s family, in the order of a decoder; the rows of one slot, and those of a
/// layer, stand together.
const struct phx_weight_row *phx_weight_rows(const struct phx_config *config, size_t *out_n);

/// `layer` is ignored by rows that are not per layer.
bool phx_weight_row_wanted(const struct phx_weight_row *row, const struct phx_config *config,
                           int32_t layer);

enum { PHX_WEIGHT_NAME_BYTES = 96 };
/// A tensor's name of a pattern as above, in a checkpoint's or another file's own words; a number
/// that it does not ask for is ignored. A longer name is cut.
void phx_weight_name(const char *pattern, int64_t layer, int64_t expert,
                     char name[PHX_WEIGHT_NAME_BYTES]);
/// True if `name` is the pattern's with some numbers, written as one would; these are layer and
/// expert, as far as the pattern has them.
bool phx_weight_name_is(const char *pattern, const char *name, int64_t numbers[2]);

/// What is added to the values of a checkpoint: norms may be stored as what they differ from 1 by.
float phx_weight_row_offset(const struct phx_weight_row *row, const struct phx_config *config);

/// How the row's tensor is made without a checkpoint: a matrix, the embedding too, with variance
/// 1 / full_cols, norms in 1 +- 0.1, biases in +- 0.1. Vectors lie in row 0.
struct phx_dummy phx_weight_row_dummy(const struct phx_weight_row *row, int32_t layer,
                                      int32_t expert, int64_t full_cols);

struct phx_layer_weights {
    struct phx_weight *qkv, *o, *gate_up, *down;
    struct phx_weight *router, *shared_gate_up, *shared_down, *experts_gate_up, *experts_down;
    struct phx_tensor attn_norm, qkv_bias, q_norm, k_norm, o_bias, attn_post_norm, ffn_norm,
        gate_up_bias, down_bias, ffn_post_norm;
};

/// A rank's weights on its device. Absent ones are NULL / absent views.
struct phx_weights {
    struct phx_weight *embed, *lm_head; ///< the same pointer when tied
    struct phx_tensor final_norm;
    int32_t n_layers;
    struct phx_layer_weights *layers; ///< [n_layers]
    struct phx_buffer *vectors;       ///< all vectors, one buffer
};

#endif
