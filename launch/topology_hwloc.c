#include "launch/topology_hwloc.h"

#include <errno.h>
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>

#include "launch/cgroup.h"

/// Objects come in logical order: NUMA nodes and cores side by side.
static void fill(hwloc_topology_t hw, hwloc_const_bitmap_t binding, struct phx_topology *out)
{
    hwloc_obj_t last_core = NULL;
    int core = -1;
    for (int i = 0; i < out->n_processors; i++) {
        hwloc_obj_t pu = hwloc_get_obj_by_type(hw, HWLOC_OBJ_PU, (unsigned)i);
        hwloc_obj_t its_core = hwloc_get_ancestor_obj_by_type(hw, HWLOC_OBJ_CORE, pu);
        if (!its_core || its_core != last_core) core++; /* some virtual machines tell no cores */
        last_core = its_core;
        int numa = hwloc_bitmap_first(pu->nodeset);
        out->processors[i] = (struct phx_processor){
            .number = (int)pu->os_index,
            .core = core,
            .numa = numa < 0 ? 0 : numa,
            .bound = hwloc_bitmap_isset(binding, pu->os_index),
        };
    }
}

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the table of processors");
}

static enum phx_status read_machine(hwloc_topology_t hw, struct phx_topology *out)
{
    if (hwloc_topology_load(hw)) {
        return phx_fail(PHX_UNSUPPORTED, "hwloc cannot read this machine: %s", strerror(errno));
    }
    int n = hwloc_get_nbobjs_by_type(hw, HWLOC_OBJ_PU);
    if (n < 1) return phx_fail(PHX_UNSUPPORTED, "hwloc finds no processor on this machine");
    hwloc_bitmap_t binding = hwloc_bitmap_alloc();
    out->processors = calloc((size_t)n, sizeof *out->processors);
    if (!binding || !out->processors) {
        hwloc_bitmap_free(binding);
        return no_memory();
    }
    /* Where bindings cannot be told there are none. */
    if (hwloc_get_cpubind(hw, binding, HWLOC_CPUBIND_THREAD)) hwloc_bitmap_fill(binding);
    out->n_processors = n;
    out->cpu_quota = phx_cgroup_cpu_quota("");
    fill(hw, binding, out);
    hwloc_bitmap_free(binding);
    return PHX_OK;
}

enum phx_status phx_topology_create(struct phx_topology **out)
{
    hwloc_topology_t hw;
    struct phx_topology *topology = calloc(1, sizeof *topology);
    if (!topology) return no_memory();
    enum phx_status status;
    if (hwloc_topology_init(&hw)) {
        status = no_memory();
    } else {
        status = read_machine(hw, topology);
        hwloc_topology_destroy(hw);
    }
    if (status != PHX_OK) {
        phx_topology_destroy(topology);
        return status;
    }
    *out = topology;
    return PHX_OK;
}

void phx_topology_destroy(struct phx_topology *topology)
{
    if (!topology) return;
    free(topology->processors);
    free(topology);
}
