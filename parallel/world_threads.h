/// \file world_threads.h
/// A job whose ranks are threads of one process: tensor parallelism under a debugger and the
/// sanitizers.
#ifndef PHX_PARALLEL_WORLD_THREADS_H
#define PHX_PARALLEL_WORLD_THREADS_H

#include "parallel/world.h"

/// Run `body` as rank 0..size-1, each on a thread of its own with its own world, and wait for all.
/// The world is finished and destroyed for the body; a body that fails aborts it. Returns PHX_OK if
/// every body did, otherwise the status of the lowest rank whose status is not PHX_OK (PHX_PEER
/// only if no rank says more), and its sentence is recorded in the calling thread.
enum phx_status phx_world_threads_run(int size,
                                      enum phx_status (*body)(struct phx_world *world, void *user),
                                      void *user);

/// The same as if ranks [n k, n k + k) were on machine n, with k = `ranks_per_node`: these share
/// memory with each other only.
enum phx_status phx_world_threads_run_on_nodes(int size, int ranks_per_node,
                                               enum phx_status (*body)(struct phx_world *world,
                                                                       void *user),
                                               void *user);

#endif
