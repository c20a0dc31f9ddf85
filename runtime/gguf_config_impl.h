/// \file gguf_config_impl.h
/// What the files share that make a config.json out of a GGUF's metadata. Only they include this.
#ifndef PHX_RUNTIME_GGUF_CONFIG_IMPL_H
#define PHX_RUNTIME_GGUF_CONFIG_IMPL_H

#include <jansson.h>

#include "runtime/gguf_model.h"

struct phx_gguf_maker {
    const struct phx_gguf *gguf;
    const struct phx_gguf_family *family;
    json_t *json;
};

enum { PHX_GGUF_KEY_BYTES = 128 };
/// "ARCHITECTURE.key"; returns `text`.
const char *phx_gguf_key_of(const struct phx_gguf_maker *maker, const char *key,
                            char text[PHX_GGUF_KEY_BYTES]);

/// The object takes `value`.
void phx_gguf_set(const struct phx_gguf_maker *maker, const char *key, json_t *value);
/// A whole number that was set; 0: it was not.
int64_t phx_gguf_number(const struct phx_gguf_maker *maker, const char *key);

/// Layers, of which the file has tensors.
int64_t phx_gguf_layers(const struct phx_gguf_maker *maker);
/// True if there is the tensor that `pattern`, with one %d for the layer, names.
bool phx_gguf_has(const struct phx_gguf_maker *maker, const char *pattern, int64_t layer);

/// head_dim, the part of it that is rotated, and rope_scaling.
enum phx_status phx_gguf_set_rope(const struct phx_gguf_maker *maker);

/// Which layers have windows, and which have experts.
enum phx_status phx_gguf_set_layers(const struct phx_gguf_maker *maker);

#endif
