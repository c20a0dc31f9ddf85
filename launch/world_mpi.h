/// \file world_mpi.h
/// The world over MPI: ranks are processes that mpirun, or another launcher, started.
///
/// Within a node ranks share memory; records travel through it, and waits for them sleep. MPI
/// itself serves start-up, the end, and what goes between nodes. All calls belong to the thread
/// that made the world (MPI_THREAD_FUNNELED).
#ifndef PHX_LAUNCH_WORLD_MPI_H
#define PHX_LAUNCH_WORLD_MPI_H

#include "parallel/world.h"

/// Collective. A process that no launcher started, or only one of, gets a world of one, without
/// MPI. From here on a rank dies with the process that started it.
/// PHX_USAGE: the launcher belongs to another MPI, phx_mpi_launcher_check(). PHX_COMM,
/// PHX_OUT_OF_MEMORY: what MPI reported. An empty sentence then has been, or is, told by another
/// rank.
enum phx_status phx_world_mpi_create(int *argc, char ***argv, struct phx_world **out);

/// The same as if every machine had only `ranks_per_node` of the ranks. For tests.
enum phx_status phx_world_mpi_create_on_nodes(int *argc, char ***argv, int ranks_per_node,
                                              struct phx_world **out);

#endif
