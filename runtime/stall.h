/// \file stall.h
/// Who holds up a step that gets nowhere, and where: the sentence. Pure.
#ifndef PHX_RUNTIME_STALL_H
#define PHX_RUNTIME_STALL_H

#include <stdbool.h>
#include <stddef.h>

#include "parallel/comm.h"
#include "runtime/config.h"

/// A rank of this machine, as another one sees it.
struct phx_stall_rank {
    int rank;
    bool starts; ///< it is not ready for the first step yet
    bool silent; ///< its process does not run: it is stopped, or dead
    bool inside; ///< it launches a step or waits for one; otherwise its device may be done with it
    struct phx_comm_position position; ///< of a silent rank: not looked at, it may be old
};

struct phx_stall {
    const struct phx_config *config;
    const struct phx_stall_rank *ranks; ///< [n_ranks], at least one of them not silent
    int n_ranks;                        ///< of this machine
    int world_size;
    int seconds; ///< for so long nothing went on
};

/// Names the silent ranks if there are any, otherwise those whose position is behind, and the
/// collective in which the others wait for them. If no rank of this machine is behind, the sentence
/// says what is known.
void phx_stall_describe(const struct phx_stall *stall, char *text, size_t bytes);

#endif
