#include "runtime/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/blocks.h"
#include "kernels/base/check.h"
#include "runtime/reference_impl.h"

/* Where each tensor stands in the catalogue: its slot, and the how-manieth of the slot it is. */
static const struct place {
    enum phx_slot slot, bias_slot; /* PHX_SLOT_COUNT: has none */
    int index;
} places[PHX_REF_TENSOR_COUNT] = {
    [PHX_REF_EMBED] = {PHX_SLOT_EMBED, PHX_SLOT_COUNT, 0},
    [PHX_REF_LM_HEAD] = {PHX_SLOT_LM_HEAD, PHX_SLOT_COUNT, 0},
    [PHX_REF_Q] = {PHX_SLOT_QKV, PHX_SLOT_QKV_BIAS, 0},
    [PHX_REF_K] = {PHX_SLOT_QKV, PHX_SLOT_QKV_BIAS, 1},
    [PHX_REF_V] = {PHX_SLOT_QKV, PHX_SLOT_QKV_BIAS, 2},
    [PHX_REF_O] = {PHX_SLOT_O, PHX_SLOT_O_BIAS, 0},
    [PHX_REF_GATE] = {PHX_SLOT_GATE_UP, PHX_SLOT_GATE_UP_BIAS, 0},
    [PHX_REF_UP] = {PHX_SLOT_GATE_UP, PHX_SLOT_GATE_UP_BIAS, 1},
    [PHX_REF_DOWN] = {PHX_SLOT_DOWN, PHX_SLOT_DOWN_BIAS, 0},
    [PHX_REF_ROUTER] = {PHX_SLOT_ROUTER, PHX_SLOT_COUNT, 0},
    [PHX_REF_SHARED_SCALE] = {PHX_SLOT_ROUTER, PHX_SLOT_COUNT, 1},
    [PHX_REF_SHARED_GATE] = {PHX_SLOT_SHARED_GATE_UP, PHX_SLOT_COUNT, 0},
    [PHX_REF_SHARED_UP] = {PHX_SLOT_SHARED_GATE_UP, PHX_SLOT_COUNT, 1},
    [PHX_REF_SHARED_DOWN] = {PHX_SLOT_SHARED_DOWN, PHX_SLOT_COUNT, 0},
    [PHX_REF_ATTN_NORM] = {PHX_SLOT_ATTN_NORM, PHX_SLOT_COUNT, 0},
    [PHX_REF_ATTN_POST_NORM] = {PHX_SLOT_ATTN_POST_NORM, PHX_SLOT_COUNT, 0},
    [PHX_REF_FFN_NORM] = {PHX_SLOT_FFN_NORM, PHX_SLOT_COUNT, 0},
    [PHX_REF_FFN_POST_NORM] = {PHX_SLOT_FFN_POST_NORM, PHX_SLOT_COUNT, 0},
    [PHX_REF_FINAL_NORM] = {PHX_SLOT_FINAL_NORM, PHX_SLOT_COUNT, 0},
    [PHX_REF_Q_NORM] = {PHX_SLOT_Q_NORM, PHX_SLOT_COUNT, 0},
    [PHX_REF_K_NORM] = {PHX_SLOT_K_NORM, PHX_SLOT_COUNT, 0},
};

/* ---- tensors ---- */

enum phx_status phx_ref_find(const struct phx_reference *r, enum phx_slot slot, int index,
                             int32_t layer, int32_t expert, struct phx_ref_matrix *out)
{
    size_t n_rows;
    const struct phx_weight_row *rows = phx_weight_rows(r->config, &n_rows), *row = NULL;
    for (size_t i = 0; i < n_rows && row == NULL; i++)
        if (rows[i].slot == slot && phx_weight_row_wanted(&rows[i], r->config, layer) &&
            index-- == 0)
            row = &rows[i];
    *out = (struct phx_ref_matrix){0};
    if (row == NULL) return PHX_OK;
    out->rows = phx_config_dim(r->config, layer, row->row_dim);
    out->cols = phx_config_dim(r->config, layer, row->col_dim);
    struct phx_weight_span span = phx_weight_row_span(row, r->config, layer);
    out->first_row = span.first_row;
    out->offset = (double)phx_weight_row_offset(row, r->config);
    out->dummy = phx_weight_row_dummy(row, layer, expert, out->cols);
    if (r->checkpoint == NULL) return PHX_OK;

    char name[PHX_WEIGHT_NAME_BYTES];
    phx_weight_name(row->name, layer, expert, name);
    out->file = phx_checkpoint_find(r->checkpoint, name);
    if (out->file == NULL)
        return phx_fail(PHX_BAD_DATA, "%s has no tensor %s", phx_checkpoint_path(r->checkpoint),
                        name);
    int dtype = out->file->dtype;
    if (dtype >= 0 && phx_dtype_traits((enum phx_dtype)dtype)->is_weight &&
        out->cols % phx_dtype_traits((enum phx_dtype)dtype)->block_elements == 0 &&
        out->file->bytes == phx_dtype_bytes((enum phx_dtype)dtype, span.all_rows * out->cols))
        return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: %s has %zu bytes of type %s, not %lld x %lld numbers",
                    out->file->file, name, out->file->bytes, out->file->dtype_name,
                    (long long)span.all_rows, (long long)out->cols);
}

static enum phx_status find_tensors(struct phx_reference *r)
{
    for (int32_t l = 0; l < r->config->n_layers; l++) {
        for (int t = 0; t < PHX_REF_TENSOR_COUNT; t++) {
            struct phx_ref_pair *pair = &r->tensors[l * PHX_REF_TENSOR_COUNT + t];
            struct place place = places[t];
            if (t == PHX_REF_LM_HEAD && r->config->tied) place = places[PHX_REF_EMBED];
            PHX_TRY(phx_ref_find(r, place.slot, place.index, l, 0, &pair->weight));
            if (place.bias_slot != PHX_SLOT_COUNT)
                PHX_TRY(phx_ref_find(r, place.bias_slot, place.index, l, 0, &pair->bias));
            if (pair->weight.cols > r->widest) r->widest = pair->weight.cols;
            if (pair->bias.cols > r->widest) r->widest = pair->bias.cols;
        }
    }
    return PHX_OK;
}

enum phx_status phx_reference_create(const struct phx_config *config,
                                     const struct phx_checkpoint *checkpoint,
                                     const struct phx_reference_options *options,
                                     struct phx_reference **out)
{
    struct phx_reference *r = calloc(1, sizeof *r);
    enum phx_status status = PHX_OK;
    if (r == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the reference");
    r->config = config;
    r->checkpoint = checkpoint;
    r->options = *options;
    r->tensors = calloc((size_t)config->n_layers * PHX_REF_TENSOR_COUNT, sizeof *r->tensors);
    if (r->tensors != NULL) PHX_TRY_GOTO(find_tensors(r), fail);
    PHX_TRY_GOTO(phx_ref_find_experts(r), fail);
    r->row = calloc((size_t)r->widest + 1, sizeof *r->row);
    if (r->tensors == NULL || r->row == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for the reference");
        goto fail;
    }
    *out = r;
    return PHX_OK;
fail:
    phx_reference_destroy(r);
    return status;
}

void phx_reference_destroy(struct phx_reference *reference)
{
    if (reference == NULL) return;
    free(reference->tensors);
    free(reference->experts);
    free(reference->row);
    free(reference);
}

static const struct phx_ref_pair *pair_of(const struct phx_reference *r, enum phx_ref_tensor tensor,
                                          int32_t layer)
{
    PHX_ASSERT(layer >= 0 && layer < r->config->n_layers);
    return &r->tensors[layer * PHX_REF_TENSOR_COUNT + (int)tensor];
}

/* What the rule of struct phx_dummy gives, in the type that the weights would be stored in. */
static double dummy_at(const struct phx_reference *r, const struct phx_ref_matrix *t, int64_t row,
                       int64_t col)
{
    uint32_t key = phx_dummy_row_key(t->dummy.key, row);
    float value = t->dummy.center + t->dummy.scale * phx_dummy_unit(key, (uint32_t)col);
    if (r->config->dtype == PHX_BF16) return phx_f32_from_bf16(phx_bf16_from_f32(value));
    if (r->config->dtype == PHX_F16) return phx_f32_from_f16(phx_f16_from_f32(value));
    return value;
}

/* Block by block: rows of a file are whole ones. */
static void read_file_row(const struct phx_ref_matrix *t, int64_t row, double *out)
{
    enum phx_dtype dtype = (enum phx_dtype)t->file->dtype;
    int32_t block = phx_dtype_traits(dtype)->block_elements;
    float values[PHX_MAX_BLOCK_ELEMENTS];
    for (int64_t c = 0; c < t->cols; c += block) {
        /* of a vector, whose row is 0, elements may be permuted */
        int64_t index = t->file->n_dims == 1 ? phx_file_tensor_row(t->file, c)
                                             : phx_file_tensor_row(t->file, row) * t->cols + c;
        const char *at = (const char *)t->file->data + phx_dtype_bytes(dtype, index);
        phx_values_widen(dtype, at, block, values);
        for (int32_t i = 0; i < block; i++) out[c + i] = (double)values[i];
    }
}

void phx_ref_read_row(const struct phx_reference *r, const struct phx_ref_matrix *t, int64_t row,
                      double *out)
{
    PHX_ASSERT(row >= 0 && row < t->rows);
    row += t->first_row;
    if (t->file != NULL)
        read_file_row(t, row, out);
    else
        for (int64_t c = 0; c < t->cols; c++) out[c] = dummy_at(r, t, row, c);
    for (int64_t c = 0; c < t->cols; c++) out[c] += t->offset;
}

void phx_reference_row(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                       int32_t layer, int64_t row, double *out)
{
    phx_ref_read_row(reference, &pair_of(reference, tensor, layer)->weight, row, out);
}

bool phx_reference_bias(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                        int32_t layer, double *out)
{
    const struct phx_ref_pair *pair = pair_of(reference, tensor, layer);
    bool has = pair->bias.rows > 0;
    if (has) phx_ref_read_row(reference, &pair->bias, 0, out);
    for (int64_t i = 0; !has && i < pair->weight.rows; i++) out[i] = 0;
    return has;
}

/* ---- operations ---- */

void phx_reference_product(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                           int32_t layer, struct phx_interval rows, struct phx_interval cols,
                           int64_t n, const double *x, double *y)
{
    const struct phx_ref_matrix *t = &pair_of(reference, tensor, layer)->weight;
    int64_t in = phx_interval_length(cols), out = phx_interval_length(rows);
    for (int64_t r = rows.begin; r < rows.end; r++) {
        phx_ref_read_row(reference, t, r, reference->row);
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            for (int64_t c = 0; c < in; c++) sum += reference->row[cols.begin + c] * x[i * in + c];
            y[i * out + r - rows.begin] = sum;
        }
    }
}

void phx_reference_linear(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                          int32_t layer, int64_t n, const double *x, double *y)
{
    const struct phx_ref_pair *pair = pair_of(reference, tensor, layer);
    struct phx_interval rows = {0, pair->weight.rows}, cols = {0, pair->weight.cols};
    phx_reference_product(reference, tensor, layer, rows, cols, n, x, y);
    if (pair->bias.rows == 0) return;
    phx_ref_read_row(reference, &pair->bias, 0, reference->row);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rows.end; r++) y[i * rows.end + r] += reference->row[r];
}

void phx_reference_norm(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                        int32_t layer, int64_t n, const double *x, double *y)
{
    const struct phx_ref_matrix *t = &pair_of(reference, tensor, layer)->weight;
    if (t->rows == 0) {
        memmove(y, x, sizeof *y * (size_t)(n * reference->config->hidden));
        return;
    }
    phx_ref_read_row(reference, t, 0, reference->row);
    for (int64_t i = 0; i < n; i++, x += t->cols, y += t->cols) {
        double squares = 0;
        for (int64_t c = 0; c < t->cols; c++) squares += x[c] * x[c];
        double rms = sqrt(squares / (double)t->cols + (double)reference->config->norm_epsilon);
        for (int64_t c = 0; c < t->cols; c++) y[c] = x[c] / rms * reference->row[c];
    }
}

void phx_reference_scores(const double *q, const double *k, int64_t stride, int64_t n_keys,
                          int64_t dim, double scale, double *scores)
{
    for (int64_t j = 0; j < n_keys; j++) {
        double sum = 0;
        for (int64_t d = 0; d < dim; d++) sum += q[d] * k[j * stride + d];
        scores[j] = scale * sum;
    }
}

void phx_reference_cap(double cap, int64_t n, double *x)
{
    for (int64_t i = 0; cap != 0 && i < n; i++) x[i] = cap * tanh(x[i] / cap);
}

void phx_reference_attend(const double *scores, const double *v, int64_t stride, int64_t dim,
                          int32_t position, int32_t window, double *out)
{
    int32_t first = window > 0 && position >= window ? position - window + 1 : 0;
    double largest = scores[first], sum = 0;
    for (int32_t j = first; j <= position; j++) largest = fmax(largest, scores[j]);
    for (int64_t d = 0; d < dim; d++) out[d] = 0;
    for (int32_t j = first; j <= position; j++) {
        double weight = exp(scores[j] - largest);
        sum += weight;
        for (int64_t d = 0; d < dim; d++) out[d] += weight * v[j * stride + d];
    }
    for (int64_t d = 0; d < dim; d++) out[d] /= sum;
}

/* ---- a whole pass ---- */

const char *phx_activation_text(enum phx_activation_name name)
{
    static const char *const texts[PHX_ACT_COUNT] = {
        "embed",   "attn_norm",      "q_proj", "k_proj",        "v",          "q",      "k",
        "scores",  "attn",           "o",      "attn_residual", "ffn_norm",   "router", "experts",
        "gate_up", "shared_gate_up", "down",   "residual",      "final_norm", "logits"};
    PHX_ASSERT((unsigned)name < PHX_ACT_COUNT);
    return texts[name];
}

/* Everything that a pass keeps, for its widest layer. */
struct pass {
    const struct phx_reference *r;
    int64_t n;
    int32_t *positions;         /* [N] */
    double *residual, *x, *sum; /* [N, E] */
    double *q, *k, *v, *attended;
    double *scores;          /* [N, H N] */
    double *capped;          /* [N] */
    double *gate, *up;       /* [N, F] */
    double *router, *choice; /* [N, X] */
    double *hidden;          /* [N, X F] */
    double *shared;          /* [N, E] */
    double *logits;          /* [N, V] */
    enum phx_status (*see)(void *, enum phx_activation_name, int32_t, int64_t, const double *);
    void *user;
};

static void add(double *to, const double *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

static void multiply(double *x, double factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

static void attend(const struct pass *p, int32_t layer)
{
    const double cap = (double)p->r->config->attention_soft_cap;
    const struct phx_layer_config *config = &p->r->config->layers[layer];
    const int64_t heads = config->shape.n_heads, kv = config->shape.n_kv_heads;
    const int64_t dim = config->shape.head_dim, group = heads / kv;
    for (int64_t i = 0; i < p->n; i++) {
        for (int64_t h = 0; h < heads; h++) {
            double *scores = p->scores + (i * heads + h) * p->n;
            const int64_t at = h / group * dim;
            memset(scores, 0, sizeof *scores * (size_t)p->n);
            phx_reference_scores(p->q + (i * heads + h) * dim, p->k + at, kv * dim, i + 1, dim,
                                 (double)p->r->config->attention_scale, scores);
            memcpy(p->capped, scores, sizeof *scores * (size_t)p->n);
            phx_reference_cap(cap, i + 1, p->capped);
            phx_reference_attend(p->capped, p->v + at, kv * dim, dim, (int32_t)i, config->window,
                                 p->attended + (i * heads + h) * dim);
            if (config->window > 0)
                for (int64_t j = 0; j <= i - config->window; j++) scores[j] = 0;
        }
    }
}

double phx_ref_activate(enum phx_activation activation, double z)
{
    if (activation == PHX_SILU) return z / (1 + exp(-z));
    return z / 2 * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
}

#define SEE(name, cols, values) PHX_TRY(p->see(p->user, name, layer, cols, values))

static enum phx_status run_attention(const struct pass *p, int32_t layer)
{
    const struct phx_layer_shape *s = &p->r->config->layers[layer].shape;
    const int64_t hidden = p->r->config->hidden;
    const int64_t q = (int64_t)s->n_heads * s->head_dim, kv = (int64_t)s->n_kv_heads * s->head_dim;
    const struct phx_interval q_heads = {0, s->n_heads}, kv_heads = {0, s->n_kv_heads};
    phx_reference_norm(p->r, PHX_REF_ATTN_NORM, layer, p->n, p->residual, p->x);
    SEE(PHX_ACT_ATTN_NORM, hidden, p->x);
    phx_reference_linear(p->r, PHX_REF_Q, layer, p->n, p->x, p->q);
    phx_reference_linear(p->r, PHX_REF_K, layer, p->n, p->x, p->k);
    phx_reference_linear(p->r, PHX_REF_V, layer, p->n, p->x, p->v);
    SEE(PHX_ACT_Q_PROJ, q, p->q);
    SEE(PHX_ACT_K_PROJ, kv, p->k);
    SEE(PHX_ACT_V, kv, p->v);
    phx_reference_rotate(p->r, PHX_REF_Q, layer, p->n, p->positions, q_heads, NULL, p->q);
    phx_reference_rotate(p->r, PHX_REF_K, layer, p->n, p->positions, kv_heads, NULL, p->k);
    SEE(PHX_ACT_Q, q, p->q);
    SEE(PHX_ACT_K, kv, p->k);
    attend(p, layer);
    SEE(PHX_ACT_SCORES, s->n_heads * p->n, p->scores);
    SEE(PHX_ACT_ATTN, q, p->attended);
    phx_reference_linear(p->r, PHX_REF_O, layer, p->n, p->attended, p->sum);
    multiply(p->sum, (double)p->r->config->residual_scale, p->n * hidden);
    phx_reference_norm(p->r, PHX_REF_ATTN_POST_NORM, layer, p->n, p->sum, p->sum);
    SEE(PHX_ACT_O, hidden, p->sum);
    add(p->residual, p->sum, p->n * hidden);
    SEE(PHX_ACT_ATTN_RESIDUAL, hidden, p->residual);
    return PHX_OK;
}

/* p->gate = act(gate) * up of an MLP of `ffn` columns */
static void run_gated(const struct pass *p, enum phx_ref_tensor gate, enum phx_ref_tensor up,
                      int32_t layer, int64_t ffn)
{
    phx_reference_linear(p->r, gate, layer, p->n, p->x, p->gate);
    phx_reference_linear(p->r, up, layer, p->n, p->x, p->up);
    for (int64_t i = 0; i < p->n * ffn; i++)
        p->gate[i] = phx_ref_activate(p->r->config->activation, p->gate[i]) * p->up[i];
}

/* p->sum = what the experts and the shared one give */
static enum phx_status run_experts(const struct pass *p, int32_t layer)
{
    const struct phx_layer_shape *s = &p->r->config->layers[layer].shape;
    const int64_t hidden = p->r->config->hidden;
    phx_reference_linear(p->r, PHX_REF_ROUTER, layer, p->n, p->x, p->router);
    SEE(PHX_ACT_ROUTER, s->n_experts, p->router);
    phx_ref_choose(p->r, layer, p->n, p->router, p->choice);
    SEE(PHX_ACT_EXPERTS, s->n_experts, p->choice);
    phx_ref_experts(p->r, layer, p->n, p->x, p->choice, p->hidden, p->sum);
    SEE(PHX_ACT_GATE_UP, s->n_experts * s->moe_ffn, p->hidden);
    if (s->shared_ffn == 0) return PHX_OK;
    run_gated(p, PHX_REF_SHARED_GATE, PHX_REF_SHARED_UP, layer, s->shared_ffn);
    SEE(PHX_ACT_SHARED_GATE_UP, s->shared_ffn, p->gate);
    double *scale = p->router, *shared = p->shared;
    phx_reference_linear(p->r, PHX_REF_SHARED_SCALE, layer, p->n, p->x, scale);
    phx_reference_linear(p->r, PHX_REF_SHARED_DOWN, layer, p->n, p->gate, shared);
    for (int64_t i = 0; i < p->n * hidden; i++)
        p->sum[i] += shared[i] / (1 + exp(-scale[i / hidden]));
    return PHX_OK;
}

static enum phx_status run_ffn(const struct pass *p, int32_t layer)
{
    const int64_t hidden = p->r->config->hidden;
    const struct phx_layer_shape *s = &p->r->config->layers[layer].shape;
    phx_reference_norm(p->r, PHX_REF_FFN_NORM, layer, p->n, p->residual, p->x);
    SEE(PHX_ACT_FFN_NORM, hidden, p->x);
    if (s->n_experts > 0) {
        PHX_TRY(run_experts(p, layer));
    } else {
        run_gated(p, PHX_REF_GATE, PHX_REF_UP, layer, s->ffn);
        SEE(PHX_ACT_GATE_UP, s->ffn, p->gate);
        phx_reference_linear(p->r, PHX_REF_DOWN, layer, p->n, p->gate, p->sum);
    }
    multiply(p->sum, (double)p->r->config->residual_scale, p->n * hidden);
    phx_reference_norm(p->r, PHX_REF_FFN_POST_NORM, layer, p->n, p->sum, p->sum);
    SEE(PHX_ACT_DOWN, hidden, p->sum);
    add(p->residual, p->sum, p->n * hidden);
    SEE(PHX_ACT_RESIDUAL, hidden, p->residual);
    return PHX_OK;
}

static enum phx_status run_pass(const struct pass *p, const int32_t *ids)
{
    const struct phx_config *config = p->r->config;
    int32_t layer = -1;
    for (int64_t i = 0; i < p->n; i++)
        phx_reference_row(p->r, PHX_REF_EMBED, 0, ids[i], p->residual + i * config->hidden);
    multiply(p->residual, (double)config->embed_scale, p->n * config->hidden);
    SEE(PHX_ACT_EMBED, config->hidden, p->residual);
    for (int32_t l = 0; l < config->n_layers; l++) {
        PHX_TRY(run_attention(p, l));
        PHX_TRY(run_ffn(p, l));
    }
    phx_reference_norm(p->r, PHX_REF_FINAL_NORM, 0, p->n, p->residual, p->x);
    SEE(PHX_ACT_FINAL_NORM, config->hidden, p->x);
    phx_reference_linear(p->r, PHX_REF_LM_HEAD, 0, p->n, p->x, p->logits);
    multiply(p->logits, (double)config->logits_scale, p->n * config->vocab);
    phx_reference_cap((double)config->logits_soft_cap, p->n * config->vocab, p->logits);
    SEE(PHX_ACT_LOGITS, config->vocab, p->logits);
    return PHX_OK;
}

static void widen(int64_t *to, int64_t value)
{
    if (value > *to) *to = value;
}

enum phx_status
phx_reference_run(const struct phx_reference *reference, const int32_t *ids, int32_t n,
                  enum phx_status (*see)(void *user, enum phx_activation_name name, int32_t layer,
                                         int64_t cols, const double *values),
                  void *user)
{
    const struct phx_config *config = reference->config;
    int64_t q = 0, kv = 0, heads = 0, ffn = 0, hidden = config->hidden, experts = 0, columns = 0;
    for (int32_t l = 0; l < config->n_layers; l++) {
        widen(&q, phx_config_dim(config, l, PHX_DIM_Q));
        widen(&kv, phx_config_dim(config, l, PHX_DIM_KV));
        widen(&ffn, phx_config_dim(config, l, PHX_DIM_FFN));
        widen(&ffn, phx_config_dim(config, l, PHX_DIM_SHARED_FFN));
        widen(&experts, config->layers[l].shape.n_experts);
        widen(&columns, config->layers[l].shape.n_experts * config->layers[l].shape.moe_ffn);
        widen(&heads, config->layers[l].shape.n_heads);
    }
    struct pass p = {.r = reference, .n = n, .see = see, .user = user};
    int64_t widths[] = {hidden,  hidden,  hidden,  q,
                        kv,      kv,      q,       heads * n,
                        1,       ffn,     ffn,     config->vocab,
                        experts, experts, columns, experts > 0 ? hidden : 0};
    double **places_of[] = {&p.residual, &p.x,      &p.sum,    &p.q,     &p.k,  &p.v,
                            &p.attended, &p.scores, &p.capped, &p.gate,  &p.up, &p.logits,
                            &p.router,   &p.choice, &p.hidden, &p.shared};
    size_t all = 0, count = sizeof widths / sizeof *widths;
    for (size_t i = 0; i < count; i++) all += (size_t)(n * widths[i]);
    double *memory = malloc(all * sizeof *memory);
    p.positions = malloc((size_t)n * sizeof *p.positions);
    enum phx_status status = PHX_OK;
    if (memory == NULL || p.positions == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu numbers of the reference", all);
    } else {
        double *at = memory;
        for (size_t i = 0; i < count; at += n * widths[i], i++) *places_of[i] = at;
        for (int32_t i = 0; i < n; i++) p.positions[i] = i;
        status = run_pass(&p, ids);
    }
    free(memory);
    free(p.positions);
    return status;
}
