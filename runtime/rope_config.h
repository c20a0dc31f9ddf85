/// \file rope_config.h
/// The rotary rule of a config.json, in its older and its newer place.
#ifndef PHX_RUNTIME_ROPE_CONFIG_H
#define PHX_RUNTIME_ROPE_CONFIG_H

#include "runtime/config.h"
#include "runtime/json.h"

/// Into config's ropes; after sizes. `json` is the whole config: older keys rope_theta and
/// rope_scaling {type or rope_type, ...}, newer key rope_parameters {rope_theta, rope_type, ...},
/// in families with two rotations {full_attention {...}, sliding_attention {...}}. Both may be
/// there if they agree. PHX_UNSUPPORTED names a type, or a key of a type, that this program does
/// not follow.
enum phx_status phx_rope_config_parse(const struct phx_json *json, struct phx_config *config);

#endif
