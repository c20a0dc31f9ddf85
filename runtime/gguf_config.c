/* A config.json out of a GGUF's metadata: every check of the one holds for the other. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"

static const struct phx_gguf_family families[] = {
    {"llama", "llama", "mistral", true},
    {"qwen2", "qwen2", NULL, false},
    {"qwen3", "qwen3", NULL, false},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static const char *known_families(char text[256])
{
    *text = '\0';
    for (int i = 0; i < N_FAMILIES; i++) {
        size_t used = strlen(text);
        snprintf(text + used, 256 - used, "%s%s", i ? ", " : "", families[i].architecture);
    }
    return text;
}

enum phx_status phx_gguf_family(const struct phx_gguf *gguf, const struct phx_gguf_family **out)
{
    struct phx_gguf_string name = {"", 0};
    char known[256];
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

enum phx_status phx_gguf_family_of(const struct phx_config *config,
                                   const struct phx_gguf_family **out)
{
    char known[256];
    for (int i = 0; i < N_FAMILIES; i++) {
        const struct phx_gguf_family *f = &families[i];
        if (strcmp(config->model_type, f->model_type) != 0 &&
            !(f->windowed_type && strcmp(config->model_type, f->windowed_type) == 0))
            continue;
        *out = f;
        return PHX_OK;
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "a model of type %s cannot be written as GGUF; the architectures that can: %s",
                    config->model_type, known_families(known));
}

/* ---- a config.json ---- */

/* "ARCHITECTURE.key", and the key of a config.json that says the same. */
static const struct number_row {
    const char *gguf, *json;
    bool real, required;
} numbers[] = {
    {"embedding_length", "hidden_size", false, true},
    {"feed_forward_length", "intermediate_size", false, true},
    {"block_count", "num_hidden_layers", false, true},
    {"attention.head_count", "num_attention_heads", false, true},
    {"attention.head_count_kv", "num_key_value_heads", false, false},
    {"attention.key_length", "head_dim", false, false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", true, true},
    {"attention.sliding_window", "sliding_window", false, false},
    {"context_length", "max_position_embeddings", false, true},
    {"rope.freq_base", "rope_theta", true, false},
    {"vocab_size", "vocab_size", false, false},
    {"expert_count", "num_experts", false, false},
    {"expert_used_count", "num_experts_per_tok", false, false},
    {"expert_feed_forward_length", "moe_intermediate_size", false, false},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", false, false},
};

struct maker {
    const struct phx_gguf *gguf;
    const struct phx_gguf_family *family;
    json_t *json;
};

static const char *key_of(const struct maker *m, const char *key, char text[128])
{
    snprintf(text, 128, "%s.%s", m->family->architecture, key);
    return text;
}

static void set(const struct maker *m, const char *key, json_t *value)
{
    json_object_set_new(m->json, key, value);
}

static enum phx_status copy_number(const struct maker *m, const struct number_row *row)
{
    char key[128];
    key_of(m, row->gguf, key);
    if (row->required) PHX_TRY(phx_gguf_require(m->gguf, key));
    if (!phx_gguf_find(m->gguf, key)) return PHX_OK;
    int64_t whole = 0;
    double real = 0;
    if (row->real)
        PHX_TRY(phx_gguf_real(m->gguf, key, -1e300, 1e300, &real));
    else
        PHX_TRY(phx_gguf_int(m->gguf, key, 0, INT64_MAX, &whole));
    set(m, row->json, row->real ? json_real(real) : json_integer(whole));
    return PHX_OK;
}

/* The key may be missing: the embedding has a row for each token. */
static void find_vocab(const struct maker *m)
{
    const struct phx_file_tensor *embedding = phx_gguf_tensor(m->gguf, "token_embd.weight");
    if (json_object_get(m->json, "vocab_size") || !embedding || embedding->n_dims != 2) return;
    set(m, "vocab_size", json_integer(embedding->shape[0]));
}

static bool has(const struct maker *m, const char *tensor)
{
    return phx_gguf_tensor(m->gguf, tensor) != NULL;
}

/* bf16 has the range of all that a quantised file may need on the way. */
static const char *compute_type(const struct maker *m)
{
    bool floats = true, f16 = true;
    for (size_t i = 0; i < phx_gguf_tensor_count(m->gguf); i++) {
        const struct phx_file_tensor *t = phx_gguf_tensor_at(m->gguf, i);
        if (t->n_dims < 2) continue;
        floats = floats && t->dtype == PHX_F32;
        f16 = f16 && t->dtype == PHX_F16;
    }
    return floats ? "float32" : f16 ? "float16" : "bfloat16";
}

static enum phx_status set_switches(const struct maker *m)
{
    set(m, "torch_dtype", json_string(compute_type(m)));
    set(m, "tie_word_embeddings", json_boolean(!has(m, "output.weight")));
    if (has(m, "blk.0.attn_output.bias") || strcmp(m->family->architecture, "llama") == 0)
        set(m, "attention_bias", json_boolean(has(m, "blk.0.attn_q.bias")));
    if (has(m, "blk.0.ffn_gate.bias")) set(m, "mlp_bias", json_true());
    const char *type = m->family->model_type;
    bool windows = json_integer_value(json_object_get(m->json, "sliding_window")) > 0;
    if (!windows) set(m, "sliding_window", json_null());
    if (windows && m->family->windowed_type) type = m->family->windowed_type;
    if (windows) set(m, "use_sliding_window", json_true());
    if (windows) set(m, "max_window_layers", json_integer(0));
    set(m, "model_type", json_string(type));
    return PHX_OK;
}

/* What ends a text: the end of it and the end of a turn. */
static enum phx_status set_tokens(const struct maker *m)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id"};
    int64_t bos = -1;
    PHX_TRY(phx_gguf_int(m->gguf, "tokenizer.ggml.bos_token_id", 0, INT32_MAX, &bos));
    if (bos >= 0) set(m, "bos_token_id", json_integer(bos));
    json_t *list = json_array();
    set(m, "eos_token_id", list);
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

static enum phx_status set_rope(const struct maker *m)
{
    char key[128];
    struct phx_gguf_string type = {"none", 4};
    double factor = 1;
    int64_t original = 0, rotated = 0;
    PHX_TRY(phx_gguf_text(m->gguf, key_of(m, "rope.scaling.type", key), &type));
    PHX_TRY(phx_gguf_real(m->gguf, key_of(m, "rope.scale_linear", key), 1e-3, 1e6, &factor));
    if (factor != 1) type = (struct phx_gguf_string){"linear", 6};
    PHX_TRY(phx_gguf_real(m->gguf, key_of(m, "rope.scaling.factor", key), 0, 1e6, &factor));
    PHX_TRY(phx_gguf_int(m->gguf, key_of(m, "rope.scaling.original_context_length", key), 0,
                         INT32_MAX, &original));
    if (!phx_gguf_string_is(type, "none") && factor != 0 && factor != 1) {
        json_t *scaling = json_object();
        set(m, "rope_scaling", scaling);
        json_object_set_new(scaling, "rope_type", json_stringn_nocheck(type.data, type.bytes));
        json_object_set_new(scaling, "factor", json_real(factor));
        if (original > 0 && !phx_gguf_string_is(type, "linear"))
            json_object_set_new(scaling, "original_max_position_embeddings",
                                json_integer(original));
    }
    PHX_TRY(phx_gguf_int(m->gguf, key_of(m, "rope.dimension_count", key), 1, INT32_MAX, &rotated));
    int64_t heads = json_integer_value(json_object_get(m->json, "num_attention_heads"));
    int64_t head_dim = json_integer_value(json_object_get(m->json, "head_dim"));
    if (head_dim == 0 && heads > 0)
        head_dim = json_integer_value(json_object_get(m->json, "hidden_size")) / heads;
    if (head_dim == 0) return PHX_OK;
    set(m, "head_dim", json_integer(head_dim));
    if (rotated != 0 && rotated != head_dim)
        set(m, "partial_rotary_factor", json_real((double)rotated / (double)head_dim));
    return PHX_OK;
}

static enum phx_status make_json(const struct maker *m)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        PHX_TRY(copy_number(m, &numbers[i]));
    find_vocab(m);
    PHX_TRY(set_switches(m));
    PHX_TRY(set_tokens(m));
    return set_rope(m);
}

/* ---- what no config.json says ---- */

/* rope_freqs: what each frequency is divided by, one for each pair of a head. */
static enum phx_status read_divisors(const struct phx_gguf *gguf, struct phx_config *config)
{
    const struct phx_file_tensor *t = phx_gguf_tensor(gguf, "rope_freqs.weight");
    int32_t n = config->ropes[0].rotated / 2;
    if (!t) return PHX_OK;
    if (t->dtype != PHX_F32 || t->n_dims != 1 || t->shape[0] != n) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s must hold %d numbers of type F32", t->file,
                        t->name, n);
    }
    config->ropes[0].divisors = malloc((size_t)n * sizeof *config->ropes[0].divisors);
    if (!config->ropes[0].divisors)
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", t->file);
    memcpy(config->ropes[0].divisors, t->data, t->bytes);
    for (int32_t i = 0; i < n; i++) {
        float divisor = config->ropes[0].divisors[i];
        if (!(divisor >= 1e-6f && divisor <= 1e6f)) {
            return phx_fail(PHX_BAD_DATA, "%s: tensor %s has the factor %g; 1e-6 to 1e6 would work",
                            t->file, t->name, (double)divisor);
        }
    }
    return PHX_OK;
}

enum phx_status phx_gguf_config_text(const struct phx_gguf *gguf, char **out)
{
    struct maker m = {.gguf = gguf, .json = json_object()};
    enum phx_status status;
    PHX_TRY_GOTO(phx_gguf_family(gguf, &m.family), done);
    PHX_TRY_GOTO(make_json(&m), done);
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
    struct phx_config *config = NULL;
    char *text = NULL;
    PHX_TRY(phx_gguf_config_text(gguf, &text));
    enum phx_status status =
        phx_config_parse(phx_gguf_path(gguf), text, strlen(text), NULL, 0, &config);
    free(text);
    PHX_TRY(status);
    status = read_divisors(gguf, config);
    if (status == PHX_OK)
        *out = config;
    else
        phx_config_destroy(config);
    return status;
}
