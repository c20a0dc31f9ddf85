/// \file config.h
/// A model's hyper-parameters, from config.json, checked and per layer. Knows no rank.
///
/// Both key styles of the Hugging Face format load: the older (torch_dtype, rope_theta,
/// rope_scaling) and the newer (dtype, rope_parameters). Keys that may be absent then have the
/// value that transformers gives them. Ownership: phx_config_destroy frees it all.
#ifndef PHX_RUNTIME_CONFIG_H
#define PHX_RUNTIME_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"
#include "kernels/ops.h"
#include "parallel/shard_plan.h"

enum phx_family {
    PHX_LLAMA,
    PHX_MISTRAL,
    PHX_QWEN2,
    PHX_QWEN3,
    PHX_MIXTRAL,
    PHX_QWEN2_MOE,
    PHX_QWEN3_MOE,
    PHX_PHI3,
    PHX_GRANITE,
    PHX_SMOLLM3,
    PHX_GEMMA2,
    PHX_GEMMA3,
    PHX_OLMO2,
    PHX_FAMILY_COUNT
};

enum phx_rope_kind {
    PHX_ROPE_DEFAULT,
    PHX_ROPE_LINEAR,
    PHX_ROPE_DYNAMIC, ///< as default up to max_positions, and no text is longer
    PHX_ROPE_LLAMA3,
    PHX_ROPE_YARN,
    PHX_ROPE_LONGROPE
};

struct phx_rope_config {
    enum phx_rope_kind kind;
    double theta;
    int32_t rotated;                ///< R: dimensions of a head that are rotated, even
    double factor;                  ///< linear, llama3, yarn
    double attention_factor;        ///< yarn, longrope: of cos and sin; else 1
    double low_freq_factor;         ///< llama3
    double high_freq_factor;        ///< llama3
    double beta_fast, beta_slow;    ///< yarn
    bool truncate;                  ///< yarn
    int64_t original_max_positions; ///< llama3, yarn, longrope
    double *factors;                ///< longrope: [2][R/2], short ones, then long ones; else NULL
};

enum { PHX_CONFIG_ROPES = 2 };

struct phx_layer_config {
    struct phx_layer_shape shape; ///< H, K, D, columns, experts
    int32_t window;               ///< sliding window in tokens; 0: none
    int32_t rope;                 ///< which of the config's; -1: no rotation
};

enum { PHX_MAX_EOS = 16 };

struct phx_config {
    enum phx_family family;
    char model_type[64];
    int64_t hidden;
    int64_t vocab;
    int32_t n_layers;
    struct phx_layer_config *layers; ///< [n_layers]
    int64_t max_positions;
    int64_t context; ///< not of the file: what texts are to fit in; longrope chooses by it
    float norm_epsilon;
    float norm_offset;           ///< added to the norms' weights of the file
    double attention_multiplier; ///< what the file has in place of 1 / sqrt(D); 0: nothing
    float attention_scale;       ///< one or the other
    float attention_soft_cap;    ///< of scores; 0: none
    float embed_scale;           ///< of embeddings
    float residual_scale;        ///< of what attention and MLP add to the residual
    float logits_scale;
    float logits_soft_cap; ///< 0: none
    enum phx_activation activation;
    struct phx_rope_config ropes[PHX_CONFIG_ROPES];
    bool tied; ///< lm_head is the embedding
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;             ///< RMS norm of q and k: per head,
    bool qk_norm_all;         ///< or over all heads together
    bool pre_norm, post_norm; ///< norms of what attention and MLP read, and of what they give
    bool fused;               ///< the file has q, k and v in one tensor, gate and up in one
    int32_t n_chosen;         ///< experts that a row goes to, where a layer has some
    bool normalize_choice;    ///< their weights are made to add up to 1
    bool expert_parallel;     ///< not of the file: how experts are cut (phx_config_divide_experts)
    enum phx_dtype dtype;     ///< what the config says the weights are; the loader trusts the file
    int32_t bos;              ///< -1: none
    int32_t n_eos;
    int32_t eos[PHX_MAX_EOS]; ///< of generation_config.json if it names any, else of config.json
    /// Sampling defaults of generation_config.json; NaN / -1 where it says nothing. "do_sample":
    /// false makes the temperature 0.
    float temperature, top_p, min_p, repeat_penalty;
    int32_t top_k;
};

/// From the text of config.json and, if not NULL, of generation_config.json. `name` is what errors
/// call the file. Every value is range-checked; an unknown model_type lists the known ones.
/// PHX_BAD_DATA or PHX_UNSUPPORTED with a sentence naming the key, the value, and what would work.
enum phx_status phx_config_parse(const char *name, const char *json, size_t json_bytes,
                                 const char *generation_json, size_t generation_bytes,
                                 struct phx_config **out);
/// Reads DIR/config.json and DIR/generation_config.json (optional); or the metadata of a GGUF file.
enum phx_status phx_config_load(const char *path, struct phx_config **out);
void phx_config_destroy(struct phx_config *config);

/// From now on ranks own whole experts instead of a part of each (phx_model_shape). PHX_USAGE if
/// the model has none.
enum phx_status phx_config_divide_experts(struct phx_config *config);

/// R of the layer: dimensions of a head that are rotated; 0: none.
int32_t phx_config_rotated(const struct phx_config *config, int32_t layer);

/// inv_freq[i] for i in 0..R/2-1, computed in double, rounded to f32 last (a few units in the last
/// place from transformers, which computes in f32), and the factor that cos and sin are multiplied
/// by. Not of a layer without rotation. Source: Su et al. 2021; llama3: Meta's reference code;
/// yarn: Peng et al. 2023; longrope: Ding et al. 2024, whose long factors hold if the context is
/// longer than the original one.
void phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                         float *attention_factor);

/// The shape that phx_shard_plan_create takes; `layers` is the caller's array of n_layers.
struct phx_model_shape phx_config_shape(const struct phx_config *config,
                                        struct phx_layer_shape *layers);

/// Sums over ranks in a layer: after attention and MLP, and of squares for norms over all heads.
uint32_t phx_config_layer_sums(const struct phx_config *config);

/// How long a dimension is in a layer, on all ranks together.
int64_t phx_config_dim(const struct phx_config *config, int32_t layer, enum phx_dim dim);

/// Parameters of the whole model, tied weights counted once.
int64_t phx_config_parameters(const struct phx_config *config);

#endif
