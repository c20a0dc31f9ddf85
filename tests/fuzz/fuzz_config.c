/* config.json and, after a zero byte, generation_config.json. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rotation(const struct phx_config *config, int32_t layer)
{
    static float inv_freq[4096];
    float factor;
    const int32_t rotated = phx_config_rotated(config, layer);
    PHX_ASSERT(rotated >= 0 && rotated % 2 == 0);
    PHX_ASSERT(rotated <= config->layers[layer].shape.head_dim && rotated <= 4096);
    if (rotated == 0) return;
    phx_config_inv_freq(config, layer, inv_freq, &factor);
    PHX_ASSERT(isfinite(factor) && factor > 0);
    for (int32_t i = 0; i < rotated / 2; i++) PHX_ASSERT(isfinite(inv_freq[i]) && inv_freq[i] >= 0);
}

/* What the rest of the program takes for granted. */
static void check(const struct phx_config *config)
{
    PHX_ASSERT(config->hidden >= 1 && config->vocab >= 1 && config->n_layers >= 1);
    PHX_ASSERT(config->max_positions >= 1 && config->norm_epsilon > 0);
    PHX_ASSERT(config->n_eos >= 0 && config->n_eos <= PHX_MAX_EOS);
    for (int32_t i = 0; i < config->n_eos; i++)
        PHX_ASSERT(config->eos[i] >= 0 && config->eos[i] < config->vocab);
    int64_t parameters = phx_config_parameters(config);
    PHX_ASSERT(parameters > 0 && parameters < INT64_MAX / 4);
    for (int32_t l = 0; l < config->n_layers; l++) {
        const struct phx_layer_shape *shape = &config->layers[l].shape;
        PHX_ASSERT(shape->n_kv_heads >= 1 && shape->n_heads % shape->n_kv_heads == 0);
        PHX_ASSERT(shape->head_dim >= 2 && shape->head_dim % 2 == 0);
        PHX_ASSERT(shape->n_experts > 0 ? shape->ffn == 0 && shape->moe_ffn >= 1 : shape->ffn >= 1);
        PHX_ASSERT(shape->n_experts >= 0 && shape->shared_ffn >= 0);
        PHX_ASSERT(shape->n_experts == 0 || config->n_chosen <= shape->n_experts);
        PHX_ASSERT(config->layers[l].window >= 0);
    }
    PHX_ASSERT(isfinite(config->attention_scale) && config->attention_scale > 0);
    PHX_ASSERT(config->embed_scale > 0 && config->residual_scale > 0 && config->logits_scale > 0);
    PHX_ASSERT(config->attention_soft_cap >= 0 && config->logits_soft_cap >= 0);
    check_rotation(config, 0);
    check_rotation(config, config->n_layers - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *generation = NULL;
    const char *zero = size > 0 ? memchr(text, 0, size) : NULL;
    size_t bytes = zero ? (size_t)(zero - text) : size;
    if (zero) generation = zero + 1;
    struct phx_config *config = NULL;
    enum phx_status status =
        phx_config_parse("fuzz", text, bytes, generation, zero ? size - bytes - 1 : 0, &config);
    if (status != PHX_OK) {
        PHX_ASSERT(*phx_fail_sentence() != '\0' && config == NULL);
        return 0;
    }
    check(config);
    phx_config_destroy(config);
    return 0;
}
