#include "runtime/rope_config.h"

#include <math.h>
#include <string.h>

#include "kernels/base/check.h"

#define DEFAULT_THETA 1e4 /* of transformers, for all families */
#define MIN_THETA 1.0
#define MAX_THETA 1e15

static const struct rope_kind {
    const char *name;
    enum phx_rope_kind kind;
    const char *keys[5]; /* its parameters, all required, then NULL */
} kinds[] = {
    {"default", PHX_ROPE_DEFAULT, {NULL}},
    {"linear", PHX_ROPE_LINEAR, {"factor", NULL}},
    {"llama3",
     PHX_ROPE_LLAMA3,
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", NULL}},
};

static enum phx_status find_kind(const struct phx_json *json, const struct rope_kind **out)
{
    const char *older = NULL, *newer = NULL;
    PHX_TRY(phx_json_string(json, "type", &older));
    PHX_TRY(phx_json_string(json, "rope_type", &newer));
    if (older && newer && strcmp(older, newer) != 0) {
        return phx_fail(PHX_BAD_DATA, "%s: %srope_type is %.40s but %stype is %.40s; give one",
                        json->file, json->prefix, newer, json->prefix, older);
    }
    const char *name = newer ? newer : older ? older : "default";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(name, kinds[i].name) == 0) {
            *out = &kinds[i];
            return PHX_OK;
        }
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: rotary scaling of type %.40s is not supported; default, linear and "
                    "llama3 are",
                    json->file, name);
}

/* A key that is not understood may change the rotation. */
static enum phx_status refuse_other_keys(const struct phx_json *json, const struct rope_kind *kind)
{
    static const char *const common[] = {"type", "rope_type", "rope_theta",
                                         "partial_rotary_factor"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json->object, key, value)
    {
        bool known = json_is_null(value);
        for (size_t i = 0; i < sizeof common / sizeof *common; i++)
            known = known || strcmp(key, common[i]) == 0;
        for (const char *const *k = kind->keys; *k; k++) known = known || strcmp(key, *k) == 0;
        if (!known) {
            return phx_fail(PHX_UNSUPPORTED,
                            "%s: %s%.60s is not something that rotary scaling of type %s is known "
                            "to have",
                            json->file, json->prefix, key, kind->name);
        }
    }
    return PHX_OK;
}

/* `top_theta` is the config's own rope_theta, 0 if it has none. */
static enum phx_status parse_scaling(const struct phx_json *json, double top_theta,
                                     struct phx_rope_config *rope)
{
    const struct rope_kind *kind = &kinds[0];
    double rotary = 1, theta = top_theta;
    PHX_TRY(find_kind(json, &kind));
    PHX_TRY(refuse_other_keys(json, kind));
    for (const char *const *k = kind->keys; *k; k++) PHX_TRY(phx_json_require(json, *k));
    PHX_TRY(phx_json_real(json, "partial_rotary_factor", 1, 1, &rotary));
    PHX_TRY(phx_json_real(json, "rope_theta", MIN_THETA, MAX_THETA, &theta));
    if (top_theta != 0 && theta != top_theta) {
        return phx_fail(PHX_BAD_DATA, "%s: rope_theta is %g but %srope_theta is %g; give one",
                        json->file, top_theta, json->prefix, theta);
    }
    rope->kind = kind->kind;
    if (theta != 0) rope->theta = theta;
    PHX_TRY(phx_json_real(json, "factor", 1e-3, 1e6, &rope->factor));
    PHX_TRY(phx_json_real(json, "low_freq_factor", 1e-3, 1e6, &rope->low_freq_factor));
    PHX_TRY(phx_json_real(json, "high_freq_factor", 1e-3, 1e6, &rope->high_freq_factor));
    PHX_TRY(phx_json_int(json, "original_max_position_embeddings", 1, INT32_MAX,
                         &rope->original_max_positions));
    if (kind->kind == PHX_ROPE_LLAMA3 && rope->high_freq_factor <= rope->low_freq_factor) {
        return phx_fail(PHX_BAD_DATA, "%s: %shigh_freq_factor %g must exceed %slow_freq_factor %g",
                        json->file, json->prefix, rope->high_freq_factor, json->prefix,
                        rope->low_freq_factor);
    }
    return PHX_OK;
}

static bool same(const struct phx_rope_config *a, const struct phx_rope_config *b)
{
    return a->kind == b->kind && a->theta == b->theta && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->original_max_positions == b->original_max_positions;
}

enum phx_status phx_rope_config_parse(const struct phx_json *json, struct phx_rope_config *out)
{
    const json_t *scaling = NULL, *parameters = NULL;
    double top_theta = 0;
    PHX_TRY(phx_json_real(json, "rope_theta", MIN_THETA, MAX_THETA, &top_theta));
    PHX_TRY(phx_json_object(json, "rope_scaling", &scaling));
    PHX_TRY(phx_json_object(json, "rope_parameters", &parameters));
    struct phx_rope_config older = {.theta = top_theta != 0 ? top_theta : DEFAULT_THETA};
    struct phx_rope_config newer = older;
    if (scaling) {
        struct phx_json inner = {json->file, "rope_scaling.", scaling};
        PHX_TRY(parse_scaling(&inner, top_theta, &older));
    }
    if (parameters) {
        struct phx_json inner = {json->file, "rope_parameters.", parameters};
        PHX_TRY(parse_scaling(&inner, top_theta, &newer));
    }
    if (scaling && parameters && !same(&older, &newer)) {
        return phx_fail(PHX_BAD_DATA, "%s: rope_scaling contradicts rope_parameters; give one",
                        json->file);
    }
    *out = parameters ? newer : older;
    return PHX_OK;
}

/* Rotations that are long against the original context slow down by `factor`, short ones stay, and
 * those between are blended. */
static double llama3_scaled(const struct phx_rope_config *rope, double frequency)
{
    double turns = (double)rope->original_max_positions * frequency / (2 * M_PI);
    if (turns > rope->high_freq_factor) return frequency;
    if (turns < rope->low_freq_factor) return frequency / rope->factor;
    double blend =
        (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - blend) * frequency / rope->factor + blend * frequency;
}

void phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                         float *attention_factor)
{
    PHX_ASSERT(layer >= 0 && layer < config->n_layers);
    const struct phx_rope_config *rope = &config->rope;
    int32_t head_dim = config->layers[layer].shape.head_dim;
    for (int32_t i = 0; i < head_dim / 2; i++) {
        double frequency = 1 / pow(rope->theta, (double)(2 * i) / head_dim);
        if (rope->kind == PHX_ROPE_LINEAR) frequency /= rope->factor;
        if (rope->kind == PHX_ROPE_LLAMA3) frequency = llama3_scaled(rope, frequency);
        if (rope->divisors) frequency /= (double)rope->divisors[i];
        inv_freq[i] = (float)frequency;
    }
    *attention_factor = 1;
}
