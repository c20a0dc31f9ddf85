/* The reference's mixtures of experts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/reference_impl.h"

static struct phx_ref_expert *expert_of(const struct phx_reference *r, int32_t layer, int64_t e)
{
    return &r->experts[(int64_t)layer * r->max_experts + e];
}

enum phx_status phx_ref_find_experts(struct phx_reference *r)
{
    const struct phx_config *config = r->config;
    for (int32_t l = 0; l < config->n_layers; l++)
        if (config->layers[l].shape.n_experts > r->max_experts)
            r->max_experts = config->layers[l].shape.n_experts;
    if (r->max_experts == 0) return PHX_OK;
    r->experts = calloc((size_t)config->n_layers * (size_t)r->max_experts, sizeof *r->experts);
    if (r->experts == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the reference");
    for (int32_t l = 0; l < config->n_layers; l++) {
        for (int32_t e = 0; e < config->layers[l].shape.n_experts; e++) {
            struct phx_ref_expert *expert = expert_of(r, l, e);
            PHX_TRY(phx_ref_find(r, PHX_SLOT_EXPERTS_GATE_UP, 0, l, e, &expert->gate));
            PHX_TRY(phx_ref_find(r, PHX_SLOT_EXPERTS_GATE_UP, 1, l, e, &expert->up));
            PHX_TRY(phx_ref_find(r, PHX_SLOT_EXPERTS_DOWN, 0, l, e, &expert->down));
            if (expert->gate.cols > r->widest) r->widest = expert->gate.cols;
            if (expert->down.cols > r->widest) r->widest = expert->down.cols;
        }
    }
    return PHX_OK;
}

/* choice[e] = 1 for the k with the largest logits, else 0. */
static void mark_own(const double *logits, int64_t n, int64_t k, double *choice)
{
    for (int64_t e = 0; e < n; e++) {
        int64_t before = 0;
        for (int64_t o = 0; o < n; o++)
            before += logits[o] > logits[e] || (logits[o] == logits[e] && o < e);
        choice[e] = before < k;
    }
}

/* The same for those that a run chose, if they are known and as good. */
static void mark_as_run(const struct phx_reference *r, int32_t layer, int64_t position,
                        const double *logits, double *choice)
{
    const int64_t n = r->config->layers[layer].shape.n_experts, k = r->config->n_chosen;
    int32_t ids[PHX_MAX_CHOSEN];
    if (r->options.chosen == NULL || !r->options.chosen(r->options.user, layer, position, ids))
        return;
    double least = INFINITY, largest = 0;
    for (int64_t e = 0; e < n; e++) {
        largest = fmax(largest, fabs(logits[e]));
        if (choice[e] != 0) least = fmin(least, logits[e]);
    }
    for (int64_t j = 0; j < k; j++) {
        if (ids[j] < 0 || ids[j] >= n) return;
        if (!(logits[ids[j]] >= least - r->options.close * largest)) return;
        for (int64_t i = 0; i < j; i++)
            if (ids[i] == ids[j]) return;
    }
    for (int64_t e = 0; e < n; e++) choice[e] = 0;
    for (int64_t j = 0; j < k; j++) choice[ids[j]] = 1;
}

void phx_ref_choose(const struct phx_reference *r, int32_t layer, int64_t n, const double *logits,
                    double *choice)
{
    const int64_t n_experts = r->config->layers[layer].shape.n_experts;
    for (int64_t i = 0; i < n; i++, logits += n_experts, choice += n_experts) {
        double sum = 0, chosen = 0;
        for (int64_t e = 0; e < n_experts; e++) sum += exp(logits[e]);
        mark_own(logits, n_experts, r->config->n_chosen, choice);
        mark_as_run(r, layer, i, logits, choice);
        for (int64_t e = 0; e < n_experts; e++) {
            choice[e] *= exp(logits[e]) / sum;
            chosen += choice[e];
        }
        for (int64_t e = 0; e < n_experts && r->config->normalize_choice; e++) choice[e] /= chosen;
    }
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void phx_ref_experts(const struct phx_reference *r, int32_t layer, int64_t n, const double *x,
                     const double *choice, double *hidden, double *out)
{
    const struct phx_layer_shape *s = &r->config->layers[layer].shape;
    const int64_t size = r->config->hidden, width = s->n_experts * s->moe_ffn;
    memset(hidden, 0, sizeof *hidden * (size_t)(n * width));
    memset(out, 0, sizeof *out * (size_t)(n * size));
    for (int64_t e = 0; e < s->n_experts; e++) {
        const struct phx_ref_expert *expert = expert_of(r, layer, e);
        double *own = hidden + e * s->moe_ffn;
        for (int64_t f = 0; f < s->moe_ffn; f++) {
            phx_ref_read_row(r, &expert->gate, f, r->row);
            for (int64_t i = 0; i < n; i++)
                if (choice[i * s->n_experts + e] != 0)
                    own[i * width + f] =
                        phx_ref_activate(r->config->activation, dot(r->row, x + i * size, size));
            phx_ref_read_row(r, &expert->up, f, r->row);
            for (int64_t i = 0; i < n; i++)
                if (choice[i * s->n_experts + e] != 0)
                    own[i * width + f] *= dot(r->row, x + i * size, size);
        }
        for (int64_t row = 0; row < size; row++) {
            phx_ref_read_row(r, &expert->down, row, r->row);
            for (int64_t i = 0; i < n; i++)
                if (choice[i * s->n_experts + e] != 0)
                    out[i * size + row] +=
                        choice[i * s->n_experts + e] * dot(r->row, own + i * width, s->moe_ffn);
        }
    }
}
