/* The rotation of a GGUF's model, as a config.json says it. */
#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_config_impl.h"

struct scaling {
    struct phx_gguf_string type;
    double factor;
    double attention; /* as the file says it; 1 if it does not */
    int64_t original; /* 0: not in the file */
};

static enum phx_status read_scaling(const struct phx_gguf_maker *m, struct scaling *s)
{
    char key[PHX_GGUF_KEY_BYTES];
    *s = (struct scaling){.type = {"none", 4}, .factor = 1, .attention = 1};
    PHX_TRY(phx_gguf_text(m->gguf, phx_gguf_key_of(m, "rope.scaling.type", key), &s->type));
    PHX_TRY(phx_gguf_real(m->gguf, phx_gguf_key_of(m, "rope.scale_linear", key), 1e-3, 1e6,
                          &s->factor));
    if (s->factor != 1) s->type = (struct phx_gguf_string){"linear", 6};
    PHX_TRY(
        phx_gguf_real(m->gguf, phx_gguf_key_of(m, "rope.scaling.factor", key), 0, 1e6, &s->factor));
    PHX_TRY(phx_gguf_real(m->gguf, phx_gguf_key_of(m, "rope.scaling.attn_factor", key), 1e-3, 1e3,
                          &s->attention));
    return phx_gguf_int(m->gguf, phx_gguf_key_of(m, "rope.scaling.original_context_length", key), 0,
                        INT32_MAX, &s->original);
}

static void add_real(json_t *to, const char *key, double value)
{
    json_object_set_new(to, key, json_real(value));
}

/* What each frequency is divided by, one number for each pair of rotated dimensions. */
static enum phx_status add_factors(json_t *to, const char *key, const struct phx_file_tensor *t)
{
    json_t *list = json_array();
    json_object_set_new(to, key, list);
    if (t->dtype != PHX_F32 || t->n_dims != 1)
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s must be a vector of type F32", t->file,
                        t->name);
    for (int64_t i = 0; i < t->shape[0]; i++) {
        float factor;
        memcpy(&factor, (const char *)t->data + (size_t)i * sizeof factor, sizeof factor);
        if (!(factor >= 1e-3f && factor <= 1e6f))
            return phx_fail(PHX_BAD_DATA,
                            "%s: tensor %s has the factor %g; 0.001 to 1e+06 would work", t->file,
                            t->name, (double)factor);
        json_array_append_new(list, json_real((double)factor));
    }
    return PHX_OK;
}

/* `near` for texts within the original context, `far` for others. */
static enum phx_status add_longrope(const struct phx_gguf_maker *m, json_t *to,
                                    const struct scaling *s, const struct phx_file_tensor *near,
                                    const struct phx_file_tensor *far)
{
    int64_t original =
        s->original > 0 ? s->original : phx_gguf_number(m, "max_position_embeddings");
    json_object_set_new(to, "rope_type", json_string("longrope"));
    json_object_set_new(to, "original_max_position_embeddings", json_integer(original));
    phx_gguf_set(m, "original_max_position_embeddings", json_integer(original));
    add_real(to, "attention_factor", s->attention);
    PHX_TRY(add_factors(to, "short_factor", near));
    return add_factors(to, "long_factor", far);
}

static enum phx_status add_yarn(const struct phx_gguf_maker *m, json_t *to, const struct scaling *s)
{
    static const struct {
        const char *gguf, *json;
    } betas[] = {{"rope.scaling.yarn_beta_fast", "beta_fast"},
                 {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    for (size_t i = 0; i < sizeof betas / sizeof *betas; i++) {
        char key[PHX_GGUF_KEY_BYTES];
        double beta = 0;
        PHX_TRY(phx_gguf_real(m->gguf, phx_gguf_key_of(m, betas[i].gguf, key), 0, 1e6, &beta));
        if (beta != 0) add_real(to, betas[i].json, beta);
    }
    if (s->original > 0)
        json_object_set_new(to, "original_max_position_embeddings", json_integer(s->original));
    /* A config.json's takes the place of the natural one, a GGUF's is multiplied with it. */
    if (s->attention != 1 && s->factor > 1)
        add_real(to, "attention_factor", s->attention * (0.1 * log(s->factor) + 1));
    return PHX_OK;
}

static enum phx_status set_scaling(const struct phx_gguf_maker *m)
{
    const struct phx_file_tensor *freqs = phx_gguf_tensor(m->gguf, "rope_freqs.weight");
    const struct phx_file_tensor *near = phx_gguf_tensor(m->gguf, "rope_factors_short.weight");
    const struct phx_file_tensor *far = phx_gguf_tensor(m->gguf, "rope_factors_long.weight");
    struct scaling s;
    PHX_TRY(read_scaling(m, &s));
    bool scaled = !phx_gguf_string_is(s.type, "none") && s.factor != 0 && s.factor != 1;
    bool is_long = phx_gguf_string_is(s.type, "longrope");
    bool clash = ((freqs || near) && scaled && !is_long) || (freqs && near);
    if (clash || !near != !far || (is_long && !near))
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: rope_freqs and rope.scaling.type %.*s, or some of rope_freqs, "
                        "rope_factors_short and rope_factors_long; one kind of scaling would work, "
                        "whole",
                        phx_gguf_path(m->gguf), s.type.bytes < 40 ? (int)s.type.bytes : 40,
                        s.type.data);
    if (!freqs && !near && !scaled) return PHX_OK;
    json_t *scaling = json_object();
    phx_gguf_set(m, "rope_scaling", scaling);
    if (freqs) return add_longrope(m, scaling, &s, freqs, freqs);
    if (near) return add_longrope(m, scaling, &s, near, far);
    json_object_set_new(scaling, "rope_type", json_stringn_nocheck(s.type.data, s.type.bytes));
    add_real(scaling, "factor", s.factor);
    return phx_gguf_string_is(s.type, "yarn") ? add_yarn(m, scaling, &s) : PHX_OK;
}

/* Of head_dim, such that head_dim times it, rounded down, is `rotated`. */
static double part_of(int64_t rotated, int64_t head_dim)
{
    double part = (double)rotated / (double)head_dim;
    return (int64_t)((double)head_dim * part) == rotated ? part : nextafter(part, 1);
}

enum phx_status phx_gguf_set_rope(const struct phx_gguf_maker *maker)
{
    char key[PHX_GGUF_KEY_BYTES];
    int64_t rotated = 0, heads = phx_gguf_number(maker, "num_attention_heads");
    int64_t head_dim = phx_gguf_number(maker, "head_dim");
    PHX_TRY(set_scaling(maker));
    PHX_TRY(phx_gguf_int(maker->gguf, phx_gguf_key_of(maker, "rope.dimension_count", key), 1,
                         INT32_MAX, &rotated));
    if (head_dim == 0 && heads > 0) head_dim = phx_gguf_number(maker, "hidden_size") / heads;
    if (head_dim == 0) return PHX_OK;
    phx_gguf_set(maker, "head_dim", json_integer(head_dim));
    if (rotated != 0 && rotated != head_dim)
        phx_gguf_set(maker, "partial_rotary_factor", json_real(part_of(rotated, head_dim)));
    return PHX_OK;
}
