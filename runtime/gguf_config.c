/* A config.json out of a GGUF's metadata: every check of the one holds for the other. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_config_impl.h"

static const struct phx_gguf_family families[] = {
    {.architecture = "llama",
     .model_type = "llama",
     .windowed_type = "mistral",
     .experts_type = "mixtral",
     .interleaves = true,
     .normalizes_choice = true},
    {.architecture = "qwen2", .model_type = "qwen2", .qkv_bias = true},
    {.architecture = "qwen3", .model_type = "qwen3"},
    {.architecture = "qwen2moe", .model_type = "qwen2_moe", .qkv_bias = true},
    {.architecture = "qwen3moe", .model_type = "qwen3_moe", .normalizes_choice = true},
    {.architecture = "phi3", .model_type = "phi3"},
    {.architecture = "granite", .model_type = "granite", .interleaves = true},
    {.architecture = "smollm3", .model_type = "smollm3", .interleaves = true},
    {.architecture = "gemma2",
     .model_type = "gemma2",
     .window_pattern = 2,
     .layers_by_width = 46,
     .norm_offset = 1},
    {.architecture = "gemma3",
     .model_type = "gemma3_text",
     .window_pattern = 6,
     .layers_by_width = 62,
     .norm_offset = 1},
    {.architecture = "olmo2", .model_type = "olmo2"},
};
enum { N_FAMILIES = sizeof families / sizeof *families, KNOWN_BYTES = 256 };

static const char *known_families(char text[KNOWN_BYTES])
{
    *text = '\0';
    for (int i = 0; i < N_FAMILIES; i++) {
        size_t used = strlen(text);
        snprintf(text + used, KNOWN_BYTES - used, "%s%s", i ? ", " : "", families[i].architecture);
    }
    return text;
}

enum phx_status phx_gguf_family(const struct phx_gguf *gguf, const struct phx_gguf_family **out)
{
    struct phx_gguf_string name = {"", 0};
    char known[KNOWN_BYTES];
    PHX_TRY(phx_gguf_require(gguf, "general.architecture"));
    PHX_TRY(phx_gguf_text(gguf, "general.architecture", &name));
    for (int i = 0; i < N_FAMILIES; i++) {
        if (!phx_gguf_string_is(name, families[i].architecture)) continue;
        *out = &families[i];
        return PHX_OK;
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: general.architecture %.*s is not supported in GGUF files; known ones: %s",
                    phx_gguf_path(gguf), name.bytes < 100 ? (int)name.bytes : 100, name.data,
                    known_families(known));
}

static bool is_type(const char *type, const char *name)
{
    return type && strcmp(type, name) == 0;
}

enum phx_status phx_gguf_family_of(const struct phx_config *config,
                                   const struct phx_gguf_family **out)
{
    char known[KNOWN_BYTES];
    for (int i = 0; i < N_FAMILIES; i++) {
        const struct phx_gguf_family *f = &families[i];
        if (!is_type(f->model_type, config->model_type) &&
            !is_type(f->windowed_type, config->model_type) &&
            !is_type(f->experts_type, config->model_type))
            continue;
        *out = f;
        return PHX_OK;
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "a model of type %s cannot be written as GGUF; the architectures that can: %s",
                    config->model_type, known_families(known));
}

/* ---- what all the files of this room do ---- */

const char *phx_gguf_key_of(const struct phx_gguf_maker *maker, const char *key,
                            char text[PHX_GGUF_KEY_BYTES])
{
    snprintf(text, PHX_GGUF_KEY_BYTES, "%s.%s", maker->family->architecture, key);
    return text;
}

void phx_gguf_set(const struct phx_gguf_maker *maker, const char *key, json_t *value)
{
    json_object_set_new(maker->json, key, value);
}

int64_t phx_gguf_number(const struct phx_gguf_maker *maker, const char *key)
{
    return json_integer_value(json_object_get(maker->json, key));
}

int64_t phx_gguf_layers(const struct phx_gguf_maker *maker)
{
    int64_t layers = phx_gguf_number(maker, "num_hidden_layers");
    int64_t tensors = (int64_t)phx_gguf_tensor_count(maker->gguf);
    return layers < tensors ? layers : tensors;
}

bool phx_gguf_has(const struct phx_gguf_maker *maker, const char *pattern, int64_t layer)
{
    char name[PHX_WEIGHT_NAME_BYTES];
    phx_weight_name(pattern, layer, 0, name);
    return phx_gguf_tensor(maker->gguf, name) != NULL;
}

/* ---- numbers ---- */

enum number_kind {
    WHOLE,
    REAL,
    SCALE /* a real one; 0: there is none */
};

/* "ARCHITECTURE.key", and the key of a config.json that says the same. */
static const struct number_row {
    const char *gguf, *json;
    enum number_kind kind;
    bool required;
} numbers[] = {
    {"embedding_length", "hidden_size", WHOLE, true},
    {"feed_forward_length", "intermediate_size", WHOLE, true},
    {"block_count", "num_hidden_layers", WHOLE, true},
    {"attention.head_count", "num_attention_heads", WHOLE, true},
    {"attention.head_count_kv", "num_key_value_heads", WHOLE, false},
    {"attention.key_length", "head_dim", WHOLE, false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", REAL, true},
    {"attention.sliding_window", "sliding_window", WHOLE, false},
    {"attention.scale", "attention_multiplier", SCALE, false},
    {"attn_logit_softcapping", "attn_logit_softcapping", SCALE, false},
    {"final_logit_softcapping", "final_logit_softcapping", SCALE, false},
    {"embedding_scale", "embedding_multiplier", SCALE, false},
    {"residual_scale", "residual_multiplier", SCALE, false},
    {"logit_scale", "logits_scaling", SCALE, false},
    {"context_length", "max_position_embeddings", WHOLE, true},
    {"rope.freq_base", "rope_theta", REAL, false},
    {"rope.freq_base_swa", "rope_local_base_freq", REAL, false},
    {"vocab_size", "vocab_size", WHOLE, false},
    {"expert_count", "num_experts", WHOLE, false},
    {"expert_used_count", "num_experts_per_tok", WHOLE, false},
    {"expert_feed_forward_length", "moe_intermediate_size", WHOLE, false},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", WHOLE, false},
};

static enum phx_status copy_number(const struct phx_gguf_maker *m, const struct number_row *row)
{
    char key[PHX_GGUF_KEY_BYTES];
    phx_gguf_key_of(m, row->gguf, key);
    if (row->required) PHX_TRY(phx_gguf_require(m->gguf, key));
    if (!phx_gguf_find(m->gguf, key)) return PHX_OK;
    int64_t whole = 0;
    double real = 0;
    if (row->kind == WHOLE)
        PHX_TRY(phx_gguf_int(m->gguf, key, 0, INT64_MAX, &whole));
    else
        PHX_TRY(phx_gguf_real(m->gguf, key, -1e300, 1e300, &real));
    if (row->kind == SCALE && real == 0)
        phx_gguf_set(m, row->json, json_null());
    else
        phx_gguf_set(m, row->json, row->kind == WHOLE ? json_integer(whole) : json_real(real));
    return PHX_OK;
}

/* Keys that change the result in a way that no config.json here says. */
static enum phx_status refuse_keys(const struct phx_gguf_maker *m)
{
    static const struct {
        const char *key;
        double harmless; /* beside 0 */
        const char *meaning;
    } rows[] = {
        {"attention.clamp_kqv", 0, "clamped queries, keys and values"},
        {"attention.max_alibi_bias", 0, "attention biases by distance"},
        {"expert_gating_func", 1, "another choice of experts than by softmax"},
        {"expert_group_count", 1, "experts in groups"},
        {"expert_weights_scale", 1, "scaled experts"},
        {"router_logit_softcapping", 0, "a soft-capped router"},
        {"rope.scaling.yarn_ext_factor", 1, "yarn of its own kind"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[PHX_GGUF_KEY_BYTES];
        double value = 0;
        phx_gguf_key_of(m, rows[i].key, key);
        PHX_TRY(phx_gguf_real(m->gguf, key, -1e300, 1e300, &value));
        if (value == 0 || value == rows[i].harmless) continue;
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: key %s is %g: a model with %s is not supported; only %g would work",
                        phx_gguf_path(m->gguf), key, value, rows[i].meaning, rows[i].harmless);
    }
    return PHX_OK;
}

/* What holds without the key; a config.json's families have defaults of their own. The embedding
 * has a row for each token. */
static void set_defaults(const struct phx_gguf_maker *m)
{
    const struct phx_file_tensor *embedding = phx_gguf_tensor(m->gguf, "token_embd.weight");
    if (!json_object_get(m->json, "vocab_size") && embedding && embedding->n_dims == 2)
        phx_gguf_set(m, "vocab_size", json_integer(embedding->shape[0]));
    if (!json_object_get(m->json, "num_key_value_heads"))
        phx_gguf_set(m, "num_key_value_heads",
                     json_integer(phx_gguf_number(m, "num_attention_heads")));
    if (!json_object_get(m->json, "rope_theta")) phx_gguf_set(m, "rope_theta", json_real(1e4));
}

/* ---- switches ---- */

static const char *type_name(enum phx_dtype dtype)
{
    return dtype == PHX_F32 ? "float32" : dtype == PHX_F16 ? "float16" : "bfloat16";
}

/* bf16 has the range of all that a quantised file may need on the way. */
static enum phx_dtype compute_type(const struct phx_gguf_maker *m)
{
    bool floats = true, f16 = true;
    for (size_t i = 0; i < phx_gguf_tensor_count(m->gguf); i++) {
        const struct phx_file_tensor *t = phx_gguf_tensor_at(m->gguf, i);
        if (t->n_dims < 2) continue;
        floats = floats && t->dtype == PHX_F32;
        f16 = f16 && t->dtype == PHX_F16;
    }
    return floats ? PHX_F32 : f16 ? PHX_F16 : PHX_BF16;
}

static void set_biases(const struct phx_gguf_maker *m)
{
    bool qkv = phx_gguf_has(m, "blk.%d.attn_q.bias", 0);
    bool out = phx_gguf_has(m, "blk.%d.attn_output.bias", 0);
    if (out || (qkv && !m->family->qkv_bias)) phx_gguf_set(m, "attention_bias", json_true());
    if (!qkv && is_type(m->family->model_type, "qwen2_moe"))
        phx_gguf_set(m, "qkv_bias", json_false());
    if (phx_gguf_has(m, "blk.%d.ffn_gate.bias", 0)) phx_gguf_set(m, "mlp_bias", json_true());
}

static enum phx_status set_switches(const struct phx_gguf_maker *m)
{
    const char *type = m->family->model_type;
    bool windows = phx_gguf_number(m, "sliding_window") > 0;
    bool experts = phx_gguf_number(m, "num_experts") > 0;
    phx_gguf_set(m, "torch_dtype", json_string(type_name(compute_type(m))));
    phx_gguf_set(m, "tie_word_embeddings",
                 json_boolean(phx_gguf_tensor(m->gguf, "output.weight") == NULL));
    set_biases(m);
    if (windows && m->family->windowed_type) type = m->family->windowed_type;
    if (experts && m->family->experts_type) type = m->family->experts_type;
    phx_gguf_set(m, "model_type", json_string(type));
    return PHX_OK;
}

/* Gemma's own way to say it. The files of its converter say nothing: two sizes differ. */
static void set_attention_scale(const struct phx_gguf_maker *m)
{
    double scale = json_real_value(json_object_get(m->json, "attention_multiplier"));
    int64_t head_dim = phx_gguf_number(m, "head_dim");
    int64_t heads = phx_gguf_number(m, "num_attention_heads");
    bool gemma = m->family->layers_by_width != 0;
    if (is_type(m->family->model_type, "granite") && scale == 0 && head_dim > 0)
        phx_gguf_set(m, "attention_multiplier", json_real(1 / sqrt((double)head_dim)));
    if (!gemma || head_dim == 0) return;
    double scalar = (double)head_dim;
    if (phx_gguf_number(m, "num_hidden_layers") == m->family->layers_by_width && heads > 0)
        scalar = (double)(phx_gguf_number(m, "hidden_size") / heads);
    if (scale != 0) scalar = 1 / (scale * scale);
    json_object_del(m->json, "attention_multiplier");
    phx_gguf_set(m, "query_pre_attn_scalar", json_real(scalar));
}

/* What ends a text: the end of it, of a turn, and of a message. */
static enum phx_status set_tokens(const struct phx_gguf_maker *m)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t bos = -1;
    PHX_TRY(phx_gguf_int(m->gguf, "tokenizer.ggml.bos_token_id", 0, INT32_MAX, &bos));
    if (bos >= 0) phx_gguf_set(m, "bos_token_id", json_integer(bos));
    json_t *list = json_array();
    phx_gguf_set(m, "eos_token_id", list);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int64_t id = -1;
        PHX_TRY(phx_gguf_int(m->gguf, ends[i], 0, INT32_MAX, &id));
        bool known = id < 0;
        for (size_t k = 0; k < json_array_size(list); k++)
            known = known || json_integer_value(json_array_get(list, k)) == id;
        if (!known) json_array_append_new(list, json_integer(id));
    }
    return PHX_OK;
}

/* ---- a config.json ---- */

static enum phx_status make_json(const struct phx_gguf_maker *m)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        PHX_TRY(copy_number(m, &numbers[i]));
    PHX_TRY(refuse_keys(m));
    set_defaults(m);
    PHX_TRY(set_switches(m));
    PHX_TRY(phx_gguf_set_layers(m));
    PHX_TRY(set_tokens(m));
    PHX_TRY(phx_gguf_set_rope(m));
    set_attention_scale(m);
    return PHX_OK;
}

enum phx_status phx_gguf_config_text(const struct phx_gguf *gguf, enum phx_dtype matrices,
                                     char **out)
{
    struct phx_gguf_maker m = {.gguf = gguf, .json = json_object()};
    enum phx_status status;
    PHX_TRY_GOTO(phx_gguf_family(gguf, &m.family), done);
    PHX_TRY_GOTO(make_json(&m), done);
    if (matrices != PHX_DTYPE_COUNT)
        phx_gguf_set(&m, "torch_dtype", json_string(type_name(matrices)));
    *out = json_dumps(m.json, JSON_INDENT(2));
    if (!*out)
        status =
            phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for its configuration", phx_gguf_path(gguf));
done:
    json_decref(m.json);
    return status;
}

enum phx_status phx_gguf_config(const struct phx_gguf *gguf, struct phx_config **out)
{
    char *text = NULL;
    PHX_TRY(phx_gguf_config_text(gguf, PHX_DTYPE_COUNT, &text));
    enum phx_status status =
        phx_config_parse(phx_gguf_path(gguf), text, strlen(text), NULL, 0, out);
    free(text);
    if (status == PHX_OK) (*out)->norm_offset = 0; /* it is in the file's norms */
    return status;
}
