#include "runtime/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/capture.h"
#include "runtime/live.h"
#include "runtime/reference.h"

enum { NAME_BYTES = 48 };

struct phx_compare {
    struct phx_engine_parts parts;
    struct phx_engine *engine;
    struct phx_compare_options options;
    struct phx_capture *capture;
    struct phx_request *request, *decoy;   /* rank 0 */
    struct phx_live live;                  /* of the prompt */
    const struct phx_reference *reference; /* while comparing with it */
    float *row;                            /* [widest] */
    double *part;                          /* [N, E] */
    struct phx_difference *list;
    size_t n_list, capacity;
};

/* ---- running ---- */

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct phx_compare *c = request->options.user;
    (void)output;
    if (request->slot >= 0) c->live.slot = request->slot;
}

/* All rows are outputs, so that all rows go through the last layer. */
static enum phx_status make_requests(struct phx_compare *c)
{
    const struct phx_compare_options *o = &c->options;
    struct phx_request_options request = {.prompt_ids = o->prompt_ids,
                                          .n_prompt = o->n_prompt,
                                          .sampling = {.top_p = 1, .repeat_penalty = 1},
                                          .want_all_logits = true,
                                          .on_output = on_output,
                                          .user = c};
    PHX_TRY(phx_request_create(&request, &c->request));
    int32_t *backwards = malloc((size_t)c->live.n * sizeof *backwards);
    if (backwards == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a decoy");
    for (int32_t i = 0; i < c->live.n; i++) backwards[i] = o->prompt_ids[c->live.n - 1 - i];
    request.prompt_ids = backwards;
    request.n_prompt = c->live.n > 2 ? c->live.n - 2 : c->live.n;
    request.on_output = NULL;
    request.want_all_logits = false;
    enum phx_status status = phx_request_create(&request, &c->decoy);
    free(backwards);
    return status;
}

static enum phx_status make_capture(struct phx_compare *c, const struct phx_limits *limits)
{
    const int32_t n_layers = c->parts.config->n_layers;
    uint32_t points = (1u << PHX_POINT_COUNT) - 1u;
    if (c->options.quick)
        points = 1u << PHX_POINT_RESIDUAL | 1u << PHX_POINT_END_RESIDUAL | 1u << PHX_POINT_LOGITS |
                 1u << PHX_POINT_CHOSEN;
    else
        points |= 1u << PHX_SEEN_K | 1u << PHX_SEEN_V;
    bool *layers = malloc((size_t)n_layers * sizeof *layers);
    if (layers == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for taps");
    for (int32_t l = 0; l < n_layers; l++) layers[l] = true;
    struct phx_capture_options options = {
        .layers = layers, .points = points, .all_rows = points, .choose_all = !c->options.quick};
    enum phx_status status =
        phx_capture_create(&c->parts, c->engine, limits, &options, &c->capture);
    free(layers);
    c->live.capture = c->capture;
    return status;
}

/* The widest row of an activation: that of scores, logits, or a product. */
static int64_t widest(const struct phx_config *config, int64_t n)
{
    int64_t most = config->hidden > config->vocab ? config->hidden : config->vocab;
    for (int32_t l = 0; l < config->n_layers; l++) {
        const struct phx_layer_shape *s = &config->layers[l].shape;
        int64_t per_head = s->head_dim > n + PHX_PAGE_TOKENS ? s->head_dim : n + PHX_PAGE_TOKENS;
        if (s->n_heads * per_head > most) most = s->n_heads * per_head;
        if (s->ffn > most) most = s->ffn;
        if (s->shared_ffn > most) most = s->shared_ffn;
        if (s->n_experts * s->moe_ffn > most) most = s->n_experts * s->moe_ffn;
        if (s->n_experts > most) most = s->n_experts;
    }
    return most;
}

static enum phx_status make_parts(struct phx_compare *c, const struct phx_limits *limits)
{
    if (c->parts.world->rank == 0) {
        PHX_TRY(make_requests(c));
        c->row = malloc((size_t)widest(c->parts.config, c->live.n) * sizeof *c->row);
        c->part = malloc((size_t)(c->live.n * c->parts.config->hidden) * sizeof *c->part);
        if (c->row == NULL || c->part == NULL)
            return phx_fail(PHX_OUT_OF_MEMORY, "no memory to compare");
    }
    return make_capture(c, limits);
}

enum phx_status phx_compare_create(const struct phx_engine_parts *parts, struct phx_engine *engine,
                                   const struct phx_limits *limits,
                                   const struct phx_compare_options *options,
                                   struct phx_compare **out)
{
    struct phx_compare *c = calloc(1, sizeof *c);
    if (c == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to compare");
    c->parts = *parts;
    c->engine = engine;
    c->options = *options;
    c->live = (struct phx_live){.config = parts->config, .slot = -1, .n = options->n_prompt};
    enum phx_status status = make_parts(c, limits);
    if (status != PHX_OK) {
        phx_compare_destroy(c);
        return status;
    }
    *out = c;
    return PHX_OK;
}

void phx_compare_destroy(struct phx_compare *compare)
{
    if (compare == NULL) return;
    phx_request_destroy(compare->request);
    phx_request_destroy(compare->decoy);
    phx_capture_destroy(compare->capture);
    free(compare->row);
    free(compare->part);
    free(compare->list);
    free(compare);
}

enum phx_status phx_compare_run(struct phx_compare *compare)
{
    struct phx_compare *c = compare;
    bool worked = true;
    if (c->parts.world->rank != 0) {
        PHX_TRY(phx_engine_follow(c->engine));
        return phx_capture_gather(c->capture);
    }
    PHX_TRY(phx_engine_submit(c->engine, c->decoy));
    PHX_TRY(phx_engine_submit(c->engine, c->request));
    while (worked) PHX_TRY(phx_engine_step(c->engine, &worked));
    PHX_TRY(phx_engine_stop(c->engine));
    return phx_capture_gather(c->capture);
}

/* ---- comparing ---- */

static enum phx_status add(struct phx_compare *c, const struct phx_difference *difference)
{
    if (c->n_list == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 256;
        struct phx_difference *grown = realloc(c->list, capacity * sizeof *grown);
        if (grown == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for what differs");
        c->list = grown;
        c->capacity = capacity;
    }
    c->list[c->n_list++] = *difference;
    return PHX_OK;
}

struct sums {
    int64_t n; /* elements */
    double squares, errors, largest;
};

/* `truth` is a row of the whole activation. */
static void compare_row(struct phx_difference *d, struct sums *sums, const float *live,
                        const double *truth, struct phx_live_share share, int32_t token)
{
    for (int64_t i = 0; i < d->cols; i++) {
        const int64_t col = phx_live_share_col(share, i);
        double error = fabs((double)live[i] - truth[col]);
        sums->squares += truth[col] * truth[col];
        sums->errors += error * error;
        sums->largest = fmax(sums->largest, fabs(truth[col]));
        if (sums->n++ > 0 && error <= d->max_abs) continue; /* a NaN goes on */
        if (isnan(d->max_abs)) continue;
        d->max_abs = error;
        d->token = token;
        d->head = share.head_cols > 0 ? (int32_t)(col / share.head_cols) : -1;
        d->element = (int32_t)(share.head_cols > 0 ? col % share.head_cols : col);
        d->live = (double)live[i];
        d->truth = truth[col];
    }
}

static void finish(const struct phx_compare *c, struct phx_difference *d, const struct sums *sums)
{
    const int32_t n_layers = d->layer >= 0                   ? d->layer + 1
                             : strcmp(d->name, "embed") == 0 ? 1
                                                             : c->parts.config->n_layers;
    const double tolerance = c->options.tolerance * sqrt((double)n_layers);
    d->nmse = sums->errors == 0 ? 0 : sums->errors / sums->squares;
    d->ok = d->nmse <= tolerance * tolerance && d->max_abs <= 10 * tolerance * sums->largest;
}

/* The partial results of `o` by each rank's columns of what attention should have given. */
static enum phx_status compare_partials(struct phx_compare *c, int32_t layer, int64_t cols,
                                        const double *attended)
{
    const int64_t hidden = c->parts.config->hidden;
    double *bias = malloc((size_t)hidden * sizeof *bias);
    double *in = malloc((size_t)(c->live.n * cols) * sizeof *in);
    enum phx_status status = PHX_OK;
    if (bias == NULL || in == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory to compare");
        goto done;
    }
    phx_reference_bias(c->reference, PHX_REF_O, layer, bias);
    for (int r = 0; r < c->parts.world->size; r++) {
        const struct phx_interval own = phx_live_share(&c->live, PHX_ACT_ATTN, layer, r).cols;
        const int64_t n_own = phx_interval_length(own);
        for (int64_t i = 0; i < c->live.n; i++)
            memcpy(in + i * n_own, attended + i * cols + own.begin, (size_t)n_own * sizeof *in);
        phx_reference_product(c->reference, PHX_REF_O, layer, (struct phx_interval){0, hidden}, own,
                              c->live.n, in, c->part);
        struct phx_difference d = {.name = "o_partial",
                                   .layer = layer,
                                   .rank = r,
                                   .rows = c->live.n,
                                   .cols = hidden,
                                   .head = -1};
        struct sums sums = {0};
        bool whole = true;
        for (int32_t i = 0; i < c->live.n && whole; i++) {
            double *row = c->part + i * hidden;
            for (int64_t e = 0; e < hidden && r == 0; e++) row[e] += bias[e];
            for (int64_t e = 0; e < hidden; e++) row[e] *= (double)c->parts.config->residual_scale;
            const float *live =
                phx_capture_find(c->capture, r, PHX_POINT_O, layer, c->live.slot, i, -1, NULL);
            whole = live != NULL;
            if (whole)
                compare_row(&d, &sums, live, row,
                            (struct phx_live_share){.cols = {0, hidden}, .n_pieces = 1}, i);
        }
        finish(c, &d, &sums);
        if (whole) PHX_TRY_GOTO(add(c, &d), done);
    }
done:
    free(bias);
    free(in);
    return status;
}

static bool is_quick(enum phx_activation_name name)
{
    return name == PHX_ACT_EMBED || name == PHX_ACT_RESIDUAL || name == PHX_ACT_LOGITS;
}

static enum phx_status see(void *user, enum phx_activation_name name, int32_t layer, int64_t cols,
                           const double *values)
{
    struct phx_compare *c = user;
    if (c->options.quick && !is_quick(name)) return PHX_OK;
    for (int r = 0; r < c->parts.world->size; r++) {
        const struct phx_live_share share = phx_live_share(&c->live, name, layer, r);
        struct phx_difference d = {.name = phx_activation_text(name),
                                   .layer = layer,
                                   .rank = r,
                                   .rows = c->live.n,
                                   .cols = phx_live_share_length(share),
                                   .head = -1};
        struct sums sums = {0};
        bool whole = d.cols > 0 && phx_live_share_col(share, d.cols - 1) < cols;
        for (int32_t i = 0; i < c->live.n && whole; i++) {
            whole = phx_live_row(&c->live, name, layer, r, i, c->row);
            if (whole) compare_row(&d, &sums, c->row, values + i * cols, share, i);
        }
        if (!whole)
            return phx_fail(PHX_BAD_DATA, "%s of layer %d was not seen whole on rank %d", d.name,
                            layer, r);
        finish(c, &d, &sums);
        PHX_TRY(add(c, &d));
    }
    if (name == PHX_ACT_ATTN && c->reference != NULL)
        return compare_partials(c, layer, cols, values);
    return PHX_OK;
}

static bool chosen(void *user, int32_t layer, int64_t position, int32_t *ids)
{
    const struct phx_compare *c = user;
    const float *seen = phx_capture_find(c->capture, 0, PHX_POINT_CHOSEN, layer, c->live.slot,
                                         (int32_t)position, -1, NULL);
    for (int32_t j = 0; j < c->parts.config->n_chosen && seen != NULL; j++)
        ids[j] = (int32_t)seen[j];
    return seen != NULL;
}

enum phx_status phx_compare_with_reference(struct phx_compare *compare,
                                           const struct phx_checkpoint *checkpoint)
{
    struct phx_compare *c = compare;
    struct phx_reference *reference = NULL;
    PHX_TRY(phx_reference_create(
        c->parts.config, checkpoint,
        &(struct phx_reference_options){
            .inv_freq = PHX_F32, .chosen = chosen, .user = c, .close = 2 * c->options.tolerance},
        &reference));
    c->reference = reference;
    enum phx_status status = phx_reference_run(reference, c->request->ids, c->live.n, see, c);
    c->reference = NULL;
    phx_reference_destroy(reference);
    return status;
}

/* ---- files ---- */

static bool per_layer(enum phx_activation_name name)
{
    return name > PHX_ACT_EMBED && name < PHX_ACT_FINAL_NORM;
}

static void name_in_file(enum phx_activation_name name, int32_t layer, char text[NAME_BYTES])
{
    if (per_layer(name))
        snprintf(text, NAME_BYTES, "layers.%d.%s", layer, phx_activation_text(name));
    else
        snprintf(text, NAME_BYTES, "%s", phx_activation_text(name));
}

static enum phx_status compare_tensor(struct phx_compare *c, enum phx_activation_name name,
                                      int32_t layer, const struct phx_checkpoint *file, int *n)
{
    char text[NAME_BYTES];
    name_in_file(name, layer, text);
    const struct phx_file_tensor *t = phx_checkpoint_find(file, text);
    if (t == NULL) return PHX_OK;
    const int64_t cols = phx_live_cols(&c->live, name, layer);
    if (t->dtype != PHX_F32 || t->bytes != phx_dtype_bytes(PHX_F32, c->live.n * cols))
        return phx_fail(PHX_BAD_DATA, "%s: %s has type %s and %zu bytes, not F32 [%d, %lld]",
                        t->file, text, t->dtype_name, t->bytes, c->live.n, (long long)cols);
    double *values = malloc((size_t)(c->live.n * cols) * sizeof *values);
    if (values == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %s", text);
    for (int64_t i = 0; i < c->live.n * cols; i++) {
        float value;
        memcpy(&value, (const char *)t->data + i * (int64_t)sizeof value, sizeof value);
        values[i] = (double)value;
    }
    enum phx_status status = see(c, name, layer, cols, values);
    free(values);
    ++*n;
    return status;
}

/* Integers of a file: i32 or i64, little endian. */
static enum phx_status check_ids(const struct phx_compare *c, const struct phx_checkpoint *file)
{
    const struct phx_file_tensor *t = phx_checkpoint_find(file, "input_ids");
    if (t == NULL) return PHX_OK;
    const size_t each = t->bytes / (size_t)c->live.n;
    bool same = (each == 4 || each == 8) && t->bytes == each * (size_t)c->live.n;
    for (int32_t i = 0; i < c->live.n && same; i++) {
        int32_t id;
        memcpy(&id, (const char *)t->data + (size_t)i * each, sizeof id);
        same = id == c->request->ids[i];
    }
    if (same) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: its input_ids are not the %d tokens of the prompt", t->file,
                    c->live.n);
}

/* The names in the order of execution: layer by layer between the embedding and the end. */
static enum phx_status for_each(struct phx_compare *c,
                                enum phx_status (*visit)(struct phx_compare *,
                                                         enum phx_activation_name, int32_t, void *),
                                void *user)
{
    PHX_TRY(visit(c, PHX_ACT_EMBED, -1, user));
    for (int32_t l = 0; l < c->parts.config->n_layers; l++)
        for (int name = 0; name < PHX_ACT_COUNT; name++)
            if (per_layer((enum phx_activation_name)name))
                PHX_TRY(visit(c, (enum phx_activation_name)name, l, user));
    PHX_TRY(visit(c, PHX_ACT_FINAL_NORM, -1, user));
    return visit(c, PHX_ACT_LOGITS, -1, user);
}

struct reading {
    const struct phx_checkpoint *file;
    int n;
};

static enum phx_status read_one(struct phx_compare *c, enum phx_activation_name name, int32_t layer,
                                void *user)
{
    struct reading *reading = user;
    return compare_tensor(c, name, layer, reading->file, &reading->n);
}

enum phx_status phx_compare_with_file(struct phx_compare *compare,
                                      const struct phx_checkpoint *file)
{
    struct reading reading = {file, 0};
    PHX_TRY(check_ids(compare, file));
    PHX_TRY(for_each(compare, read_one, &reading));
    if (reading.n > 0) return PHX_OK;
    return phx_fail(PHX_BAD_DATA,
                    "%s has none of the activations that are compared: embed, layers.0.residual, "
                    "..., logits",
                    phx_checkpoint_path(file));
}

struct writing {
    struct phx_tensor_to_write *tensors;
    char (*names)[NAME_BYTES];
    size_t n, capacity;
};

static enum phx_status gather_one(struct phx_compare *c, enum phx_activation_name name,
                                  int32_t layer, void *user)
{
    struct writing *w = user;
    if (c->options.quick && !is_quick(name)) return PHX_OK;
    const int64_t cols = phx_live_cols(&c->live, name, layer);
    if (cols == 0) return PHX_OK; /* the layer has none */
    float *values = malloc((size_t)(c->live.n * cols) * sizeof *values);
    if (values == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for activations");
    PHX_ASSERT(w->n < w->capacity);
    name_in_file(name, layer, w->names[w->n]);
    w->tensors[w->n] = (struct phx_tensor_to_write){.name = w->names[w->n],
                                                    .dtype = PHX_F32,
                                                    .n_dims = 2,
                                                    .shape = {c->live.n, cols},
                                                    .data = values};
    w->n++;
    for (int r = 0; r < c->parts.world->size; r++) {
        const struct phx_live_share own = phx_live_share(&c->live, name, layer, r);
        for (int32_t i = 0; i < c->live.n; i++) {
            if (!phx_live_row(&c->live, name, layer, r, i, c->row))
                return phx_fail(PHX_BAD_DATA, "%s of layer %d was not seen whole on rank %d",
                                phx_activation_text(name), layer, r);
            for (int64_t j = 0; j < phx_live_share_length(own); j++)
                values[i * cols + phx_live_share_col(own, j)] = c->row[j];
        }
    }
    return PHX_OK;
}

enum phx_status phx_compare_dump(const struct phx_compare *compare, const char *path)
{
    struct phx_compare *c = (struct phx_compare *)compare; /* for_each visits, it changes nothing */
    struct writing w = {.capacity = (size_t)(c->parts.config->n_layers + 1) * PHX_ACT_COUNT};
    enum phx_status status = PHX_OK;
    w.tensors = calloc(w.capacity, sizeof *w.tensors);
    w.names = calloc(w.capacity, sizeof *w.names);
    if (w.tensors == NULL || w.names == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for activations");
        goto done;
    }
    w.tensors[w.n++] = (struct phx_tensor_to_write){.name = "input_ids",
                                                    .dtype = PHX_I32,
                                                    .n_dims = 1,
                                                    .shape = {c->live.n},
                                                    .data = c->request->ids};
    status = for_each(c, gather_one, &w);
    if (status == PHX_OK) status = phx_safetensors_write(path, w.tensors, w.n);
done:
    for (size_t i = 1; i < w.n; i++) free((void *)w.tensors[i].data);
    free(w.tensors);
    free(w.names);
    return status;
}

const struct phx_difference *phx_compare_differences(const struct phx_compare *compare,
                                                     size_t *out_n)
{
    *out_n = compare->n_list;
    return compare->list;
}

const struct phx_difference *phx_compare_first(const struct phx_compare *compare)
{
    for (size_t i = 0; i < compare->n_list; i++)
        if (!compare->list[i].ok) return &compare->list[i];
    return NULL;
}
