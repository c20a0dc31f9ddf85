/// \file placement.h
/// Which processors and which GPU a rank computes on. Pure: a table of the machine in, a decision
/// out.
///
/// On the CPU a rank gets the cores that are allowed (by the cgroup's set and its quota) divided by
/// the ranks on the node, at least one, a thread each; as many threads as the user asks for
/// instead. Threads are pinned, one to a core, only if the ranks fill the machine exactly: then
/// moving a thread can only do harm. A job that leaves cores free, shares cores, runs under a
/// quota, or was bound by somebody else, is not pinned, so that two jobs do not meet on the same
/// cores.
///
/// On GPUs a rank takes, of those that it sees, the one of its place among the node's ranks,
/// counted round: under mpirun all ranks see all GPUs, under srun each may see but its own. It
/// stays on the processors near the GPU, as far as somebody else's binding lets it. Whether two
/// ranks of the job have come to the same GPU is another question: seats.h.
#ifndef PHX_LAUNCH_PLACEMENT_H
#define PHX_LAUNCH_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"
#include "launch/topology_hwloc.h"

struct phx_placement {
    int n_threads;
    int *cpus;    ///< [n_threads] processor numbers to pin to; NULL: no pinning
    bool crowded; ///< the node's ranks have more threads than there are cores
    int gpu;      ///< index into the topology's; -1: the rank computes on the CPU
    int *binding; ///< [n_binding] processor numbers for the whole rank, before it takes memory;
                  ///< NULL: it stays where it is
    int n_binding;
    char warning[512]; ///< a sentence for the user; "": none
};

/// On a GPU if the topology has any. `threads` on the CPU: asked for, or 0. Refused (PHX_USAGE):
/// more threads than one for a rank that is bound to one core of several, which mpirun does by
/// default; the sentence names --bind-to none, and who else may have bound it.
enum phx_status phx_placement_create(const struct phx_topology *topology, int node_rank,
                                     int node_size, int threads, struct phx_placement **out);
void phx_placement_destroy(struct phx_placement *placement);

/// "0-15,32-47" for processor numbers, which are sorted; "..." at the end if `bytes` do not hold
/// all.
void phx_processors_text(int *numbers, int n, size_t bytes, char *out);

#endif
