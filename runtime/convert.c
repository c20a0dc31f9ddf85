#include "runtime/convert.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/blocks.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "runtime/chat.h"
#include "runtime/gguf_model.h"
#include "runtime/gguf_write.h"
#include "runtime/json.h"
#include "runtime/new_file.h"
#include "runtime/weights_check.h"

/* ---- values ---- */

/* A tensor as it will be: of a matrix rows and cols, of a vector rows of one. */
struct target {
    const struct phx_file_tensor *from;
    enum phx_dtype dtype;
    int64_t rows, cols;
    int64_t head_rows; /* as in struct phx_file_tensor */
    float added;       /* to each value */
};

static struct target target_of(const struct phx_file_tensor *from)
{
    bool vector = from->n_dims == 1;
    return (struct target){.from = from,
                           .dtype = (enum phx_dtype)from->dtype,
                           .rows = from->shape[0],
                           .cols = vector ? 1 : from->shape[1]};
}

static bool is_norm(const char *name)
{
    static const char suffix[] = "norm.weight";
    size_t n = strlen(name), tail = sizeof suffix - 1;
    return n >= tail && strcmp(name + n - tail, suffix) == 0;
}

static bool unchanged(const struct target *t)
{
    return (int)t->dtype == t->from->dtype && t->head_rows == t->from->head_rows && t->added == 0;
}

static size_t target_bytes(const struct target *t)
{
    return (size_t)t->rows * phx_dtype_bytes(t->dtype, t->cols);
}

static enum phx_status check_finite(const struct target *t, const float *row)
{
    if (phx_dtype_traits(t->dtype)->is_float) return PHX_OK;
    for (int64_t c = 0; c < t->cols; c++) {
        if (!isfinite(row[c])) {
            return phx_fail(PHX_BAD_DATA,
                            "%s: tensor %s has a value that is not finite, which %s cannot hold",
                            t->from->file, t->from->name, phx_dtype_traits(t->dtype)->name);
        }
    }
    return PHX_OK;
}

/* The whole tensor in its new type and order. */
static enum phx_status make(const struct target *t, char *to)
{
    enum phx_dtype from_dtype = (enum phx_dtype)t->from->dtype;
    size_t from_pitch = phx_dtype_bytes(from_dtype, t->cols);
    size_t pitch = phx_dtype_bytes(t->dtype, t->cols);
    const struct phx_file_tensor placed = {.head_rows = t->head_rows};
    float *row = malloc((size_t)t->cols * sizeof *row);
    if (!row) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a row of %s", t->from->name);
    enum phx_status status = PHX_OK;
    for (int64_t r = 0; r < t->rows && status == PHX_OK; r++) {
        const char *from =
            (const char *)t->from->data + (size_t)phx_file_tensor_row(t->from, r) * from_pitch;
        char *at = to + (size_t)phx_file_tensor_row(&placed, r) * pitch;
        if (from_dtype == t->dtype && t->added == 0) {
            memcpy(at, from, pitch);
            continue;
        }
        phx_values_widen(from_dtype, from, t->cols, row);
        for (int64_t c = 0; c < t->cols; c++) row[c] += t->added;
        status = check_finite(t, row);
        if (status == PHX_OK) phx_values_narrow(t->dtype, row, t->cols, at);
    }
    free(row);
    return status;
}

/* Shapes and names, checked as a run would. */
static enum phx_status check(const struct phx_config *config,
                             const struct phx_checkpoint *checkpoint)
{
    struct phx_shard_plan *plan = NULL;
    struct phx_layer_shape *layers = calloc((size_t)config->n_layers, sizeof *layers);
    if (!layers) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the shapes of layers");
    struct phx_model_shape shape = phx_config_shape(config, layers);
    enum phx_status status = phx_shard_plan_create(&shape, 1, 0, &plan);
    if (status == PHX_OK) status = phx_weights_check(config, plan, checkpoint);
    phx_shard_plan_destroy(plan);
    free(layers);
    return status;
}

/* ---- into a GGUF ---- */

/* A text file's bytes, to be freed; NULL with PHX_OK where there is none. */
static enum phx_status read_file(const char *folder, const char *name, char **out, size_t *out_n)
{
    char *path = NULL;
    *out = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", folder);
    FILE *file = fopen(path, "rb");
    enum phx_status status = PHX_OK;
    if (!file) {
        if (errno != ENOENT) status = phx_fail(PHX_IO, "cannot open %s: %s", path, strerror(errno));
        free(path);
        return status;
    }
    long n = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (n >= 0) *out = malloc((size_t)n + 1);
    rewind(file);
    if (!*out || fread(*out, 1, (size_t)n, file) != (size_t)n) {
        free(*out);
        *out = NULL;
        status = phx_fail(PHX_IO, "cannot read %s", path);
    } else {
        *out_n = (size_t)n;
    }
    fclose(file);
    free(path);
    return status;
}

struct to_gguf {
    const char *folder;
    const struct phx_convert_options *options;
    const struct phx_gguf_family *family;
    struct phx_config *config;
    struct phx_checkpoint *checkpoint;
    struct phx_gguf_writer *writer;
    struct phx_gguf_factors factors;
    char *tokenizer;
    size_t tokenizer_bytes;
    struct phx_chat_source chat;
};

/* One tensor of the GGUF. */
struct entry {
    struct phx_gguf_place place;
    struct target target; /* of its first expert, where experts are stacked */
    int64_t n_experts;    /* 1: it is no stack */
    int n_dims;
    int64_t shape[3];
};

static void choose_type(const struct to_gguf *job, struct entry *e)
{
    const enum phx_dtype matrices = job->options->matrices;
    struct target *t = &e->target;
    if (e->n_dims == 1) {
        t->dtype = PHX_F32;
    } else if (matrices != PHX_DTYPE_COUNT) {
        t->dtype = e->place.is_router ? PHX_F32 : matrices;
        if (t->cols % phx_dtype_traits(t->dtype)->block_elements != 0) t->dtype = PHX_F16;
    }
}

/* False if the GGUF has no such tensor of its own: a tied lm_head, an expert that is not the first,
 * what weights_check passes over. */
static bool entry_of(const struct to_gguf *job, const struct phx_file_tensor *from,
                     struct entry *out)
{
    const struct phx_config *c = job->config;
    struct entry e = {.target = target_of(from), .n_experts = 1};
    if (c->tied && strcmp(from->name, "lm_head.weight") == 0) return false;
    if (!phx_gguf_place(c, from->name, &e.place)) return false;
    if (e.place.stacked && e.place.expert != 0) return false;
    if (e.place.stacked) {
        e.n_experts = c->layers[e.place.layer].shape.n_experts;
        e.shape[e.n_dims++] = e.n_experts;
    }
    for (int d = e.place.is_vector; d < from->n_dims; d++) e.shape[e.n_dims++] = from->shape[d];
    if (e.place.heads && job->family->interleaves) e.target.head_rows = c->layers[0].shape.head_dim;
    if (is_norm(from->name)) e.target.added = job->family->norm_offset;
    choose_type(job, &e);
    *out = e;
    return true;
}

static void write_header(const struct to_gguf *job)
{
    const struct phx_gguf_factors *factors = &job->factors;
    struct entry e;
    if (job->tokenizer)
        phx_gguf_write_text(job->writer, "tokenizer.huggingface.json", "", job->tokenizer,
                            job->tokenizer_bytes);
    if (job->chat.text)
        phx_gguf_write_text(job->writer, "tokenizer.chat_template", "", job->chat.text,
                            job->chat.bytes);
    for (int i = 0; i < factors->n; i++)
        phx_gguf_write_tensor(job->writer, factors->names[i], PHX_F32, 1,
                              (int64_t[]){factors->count});
    for (size_t i = 0; i < phx_checkpoint_count(job->checkpoint); i++)
        if (entry_of(job, phx_checkpoint_at(job->checkpoint, i), &e))
            phx_gguf_write_tensor(job->writer, e.place.name, e.target.dtype, e.n_dims, e.shape);
}

static enum phx_status make_entry(const struct to_gguf *job, const struct entry *e, char *to)
{
    struct target t = e->target;
    const char *name = t.from->name;
    PHX_TRY(make(&t, to));
    for (int64_t expert = 1; expert < e->n_experts; expert++) {
        char other[PHX_WEIGHT_NAME_BYTES];
        phx_gguf_expert_name(job->config, name, expert, other);
        t.from = phx_checkpoint_find(job->checkpoint, other);
        PHX_ASSERT(t.from != NULL); /* weights_check has found it */
        PHX_TRY(make(&t, to + (size_t)expert * target_bytes(&t)));
    }
    return PHX_OK;
}

static enum phx_status write_tensors(const struct to_gguf *job)
{
    const struct phx_gguf_factors *factors = &job->factors;
    for (int i = 0; i < factors->n; i++)
        phx_gguf_write_data(job->writer, factors->values[i],
                            sizeof *factors->values[i] * (size_t)factors->count);
    for (size_t i = 0; i < phx_checkpoint_count(job->checkpoint); i++) {
        struct entry e;
        if (!entry_of(job, phx_checkpoint_at(job->checkpoint, i), &e)) continue;
        size_t bytes = (size_t)e.n_experts * target_bytes(&e.target);
        char *data = malloc(bytes);
        if (!data) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for tensor %s", e.place.name);
        enum phx_status status = make_entry(job, &e, data);
        if (status == PHX_OK) phx_gguf_write_data(job->writer, data, bytes);
        free(data);
        PHX_TRY(status);
    }
    return PHX_OK;
}

static enum phx_status run_to_gguf(struct to_gguf *job, const char *file)
{
    PHX_TRY(phx_config_load(job->folder, &job->config));
    PHX_TRY(phx_gguf_family_of(job->config, &job->family));
    PHX_TRY(phx_checkpoint_open(job->folder, &job->checkpoint));
    PHX_TRY(check(job->config, job->checkpoint));
    PHX_TRY(phx_gguf_factors_create(job->config, &job->factors));
    PHX_TRY(read_file(job->folder, "tokenizer.json", &job->tokenizer, &job->tokenizer_bytes));
    enum phx_status status = phx_chat_source_find(job->folder, NULL, NULL, &job->chat);
    if (status != PHX_NOT_FOUND) PHX_TRY(status);
    phx_fail_clear();
    PHX_TRY(phx_gguf_writer_create(file, &job->writer));
    PHX_TRY(phx_gguf_write_config(job->writer, job->folder, job->family, job->config));
    write_header(job);
    PHX_TRY(write_tensors(job));
    return phx_gguf_writer_finish(job->writer);
}

enum phx_status phx_convert_to_gguf(const char *folder, const char *file,
                                    const struct phx_convert_options *options)
{
    struct to_gguf job = {.folder = folder, .options = options};
    enum phx_status status = run_to_gguf(&job, file);
    phx_gguf_writer_destroy(job.writer);
    free(job.tokenizer);
    phx_chat_source_free(&job.chat);
    phx_gguf_factors_free(&job.factors);
    phx_checkpoint_destroy(job.checkpoint);
    phx_config_destroy(job.config);
    return status;
}

/* ---- out of a GGUF ---- */

static enum phx_status write_text(const char *folder, const char *name, const char *text, size_t n)
{
    char *path = NULL;
    struct phx_new_file file;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", folder);
    enum phx_status status = phx_new_file_open(path, &file);
    if (status == PHX_OK) {
        phx_new_file_write(&file, text, n);
        status = phx_new_file_finish(&file);
    }
    free(path);
    return status;
}

/* The tensor as it will be, `made` its memory where it is not the mapping. */
static enum phx_status plain_tensor(const struct phx_file_tensor *from, enum phx_dtype matrices,
                                    float norm_offset, struct phx_tensor_to_write *out, char **made)
{
    struct target t = target_of(from);
    if (is_norm(from->name)) t.added = -norm_offset;
    bool plain = phx_dtype_traits(t.dtype)->is_float;
    if (from->n_dims == 2 && matrices != PHX_DTYPE_COUNT) t.dtype = matrices;
    if (from->n_dims == 2 && matrices == PHX_DTYPE_COUNT && !plain) t.dtype = PHX_BF16;
    *out = (struct phx_tensor_to_write){
        .name = from->name, .dtype = t.dtype, .n_dims = from->n_dims, .data = from->data};
    for (int d = 0; d < from->n_dims; d++) out->shape[d] = from->shape[d];
    if (unchanged(&t)) return PHX_OK;
    *made = malloc(target_bytes(&t));
    if (!*made) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for tensor %s", from->name);
    out->data = *made;
    return make(&t, *made);
}

static enum phx_status write_plain(const struct phx_checkpoint *checkpoint, const char *folder,
                                   enum phx_dtype matrices, float norm_offset)
{
    size_t n = phx_checkpoint_count(checkpoint);
    struct phx_tensor_to_write *tensors = calloc(n + 1, sizeof *tensors);
    char **made = calloc(n + 1, sizeof *made), *path = NULL;
    enum phx_status status = PHX_OK;
    if (!tensors || !made || asprintf(&path, "%s/model.safetensors", folder) < 0)
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for a list of %zu tensors", n);
    for (size_t i = 0; i < n && status == PHX_OK; i++)
        status = plain_tensor(phx_checkpoint_at(checkpoint, i), matrices, norm_offset, &tensors[i],
                              &made[i]);
    if (status == PHX_OK) status = phx_safetensors_write(path, tensors, n);
    for (size_t i = 0; i < n && made; i++) free(made[i]);
    free(made);
    free(tensors);
    free(path);
    return status;
}

/* Its chat template, and the tokens that it may name. */
static enum phx_status write_chat(const struct phx_gguf *gguf, const char *folder)
{
    const char *file = phx_gguf_path(gguf);
    struct phx_tokenizer *tokenizer = NULL;
    struct phx_chat_source chat;
    char *text = NULL;
    PHX_TRY(phx_tokenizer_from_gguf(gguf, &tokenizer));
    enum phx_status status = phx_chat_source_find(file, NULL, tokenizer, &chat);
    phx_tokenizer_destroy(tokenizer);
    if (status == PHX_NOT_FOUND) {
        phx_fail_clear();
        return PHX_OK;
    }
    PHX_TRY(status);
    json_object_set_new(chat.tokens, "chat_template", json_stringn(chat.text, chat.bytes));
    text = json_dumps(chat.tokens, JSON_INDENT(2));
    status = text ? write_text(folder, "tokenizer_config.json", text, strlen(text))
                  : phx_fail(PHX_BAD_DATA, "%s: its chat template is not UTF-8", file);
    free(text);
    phx_chat_source_free(&chat);
    return status;
}

static enum phx_status write_texts(const struct phx_gguf *gguf, const char *folder,
                                   enum phx_dtype matrices)
{
    char *config = NULL;
    struct phx_gguf_string tokenizer = {NULL, 0};
    PHX_TRY(phx_gguf_config_text(gguf, matrices, &config));
    enum phx_status status = write_text(folder, "config.json", config, strlen(config));
    free(config);
    PHX_TRY(status);
    PHX_TRY(phx_gguf_text(gguf, "tokenizer.huggingface.json", &tokenizer));
    if (tokenizer.data) {
        PHX_TRY(write_text(folder, "tokenizer.json", tokenizer.data, tokenizer.bytes));
        return write_chat(gguf, folder);
    }
    phx_log(PHX_LOG_WARN, "%s holds no tokenizer.json: %s gets none", phx_gguf_path(gguf), folder);
    return PHX_OK;
}

enum phx_status phx_convert_from_gguf(const char *file, const char *folder,
                                      const struct phx_convert_options *options)
{
    const struct phx_gguf_family *family = NULL;
    struct phx_gguf *gguf = NULL;
    struct phx_config *config = NULL;
    struct phx_checkpoint *checkpoint = NULL;
    enum phx_status status;
    PHX_ASSERT(options->matrices == PHX_DTYPE_COUNT ||
               phx_dtype_traits(options->matrices)->is_float);
    PHX_TRY_GOTO(phx_gguf_open(file, &gguf), done);
    PHX_TRY_GOTO(phx_gguf_config(gguf, &config), done);
    PHX_TRY_GOTO(phx_checkpoint_open(file, &checkpoint), done);
    PHX_TRY_GOTO(check(config, checkpoint), done);
    PHX_TRY_GOTO(phx_gguf_family(gguf, &family), done);
    PHX_TRY_GOTO(write_plain(checkpoint, folder, options->matrices, family->norm_offset), done);
    status = write_texts(gguf, folder, options->matrices);
done:
    phx_checkpoint_destroy(checkpoint);
    phx_config_destroy(config);
    phx_gguf_destroy(gguf);
    return status;
}
