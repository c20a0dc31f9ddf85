/// \file progress.h
/// A progress bar on a terminal's stderr, for work that takes over a second.
#ifndef PHX_LAUNCH_PROGRESS_H
#define PHX_LAUNCH_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct phx_progress {
    bool wanted;
    bool drawn;
    double start, last; ///< seconds
};

/// True if a person sees what this process writes to stderr. Under mpirun a rank's own stderr is a
/// pipe: then it is the stderr of its parent that counts.
bool phx_stderr_is_terminal(void);

/// Nothing is drawn unless `wanted` and stderr is a terminal.
void phx_progress_start(struct phx_progress *bar, bool wanted);
/// `user` is the bar; the signature is that of phx_load_options.
void phx_progress_update(void *user, size_t done_bytes, size_t total_bytes);
/// Wipes the bar.
void phx_progress_end(struct phx_progress *bar);

#endif
