/// \file audit_output.h
/// An audit's results, for people and for machines. Rank 0, after phx_audit_judge.
#ifndef PHX_LAUNCH_VERBS_AUDIT_OUTPUT_H
#define PHX_LAUNCH_VERBS_AUDIT_OUTPUT_H

#include <stdbool.h>
#include <stdio.h>

#include "runtime/audit.h"

struct phx_audit_view {
    const struct phx_audit *audit;
    const struct phx_config *config;
    const bool *layers; ///< [n_layers]
    const bool *heads;  ///< [H of the widest layer] whose reads are shown
    int n_ranks;
};

/// CONFIG, MAP, PTRS, SCORES and AGG of each layer, then the gates, their neighbours, a verdict.
enum phx_status phx_audit_print(const struct phx_audit_view *view, FILE *file);
/// The same as one JSON object; the README names its members.
enum phx_status phx_audit_print_json(const struct phx_audit_view *view, FILE *file);

#endif
