/* The keys of a GGUF out of a config: what gguf_config.c and its like read, the other way. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"

struct writing {
    struct phx_gguf_writer *writer;
    const char *folder; /* where the model comes from, for messages */
    const struct phx_gguf_family *family;
    const struct phx_config *config;
};

static enum phx_status cannot_say(const struct writing *w, const char *what)
{
    return phx_fail(PHX_UNSUPPORTED, "%s cannot be written as GGUF: it has %s", w->folder, what);
}

/* Programs that read GGUF files know these of the architecture. */
static enum phx_status check_sayable(const struct writing *w)
{
    const struct phx_config *c = w->config;
    bool gemma = w->family->layers_by_width != 0;
    if (c->activation != (gemma ? PHX_GELU_TANH : PHX_SILU))
        return cannot_say(w, "another activation than its architecture has there");
    if (c->n_eos > 3) return cannot_say(w, "more than 3 end-of-text tokens");
    if (c->ropes[0].kind == PHX_ROPE_YARN && !c->ropes[0].truncate)
        return cannot_say(w, "yarn that is not truncated");
    if (c->family == PHX_GEMMA3 &&
        (c->ropes[1].kind != PHX_ROPE_DEFAULT || c->ropes[0].kind > PHX_ROPE_DYNAMIC))
        return cannot_say(w, "another scaling of its rotations than linear in layers without "
                             "window");
    for (int32_t l = 0; l < c->n_layers; l++) {
        bool rotates = c->family != PHX_SMOLLM3 || (l + 1) % 4 != 0;
        if (rotates != (c->layers[l].rope >= 0))
            return cannot_say(w, "rotary positions in other layers than all but each fourth");
    }
    return PHX_OK;
}

static void put_u32(const struct writing *w, const char *key, int64_t value)
{
    phx_gguf_write_u32(w->writer, key, w->family->architecture, (uint32_t)value);
}

static void put_f32(const struct writing *w, const char *key, double value)
{
    phx_gguf_write_f32(w->writer, key, w->family->architecture, (float)value);
}

/* The widest plain MLP; where there is none, what the experts of a token are together. */
static int64_t feed_forward(const struct phx_config *c)
{
    int64_t ffn = 0, experts = 0;
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct phx_layer_shape *s = &c->layers[l].shape;
        if (s->ffn > ffn) ffn = s->ffn;
        if (s->n_experts > 0)
            experts = c->family == PHX_MIXTRAL ? s->moe_ffn : s->moe_ffn * c->n_chosen;
    }
    return ffn > 0 ? ffn : experts;
}

static void put_sizes(const struct writing *w)
{
    const struct phx_config *c = w->config;
    const struct phx_layer_shape *s = &c->layers[0].shape;
    put_u32(w, "%s.context_length", c->max_positions);
    put_u32(w, "%s.embedding_length", c->hidden);
    put_u32(w, "%s.block_count", c->n_layers);
    put_u32(w, "%s.feed_forward_length", feed_forward(c));
    put_u32(w, "%s.attention.head_count", s->n_heads);
    put_u32(w, "%s.attention.head_count_kv", s->n_kv_heads);
    put_u32(w, "%s.attention.key_length", s->head_dim);
    put_u32(w, "%s.attention.value_length", s->head_dim);
    put_u32(w, "%s.vocab_size", c->vocab);
    put_f32(w, "%s.attention.layer_norm_rms_epsilon", (double)c->norm_epsilon);
}

static void put_experts(const struct writing *w)
{
    const struct phx_config *c = w->config;
    const struct phx_layer_shape *s = NULL;
    for (int32_t l = 0; l < c->n_layers; l++)
        if (c->layers[l].shape.n_experts > 0) s = &c->layers[l].shape;
    if (!s) return;
    put_u32(w, "%s.expert_count", s->n_experts);
    put_u32(w, "%s.expert_used_count", c->n_chosen);
    if (c->normalize_choice != w->family->normalizes_choice)
        phx_gguf_write_bool(w->writer, "%s.expert_weights_norm", w->family->architecture,
                            c->normalize_choice);
    if (c->family == PHX_MIXTRAL) return;
    put_u32(w, "%s.expert_feed_forward_length", s->moe_ffn);
    if (s->shared_ffn > 0) put_u32(w, "%s.expert_shared_feed_forward_length", s->shared_ffn);
}

/* Layers are told apart only where they are not as without the key. */
static enum phx_status put_windows(const struct writing *w)
{
    const struct phx_config *c = w->config;
    int32_t window = 0, pattern = w->family->window_pattern;
    const size_t n = (size_t)(c->n_layers > 0 ? c->n_layers : 0);
    bool as_known = true, *has = calloc(n, sizeof *has);
    if (!has) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a list of layers");
    for (int32_t l = 0; l < c->n_layers; l++) {
        has[l] = c->layers[l].window > 0;
        if (has[l]) window = c->layers[l].window;
        as_known = as_known && has[l] == (pattern == 0 || (l + 1) % pattern != 0);
    }
    if (window > 0) put_u32(w, "%s.attention.sliding_window", window);
    if (window > 0 && !as_known)
        phx_gguf_write_bools(w->writer, "%s.attention.sliding_window_pattern",
                             w->family->architecture, has, n);
    free(has);
    return PHX_OK;
}

static void put_scales(const struct writing *w)
{
    const struct phx_config *c = w->config;
    const struct phx_layer_shape *s = &c->layers[0].shape;
    double scalar = s->head_dim, own = c->attention_multiplier;
    if (c->n_layers == w->family->layers_by_width) scalar = (double)(c->hidden / s->n_heads);
    bool known = w->family->layers_by_width != 0 && fabs(own * sqrt(scalar) - 1) < 1e-6;
    if (own != 0 && !known) put_f32(w, "%s.attention.scale", own);
    if (c->family == PHX_GEMMA2 || c->attention_soft_cap != 0)
        put_f32(w, "%s.attn_logit_softcapping", (double)c->attention_soft_cap);
    if (c->family == PHX_GEMMA2 || c->logits_soft_cap != 0)
        put_f32(w, "%s.final_logit_softcapping", (double)c->logits_soft_cap);
    if (c->family != PHX_GRANITE) return;
    put_f32(w, "%s.embedding_scale", (double)c->embed_scale);
    put_f32(w, "%s.residual_scale", (double)c->residual_scale);
    put_f32(w, "%s.logit_scale", 1 / (double)c->logits_scale);
}

/* The factors are the same for all lengths, as those of rope_freqs are. */
static bool has_one_list(const struct phx_rope_config *rope)
{
    const int32_t n = rope->rotated / 2;
    if (rope->kind != PHX_ROPE_LONGROPE) return rope->kind == PHX_ROPE_LLAMA3;
    for (int32_t i = 0; i < n; i++)
        if (rope->factors[i] != rope->factors[n + i]) return false;
    return rope->attention_factor == 1;
}

static void put_type(const struct writing *w, const char *type)
{
    phx_gguf_write_text(w->writer, "%s.rope.scaling.type", w->family->architecture, type,
                        strlen(type));
}

static void put_rope(const struct writing *w)
{
    const struct phx_config *c = w->config;
    const struct phx_rope_config *rope = &c->ropes[0];
    put_u32(w, "%s.rope.dimension_count", rope->rotated);
    put_f32(w, "%s.rope.freq_base", rope->theta);
    if (c->family == PHX_GEMMA3) put_f32(w, "%s.rope.freq_base_swa", c->ropes[1].theta);
    switch (rope->kind) {
    case PHX_ROPE_LINEAR:
        put_type(w, "linear");
        put_f32(w, "%s.rope.scaling.factor", rope->factor);
        break;
    case PHX_ROPE_YARN:
        put_type(w, "yarn");
        put_f32(w, "%s.rope.scaling.factor", rope->factor);
        put_u32(w, "%s.rope.scaling.original_context_length", rope->original_max_positions);
        put_f32(w, "%s.rope.scaling.yarn_beta_fast", rope->beta_fast);
        put_f32(w, "%s.rope.scaling.yarn_beta_slow", rope->beta_slow);
        put_f32(w, "%s.rope.scaling.attn_factor",
                rope->attention_factor / (rope->factor > 1 ? 0.1 * log(rope->factor) + 1 : 1));
        break;
    case PHX_ROPE_LONGROPE:
        if (has_one_list(rope)) break;
        put_type(w, "longrope");
        put_u32(w, "%s.rope.scaling.original_context_length", rope->original_max_positions);
        put_f32(w, "%s.rope.scaling.attn_factor", rope->attention_factor);
        break;
    default: /* llama3 is all in rope_freqs; no text here is so long that dynamic does anything */
        break;
    }
}

static void put_tokens(const struct writing *w)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    const struct phx_config *c = w->config;
    if (c->bos >= 0)
        phx_gguf_write_u32(w->writer, "tokenizer.ggml.bos_token_id", "", (uint32_t)c->bos);
    for (int i = 0; i < c->n_eos; i++)
        phx_gguf_write_u32(w->writer, ends[i], "", (uint32_t)c->eos[i]);
}

enum phx_status phx_gguf_write_config(struct phx_gguf_writer *writer, const char *folder,
                                      const struct phx_gguf_family *family,
                                      const struct phx_config *config)
{
    const struct writing w = {writer, folder, family, config};
    PHX_TRY(check_sayable(&w));
    phx_gguf_write_text(writer, "general.architecture", "", family->architecture,
                        strlen(family->architecture));
    put_sizes(&w);
    put_experts(&w);
    PHX_TRY(put_windows(&w));
    put_scales(&w);
    put_rope(&w);
    put_tokens(&w);
    return PHX_OK;
}

/* ---- factors of the rotation ---- */

/* What the frequency of pair i is divided by, for short texts or for long ones. */
static double factor_at(const struct phx_config *c, const float *inv_freq, bool is_long, int32_t i)
{
    const struct phx_rope_config *rope = &c->ropes[0];
    if (rope->kind == PHX_ROPE_LONGROPE) return rope->factors[is_long ? rope->rotated / 2 + i : i];
    return 1 / pow(rope->theta, (double)(2 * i) / rope->rotated) / (double)inv_freq[i];
}

static enum phx_status fill_factors(const struct phx_config *config, struct phx_gguf_factors *out)
{
    float attention, *inv_freq = malloc((size_t)out->count * sizeof *inv_freq);
    for (int t = 0; t < out->n && inv_freq; t++) {
        out->values[t] = malloc((size_t)out->count * sizeof(float));
        if (!out->values[t]) break;
        phx_config_inv_freq(config, 0, inv_freq, &attention);
        for (int32_t i = 0; i < out->count; i++)
            out->values[t][i] = (float)factor_at(config, inv_freq, t == 1, i);
    }
    bool ok = inv_freq && out->values[out->n - 1];
    free(inv_freq);
    return ok ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "no memory for the factors of a rotation");
}

enum phx_status phx_gguf_factors_create(const struct phx_config *config,
                                        struct phx_gguf_factors *out)
{
    const struct phx_rope_config *rope = &config->ropes[0];
    *out = (struct phx_gguf_factors){.count = rope->rotated / 2};
    if (rope->kind != PHX_ROPE_LLAMA3 && rope->kind != PHX_ROPE_LONGROPE) return PHX_OK;
    out->n = has_one_list(rope) ? 1 : 2;
    out->names[0] = out->n == 1 ? "rope_freqs.weight" : "rope_factors_short.weight";
    out->names[1] = "rope_factors_long.weight";
    enum phx_status status = fill_factors(config, out);
    if (status != PHX_OK) phx_gguf_factors_free(out);
    return status;
}

void phx_gguf_factors_free(struct phx_gguf_factors *factors)
{
    for (int t = 0; t < 2; t++) free(factors->values[t]);
    *factors = (struct phx_gguf_factors){0};
}
