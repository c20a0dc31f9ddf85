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

enum phx_family { PHX_LLAMA, PHX_MISTRAL, PHX_QWEN2, PHX_QWEN3, PHX_FAMILY_COUNT };

enum phx_rope_kind { PHX_ROPE_DEFAULT, PHX_ROPE_LINEAR, PHX_ROPE_LLAMA3 };

struct phx_rope_config {
    enum phx_rope_kind kind;
    double theta;
    double factor;                  ///< linear, llama3
    double low_freq_factor;         ///< llama3
    double high_freq_factor;        ///< llama3
    int64_t original_max_positions; ///< llama3
    float *divisors; ///< [D/2] of each frequency, of a GGUF's rope_freqs; NULL: none; owned
};

struct phx_layer_config {
    struct phx_layer_shape shape; ///< H, K, D, ffn
    int32_t window;               ///< sliding window in tokens; 0: none
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
    float norm_epsilon;
    float attention_scale; ///< 1 / sqrt(D); a config that wants another is refused
    enum phx_activation activation;
    struct phx_rope_config rope;
    bool tied; ///< lm_head is the embedding
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm;         ///< RMS norm per head of q and k
    enum phx_dtype dtype; ///< what the config says the weights are; the loader trusts the file
    int32_t bos;          ///< -1: none
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

/// inv_freq[i] for i in 0..D/2-1, computed in double, rounded to f32 last (a few units in the last
/// place from transformers, which computes in f32), and the factor that cos and sin are multiplied
/// by. Source: Su et al. 2021; llama3: Meta's reference code.
void phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                         float *attention_factor);

/// The shape that phx_shard_plan_create takes; `layers` is the caller's array of n_layers.
struct phx_model_shape phx_config_shape(const struct phx_config *config,
                                        struct phx_layer_shape *layers);

/// How long a dimension is in a layer, on all ranks together.
int64_t phx_config_dim(const struct phx_config *config, int32_t layer, enum phx_dim dim);

/// Parameters of the whole model, tied weights counted once.
int64_t phx_config_parameters(const struct phx_config *config);

#endif
