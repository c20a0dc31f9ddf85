#include "runtime/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"

static bool untied(const struct phx_config *config)
{
    return !config->tied;
}

static bool has_qkv_bias(const struct phx_config *config)
{
    return config->qkv_bias;
}

static bool has_o_bias(const struct phx_config *config)
{
    return config->o_bias;
}

static bool has_mlp_bias(const struct phx_config *config)
{
    return config->mlp_bias;
}

static bool has_qk_norm(const struct phx_config *config)
{
    return config->qk_norm;
}

/* clang-format off */
#define ROW(name, slot, rows, cols, wanted) \
    {name, PHX_SLOT_##slot, PHX_DIM_##rows, PHX_DIM_##cols, false, false, wanted}
#define LAYER(name, slot, rows, cols, wanted) \
    {"model.layers.%d." name, PHX_SLOT_##slot, PHX_DIM_##rows, PHX_DIM_##cols, true, false, wanted}
/* The bias of a product whose input is cut is added by one rank. */
#define LAYER_ONCE(name, slot, rows, cols, wanted) \
    {"model.layers.%d." name, PHX_SLOT_##slot, PHX_DIM_##rows, PHX_DIM_##cols, true, true, wanted}

/* Llama and what descends from it. Parts of one slot stand together. */
static const struct phx_weight_row decoder_rows[] = {
    ROW("model.embed_tokens.weight", EMBED, VOCAB, HIDDEN, NULL),

    LAYER("input_layernorm.weight", ATTN_NORM, ONE, HIDDEN, NULL),
    LAYER("self_attn.q_proj.weight", QKV, Q, HIDDEN, NULL),
    LAYER("self_attn.k_proj.weight", QKV, KV, HIDDEN, NULL),
    LAYER("self_attn.v_proj.weight", QKV, KV, HIDDEN, NULL),
    LAYER("self_attn.q_proj.bias", QKV_BIAS, ONE, Q, has_qkv_bias),
    LAYER("self_attn.k_proj.bias", QKV_BIAS, ONE, KV, has_qkv_bias),
    LAYER("self_attn.v_proj.bias", QKV_BIAS, ONE, KV, has_qkv_bias),
    LAYER("self_attn.q_norm.weight", Q_NORM, ONE, HEAD, has_qk_norm),
    LAYER("self_attn.k_norm.weight", K_NORM, ONE, HEAD, has_qk_norm),
    LAYER("self_attn.o_proj.weight", O, HIDDEN, Q, NULL),
    LAYER_ONCE("self_attn.o_proj.bias", O_BIAS, ONE, HIDDEN, has_o_bias),

    LAYER("post_attention_layernorm.weight", FFN_NORM, ONE, HIDDEN, NULL),
    LAYER("mlp.gate_proj.weight", GATE_UP, FFN, HIDDEN, NULL),
    LAYER("mlp.up_proj.weight", GATE_UP, FFN, HIDDEN, NULL),
    LAYER("mlp.gate_proj.bias", GATE_UP_BIAS, ONE, FFN, has_mlp_bias),
    LAYER("mlp.up_proj.bias", GATE_UP_BIAS, ONE, FFN, has_mlp_bias),
    LAYER("mlp.down_proj.weight", DOWN, HIDDEN, FFN, NULL),
    LAYER_ONCE("mlp.down_proj.bias", DOWN_BIAS, ONE, HIDDEN, has_mlp_bias),

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
        [PHX_SLOT_EMBED] = PHX_WEIGHT_EMBEDDING, [PHX_SLOT_LM_HEAD] = PHX_WEIGHT_LM_HEAD,
        [PHX_SLOT_QKV] = PHX_WEIGHT_ATTENTION,   [PHX_SLOT_O] = PHX_WEIGHT_ATTENTION,
        [PHX_SLOT_GATE_UP] = PHX_WEIGHT_MLP,     [PHX_SLOT_DOWN] = PHX_WEIGHT_MLP,
    };
    PHX_ASSERT((unsigned)slot < PHX_SLOT_COUNT);
    return slot < PHX_SLOT_MATRIX_COUNT ? kinds[slot] : PHX_WEIGHT_VECTORS;
}

bool phx_weight_row_wanted(const struct phx_weight_row *row, const struct phx_config *config)
{
    return !row->wanted || row->wanted(config);
}

void phx_weight_row_name(const struct phx_weight_row *row, int32_t layer,
                         char name[PHX_WEIGHT_NAME_BYTES])
{
    const char *mark = strstr(row->name, "%d");
    if (mark) {
        snprintf(name, PHX_WEIGHT_NAME_BYTES, "%.*s%d%s", (int)(mark - row->name), row->name, layer,
                 mark + 2);
    } else {
        snprintf(name, PHX_WEIGHT_NAME_BYTES, "%s", row->name);
    }
}

struct phx_dummy phx_weight_row_dummy(const struct phx_weight_row *row, int32_t layer,
                                      int64_t full_cols)
{
    char name[PHX_WEIGHT_NAME_BYTES];
    phx_weight_row_name(row, layer, name);
    struct phx_dummy dummy = {.key = phx_dummy_key(name)};
    switch (row->slot) {
    case PHX_SLOT_ATTN_NORM:
    case PHX_SLOT_Q_NORM:
    case PHX_SLOT_K_NORM:
    case PHX_SLOT_FFN_NORM:
    case PHX_SLOT_FINAL_NORM:
        dummy.center = 1;
        dummy.scale = 0.1f;
        break;
    case PHX_SLOT_QKV_BIAS:
    case PHX_SLOT_O_BIAS:
    case PHX_SLOT_GATE_UP_BIAS:
    case PHX_SLOT_DOWN_BIAS:
        dummy.scale = 0.1f;
        break;
    default: /* uniform in (-s, s) has the variance s^2 / 3 */
        dummy.scale = (float)sqrt(3.0 / (double)full_cols);
    }
    return dummy;
}
