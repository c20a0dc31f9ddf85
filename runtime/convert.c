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
};

static struct target target_of(const struct phx_file_tensor *from)
{
    bool vector = from->n_dims == 1;
    return (struct target){.from = from,
                           .dtype = (enum phx_dtype)from->dtype,
                           .rows = from->shape[0],
                           .cols = vector ? 1 : from->shape[1]};
}

static bool unchanged(const struct target *t)
{
    return (int)t->dtype == t->from->dtype && t->head_rows == t->from->head_rows;
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
        if (from_dtype == t->dtype) {
            memcpy(at, from, pitch);
            continue;
        }
        phx_values_widen(from_dtype, from, t->cols, row);
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

static enum phx_status cannot_say(const char *folder, const char *what)
{
    return phx_fail(PHX_UNSUPPORTED, "%s cannot be written as GGUF: it has %s", folder, what);
}

static enum phx_status check_sayable(const char *folder, const struct phx_config *c)
{
    if (c->activation != PHX_SILU) return cannot_say(folder, "another activation than SiLU");
    if (c->n_eos > 3) return cannot_say(folder, "more than 3 end-of-text tokens");
    for (int32_t l = 1; l < c->n_layers; l++) {
        if (c->layers[l].window != c->layers[0].window)
            return cannot_say(folder, "sliding windows in some of its layers");
    }
    return PHX_OK;
}

static void write_config(struct phx_gguf_writer *w, const char *arch, const struct phx_config *c)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    const struct phx_layer_shape *s = &c->layers[0].shape;
    phx_gguf_write_text(w, "general.architecture", "", arch, strlen(arch));
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {
        {"%s.context_length", c->max_positions},  {"%s.embedding_length", c->hidden},
        {"%s.block_count", c->n_layers},          {"%s.feed_forward_length", s->ffn},
        {"%s.attention.head_count", s->n_heads},  {"%s.attention.head_count_kv", s->n_kv_heads},
        {"%s.attention.key_length", s->head_dim}, {"%s.attention.value_length", s->head_dim},
        {"%s.rope.dimension_count", s->head_dim}, {"%s.vocab_size", c->vocab},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        phx_gguf_write_u32(w, numbers[i].key, arch, (uint32_t)numbers[i].value);
    if (c->layers[0].window > 0)
        phx_gguf_write_u32(w, "%s.attention.sliding_window", arch, (uint32_t)c->layers[0].window);
    phx_gguf_write_f32(w, "%s.attention.layer_norm_rms_epsilon", arch, c->norm_epsilon);
    phx_gguf_write_f32(w, "%s.rope.freq_base", arch, (float)c->ropes[0].theta);
    if (c->ropes[0].kind == PHX_ROPE_LINEAR) {
        phx_gguf_write_text(w, "%s.rope.scaling.type", arch, "linear", 6);
        phx_gguf_write_f32(w, "%s.rope.scaling.factor", arch, (float)c->ropes[0].factor);
    }
    if (c->bos >= 0) phx_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", "", (uint32_t)c->bos);
    for (int i = 0; i < c->n_eos; i++) phx_gguf_write_u32(w, ends[i], "", (uint32_t)c->eos[i]);
}

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
    float *divisors; /* rope_freqs; NULL: none */
    char *tokenizer;
    size_t tokenizer_bytes;
};

static bool is_left_out(const struct to_gguf *job, const char *name)
{
    char gguf_name[PHX_GGUF_NAME_BYTES];
    bool interleaved;
    if (job->config->tied && strcmp(name, "lm_head.weight") == 0) return true;
    return !phx_gguf_name(name, gguf_name, &interleaved); /* what weights_check passes over */
}

static struct target gguf_target(const struct to_gguf *job, const struct phx_file_tensor *from,
                                 char name[PHX_GGUF_NAME_BYTES])
{
    bool interleaved = false;
    struct target t = target_of(from);
    phx_gguf_name(from->name, name, &interleaved);
    if (interleaved && job->family->interleaves)
        t.head_rows = job->config->layers[0].shape.head_dim;
    if (from->n_dims == 1) {
        t.dtype = PHX_F32;
    } else if (job->options->matrices != PHX_DTYPE_COUNT) {
        t.dtype = job->options->matrices;
        if (t.cols % phx_dtype_traits(t.dtype)->block_elements != 0) t.dtype = PHX_F16;
    }
    return t;
}

static enum phx_status write_header(const struct to_gguf *job)
{
    const char *arch = job->family->architecture;
    write_config(job->writer, arch, job->config);
    if (job->tokenizer)
        phx_gguf_write_text(job->writer, "tokenizer.huggingface.json", "", job->tokenizer,
                            job->tokenizer_bytes);
    if (job->divisors)
        phx_gguf_write_tensor(job->writer, "rope_freqs.weight", PHX_F32, 0,
                              job->config->layers[0].shape.head_dim / 2);
    for (size_t i = 0; i < phx_checkpoint_count(job->checkpoint); i++) {
        const struct phx_file_tensor *from = phx_checkpoint_at(job->checkpoint, i);
        char name[PHX_GGUF_NAME_BYTES];
        if (is_left_out(job, from->name)) continue;
        struct target t = gguf_target(job, from, name);
        bool vector = from->n_dims == 1;
        phx_gguf_write_tensor(job->writer, name, t.dtype, vector ? 0 : t.rows,
                              vector ? t.rows : t.cols);
    }
    return PHX_OK;
}

static enum phx_status write_tensors(const struct to_gguf *job)
{
    if (job->divisors)
        phx_gguf_write_data(job->writer, job->divisors,
                            sizeof *job->divisors *
                                (size_t)(job->config->layers[0].shape.head_dim / 2));
    for (size_t i = 0; i < phx_checkpoint_count(job->checkpoint); i++) {
        const struct phx_file_tensor *from = phx_checkpoint_at(job->checkpoint, i);
        char name[PHX_GGUF_NAME_BYTES];
        if (is_left_out(job, from->name)) continue;
        struct target t = gguf_target(job, from, name);
        size_t bytes = target_bytes(&t);
        char *data = malloc(bytes);
        if (!data) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for tensor %s", from->name);
        enum phx_status status = make(&t, data);
        if (status == PHX_OK) phx_gguf_write_data(job->writer, data, bytes);
        free(data);
        PHX_TRY(status);
    }
    return PHX_OK;
}

static enum phx_status find_divisors(struct to_gguf *job)
{
    const struct phx_config *c = job->config;
    int32_t head_dim = c->layers[0].shape.head_dim;
    if (c->ropes[0].kind != PHX_ROPE_LLAMA3) return PHX_OK;
    job->divisors = malloc((size_t)head_dim * sizeof *job->divisors);
    if (!job->divisors) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for rope_freqs");
    float factor;
    phx_config_inv_freq(c, 0, job->divisors, &factor);
    for (int32_t i = 0; i < head_dim / 2; i++)
        job->divisors[i] = (float)(1 / pow(c->ropes[0].theta, (double)(2 * i) / head_dim) /
                                   (double)job->divisors[i]);
    return PHX_OK;
}

static enum phx_status run_to_gguf(struct to_gguf *job, const char *file)
{
    PHX_TRY(phx_config_load(job->folder, &job->config));
    PHX_TRY(phx_gguf_family_of(job->config, &job->family));
    PHX_TRY(check_sayable(job->folder, job->config));
    PHX_TRY(phx_checkpoint_open(job->folder, &job->checkpoint));
    PHX_TRY(check(job->config, job->checkpoint));
    PHX_TRY(find_divisors(job));
    PHX_TRY(read_file(job->folder, "tokenizer.json", &job->tokenizer, &job->tokenizer_bytes));
    PHX_TRY(phx_gguf_writer_create(file, &job->writer));
    PHX_TRY(write_header(job));
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
    free(job.divisors);
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
                                    struct phx_tensor_to_write *out, char **made)
{
    struct target t = target_of(from);
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
                                   enum phx_dtype matrices)
{
    size_t n = phx_checkpoint_count(checkpoint);
    struct phx_tensor_to_write *tensors = calloc(n + 1, sizeof *tensors);
    char **made = calloc(n + 1, sizeof *made), *path = NULL;
    enum phx_status status = PHX_OK;
    if (!tensors || !made || asprintf(&path, "%s/model.safetensors", folder) < 0)
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for a list of %zu tensors", n);
    for (size_t i = 0; i < n && status == PHX_OK; i++)
        status = plain_tensor(phx_checkpoint_at(checkpoint, i), matrices, &tensors[i], &made[i]);
    if (status == PHX_OK) status = phx_safetensors_write(path, tensors, n);
    for (size_t i = 0; i < n && made; i++) free(made[i]);
    free(made);
    free(tensors);
    free(path);
    return status;
}

static enum phx_status write_texts(const struct phx_gguf *gguf, const char *folder)
{
    char *config = NULL;
    struct phx_gguf_string tokenizer = {NULL, 0};
    PHX_TRY(phx_gguf_config_text(gguf, &config));
    enum phx_status status = write_text(folder, "config.json", config, strlen(config));
    free(config);
    PHX_TRY(status);
    PHX_TRY(phx_gguf_text(gguf, "tokenizer.huggingface.json", &tokenizer));
    if (tokenizer.data)
        return write_text(folder, "tokenizer.json", tokenizer.data, tokenizer.bytes);
    phx_log(PHX_LOG_WARN, "%s holds no tokenizer.json: %s gets none", phx_gguf_path(gguf), folder);
    return PHX_OK;
}

enum phx_status phx_convert_from_gguf(const char *file, const char *folder,
                                      const struct phx_convert_options *options)
{
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
    if (config->ropes[0].divisors) {
        status = phx_fail(PHX_UNSUPPORTED,
                          "%s has rotary factors of its own (rope_freqs), which "
                          "no config.json can say",
                          file);
        goto done;
    }
    PHX_TRY_GOTO(write_plain(checkpoint, folder, options->matrices), done);
    status = write_texts(gguf, folder);
done:
    phx_checkpoint_destroy(checkpoint);
    phx_config_destroy(config);
    phx_gguf_destroy(gguf);
    return status;
}
