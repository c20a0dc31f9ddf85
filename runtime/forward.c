#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/forward_impl.h"

/* The widest of each dimension over the layers. */
struct widths {
    int64_t qkv, q, ffn, head_dim;
    int64_t experts, moe_ffn; /* 0: there are none */
    bool shared;
    int64_t vocab, all_vocab;
};

static struct widths widths_of(const struct phx_config *config, const struct phx_shard_plan *plan)
{
    struct widths w = {0};
    int rank = phx_shard_plan_rank(plan);
    for (int32_t l = 0; l < config->n_layers; l++) {
        int64_t q = phx_interval_length(phx_shard_plan_interval(plan, rank, l, PHX_DIM_Q));
        int64_t kv = phx_interval_length(phx_shard_plan_interval(plan, rank, l, PHX_DIM_KV));
        int64_t ffn = phx_interval_length(phx_shard_plan_interval(plan, rank, l, PHX_DIM_FFN));
        int64_t moe_ffn =
            phx_interval_length(phx_shard_plan_interval(plan, rank, l, PHX_DIM_MOE_FFN));
        int64_t shared =
            phx_interval_length(phx_shard_plan_interval(plan, rank, l, PHX_DIM_SHARED_FFN));
        int64_t head_dim = config->layers[l].shape.head_dim;
        int64_t experts = config->layers[l].shape.n_experts;
        if (experts > w.experts) w.experts = experts;
        if (moe_ffn > w.moe_ffn) w.moe_ffn = moe_ffn;
        if (shared > w.ffn) w.ffn = shared;
        if (shared > 0) w.shared = true;
        if (q > w.q) w.q = q;
        if (q + 2 * kv > w.qkv) w.qkv = q + 2 * kv;
        if (ffn > w.ffn) w.ffn = ffn;
        if (head_dim > w.head_dim) w.head_dim = head_dim;
    }
    w.vocab = phx_interval_length(phx_shard_plan_interval(plan, rank, 0, PHX_DIM_VOCAB));
    w.all_vocab = phx_shard_plan_full(plan, 0, PHX_DIM_VOCAB);
    return w;
}

static struct phx_tensor carve(struct phx_buffer *memory, size_t *used, enum phx_dtype dtype,
                               int64_t rows, int64_t cols)
{
    struct phx_tensor t = {memory, *used, dtype, rows, cols, cols};
    *used += (phx_tensor_span_bytes(t) + 255) & ~(size_t)255;
    return t;
}

/* Lay the activations out from offset 0; returns the bytes. `memory` may be NULL to only count. */
static size_t lay_out(const struct phx_config *config, const struct phx_shard_plan *plan,
                      enum phx_dtype act, int64_t n, int64_t m, struct phx_buffer *memory,
                      struct phx_activations *a)
{
    struct widths w = widths_of(config, plan);
    int64_t e = config->hidden;
    int64_t record = (PHX_MAX_CANDIDATES + 1) * (int64_t)sizeof(struct phx_candidate);
    int size = phx_shard_plan_size(plan);
    size_t used = 0;
    a->x = carve(memory, &used, act, n, e);
    a->residual = carve(memory, &used, PHX_F32, n, e);
    a->qkv = carve(memory, &used, act, n, w.qkv);
    if (config->qk_norm_all) a->squares = carve(memory, &used, PHX_F32, n, 2);
    a->attended = carve(memory, &used, act, n, w.q);
    a->ffn = carve(memory, &used, act, n, w.ffn);
    if (w.experts > 0) {
        int64_t k = config->n_chosen;
        a->router = carve(memory, &used, PHX_F32, n, w.experts + 1);
        a->chosen = carve(memory, &used, PHX_I32, n, k);
        a->choice = carve(memory, &used, PHX_F32, n, k);
        a->groups = carve(memory, &used, PHX_I32, 1, w.experts + 1 + n * k);
        a->experts = carve(memory, &used, act, n * k, w.moe_ffn);
        a->parts = carve(memory, &used, act, n * k, e);
    }
    if (w.shared) a->shared = carve(memory, &used, act, n, e);
    for (int i = 0; i < PHX_MAX_ROPES; i++)
        a->rope[i] = carve(memory, &used, PHX_F32, n, w.head_dim);
    a->out_x = carve(memory, &used, act, m, e);
    a->out_residual = carve(memory, &used, PHX_F32, m, e);
    a->logits = carve(memory, &used, PHX_F32, m, w.vocab);
    a->adjusted = carve(memory, &used, PHX_F32, m, w.vocab);
    a->records = carve(memory, &used, PHX_U8, m, record);
    if (size == 1) {
        a->all_logits = a->logits;
        a->all_adjusted = a->adjusted;
        a->all_records = a->records;
    } else {
        a->all_logits = carve(memory, &used, PHX_F32, m, w.all_vocab);
        a->all_adjusted = carve(memory, &used, PHX_F32, m, w.all_vocab);
        a->all_records = carve(memory, &used, PHX_U8, m, size * record);
    }
    a->ids = carve(memory, &used, PHX_I32, m, 1);
    a->logprobs = carve(memory, &used, PHX_F32, m, 1);
    return used;
}

static enum phx_dtype activation_type(const struct phx_device *device)
{
    struct phx_device_info info;
    phx_device_info(device, &info);
    return info.activation;
}

/* Of one table of rotary frequencies. */
static size_t rope_bytes(const struct phx_config *config, const struct phx_shard_plan *plan)
{
    return (size_t)(widths_of(config, plan).head_dim / 2) * sizeof(float);
}

size_t phx_forward_bytes(const struct phx_config *config, const struct phx_shard_plan *plan,
                         const struct phx_device *device, int32_t max_rows, int32_t max_outputs)
{
    struct phx_activations a;
    return lay_out(config, plan, activation_type(device), max_rows, max_outputs, NULL, &a) +
           PHX_MAX_ROPES * rope_bytes(config, plan);
}

size_t phx_forward_reduce_bytes(const struct phx_config *config, const struct phx_device *device,
                                int32_t max_rows)
{
    return phx_dtype_bytes(activation_type(device), (int64_t)max_rows * config->hidden);
}

/* One table of frequencies for each different kind of layer. */
static enum phx_status make_ropes(struct phx_forward *f)
{
    const struct phx_config *config = f->parts.config;
    size_t bytes = rope_bytes(config, f->parts.plan);
    size_t widest = bytes / sizeof(float);
    enum phx_status status = PHX_OK;
    float *tables = calloc(PHX_MAX_ROPES + 1, bytes);
    if (tables == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for rotary frequencies");
    float *own = tables + PHX_MAX_ROPES * widest;
    int32_t half[PHX_MAX_ROPES] = {0};
    PHX_TRY_GOTO(phx_buffer_create(f->parts.device, PHX_MAX_ROPES * bytes, &f->inv_freq), done);
    for (int32_t l = 0; l < config->n_layers; l++) {
        float scale = 1;
        int32_t own_half = phx_config_rotated(config, l) / 2;
        f->layer_rope[l] = -1;
        if (own_half == 0) continue;
        phx_config_inv_freq(config, l, own, &scale);
        int32_t i = 0;
        while (i < f->n_ropes &&
               !(half[i] == own_half && f->rope_scale[i] == scale &&
                 memcmp(tables + i * widest, own, (size_t)own_half * sizeof(float)) == 0))
            i++;
        f->layer_rope[l] = i;
        if (i < f->n_ropes) continue;
        if (i == PHX_MAX_ROPES) {
            status =
                phx_fail(PHX_UNSUPPORTED, "more than %d kinds of rotary embedding", PHX_MAX_ROPES);
            goto done;
        }
        memcpy(tables + i * widest, own, (size_t)own_half * sizeof(float));
        half[i] = own_half;
        f->rope_scale[i] = scale;
        f->rope_freq[i] = phx_tensor_view(f->inv_freq, (size_t)i * bytes, PHX_F32, 1, own_half);
        PHX_TRY_GOTO(phx_tensor_upload(f->parts.stream, f->rope_freq[i], own), done);
        f->n_ropes++;
    }
done:
    free(tables);
    return status;
}

enum phx_status phx_forward_create(const struct phx_forward_parts *parts, struct phx_forward **out)
{
    struct phx_forward *f = calloc(1, sizeof *f);
    if (f == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the decoder pass");
    f->parts = *parts;
    enum phx_status status = PHX_OK;
    enum phx_dtype act = activation_type(parts->device);
    int size = phx_shard_plan_size(parts->plan);
    int64_t hidden = parts->config->hidden;
    f->layer_rope = calloc((size_t)parts->config->n_layers, sizeof *f->layer_rope);
    f->vocab_begin = calloc((size_t)size + 1, sizeof *f->vocab_begin);
    f->record_begin = calloc((size_t)size + 1, sizeof *f->record_begin);
    if (f->layer_rope == NULL || f->vocab_begin == NULL || f->record_begin == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for the decoder pass");
        goto fail;
    }
    for (int r = 0; r < size; r++)
        f->vocab_begin[r + 1] = phx_shard_plan_interval(parts->plan, r, 0, PHX_DIM_VOCAB).end;
    size_t bytes =
        lay_out(parts->config, parts->plan, act, parts->max_rows, parts->max_outputs, NULL, &f->a);
    PHX_TRY_GOTO(phx_buffer_create(parts->device, bytes, &f->memory), fail);
    lay_out(parts->config, parts->plan, act, parts->max_rows, parts->max_outputs, f->memory, &f->a);
    f->partial = phx_tensor_view(parts->partials, 0, act, parts->max_rows, hidden);
    f->out_partial = phx_tensor_view(parts->partials, phx_tensor_span_bytes(f->partial), act,
                                     parts->max_outputs, hidden);
    PHX_TRY_GOTO(make_ropes(f), fail);
    *out = f;
    return PHX_OK;
fail:
    phx_forward_destroy(f);
    return status;
}

void phx_forward_destroy(struct phx_forward *forward)
{
    if (forward == NULL) return;
    phx_buffer_destroy(forward->memory);
    phx_buffer_destroy(forward->inv_freq);
    free(forward->layer_rope);
    free(forward->vocab_begin);
    free(forward->record_begin);
    free(forward);
}

void phx_forward_set_taps(struct phx_forward *forward, const struct phx_forward_taps *taps)
{
    forward->taps = taps;
}

enum phx_status phx_forward_look(const struct phx_forward *f, struct phx_stream *s,
                                 const struct phx_step *step, enum phx_point point, int32_t layer,
                                 struct phx_tensor tensor)
{
    if (f->taps == NULL) return PHX_OK;
    return f->taps->look(f->taps->user, s, step, point, layer, tensor);
}

/* The frequencies that the layer's rows are rotated by; absent: it has no rotation. */
static struct phx_tensor rotation(const struct phx_forward *f, int32_t l, int64_t n)
{
    int32_t rope = f->layer_rope[l];
    if (rope < 0) return (struct phx_tensor){0};
    return phx_forward_part(f->a.rope[rope], n, 2 * f->rope_freq[rope].cols);
}

/* qkv [split] -> q [split] normed and rotated, k and v in their pages. A norm over all heads needs
 * the sum of their squares over all ranks. */
static enum phx_status rotate_and_append(struct phx_forward *f, struct phx_stream *s,
                                         const struct phx_step *step, int32_t l, int32_t hq,
                                         int32_t hk, struct phx_tensor qkv)
{
    const struct phx_config *c = f->parts.config;
    const struct phx_layer_weights *w = &f->parts.weights->layers[l];
    struct phx_rope_append append = {.qkv = qkv,
                                     .n_heads = hq,
                                     .cos_sin = rotation(f, l, qkv.rows),
                                     .q_norm = w->q_norm,
                                     .k_norm = w->k_norm,
                                     .epsilon = c->norm_epsilon,
                                     .kv = f->parts.kv[l],
                                     .layout = &step->layout};
    if (c->qk_norm_all) {
        append.squares = phx_forward_part(f->a.squares, qkv.rows, 2);
        append.q_full = phx_config_dim(c, l, PHX_DIM_Q);
        append.k_full = phx_config_dim(c, l, PHX_DIM_KV);
        PHX_TRY(phx_op_head_squares(
            s, &(struct phx_head_squares){.qkv = qkv,
                                          .n_heads = hq,
                                          .n_kv_heads = hk,
                                          .head_dim = c->layers[l].shape.head_dim,
                                          .out = append.squares}));
        PHX_TRY(phx_comm_all_reduce(f->parts.comm, s, append.squares));
    }
    return phx_op_rope_append(s, &append);
}

/* x [full] -> partial [partial] */
static enum phx_status attention_block(struct phx_forward *f, struct phx_stream *s,
                                       const struct phx_step *step, int32_t l, struct phx_tensor x,
                                       struct phx_tensor partial)
{
    const struct phx_config *c = f->parts.config;
    const struct phx_layer_weights *w = &f->parts.weights->layers[l];
    const struct phx_layer_config *layer = &c->layers[l];
    int64_t n = step->layout.n_rows, d = layer->shape.head_dim;
    int rank = phx_shard_plan_rank(f->parts.plan);
    int64_t hq = phx_interval_length(phx_shard_plan_q_heads(f->parts.plan, rank, l));
    int64_t hk = phx_interval_length(phx_shard_plan_kv_heads(f->parts.plan, rank, l));
    struct phx_tensor qkv = phx_forward_part(f->a.qkv, n, (hq + 2 * hk) * d);
    struct phx_tensor attended = phx_forward_part(f->a.attended, n, hq * d);
    PHX_TRY(phx_op_linear(
        s, &(struct phx_linear){.x = x, .weight = w->qkv, .bias = w->qkv_bias, .out = qkv}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_QKV, l, qkv));
    PHX_TRY(rotate_and_append(f, s, step, l, (int32_t)hq, (int32_t)hk, qkv));
    struct phx_tensor q = phx_tensor_cols(qkv, 0, hq * d);
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_Q, l, q));
    PHX_TRY(phx_op_attention(
        s, &(struct phx_attention){.q = q,
                                   .n_heads = (int32_t)hq,
                                   .kv = f->parts.kv[l],
                                   .layout = &step->layout,
                                   .window = layer->window,
                                   .scale = c->attention_scale,
                                   .soft_cap = c->attention_soft_cap,
                                   .out = attended,
                                   .tap = f->taps == NULL ? NULL
                                                          : f->taps->attention(f->taps->user, l)}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_ATTENDED, l, attended));
    PHX_TRY(phx_op_linear(s, &(struct phx_linear){.x = attended,
                                                  .weight = w->o,
                                                  .bias = w->o_bias,
                                                  .scale = c->residual_scale,
                                                  .out = partial}));
    return phx_forward_look(f, s, step, PHX_POINT_O, l, partial);
}

/* residual (+)= sum of partial over ranks, normed by `post` if there is such a norm; x =
 * norm(residual) [full]. `point` is the residual's. */
static enum phx_status reduce_norm(struct phx_forward *f, struct phx_stream *s,
                                   const struct phx_step *step, enum phx_point point, int32_t l,
                                   struct phx_tensor partial, struct phx_tensor post,
                                   struct phx_tensor residual, struct phx_tensor weight,
                                   struct phx_tensor x)
{
    PHX_TRY(phx_comm_reduce_norm(
        f->parts.comm, s,
        &(struct phx_reduce_norm){.partial = partial,
                                  .residual = residual,
                                  .start = point == PHX_POINT_RESIDUAL && l == 0,
                                  .post = post,
                                  .weight = weight,
                                  .epsilon = f->parts.config->norm_epsilon,
                                  .out = x}));
    PHX_TRY(phx_forward_look(f, s, step, point, l, residual));
    return phx_forward_look(f, s, step, (enum phx_point)(point + 1), l, x);
}

/* Penalties look at counts that include the newest token: it is a row of this step. */
static enum phx_status count_tokens(struct phx_forward *f, struct phx_stream *s,
                                    const struct phx_step *step)
{
    struct phx_count_tokens args = {.ids = step->ids,
                                    .last_ids = step->last_ids,
                                    .slots = step->prompt_slots,
                                    .kind = PHX_COUNT_PROMPT,
                                    .counts = step->table.counts};
    args.vocab_begin = (int32_t)f->vocab_begin[phx_shard_plan_rank(f->parts.plan)];
    PHX_TRY(phx_op_count_tokens(s, &args));
    args.slots = step->output_slots;
    args.kind = PHX_COUNT_OUTPUT;
    return phx_op_count_tokens(s, &args);
}

static enum phx_status draw_from_candidates(struct phx_forward *f, struct phx_stream *s,
                                            const struct phx_step *step, struct phx_tensor logits,
                                            struct phx_tensor adjusted,
                                            const struct phx_forward_result *result)
{
    int size = phx_shard_plan_size(f->parts.plan);
    int64_t m = step->n_outputs;
    int64_t width = (step->n_candidates + 1) * (int64_t)sizeof(struct phx_candidate);
    struct phx_tensor records = phx_forward_part(f->a.records, m, width);
    struct phx_tensor all = phx_forward_part(f->a.all_records, m, size * width);
    for (int r = 0; r <= size; r++) f->record_begin[r] = r * width;
    PHX_TRY(phx_op_sample_candidates(
        s, &(struct phx_sample_candidates){
               .logits = logits,
               .adjusted = adjusted,
               .slots = step->out_slots,
               .positions = step->out_positions,
               .vocab_begin = (int32_t)f->vocab_begin[phx_shard_plan_rank(f->parts.plan)],
               .params = step->table.params,
               .n_candidates = step->n_candidates,
               .records = records}));
    if (size > 1) PHX_TRY(phx_comm_gather_cols(f->parts.comm, s, records, f->record_begin, all));
    return phx_op_sample_pick(s, &(struct phx_sample_pick){.records = all,
                                                           .n_candidates = step->n_candidates,
                                                           .n_ranks = size,
                                                           .slots = step->out_slots,
                                                           .params = step->table.params,
                                                           .ids = result->ids,
                                                           .logprobs = result->logprobs,
                                                           .last_ids = step->last_ids});
}

static enum phx_status gather_vocab(struct phx_forward *f, struct phx_stream *s,
                                    struct phx_tensor local, struct phx_tensor all)
{
    if (phx_shard_plan_size(f->parts.plan) == 1) return PHX_OK; /* the same memory */
    return phx_comm_gather_cols(f->parts.comm, s, local, f->vocab_begin, all);
}

/* logits [vocab split] -> a token for each row, the same on every rank */
static enum phx_status draw(struct phx_forward *f, struct phx_stream *s,
                            const struct phx_step *step, struct phx_tensor logits,
                            struct phx_forward_result *result)
{
    int64_t m = step->n_outputs, all_vocab = f->vocab_begin[phx_shard_plan_size(f->parts.plan)];
    struct phx_tensor adjusted = logits;
    bool full = step->draw == PHX_DRAW_FULL;
    if (step->adjust && step->draw != PHX_DRAW_NONE) {
        adjusted = phx_forward_part(f->a.adjusted, m, logits.cols);
        PHX_TRY(phx_op_adjust_logits(
            s, &(struct phx_adjust_logits){
                   .logits = logits,
                   .slots = step->out_slots,
                   .vocab_begin = (int32_t)f->vocab_begin[phx_shard_plan_rank(f->parts.plan)],
                   .table = step->table,
                   .adjusted = adjusted}));
    }
    if (full || step->gather_logits) {
        result->logits = phx_forward_part(f->a.all_logits, m, all_vocab);
        PHX_TRY(gather_vocab(f, s, logits, result->logits));
    }
    if (step->draw == PHX_DRAW_NONE) return PHX_OK;
    if (!full) return draw_from_candidates(f, s, step, logits, adjusted, result);
    struct phx_tensor all_adjusted = result->logits;
    if (step->adjust) {
        all_adjusted = phx_forward_part(f->a.all_adjusted, m, all_vocab);
        PHX_TRY(gather_vocab(f, s, adjusted, all_adjusted));
    }
    return phx_op_sample_full(s, &(struct phx_sample_full){.logits = result->logits,
                                                           .adjusted = all_adjusted,
                                                           .slots = step->out_slots,
                                                           .positions = step->out_positions,
                                                           .params = step->table.params,
                                                           .ids = result->ids,
                                                           .logprobs = result->logprobs,
                                                           .last_ids = step->last_ids});
}

/* From here on only the rows whose logits are wanted matter. */
static enum phx_status keep_outputs(struct phx_forward *f, struct phx_stream *s,
                                    const struct phx_step *step, struct phx_tensor *x,
                                    struct phx_tensor *residual, struct phx_tensor *partial)
{
    int64_t m = step->n_outputs;
    struct phx_tensor out_residual = phx_forward_part(f->a.out_residual, m, residual->cols);
    struct phx_tensor out_partial = phx_forward_part(f->out_partial, m, partial->cols);
    PHX_TRY(
        phx_op_gather_rows(s, &(struct phx_gather_rows){*residual, step->out_rows, out_residual}));
    PHX_TRY(
        phx_op_gather_rows(s, &(struct phx_gather_rows){*partial, step->out_rows, out_partial}));
    *x = phx_forward_part(f->a.out_x, m, x->cols);
    *residual = out_residual;
    *partial = out_partial;
    return PHX_OK;
}

/* x [full] -> logits and tokens */
static enum phx_status head(struct phx_forward *f, struct phx_stream *s,
                            const struct phx_step *step, struct phx_tensor x,
                            struct phx_forward_result *result)
{
    result->ids = phx_forward_part(f->a.ids, x.rows, 1);
    result->logprobs = phx_forward_part(f->a.logprobs, x.rows, 1);
    result->local_logits = phx_forward_part(f->a.logits, x.rows, f->a.logits.cols);
    PHX_TRY(phx_op_linear(s, &(struct phx_linear){.x = x,
                                                  .weight = f->parts.weights->lm_head,
                                                  .scale = f->parts.config->logits_scale,
                                                  .soft_cap = f->parts.config->logits_soft_cap,
                                                  .out = result->local_logits}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_LOGITS, 0, result->local_logits));
    return draw(f, s, step, result->local_logits, result);
}

enum phx_status phx_forward_run(struct phx_forward *forward, struct phx_stream *stream,
                                const struct phx_step *step, struct phx_forward_result *out)
{
    struct phx_forward *f = forward;
    const struct phx_config *c = f->parts.config;
    const struct phx_weights *w = f->parts.weights;
    int64_t n = step->layout.n_rows;
    struct phx_tensor x = phx_forward_part(f->a.x, n, c->hidden);
    struct phx_tensor residual = phx_forward_part(f->a.residual, n, c->hidden);
    struct phx_tensor partial = phx_forward_part(f->partial, n, c->hidden);
    memset(out, 0, sizeof *out);
    PHX_TRY(phx_comm_begin_step(f->parts.comm, stream));
    PHX_TRY(phx_forward_look(f, stream, step, PHX_POINT_STEP, 0, (struct phx_tensor){0}));
    if (step->adjust) PHX_TRY(count_tokens(f, stream, step));
    for (int32_t i = 0; i < f->n_ropes; i++)
        PHX_TRY(phx_op_rope_table(
            stream, &(struct phx_rope_table){
                        .positions = step->layout.positions,
                        .inv_freq = f->rope_freq[i],
                        .scale = f->rope_scale[i],
                        .out = phx_forward_part(f->a.rope[i], n, 2 * f->rope_freq[i].cols)}));
    /* Each rank has the embeddings of its part of the vocabulary: [partial]. */
    PHX_TRY(phx_op_embed(
        stream, &(struct phx_embed){.table = w->embed,
                                    .vocab_begin =
                                        (int32_t)f->vocab_begin[phx_shard_plan_rank(f->parts.plan)],
                                    .ids = step->ids,
                                    .last_ids = step->last_ids,
                                    .scale = c->embed_scale,
                                    .out = partial}));
    PHX_TRY(phx_forward_look(f, stream, step, PHX_POINT_EMBED, 0, partial));
    struct phx_tensor post = {0}; /* of what was computed last */
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct phx_layer_weights *layer = &w->layers[l];
        PHX_TRY(reduce_norm(f, stream, step, PHX_POINT_RESIDUAL, l, partial, post, residual,
                            layer->attn_norm, x));
        PHX_TRY(attention_block(f, stream, step, l, x, partial));
        if (l + 1 == c->n_layers) {
            if (step->n_outputs == 0) return PHX_OK;
            PHX_TRY(keep_outputs(f, stream, step, &x, &residual, &partial));
        }
        PHX_TRY(reduce_norm(f, stream, step, PHX_POINT_MID_RESIDUAL, l, partial,
                            layer->attn_post_norm, residual, layer->ffn_norm, x));
        PHX_TRY(phx_forward_mlp(f, stream, step, l, x, partial));
        post = layer->ffn_post_norm;
    }
    PHX_TRY(reduce_norm(f, stream, step, PHX_POINT_END_RESIDUAL, c->n_layers - 1, partial, post,
                        residual, w->final_norm, x));
    return head(f, stream, step, x, out);
}

/* The collectives of phx_forward_run(), in its order. */
void phx_forward_collective_name(const struct phx_config *config, uint32_t ordinal, char *text,
                                 size_t bytes)
{
    static const char *const names[] = {"the projections", "the attention", "the MLP"};
    uint32_t each = phx_config_layer_sums(config), layers = (uint32_t)config->n_layers;
    if (ordinal == 0)
        snprintf(text, bytes, "the sum of the embeddings");
    else if (ordinal <= each * layers)
        snprintf(text, bytes, "the sum after %s of layer %u",
                 names[(ordinal - 1) % each + 3 - each], (ordinal - 1) / each);
    else
        snprintf(text, bytes, "the gather of the logits or their candidates");
}
