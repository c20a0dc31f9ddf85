#include "runtime/families.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"

const struct phx_family_rules phx_family_rules[PHX_FAMILY_COUNT] = {
    [PHX_LLAMA] = {"llama", .attention_bias_key = true, .mlp_bias_key = true},
    [PHX_MISTRAL] = {"mistral", .window_rule = PHX_WINDOW_ALL, .default_window = 4096},
    [PHX_QWEN2] = {"qwen2", .qkv_bias = true, .window_rule = PHX_WINDOW_UPPER,
                   .window_switch = true, .default_window = 4096},
    [PHX_QWEN3] = {"qwen3", .default_head_dim = 128, .attention_bias_key = true, .qk_norm = true,
                   .window_rule = PHX_WINDOW_UPPER, .window_switch = true, .default_window = 4096},
    [PHX_MIXTRAL] = {"mixtral", .window_rule = PHX_WINDOW_ALL, .experts = PHX_EXPERTS_MIXTRAL},
    [PHX_QWEN2_MOE] = {"qwen2_moe", .qkv_bias_key = true, .window_rule = PHX_WINDOW_EVEN_LOWER,
                       .window_switch = true, .default_window = 4096, .experts = PHX_EXPERTS_QWEN2},
    [PHX_QWEN3_MOE] = {"qwen3_moe", .attention_bias_key = true, .qk_norm = true,
                       .window_rule = PHX_WINDOW_ALL, .window_switch = true, .default_window = 4096,
                       .experts = PHX_EXPERTS_QWEN3},
    [PHX_PHI3] = {"phi3", .keys = PHX_KEY_PART_ROTARY, .fused = true,
                  .window_rule = PHX_WINDOW_ALL},
    [PHX_GRANITE] = {"granite", .keys = PHX_KEY_MULTIPLIERS, .attention_bias_key = true,
                     .mlp_bias_key = true},
    [PHX_SMOLLM3] = {"smollm3", .keys = PHX_KEY_UNROTATED, .default_kv_heads = 4,
                     .default_theta = 2e6, .default_tied = true, .attention_bias_key = true,
                     .mlp_bias_key = true, .window_rule = PHX_WINDOW_UNROTATED,
                     .window_switch = true},
    [PHX_GEMMA2] = {"gemma2", .keys = PHX_KEY_SOFT_CAPS | PHX_KEY_QUERY_SCALAR,
                    .default_head_dim = 256, .default_kv_heads = 4, .default_window = 4096,
                    .default_pattern = 2, .default_caps = {50, 30}, .default_tied = true,
                    .attention_bias_key = true, .gelu = true, .scales_embeddings = true,
                    .post_norm = true, .norm_offset = 1, .window_rule = PHX_WINDOW_PATTERN},
    [PHX_GEMMA3] = {"gemma3_text",
                    .keys = PHX_KEY_SOFT_CAPS | PHX_KEY_QUERY_SCALAR | PHX_KEY_NEAR_THETA,
                    .default_head_dim = 256, .default_kv_heads = 4, .default_window = 4096,
                    .default_pattern = 6, .default_theta = 1e6, .default_theta_near = 1e4,
                    .default_tied = true, .attention_bias_key = true, .gelu = true,
                    .scales_embeddings = true, .qk_norm = true, .post_norm = true, .norm_offset = 1,
                    .window_rule = PHX_WINDOW_PATTERN},
    [PHX_OLMO2] = {"olmo2", .attention_bias_key = true, .qk_norm = true, .qk_norm_all = true,
                   .no_pre_norm = true, .post_norm = true},
};

/* Keys that change the result in a way that this program does not follow, except at the value that
 * changes nothing (null never does). */
static const struct unsupported_key {
    const char *key;
    const char *harmless; /* JSON text of that value; NULL: there is none */
    const char *meaning;
    unsigned known_to; /* families with this bit read it */
} unsupported_keys[] = {
    {"quantization_config", NULL, "quantised weights", 0},
    {"compression_config", NULL, "compressed weights", 0},
    {"attn_logit_softcapping", NULL, "soft-capped attention", PHX_KEY_SOFT_CAPS},
    {"final_logit_softcapping", NULL, "soft-capped logits", PHX_KEY_SOFT_CAPS},
    {"query_pre_attn_scalar", NULL, "its own attention scale", PHX_KEY_QUERY_SCALAR},
    {"attention_multiplier", NULL, "its own attention scale", PHX_KEY_MULTIPLIERS},
    {"attention_chunk_size", NULL, "chunked attention", 0},
    {"embedding_multiplier", "1", "scaled embeddings", PHX_KEY_MULTIPLIERS},
    {"residual_multiplier", "1", "scaled residuals", PHX_KEY_MULTIPLIERS},
    {"logits_scaling", "1", "scaled logits", PHX_KEY_MULTIPLIERS},
    {"logit_scale", "1", "scaled logits", 0},
    {"partial_rotary_factor", "1", "a rotation of part of each head", PHX_KEY_PART_ROTARY},
    {"rope_interleaved", "false", "interleaved rotary pairs", 0},
    {"no_rope_layers", NULL, "layers without rotary positions", PHX_KEY_UNROTATED},
    {"rope_local_base_freq", NULL, "a rotation of its own for windows", PHX_KEY_NEAR_THETA},
    {"use_mrope", "false", "multi-dimensional rotary positions", 0},
    {"alibi", "false", "attention biases by distance", 0},
    {"is_causal", "true", "attention to later tokens", 0},
    {"use_bidirectional_attention", "false", "attention to later tokens", 0},
    {"is_encoder_decoder", "false", "an encoder", 0},
};

static bool is_harmless(const json_t *value, const char *harmless)
{
    if (!harmless) return false;
    json_t *wanted = json_loads(harmless, JSON_DECODE_ANY, NULL);
    bool same = json_is_number(value) && json_is_number(wanted)
                    ? json_number_value(value) == json_number_value(wanted)
                    : json_equal(value, wanted);
    json_decref(wanted);
    return same;
}

enum phx_status phx_family_refuse_keys(const struct phx_json *json, enum phx_family family)
{
    for (size_t i = 0; i < sizeof unsupported_keys / sizeof *unsupported_keys; i++) {
        const struct unsupported_key *k = &unsupported_keys[i];
        const json_t *value = phx_json_get(json, k->key);
        if (k->known_to & phx_family_rules[family].keys) continue;
        if (!value || is_harmless(value, k->harmless)) continue;
        char text[PHX_JSON_TEXT_BYTES];
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: %s is %s: a model with %s is not supported; only %s would work",
                        json->file, k->key, phx_json_text(value, text), k->meaning,
                        k->harmless ? k->harmless : "null");
    }
    return PHX_OK;
}

enum phx_status phx_family_find(const struct phx_json *json, struct phx_config *config)
{
    const char *model_type = NULL;
    PHX_TRY(phx_json_require(json, "model_type"));
    PHX_TRY(phx_json_string(json, "model_type", &model_type));
    for (int i = 0; i < PHX_FAMILY_COUNT; i++) {
        if (strcmp(model_type, phx_family_rules[i].model_type) != 0) continue;
        config->family = (enum phx_family)i;
        snprintf(config->model_type, sizeof config->model_type, "%s", model_type);
        return PHX_OK;
    }
    char known[256] = "";
    for (int i = 0; i < PHX_FAMILY_COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                 phx_family_rules[i].model_type);
    }
    return phx_fail(PHX_UNSUPPORTED, "%s: model_type %.100s is not supported; known types: %s",
                    json->file, model_type, known);
}

/* Positive, or absent: then *out stays. */
static enum phx_status parse_positive(const struct phx_json *json, const char *key, float *out)
{
    double value = (double)*out;
    PHX_TRY(phx_json_real(json, key, 1e-6, 1e6, &value));
    *out = (float)value;
    return PHX_OK;
}

/* A cap that is null is none. */
static enum phx_status parse_cap(const struct phx_json *json, const char *key, double fallback,
                                 float *out)
{
    *out = json_object_get(json->object, key) ? 0 : (float)fallback;
    return parse_positive(json, key, out);
}

static enum phx_status parse_multipliers(const struct phx_json *json, struct phx_config *config)
{
    double attention = 1, logits = 1;
    PHX_TRY(parse_positive(json, "embedding_multiplier", &config->embed_scale));
    PHX_TRY(parse_positive(json, "residual_multiplier", &config->residual_scale));
    PHX_TRY(phx_json_real(json, "attention_multiplier", 1e-6, 1e6, &attention));
    PHX_TRY(phx_json_real(json, "logits_scaling", 1e-6, 1e6, &logits));
    config->attention_multiplier = attention;
    config->logits_scale = (float)(1 / logits);
    return PHX_OK;
}

enum phx_status phx_family_parse_scales(const struct phx_json *json, struct phx_config *config)
{
    const struct phx_family_rules *rules = &phx_family_rules[config->family];
    config->qk_norm = rules->qk_norm;
    config->qk_norm_all = rules->qk_norm_all;
    config->pre_norm = !rules->no_pre_norm;
    config->post_norm = rules->post_norm;
    config->norm_offset = rules->norm_offset;
    config->fused = rules->fused;
    config->embed_scale = config->residual_scale = config->logits_scale = 1;
    if (rules->scales_embeddings) config->embed_scale = sqrtf((float)config->hidden);
    if (rules->keys & PHX_KEY_MULTIPLIERS) PHX_TRY(parse_multipliers(json, config));
    if (rules->keys & PHX_KEY_QUERY_SCALAR) {
        double scalar = 256;
        PHX_TRY(phx_json_real(json, "query_pre_attn_scalar", 1e-6, 1e6, &scalar));
        config->attention_multiplier = 1 / sqrt(scalar);
    }
    if (rules->keys & PHX_KEY_SOFT_CAPS) {
        PHX_TRY(parse_cap(json, "attn_logit_softcapping", rules->default_caps[0],
                          &config->attention_soft_cap));
        PHX_TRY(parse_cap(json, "final_logit_softcapping", rules->default_caps[1],
                          &config->logits_soft_cap));
    }
    double natural = 1 / sqrt((double)config->layers[0].shape.head_dim);
    config->attention_scale =
        (float)(config->attention_multiplier != 0 ? config->attention_multiplier : natural);
    return PHX_OK;
}
