/// \file families.h
/// What differs between the families of models, in one table: its rows are all that the program
/// knows of a model_type. Only the files that parse config.json include this.
#ifndef PHX_RUNTIME_FAMILIES_H
#define PHX_RUNTIME_FAMILIES_H

#include "runtime/config.h"
#include "runtime/experts_config.h"
#include "runtime/json.h"

/// Which layers have the sliding window when the config has no layer_types.
enum phx_window_rule {
    PHX_WINDOW_NEVER,
    PHX_WINDOW_ALL,
    PHX_WINDOW_UPPER,      ///< if in use: from max_window_layers on
    PHX_WINDOW_EVEN_LOWER, ///< if in use: every other one, from the first, before max_window_layers
    PHX_WINDOW_PATTERN,    ///< all but each sliding_window_pattern-th
    PHX_WINDOW_UNROTATED   ///< if in use: the layers without rotary positions
};

/// Keys that change the result and that not every family's models read, as bits.
enum phx_family_key {
    PHX_KEY_SOFT_CAPS = 1,    ///< attn_logit_softcapping, final_logit_softcapping
    PHX_KEY_QUERY_SCALAR = 2, ///< query_pre_attn_scalar: scores are divided by its root
    PHX_KEY_MULTIPLIERS = 4,  ///< of Granite: embeddings, attention, residuals, logits
    PHX_KEY_PART_ROTARY = 8,  ///< partial_rotary_factor
    PHX_KEY_UNROTATED = 16,   ///< no_rope_layers
    PHX_KEY_NEAR_THETA = 32   ///< rope_local_base_freq: theta of the layers with a window
};

/// As in the configuration and attention classes of transformers: its rules hold where a key is
/// absent.
struct phx_family_rules {
    const char *model_type;
    unsigned keys;             ///< of enum phx_family_key
    int64_t default_head_dim;  ///< 0: hidden / heads
    int64_t default_kv_heads;  ///< 0: as many as query heads
    int64_t default_window;    ///< 0: none
    int64_t default_pattern;   ///< of PHX_WINDOW_PATTERN
    double default_theta;      ///< 0: 10000
    double default_theta_near; ///< of layers with a window, with PHX_KEY_NEAR_THETA
    double default_caps[2];    ///< of scores, of logits; 0: none
    bool default_tied;
    bool attention_bias_key; ///< attention_bias gives q, k, v and o a bias
    bool mlp_bias_key;
    bool qkv_bias;          ///< always
    bool qkv_bias_key;      ///< qkv_bias gives q, k and v a bias, true if absent
    bool window_switch;     ///< use_sliding_window says whether there is one
    bool gelu;              ///< hidden_activation names it, gelu_pytorch_tanh if absent
    bool scales_embeddings; ///< by the root of the hidden size
    bool qk_norm, qk_norm_all, no_pre_norm, post_norm, fused; ///< as in struct phx_config
    float norm_offset;
    enum phx_window_rule window_rule;
    enum phx_experts_rule experts;
};

extern const struct phx_family_rules phx_family_rules[PHX_FAMILY_COUNT];

/// The family that model_type names, or a sentence with those there are.
enum phx_status phx_family_find(const struct phx_json *json, struct phx_config *config);

/// Refuses keys that change the result in a way that the family's models, or this program, do not
/// know, except at the value that changes nothing.
enum phx_status phx_family_refuse_keys(const struct phx_json *json, enum phx_family family);

/// What the table says of the decoder's shape, and the keys about scales and caps. After sizes.
enum phx_status phx_family_parse_scales(const struct phx_json *json, struct phx_config *config);

#endif
