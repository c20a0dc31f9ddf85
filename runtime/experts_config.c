#include "runtime/experts_config.h"

#include <inttypes.h>

#include "kernels/base/check.h"

/* Columns of all experts of a layer together: no published model comes near. */
enum { MAX_ALL_COLUMNS = 1 << 24 };

static const char *const count_keys[] = {"num_experts", "num_local_experts"};

static enum phx_status refuse(const struct phx_json *json)
{
    for (int i = 0; i < 2; i++) {
        const json_t *value = phx_json_get(json, count_keys[i]);
        if (!value || (json_is_number(value) && json_number_value(value) == 0)) continue;
        char text[PHX_JSON_TEXT_BYTES];
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: %s is %s: a model with experts is not supported under this "
                        "model_type; only 0 would work",
                        json->file, count_keys[i], phx_json_text(value, text));
    }
    return PHX_OK;
}

/* Both keys may be there if they agree. */
static enum phx_status parse_count(const struct phx_json *json, int64_t fallback, int64_t *out)
{
    int64_t counts[2] = {-1, -1};
    for (int i = 0; i < 2; i++)
        PHX_TRY(phx_json_int(json, count_keys[i], 0, PHX_MAX_EXPERTS, &counts[i]));
    if (counts[0] >= 0 && counts[1] >= 0 && counts[0] != counts[1])
        return phx_fail(PHX_BAD_DATA,
                        "%s: num_experts is %" PRId64 " but num_local_experts is %" PRId64
                        "; give one",
                        json->file, counts[0], counts[1]);
    *out = counts[0] >= 0 ? counts[0] : counts[1] >= 0 ? counts[1] : fallback;
    return PHX_OK;
}

/* Layers that mlp_only_layers names, and all but every decoder_sparse_step-th, have none. */
static enum phx_status set_layers(const struct phx_json *json,
                                  const struct phx_layer_shape *experts, struct phx_config *config)
{
    const struct phx_layer_shape plain = config->layers[0].shape;
    int64_t step = 1;
    const json_t *dense = NULL;
    PHX_TRY(phx_json_int(json, "decoder_sparse_step", 1, INT32_MAX, &step));
    PHX_TRY(phx_json_array(json, "mlp_only_layers", &dense));
    for (int32_t l = 0; l < config->n_layers; l++)
        if ((l + 1) % step == 0) config->layers[l].shape = *experts;
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *value = json_array_get(dense, i);
        json_int_t layer = json_integer_value(value);
        if (!json_is_integer(value) || layer < 0 || layer >= config->n_layers) {
            char text[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_BAD_DATA,
                            "%s: mlp_only_layers[%zu] is %s; it must be a layer, 0 to %d",
                            json->file, i, phx_json_text(value, text), config->n_layers - 1);
        }
        config->layers[layer].shape = plain;
    }
    return PHX_OK;
}

enum phx_status phx_config_divide_experts(struct phx_config *config)
{
    for (int32_t l = 0; l < config->n_layers; l++)
        if (config->layers[l].shape.n_experts > 0) config->expert_parallel = true;
    if (config->expert_parallel) return PHX_OK;
    return phx_fail(PHX_USAGE,
                    "--expert-parallel: the model (%s) has no experts to divide; leave it out",
                    config->model_type);
}

enum phx_status phx_experts_config_parse(const struct phx_json *json, enum phx_experts_rule rule,
                                         struct phx_config *config)
{
    /* Where a key is absent: as in the configuration classes of transformers. */
    static const struct {
        int64_t n_experts, n_chosen, columns, shared; /* columns 0: those of the MLP */
        bool normalize;
    } defaults[] = {
        [PHX_EXPERTS_MIXTRAL] = {8, 2, 0, 0, true},
        [PHX_EXPERTS_QWEN2] = {60, 4, 1408, 5632, false},
        [PHX_EXPERTS_QWEN3] = {128, 8, 768, 0, false},
    };
    if (rule == PHX_EXPERTS_NONE) return refuse(json);
    struct phx_layer_shape shape = config->layers[0].shape;
    int64_t n = 0, n_chosen = defaults[rule].n_chosen;
    bool qwen = rule != PHX_EXPERTS_MIXTRAL;
    PHX_TRY(parse_count(json, defaults[rule].n_experts, &n));
    if (n == 0 && qwen) return PHX_OK; /* no layer has any */
    if (n == 0) return phx_fail(PHX_BAD_DATA, "%s: num_local_experts is 0", json->file);
    PHX_TRY(phx_json_int(json, "num_experts_per_tok", 1, n < PHX_MAX_CHOSEN ? n : PHX_MAX_CHOSEN,
                         &n_chosen));
    config->normalize_choice = defaults[rule].normalize;
    shape.n_experts = (int32_t)n;
    shape.moe_ffn = qwen ? defaults[rule].columns : shape.ffn;
    shape.shared_ffn = defaults[rule].shared;
    if (qwen) {
        PHX_TRY(phx_json_int(json, "moe_intermediate_size", 1, MAX_ALL_COLUMNS, &shape.moe_ffn));
        PHX_TRY(phx_json_bool(json, "norm_topk_prob", &config->normalize_choice));
    }
    if (rule == PHX_EXPERTS_QWEN2)
        PHX_TRY(phx_json_int(json, "shared_expert_intermediate_size", 1, MAX_ALL_COLUMNS,
                             &shape.shared_ffn));
    if (n_chosen > n || n * shape.moe_ffn > MAX_ALL_COLUMNS)
        return phx_fail(PHX_BAD_DATA,
                        "%s: %" PRId64 " experts of %" PRId64 " columns, %" PRId64
                        " of them for a token: more than can be",
                        json->file, n, shape.moe_ffn, n_chosen);
    config->n_chosen = (int32_t)n_chosen;
    shape.ffn = 0;
    if (qwen) return set_layers(json, &shape, config);
    for (int32_t l = 0; l < config->n_layers; l++) config->layers[l].shape = shape;
    return PHX_OK;
}
