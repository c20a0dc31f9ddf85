/// \file sampling.h
/// How a verb of the command line draws tokens.
#ifndef PHX_LAUNCH_SAMPLING_H
#define PHX_LAUNCH_SAMPLING_H

#include "kernels/ops.h"
#include "launch/options.h"
#include "runtime/config.h"

/// The options, and where they were not given what the model's generation_config.json says. Without
/// a seed one is drawn, and told if it matters.
enum phx_status phx_sampling_choose(const struct phx_options *options,
                                    const struct phx_config *config, struct phx_sampling *out);

#endif
