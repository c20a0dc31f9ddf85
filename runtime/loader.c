#include "runtime/loader.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/blocks.h"
#include "kernels/base/check.h"
#include "runtime/weight_walk.h"

/* ---- sizes ---- */

static size_t part_bytes(const struct phx_weight_part *part)
{
    return phx_dtype_bytes((enum phx_dtype)part->tensor->dtype,
                           phx_interval_length(part->rows) *
                               phx_interval_length(phx_weight_part_file_cols(part)));
}

static size_t read_bytes(struct phx_weight_walk walk)
{
    struct phx_weight_place place;
    size_t bytes = 0;
    while (phx_weight_walk_next(&walk, &place)) {
        for (int i = 0; i < place.n_parts && !place.absent; i++)
            bytes += part_bytes(&place.parts[i]);
    }
    return bytes;
}

size_t phx_weights_device_bytes(const struct phx_config *config, const struct phx_shard_plan *plan,
                                const struct phx_checkpoint *checkpoint,
                                const struct phx_device *device,
                                size_t by_kind[PHX_WEIGHT_KIND_COUNT])
{
    struct phx_weight_walk walk = phx_weight_walk_start(config, plan, checkpoint);
    struct phx_weight_place place;
    size_t bytes = 0;
    memset(by_kind, 0, PHX_WEIGHT_KIND_COUNT * sizeof *by_kind);
    while (phx_weight_walk_next(&walk, &place))
        if (!place.is_vector && !place.continues)
            by_kind[phx_slot_kind(place.slot)] += phx_weight_bytes(device, &place.shape);
    by_kind[PHX_WEIGHT_VECTORS] = walk.vector_bytes;
    for (int kind = 0; kind < PHX_WEIGHT_KIND_COUNT; kind++) bytes += by_kind[kind];
    return bytes;
}

/* ---- places ---- */

static struct phx_weight **matrix_at(struct phx_weights *weights,
                                     const struct phx_weight_place *place)
{
    struct phx_layer_weights *layer = &weights->layers[place->layer];
    switch (place->slot) {
    case PHX_SLOT_EMBED:
        return &weights->embed;
    case PHX_SLOT_LM_HEAD:
        return &weights->lm_head;
    case PHX_SLOT_QKV:
        return &layer->qkv;
    case PHX_SLOT_O:
        return &layer->o;
    case PHX_SLOT_GATE_UP:
        return &layer->gate_up;
    case PHX_SLOT_DOWN:
        return &layer->down;
    case PHX_SLOT_ROUTER:
        return &layer->router;
    case PHX_SLOT_SHARED_GATE_UP:
        return &layer->shared_gate_up;
    case PHX_SLOT_SHARED_DOWN:
        return &layer->shared_down;
    case PHX_SLOT_EXPERTS_GATE_UP:
        return &layer->experts_gate_up;
    case PHX_SLOT_EXPERTS_DOWN:
        return &layer->experts_down;
    default:
        phx_assert_failed("the slot of a matrix", __FILE__, __LINE__);
    }
}

static struct phx_tensor *vector_at(struct phx_weights *weights,
                                    const struct phx_weight_place *place)
{
    struct phx_layer_weights *layer = &weights->layers[place->layer];
    switch (place->slot) {
    case PHX_SLOT_ATTN_NORM:
        return &layer->attn_norm;
    case PHX_SLOT_QKV_BIAS:
        return &layer->qkv_bias;
    case PHX_SLOT_Q_NORM:
        return &layer->q_norm;
    case PHX_SLOT_K_NORM:
        return &layer->k_norm;
    case PHX_SLOT_O_BIAS:
        return &layer->o_bias;
    case PHX_SLOT_ATTN_POST_NORM:
        return &layer->attn_post_norm;
    case PHX_SLOT_FFN_NORM:
        return &layer->ffn_norm;
    case PHX_SLOT_GATE_UP_BIAS:
        return &layer->gate_up_bias;
    case PHX_SLOT_DOWN_BIAS:
        return &layer->down_bias;
    case PHX_SLOT_FFN_POST_NORM:
        return &layer->ffn_post_norm;
    case PHX_SLOT_FINAL_NORM:
        return &weights->final_norm;
    default:
        phx_assert_failed("the slot of a vector", __FILE__, __LINE__);
    }
}

/* Everything in its place, without values. What was made before a failure stays for destroy. */
static enum phx_status create(struct phx_weight_walk walk, struct phx_device *device,
                              size_t vector_bytes, struct phx_weights *weights)
{
    int32_t n_layers = walk.config->n_layers;
    weights->layers = calloc((size_t)n_layers, sizeof *weights->layers);
    if (!weights->layers)
        return phx_fail(PHX_OUT_OF_MEMORY, "out of memory for a list of %d layers", n_layers);
    weights->n_layers = n_layers;
    PHX_TRY(phx_buffer_create(device, vector_bytes, &weights->vectors));
    struct phx_weight_place place;
    while (phx_weight_walk_next(&walk, &place)) {
        if (place.continues) continue;
        if (!place.is_vector) {
            PHX_TRY(phx_weight_create(device, &place.shape, matrix_at(weights, &place)));
        } else if (!place.absent) {
            *vector_at(weights, &place) = phx_tensor_view(weights->vectors, place.vector_offset,
                                                          PHX_F32, 1, place.shape.cols);
        }
    }
    if (walk.config->tied) weights->lm_head = weights->embed;
    return PHX_OK;
}

void phx_weights_destroy(struct phx_weights *weights)
{
    if (!weights) return;
    for (int32_t i = 0; i < weights->n_layers; i++) {
        struct phx_layer_weights *layer = &weights->layers[i];
        phx_weight_destroy(layer->qkv);
        phx_weight_destroy(layer->o);
        phx_weight_destroy(layer->gate_up);
        phx_weight_destroy(layer->down);
        phx_weight_destroy(layer->router);
        phx_weight_destroy(layer->shared_gate_up);
        phx_weight_destroy(layer->shared_down);
        phx_weight_destroy(layer->experts_gate_up);
        phx_weight_destroy(layer->experts_down);
    }
    if (weights->lm_head != weights->embed) phx_weight_destroy(weights->lm_head);
    phx_weight_destroy(weights->embed);
    phx_buffer_destroy(weights->vectors);
    free(weights->layers);
    free(weights);
}

/* ---- values ---- */

struct filling {
    struct phx_stream *stream;
    const struct phx_load_options *options; /* may be NULL */
    size_t done_bytes, total_bytes;         /* of this rank's, read from files and to be read */
    size_t fetch_bytes;                     /* as in struct phx_load_report */
    char *vectors;                          /* the buffer of all vectors, on the host */
};

static float *vector_on_host(const struct filling *filling, const struct phx_weight_place *place)
{
    return (float *)(filling->vectors + place->vector_offset);
}

/* ---- values from a checkpoint ---- */

enum { CHUNK_BYTES = 16 << 20 }; /* between two calls of progress */

/* That the system is asked to have ready, whatever tensors they belong to: a disk reads on while
 * what came before is copied. */
static const size_t ahead_bytes = (size_t)64 << 20;

/* Rows [row, row + rows) of a part, or as many as there are and lie evenly in the file. */
static struct phx_file_rows rows_of(const struct phx_weight_part *part, int64_t row, int64_t rows)
{
    enum phx_dtype dtype = (enum phx_dtype)part->tensor->dtype;
    int64_t left = phx_interval_length(part->rows) - row,
            first = part->span.first_row + part->rows.begin + row;
    int64_t half = part->row->row_dim == PHX_DIM_ONE ? 0 : part->tensor->head_rows / 2;
    struct phx_interval cols = phx_weight_part_file_cols(part);
    size_t pitch = phx_dtype_bytes(dtype, part->full_cols);
    if (half > 0) {
        if (left > half - first % half) left = half - first % half;
        first = phx_file_tensor_row(part->tensor, first);
    }
    return (struct phx_file_rows){
        .tensor = part->tensor,
        .data = (const char *)part->tensor->data + (size_t)first * pitch +
                phx_dtype_bytes(dtype, cols.begin),
        .pitch_bytes = half > 0 ? 2 * pitch : pitch,
        .row_bytes = phx_dtype_bytes(dtype, phx_interval_length(cols)),
        .rows = rows < left ? rows : left,
        .between = half > 0,
    };
}

static size_t bytes_of(const struct phx_file_rows *rows)
{
    return (size_t)rows->rows * rows->row_bytes;
}

/* All that is to be read, in the order of the walk, in chunks. Plain data, as the walk is. */
struct reader {
    struct phx_weight_walk walk;
    struct phx_weight_place place; /* the next chunk's */
    int part;                      /* of the place */
    int64_t part_row;              /* of the part */
    int64_t offset;                /* of the part in the place: rows, of a vector columns */
};

struct chunk {
    const struct phx_weight_place *place; /* the reader's, until its next chunk */
    const struct phx_weight_part *part;   /* of it */
    enum phx_dtype dtype;
    struct phx_file_rows from;
    int64_t offset; /* in the place: rows, of a vector columns */
    float added;    /* to each value of a vector */
};

static void next_part(struct reader *r)
{
    const struct phx_weight_part *part = &r->place.parts[r->part++];
    r->offset += phx_interval_length(r->place.is_vector ? part->cols : part->rows);
    r->part_row = 0;
}

/* False at the end. Every chunk holds something. */
static bool next_chunk(struct reader *r, struct chunk *out)
{
    for (;;) {
        if (r->part == r->place.n_parts) {
            if (!phx_weight_walk_next(&r->walk, &r->place)) return false;
            r->part = r->place.absent ? r->place.n_parts : 0;
            r->part_row = 0;
            r->offset = r->place.first_row;
            continue;
        }
        const struct phx_weight_part *part = &r->place.parts[r->part];
        struct phx_file_rows all = rows_of(part, r->part_row, INT64_MAX);
        if (bytes_of(&all) == 0) {
            next_part(r);
            continue;
        }
        int64_t rows = CHUNK_BYTES / (int64_t)phx_file_row_fetch(&all) + 1;
        *out = (struct chunk){
            .place = &r->place,
            .part = part,
            .dtype = (enum phx_dtype)part->tensor->dtype,
            .from = rows_of(part, r->part_row, rows),
            .offset = r->offset + r->part_row,
            .added = phx_weight_row_offset(part->row, r->walk.config),
        };
        r->part_row += out->from.rows;
        return true;
    }
}

static void read_vector(const struct chunk *chunk, const char *from, float *to)
{
    const size_t each = phx_dtype_bytes(chunk->dtype, 1);
    int64_t n = phx_interval_length(chunk->part->cols), first = chunk->part->cols.begin;
    for (int64_t i = 0; i < n; i++) {
        int64_t in_file = phx_file_tensor_row(chunk->part->tensor, first + i) - first;
        phx_values_widen(chunk->dtype, from + in_file * (int64_t)each, 1, &to[i]);
        to[i] += chunk->added;
    }
}

static enum phx_status read_chunk(struct phx_file_reader *files, const struct chunk *chunk,
                                  struct filling *filling, struct phx_weights *weights)
{
    const char *data;
    size_t pitch;
    PHX_TRY(phx_file_reader_get(files, &chunk->from, &data, &pitch));
    if (chunk->place->is_vector)
        read_vector(chunk, data, vector_on_host(filling, chunk->place) + chunk->offset);
    else
        PHX_TRY(phx_weight_write(filling->stream, *matrix_at(weights, chunk->place), chunk->offset,
                                 chunk->from.rows, chunk->dtype, data, pitch));
    phx_file_reader_done(files, &chunk->from);
    return PHX_OK;
}

/* Gives the pages of each chunk back: a load takes little more memory than the weights. */
static enum phx_status read_chunks(struct phx_weight_walk walk, struct phx_file_reader *files,
                                   struct filling *filling, struct phx_weights *weights)
{
    const struct phx_load_options *options = filling->options;
    struct reader reader = {.walk = walk}, ahead = reader;
    struct chunk chunk;
    size_t asked = 0;
    while (next_chunk(&reader, &chunk)) {
        struct chunk next;
        while (asked < filling->done_bytes + ahead_bytes && next_chunk(&ahead, &next)) {
            phx_file_reader_ahead(files, &next.from);
            asked += bytes_of(&next.from);
        }
        PHX_TRY(read_chunk(files, &chunk, filling, weights));
        filling->done_bytes += bytes_of(&chunk.from);
        if (options && options->progress)
            options->progress(options->progress_user, filling->done_bytes, filling->total_bytes);
    }
    return PHX_OK;
}

static enum phx_status read_all(struct phx_weight_walk walk, struct filling *filling,
                                struct phx_weights *weights)
{
    enum phx_load_mode mode = filling->options ? filling->options->mode : PHX_LOAD_MODE_AUTO;
    struct phx_file_reader *files = NULL;
    PHX_TRY(phx_file_reader_create(walk.checkpoint, mode, &files));
    enum phx_status status = read_chunks(walk, files, filling, weights);
    filling->fetch_bytes = phx_file_reader_fetched(files);
    phx_file_reader_destroy(files);
    return status;
}

/* ---- values without one ---- */

static void make_vector(const struct phx_config *config, const struct phx_weight_place *place,
                        float *to)
{
    for (int p = 0; p < place->n_parts; p++) {
        const struct phx_weight_part *part = &place->parts[p];
        struct phx_dummy dummy =
            phx_weight_row_dummy(part->row, place->layer, place->expert, part->full_cols);
        uint32_t key = phx_dummy_row_key(dummy.key, 0);
        for (int64_t i = part->cols.begin; i < part->cols.end; i++) {
            float value = dummy.center + dummy.scale * phx_dummy_unit(key, (uint32_t)i);
            if (config->dtype == PHX_BF16) value = phx_f32_from_bf16(phx_bf16_from_f32(value));
            if (config->dtype == PHX_F16) value = phx_f32_from_f16(phx_f16_from_f32(value));
            *to++ = value + phx_weight_row_offset(part->row, config);
        }
    }
}

static enum phx_status make_all(struct phx_weight_walk walk, struct filling *filling,
                                struct phx_weights *weights)
{
    struct phx_weight_place place;
    while (phx_weight_walk_next(&walk, &place)) {
        if (place.is_vector) {
            if (!place.absent) make_vector(walk.config, &place, vector_on_host(filling, &place));
            continue;
        }
        int64_t row = place.first_row;
        for (int p = 0; p < place.n_parts; p++) {
            const struct phx_weight_part *part = &place.parts[p];
            int64_t rows = phx_interval_length(part->rows);
            struct phx_dummy dummy =
                phx_weight_row_dummy(part->row, place.layer, place.expert, part->full_cols);
            PHX_TRY(phx_weight_write_dummy(filling->stream, *matrix_at(weights, &place), row, rows,
                                           &dummy, part->span.first_row + part->rows.begin,
                                           part->cols.begin));
            row += rows;
        }
    }
    return PHX_OK;
}

/* ---- both ---- */

static enum phx_status fill(struct phx_weight_walk walk, struct filling *filling,
                            struct phx_weights *weights)
{
    size_t bytes = phx_buffer_bytes(weights->vectors);
    filling->vectors = calloc(1, bytes);
    if (!filling->vectors)
        return phx_fail(PHX_OUT_OF_MEMORY, "out of memory for %zu bytes of norms and biases",
                        bytes);
    enum phx_status status;
    PHX_TRY_GOTO(walk.checkpoint ? read_all(walk, filling, weights)
                                 : make_all(walk, filling, weights),
                 done);
    PHX_TRY_GOTO(phx_buffer_upload(filling->stream, weights->vectors, 0, bytes, filling->vectors,
                                   bytes, bytes, 1),
                 done);
    status = phx_stream_synchronize(filling->stream);
done:
    free(filling->vectors);
    return status;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static enum phx_status create_and_fill(struct phx_weight_walk walk, struct phx_stream *stream,
                                       const struct phx_load_options *options,
                                       struct phx_weights **out, struct phx_load_report *report)
{
    struct phx_device *device = phx_stream_device(stream);
    double begin = seconds_now();
    size_t by_kind[PHX_WEIGHT_KIND_COUNT];
    *report = (struct phx_load_report){
        .file_bytes = walk.checkpoint ? phx_checkpoint_bytes(walk.checkpoint) : 0,
        .device_bytes =
            phx_weights_device_bytes(walk.config, walk.plan, walk.checkpoint, device, by_kind),
    };
    struct filling filling = {
        .stream = stream,
        .options = options,
        .total_bytes = walk.checkpoint ? read_bytes(walk) : 0,
    };
    struct phx_weights *weights = calloc(1, sizeof *weights);
    if (!weights) return phx_fail(PHX_OUT_OF_MEMORY, "out of memory for the weights");
    enum phx_status status;
    PHX_TRY_GOTO(create(walk, device, by_kind[PHX_WEIGHT_VECTORS], weights), failed);
    PHX_TRY_GOTO(fill(walk, &filling, weights), failed);
    report->read_bytes = filling.done_bytes;
    report->fetch_bytes = filling.fetch_bytes;
    report->seconds = seconds_now() - begin;
    *out = weights;
    return PHX_OK;
failed:
    phx_weights_destroy(weights);
    return status;
}

enum phx_status phx_weights_load(const struct phx_config *config, const struct phx_shard_plan *plan,
                                 const struct phx_checkpoint *checkpoint, struct phx_stream *stream,
                                 const struct phx_load_options *options, struct phx_weights **out,
                                 struct phx_load_report *report)
{
    return create_and_fill(phx_weight_walk_start(config, plan, checkpoint), stream, options, out,
                           report);
}

enum phx_status phx_weights_dummy(const struct phx_config *config,
                                  const struct phx_shard_plan *plan, struct phx_stream *stream,
                                  struct phx_weights **out, struct phx_load_report *report)
{
    return create_and_fill(phx_weight_walk_start(config, plan, NULL), stream, NULL, out, report);
}
