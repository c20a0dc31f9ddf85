#include "runtime/rope_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/families.h"

#define DEFAULT_THETA 1e4 /* of transformers, where the family has no other */
#define MIN_THETA 1.0
#define MAX_THETA 1e15

enum { MAX_KEYS = 7 };

static const struct rope_kind {
    const char *name;
    enum phx_rope_kind kind;
    const char *required[MAX_KEYS]; /* its parameters, then NULL */
    const char *optional[MAX_KEYS];
} kinds[] = {
    {"default", PHX_ROPE_DEFAULT, {NULL}, {NULL}},
    {"linear", PHX_ROPE_LINEAR, {"factor"}, {NULL}},
    {"dynamic", PHX_ROPE_DYNAMIC, {"factor"}, {"original_max_position_embeddings"}},
    {"llama3",
     PHX_ROPE_LLAMA3,
     {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
     {NULL}},
    {"yarn",
     PHX_ROPE_YARN,
     {"factor"},
     {"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
      "truncate"}},
    {"longrope",
     PHX_ROPE_LONGROPE,
     {"short_factor", "long_factor"},
     {"original_max_position_embeddings", "attention_factor", "factor"}},
    {"su", /* what the first files called it */
     PHX_ROPE_LONGROPE,
     {"short_factor", "long_factor"},
     {"original_max_position_embeddings", "attention_factor", "factor"}},
};

/* What a rotation is parsed from beside its own object. */
struct place {
    double top_theta;  /* rope_theta of the config itself, 0 if it has none */
    double top_rotary; /* its partial_rotary_factor, 1 if it has none */
    int64_t original;  /* its original_max_position_embeddings, 0 if it has none */
    int64_t max_positions;
    int32_t head_dim;
    bool partial; /* the family may rotate a part of each head */
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
                    "%s: rotary scaling of type %.40s is not supported; default, linear, dynamic, "
                    "llama3, yarn and longrope are",
                    json->file, name);
}

static bool lists(const char *const keys[MAX_KEYS], const char *key)
{
    for (int i = 0; i < MAX_KEYS && keys[i]; i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return false;
}

/* A key that is not understood may change the rotation. */
static enum phx_status refuse_other_keys(const struct phx_json *json, const struct rope_kind *kind)
{
    static const char *const common[MAX_KEYS] = {"type", "rope_type", "rope_theta",
                                                 "partial_rotary_factor"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json->object, key, value)
    {
        if (json_is_null(value) || lists(common, key) || lists(kind->required, key) ||
            lists(kind->optional, key))
            continue;
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: %s%.60s is not something that rotary scaling of type %s is known "
                        "to have",
                        json->file, json->prefix, key, kind->name);
    }
    return PHX_OK;
}

static enum phx_status parse_theta(const struct phx_json *json, const struct place *place,
                                   double *theta)
{
    double own = place->top_theta;
    PHX_TRY(phx_json_real(json, "rope_theta", MIN_THETA, MAX_THETA, &own));
    if (place->top_theta != 0 && own != place->top_theta) {
        return phx_fail(PHX_BAD_DATA, "%s: rope_theta is %g but %srope_theta is %g; give one",
                        json->file, place->top_theta, json->prefix, own);
    }
    if (own != 0) *theta = own;
    return PHX_OK;
}

/* int(head_dim * factor) as in transformers. */
static enum phx_status parse_rotated(const struct phx_json *json, const struct place *place,
                                     struct phx_rope_config *rope)
{
    double part = place->top_rotary;
    PHX_TRY(phx_json_real(json, "partial_rotary_factor", place->partial ? 1e-3 : 1, 1, &part));
    rope->rotated = (int32_t)(place->head_dim * part);
    if (rope->rotated >= 2 && rope->rotated % 2 == 0) return PHX_OK;
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: partial_rotary_factor %g rotates %d of the %d dimensions of a head; an "
                    "even number, at least 2, would work",
                    json->file, part, rope->rotated, place->head_dim);
}

static enum phx_status parse_factors(const struct phx_json *json, struct phx_rope_config *rope)
{
    static const char *const keys[] = {"short_factor", "long_factor"};
    const int64_t n = rope->rotated / 2;
    rope->factors = calloc((size_t)(2 * n), sizeof *rope->factors);
    if (!rope->factors) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", json->file);
    for (int k = 0; k < 2; k++) {
        const json_t *list = NULL;
        PHX_TRY(phx_json_array(json, keys[k], &list));
        if (json_array_size(list) != (size_t)n)
            return phx_fail(PHX_BAD_DATA,
                            "%s: %s%s has %zu numbers; it must have %" PRId64
                            ", one for each pair of rotated dimensions",
                            json->file, json->prefix, keys[k], json_array_size(list), n);
        for (int64_t i = 0; i < n; i++) {
            const json_t *value = json_array_get(list, (size_t)i);
            double factor = json_number_value(value);
            if (!json_is_number(value) || !(factor >= 1e-3 && factor <= 1e6)) {
                char text[PHX_JSON_TEXT_BYTES];
                return phx_fail(PHX_BAD_DATA,
                                "%s: %s%s[%" PRId64
                                "] is %s; it must be a number from 0.001 to 1e+06",
                                json->file, json->prefix, keys[k], i, phx_json_text(value, text));
            }
            rope->factors[k * n + i] = factor;
        }
    }
    return PHX_OK;
}

/* What cos and sin are multiplied by where the file does not say it. */
static double natural_attention_factor(const struct phx_rope_config *rope)
{
    if (rope->factor <= 1) return 1;
    if (rope->kind == PHX_ROPE_YARN) return 0.1 * log(rope->factor) + 1;
    return sqrt(1 + log(rope->factor) / log((double)rope->original_max_positions));
}

/* Of yarn and longrope. */
static enum phx_status parse_long(const struct phx_json *json, const struct place *place,
                                  struct phx_rope_config *rope)
{
    if (place->original != 0) rope->original_max_positions = place->original;
    if (rope->original_max_positions == 0) rope->original_max_positions = place->max_positions;
    if (rope->original_max_positions < 2)
        return phx_fail(PHX_BAD_DATA, "%s: original_max_position_embeddings must be at least 2",
                        json->file);
    if (rope->kind == PHX_ROPE_LONGROPE && rope->factor == 0)
        rope->factor = (double)place->max_positions / (double)rope->original_max_positions;
    rope->attention_factor = natural_attention_factor(rope);
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    PHX_TRY(phx_json_real(json, "attention_factor", 1e-3, 1e3, &rope->attention_factor));
    PHX_TRY(phx_json_real(json, "beta_fast", 1e-3, 1e6, &rope->beta_fast));
    PHX_TRY(phx_json_real(json, "beta_slow", 1e-3, 1e6, &rope->beta_slow));
    PHX_TRY(phx_json_bool(json, "truncate", &rope->truncate));
    if (rope->kind == PHX_ROPE_YARN && rope->theta <= 1)
        return phx_fail(PHX_BAD_DATA, "%s: yarn needs a rope_theta above 1", json->file);
    return rope->kind == PHX_ROPE_LONGROPE ? parse_factors(json, rope) : PHX_OK;
}

/* Adds what the object says to `rope`, which has the theta that holds where it says none. */
static enum phx_status parse_scaling(const struct phx_json *json, const struct place *place,
                                     struct phx_rope_config *rope)
{
    const struct rope_kind *kind = &kinds[0];
    PHX_TRY(find_kind(json, &kind));
    PHX_TRY(refuse_other_keys(json, kind));
    for (int i = 0; i < MAX_KEYS && kind->required[i]; i++)
        PHX_TRY(phx_json_require(json, kind->required[i]));
    rope->kind = kind->kind;
    rope->attention_factor = 1;
    PHX_TRY(parse_theta(json, place, &rope->theta));
    PHX_TRY(parse_rotated(json, place, rope));
    PHX_TRY(phx_json_real(json, "factor", 1e-3, 1e6, &rope->factor));
    PHX_TRY(phx_json_real(json, "low_freq_factor", 1e-3, 1e6, &rope->low_freq_factor));
    PHX_TRY(phx_json_real(json, "high_freq_factor", 1e-3, 1e6, &rope->high_freq_factor));
    PHX_TRY(phx_json_int(json, "original_max_position_embeddings", 1, INT32_MAX,
                         &rope->original_max_positions));
    if (kind->kind == PHX_ROPE_YARN || kind->kind == PHX_ROPE_LONGROPE)
        return parse_long(json, place, rope);
    if (kind->kind == PHX_ROPE_LLAMA3 && rope->high_freq_factor <= rope->low_freq_factor) {
        return phx_fail(PHX_BAD_DATA, "%s: %shigh_freq_factor %g must exceed %slow_freq_factor %g",
                        json->file, json->prefix, rope->high_freq_factor, json->prefix,
                        rope->low_freq_factor);
    }
    return PHX_OK;
}

static bool same(const struct phx_rope_config *a, const struct phx_rope_config *b)
{
    if (a->kind != b->kind || a->rotated != b->rotated) return false;
    for (int32_t i = 0; a->factors && i < a->rotated; i++)
        if (a->factors[i] != b->factors[i]) return false;
    return a->theta == b->theta && a->factor == b->factor &&
           a->attention_factor == b->attention_factor && a->low_freq_factor == b->low_freq_factor &&
           a->high_freq_factor == b->high_freq_factor && a->beta_fast == b->beta_fast &&
           a->beta_slow == b->beta_slow && a->truncate == b->truncate &&
           a->original_max_positions == b->original_max_positions;
}

/* One rotation: `older` and `newer` are its objects, NULL where there is none. `theta` holds where
 * neither the objects nor the config say one. */
static enum phx_status parse_rope(const struct phx_json *older, const struct phx_json *newer,
                                  const struct place *place, double theta,
                                  struct phx_rope_config *out)
{
    const struct phx_rope_config plain = {.theta = place->top_theta != 0 ? place->top_theta : theta,
                                          .rotated = place->head_dim,
                                          .attention_factor = 1};
    struct phx_rope_config other = plain;
    json_t *nothing = json_object();
    const struct phx_json none = {older ? older->file : "", "", nothing};
    enum phx_status status = PHX_OK;
    *out = plain;
    if (newer)
        status = parse_scaling(newer, place, out);
    else
        status = parse_scaling(older ? older : &none, place, out);
    if (status == PHX_OK && newer && older) {
        status = parse_scaling(older, place, &other);
        if (status == PHX_OK && !same(out, &other))
            status =
                phx_fail(PHX_BAD_DATA, "%s: rope_scaling contradicts rope_parameters; give one",
                         newer->file);
    }
    free(other.factors);
    json_decref(nothing);
    return status;
}

/* An object inside another. False if it is absent. */
static bool inside(const struct phx_json *json, const char *prefix, const json_t *object,
                   struct phx_json *out)
{
    *out = (struct phx_json){json->file, prefix, object};
    return object != NULL;
}

enum phx_status phx_rope_config_parse(const struct phx_json *json, struct phx_config *config)
{
    const struct phx_family_rules *rules = &phx_family_rules[config->family];
    const json_t *scaling = NULL, *parameters = NULL, *full = NULL, *near = NULL;
    struct place place = {.top_rotary = 1,
                          .max_positions = config->max_positions,
                          .head_dim = config->layers[0].shape.head_dim,
                          .partial = rules->keys & PHX_KEY_PART_ROTARY};
    PHX_TRY(phx_json_real(json, "rope_theta", MIN_THETA, MAX_THETA, &place.top_theta));
    PHX_TRY(phx_json_real(json, "partial_rotary_factor", 1e-3, 1, &place.top_rotary));
    PHX_TRY(phx_json_int(json, "original_max_position_embeddings", 1, INT32_MAX, &place.original));
    PHX_TRY(phx_json_object(json, "rope_scaling", &scaling));
    PHX_TRY(phx_json_object(json, "rope_parameters", &parameters));
    bool two = rules->keys & PHX_KEY_NEAR_THETA;
    struct phx_json newer, older, outer, own;
    bool has_newer = inside(json, "rope_parameters.", parameters, &outer);
    bool has_older = inside(json, "rope_scaling.", scaling, &older);
    newer = outer;
    if (two && has_newer) {
        PHX_TRY(phx_json_object(&outer, "full_attention", &full));
        PHX_TRY(phx_json_object(&outer, "sliding_attention", &near));
        if (full || near) has_newer = inside(json, "rope_parameters.full_attention.", full, &newer);
    }
    const double theta = rules->default_theta != 0 ? rules->default_theta : DEFAULT_THETA;
    PHX_TRY(parse_rope(has_older ? &older : NULL, has_newer ? &newer : NULL, &place, theta,
                       &config->ropes[0]));
    if (!two) return PHX_OK;
    bool has_near = inside(json, "rope_parameters.sliding_attention.", near, &own);
    place.top_theta = 0;
    PHX_TRY(phx_json_real(json, "rope_local_base_freq", MIN_THETA, MAX_THETA, &place.top_theta));
    return parse_rope(NULL, has_near ? &own : NULL, &place, rules->default_theta_near,
                      &config->ropes[1]);
}

/* ---- frequencies ---- */

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

/* The pair, as a fraction, that turns so many times in the original context. */
static double yarn_pair(const struct phx_rope_config *rope, double turns)
{
    double context = (double)rope->original_max_positions;
    return rope->rotated * log(context / (turns * 2 * M_PI)) / (2 * log(rope->theta));
}

/* The same by pairs: up to `low` they stay, from `high` on they slow down. */
static double yarn_scaled(const struct phx_rope_config *rope, int32_t pair, double frequency)
{
    double low = yarn_pair(rope, rope->beta_fast), high = yarn_pair(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rope->rotated - 1);
    if (low == high) high += 0.001;
    double slow = fmin(fmax((pair - low) / (high - low), 0), 1);
    return frequency / rope->factor * slow + frequency * (1 - slow);
}

int32_t phx_config_rotated(const struct phx_config *config, int32_t layer)
{
    PHX_ASSERT(layer >= 0 && layer < config->n_layers);
    int32_t rope = config->layers[layer].rope;
    return rope < 0 ? 0 : config->ropes[rope].rotated;
}

void phx_config_inv_freq(const struct phx_config *config, int32_t layer, float *inv_freq,
                         float *attention_factor)
{
    PHX_ASSERT(phx_config_rotated(config, layer) > 0);
    const struct phx_rope_config *rope = &config->ropes[config->layers[layer].rope];
    const int32_t half = rope->rotated / 2;
    const bool is_long = config->context > rope->original_max_positions;
    for (int32_t i = 0; i < half; i++) {
        double frequency = 1 / pow(rope->theta, (double)(2 * i) / rope->rotated);
        if (rope->kind == PHX_ROPE_LINEAR) frequency /= rope->factor;
        if (rope->kind == PHX_ROPE_LLAMA3) frequency = llama3_scaled(rope, frequency);
        if (rope->kind == PHX_ROPE_YARN) frequency = yarn_scaled(rope, i, frequency);
        if (rope->kind == PHX_ROPE_LONGROPE) frequency /= rope->factors[is_long ? half + i : i];
        inv_freq[i] = (float)frequency;
    }
    *attention_factor = (float)rope->attention_factor;
}
