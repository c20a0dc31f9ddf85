/// \file topology_hwloc.h
/// The machine as a flat table. The only pair of files that knows hwloc; the table itself is plain
/// data, so that tests make machines by hand.
#ifndef PHX_LAUNCH_TOPOLOGY_HWLOC_H
#define PHX_LAUNCH_TOPOLOGY_HWLOC_H

#include <stdbool.h>

#include "kernels/base/status.h"

/// A processor as the operating system counts them: a hardware thread of a core.
struct phx_processor {
    int number; ///< of the operating system
    int core;   ///< 0, 1, ...: processors of one core have the same
    int numa;   ///< NUMA node
    bool bound; ///< the calling thread may run here: not excluded by a binding (mpirun's, taskset)
};

/// Where a GPU is attached.
struct phx_gpu_site {
    int numa;   ///< NUMA node, the first of several; -1: the machine does not tell
    bool *near; ///< [n_processors]: belongs to the part of the machine that the GPU is attached to
};

struct phx_topology {
    int n_processors;
    struct phx_processor *processors; ///< those that the cgroup allows; of a NUMA node and of a
                                      ///< core side by side; core never decreases
    double cpu_quota;                 ///< processors' worth of time that the cgroup allows; 0: all
    int n_gpus;
    struct phx_gpu_site *gpus; ///< [n_gpus], in the order in which they were asked for
};

/// `pci_ids` [n_gpus]: the GPUs that this process may compute on, by ordinal ("0000:3b:00.0"). One
/// that the machine does not show is near to every processor. PHX_UNSUPPORTED if the machine cannot
/// be read.
enum phx_status phx_topology_create(const char *const *pci_ids, int n_gpus,
                                    struct phx_topology **out);
void phx_topology_destroy(struct phx_topology *topology);

/// The calling thread, and those that it will start, run on these n processors only; their memory
/// then comes from there too. PHX_UNSUPPORTED if the system refuses.
enum phx_status phx_topology_bind(const int *numbers, int n);

#endif
