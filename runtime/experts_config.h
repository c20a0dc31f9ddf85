/// \file experts_config.h
/// The mixture of experts of a config.json: which layers have one, of how many, how rows are sent.
#ifndef PHX_RUNTIME_EXPERTS_CONFIG_H
#define PHX_RUNTIME_EXPERTS_CONFIG_H

#include "runtime/config.h"
#include "runtime/json.h"

/// What the families' keys are called, and mean where they are absent.
enum phx_experts_rule {
    PHX_EXPERTS_NONE,    ///< a count of experts other than 0 is refused
    PHX_EXPERTS_MIXTRAL, ///< every layer; columns as intermediate_size says; weights add up to 1
    PHX_EXPERTS_QWEN2,   ///< with a shared expert
    PHX_EXPERTS_QWEN3
};

/// Into config's n_chosen and normalize_choice, and into the shapes of its layers, which have the
/// columns of intermediate_size in all others.
enum phx_status phx_experts_config_parse(const struct phx_json *json, enum phx_experts_rule rule,
                                         struct phx_config *config);

#endif
