#include "runtime/weight_walk.h"

#include "kernels/base/check.h"

enum { VECTOR_ALIGNMENT_BYTES = 256 }; /* as of a buffer of its own */

struct phx_weight_walk phx_weight_walk_start(const struct phx_config *config,
                                             const struct phx_shard_plan *plan,
                                             const struct phx_checkpoint *checkpoint)
{
    struct phx_weight_walk walk = {.config = config, .plan = plan, .checkpoint = checkpoint};
    walk.rows = phx_weight_rows(config, &walk.n_rows);
    while (!walk.rows[walk.first_of_layer].per_layer) walk.first_of_layer++;
    return walk;
}

bool phx_file_tensor_is_weight(const struct phx_file_tensor *tensor)
{
    return tensor->dtype >= 0 && phx_dtype_traits((enum phx_dtype)tensor->dtype)->is_weight;
}

struct phx_interval phx_weight_part_file_cols(const struct phx_weight_part *part)
{
    int64_t block = phx_dtype_traits((enum phx_dtype)part->tensor->dtype)->block_elements;
    return (struct phx_interval){part->cols.begin / block * block,
                                 (part->cols.end + block - 1) / block * block};
}

static struct phx_weight_part part_of(const struct phx_weight_walk *walk,
                                      const struct phx_weight_row *row, int32_t layer,
                                      int32_t expert)
{
    const struct phx_shard_plan *plan = walk->plan;
    int rank = phx_shard_plan_rank(plan);
    struct phx_weight_part part = {
        .row = row,
        .full_rows = phx_shard_plan_full(plan, layer, row->row_dim),
        .full_cols = phx_shard_plan_full(plan, layer, row->col_dim),
        .rows = phx_shard_plan_interval(plan, rank, layer, row->row_dim),
        .cols = phx_shard_plan_interval(plan, rank, layer, row->col_dim),
        .span = phx_weight_row_span(row, walk->config, layer),
    };
    if (walk->checkpoint) {
        char name[PHX_WEIGHT_NAME_BYTES];
        phx_weight_name(row->name, layer, expert, name);
        part.tensor = phx_checkpoint_find(walk->checkpoint, name);
    }
    return part;
}

/* Below a part of another type: in a band of its own where products take bands, else all in f32. */
static void join_type(struct phx_weight_place *place, enum phx_dtype dtype, int64_t rows)
{
    struct phx_weight_shape *shape = &place->shape;
    enum phx_dtype last = shape->dtype;
    int n = 0;
    for (; n < PHX_MAX_BANDS - 1 && shape->below[n].rows > 0; n++) last = shape->below[n].dtype;
    if (place->slot != PHX_SLOT_QKV) {
        if (dtype != shape->dtype) shape->dtype = PHX_F32;
    } else if (dtype != last) {
        shape->below[n] = (struct phx_weight_band){dtype, rows};
    } else if (n > 0) {
        shape->below[n - 1].rows += rows;
    }
}

/* Adds the part and widens the place's shape by it. */
static void add_part(struct phx_weight_place *place, const struct phx_weight_part *part,
                     enum phx_dtype config_dtype)
{
    struct phx_weight_shape *shape = &place->shape;
    const struct phx_file_tensor *tensor = part->tensor;
    bool found = tensor && phx_file_tensor_is_weight(tensor);
    enum phx_dtype dtype = found ? (enum phx_dtype)tensor->dtype : config_dtype;
    int64_t rows = phx_interval_length(part->rows), cols = phx_interval_length(part->cols);
    if (place->is_vector) {
        shape->dtype = PHX_F32;
        shape->rows = 1;
        shape->cols += cols;
    } else {
        if (place->n_parts == 0)
            shape->dtype = dtype;
        else
            join_type(place, dtype, rows);
        shape->rows += rows;
        shape->cols = cols;
        if (found) shape->lead = part->cols.begin - phx_weight_part_file_cols(part).begin;
    }
    PHX_ASSERT(place->n_parts < PHX_MAX_PARTS);
    place->parts[place->n_parts++] = *part;
}

/* Step over the next row; the last one of a layer is followed by the first of the next layer. */
static void advance(struct phx_weight_walk *walk)
{
    bool per_layer = walk->rows[walk->next].per_layer;
    walk->next++;
    bool ends = per_layer && (walk->next == walk->n_rows || !walk->rows[walk->next].per_layer);
    if (ends && ++walk->layer < walk->config->n_layers) walk->next = walk->first_of_layer;
}

static bool next_is_wanted(const struct phx_weight_walk *walk)
{
    return phx_weight_row_wanted(&walk->rows[walk->next], walk->config, walk->layer);
}

/* The wanted rows of a slot, up to the next one. */
static void add_parts(struct phx_weight_walk *walk, struct phx_weight_place *out)
{
    do {
        const struct phx_weight_row *row = &walk->rows[walk->next];
        if (next_is_wanted(walk)) {
            struct phx_weight_part part = part_of(walk, row, out->layer, out->expert);
            add_part(out, &part, walk->config->dtype);
        }
        advance(walk);
    } while (walk->next < walk->n_rows && walk->rows[walk->next].slot == out->slot);
}

/* The place of one expert out of the walk as it was before it; then that of the next one. */
static void step_expert(const struct phx_weight_walk *before, struct phx_weight_walk *walk,
                        struct phx_weight_place *place)
{
    int rank = phx_shard_plan_rank(walk->plan);
    int64_t n = phx_interval_length(phx_shard_plan_experts(walk->plan, rank, place->layer));
    place->continues = walk->expert > 0;
    place->first_row = walk->expert * place->shape.rows;
    place->shape.rows *= n;
    if (++walk->expert < n) {
        walk->next = before->next;
        walk->layer = before->layer;
    } else {
        walk->expert = 0;
    }
}

bool phx_weight_walk_next(struct phx_weight_walk *walk, struct phx_weight_place *out)
{
    while (walk->next < walk->n_rows && !next_is_wanted(walk)) advance(walk);
    if (walk->next == walk->n_rows) return false;

    const struct phx_weight_walk before = *walk;
    const struct phx_weight_row *first = &walk->rows[walk->next];
    int rank = phx_shard_plan_rank(walk->plan);
    *out = (struct phx_weight_place){
        .slot = first->slot,
        .layer = first->per_layer ? walk->layer : 0,
        .is_vector = first->row_dim == PHX_DIM_ONE,
        .absent = first->first_rank_only && rank != 0,
        .vector_offset = walk->vector_bytes,
    };
    if (first->per_expert)
        out->expert =
            (int32_t)(phx_shard_plan_experts(walk->plan, rank, walk->layer).begin + walk->expert);
    add_parts(walk, out);
    if (first->per_expert) step_expert(&before, walk, out);
    if (out->is_vector && !out->absent) {
        size_t bytes = phx_dtype_bytes(PHX_F32, out->shape.cols);
        walk->vector_bytes +=
            (bytes + VECTOR_ALIGNMENT_BYTES - 1) / VECTOR_ALIGNMENT_BYTES * VECTOR_ALIGNMENT_BYTES;
    }
    return true;
}
