/// \file weight_walk.h
/// A walk over the places of struct phx_weights: which tensors fill each, and with which rectangle
/// of them. What the loader checks, measures, creates and fills in turn.
#ifndef PHX_RUNTIME_WEIGHT_WALK_H
#define PHX_RUNTIME_WEIGHT_WALK_H

#include "runtime/config.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"

/// One tensor of the model and the rectangle of it that is this rank's.
struct phx_weight_part {
    const struct phx_weight_row *row;
    const struct phx_file_tensor *tensor; ///< NULL: not in the checkpoint, or there is none
    int64_t full_rows, full_cols;
    struct phx_interval rows, cols;
    struct phx_weight_span span; ///< of the tensor: the rows above are counted from its first_row
};

enum { PHX_MAX_PARTS = 3 }; /* q, k, v */

/// A weight of many experts is one place after another, an expert each.
struct phx_weight_place {
    enum phx_slot slot;
    int32_t layer;     ///< 0 where the slot is not per layer
    int32_t expert;    ///< of the model; 0 where the slot is not per expert
    bool continues;    ///< the weight began with an earlier place
    int64_t first_row; ///< of the weight that the parts fill
    bool is_vector;
    bool absent; ///< this rank does not hold it
    int n_parts;
    /// Of a matrix one below the other, of a vector side by side.
    struct phx_weight_part parts[PHX_MAX_PARTS];
    /// This rank's share of the weight, all its experts together. The type is that of the parts;
    /// where they differ, q, k and v have each its own and other weights are f32, as vectors are.
    /// config->dtype stands for a tensor that is missing or of a type that no weight has.
    struct phx_weight_shape shape;
    size_t vector_offset; ///< bytes into the buffer of all vectors
};

/// Plain data; copying it forks the walk.
struct phx_weight_walk {
    const struct phx_config *config;
    const struct phx_shard_plan *plan;
    const struct phx_checkpoint *checkpoint; ///< NULL: there is none
    const struct phx_weight_row *rows;
    size_t n_rows, next, first_of_layer;
    int32_t layer;
    int64_t expert;      ///< how-manieth of this rank's is next in the slot
    size_t vector_bytes; ///< of the buffer of all vectors, so far
};

struct phx_weight_walk phx_weight_walk_start(const struct phx_config *config,
                                             const struct phx_shard_plan *plan,
                                             const struct phx_checkpoint *checkpoint);
/// False at the end.
bool phx_weight_walk_next(struct phx_weight_walk *walk, struct phx_weight_place *out);

/// True if `tensor` has a type that weights may have.
bool phx_file_tensor_is_weight(const struct phx_file_tensor *tensor);

/// The columns of the part that are read: whole blocks.
struct phx_interval phx_weight_part_file_cols(const struct phx_weight_part *part);

#endif
