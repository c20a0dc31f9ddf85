#include "runtime/loader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "runtime/weight_walk.h"

enum { CHUNK_BYTES = 16 << 20 }; /* between two calls of progress; what is read ahead */

/* ---- checks, before anything is taken ---- */

enum { NAMES_SHOWN = 3, NAMES_BYTES = 400 };

/* The first few of a list of names, and how many there are. */
struct name_list {
    size_t count;
    char shown[NAMES_BYTES - 80];
};

static void list_name(struct name_list *list, const char *name)
{
    size_t used = strlen(list->shown);
    if (list->count++ < NAMES_SHOWN)
        snprintf(list->shown + used, sizeof list->shown - used, "%s%.96s", used ? ", " : "", name);
}

/* "; 4 missing (a, b, c, ...)", or nothing. */
static const char *list_text(const struct name_list *list, const char *what, char text[NAMES_BYTES])
{
    *text = '\0';
    if (list->count > 0) {
        snprintf(text, NAMES_BYTES, "; %zu %s (%s%s)", list->count, what, list->shown,
                 list->count > NAMES_SHOWN ? ", ..." : "");
    }
    return text;
}

/* True if `name` is the row's name in one of the layers. */
static bool row_has_name(const struct phx_weight_row *row, int32_t n_layers, const char *name)
{
    const char *mark = strstr(row->name, "%d");
    if (!mark) return strcmp(row->name, name) == 0;
    size_t prefix = (size_t)(mark - row->name);
    if (strncmp(row->name, name, prefix) != 0) return false;
    char expected[PHX_WEIGHT_NAME_BYTES];
    long layer = strtol(name + prefix, NULL, 10);
    if (layer < 0 || layer >= n_layers) return false;
    phx_weight_row_name(row, (int32_t)layer, expected);
    return strcmp(expected, name) == 0;
}

/* Old files carry the rotary frequencies, which we compute; a tied lm_head is the embedding. */
static bool is_expected(const struct phx_config *config, const char *name)
{
    static const char computed[] = "rotary_emb.inv_freq";
    size_t length = strlen(name), suffix = sizeof computed - 1, n_rows;
    if (length >= suffix && strcmp(name + length - suffix, computed) == 0) return true;
    const struct phx_weight_row *rows = phx_weight_rows(config, &n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        if (!row_has_name(&rows[i], config->n_layers, name)) continue;
        return phx_weight_row_wanted(&rows[i], config) || rows[i].slot == PHX_SLOT_LM_HEAD;
    }
    return false;
}

static enum phx_status check_names(struct phx_weight_walk walk)
{
    struct name_list missing = {0}, unexpected = {0};
    struct phx_weight_place place;
    while (phx_weight_walk_next(&walk, &place)) {
        for (int i = 0; i < place.n_parts; i++) {
            if (place.parts[i].tensor) continue;
            char name[PHX_WEIGHT_NAME_BYTES];
            phx_weight_row_name(place.parts[i].row, place.layer, name);
            list_name(&missing, name);
        }
    }
    for (size_t i = 0; i < phx_checkpoint_count(walk.checkpoint); i++) {
        const char *name = phx_checkpoint_at(walk.checkpoint, i)->name;
        if (!is_expected(walk.config, name)) list_name(&unexpected, name);
    }
    if (missing.count == 0 && unexpected.count == 0) return PHX_OK;
    char text[2][NAMES_BYTES];
    return phx_fail(
        PHX_BAD_DATA, "the tensors of %s are not those of its config.json (%s, %d layers)%s%s",
        phx_checkpoint_path(walk.checkpoint), walk.config->model_type, walk.config->n_layers,
        list_text(&missing, "missing", text[0]), list_text(&unexpected, "unexpected", text[1]));
}

static enum phx_status check_tensor(const struct phx_weight_place *place,
                                    const struct phx_weight_part *part)
{
    const struct phx_file_tensor *tensor = part->tensor;
    if (!phx_file_tensor_is_float(tensor)) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %s has type %s; a weight must be F32, F16 or BF16",
                        tensor->file, tensor->name, tensor->dtype_name);
    }
    struct phx_file_tensor expected = {.n_dims = 2, .shape = {part->full_rows, part->full_cols}};
    if (place->is_vector)
        expected = (struct phx_file_tensor){.n_dims = 1, .shape = {part->full_cols}};
    if (tensor->n_dims == expected.n_dims &&
        memcmp(tensor->shape, expected.shape, sizeof expected.shape) == 0)
        return PHX_OK;
    char found_text[PHX_SHAPE_TEXT_BYTES], expected_text[PHX_SHAPE_TEXT_BYTES];
    return phx_fail(PHX_BAD_DATA,
                    "%s: tensor %s has the shape %s, but by config.json it must be %s",
                    tensor->file, tensor->name, phx_file_tensor_shape_text(tensor, found_text),
                    phx_file_tensor_shape_text(&expected, expected_text));
}

static enum phx_status check_checkpoint(struct phx_weight_walk walk)
{
    struct phx_weight_place place;
    PHX_TRY(check_names(walk));
    while (phx_weight_walk_next(&walk, &place)) {
        for (int i = 0; i < place.n_parts; i++) PHX_TRY(check_tensor(&place, &place.parts[i]));
    }
    return PHX_OK;
}

/* ---- sizes ---- */

static size_t part_bytes(const struct phx_weight_part *part)
{
    return phx_dtype_bytes((enum phx_dtype)part->tensor->dtype,
                           phx_interval_length(part->rows) * phx_interval_length(part->cols));
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

static size_t device_bytes(struct phx_weight_walk walk, const struct phx_device *device,
                           size_t *out_vector_bytes)
{
    struct phx_weight_place place;
    size_t bytes = 0;
    while (phx_weight_walk_next(&walk, &place)) {
        if (!place.is_vector) bytes += phx_weight_bytes(device, &place.shape);
    }
    *out_vector_bytes = walk.vector_bytes;
    return bytes + walk.vector_bytes;
}

size_t phx_weights_device_bytes(const struct phx_config *config, const struct phx_shard_plan *plan,
                                const struct phx_checkpoint *checkpoint,
                                const struct phx_device *device)
{
    size_t vector_bytes;
    return device_bytes(phx_weight_walk_start(config, plan, checkpoint), device, &vector_bytes);
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
    case PHX_SLOT_FFN_NORM:
        return &layer->ffn_norm;
    case PHX_SLOT_GATE_UP_BIAS:
        return &layer->gate_up_bias;
    case PHX_SLOT_DOWN_BIAS:
        return &layer->down_bias;
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
    enum phx_dtype config_dtype;
    size_t done_bytes, total_bytes;
    char *vectors; /* the buffer of all vectors, on the host */
};

static void add_done(struct filling *filling, size_t bytes)
{
    filling->done_bytes += bytes;
    const struct phx_load_options *options = filling->options;
    if (options && options->progress)
        options->progress(options->progress_user, filling->done_bytes, filling->total_bytes);
}

/* A rectangle of a file: rows pitch_bytes apart. Not aligned to anything. */
struct rectangle {
    const char *data;
    size_t pitch_bytes, row_bytes;
    int64_t rows;
};

static struct rectangle rectangle_of(const struct phx_weight_part *part)
{
    enum phx_dtype dtype = (enum phx_dtype)part->tensor->dtype;
    size_t pitch = phx_dtype_bytes(dtype, part->full_cols);
    return (struct rectangle){
        .data = (const char *)part->tensor->data + (size_t)part->rows.begin * pitch +
                phx_dtype_bytes(dtype, part->cols.begin),
        .pitch_bytes = pitch,
        .row_bytes = phx_dtype_bytes(dtype, phx_interval_length(part->cols)),
        .rows = phx_interval_length(part->rows),
    };
}

static struct rectangle rows_of(struct rectangle r, int64_t row, int64_t rows)
{
    r.data += (size_t)row * r.pitch_bytes;
    r.rows = rows < r.rows - row ? rows : r.rows - row;
    return r;
}

/* Advice about the pages of a rectangle; a refusal changes nothing. */
static void advise(struct rectangle r, int advice)
{
    size_t into_page = (uintptr_t)r.data % (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = (size_t)(r.rows - 1) * r.pitch_bytes + r.row_bytes;
    (void)madvise((char *)r.data - into_page, into_page + bytes, advice);
}

/* Reads one chunk ahead, and gives back the pages of each: a load takes little more memory than the
 * weights. */
static enum phx_status read_matrix(struct filling *filling, struct phx_weight *weight, int64_t row,
                                   const struct phx_weight_part *part)
{
    enum phx_dtype dtype = (enum phx_dtype)part->tensor->dtype;
    struct rectangle all = rectangle_of(part);
    int64_t step = CHUNK_BYTES / (int64_t)all.row_bytes + 1;
    advise(rows_of(all, 0, step), MADV_WILLNEED);
    for (int64_t i = 0; i < all.rows; i += step) {
        struct rectangle chunk = rows_of(all, i, step);
        if (i + step < all.rows) advise(rows_of(all, i + step, step), MADV_WILLNEED);
        PHX_TRY(phx_weight_write(filling->stream, weight, row + i, chunk.rows, dtype, chunk.data,
                                 chunk.pitch_bytes));
        advise(chunk, MADV_DONTNEED);
        add_done(filling, (size_t)chunk.rows * chunk.row_bytes);
    }
    return PHX_OK;
}

static void read_vector(struct filling *filling, float *to, const struct phx_weight_part *part)
{
    enum phx_dtype dtype = (enum phx_dtype)part->tensor->dtype;
    struct rectangle r = rectangle_of(part);
    for (int64_t i = 0; i < phx_interval_length(part->cols); i++) {
        const char *at = r.data + phx_dtype_bytes(dtype, i);
        uint16_t half;
        if (dtype == PHX_F32) {
            memcpy(&to[i], at, sizeof to[i]);
        } else {
            memcpy(&half, at, sizeof half);
            to[i] = dtype == PHX_BF16 ? phx_f32_from_bf16(half) : phx_f32_from_f16(half);
        }
    }
    add_done(filling, r.row_bytes);
}

static void make_vector(const struct filling *filling, float *to,
                        const struct phx_weight_part *part, int32_t layer)
{
    struct phx_dummy dummy = phx_weight_row_dummy(part->row, layer, part->full_cols);
    uint32_t key = phx_dummy_row_key(dummy.key, 0);
    for (int64_t i = 0; i < phx_interval_length(part->cols); i++) {
        float value =
            dummy.center + dummy.scale * phx_dummy_unit(key, (uint32_t)(part->cols.begin + i));
        if (filling->config_dtype == PHX_BF16) value = phx_f32_from_bf16(phx_bf16_from_f32(value));
        if (filling->config_dtype == PHX_F16) value = phx_f32_from_f16(phx_f16_from_f32(value));
        to[i] = value;
    }
}

static enum phx_status fill_matrix(struct filling *filling, const struct phx_weight_place *place,
                                   struct phx_weight *weight)
{
    int64_t row = 0;
    for (int i = 0; i < place->n_parts; i++) {
        const struct phx_weight_part *part = &place->parts[i];
        int64_t rows = phx_interval_length(part->rows);
        if (part->tensor) {
            PHX_TRY(read_matrix(filling, weight, row, part));
        } else {
            struct phx_dummy dummy = phx_weight_row_dummy(part->row, place->layer, part->full_cols);
            PHX_TRY(phx_weight_write_dummy(filling->stream, weight, row, rows, &dummy,
                                           part->rows.begin, part->cols.begin));
        }
        row += rows;
    }
    return PHX_OK;
}

static void fill_vector(struct filling *filling, const struct phx_weight_place *place)
{
    float *to = (float *)(filling->vectors + place->vector_offset);
    for (int i = 0; i < place->n_parts; i++) {
        const struct phx_weight_part *part = &place->parts[i];
        if (part->tensor)
            read_vector(filling, to, part);
        else
            make_vector(filling, to, part, place->layer);
        to += phx_interval_length(part->cols);
    }
}

static enum phx_status fill(struct phx_weight_walk walk, struct filling *filling,
                            size_t vector_bytes, struct phx_weights *weights)
{
    filling->vectors = calloc(1, vector_bytes);
    if (!filling->vectors) {
        return phx_fail(PHX_OUT_OF_MEMORY, "out of memory for %zu bytes of norms and biases",
                        vector_bytes);
    }
    enum phx_status status;
    struct phx_weight_place place;
    while (phx_weight_walk_next(&walk, &place)) {
        if (!place.is_vector)
            PHX_TRY_GOTO(fill_matrix(filling, &place, *matrix_at(weights, &place)), done);
        else if (!place.absent)
            fill_vector(filling, &place);
    }
    PHX_TRY_GOTO(phx_buffer_upload(filling->stream, weights->vectors, 0, vector_bytes,
                                   filling->vectors, vector_bytes, vector_bytes, 1),
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

static enum phx_status create_and_fill(struct phx_weight_walk walk, struct filling *filling,
                                       struct phx_weights **out, struct phx_load_report *report)
{
    struct phx_device *device = phx_stream_device(filling->stream);
    double begin = seconds_now();
    size_t vector_bytes;
    *report = (struct phx_load_report){
        .file_bytes = walk.checkpoint ? phx_checkpoint_bytes(walk.checkpoint) : 0,
        .device_bytes = device_bytes(walk, device, &vector_bytes),
    };
    struct phx_weights *weights = calloc(1, sizeof *weights);
    if (!weights) return phx_fail(PHX_OUT_OF_MEMORY, "out of memory for the weights");
    enum phx_status status;
    PHX_TRY_GOTO(create(walk, device, vector_bytes, weights), failed);
    PHX_TRY_GOTO(fill(walk, filling, vector_bytes, weights), failed);
    report->read_bytes = filling->done_bytes;
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
    struct phx_weight_walk walk = phx_weight_walk_start(config, plan, checkpoint);
    PHX_TRY(check_checkpoint(walk));
    struct filling filling = {
        .stream = stream,
        .options = options,
        .total_bytes = read_bytes(walk),
    };
    return create_and_fill(walk, &filling, out, report);
}

enum phx_status phx_weights_dummy(const struct phx_config *config,
                                  const struct phx_shard_plan *plan, struct phx_stream *stream,
                                  struct phx_weights **out, struct phx_load_report *report)
{
    struct phx_weight_walk walk = phx_weight_walk_start(config, plan, NULL);
    struct filling filling = {.stream = stream, .config_dtype = config->dtype};
    return create_and_fill(walk, &filling, out, report);
}
