#include "parallel/shard_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/* Small enough for balance (Llama-3-8B has 1792 feed-forward grains), large enough that every cut
 * of 2-byte weights falls on 16 bytes. */
enum { GRAIN = 8 };

struct phx_shard_plan {
    int size, rank;
    int64_t hidden, vocab;
    bool expert_parallel;
    int32_t n_layers;
    struct phx_layer_shape layers[]; /* [n_layers] */
};

struct phx_interval phx_interval_share(int64_t length, int64_t grain, int size, int rank)
{
    PHX_ASSERT(length >= 0 && grain >= 1 && rank >= 0 && rank < size);
    int64_t n_grains = (length + grain - 1) / grain;
    /* Rounding down puts a short last grain into one of the longer shares. */
    int64_t begin = n_grains * rank / size * grain;
    int64_t end = n_grains * (rank + 1) / size * grain;
    return (struct phx_interval){begin < length ? begin : length, end < length ? end : length};
}

/* "1 rank", "1, 2 or 3 ranks", "1 to 8 ranks". */
static void write_choices(char *text, size_t bytes, int64_t most)
{
    if (most == 1)
        snprintf(text, bytes, "1 rank");
    else if (most == 2)
        snprintf(text, bytes, "1 or 2 ranks");
    else if (most == 3)
        snprintf(text, bytes, "1, 2 or 3 ranks");
    else if (most == 4)
        snprintf(text, bytes, "1, 2, 3 or 4 ranks");
    else
        snprintf(text, bytes, "1 to %lld ranks", (long long)most);
}

static enum phx_status check_dimension(int64_t value, const char *name, int32_t layer)
{
    if (value >= 1) return PHX_OK;
    if (layer < 0)
        return phx_fail(PHX_BAD_DATA, "%s is %lld: it must be at least 1", name, (long long)value);
    return phx_fail(PHX_BAD_DATA, "%s of layer %d is %lld: it must be at least 1", name, layer,
                    (long long)value);
}

static enum phx_status check_shape(const struct phx_model_shape *shape)
{
    PHX_TRY(check_dimension(shape->hidden, "the hidden size", -1));
    PHX_TRY(check_dimension(shape->vocab, "the vocabulary size", -1));
    PHX_TRY(check_dimension(shape->n_layers, "the number of layers", -1));
    for (int32_t l = 0; l < shape->n_layers; l++) {
        const struct phx_layer_shape *layer = &shape->layers[l];
        PHX_TRY(check_dimension(layer->n_heads, "the number of query heads", l));
        PHX_TRY(check_dimension(layer->n_kv_heads, "the number of KV heads", l));
        PHX_TRY(check_dimension(layer->head_dim, "the head size", l));
        if (layer->n_experts != 0) {
            PHX_TRY(check_dimension(layer->n_experts, "the number of experts", l));
            PHX_TRY(check_dimension(layer->moe_ffn, "the number of columns of an expert", l));
        } else {
            PHX_TRY(check_dimension(layer->ffn, "the number of feed-forward columns", l));
        }
        if (layer->n_heads % layer->n_kv_heads != 0)
            return phx_fail(PHX_BAD_DATA,
                            "%d query heads of layer %d cannot read %d KV heads in equal groups: "
                            "the first number must be a multiple of the second",
                            layer->n_heads, l, layer->n_kv_heads);
    }
    return PHX_OK;
}

static bool heads_vary(const struct phx_model_shape *shape)
{
    const struct phx_layer_shape *first = &shape->layers[0];
    for (int32_t l = 1; l < shape->n_layers; l++)
        if (shape->layers[l].n_heads != first->n_heads ||
            shape->layers[l].n_kv_heads != first->n_kv_heads)
            return true;
    return false;
}

/* What ranks share, of the layer that has least of it. */
struct scarce {
    const char *what;
    int64_t length, grain;
};

static int64_t shares_of(const struct scarce *s)
{
    return s->length == 0 ? INT64_MAX : (s->length + s->grain - 1) / s->grain;
}

/* 0 is none of it, not little. */
static void take_least(struct scarce *s, int64_t length)
{
    if (length != 0 && (s->length == 0 || length < s->length)) s->length = length;
}

static enum phx_status refuse_heads(const struct phx_model_shape *shape, int size, int32_t layer,
                                    const char *choices)
{
    const struct phx_layer_shape *heads = &shape->layers[layer];
    char which[32] = "";
    if (heads_vary(shape)) snprintf(which, sizeof which, " of layer %d", layer);
    return phx_fail(
        PHX_USAGE,
        "%d ranks cannot share %d KV head%s%s (%d query head%s in groups of %d): run with %s", size,
        heads->n_kv_heads, heads->n_kv_heads == 1 ? "" : "s", which, heads->n_heads,
        heads->n_heads == 1 ? "" : "s", heads->n_heads / heads->n_kv_heads, choices);
}

static enum phx_status refuse_scarce(const struct scarce *s, int size, const char *choices)
{
    char grains[32] = "";
    if (s->grain > 1) snprintf(grains, sizeof grains, " in grains of %d", (int)s->grain);
    return phx_fail(PHX_USAGE, "%d ranks cannot share %lld %s%s: run with %s", size,
                    (long long)s->length, s->what, grains, choices);
}

/* Every rank must own something of everything. */
static enum phx_status check_size(const struct phx_model_shape *shape, int size)
{
    int32_t fewest = 0; /* the layer with fewest KV heads */
    struct scarce all[] = {{"feed-forward columns", 0, GRAIN},
                           {"columns of each expert", 0, GRAIN},
                           {"columns of the shared expert", 0, GRAIN},
                           {"experts", 0, 1},
                           {"tokens of the vocabulary", shape->vocab, GRAIN}};
    const size_t n = sizeof all / sizeof *all;
    for (int32_t l = 0; l < shape->n_layers; l++) {
        const struct phx_layer_shape *layer = &shape->layers[l];
        if (layer->n_kv_heads < shape->layers[fewest].n_kv_heads) fewest = l;
        take_least(&all[0], layer->ffn);
        take_least(&all[1], shape->expert_parallel ? 0 : layer->moe_ffn);
        take_least(&all[2], layer->shared_ffn);
        take_least(&all[3], shape->expert_parallel ? layer->n_experts : 0);
    }
    int64_t most = shape->layers[fewest].n_kv_heads;
    for (size_t i = 0; i < n; i++)
        if (shares_of(&all[i]) < most) most = shares_of(&all[i]);
    if (size <= most) return PHX_OK;

    char choices[64];
    write_choices(choices, sizeof choices, most);
    if (size > shape->layers[fewest].n_kv_heads) return refuse_heads(shape, size, fewest, choices);
    size_t i = 0;
    while (size <= shares_of(&all[i])) i++;
    return refuse_scarce(&all[i], size, choices);
}

enum phx_status phx_shard_plan_create(const struct phx_model_shape *shape, int size, int rank,
                                      struct phx_shard_plan **out)
{
    PHX_ASSERT(size >= 1 && rank >= 0 && rank < size);
    PHX_TRY(check_shape(shape));
    PHX_TRY(check_size(shape, size));
    size_t layers_bytes = (size_t)shape->n_layers * sizeof shape->layers[0];
    struct phx_shard_plan *plan = malloc(sizeof *plan + layers_bytes);
    if (plan == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the plan of %d layers", shape->n_layers);
    plan->size = size;
    plan->rank = rank;
    plan->hidden = shape->hidden;
    plan->vocab = shape->vocab;
    plan->expert_parallel = shape->expert_parallel;
    plan->n_layers = shape->n_layers;
    memcpy(plan->layers, shape->layers, layers_bytes);
    *out = plan;
    return PHX_OK;
}

void phx_shard_plan_destroy(struct phx_shard_plan *plan)
{
    free(plan);
}

int phx_shard_plan_rank(const struct phx_shard_plan *plan)
{
    return plan->rank;
}

int phx_shard_plan_size(const struct phx_shard_plan *plan)
{
    return plan->size;
}

static const struct phx_layer_shape *layer_of(const struct phx_shard_plan *plan, int32_t layer)
{
    PHX_ASSERT(layer >= 0 && layer < plan->n_layers);
    return &plan->layers[layer];
}

int64_t phx_shard_plan_full(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim)
{
    switch (dim) {
    case PHX_DIM_ONE:
        return 1;
    case PHX_DIM_HIDDEN:
        return plan->hidden;
    case PHX_DIM_HEAD:
        return layer_of(plan, layer)->head_dim;
    case PHX_DIM_Q:
        return (int64_t)layer_of(plan, layer)->n_heads * layer_of(plan, layer)->head_dim;
    case PHX_DIM_KV:
        return (int64_t)layer_of(plan, layer)->n_kv_heads * layer_of(plan, layer)->head_dim;
    case PHX_DIM_FFN:
        return layer_of(plan, layer)->ffn;
    case PHX_DIM_VOCAB:
        return plan->vocab;
    case PHX_DIM_EXPERTS:
        return layer_of(plan, layer)->n_experts;
    case PHX_DIM_MOE_FFN:
        return layer_of(plan, layer)->moe_ffn;
    case PHX_DIM_SHARED_FFN:
        return layer_of(plan, layer)->shared_ffn;
    case PHX_DIM_COUNT:
        break;
    }
    PHX_ASSERT(!"a dimension");
    return 0;
}

static struct phx_interval scaled(struct phx_interval interval, int64_t factor)
{
    return (struct phx_interval){interval.begin * factor, interval.end * factor};
}

struct phx_interval phx_shard_plan_kv_heads(const struct phx_shard_plan *plan, int rank,
                                            int32_t layer)
{
    PHX_ASSERT(rank >= 0 && rank < plan->size);
    int64_t n_kv_heads = layer_of(plan, layer)->n_kv_heads;
    int64_t each = n_kv_heads / plan->size, n_longer = n_kv_heads % plan->size;
    int64_t begin = rank * each + (rank < n_longer ? rank : n_longer);
    return (struct phx_interval){begin, begin + each + (rank < n_longer)};
}

struct phx_interval phx_shard_plan_q_heads(const struct phx_shard_plan *plan, int rank,
                                           int32_t layer)
{
    const struct phx_layer_shape *shape = layer_of(plan, layer);
    return scaled(phx_shard_plan_kv_heads(plan, rank, layer), shape->n_heads / shape->n_kv_heads);
}

struct phx_interval phx_shard_plan_interval(const struct phx_shard_plan *plan, int rank,
                                            int32_t layer, enum phx_dim dim)
{
    PHX_ASSERT(rank >= 0 && rank < plan->size);
    int64_t full = phx_shard_plan_full(plan, layer, dim);
    switch (dim) {
    case PHX_DIM_Q:
        return scaled(phx_shard_plan_q_heads(plan, rank, layer), layer_of(plan, layer)->head_dim);
    case PHX_DIM_KV:
        return scaled(phx_shard_plan_kv_heads(plan, rank, layer), layer_of(plan, layer)->head_dim);
    case PHX_DIM_MOE_FFN:
        if (plan->expert_parallel) return (struct phx_interval){0, full};
        return phx_interval_share(full, GRAIN, plan->size, rank);
    case PHX_DIM_FFN:
    case PHX_DIM_SHARED_FFN:
    case PHX_DIM_VOCAB:
        return phx_interval_share(full, GRAIN, plan->size, rank);
    default:
        return (struct phx_interval){0, full};
    }
}

struct phx_interval phx_shard_plan_experts(const struct phx_shard_plan *plan, int rank,
                                           int32_t layer)
{
    PHX_ASSERT(rank >= 0 && rank < plan->size);
    int64_t n_experts = layer_of(plan, layer)->n_experts;
    if (!plan->expert_parallel) return (struct phx_interval){0, n_experts};
    return phx_interval_share(n_experts, 1, plan->size, rank);
}
