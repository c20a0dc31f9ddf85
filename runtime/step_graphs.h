/// \file step_graphs.h
/// Decode steps recorded once and replayed: the whole decoder pass, sampling included, in one
/// launch.
///
/// A graph is kept for each number of rows (which phx_batch rounds up to a few sizes) and each way
/// to draw. The first step of a kind runs as it is, since libraries then choose their algorithms;
/// the second one is recorded. Whatever changes from step to step lies at fixed places in device
/// memory, so no graph is ever recorded again as texts grow. All ranks see the same steps and so
/// record at the same ones.
#ifndef PHX_RUNTIME_STEP_GRAPHS_H
#define PHX_RUNTIME_STEP_GRAPHS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "runtime/forward.h"

struct phx_step_graphs;

/// `enabled` false: every step runs as it is. The forward outlives it.
enum phx_status phx_step_graphs_create(struct phx_forward *forward, int32_t max_seqs, bool enabled,
                                       struct phx_step_graphs **out);
void phx_step_graphs_destroy(struct phx_step_graphs *graphs);

/// As phx_forward_run.
enum phx_status phx_step_graphs_run(struct phx_step_graphs *graphs, struct phx_stream *stream,
                                    const struct phx_step *step, struct phx_forward_result *out);
/// Steps that were replayed.
int64_t phx_step_graphs_replayed(const struct phx_step_graphs *graphs);

#endif
