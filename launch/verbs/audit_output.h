/// \file audit_output.h
/// An audit's results, for people and for machines. Rank 0, after phx_audit_judge.
#ifndef PHX_LAUNCH_VERBS_AUDIT_OUTPUT_H
#define PHX_LAUNCH_VERBS_AUDIT_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "runtime/audit.h"

struct phx_audit_view {
    const struct phx_audit *audit;
    const struct phx_config *config;
    const bool *layers; ///< [n_layers]
    const bool *heads;  ///< [H of the widest layer] whose reads are shown
    bool brief;         ///< no reads, and layers that are alike are shown once
    int n_ranks;
};

/// CONFIG, MAP, PTRS, SCORES and AGG of each layer, then the gates, their neighbours, a verdict.
enum phx_status phx_audit_print(const struct phx_audit_view *view, FILE *file);
/// All of it, and more, as one object: docs/audit.md. NULL: no memory.
json_t *phx_audit_json(const struct phx_audit_view *view);

#endif
