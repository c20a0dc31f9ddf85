/// \file probe.h
/// What audit and compare read from the command line, both alike.
#ifndef PHX_LAUNCH_VERBS_PROBE_H
#define PHX_LAUNCH_VERBS_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "launch/options.h"
#include "launch/run.h"

/// The prompt as token ids: -p, -f, --prompt-ids, or a sentence of our own. Rank 0; free with
/// free().
enum phx_status phx_probe_prompt(const struct phx_options *options, const struct phx_run *run,
                                 int32_t **out_ids, int32_t *out_n);

/// "all" (or NULL) or "0,5": which of `n` things named `what` are meant; *out is [n], free with
/// free().
enum phx_status phx_probe_choose(const char *flag, const char *text, const char *what, int32_t n,
                                 bool **out);

/// How far, relatively, a correct device of this kind may be from the truth over one layer.
double phx_probe_tolerance(const struct phx_run_settings *settings,
                           const struct phx_config *config);

#endif
