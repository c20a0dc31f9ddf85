#include "runtime/live.h"

#include <string.h>

#include "kernels/base/check.h"

struct phx_live_share phx_live_share(const struct phx_live *c, enum phx_activation_name name,
                                     int32_t layer, int rank)
{
    const struct phx_config *config = c->config;
    const struct phx_seen_cache *cache = phx_capture_cache(c->capture, rank, layer < 0 ? 0 : layer);
    const int64_t dim = cache->head_dim;
    switch (name) {
    case PHX_ACT_Q_PROJ:
    case PHX_ACT_Q:
    case PHX_ACT_ATTN:
        return (struct phx_live_share){{cache->q_heads.begin * dim, cache->q_heads.end * dim}, dim};
    case PHX_ACT_K_PROJ:
    case PHX_ACT_K:
    case PHX_ACT_V:
        return (struct phx_live_share){{cache->kv_heads.begin * dim, cache->kv_heads.end * dim},
                                       dim};
    case PHX_ACT_SCORES:
        return (struct phx_live_share){{cache->q_heads.begin * c->n, cache->q_heads.end * c->n},
                                       c->n};
    case PHX_ACT_GATE_UP:
        return (struct phx_live_share){cache->ffn, 0};
    case PHX_ACT_LOGITS:
        return (struct phx_live_share){cache->vocab, 0};
    default:
        return (struct phx_live_share){{0, config->hidden}, 0};
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
    case PHX_ACT_GATE_UP:
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
