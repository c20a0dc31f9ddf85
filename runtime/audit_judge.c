/* The judging of a layer: what all ranks together did, against what the reference makes of the
 * layer's input. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/audit_judge.h"

/* ---- gate 1, and who owns what ---- */

double phx_judge_scale(const struct phx_judge *j)
{
    const double multiplier = j->config->attention_multiplier;
    return multiplier != 0 ? multiplier : 1 / sqrt((double)j->dim);
}

static void judge_used(struct phx_judge *j, int rank, int32_t step)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const struct phx_attention_used *u =
        phx_capture_find(j->a->capture, rank, PHX_SEEN_USED, j->layer, -1, step, -1, NULL);
    if (u == NULL) return;
    const int64_t q = phx_interval_length(cache->q_heads),
                  kv = phx_interval_length(cache->kv_heads);
    const int32_t window = j->config->layers[j->layer].window;
    bool ok = u->n_heads == q && u->n_kv_heads == kv && u->group == j->group &&
              u->head_dim == j->dim && u->window == window &&
              u->element_bytes == cache->element_bytes && q == kv * j->group;
    phx_judge_note(
        j, PHX_CHECK_CONFIG, ok, 0, phx_judge_place(j, rank, -1, -1, NULL),
        "the kernel used num_heads=%d num_kv_heads=%d group_size=%d head_dim=%d window=%d; this "
        "rank's part of the config is %lld, %lld, %lld, %lld, %d",
        u->n_heads, u->n_kv_heads, u->group, u->head_dim, u->window, (long long)q, (long long)kv,
        (long long)j->group, (long long)j->dim, window);
    double wanted = phx_judge_scale(j), error = fabs((double)u->scale - wanted) / wanted;
    const float cap = j->config->attention_soft_cap;
    phx_judge_note(j, PHX_CHECK_SCALE, error <= 1e-6 && u->soft_cap == cap, error,
                   phx_judge_place(j, rank, -1, -1, NULL),
                   "the kernel used scale %.9g and soft cap %g, expected %.9g and %g (0: none)",
                   (double)u->scale, (double)u->soft_cap, wanted, (double)cap);
}

static void judge_owners(struct phx_judge *j, int64_t n, bool queries)
{
    for (int64_t head = 0; head < n; head++) {
        int owners = 0, last = -1;
        for (int r = 0; r < j->n_ranks; r++) {
            const struct phx_seen_cache *c = phx_judge_cache(j, r);
            const struct phx_interval own = queries ? c->q_heads : c->kv_heads;
            if (head < own.begin || head >= own.end) continue;
            owners++;
            last = r;
        }
        phx_judge_note(j, PHX_CHECK_MAP, owners == 1, 0,
                       phx_judge_place(j, last, queries ? head : -1, queries ? -1 : head, NULL),
                       "%s head %lld is owned by %d ranks", queries ? "query" : "KV",
                       (long long)head, owners);
    }
}

/* ---- heads against each other ---- */

/* A head whose scores (or outputs) would be the same with another KV head proves nothing by itself:
 * a failure, unless the two KV heads are alike. */
static void judge_foreign(struct phx_judge *j, enum phx_audit_check_id id)
{
    const bool values = id == PHX_CHECK_VALUES;
    const double *distance = j->distance + (values ? j->heads * j->kv_heads : 0);
    const bool *twins = j->twins + (values ? j->kv_heads * j->kv_heads : 0);
    struct phx_audit_check *check = phx_judge_check(j, id);
    for (int64_t q = 0; q < j->heads; q++) {
        const int64_t wanted = q / j->group;
        for (int64_t kv = 0; kv < j->kv_heads; kv++) {
            const double d = distance[q * j->kv_heads + kv];
            if (kv == wanted || twins[kv * j->kv_heads + wanted]) continue;
            if (!(d >= check->seen)) check->seen = d;
            phx_judge_note(j, id, !phx_judge_good(j, d), 0, phx_judge_place(j, -1, q, wanted, NULL),
                           "what was computed is as well that of kv_head %lld", (long long)kv);
        }
    }
}

static bool are_twins(const struct phx_judge *j, const double *truth, int64_t a, int64_t b)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < j->n_all; i++) {
        for (int64_t d = 0; d < j->dim; d++) {
            const double x = truth[(i * j->kv_heads + a) * j->dim + d];
            most = phx_judge_worse(most, fabs(x - truth[(i * j->kv_heads + b) * j->dim + d]));
            scale = fmax(scale, fabs(x));
        }
    }
    return most <= j->a->options.tolerance * scale;
}

static enum phx_status find_twins(struct phx_judge *j, bool values)
{
    const int64_t n = j->kv_heads;
    bool *twins = j->twins + (values ? n * n : 0);
    for (int64_t i = 0; i < n * n; i++) {
        const int64_t a = i / n, b = i % n;
        twins[i] = are_twins(j, values ? j->v_proj : j->k, a, b);
        if (a >= b || !twins[i]) continue;
        struct phx_audit_twins *grown =
            realloc(j->a->twins, (j->a->n_twins + 1) * sizeof *j->a->twins);
        if (grown == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for KV heads alike");
        j->a->twins = grown;
        j->a->twins[j->a->n_twins++] =
            (struct phx_audit_twins){j->layer, (int32_t)a, (int32_t)b, values};
    }
    return PHX_OK;
}

/* ---- after attention ---- */

static void judge_o(struct phx_judge *j, const struct phx_judge_row *row)
{
    const int64_t hidden = j->config->hidden, q = j->heads * j->dim;
    const struct phx_interval out = {0, hidden};
    double *bias = j->scratch, *part = bias + hidden, *sum = part + hidden, *in = sum + hidden;
    phx_reference_bias(j->r, PHX_REF_O, j->layer, bias);
    memcpy(sum, bias, sizeof *sum * (size_t)hidden);
    for (int r = 0; r < j->n_ranks; r++) {
        const struct phx_interval heads = phx_judge_cache(j, r)->q_heads;
        const struct phx_interval cols = {heads.begin * j->dim, heads.end * j->dim};
        const float *attended = phx_judge_seen(j, r, PHX_POINT_ATTENDED, row, -1);
        const float *live = phx_judge_seen(j, r, PHX_POINT_O, row, -1);
        if (attended == NULL || live == NULL || cols.end > q) return;
        phx_judge_doubles(attended, phx_interval_length(cols), in);
        phx_reference_product(j->r, PHX_REF_O, j->layer, out, cols, 1, in, part);
        for (int64_t i = 0; i < hidden; i++) {
            sum[i] += part[i];
            if (r == 0) part[i] += bias[i];
            part[i] *= (double)j->config->residual_scale;
        }
        double error = phx_judge_error(live, part, hidden, phx_judge_largest(part, hidden));
        phx_judge_note(j, PHX_CHECK_O_SLICE, phx_judge_good(j, error), error,
                       phx_judge_place(j, r, -1, -1, row),
                       "the partial result of columns %lld to %lld%s is off by %.3g of the largest",
                       (long long)cols.begin, (long long)cols.end - 1,
                       r == 0 ? " and the bias" : "", error);
    }
    for (int64_t i = 0; i < hidden; i++) sum[i] *= (double)j->config->residual_scale;
    phx_reference_norm(j->r, PHX_REF_ATTN_POST_NORM, j->layer, 1, sum, sum);
    const float *before = phx_judge_seen(j, 0, PHX_POINT_RESIDUAL, row, -1);
    for (int r = 0; r < j->n_ranks; r++) {
        const float *after = phx_judge_seen(j, r, PHX_POINT_MID_RESIDUAL, row, -1);
        if (before == NULL || after == NULL) continue; /* not kept: no logits are wanted there */
        for (int64_t i = 0; i < hidden; i++) part[i] = (double)before[i] + sum[i];
        double error = phx_judge_error(after, part, hidden, phx_judge_largest(part, hidden));
        phx_judge_note(j, PHX_CHECK_O_SUM, phx_judge_good(j, error), error,
                       phx_judge_place(j, r, -1, -1, row),
                       "the residual after attention is off by %.3g of the largest", error);
    }
}

static void judge_head(struct phx_judge *j, const struct phx_judge_row *row)
{
    const int64_t hidden = j->config->hidden;
    double *x = j->scratch, *truth = x + hidden;
    for (int r = 0; r < j->n_ranks; r++) {
        const struct phx_interval own = phx_judge_cache(j, r)->vocab, all = {0, hidden};
        j->layer = j->config->n_layers - 1;
        const float *norm = phx_judge_seen(j, r, PHX_POINT_FINAL_NORM, row, -1);
        j->layer = 0;
        const float *logits = phx_judge_seen(j, r, PHX_POINT_LOGITS, row, -1);
        if (norm == NULL || logits == NULL) continue;
        phx_judge_doubles(norm, hidden, x);
        phx_reference_product(j->r, PHX_REF_LM_HEAD, 0, own, all, 1, x, truth);
        const int64_t n = phx_interval_length(own);
        for (int64_t i = 0; i < n; i++) truth[i] *= (double)j->config->logits_scale;
        phx_reference_cap((double)j->config->logits_soft_cap, n, truth);
        double error = phx_judge_error(logits, truth, n, phx_judge_largest(truth, n));
        struct phx_audit_place place = phx_judge_place(j, r, -1, -1, row);
        place.layer = -1;
        phx_judge_note(j, PHX_CHECK_LM_HEAD, phx_judge_good(j, error), error, place,
                       "the logits of tokens %lld to %lld are off by %.3g of the largest",
                       (long long)own.begin, (long long)own.end - 1, error);
    }
}

/* ---- a layer ---- */

static void judge_embedding(struct phx_judge *j, const struct phx_judge_row *row)
{
    const int64_t hidden = j->config->hidden;
    const int32_t id = j->a->texts[row->text].request->ids[row->position];
    phx_reference_row(j->r, PHX_REF_EMBED, 0, id, j->scratch);
    for (int64_t i = 0; i < hidden; i++) j->scratch[i] *= (double)j->config->embed_scale;
    for (int r = 0; r < j->n_ranks; r++) {
        const float *live = phx_judge_seen(j, r, PHX_POINT_RESIDUAL, row, -1);
        if (live == NULL) continue;
        double error =
            phx_judge_error(live, j->scratch, hidden, phx_judge_largest(j->scratch, hidden));
        phx_judge_note(j, PHX_CHECK_EMBED, phx_judge_good(j, error), error,
                       phx_judge_place(j, r, -1, -1, row),
                       "the embedding of token %d is off by %.3g of the largest", id, error);
    }
}

static void measure(const double *x, int64_t n_rows, int64_t n_heads, int64_t dim,
                    const struct phx_judge_sizes *out)
{
    for (int64_t h = 0; h < n_heads; h++) {
        out->largest[h] = out->longest[h] = 0;
        for (int64_t i = 0; i < n_rows; i++) {
            const double *head = x + (i * n_heads + h) * dim;
            double squares = 0;
            for (int64_t d = 0; d < dim; d++) squares += head[d] * head[d];
            out->largest[h] = fmax(out->largest[h], phx_judge_largest(head, dim));
            out->longest[h] = fmax(out->longest[h], sqrt(squares));
        }
    }
}

/* What the reference makes of the layer's input; false if that was not seen whole. */
static bool recompute(struct phx_judge *j)
{
    const int64_t hidden = j->config->hidden;
    for (int t = 0; t < PHX_AUDIT_TEXTS; t++) {
        for (int32_t p = 0; p < j->a->texts[t].n_computed; p++) {
            struct phx_judge_row row = {t, j->a->texts[t].slot, p, j->first[t] + p};
            const float *live = phx_judge_seen(j, 0, PHX_POINT_RESIDUAL, &row, -1);
            if (live == NULL) {
                phx_judge_note(j, PHX_CHECK_CONFIG, false, NAN, phx_judge_place(j, 0, -1, -1, &row),
                               "the layer's input was not seen");
                return false;
            }
            phx_judge_doubles(live, hidden, j->input + row.index * hidden);
        }
    }
    phx_reference_norm(j->r, PHX_REF_ATTN_NORM, j->layer, j->n_all, j->input, j->x);
    phx_reference_linear(j->r, PHX_REF_K, j->layer, j->n_all, j->x, j->k_proj);
    phx_reference_linear(j->r, PHX_REF_V, j->layer, j->n_all, j->x, j->v_proj);
    memcpy(j->k, j->k_proj, sizeof *j->k * (size_t)(j->n_all * j->kv_heads * j->dim));
    const struct phx_interval all_kv = {0, j->kv_heads};
    phx_reference_rotate(j->r, PHX_REF_K, j->layer, j->n_all, j->positions, all_kv, NULL, j->k);
    double *x = j->scratch; /* the audited rows of j->x */
    for (int i = 0; i < j->n_rows; i++)
        memcpy(x + i * hidden, j->x + j->rows[i].index * hidden, sizeof *x * (size_t)hidden);
    phx_reference_linear(j->r, PHX_REF_Q, j->layer, j->n_rows, x, j->q_proj);
    measure(j->q_proj, j->n_rows, j->heads, j->dim, &j->q_proj_sizes);
    measure(j->k_proj, j->n_all, j->kv_heads, j->dim, &j->k_proj_sizes);
    measure(j->v_proj, j->n_all, j->kv_heads, j->dim, &j->v_sizes);
    measure(j->k, j->n_all, j->kv_heads, j->dim, &j->k_sizes);
    return true;
}

static enum phx_status judge_layer(struct phx_judge *j, int32_t layer)
{
    const struct phx_layer_shape *shape = &j->config->layers[layer].shape;
    j->layer = layer;
    j->heads = shape->n_heads;
    j->kv_heads = shape->n_kv_heads;
    j->dim = shape->head_dim;
    j->group = j->heads / j->kv_heads;
    phx_judge_note(j, PHX_CHECK_CONFIG, j->group * j->kv_heads == j->heads, 0,
                   phx_judge_place(j, -1, -1, -1, NULL),
                   "%lld query heads are not a multiple of %lld KV heads", (long long)j->heads,
                   (long long)j->kv_heads);
    /* Steps: as many as the longest text has pieces; those that were not are passed over. */
    for (int r = 0; r < j->n_ranks; r++)
        for (int32_t step = 1; step <= j->n_all; step++) judge_used(j, r, step);
    judge_owners(j, j->heads, true);
    judge_owners(j, j->kv_heads, false);
    if (!recompute(j)) return PHX_OK;
    memset(j->distance, 0, sizeof *j->distance * (size_t)(2 * j->heads * j->kv_heads));
    PHX_TRY(find_twins(j, false));
    PHX_TRY(find_twins(j, true));
    for (int i = 0; i < j->n_rows; i++) {
        if (layer == 0) judge_embedding(j, &j->rows[i]);
        for (int r = 0; r < j->n_ranks; r++) phx_judge_inputs(j, &j->rows[i], r);
        for (int r = 0; r < j->n_ranks; r++) phx_judge_attention(j, &j->rows[i], r);
        judge_o(j, &j->rows[i]);
    }
    judge_foreign(j, PHX_CHECK_SCORES);
    judge_foreign(j, PHX_CHECK_VALUES);
    return PHX_OK;
}

/* ---- everything ---- */

static void list_rows(struct phx_judge *j)
{
    for (int t = 0; t < PHX_AUDIT_TEXTS; t++) {
        const struct phx_audit_text *text = &j->a->texts[t];
        j->first[t] = j->n_all;
        j->n_all += text->n_computed;
        for (int32_t p = 0; p < text->n_computed; p++) {
            bool wanted = p >= text->n_prompt - 1;
            for (int i = 0; i < PHX_AUDIT_CHOICES; i++) wanted |= p == phx_audit_choices[i];
            if (wanted)
                j->rows[j->n_rows++] = (struct phx_judge_row){t, text->slot, p, j->first[t] + p};
        }
    }
}

static void widen(int64_t *to, int64_t value)
{
    if (value > *to) *to = value;
}

static double *reserve(int64_t n)
{
    return malloc(sizeof(double) * (size_t)(n + 1));
}

static enum phx_status make_memory(struct phx_judge *j)
{
    const struct phx_config *c = j->config;
    int64_t q = 0, kv = 0, heads = 0, kv_heads = 0;
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct phx_layer_shape *s = &c->layers[l].shape;
        widen(&q, (int64_t)s->n_heads * s->head_dim);
        widen(&kv, (int64_t)s->n_kv_heads * s->head_dim);
        widen(&heads, s->n_heads);
        widen(&kv_heads, s->n_kv_heads);
    }
    j->widest = PHX_JUDGE_ROWS * (c->hidden + q + j->n_all) + c->vocab;
    j->positions = malloc(sizeof *j->positions * (size_t)j->n_all);
    j->input = reserve(j->n_all * c->hidden);
    j->x = reserve(j->n_all * c->hidden);
    j->k_proj = reserve(j->n_all * kv);
    j->v_proj = reserve(j->n_all * kv);
    j->k = reserve(j->n_all * kv);
    j->q_proj = reserve(j->n_rows * q);
    j->sizes = reserve(2 * heads + 6 * kv_heads);
    j->distance = reserve(2 * heads * kv_heads);
    j->twins = malloc(sizeof *j->twins * (size_t)(2 * kv_heads * kv_heads));
    j->scratch = reserve(j->widest);
    if (j->positions == NULL || j->input == NULL || j->x == NULL || j->k_proj == NULL ||
        j->v_proj == NULL || j->k == NULL || j->q_proj == NULL || j->sizes == NULL ||
        j->distance == NULL || j->twins == NULL || j->scratch == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory to judge an audit");
    j->q_proj_sizes = (struct phx_judge_sizes){j->sizes, j->sizes + heads};
    double *of_keys = j->sizes + 2 * heads;
    j->k_proj_sizes = (struct phx_judge_sizes){of_keys, of_keys + kv_heads};
    j->v_sizes = (struct phx_judge_sizes){of_keys + 2 * kv_heads, of_keys + 3 * kv_heads};
    j->k_sizes = (struct phx_judge_sizes){of_keys + 4 * kv_heads, of_keys + 5 * kv_heads};
    for (int t = 0; t < PHX_AUDIT_TEXTS; t++)
        for (int32_t p = 0; p < j->a->texts[t].n_computed; p++) j->positions[j->first[t] + p] = p;
    return PHX_OK;
}

enum phx_status phx_audit_judge_all(struct phx_audit *audit, const struct phx_reference *reference)
{
    struct phx_judge j = {.a = audit,
                          .r = reference,
                          .config = audit->parts.config,
                          .n_ranks = audit->parts.world->size};
    phx_audit_checks_reset(audit->checks);
    list_rows(&j);
    enum phx_status status = make_memory(&j);
    for (int32_t l = 0; l < j.config->n_layers && status == PHX_OK; l++)
        if (audit->layers[l]) status = judge_layer(&j, l);
    for (int i = 0; i < j.n_rows && status == PHX_OK; i++) judge_head(&j, &j.rows[i]);
    free(j.positions);
    free(j.input);
    free(j.x);
    free(j.k_proj);
    free(j.v_proj);
    free(j.k);
    free(j.q_proj);
    free(j.sizes);
    free(j.distance);
    free(j.twins);
    free(j.scratch);
    return status;
}
