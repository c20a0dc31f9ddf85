/// \file site.h
/// What a rank finds on its machine, and the place that it takes there.
#ifndef PHX_LAUNCH_SITE_H
#define PHX_LAUNCH_SITE_H

#include "kernels/base/status.h"
#include "kernels/device.h"
#include "launch/options.h"
#include "launch/placement.h"
#include "launch/seats.h"
#include "launch/topology_hwloc.h"
#include "parallel/world.h"

struct phx_site {
    enum phx_device_kind device;
    char no_gpu[128];             ///< on the CPU: why not on a GPU
    int n_gpus;                   ///< that this process sees; on the CPU: 0
    struct phx_device_info *gpus; ///< [n_gpus], as phx_device_describe() tells
    struct phx_topology *topology;
};

/// Local: asks no other rank, takes nothing of a device. PHX_UNSUPPORTED: a GPU was asked for, and
/// there is none.
enum phx_status phx_site_create(const struct phx_options *options, struct phx_site **out);
void phx_site_destroy(struct phx_site *site);

/// Collective: the seats of all ranks, to be freed. `placement` of the own rank; NULL where it was
/// refused: then the rank's GPU is not known.
enum phx_status phx_site_gather(const struct phx_site *site, const struct phx_placement *placement,
                                struct phx_world *world, struct phx_seat **out);

#endif
