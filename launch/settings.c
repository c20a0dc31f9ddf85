#include "launch/settings.h"

#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/topology_hwloc.h"

static enum phx_status choose_device(const struct phx_options *options, enum phx_device_kind *out)
{
    const char *reason;
    *out = PHX_DEVICE_CPU;
    if (options->device == PHX_CHOOSE_CPU) return PHX_OK;
    if (phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        *out = PHX_DEVICE_CUDA;
        return PHX_OK;
    }
    if (options->device == PHX_CHOOSE_CUDA)
        return phx_fail(PHX_UNSUPPORTED, "--device cuda: %s", reason);
    return PHX_OK;
}

static enum phx_status make(struct phx_world *world, const struct phx_options *options,
                            struct phx_placement **placement, struct phx_run_settings *out)
{
    int tp = options->tensor_parallel_size;
    if (tp != 0 && tp != world->size)
        return phx_fail(PHX_USAGE,
                        "-tp %d, but %d %s running: the number of ranks is mpirun's -np (mpirun "
                        "-np %d --bind-to none phalanx ...)",
                        tp, world->size, world->size == 1 ? "rank is" : "ranks are", tp);
    enum phx_device_kind device;
    PHX_TRY(choose_device(options, &device));
    struct phx_topology *topology = NULL;
    PHX_TRY(phx_topology_create(&topology));
    enum phx_status status = phx_placement_create(topology, world->node_rank, world->node_size,
                                                  options->threads, placement);
    phx_topology_destroy(topology);
    if (status != PHX_OK) return status;
    *out = (struct phx_run_settings){.model = options->model,
                                     .dummy = options->load_format == PHX_LOAD_DUMMY,
                                     .device = device,
                                     .compute = options->compute == PHX_COMPUTE_BFLOAT16 ? PHX_BF16
                                                                                         : PHX_F32,
                                     .weights_type = options->compute == PHX_COMPUTE_AUTO,
                                     .n_threads = (*placement)->n_threads,
                                     .crowded = (*placement)->crowded,
                                     .cpus = (*placement)->cpus,
                                     .isa = options->cpu_isa,
                                     .progress = true};
    if (world->rank == 0 && (*placement)->warning[0] != '\0')
        phx_log(PHX_LOG_WARN, "%s", (*placement)->warning);
    return PHX_OK;
}

enum phx_status phx_settings_make(struct phx_world *world, const struct phx_options *options,
                                  struct phx_placement **placement, struct phx_run_settings *out)
{
    *placement = NULL;
    return phx_world_agree(world, make(world, options, placement, out));
}
