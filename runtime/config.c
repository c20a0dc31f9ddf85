#include "runtime/config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"
#include "runtime/json.h"
#include "runtime/rope_config.h"
#include "runtime/weights.h"

/* Limits far above any published model, chosen so that the bytes of all weights fit in 63 bits:
 * MAX_LAYERS * (4 * MAX_HEADS * MAX_HEAD_DIM + 3 * MAX_FFN) * MAX_HIDDEN * 4 < 2^63. */
enum {
    MAX_LAYERS = 1 << 12,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_HIDDEN = 1 << 20,
    MAX_FFN = 1 << 24,
    MAX_VOCAB = 1 << 24
};

/* Which layers have the sliding window when the config has no layer_types. */
enum window_rule { WINDOW_NEVER, WINDOW_ALL, WINDOW_UPPER };

/* What differs between the families, as in the configuration and attention classes of
 * transformers: its rules hold where a key is absent. */
static const struct family {
    const char *model_type;
    int64_t default_head_dim; /* 0: hidden / heads */
    bool attention_bias_key;  /* attention_bias gives q, k, v and o a bias */
    bool mlp_bias_key;
    bool qkv_bias; /* always */
    bool qk_norm;
    enum window_rule window_rule;
} families[PHX_FAMILY_COUNT] = {
    [PHX_LLAMA] = {"llama", .attention_bias_key = true, .mlp_bias_key = true},
    [PHX_MISTRAL] = {"mistral", .window_rule = WINDOW_ALL},
    [PHX_QWEN2] = {"qwen2", .qkv_bias = true, .window_rule = WINDOW_UPPER},
    [PHX_QWEN3] = {"qwen3", .default_head_dim = 128, .attention_bias_key = true, .qk_norm = true,
                   .window_rule = WINDOW_UPPER},
};

/* Keys that change the result in a way that this program does not follow, except at the value that
 * changes nothing (null never does). */
static const struct unsupported_key {
    const char *key;
    const char *harmless; /* JSON text of that value; NULL: there is none */
    const char *meaning;
} unsupported_keys[] = {
    {"quantization_config", NULL, "quantised weights"},
    {"compression_config", NULL, "compressed weights"},
    {"attn_logit_softcapping", NULL, "soft-capped attention"},
    {"final_logit_softcapping", NULL, "soft-capped logits"},
    {"query_pre_attn_scalar", NULL, "its own attention scale"},
    {"attention_multiplier", NULL, "its own attention scale"},
    {"attention_chunk_size", NULL, "chunked attention"},
    {"embedding_multiplier", "1", "scaled embeddings"},
    {"residual_multiplier", "1", "scaled residuals"},
    {"logits_scaling", "1", "scaled logits"},
    {"logit_scale", "1", "scaled logits"},
    {"partial_rotary_factor", "1", "a rotation of part of each head"},
    {"rope_interleaved", "false", "interleaved rotary pairs"},
    {"use_mrope", "false", "multi-dimensional rotary positions"},
    {"alibi", "false", "attention biases by distance"},
    {"is_causal", "true", "attention to later tokens"},
    {"use_bidirectional_attention", "false", "attention to later tokens"},
    {"is_encoder_decoder", "false", "an encoder"},
    {"num_local_experts", "0", "experts"},
    {"num_experts", "0", "experts"},
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

static enum phx_status refuse_unsupported(const struct phx_json *json)
{
    for (size_t i = 0; i < sizeof unsupported_keys / sizeof *unsupported_keys; i++) {
        const struct unsupported_key *k = &unsupported_keys[i];
        const json_t *value = phx_json_get(json, k->key);
        if (!value || is_harmless(value, k->harmless)) continue;
        char text[PHX_JSON_TEXT_BYTES];
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: %s is %s: a model with %s is not supported; only %s would work",
                        json->file, k->key, phx_json_text(value, text), k->meaning,
                        k->harmless ? k->harmless : "null");
    }
    return PHX_OK;
}

static enum phx_status parse_family(const struct phx_json *json, struct phx_config *config)
{
    const char *model_type = NULL;
    PHX_TRY(phx_json_require(json, "model_type"));
    PHX_TRY(phx_json_string(json, "model_type", &model_type));
    for (int i = 0; i < PHX_FAMILY_COUNT; i++) {
        if (strcmp(model_type, families[i].model_type) != 0) continue;
        config->family = (enum phx_family)i;
        snprintf(config->model_type, sizeof config->model_type, "%s", model_type);
        return PHX_OK;
    }
    char known[128] = "";
    for (int i = 0; i < PHX_FAMILY_COUNT; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", families[i].model_type);
    }
    return phx_fail(PHX_UNSUPPORTED, "%s: model_type %.100s is not supported; known types: %s",
                    json->file, model_type, known);
}

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

static enum phx_status parse_activation(const struct phx_json *json, enum phx_activation *out)
{
    static const struct {
        const char *name;
        enum phx_activation activation;
    } known[] = {{"silu", PHX_SILU}, {"swish", PHX_SILU}, {"gelu_pytorch_tanh", PHX_GELU_TANH}};
    const char *name = "silu";
    PHX_TRY(phx_json_string(json, "hidden_act", &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].activation;
            return PHX_OK;
        }
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: hidden_act %.40s is not supported; silu, swish and gelu_pytorch_tanh are",
                    json->file, name);
}

/* H, K and D. */
static enum phx_status parse_heads(const struct phx_json *json, const struct phx_config *config,
                                   struct phx_layer_shape *out)
{
    int64_t heads = 0, head_dim = families[config->family].default_head_dim;
    PHX_TRY(phx_json_int(json, "num_attention_heads", 1, MAX_HEADS, &heads));
    int64_t kv_heads = heads;
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

/* Sizes; every layer has the same shape. */
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

    config->norm_epsilon = (float)epsilon;
    config->attention_scale = (float)(1 / sqrt((double)shape.head_dim));
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
    const struct family *family = &families[config->family];
    bool attention_bias = false;
    PHX_TRY(phx_json_bool(json, "tie_word_embeddings", &config->tied));
    PHX_TRY(parse_bias_key(json, "attention_bias", family->attention_bias_key || family->qkv_bias,
                           &attention_bias));
    PHX_TRY(parse_bias_key(json, "mlp_bias", family->mlp_bias_key, &config->mlp_bias));
    config->qkv_bias = family->qkv_bias || attention_bias;
    config->o_bias = family->attention_bias_key && attention_bias;
    config->qk_norm = family->qk_norm;
    return PHX_OK;
}

/* layer_types, one name a layer, decides where it is given. */
static enum phx_status parse_layer_types(const struct phx_json *json, const json_t *types,
                                         int64_t window, struct phx_config *config)
{
    if (json_array_size(types) != (size_t)config->n_layers) {
        return phx_fail(PHX_BAD_DATA, "%s: layer_types has %zu entries for num_hidden_layers %d",
                        json->file, json_array_size(types), config->n_layers);
    }
    for (int32_t i = 0; i < config->n_layers; i++) {
        const json_t *value = json_array_get(types, (size_t)i);
        const char *type = json_string_value(value);
        bool sliding = type && strcmp(type, "sliding_attention") == 0;
        if (!sliding && !(type && strcmp(type, "full_attention") == 0)) {
            char text[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_UNSUPPORTED,
                            "%s: layer_types[%d] is %s; full_attention and sliding_attention are "
                            "supported",
                            json->file, i, phx_json_text(value, text));
        }
        if (sliding && window == 0) {
            return phx_fail(PHX_BAD_DATA,
                            "%s: layer_types[%d] is sliding_attention, but there is no "
                            "sliding_window in force",
                            json->file, i);
        }
        config->layers[i].window = sliding ? (int32_t)window : 0;
    }
    return PHX_OK;
}

static enum phx_status parse_windows(const struct phx_json *json, struct phx_config *config)
{
    enum window_rule rule = families[config->family].window_rule;
    int64_t window = 0, first = 28;
    bool use = false;
    const json_t *types = NULL;
    PHX_TRY(phx_json_int(json, "sliding_window", 1, INT32_MAX, &window));
    PHX_TRY(phx_json_int(json, "max_window_layers", 0, INT32_MAX, &first));
    PHX_TRY(phx_json_bool(json, "use_sliding_window", &use));
    PHX_TRY(phx_json_array(json, "layer_types", &types));
    /* transformers takes a window of 4096 where the key is absent, as opposed to null. */
    if (rule != WINDOW_NEVER && !json_object_get(json->object, "sliding_window")) window = 4096;
    if (rule == WINDOW_UPPER && !use) window = 0;
    if (types) return parse_layer_types(json, types, window, config);
    if (rule == WINDOW_NEVER && window != 0) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: sliding_window is %" PRId64
                        ", but model_type %s has windows only through layer_types; null would work",
                        json->file, window, config->model_type);
    }
    for (int32_t i = 0; i < config->n_layers; i++)
        config->layers[i].window = rule == WINDOW_UPPER && i < first ? 0 : (int32_t)window;
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
    PHX_TRY(parse_family(json, config));
    PHX_TRY(refuse_unsupported(json));
    PHX_TRY(parse_shape(json, config));
    PHX_TRY(parse_switches(json, config));
    PHX_TRY(parse_windows(json, config));
    PHX_TRY(parse_activation(json, &config->activation));
    PHX_TRY(parse_dtype(json, &config->dtype));
    PHX_TRY(phx_rope_config_parse(json, &config->rope));
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
    free(config->layers);
    free(config->rope.divisors);
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
    };
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
        if (!phx_weight_row_wanted(&rows[i], config)) continue;
        for (int32_t layer = 0; layer < (rows[i].per_layer ? config->n_layers : 1); layer++) {
            parameters += phx_config_dim(config, layer, rows[i].row_dim) *
                          phx_config_dim(config, layer, rows[i].col_dim);
        }
    }
    return parameters;
}
