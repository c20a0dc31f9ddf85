#include "runtime/live.h"

#include <string.h>

#include "kernels/base/check.h"

int64_t phx_live_cols(const struct phx_live *c, enum phx_activation_name name, int32_t layer)
{
    const struct phx_layer_config *config = &c->config->layers[layer < 0 ? 0 : layer];
    const struct phx_layer_shape *s = &config->shape;
    switch (name) {
    case PHX_ACT_Q_PROJ:
    case PHX_ACT_Q:
    case PHX_ACT_ATTN:
        return (int64_t)s->n_heads * s->head_dim;
    case PHX_ACT_K_PROJ:
    case PHX_ACT_K:
    case PHX_ACT_V:
        return (int64_t)s->n_kv_heads * s->head_dim;
    case PHX_ACT_SCORES:
        return (int64_t)s->n_heads * c->n;
    case PHX_ACT_ROUTER:
    case PHX_ACT_EXPERTS:
        return s->n_experts;
    case PHX_ACT_GATE_UP:
        return s->n_experts > 0 ? s->n_experts * s->moe_ffn : s->ffn;
    case PHX_ACT_SHARED_GATE_UP:
        return s->shared_ffn;
    case PHX_ACT_LOGITS:
        return c->config->vocab;
    default:
        return c->config->hidden;
    }
}

static struct phx_live_share share_of(struct phx_interval units, int64_t unit_cols)
{
    return (struct phx_live_share){.cols = {units.begin * unit_cols, units.end * unit_cols},
                                   .head_cols = unit_cols,
                                   .n_pieces = 1};
}

/* Of each of the rank's experts its columns. */
static struct phx_live_share share_of_experts(const struct phx_seen_cache *cache, int64_t columns)
{
    const int64_t first = cache->experts.begin * columns;
    return (struct phx_live_share){
        .cols = {first + cache->moe_ffn.begin, first + cache->moe_ffn.end},
        .head_cols = columns,
        .n_pieces = phx_interval_length(cache->experts),
        .stride = columns};
}

struct phx_live_share phx_live_share(const struct phx_live *c, enum phx_activation_name name,
                                     int32_t layer, int rank)
{
    const struct phx_seen_cache *cache = phx_capture_cache(c->capture, rank, layer < 0 ? 0 : layer);
    struct phx_live_share whole = {.cols = {0, phx_live_cols(c, name, layer)}, .n_pieces = 1};
    switch (name) {
    case PHX_ACT_Q_PROJ:
    case PHX_ACT_Q:
    case PHX_ACT_ATTN:
        return share_of(cache->q_heads, cache->head_dim);
    case PHX_ACT_K_PROJ:
    case PHX_ACT_K:
    case PHX_ACT_V:
        return share_of(cache->kv_heads, cache->head_dim);
    case PHX_ACT_SCORES:
        return share_of(cache->q_heads, c->n);
    case PHX_ACT_GATE_UP:
        if (phx_interval_length(cache->experts) > 0)
            return share_of_experts(cache, c->config->layers[layer].shape.moe_ffn);
        whole.cols = cache->ffn;
        return whole;
    case PHX_ACT_SHARED_GATE_UP:
        whole.cols = cache->shared_ffn;
        return whole;
    case PHX_ACT_LOGITS:
        whole.cols = cache->vocab;
        return whole;
    default:
        return whole;
    }
}

static const float *seen(const struct phx_live *c, int rank, int what, int32_t layer,
                         int32_t position, int32_t head)
{
    return phx_capture_find(c->capture, rank, what, layer, c->slot, position, head, NULL);
}

static bool take(const float *from, int64_t n, float *to)
{
    if (from != NULL) memcpy(to, from, (size_t)n * sizeof *to);
    return from != NULL;
}

static bool take_difference(const float *from, const float *before, int64_t n, float *to)
{
    if (from == NULL || before == NULL) return false;
    for (int64_t i = 0; i < n; i++) to[i] = from[i] - before[i];
    return true;
}

/* Keys that the row does not see count as 0, as the reference has them. */
static bool take_scores(const struct phx_live *c, int32_t layer, int rank, int32_t position,
                        float *to)
{
    const int64_t heads = phx_interval_length(phx_capture_cache(c->capture, rank, layer)->q_heads);
    const int32_t window = c->config->layers[layer].window;
    const int32_t first = window > 0 && position >= window ? position - window + 1 : 0;
    memset(to, 0, (size_t)(heads * c->n) * sizeof *to);
    for (int32_t h = 0; h < heads; h++) {
        const float *scores = seen(c, rank, PHX_SEEN_SCORES, layer, position, h);
        if (!take(scores == NULL ? NULL : scores + first, position + 1 - first,
                  to + h * c->n + first))
            return false;
    }
    return true;
}

/* The weight of each expert, 0 where it was not chosen. */
static bool take_choice(const struct phx_live *c, int32_t layer, int rank, int32_t position,
                        float *to)
{
    const float *chosen = seen(c, rank, PHX_POINT_CHOSEN, layer, position, -1);
    const float *choice = seen(c, rank, PHX_POINT_CHOICE, layer, position, -1);
    if (chosen == NULL || choice == NULL) return false;
    memset(to, 0, (size_t)c->config->layers[layer].shape.n_experts * sizeof *to);
    for (int32_t j = 0; j < c->config->n_chosen; j++) to[(int64_t)chosen[j]] = choice[j];
    return true;
}

/* Of each expert of the rank its hidden columns, 0 where it was not chosen. */
static bool take_experts(const struct phx_live *c, int32_t layer, int rank, int32_t position,
                         float *to)
{
    const struct phx_seen_cache *cache = phx_capture_cache(c->capture, rank, layer);
    const float *chosen = seen(c, rank, PHX_POINT_CHOSEN, layer, position, -1);
    const float *hidden = seen(c, rank, PHX_POINT_GATE_UP, layer, position, -1);
    const int64_t n = phx_interval_length(cache->moe_ffn);
    if (chosen == NULL || hidden == NULL) return false;
    memset(to, 0, (size_t)(phx_interval_length(cache->experts) * n) * sizeof *to);
    for (int32_t j = 0; j < c->config->n_chosen; j++) {
        const int64_t e = (int64_t)chosen[j];
        if (e < cache->experts.begin || e >= cache->experts.end) continue;
        memcpy(to + (e - cache->experts.begin) * n, hidden + j * n, (size_t)n * sizeof *to);
    }
    return true;
}

static const float *layer_output(const struct phx_live *c, int32_t layer, int rank,
                                 int32_t position)
{
    bool last = layer + 1 == c->config->n_layers;
    return last ? seen(c, rank, PHX_POINT_END_RESIDUAL, layer, position, -1)
                : seen(c, rank, PHX_POINT_RESIDUAL, layer + 1, position, -1);
}

bool phx_live_row(const struct phx_live *c, enum phx_activation_name name, int32_t layer, int rank,
                  int32_t position, float *to)
{
    const struct phx_seen_cache *cache = phx_capture_cache(c->capture, rank, layer < 0 ? 0 : layer);
    const int64_t q = phx_interval_length(cache->q_heads) * cache->head_dim;
    const int64_t kv = phx_interval_length(cache->kv_heads) * cache->head_dim;
    const int64_t hidden = c->config->hidden;
    const int32_t last = c->config->n_layers - 1;
#define SEEN(what, of_layer) seen(c, rank, what, of_layer, position, -1)
    const float *qkv;
    switch (name) {
    case PHX_ACT_EMBED:
        return take(SEEN(PHX_POINT_RESIDUAL, 0), hidden, to);
    case PHX_ACT_ATTN_NORM:
        return take(SEEN(PHX_POINT_ATTN_NORM, layer), hidden, to);
    case PHX_ACT_Q_PROJ:
        return take(SEEN(PHX_POINT_QKV, layer), q, to);
    case PHX_ACT_K_PROJ:
        qkv = SEEN(PHX_POINT_QKV, layer);
        return take(qkv == NULL ? NULL : qkv + q, kv, to);
    case PHX_ACT_V:
        return take(SEEN(PHX_SEEN_V, layer), kv, to);
    case PHX_ACT_Q:
        return take(SEEN(PHX_POINT_Q, layer), q, to);
    case PHX_ACT_K:
        return take(SEEN(PHX_SEEN_K, layer), kv, to);
    case PHX_ACT_SCORES:
        return take_scores(c, layer, rank, position, to);
    case PHX_ACT_ATTN:
        return take(SEEN(PHX_POINT_ATTENDED, layer), q, to);
    case PHX_ACT_O:
        return take_difference(SEEN(PHX_POINT_MID_RESIDUAL, layer), SEEN(PHX_POINT_RESIDUAL, layer),
                               hidden, to);
    case PHX_ACT_ATTN_RESIDUAL:
        return take(SEEN(PHX_POINT_MID_RESIDUAL, layer), hidden, to);
    case PHX_ACT_FFN_NORM:
        return take(SEEN(PHX_POINT_FFN_NORM, layer), hidden, to);
    case PHX_ACT_ROUTER:
        return take(SEEN(PHX_POINT_ROUTER, layer), c->config->layers[layer].shape.n_experts, to);
    case PHX_ACT_EXPERTS:
        return take_choice(c, layer, rank, position, to);
    case PHX_ACT_SHARED_GATE_UP:
        return take(SEEN(PHX_POINT_SHARED_GATE_UP, layer), phx_interval_length(cache->shared_ffn),
                    to);
    case PHX_ACT_GATE_UP:
        if (phx_interval_length(cache->experts) > 0)
            return take_experts(c, layer, rank, position, to);
        return take(SEEN(PHX_POINT_GATE_UP, layer), phx_interval_length(cache->ffn), to);
    case PHX_ACT_DOWN:
        return take_difference(layer_output(c, layer, rank, position),
                               SEEN(PHX_POINT_MID_RESIDUAL, layer), hidden, to);
    case PHX_ACT_RESIDUAL:
        return take(layer_output(c, layer, rank, position), hidden, to);
    case PHX_ACT_FINAL_NORM:
        return take(SEEN(PHX_POINT_FINAL_NORM, last), hidden, to);
    case PHX_ACT_LOGITS:
        return take(SEEN(PHX_POINT_LOGITS, 0), phx_interval_length(cache->vocab), to);
    default:
        return false;
    }
#undef SEEN
}
