/// \file layers_config.h
/// What differs between the layers of a model: windows, and which rotation, if any.
#ifndef PHX_RUNTIME_LAYERS_CONFIG_H
#define PHX_RUNTIME_LAYERS_CONFIG_H

#include "runtime/config.h"
#include "runtime/json.h"

/// Into the window and rope of config's layers.
enum phx_status phx_layers_config_parse(const struct phx_json *json, struct phx_config *config);

#endif
