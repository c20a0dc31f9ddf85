/* Which layers of a GGUF's model have windows, and which have experts. */
#include <inttypes.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_config_impl.h"

static void set_layer_types(const struct phx_gguf_maker *m, const struct phx_gguf_value *value,
                            int64_t pattern)
{
    json_t *types = json_array();
    int64_t n = value ? (int64_t)value->count : phx_gguf_layers(m);
    for (int64_t l = 0; l < n; l++) {
        bool sliding = pattern == 0 || (l + 1) % pattern != 0;
        if (value && value->type == PHX_GGUF_BOOL) sliding = value->data[l] != 0;
        if (value && value->type != PHX_GGUF_BOOL)
            sliding = phx_gguf_int_at(value, (uint64_t)l) != 0;
        json_array_append_new(types, json_string(sliding ? "sliding_attention" : "full_attention"));
    }
    phx_gguf_set(m, "layer_types", types);
}

/* The key says it for each layer, or that each so-manieth layer has none. */
static enum phx_status set_windows(const struct phx_gguf_maker *m)
{
    char key[PHX_GGUF_KEY_BYTES];
    int64_t pattern = 0;
    phx_gguf_key_of(m, "attention.sliding_window_pattern", key);
    const struct phx_gguf_value *value = phx_gguf_find(m->gguf, key);
    if (phx_gguf_number(m, "sliding_window") == 0) {
        phx_gguf_set(m, "sliding_window", json_null());
        return PHX_OK;
    }
    phx_gguf_set(m, "use_sliding_window", json_true());
    if (value && value->is_array && value->type != PHX_GGUF_BOOL)
        PHX_TRY(phx_gguf_ints(m->gguf, key, &value));
    if (value && !value->is_array) PHX_TRY(phx_gguf_int(m->gguf, key, 1, INT32_MAX, &pattern));
    if (value || m->family->window_pattern == 0)
        set_layer_types(m, value && value->is_array ? value : NULL, pattern);
    return PHX_OK;
}

/* Some tensor of a layer, whichever has it first; 0 if none has. */
static int64_t rows_of(const struct phx_gguf_maker *m, const char *suffix, int dim)
{
    for (size_t i = 0; i < phx_gguf_tensor_count(m->gguf); i++) {
        const struct phx_file_tensor *t = phx_gguf_tensor_at(m->gguf, i);
        size_t length = strlen(t->name), tail = strlen(suffix);
        if (length >= tail && strcmp(t->name + length - tail, suffix) == 0 && t->n_dims > dim)
            return t->shape[dim];
    }
    return 0;
}

static enum phx_status set_experts(const struct phx_gguf_maker *m)
{
    char key[PHX_GGUF_KEY_BYTES];
    bool normalizes = m->family->normalizes_choice;
    json_t *dense = json_array();
    phx_gguf_set(m, "mlp_only_layers", dense);
    for (int64_t l = 0; l < phx_gguf_layers(m); l++)
        if (!phx_gguf_has(m, "blk.%d.ffn_gate_inp.weight", l))
            json_array_append_new(dense, json_integer(l));
    PHX_TRY(phx_gguf_bool(m->gguf, phx_gguf_key_of(m, "expert_weights_norm", key), &normalizes));
    phx_gguf_set(m, "norm_topk_prob", json_boolean(normalizes));
    /* Older files leave these widths to the tensors. */
    static const struct {
        const char *json, *suffix;
        int dim;
    } widths[] = {{"moe_intermediate_size", "ffn_gate_exps.weight", 1},
                  {"shared_expert_intermediate_size", "ffn_gate_shexp.weight", 0}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        int64_t width = rows_of(m, widths[i].suffix, widths[i].dim);
        if (phx_gguf_number(m, widths[i].json) == 0 && width > 0)
            phx_gguf_set(m, widths[i].json, json_integer(width));
    }
    return PHX_OK;
}

/* Mixtral has experts in all layers, as wide as its MLP, and other words. */
static enum phx_status set_mixtral(const struct phx_gguf_maker *m)
{
    char key[PHX_GGUF_KEY_BYTES];
    bool normalizes = true;
    PHX_TRY(phx_gguf_bool(m->gguf, phx_gguf_key_of(m, "expert_weights_norm", key), &normalizes));
    if (!normalizes)
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: key %s is false, which this architecture does not have; only true "
                        "would work",
                        phx_gguf_path(m->gguf), key);
    phx_gguf_set(m, "num_local_experts", json_integer(phx_gguf_number(m, "num_experts")));
    json_object_del(m->json, "num_experts");
    json_object_del(m->json, "moe_intermediate_size");
    return PHX_OK;
}

enum phx_status phx_gguf_set_layers(const struct phx_gguf_maker *maker)
{
    PHX_TRY(set_windows(maker));
    if (phx_gguf_number(maker, "num_experts") == 0) return PHX_OK;
    return maker->family->experts_type ? set_mixtral(maker) : set_experts(maker);
}
