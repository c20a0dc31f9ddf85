#include "launch/topology_hwloc.h"

#include <errno.h>
#include <hwloc.h>
#include <sched.h>
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

/// What the GPU is attached to: a node, a socket, or, for want of anything better, the machine.
static hwloc_obj_t host_of(hwloc_topology_t hw, const char *pci_id)
{
    hwloc_obj_t gpu = hwloc_get_pcidev_by_busidstring(hw, pci_id);
    return gpu ? hwloc_get_non_io_ancestor_obj(hw, gpu) : hwloc_get_root_obj(hw);
}

static enum phx_status fill_gpus(hwloc_topology_t hw, const char *const *pci_ids, int n_gpus,
                                 struct phx_topology *out)
{
    if (n_gpus == 0) return PHX_OK;
    out->gpus = calloc((size_t)n_gpus, sizeof *out->gpus);
    if (!out->gpus) return no_memory();
    for (; out->n_gpus < n_gpus; out->n_gpus++) {
        hwloc_obj_t host = host_of(hw, pci_ids[out->n_gpus]);
        struct phx_gpu_site *site = &out->gpus[out->n_gpus];
        site->near = calloc((size_t)out->n_processors, sizeof *site->near);
        if (!site->near) return no_memory();
        bool tells = host->parent || hwloc_get_nbobjs_by_type(hw, HWLOC_OBJ_NUMANODE) == 1;
        site->numa = tells ? hwloc_bitmap_first(host->nodeset) : -1;
        for (int i = 0; i < out->n_processors; i++) {
            site->near[i] = hwloc_bitmap_isset(host->cpuset, (unsigned)out->processors[i].number);
        }
    }
    return PHX_OK;
}

static enum phx_status read_machine(hwloc_topology_t hw, const char *const *pci_ids, int n_gpus,
                                    struct phx_topology *out)
{
    /* GPUs are among the important devices; what drivers know of them is not asked for. */
    if (n_gpus > 0)
        hwloc_topology_set_type_filter(hw, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
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
    return fill_gpus(hw, pci_ids, n_gpus, out);
}

enum phx_status phx_topology_create(const char *const *pci_ids, int n_gpus,
                                    struct phx_topology **out)
{
    hwloc_topology_t hw;
    struct phx_topology *topology = calloc(1, sizeof *topology);
    if (!topology) return no_memory();
    enum phx_status status;
    if (hwloc_topology_init(&hw)) {
        status = no_memory();
    } else {
        status = read_machine(hw, pci_ids, n_gpus, topology);
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
    for (int g = 0; g < topology->n_gpus; g++) free(topology->gpus[g].near);
    free(topology->gpus);
    free(topology->processors);
    free(topology);
}

enum phx_status phx_topology_bind(const int *numbers, int n)
{
    int last = 0;
    for (int i = 0; i < n; i++) last = numbers[i] > last ? numbers[i] : last;
    size_t bytes = CPU_ALLOC_SIZE(last + 1);
    cpu_set_t *set = CPU_ALLOC(last + 1);
    if (!set) return no_memory();
    CPU_ZERO_S(bytes, set);
    for (int i = 0; i < n; i++) CPU_SET_S((size_t)numbers[i], bytes, set);
    int failed = sched_setaffinity(0, bytes, set);
    CPU_FREE(set);
    if (failed) return phx_fail(PHX_UNSUPPORTED, "cannot bind this rank: %s", strerror(errno));
    return PHX_OK;
}
