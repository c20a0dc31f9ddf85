#include "runtime/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/base/check.h"
#include "runtime/experts_config.h"
#include "runtime/families.h"
#include "runtime/gguf_model.h"
#include "runtime/json.h"
#include "runtime/layers_config.h"
#include "runtime/rope_config.h"
#include "runtime/weights.h"

/* Limits far above any published model, chosen so that the bytes of all weights fit in 63 bits:
 * MAX_LAYERS * (4 * MAX_HEADS * MAX_HEAD_DIM + 6 * MAX_FFN) * MAX_HIDDEN * 4 < 2^63, where all
 * experts of a layer together have no more columns than MAX_FFN. */
enum {
    MAX_LAYERS = 1 << 12,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_HIDDEN = 1 << 20,
    MAX_FFN = 1 << 24,
    MAX_VOCAB = 1 << 24
};

static enum phx_status parse_dtype(const struct phx_json *json, enum phx_dtype *out)
{
    static const struct {
        const char *name;
        enum phx_dtype dtype;
    } known[] = {{"float32", PHX_F32}, {"float16", PHX_F16}, {"bfloat16", PHX_BF16}};
    const char *older = NULL, *newer = NULL;
    PHX_TRY(phx_json_string(json, "torch_dtype", &older));
    PHX_TRY(phx_json_string(json, "dtype", &newer));
    if (older && newer && strcmp(older, newer) != 0) {
        return phx_fail(PHX_BAD_DATA, "%s: dtype is %.40s but torch_dtype is %.40s; give one",
                        json->file, newer, older);
    }
    const char *name = newer ? newer : older ? older : "float32";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].dtype;
            return PHX_OK;
        }
    }
    return phx_fail(PHX_UNSUPPORTED, "%s: %s is %.40s; float32, float16 and bfloat16 are supported",
                    json->file, newer ? "dtype" : "torch_dtype", name);
}

static enum phx_status parse_activation(const struct phx_json *json, bool gelu,
                                        enum phx_activation *out)
{
    static const struct {
        const char *name;
        enum phx_activation activation;
    } known[] = {{"silu", PHX_SILU}, {"swish", PHX_SILU}, {"gelu_pytorch_tanh", PHX_GELU_TANH}};
    const char *key = gelu ? "hidden_activation" : "hidden_act";
    const char *name = gelu ? "gelu_pytorch_tanh" : "silu";
    PHX_TRY(phx_json_string(json, key, &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].activation;
            return PHX_OK;
        }
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: %s %.40s is not supported; silu, swish and gelu_pytorch_tanh are",
                    json->file, key, name);
}

/* H, K and D. */
static enum phx_status parse_heads(const struct phx_json *json, const struct phx_config *config,
                                   struct phx_layer_shape *out)
{
    const struct phx_family_rules *rules = &phx_family_rules[config->family];
    int64_t heads = 0, head_dim = rules->default_head_dim;
    PHX_TRY(phx_json_int(json, "num_attention_heads", 1, MAX_HEADS, &heads));
    bool absent = !json_object_get(json->object, "num_key_value_heads");
    int64_t kv_heads = absent && rules->default_kv_heads ? rules->default_kv_heads : heads;
    PHX_TRY(phx_json_int(json, "num_key_value_heads", 1, MAX_HEADS, &kv_heads));
    if (heads % kv_heads != 0) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: num_attention_heads %" PRId64
                        " is not a multiple of num_key_value_heads %" PRId64,
                        json->file, heads, kv_heads);
    }
    PHX_TRY(phx_json_int(json, "head_dim", 2, MAX_HEAD_DIM, &head_dim));
    if (head_dim == 0) {
        if (config->hidden % heads != 0) {
            return phx_fail(PHX_BAD_DATA,
                            "%s: hidden_size %" PRId64
                            " is not a multiple of num_attention_heads %" PRId64
                            ", and there is no head_dim",
                            json->file, config->hidden, heads);
        }
        head_dim = config->hidden / heads;
    }
    if (head_dim > MAX_HEAD_DIM || head_dim % 2 != 0) {
        return phx_fail(PHX_BAD_DATA, "%s: head_dim is %" PRId64 "; it must be even, from 2 to %d",
                        json->file, head_dim, MAX_HEAD_DIM);
    }
    out->n_heads = (int32_t)heads;
    out->n_kv_heads = (int32_t)kv_heads;
    out->head_dim = (int32_t)head_dim;
    return PHX_OK;
}

/* Sizes; every layer has the same shape, but for experts. */
static enum phx_status parse_shape(const struct phx_json *json, struct phx_config *config)
{
    static const char *const required[] = {
        "hidden_size", "intermediate_size", "num_hidden_layers",       "num_attention_heads",
        "vocab_size",  "rms_norm_eps",      "max_position_embeddings",
    };
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        PHX_TRY(phx_json_require(json, required[i]));
    struct phx_layer_shape shape = {0};
    int64_t n_layers = 0;
    double epsilon = 0;
    PHX_TRY(phx_json_int(json, "hidden_size", 1, MAX_HIDDEN, &config->hidden));
    PHX_TRY(phx_json_int(json, "intermediate_size", 1, MAX_FFN, &shape.ffn));
    PHX_TRY(phx_json_int(json, "num_hidden_layers", 1, MAX_LAYERS, &n_layers));
    PHX_TRY(phx_json_int(json, "vocab_size", 1, MAX_VOCAB, &config->vocab));
    PHX_TRY(phx_json_int(json, "max_position_embeddings", 1, INT32_MAX, &config->max_positions));
    PHX_TRY(phx_json_real(json, "rms_norm_eps", 1e-12, 0.1, &epsilon));
    PHX_TRY(parse_heads(json, config, &shape));

    config->context = config->max_positions;
    config->norm_epsilon = (float)epsilon;
    config->n_layers = (int32_t)n_layers;
    config->layers = calloc((size_t)n_layers, sizeof *config->layers);
    if (!config->layers) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", json->file);
    for (int32_t i = 0; i < config->n_layers; i++) config->layers[i].shape = shape;
    return PHX_OK;
}

/* A true bias key that the family's models do not read must not be passed over. */
static enum phx_status parse_bias_key(const struct phx_json *json, const char *key, bool has_key,
                                      bool *out)
{
    PHX_TRY(phx_json_bool(json, key, out));
    if (*out && !has_key) {
        return phx_fail(PHX_UNSUPPORTED, "%s: %s is true, which this model_type does not have",
                        json->file, key);
    }
    return PHX_OK;
}

static enum phx_status parse_switches(const struct phx_json *json, struct phx_config *config)
{
    const struct phx_family_rules *family = &phx_family_rules[config->family];
    bool attention_bias = false, qkv_bias = family->qkv_bias || family->qkv_bias_key;
    config->tied = family->default_tied;
    PHX_TRY(phx_json_bool(json, "tie_word_embeddings", &config->tied));
    PHX_TRY(parse_bias_key(json, "attention_bias", family->attention_bias_key || family->qkv_bias,
                           &attention_bias));
    PHX_TRY(parse_bias_key(json, "mlp_bias", family->mlp_bias_key, &config->mlp_bias));
    if (family->qkv_bias_key) PHX_TRY(phx_json_bool(json, "qkv_bias", &qkv_bias));
    config->qkv_bias = qkv_bias || attention_bias;
    config->o_bias = family->attention_bias_key && attention_bias;
    return PHX_OK;
}

/* eos_token_id is a number or a list of numbers; if it names none, the ids stay as they are. */
static enum phx_status parse_eos(const struct phx_json *json, struct phx_config *config)
{
    const json_t *value = phx_json_get(json, "eos_token_id");
    if (!value) return PHX_OK;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    if (n > PHX_MAX_EOS) {
        return phx_fail(PHX_UNSUPPORTED, "%s: eos_token_id has %zu entries; at most %d would work",
                        json->file, n, PHX_MAX_EOS);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_is_array(value) ? json_array_get(value, i) : value;
        json_int_t id = json_integer_value(entry);
        if (!json_is_integer(entry) || id < 0 || id >= config->vocab) {
            char text[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_BAD_DATA,
                            "%s: eos_token_id is %s; it must be a token id from 0 to %" PRId64
                            ", or a list of them",
                            json->file, phx_json_text(value, text), config->vocab - 1);
        }
        config->eos[i] = (int32_t)id;
    }
    if (n > 0) config->n_eos = (int32_t)n;
    return PHX_OK;
}

static enum phx_status parse_config(const struct phx_json *json, struct phx_config *config)
{
    PHX_TRY(phx_family_find(json, config));
    PHX_TRY(phx_family_refuse_keys(json, config->family));
    PHX_TRY(parse_shape(json, config));
    PHX_TRY(phx_experts_config_parse(json, phx_family_rules[config->family].experts, config));
    PHX_TRY(parse_switches(json, config));
    PHX_TRY(phx_family_parse_scales(json, config));
    PHX_TRY(phx_layers_config_parse(json, config));
    PHX_TRY(parse_activation(json, phx_family_rules[config->family].gelu, &config->activation));
    PHX_TRY(parse_dtype(json, &config->dtype));
    PHX_TRY(phx_rope_config_parse(json, config));
    int64_t bos = -1;
    PHX_TRY(phx_json_int(json, "bos_token_id", 0, config->vocab - 1, &bos));
    config->bos = (int32_t)bos;
    return parse_eos(json, config);
}

static enum phx_status parse_generation(const struct phx_json *json, struct phx_config *config)
{
    double temperature = NAN, top_p = NAN, min_p = NAN, repeat_penalty = NAN;
    int64_t top_k = -1;
    bool do_sample = true;
    PHX_TRY(parse_eos(json, config));
    PHX_TRY(phx_json_real(json, "temperature", 0, 1000, &temperature));
    PHX_TRY(phx_json_real(json, "top_p", 1e-6, 1, &top_p));
    PHX_TRY(phx_json_real(json, "min_p", 0, 1, &min_p));
    PHX_TRY(phx_json_real(json, "repetition_penalty", 1e-3, 1000, &repeat_penalty));
    PHX_TRY(phx_json_int(json, "top_k", 0, INT32_MAX, &top_k));
    PHX_TRY(phx_json_bool(json, "do_sample", &do_sample));
    config->temperature = do_sample ? (float)temperature : 0;
    config->top_p = (float)top_p;
    config->min_p = (float)min_p;
    config->repeat_penalty = (float)repeat_penalty;
    config->top_k = (int32_t)top_k;
    return PHX_OK;
}

/* `generation` may be NULL. */
static enum phx_status config_create(const char *file, const json_t *root,
                                     const char *generation_file, const json_t *generation,
                                     struct phx_config **out)
{
    struct phx_config *config = calloc(1, sizeof *config);
    if (!config) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", file);
    config->temperature = config->top_p = config->min_p = config->repeat_penalty = NAN;
    config->top_k = -1;
    struct phx_json json = {file, "", root};
    enum phx_status status = parse_config(&json, config);
    if (status == PHX_OK && generation) {
        json = (struct phx_json){generation_file, "", generation};
        status = parse_generation(&json, config);
    }
    if (status != PHX_OK) {
        phx_config_destroy(config);
        return status;
    }
    *out = config;
    return PHX_OK;
}

static const char generation_name[] = "generation_config.json";

enum phx_status phx_config_parse(const char *name, const char *json, size_t json_bytes,
                                 const char *generation_json, size_t generation_bytes,
                                 struct phx_config **out)
{
    json_t *root = NULL, *generation = NULL;
    enum phx_status status;
    PHX_TRY_GOTO(phx_json_parse(name, json, json_bytes, &root), done);
    if (generation_json) {
        PHX_TRY_GOTO(
            phx_json_parse(generation_name, generation_json, generation_bytes, &generation), done);
    }
    status = config_create(name, root, generation_name, generation, out);
done:
    json_decref(root);
    json_decref(generation);
    return status;
}

static enum phx_status load_gguf(const char *path, struct phx_config **out)
{
    struct phx_gguf *gguf = NULL;
    PHX_TRY(phx_gguf_open(path, &gguf));
    enum phx_status status = phx_gguf_config(gguf, out);
    phx_gguf_destroy(gguf);
    return status;
}

static enum phx_status load_folder(const char *directory, struct phx_config **out)
{
    char *file = NULL, *generation_file = NULL;
    json_t *root = NULL, *generation = NULL;
    enum phx_status status;
    if (asprintf(&file, "%s/config.json", directory) < 0) file = NULL;
    if (asprintf(&generation_file, "%s/%s", directory, generation_name) < 0) generation_file = NULL;
    if (!file || !generation_file) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", directory);
        goto done;
    }
    PHX_TRY_GOTO(phx_json_load(file, &root), done);
    status = phx_json_load(generation_file, &generation);
    if (status == PHX_NOT_FOUND)
        phx_fail_clear(); /* it is optional */
    else if (status != PHX_OK)
        goto done;
    status = config_create(file, root, generation_file, generation, out);
done:
    json_decref(root);
    json_decref(generation);
    free(file);
    free(generation_file);
    return status;
}

enum phx_status phx_config_load(const char *path, struct phx_config **out)
{
    struct stat info;
    if (phx_gguf_is(path)) return load_gguf(path, out);
    if (stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
        return phx_fail(PHX_NOT_FOUND,
                        "%s is a file, but no GGUF: give a GGUF file or a folder with config.json, "
                        "tokenizer.json and model.safetensors",
                        path);
    }
    return load_folder(path, out);
}

void phx_config_destroy(struct phx_config *config)
{
    if (!config) return;
    for (int i = 0; i < PHX_CONFIG_ROPES; i++) free(config->ropes[i].factors);
    free(config->layers);
    free(config);
}

struct phx_model_shape phx_config_shape(const struct phx_config *config,
                                        struct phx_layer_shape *layers)
{
    for (int32_t i = 0; i < config->n_layers; i++) layers[i] = config->layers[i].shape;
    return (struct phx_model_shape){
        .hidden = config->hidden,
        .vocab = config->vocab,
        .n_layers = config->n_layers,
        .layers = layers,
        .expert_parallel = config->expert_parallel,
    };
}

uint32_t phx_config_layer_sums(const struct phx_config *config)
{
    return config->qk_norm_all ? 3 : 2;
}

int64_t phx_config_dim(const struct phx_config *config, int32_t layer, enum phx_dim dim)
{
    const struct phx_layer_shape *shape = &config->layers[layer].shape;
    switch (dim) {
    case PHX_DIM_HIDDEN:
        return config->hidden;
    case PHX_DIM_HEAD:
        return shape->head_dim;
    case PHX_DIM_Q:
        return (int64_t)shape->n_heads * shape->head_dim;
    case PHX_DIM_KV:
        return (int64_t)shape->n_kv_heads * shape->head_dim;
    case PHX_DIM_FFN:
        return shape->ffn;
    case PHX_DIM_VOCAB:
        return config->vocab;
    case PHX_DIM_EXPERTS:
        return shape->n_experts;
    case PHX_DIM_MOE_FFN:
        return shape->moe_ffn;
    case PHX_DIM_SHARED_FFN:
        return shape->shared_ffn;
    default:
        PHX_ASSERT(dim == PHX_DIM_ONE);
        return 1;
    }
}

int64_t phx_config_parameters(const struct phx_config *config)
{
    size_t n_rows;
    const struct phx_weight_row *rows = phx_weight_rows(config, &n_rows);
    int64_t parameters = 0;
    for (size_t i = 0; i < n_rows; i++) {
        for (int32_t layer = 0; layer < (rows[i].per_layer ? config->n_layers : 1); layer++) {
            if (!phx_weight_row_wanted(&rows[i], config, layer)) continue;
            int64_t n = rows[i].per_expert ? config->layers[layer].shape.n_experts : 1;
            parameters += n * phx_config_dim(config, layer, rows[i].row_dim) *
                          phx_config_dim(config, layer, rows[i].col_dim);
        }
    }
    return parameters;
}
