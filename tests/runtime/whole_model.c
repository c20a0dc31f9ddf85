#include "tests/runtime/whole_model.h"

#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "runtime/loader.h"
#include "runtime/weights_check.h"
#include "tests/runtime/written_model.h"

void whole_model_destroy(struct whole_model *model)
{
    for (int i = 0; i < model->n; i++) {
        free(model->tensors[i].values);
        free(model->tensors[i].times);
    }
    free(model);
}

static struct whole *whole_of(struct whole_model *model, const char *name, int64_t rows,
                              int64_t cols)
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
    struct phx_stream *stream;
    struct whole_model *model;
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
    assert_int_equal(phx_weight_read(g->stream, weight, 0, rows, values), PHX_OK);
    if (weight->n_bands == 0) g->buffer_bytes += phx_buffer_bytes(weight->buffer);
    for (int i = 0; i < weight->n_bands; i++)
        g->buffer_bytes += phx_buffer_bytes(weight->bands[i]->buffer);
    return values;
}

/* NULL if the vector is absent. */
static float *read_tensor(const struct gathering *g, struct phx_tensor tensor, int64_t cols)
{
    if (!phx_tensor_present(tensor)) return NULL;
    assert_int_equal(tensor.dtype, PHX_F32);
    assert_int_equal(tensor.rows, 1);
    assert_int_equal(tensor.cols, cols);
    assert_int_equal((uintptr_t)phx_tensor_address(tensor) % 64, 0);
    float *values = malloc((size_t)cols * sizeof *values);
    assert_non_null(values);
    assert_int_equal(phx_tensor_download(g->stream, tensor, values), PHX_OK);
    assert_int_equal(phx_stream_synchronize(g->stream), PHX_OK);
    return values;
}

static void gather_vector(struct gathering *g, const char *suffix, enum phx_dim dim, bool wanted,
                          struct phx_tensor tensor)
{
    float *values = read_tensor(g, tensor, local(g, dim));
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
    values = read_tensor(g, w->qkv_bias, q + 2 * kv);
    assert_int_equal(values != NULL, config->qkv_bias);
    if (values) {
        gather(g, "self_attn.q_proj.bias", PHX_DIM_ONE, PHX_DIM_Q, values, q);
        gather(g, "self_attn.k_proj.bias", PHX_DIM_ONE, PHX_DIM_KV, values + q, kv);
        gather(g, "self_attn.v_proj.bias", PHX_DIM_ONE, PHX_DIM_KV, values + q + kv, kv);
    }
    free(values);
    values = read_tensor(g, w->gate_up_bias, 2 * f);
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

struct whole_model *whole_model_load(struct phx_stream *stream, const struct phx_config *config,
                                     const struct phx_checkpoint *checkpoint, int size,
                                     bool check_read)
{
    struct whole_model *model = calloc(1, sizeof *model);
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
        struct gathering g = {.stream = stream, .model = model, .config = config, .plan = plan};
        gather_rank(&g, weights);
        if (check_read)
            assert_int_equal(report.read_bytes, (size_t)g.n_elements * element_bytes(checkpoint));
        assert_int_equal(report.file_bytes, checkpoint ? phx_checkpoint_bytes(checkpoint) : 0);
        assert_int_equal(progress.done, report.read_bytes);
        assert_true(report.fetch_bytes >= report.read_bytes);
        assert_int_equal(progress.total, report.read_bytes);
        assert_int_equal(report.device_bytes, g.buffer_bytes);
        size_t by_kind[PHX_WEIGHT_KIND_COUNT];
        assert_int_equal(
            phx_weights_device_bytes(config, plan, checkpoint, stream->device, by_kind),
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
