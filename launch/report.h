/// \file report.h
/// The one line on stderr with which a run ends: what was done, how fast, with how much memory.
#ifndef PHX_LAUNCH_REPORT_H
#define PHX_LAUNCH_REPORT_H

#include "kernels/base/status.h"
#include "launch/run.h"

/// Collective; rank 0 writes: prompt tokens and tok/s, generated tokens and tok/s, load seconds and
/// GB/s read a rank, the largest peak memory of a rank, a hash of the last logits.
enum phx_status phx_report_run(struct phx_run *run);

#endif
