#include "runtime/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

static bool untied(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return !config->tied;
}

static bool has_qkv_bias(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->qkv_bias;
}

static bool has_o_bias(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->o_bias;
}

static bool has_mlp_bias(const struct phx_config *config, int32_t layer)
{
    return config->mlp_bias && config->layers[layer].shape.n_experts == 0;
}

static bool has_head_norm(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->qk_norm && !config->qk_norm_all;
}

static bool has_all_norm(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->qk_norm && config->qk_norm_all;
}

static bool has_pre_norm(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->pre_norm;
}

static bool has_post_norm(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->post_norm;
}

/* The norm before the MLP has another name where there is one after attention. */
static bool has_only_pre_norm(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->pre_norm && !config->post_norm;
}

static bool has_both_norms(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->pre_norm && config->post_norm;
}

static bool is_fused(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return config->fused;
}

static bool is_apart(const struct phx_config *config, int32_t layer)
{
    (void)layer;
    return !config->fused;
}

static bool has_experts(const struct phx_config *config, int32_t layer)
{
    return config->layers[layer].shape.n_experts > 0;
}

static bool has_mlp(const struct phx_config *config, int32_t layer)
{
    return !has_experts(config, layer);
}

static bool has_fused_mlp(const struct phx_config *config, int32_t layer)
{
    return has_mlp(config, layer) && config->fused;
}

static bool has_apart_mlp(const struct phx_config *config, int32_t layer)
{
    return has_mlp(config, layer) && !config->fused;
}

static bool has_shared_expert(const struct phx_config *config, int32_t layer)
{
    return config->layers[layer].shape.shared_ffn > 0;
}

/* Two ways to name the tensors. */
static bool has_mixtral_experts(const struct phx_config *config, int32_t layer)
{
    return has_experts(config, layer) && config->family == PHX_MIXTRAL;
}

static bool has_qwen_experts(const struct phx_config *config, int32_t layer)
{
    return has_experts(config, layer) && config->family != PHX_MIXTRAL;
}

/* clang-format off */
#define PLACE(slot, rows, cols) PHX_SLOT_##slot, PHX_DIM_##rows, PHX_DIM_##cols
#define ROW(name, slot, rows, cols, wanted) \
    {name, PLACE(slot, rows, cols), false, false, wanted, false}
#define LAYER(name, slot, rows, cols, wanted) \
    {"model.layers.%d." name, PLACE(slot, rows, cols), true, false, wanted, false}
/* The bias of a product whose input is cut is added by one rank. */
#define LAYER_ONCE(name, slot, rows, cols, wanted) \
    {"model.layers.%d." name, PLACE(slot, rows, cols), true, true, wanted, false}
#define EXPERT(name, slot, rows, cols, wanted) \
    {"model.layers.%d." name, PLACE(slot, rows, cols), true, false, wanted, true}

/* Llama and what descends from it. Parts of one slot stand together; those of one tensor have its
 * name, each. */
static const struct phx_weight_row decoder_rows[] = {
    ROW("model.embed_tokens.weight", EMBED, VOCAB, HIDDEN, NULL),

    LAYER("input_layernorm.weight", ATTN_NORM, ONE, HIDDEN, has_pre_norm),
    LAYER("self_attn.q_proj.weight", QKV, Q, HIDDEN, is_apart),
    LAYER("self_attn.k_proj.weight", QKV, KV, HIDDEN, is_apart),
    LAYER("self_attn.v_proj.weight", QKV, KV, HIDDEN, is_apart),
    LAYER("self_attn.qkv_proj.weight", QKV, Q, HIDDEN, is_fused),
    LAYER("self_attn.qkv_proj.weight", QKV, KV, HIDDEN, is_fused),
    LAYER("self_attn.qkv_proj.weight", QKV, KV, HIDDEN, is_fused),
    LAYER("self_attn.q_proj.bias", QKV_BIAS, ONE, Q, has_qkv_bias),
    LAYER("self_attn.k_proj.bias", QKV_BIAS, ONE, KV, has_qkv_bias),
    LAYER("self_attn.v_proj.bias", QKV_BIAS, ONE, KV, has_qkv_bias),
    LAYER("self_attn.q_norm.weight", Q_NORM, ONE, HEAD, has_head_norm),
    LAYER("self_attn.q_norm.weight", Q_NORM, ONE, Q, has_all_norm),
    LAYER("self_attn.k_norm.weight", K_NORM, ONE, HEAD, has_head_norm),
    LAYER("self_attn.k_norm.weight", K_NORM, ONE, KV, has_all_norm),
    LAYER("self_attn.o_proj.weight", O, HIDDEN, Q, NULL),
    LAYER_ONCE("self_attn.o_proj.bias", O_BIAS, ONE, HIDDEN, has_o_bias),

    LAYER("post_attention_layernorm.weight", ATTN_POST_NORM, ONE, HIDDEN, has_post_norm),
    LAYER("post_attention_layernorm.weight", FFN_NORM, ONE, HIDDEN, has_only_pre_norm),
    LAYER("pre_feedforward_layernorm.weight", FFN_NORM, ONE, HIDDEN, has_both_norms),
    LAYER("mlp.gate_proj.weight", GATE_UP, FFN, HIDDEN, has_apart_mlp),
    LAYER("mlp.up_proj.weight", GATE_UP, FFN, HIDDEN, has_apart_mlp),
    LAYER("mlp.gate_up_proj.weight", GATE_UP, FFN, HIDDEN, has_fused_mlp),
    LAYER("mlp.gate_up_proj.weight", GATE_UP, FFN, HIDDEN, has_fused_mlp),
    LAYER("mlp.gate_proj.bias", GATE_UP_BIAS, ONE, FFN, has_mlp_bias),
    LAYER("mlp.up_proj.bias", GATE_UP_BIAS, ONE, FFN, has_mlp_bias),
    LAYER("mlp.down_proj.weight", DOWN, HIDDEN, FFN, has_mlp),
    LAYER_ONCE("mlp.down_proj.bias", DOWN_BIAS, ONE, HIDDEN, has_mlp_bias),

    LAYER("block_sparse_moe.gate.weight", ROUTER, EXPERTS, HIDDEN, has_mixtral_experts),
    LAYER("mlp.gate.weight", ROUTER, EXPERTS, HIDDEN, has_qwen_experts),
    LAYER("mlp.shared_expert_gate.weight", ROUTER, ONE, HIDDEN, has_shared_expert),
    LAYER("mlp.shared_expert.gate_proj.weight", SHARED_GATE_UP, SHARED_FFN, HIDDEN,
          has_shared_expert),
    LAYER("mlp.shared_expert.up_proj.weight", SHARED_GATE_UP, SHARED_FFN, HIDDEN,
          has_shared_expert),
    LAYER("mlp.shared_expert.down_proj.weight", SHARED_DOWN, HIDDEN, SHARED_FFN,
          has_shared_expert),
    EXPERT("block_sparse_moe.experts.%d.w1.weight", EXPERTS_GATE_UP, MOE_FFN, HIDDEN,
           has_mixtral_experts),
    EXPERT("block_sparse_moe.experts.%d.w3.weight", EXPERTS_GATE_UP, MOE_FFN, HIDDEN,
           has_mixtral_experts),
    EXPERT("mlp.experts.%d.gate_proj.weight", EXPERTS_GATE_UP, MOE_FFN, HIDDEN, has_qwen_experts),
    EXPERT("mlp.experts.%d.up_proj.weight", EXPERTS_GATE_UP, MOE_FFN, HIDDEN, has_qwen_experts),
    EXPERT("block_sparse_moe.experts.%d.w2.weight", EXPERTS_DOWN, HIDDEN, MOE_FFN,
           has_mixtral_experts),
    EXPERT("mlp.experts.%d.down_proj.weight", EXPERTS_DOWN, HIDDEN, MOE_FFN, has_qwen_experts),

    LAYER("post_feedforward_layernorm.weight", FFN_POST_NORM, ONE, HIDDEN, has_post_norm),

    ROW("model.norm.weight", FINAL_NORM, ONE, HIDDEN, NULL),
    ROW("lm_head.weight", LM_HEAD, VOCAB, HIDDEN, untied),
};
/* clang-format on */

const struct phx_weight_row *phx_weight_rows(const struct phx_config *config, size_t *out_n)
{
    PHX_ASSERT((unsigned)config->family < PHX_FAMILY_COUNT); /* all of them share the rows */
    *out_n = sizeof decoder_rows / sizeof *decoder_rows;
    return decoder_rows;
}

enum phx_weight_kind phx_slot_kind(enum phx_slot slot)
{
    static const enum phx_weight_kind kinds[PHX_SLOT_MATRIX_COUNT] = {
        [PHX_SLOT_EMBED] = PHX_WEIGHT_EMBEDDING,  [PHX_SLOT_LM_HEAD] = PHX_WEIGHT_LM_HEAD,
        [PHX_SLOT_QKV] = PHX_WEIGHT_ATTENTION,    [PHX_SLOT_O] = PHX_WEIGHT_ATTENTION,
        [PHX_SLOT_GATE_UP] = PHX_WEIGHT_MLP,      [PHX_SLOT_DOWN] = PHX_WEIGHT_MLP,
        [PHX_SLOT_ROUTER] = PHX_WEIGHT_MLP,       [PHX_SLOT_SHARED_GATE_UP] = PHX_WEIGHT_MLP,
        [PHX_SLOT_SHARED_DOWN] = PHX_WEIGHT_MLP,  [PHX_SLOT_EXPERTS_GATE_UP] = PHX_WEIGHT_MLP,
        [PHX_SLOT_EXPERTS_DOWN] = PHX_WEIGHT_MLP,
    };
    PHX_ASSERT((unsigned)slot < PHX_SLOT_COUNT);
    return slot < PHX_SLOT_MATRIX_COUNT ? kinds[slot] : PHX_WEIGHT_VECTORS;
}

bool phx_weight_row_wanted(const struct phx_weight_row *row, const struct phx_config *config,
                           int32_t layer)
{
    return !row->wanted || row->wanted(config, layer);
}

struct phx_weight_span phx_weight_row_span(const struct phx_weight_row *row,
                                           const struct phx_config *config, int32_t layer)
{
    const struct phx_weight_row *end = decoder_rows + sizeof decoder_rows / sizeof *decoder_rows;
    const struct phx_weight_row *r = row;
    while (r > decoder_rows && r[-1].slot == row->slot) r--;
    struct phx_weight_span span = {0, 0};
    for (; r < end && r->slot == row->slot; r++) {
        if (strcmp(r->name, row->name) != 0 || !phx_weight_row_wanted(r, config, layer)) continue;
        int64_t rows = phx_config_dim(config, layer, r->row_dim);
        if (r < row) span.first_row += rows;
        span.all_rows += rows;
    }
    return span;
}

static bool is_norm(enum phx_slot slot)
{
    switch (slot) {
    case PHX_SLOT_ATTN_NORM:
    case PHX_SLOT_ATTN_POST_NORM:
    case PHX_SLOT_Q_NORM:
    case PHX_SLOT_K_NORM:
    case PHX_SLOT_FFN_NORM:
    case PHX_SLOT_FFN_POST_NORM:
    case PHX_SLOT_FINAL_NORM:
        return true;
    default:
        return false;
    }
}

float phx_weight_row_offset(const struct phx_weight_row *row, const struct phx_config *config)
{
    return is_norm(row->slot) ? config->norm_offset : 0;
}

void phx_weight_name(const char *pattern, int64_t layer, int64_t expert,
                     char name[PHX_WEIGHT_NAME_BYTES])
{
    const int64_t numbers[] = {layer, expert};
    const char *from = pattern, *mark;
    size_t used = 0;
    *name = '\0';
    for (int i = 0; used < PHX_WEIGHT_NAME_BYTES && (mark = strstr(from, "%d")); i++) {
        used += (size_t)snprintf(name + used, PHX_WEIGHT_NAME_BYTES - used, "%.*s%" PRId64,
                                 (int)(mark - from), from, numbers[i]);
        from = mark + 2;
    }
    if (used < PHX_WEIGHT_NAME_BYTES)
        snprintf(name + used, PHX_WEIGHT_NAME_BYTES - used, "%s", from);
}

bool phx_weight_name_is(const char *pattern, const char *name, int64_t numbers[2])
{
    const char *rest = pattern, *at = name, *mark;
    for (int i = 0; (mark = strstr(rest, "%d")) != NULL; i++, rest = mark + 2) {
        size_t prefix = (size_t)(mark - rest);
        if (strncmp(rest, at, prefix) != 0) return false;
        char *end;
        numbers[i] = strtol(at + prefix, &end, 10);
        if (numbers[i] < 0 || numbers[i] > INT32_MAX) return false;
        at = end;
    }
    char expected[PHX_WEIGHT_NAME_BYTES];
    phx_weight_name(pattern, numbers[0], numbers[1], expected);
    return strcmp(expected, name) == 0;
}

struct phx_dummy phx_weight_row_dummy(const struct phx_weight_row *row, int32_t layer,
                                      int32_t expert, int64_t full_cols)
{
    char name[PHX_WEIGHT_NAME_BYTES];
    phx_weight_name(row->name, layer, expert, name);
    struct phx_dummy dummy = {.key = phx_dummy_key(name)};
    if (is_norm(row->slot)) dummy.center = 1;
    if (row->row_dim == PHX_DIM_ONE && row->slot >= PHX_SLOT_MATRIX_COUNT)
        dummy.scale = 0.1f;
    else /* uniform in (-s, s) has the variance s^2 / 3 */
        dummy.scale = (float)sqrt(3.0 / (double)full_cols);
    return dummy;
}
