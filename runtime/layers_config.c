#include "runtime/layers_config.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/families.h"

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

/* Without layer_types. */
static bool has_window(enum phx_window_rule rule, const struct phx_config *config, int32_t layer,
                       int64_t max_window_layers, int64_t pattern)
{
    switch (rule) {
    case PHX_WINDOW_UPPER:
        return layer >= max_window_layers;
    case PHX_WINDOW_EVEN_LOWER:
        return layer % 2 == 0 && layer < max_window_layers;
    case PHX_WINDOW_PATTERN:
        return (layer + 1) % pattern != 0;
    case PHX_WINDOW_UNROTATED:
        return config->layers[layer].rope < 0;
    default:
        return true;
    }
}

static enum phx_status parse_windows(const struct phx_json *json, struct phx_config *config)
{
    const struct phx_family_rules *rules = &phx_family_rules[config->family];
    int64_t window = 0, first = 28, pattern = rules->default_pattern;
    bool use = false;
    const json_t *types = NULL;
    PHX_TRY(phx_json_int(json, "sliding_window", 1, INT32_MAX, &window));
    PHX_TRY(phx_json_int(json, "max_window_layers", 0, INT32_MAX, &first));
    PHX_TRY(phx_json_int(json, "sliding_window_pattern", 1, INT32_MAX, &pattern));
    PHX_TRY(phx_json_int(json, "_sliding_window_pattern", 1, INT32_MAX, &pattern));
    PHX_TRY(phx_json_bool(json, "use_sliding_window", &use));
    PHX_TRY(phx_json_array(json, "layer_types", &types));
    /* An absent key is not the same as null. */
    if (!json_object_get(json->object, "sliding_window")) window = rules->default_window;
    if (rules->window_switch && !use) window = 0;
    if (types) return parse_layer_types(json, types, window, config);
    if (rules->window_rule == PHX_WINDOW_NEVER && window != 0) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: sliding_window is %" PRId64
                        ", but model_type %s has windows only through layer_types; null would work",
                        json->file, window, config->model_type);
    }
    for (int32_t i = 0; i < config->n_layers; i++)
        if (has_window(rules->window_rule, config, i, first, pattern))
            config->layers[i].window = (int32_t)window;
    return PHX_OK;
}

/* One number a layer, 0 where it has no rotation. */
static enum phx_status parse_unrotated(const struct phx_json *json, struct phx_config *config)
{
    const json_t *list = NULL;
    int64_t interval = 4;
    PHX_TRY(phx_json_array(json, "no_rope_layers", &list));
    PHX_TRY(phx_json_int(json, "no_rope_layer_interval", 1, INT32_MAX, &interval));
    if (list && json_array_size(list) < (size_t)config->n_layers)
        return phx_fail(PHX_BAD_DATA, "%s: no_rope_layers has %zu entries for num_hidden_layers %d",
                        json->file, json_array_size(list), config->n_layers);
    for (int32_t i = 0; i < config->n_layers; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        json_int_t rotated = list ? json_integer_value(value) : (i + 1) % interval != 0;
        if (list && (!json_is_integer(value) || rotated < 0 || rotated > 1)) {
            char text[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_BAD_DATA, "%s: no_rope_layers[%d] is %s; it must be 0 or 1",
                            json->file, i, phx_json_text(value, text));
        }
        config->layers[i].rope = rotated ? 0 : -1;
    }
    return PHX_OK;
}

enum phx_status phx_layers_config_parse(const struct phx_json *json, struct phx_config *config)
{
    const struct phx_family_rules *rules = &phx_family_rules[config->family];
    if (rules->keys & PHX_KEY_UNROTATED) PHX_TRY(parse_unrotated(json, config));
    PHX_TRY(parse_windows(json, config));
    for (int32_t i = 0; i < config->n_layers; i++)
        if (rules->keys & PHX_KEY_NEAR_THETA && config->layers[i].window > 0)
            config->layers[i].rope = 1;
    return PHX_OK;
}
