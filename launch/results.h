/// \file results.h
/// Where rank 0 writes results, so that an interrupted mpirun does not lose them.
///
/// A rank's standard output is a pseudo-terminal that mpirun reads. Once interrupted, mpirun reads
/// nothing while it ends its ranks (interrupt.h); then it forwards what lies in the
/// pseudo-terminal, 12 KB, and ends. What does not fit is therefore left to a process that is no
/// rank: it waits for mpirun's end, so that all else has arrived, and appends the rest to what was
/// mpirun's standard output. It lives for some milliseconds after mpirun, ten seconds at most.
///
/// The rest is lost where mpirun is not this process's parent (rank 0 on another machine than
/// mpirun, a launcher of another MPI), where its standard output cannot be opened (a socket), or
/// where with its end the terminal or the container ends (mpirun run by ssh -t or docker run).
#ifndef PHX_LAUNCH_RESULTS_H
#define PHX_LAUNCH_RESULTS_H

#include <stddef.h>
#include <stdio.h>

#include "kernels/base/status.h"

struct phx_results {
    FILE *file; ///< to be written to
    int own;    ///< standard output, but without waiting; -1: `file` is stdout
    int mpirun; ///< mpirun's standard output; -1: `file` is stdout
    char *rest; ///< what mpirun no longer takes
    size_t bytes, capacity;
};

/// Before anything is written to standard output. `out` stays where it is until it is closed.
void phx_results_open(struct phx_results *out);
/// Flushes, and leaves the rest, if there is any, to another process. PHX_IO: something could not
/// be written. Nothing happens if `results` is zero or closed.
enum phx_status phx_results_close(struct phx_results *results);

#endif
