/* The catalogue and the loader: every rank's rectangles, put together again, are the tensors of the
 * file, each element once; and the sentence for every checkpoint that does not fit. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "runtime/loader.h"
#include "runtime/weights_check.h"
#include "tests/support/write_model.h"

static struct phx_device *device;
static struct phx_stream *stream;

static int open_device(void **state)
{
    (void)state;
    const struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 2};
    const struct phx_limits limits = {0};
    return phx_device_create(&options, &device) != PHX_OK ||
           phx_stream_create(device, &limits, &stream) != PHX_OK;
}

static int close_device(void **state)
{
    (void)state;
    phx_stream_destroy(stream);
    phx_device_destroy(device);
    return 0;
}

static struct phx_shard_plan *plan_of(const struct phx_config *config, int size, int rank)
{
    struct phx_layer_shape layers[64];
    struct phx_shard_plan *plan = NULL;
    assert_true(config->n_layers <= 64);
    struct phx_model_shape shape = phx_config_shape(config, layers);
    assert_int_equal(phx_shard_plan_create(&shape, size, rank, &plan), PHX_OK);
    return plan;
}

/* ---- tensors put together from the ranks' pieces ---- */

struct whole {
    char name[128];
    int64_t rows, cols;
    float *values;
    int *times; /* that a rank held the element */
    bool is_cut;
};

struct model {
    struct whole tensors[256];
    int n;
};

static void model_free(struct model *model)
{
    for (int i = 0; i < model->n; i++) {
        free(model->tensors[i].values);
        free(model->tensors[i].times);
    }
    free(model);
}

static struct whole *whole_of(struct model *model, const char *name, int64_t rows, int64_t cols)
{
    for (int i = 0; i < model->n; i++)
        if (strcmp(model->tensors[i].name, name) == 0) return &model->tensors[i];
    struct whole *w = &model->tensors[model->n++];
    assert_true(model->n <= 256);
    snprintf(w->name, sizeof w->name, "%s", name);
    w->rows = rows;
    w->cols = cols;
    w->values = calloc((size_t)(rows * cols), sizeof *w->values);
    w->times = calloc((size_t)(rows * cols), sizeof *w->times);
    assert_true(w->values && w->times);
    return w;
}

/* One rank of a model being put together. */
struct gathering {
    struct model *model;
    const struct phx_config *config;
    const struct phx_shard_plan *plan;
    int32_t layer;
    int64_t n_elements; /* that this rank holds */
    size_t buffer_bytes;
};

/* The rank's piece of a part of a tensor of `all` rows, from its row `first` on: rows x cols
 * values, rows pitch apart. */
static void gather_part(struct gathering *g, const char *suffix, int64_t first, int64_t all,
                        enum phx_dim row_dim, enum phx_dim col_dim, const float *values,
                        int64_t pitch)
{
    char name[128];
    bool global = row_dim == PHX_DIM_VOCAB || strcmp(suffix, "model.norm.weight") == 0;
    if (global)
        snprintf(name, sizeof name, "%s", suffix);
    else
        snprintf(name, sizeof name, "model.layers.%d.%s", g->layer, suffix);
    int rank = phx_shard_plan_rank(g->plan);
    struct phx_interval rows = phx_shard_plan_interval(g->plan, rank, g->layer, row_dim);
    struct phx_interval cols = phx_shard_plan_interval(g->plan, rank, g->layer, col_dim);
    const int64_t all_rows = phx_shard_plan_full(g->plan, g->layer, row_dim);
    const int64_t all_cols = phx_shard_plan_full(g->plan, g->layer, col_dim);
    struct whole *w = whole_of(g->model, name, all, all_cols);
    w->is_cut = phx_interval_length(rows) < all_rows || phx_interval_length(cols) < all_cols;
    for (int64_t r = rows.begin; r < rows.end; r++) {
        for (int64_t c = cols.begin; c < cols.end; c++) {
            w->values[(first + r) * w->cols + c] =
                values[(r - rows.begin) * pitch + c - cols.begin];
            w->times[(first + r) * w->cols + c]++;
        }
    }
    g->n_elements += phx_interval_length(rows) * phx_interval_length(cols);
}

/* The rank's piece of a tensor. */
static void gather(struct gathering *g, const char *suffix, enum phx_dim row_dim,
                   enum phx_dim col_dim, const float *values, int64_t pitch)
{
    gather_part(g, suffix, 0, phx_shard_plan_full(g->plan, g->layer, row_dim), row_dim, col_dim,
                values, pitch);
}

static int64_t local(const struct gathering *g, enum phx_dim dim)
{
    return phx_interval_length(
        phx_shard_plan_interval(g->plan, phx_shard_plan_rank(g->plan), g->layer, dim));
}

static float *read_weight(struct gathering *g, const struct phx_weight *weight, int64_t rows,
                          int64_t cols)
{
    assert_non_null(weight);
    struct phx_weight_shape shape = phx_weight_shape(weight);
    assert_int_equal(shape.rows, rows);
    assert_int_equal(shape.cols, cols);
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    assert_non_null(values);
    assert_int_equal(phx_weight_read(stream, weight, 0, rows, values), PHX_OK);
    if (weight->n_bands == 0) g->buffer_bytes += phx_buffer_bytes(weight->buffer);
    for (int i = 0; i < weight->n_bands; i++)
        g->buffer_bytes += phx_buffer_bytes(weight->bands[i]->buffer);
    return values;
}

/* NULL if the vector is absent. */
static float *read_tensor(struct phx_tensor tensor, int64_t cols)
{
    if (!phx_tensor_present(tensor)) return NULL;
    assert_int_equal(tensor.dtype, PHX_F32);
    assert_int_equal(tensor.rows, 1);
    assert_int_equal(tensor.cols, cols);
    assert_int_equal((uintptr_t)phx_tensor_address(tensor) % 64, 0);
    float *values = malloc((size_t)cols * sizeof *values);
    assert_non_null(values);
    assert_int_equal(phx_tensor_download(stream, tensor, values), PHX_OK);
    assert_int_equal(phx_stream_synchronize(stream), PHX_OK);
    return values;
}

static void gather_vector(struct gathering *g, const char *suffix, enum phx_dim dim, bool wanted,
                          struct phx_tensor tensor)
{
    float *values = read_tensor(tensor, local(g, dim));
    assert_int_equal(values != NULL, wanted);
    if (values) gather(g, suffix, PHX_DIM_ONE, dim, values, local(g, dim));
    free(values);
}

/* Tensors apart, or parts of one. */
static void gather_qkv(struct gathering *g, const struct phx_layer_weights *w)
{
    int64_t e = g->config->hidden, q = local(g, PHX_DIM_Q), kv = local(g, PHX_DIM_KV);
    float *values = read_weight(g, w->qkv, q + 2 * kv, e);
    if (g->config->fused) {
        int64_t all_q = phx_shard_plan_full(g->plan, g->layer, PHX_DIM_Q);
        int64_t all_kv = phx_shard_plan_full(g->plan, g->layer, PHX_DIM_KV);
        int64_t all = all_q + 2 * all_kv;
        const char *name = "self_attn.qkv_proj.weight";
        gather_part(g, name, 0, all, PHX_DIM_Q, PHX_DIM_HIDDEN, values, e);
        gather_part(g, name, all_q, all, PHX_DIM_KV, PHX_DIM_HIDDEN, values + q * e, e);
        gather_part(g, name, all_q + all_kv, all, PHX_DIM_KV, PHX_DIM_HIDDEN, values + (q + kv) * e,
                    e);
    } else {
        gather(g, "self_attn.q_proj.weight", PHX_DIM_Q, PHX_DIM_HIDDEN, values, e);
        gather(g, "self_attn.k_proj.weight", PHX_DIM_KV, PHX_DIM_HIDDEN, values + q * e, e);
        gather(g, "self_attn.v_proj.weight", PHX_DIM_KV, PHX_DIM_HIDDEN, values + (q + kv) * e, e);
    }
    free(values);
}

static void gather_mlp(struct gathering *g, const struct phx_layer_weights *w)
{
    int64_t e = g->config->hidden, f = local(g, PHX_DIM_FFN);
    float *values = read_weight(g, w->gate_up, 2 * f, e);
    if (g->config->fused) {
        int64_t all_f = phx_shard_plan_full(g->plan, g->layer, PHX_DIM_FFN);
        const char *name = "mlp.gate_up_proj.weight";
        gather_part(g, name, 0, 2 * all_f, PHX_DIM_FFN, PHX_DIM_HIDDEN, values, e);
        gather_part(g, name, all_f, 2 * all_f, PHX_DIM_FFN, PHX_DIM_HIDDEN, values + f * e, e);
    } else {
        gather(g, "mlp.gate_proj.weight", PHX_DIM_FFN, PHX_DIM_HIDDEN, values, e);
        gather(g, "mlp.up_proj.weight", PHX_DIM_FFN, PHX_DIM_HIDDEN, values + f * e, e);
    }
    free(values);
    values = read_weight(g, w->down, e, f);
    gather(g, "mlp.down_proj.weight", PHX_DIM_HIDDEN, PHX_DIM_FFN, values, f);
    free(values);
}

static void gather_norms(struct gathering *g, const struct phx_layer_weights *w)
{
    const struct phx_config *c = g->config;
    const enum phx_dim q = c->qk_norm_all ? PHX_DIM_Q : PHX_DIM_HEAD;
    const enum phx_dim k = c->qk_norm_all ? PHX_DIM_KV : PHX_DIM_HEAD;
    gather_vector(g, "input_layernorm.weight", PHX_DIM_HIDDEN, c->pre_norm, w->attn_norm);
    gather_vector(g, "post_attention_layernorm.weight", PHX_DIM_HIDDEN, true,
                  c->post_norm ? w->attn_post_norm : w->ffn_norm);
    if (c->post_norm)
        gather_vector(g, "pre_feedforward_layernorm.weight", PHX_DIM_HIDDEN, c->pre_norm,
                      w->ffn_norm);
    gather_vector(g, "post_feedforward_layernorm.weight", PHX_DIM_HIDDEN, c->post_norm,
                  w->ffn_post_norm);
    gather_vector(g, "self_attn.q_norm.weight", q, c->qk_norm, w->q_norm);
    gather_vector(g, "self_attn.k_norm.weight", k, c->qk_norm, w->k_norm);
}

static void gather_layer(struct gathering *g, const struct phx_layer_weights *w)
{
    const struct phx_config *config = g->config;
    bool first = phx_shard_plan_rank(g->plan) == 0;
    int64_t e = config->hidden, q = local(g, PHX_DIM_Q), kv = local(g, PHX_DIM_KV);
    int64_t f = local(g, PHX_DIM_FFN);

    gather_qkv(g, w);
    gather_mlp(g, w);
    gather_norms(g, w);
    float *values = read_weight(g, w->o, e, q);
    gather(g, "self_attn.o_proj.weight", PHX_DIM_HIDDEN, PHX_DIM_Q, values, q);
    free(values);
    gather_vector(g, "self_attn.o_proj.bias", PHX_DIM_HIDDEN, config->o_bias && first, w->o_bias);
    gather_vector(g, "mlp.down_proj.bias", PHX_DIM_HIDDEN, config->mlp_bias && first, w->down_bias);
    values = read_tensor(w->qkv_bias, q + 2 * kv);
    assert_int_equal(values != NULL, config->qkv_bias);
    if (values) {
        gather(g, "self_attn.q_proj.bias", PHX_DIM_ONE, PHX_DIM_Q, values, q);
        gather(g, "self_attn.k_proj.bias", PHX_DIM_ONE, PHX_DIM_KV, values + q, kv);
        gather(g, "self_attn.v_proj.bias", PHX_DIM_ONE, PHX_DIM_KV, values + q + kv, kv);
    }
    free(values);
    values = read_tensor(w->gate_up_bias, 2 * f);
    assert_int_equal(values != NULL, config->mlp_bias);
    if (values) {
        gather(g, "mlp.gate_proj.bias", PHX_DIM_ONE, PHX_DIM_FFN, values, f);
        gather(g, "mlp.up_proj.bias", PHX_DIM_ONE, PHX_DIM_FFN, values + f, f);
    }
    free(values);
}

static void gather_rank(struct gathering *g, const struct phx_weights *w)
{
    int64_t e = g->config->hidden, v = local(g, PHX_DIM_VOCAB);
    float *values = read_weight(g, w->embed, v, e);
    gather(g, "model.embed_tokens.weight", PHX_DIM_VOCAB, PHX_DIM_HIDDEN, values, e);
    free(values);
    assert_int_equal(w->lm_head == w->embed, g->config->tied);
    if (!g->config->tied) {
        values = read_weight(g, w->lm_head, v, e);
        gather(g, "lm_head.weight", PHX_DIM_VOCAB, PHX_DIM_HIDDEN, values, e);
        free(values);
    }
    gather_vector(g, "model.norm.weight", PHX_DIM_HIDDEN, true, w->final_norm);
    assert_int_equal(w->n_layers, g->config->n_layers);
    for (g->layer = 0; g->layer < w->n_layers; g->layer++) gather_layer(g, &w->layers[g->layer]);
    g->buffer_bytes += phx_buffer_bytes(w->vectors);
}

/* Bytes of an element of a tensor of the checkpoint; 0 without one. */
static size_t element_bytes(const struct phx_checkpoint *checkpoint)
{
    if (!checkpoint) return 0;
    return phx_dtype_bytes((enum phx_dtype)phx_checkpoint_at(checkpoint, 0)->dtype, 1);
}

struct progress {
    size_t calls, done, total;
};

static void on_progress(void *user, size_t done_bytes, size_t total_bytes)
{
    struct progress *p = user;
    assert_true(done_bytes > p->done && done_bytes <= total_bytes);
    assert_true(p->calls == 0 || total_bytes == p->total);
    *p = (struct progress){p->calls + 1, done_bytes, total_bytes};
}

/* The model from the pieces of `size` ranks, of a checkpoint or (NULL) of dummy weights. All
 * tensors of a checkpoint must be of one type if `check_read`. */
static struct model *loaded(const struct phx_config *config,
                            const struct phx_checkpoint *checkpoint, int size, bool check_read)
{
    struct model *model = calloc(1, sizeof *model);
    assert_non_null(model);
    for (int rank = 0; rank < size; rank++) {
        struct phx_shard_plan *plan = plan_of(config, size, rank);
        struct phx_weights *weights = NULL;
        struct phx_load_report report;
        struct progress progress = {0};
        if (checkpoint) assert_int_equal(phx_weights_check(config, plan, checkpoint), PHX_OK);
        struct phx_load_options options = {.mode =
                                               (enum phx_load_mode)(rank % PHX_LOAD_MODE_DIRECT),
                                           .progress = on_progress,
                                           .progress_user = &progress};
        enum phx_status status =
            checkpoint
                ? phx_weights_load(config, plan, checkpoint, stream, &options, &weights, &report)
                : phx_weights_dummy(config, plan, stream, &weights, &report);
        if (status != PHX_OK) fail_msg("rank %d of %d: %s", rank, size, phx_fail_sentence());
        struct gathering g = {.model = model, .config = config, .plan = plan};
        gather_rank(&g, weights);
        if (check_read)
            assert_int_equal(report.read_bytes, (size_t)g.n_elements * element_bytes(checkpoint));
        assert_int_equal(report.file_bytes, checkpoint ? phx_checkpoint_bytes(checkpoint) : 0);
        assert_int_equal(progress.done, report.read_bytes);
        assert_true(report.fetch_bytes >= report.read_bytes);
        assert_int_equal(progress.total, report.read_bytes);
        assert_int_equal(report.device_bytes, g.buffer_bytes);
        size_t by_kind[PHX_WEIGHT_KIND_COUNT];
        assert_int_equal(phx_weights_device_bytes(config, plan, checkpoint, device, by_kind),
                         g.buffer_bytes);
        assert_true(report.seconds >= 0);
        phx_weights_destroy(weights);
        phx_shard_plan_destroy(plan);
    }
    for (int t = 0; t < model->n; t++) {
        const struct whole *w = &model->tensors[t];
        bool once =
            w->is_cut || strstr(w->name, "o_proj.bias") || strstr(w->name, "down_proj.bias");
        for (int64_t i = 0; i < w->rows * w->cols; i++)
            if (w->times[i] != (once ? 1 : size))
                fail_msg("%d ranks: element %lld of %s is held %d times", size, (long long)i,
                         w->name, w->times[i]);
    }
    return model;
}

static float file_value(const struct phx_file_tensor *t, int64_t i)
{
    const char *at = (const char *)t->data + phx_dtype_bytes((enum phx_dtype)t->dtype, i);
    float value;
    uint16_t half;
    if (t->dtype == PHX_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return t->dtype == PHX_BF16 ? phx_f32_from_bf16(half) : phx_f32_from_f16(half);
}

/* The model has the file's tensors, `n_ignored` excepted, and their values. */
static void expect_file(const struct model *model, const struct phx_config *config,
                        const struct phx_checkpoint *checkpoint, int n_ignored)
{
    assert_int_equal(model->n, phx_checkpoint_count(checkpoint) - (size_t)n_ignored);
    for (int k = 0; k < model->n; k++) {
        const struct whole *w = &model->tensors[k];
        const struct phx_file_tensor *t = phx_checkpoint_find(checkpoint, w->name);
        assert_non_null(t);
        assert_int_equal(t->shape[t->n_dims - 1], w->cols);
        assert_int_equal(t->n_dims == 2 ? t->shape[0] : 1, w->rows);
        const float offset = strstr(w->name, "norm") ? config->norm_offset : 0;
        for (int64_t i = 0; i < w->rows * w->cols; i++)
            if (phx_bits_from_f32(w->values[i]) != phx_bits_from_f32(file_value(t, i) + offset))
                fail_msg("%s[%lld] is %g, in the file %g", w->name, (long long)i,
                         (double)w->values[i], (double)file_value(t, i));
    }
}

/* Load a folder at every number of ranks and compare with its files. */
static void check_folder(const char *folder, bool check_read, int n_ignored)
{
    struct phx_config *config = NULL;
    struct phx_checkpoint *checkpoint = NULL;
    if (phx_config_load(folder, &config) != PHX_OK ||
        phx_checkpoint_open(folder, &checkpoint) != PHX_OK)
        fail_msg("%s", phx_fail_sentence());
    for (int size = 1; size <= config->layers[0].shape.n_kv_heads; size++) {
        struct model *model = loaded(config, checkpoint, size, check_read);
        expect_file(model, config, checkpoint, n_ignored);
        model_free(model);
    }
    phx_checkpoint_destroy(checkpoint);
    phx_config_destroy(config);
}

static void fixtures_load_on_any_number_of_ranks(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama-15q5kv-uneven",    "llama-mha-6q6kv", "llama-mqa-7q1kv", "llama3-12q4kv",
        "mistral-8q2kv-window16", "qwen2-14q2kv",    "qwen3-16q4kv",    "phi3-15q5kv-longrope",
        "phi3-9q3kv-partial",     "granite-12q4kv",  "smollm3-10q2kv",  "qwen2-9q3kv-windows",
        "gemma2-10q5kv",          "gemma3-12q3kv",   "olmo2-8q4kv",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[512];
        snprintf(folder, sizeof folder, "%s/hf/%s", PHX_TEST_DATA, names[i]);
        check_folder(folder, true, 0);
    }
    check_folder(PHX_MODELS "/demo", true, 0);
}

/* ---- written models ---- */

#define CONFIG_VOCAB(vocab, more)                                                                  \
    "{\"model_type\": \"llama\", \"hidden_size\": 40, \"intermediate_size\": 44,"                  \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 3,"            \
    "\"head_dim\": 10, \"vocab_size\": " vocab ", \"rms_norm_eps\": 1e-5,"                         \
    "\"max_position_embeddings\": 64" more "}"
#define CONFIG(more) CONFIG_VOCAB("53", more)

static bool mix_types(struct phx_tensor_to_write *t)
{
    if (strstr(t->name, "k_proj") || strstr(t->name, "layers.0.mlp.up_proj")) t->dtype = PHX_F32;
    if (strstr(t->name, "layers.1.mlp.up_proj")) t->dtype = PHX_F16;
    if (strstr(t->name, "input_layernorm")) t->dtype = PHX_F16;
    return true;
}

static void written_models_load(void **state)
{
    (void)state;
    static const struct {
        struct test_model model;
        bool check_read;
        int n_ignored;
    } rows[] = {
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true,"
                                "\"mlp_bias\": true")},
         true,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"float16\", \"mlp_bias\": true"), .n_files = 3},
         true,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"float32\", \"attention_bias\": true"),
          .misaligned = true},
         true,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true"),
          .misaligned = true,
          .edit = mix_types},
         false,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\", \"tie_word_embeddings\": true"),
          .extra = "lm_head.weight"},
         false,
         1},
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\""),
          .extra = "model.layers.1.self_attn.rotary_emb.inv_freq"},
         false,
         1},
        /* Read in several chunks of 16 MiB by one rank and by each of two. */
        {{.config_json = CONFIG_VOCAB("230011", ", \"dtype\": \"float32\","
                                                "\"tie_word_embeddings\": true"),
          .misaligned = true},
         true,
         0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *folder = test_folder_create();
        test_model_write(folder, &rows[i].model);
        check_folder(folder, rows[i].check_read, rows[i].n_ignored);
        test_folder_destroy(folder);
    }
}

/* A slot takes the type of its parts, f32 where they differ. */
static void parts_of_other_types(void **state)
{
    (void)state;
    char *folder = test_folder_create();
    const struct test_model model = {.config_json = CONFIG(", \"dtype\": \"bfloat16\""),
                                     .edit = mix_types};
    test_model_write(folder, &model);
    struct phx_config *config = NULL;
    struct phx_checkpoint *checkpoint = NULL;
    struct phx_weights *weights = NULL;
    struct phx_load_report report;
    assert_int_equal(phx_config_load(folder, &config), PHX_OK);
    assert_int_equal(phx_checkpoint_open(folder, &checkpoint), PHX_OK);
    struct phx_shard_plan *plan = plan_of(config, 1, 0);
    assert_int_equal(phx_weights_load(config, plan, checkpoint, stream, NULL, &weights, &report),
                     PHX_OK);
    const struct phx_weight_shape qkv = phx_weight_shape(weights->layers[0].qkv);
    assert_int_equal(qkv.dtype, PHX_BF16);
    assert_int_equal(qkv.below[0].dtype, PHX_F32);
    assert_int_equal(qkv.below[0].rows, phx_config_dim(config, 0, PHX_DIM_KV));
    assert_int_equal(qkv.below[1].dtype, PHX_BF16);
    assert_int_equal(qkv.below[1].rows, phx_config_dim(config, 0, PHX_DIM_KV));
    assert_int_equal(phx_weight_shape(weights->layers[0].gate_up).dtype, PHX_F32);
    assert_int_equal(phx_weight_shape(weights->layers[1].gate_up).dtype, PHX_F32);
    assert_int_equal(phx_weight_shape(weights->layers[1].down).dtype, PHX_BF16);
    assert_int_equal(phx_weight_shape(weights->embed).dtype, PHX_BF16);
    phx_weights_destroy(weights);
    phx_shard_plan_destroy(plan);
    phx_checkpoint_destroy(checkpoint);
    phx_config_destroy(config);
    test_folder_destroy(folder);
}

/* ---- dummy weights ---- */

static void expect_distribution(const struct whole *w, double center, double variance)
{
    double n = (double)(w->rows * w->cols), sum = 0, squares = 0;
    for (int64_t i = 0; i < w->rows * w->cols; i++) sum += (double)w->values[i];
    for (int64_t i = 0; i < w->rows * w->cols; i++) {
        double off = (double)w->values[i] - sum / n;
        squares += off * off;
    }
    /* Within five standard errors; the fourth moment of a uniform variable is 9/5 variance^2. */
    if (fabs(sum / n - center) > 5 * sqrt(variance / n) ||
        fabs(squares / n / variance - 1) > 5 * sqrt(0.8 / n) + 1 / n)
        fail_msg("%s: mean %g, variance %g instead of %g, %g", w->name, sum / n, squares / n,
                 center, variance);
}

static void expect_dummy_rule(const struct model *model)
{
    for (int t = 0; t < model->n; t++) {
        const struct whole *w = &model->tensors[t];
        bool norm = strstr(w->name, "norm.weight") != NULL;
        if (w->rows > 1)
            expect_distribution(w, 0, 1.0 / (double)w->cols);
        else
            expect_distribution(w, norm ? 1 : 0, 0.01 / 3);
        for (int u = 0; u < t; u++) /* no two tensors alike */
            assert_true(w->values[0] != model->tensors[u].values[0] ||
                        w->values[1] != model->tensors[u].values[1]);
    }
}

static void dummy_weights_do_not_depend_on_the_ranks(void **state)
{
    (void)state;
    static const char *const configs[] = {
        CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true, \"mlp_bias\": true"),
        CONFIG(", \"dtype\": \"float16\", \"tie_word_embeddings\": true"),
        CONFIG(", \"dtype\": \"float32\""),
        "{\"model_type\": \"qwen3\", \"hidden_size\": 48, \"intermediate_size\": 100,"
        "\"num_hidden_layers\": 3, \"num_attention_heads\": 10, \"num_key_value_heads\": 5,"
        "\"head_dim\": 16, \"vocab_size\": 99, \"rms_norm_eps\": 1e-6, \"dtype\": \"bfloat16\","
        "\"max_position_embeddings\": 64}",
        "{\"model_type\": \"phi3\", \"hidden_size\": 40, \"intermediate_size\": 100,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 10, \"num_key_value_heads\": 5,"
        "\"vocab_size\": 99, \"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 64}",
        "{\"model_type\": \"olmo2\", \"hidden_size\": 48, \"intermediate_size\": 100,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 3,"
        "\"vocab_size\": 99, \"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 64}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct phx_config *config = NULL;
        assert_int_equal(
            phx_config_parse("config.json", configs[i], strlen(configs[i]), NULL, 0, &config),
            PHX_OK);
        struct model *one = loaded(config, NULL, 1, true);
        int64_t n_elements = 0;
        for (int t = 0; t < one->n; t++) n_elements += one->tensors[t].rows * one->tensors[t].cols;
        assert_int_equal(n_elements, phx_config_parameters(config));
        expect_dummy_rule(one);
        for (int size = 2; size <= config->layers[0].shape.n_kv_heads; size++) {
            struct model *many = loaded(config, NULL, size, true);
            assert_int_equal(many->n, one->n);
            for (int t = 0; t < one->n; t++) {
                const struct whole *a = &one->tensors[t], *b = &many->tensors[t];
                assert_string_equal(a->name, b->name);
                assert_memory_equal(a->values, b->values,
                                    (size_t)(a->rows * a->cols) * sizeof *a->values);
            }
            model_free(many);
        }
        model_free(one);
        phx_config_destroy(config);
    }
}

/* A checkpoint that holds what phx_weights_dummy makes (test_model_write works it out by itself)
 * loads to the same bits. */
static void dummy_weights_are_those_of_a_file(void **state)
{
    (void)state;
    char *folder = test_folder_create();
    const struct test_model written = {
        .config_json = CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true")};
    test_model_write(folder, &written);
    struct phx_config *config = NULL;
    struct phx_checkpoint *checkpoint = NULL;
    assert_int_equal(phx_config_load(folder, &config), PHX_OK);
    assert_int_equal(phx_checkpoint_open(folder, &checkpoint), PHX_OK);
    struct model *model = loaded(config, NULL, 2, false);
    expect_file(model, config, checkpoint, 0);
    model_free(model);
    phx_checkpoint_destroy(checkpoint);
    phx_config_destroy(config);
    test_folder_destroy(folder);
}

/* ---- refusals ---- */

static bool without_head(struct phx_tensor_to_write *t)
{
    return strcmp(t->name, "lm_head.weight") != 0;
}

static bool without_attention(struct phx_tensor_to_write *t)
{
    return !strstr(t->name, "self_attn");
}

static bool renamed(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.norm.weight") == 0) t->name = "model.norm.gain";
    return true;
}

static bool other_layer_names(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.1.mlp.up_proj.weight") == 0)
        t->name = "model.layers.01.mlp.up_proj.weight";
    return true;
}

static bool wide_q(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.1.self_attn.q_proj.weight") == 0) t->shape[0] = 64;
    return true;
}

static bool turned_down(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.0.mlp.down_proj.weight") == 0) {
        t->shape[0] = 44;
        t->shape[1] = 40;
    }
    return true;
}

static bool norm_as_matrix(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.norm.weight") == 0) {
        t->n_dims = 2;
        t->shape[0] = 1;
        t->shape[1] = 40;
    }
    return true;
}

static bool empty_norm(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.norm.weight") == 0) t->n_dims = 2; /* [40, 0] */
    return true;
}

static bool integer_v(struct phx_tensor_to_write *t)
{
    if (strcmp(t->name, "model.layers.0.self_attn.v_proj.weight") == 0) t->dtype = PHX_U16;
    return true;
}

static void checkpoints_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct test_model model; /* .config_json is what it is loaded with */
        const char *written_with;
        const char *words[4];
    } rows[] = {
        {{.edit = without_head}, NULL, {"1 missing", "lm_head.weight", "config.json", "llama"}},
        {{.edit = without_attention},
         NULL,
         {"8 missing", "model.layers.0.self_attn.q_proj.weight", ", ..."}},
        {{.extra = "model.layers.2.mlp.up_proj.weight"},
         NULL,
         {"1 unexpected", "model.layers.2.mlp.up_proj.weight", "2 layers"}},
        {{.extra = "score.weight"}, NULL, {"1 unexpected", "score.weight"}},
        {{.extra = "model.layers.x.mlp.up_proj.weight"}, NULL, {"1 unexpected", "layers.x."}},
        {{.extra = "model.layers.-1.mlp.up_proj.weight"}, NULL, {"1 unexpected", "layers.-1."}},
        {{.extra = "model.layers.4294967296.mlp.up_proj.weight"}, NULL, {"1 unexpected"}},
        {{.edit = renamed},
         NULL,
         {"1 missing (model.norm.weight)", "1 unexpected (model.norm.gain)"}},
        {{.edit = other_layer_names},
         NULL,
         {"1 missing (model.layers.1.mlp", "1 unexpected (model.layers.01.mlp"}},
        {{0}, CONFIG(", \"attention_bias\": true"), {"8 unexpected", "k_proj.bias", ", ..."}},
        {{.edit = wide_q},
         NULL,
         {"model.safetensors", "model.layers.1.self_attn.q_proj.weight", "[64, 40]", "[60, 40]"}},
        {{.edit = turned_down}, NULL, {"down_proj.weight", "[44, 40]", "[40, 44]"}},
        {{.edit = norm_as_matrix}, NULL, {"model.norm.weight", "[1, 40]", "must be [40]"}},
        {{.edit = empty_norm}, NULL, {"model.norm.weight", "[40, 0]", "must be [40]"}},
        {{.edit = integer_v}, NULL, {"v_proj.weight", "U16", "F32, F16 or BF16"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *folder = test_folder_create();
        struct test_model model = rows[i].model;
        model.config_json = rows[i].written_with ? rows[i].written_with : CONFIG("");
        test_model_write(folder, &model);
        test_file_write_text(folder, "config.json", CONFIG(""));
        struct phx_config *config = NULL;
        struct phx_checkpoint *checkpoint = NULL;
        assert_int_equal(phx_config_load(folder, &config), PHX_OK);
        assert_int_equal(phx_checkpoint_open(folder, &checkpoint), PHX_OK);
        struct phx_shard_plan *plan = plan_of(config, 2, 1);
        assert_int_equal(phx_weights_check(config, plan, checkpoint), PHX_BAD_DATA);
        assert_non_null(strstr(phx_fail_sentence(), folder));
        for (int w = 0; w < 4 && rows[i].words[w]; w++)
            if (!strstr(phx_fail_sentence(), rows[i].words[w]))
                fail_msg("row %zu: no \"%s\" in: %s", i, rows[i].words[w], phx_fail_sentence());
        phx_shard_plan_destroy(plan);
        phx_checkpoint_destroy(checkpoint);
        phx_config_destroy(config);
        test_folder_destroy(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixtures_load_on_any_number_of_ranks),
        cmocka_unit_test(written_models_load),
        cmocka_unit_test(parts_of_other_types),
        cmocka_unit_test(dummy_weights_do_not_depend_on_the_ranks),
        cmocka_unit_test(dummy_weights_are_those_of_a_file),
        cmocka_unit_test(checkpoints_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
