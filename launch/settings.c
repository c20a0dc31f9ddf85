#include "launch/settings.h"

#include <stdlib.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/site.h"

enum phx_dtype phx_settings_kv_dtype(const struct phx_options *options,
                                     enum phx_dtype device_default)
{
    static const enum phx_dtype types[] = {
        [PHX_KV_F32] = PHX_F32, [PHX_KV_F16] = PHX_F16, [PHX_KV_BF16] = PHX_BF16};
    return options->kv_cache == PHX_KV_AUTO ? device_default : types[options->kv_cache];
}

/* What this rank can find out by itself. */
static enum phx_status find_place(const struct phx_world *world, const struct phx_options *options,
                                  struct phx_site **site, struct phx_placement **placement)
{
    int tp = options->tensor_parallel_size;
    if (tp != 0 && tp != world->size)
        return phx_fail(PHX_USAGE,
                        "-tp %d, but %d %s running: the number of ranks is mpirun's -np (mpirun "
                        "-np %d --bind-to none phalanx ...)",
                        tp, world->size, world->size == 1 ? "rank is" : "ranks are", tp);
    PHX_TRY(phx_site_create(options, site));
    return phx_placement_create((*site)->topology, world->node_rank, world->node_size,
                                options->threads, placement);
}

/* The same on all ranks: the most that share a GPU. `out_warns`: this rank is the first that has a
 * warning. */
static enum phx_status compare(struct phx_world *world, const struct phx_options *options,
                               const struct phx_site *site, const struct phx_placement *placement,
                               int *out_sharers, bool *out_warns)
{
    struct phx_seat *seats;
    PHX_TRY(phx_site_gather(site, placement, world, &seats));
    enum phx_status status =
        phx_seats_check(seats, world->size, world->rank, options->share_gpu, out_sharers);
    *out_warns = seats[world->rank].warned;
    for (int r = 0; r < world->rank; r++) *out_warns = *out_warns && !seats[r].warned;
    free(seats);
    return status;
}

/* Without a binding everything works, more slowly. */
static void settle(const struct phx_site *site, const struct phx_placement *placement)
{
    if (placement->gpu < 0) return;
    const struct phx_device_info *gpu = &site->gpus[placement->gpu];
    phx_log(PHX_LOG_INFO, "GPU %d of %d: %s, %.*s at %s", placement->gpu, site->n_gpus, gpu->name,
            PHX_SHORT_UUID, gpu->uuid, gpu->pci_id);
    if (placement->binding == NULL) return;
    if (phx_topology_bind(placement->binding, placement->n_binding) != PHX_OK) {
        phx_log(PHX_LOG_WARN, "%s", phx_fail_sentence());
        phx_fail_clear();
    }
}

static enum phx_status make(struct phx_world *world, const struct phx_options *options,
                            struct phx_site **site, struct phx_placement **placement,
                            struct phx_run_settings *out)
{
    int sharers = 1;
    bool warns = false;
    PHX_TRY(phx_world_agree(world, find_place(world, options, site, placement)));
    const struct phx_placement *place = *placement;
    PHX_TRY(phx_world_agree(world, compare(world, options, *site, place, &sharers, &warns)));
    if (world->rank == 0 && options->device == PHX_CHOOSE_AUTO && place->gpu < 0 &&
        phx_device_built(PHX_DEVICE_CUDA))
        phx_log(PHX_LOG_WARN, "%s: computing on the CPU", (*site)->no_gpu);
    if (warns) phx_log(PHX_LOG_WARN, "%s", place->warning);
    settle(*site, place);
    *out = (struct phx_run_settings){
        .model = options->model,
        .dummy = options->load_format == PHX_LOAD_DUMMY,
        .load_mode = (enum phx_load_mode)options->load_mode,
        .expert_parallel = options->expert_parallel,
        .context = options->context,
        .device = (*site)->device,
        .compute = options->compute == PHX_COMPUTE_BFLOAT16 ? PHX_BF16 : PHX_F32,
        .weights_type = options->compute == PHX_COMPUTE_AUTO,
        .n_threads = place->n_threads,
        .crowded = place->crowded,
        .cpus = place->cpus,
        .isa = options->cpu_isa,
        .gpu = place->gpu,
        .gpu_sharers = sharers,
        .eager = options->enforce_eager,
        .allreduce = (enum phx_allreduce)options->allreduce,
        .gpu_memory_utilization = options->gpu_memory_utilization,
        .choose_kv = options->kv_cache != PHX_KV_AUTO,
        .kv_dtype = phx_settings_kv_dtype(options, PHX_F32),
        .watchdog_timeout_s = options->watchdog_timeout,
        .progress = true,
    };
    return PHX_OK;
}

enum phx_status phx_settings_make(struct phx_world *world, const struct phx_options *options,
                                  struct phx_placement **placement, struct phx_run_settings *out)
{
    struct phx_site *site = NULL;
    *placement = NULL;
    enum phx_status status = make(world, options, &site, placement, out);
    phx_site_destroy(site);
    return status;
}
