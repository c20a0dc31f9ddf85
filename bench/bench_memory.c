/* What a run takes of a GPU beside what is planned: the driver, CUDA's libraries, NCCL, the graphs
 * of recorded steps. A model with made-up weights is started and decodes a little. The GPUs must be
 * empty otherwise: what is theirs in all is asked for.
 *
 *   [mpirun -np N] bench_memory -m DIR [--eager]
 *
 * Under mpirun each rank has the GPU of its place on the node. A JSON object for each rank on
 * stdout, in MB: the bare context of a process; the plan; beside it, and with the context in it,
 * once the run is started, and after decoding. What NCCL takes is what N ranks take more than one.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/run.h"
#include "launch/world_mpi.h"

enum { N_PROMPT = 16, N_NEW = 16 };

struct measured {
    char gpu[sizeof((struct phx_device_info *)NULL)->name];
    size_t context, planned, started, decoded; /* bytes */
};

static size_t used_bytes(const struct phx_device *device)
{
    struct phx_device_info info;
    phx_device_info(device, &info);
    return info.memory_total_bytes - info.memory_free_bytes;
}

/* A device with its context and nothing else. The context stays. */
static enum phx_status measure_context(const struct phx_run_settings *settings,
                                       struct measured *out)
{
    struct phx_device *device = NULL;
    struct phx_device_info info;
    PHX_TRY(phx_device_create(&(struct phx_device_options){.kind = settings->device,
                                                           .ordinal = settings->gpu,
                                                           .n_threads = 1,
                                                           .compute = PHX_BF16},
                              &device));
    phx_device_info(device, &info);
    memcpy(out->gpu, info.name, sizeof out->gpu);
    out->context = used_bytes(device);
    phx_device_destroy(device);
    return PHX_OK;
}

static enum phx_status decode(struct phx_engine *engine)
{
    int32_t ids[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) ids[i] = 100 + i;
    struct phx_request *request = NULL;
    struct phx_request_options o = {.prompt_ids = ids,
                                    .n_prompt = N_PROMPT,
                                    .max_new = N_NEW,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1}};
    PHX_TRY(phx_request_create(&o, &request));
    enum phx_status status = phx_engine_submit(engine, request);
    for (bool worked = true; worked && status == PHX_OK;) status = phx_engine_step(engine, &worked);
    if (status == PHX_OK) status = phx_engine_stop(engine);
    phx_request_destroy(request);
    return status;
}

static enum phx_status measure(struct phx_run *run, struct measured *out)
{
    const struct phx_run_needs needs = {.max_seqs = 1, .max_length = 4096};
    PHX_TRY(phx_run_start(run, &needs));
    out->planned = phx_memory_plan_bytes(&run->memory, run->limits.n_pages);
    out->started = used_bytes(run->device);
    PHX_TRY(phx_world_barrier(run->world)); /* no rank steps before all have looked */
    PHX_TRY(run->world->rank == 0 ? decode(run->engine) : phx_engine_follow(run->engine));
    out->decoded = used_bytes(run->device);
    phx_run_finish(run);
    return PHX_OK;
}

static enum phx_status report(struct phx_world *world, const struct measured *own)
{
    struct measured *all = calloc((size_t)world->size, sizeof *all);
    if (all == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for what the ranks measured");
    enum phx_status status = phx_world_allgather(world, own, sizeof *own, all);
    for (int r = 0; r < world->size && world->rank == 0 && status == PHX_OK; r++) {
        const struct measured *m = &all[r];
        double planned = (double)m->planned / 1e6;
        printf("{\"set\": \"memory\", \"tp\": %d, \"rank\": %d, \"gpu\": \"%s\", "
               "\"context_mb\": %.1f, \"planned_mb\": %.1f, \"beside_started_mb\": %.1f, "
               "\"beside_mb\": %.1f}\n",
               world->size, r, m->gpu, (double)m->context / 1e6, planned,
               (double)m->started / 1e6 - planned, (double)m->decoded / 1e6 - planned);
    }
    free(all);
    return status;
}

static enum phx_status run_bench(struct phx_world *world, struct phx_run_settings *settings)
{
    struct measured own = {.context = 0};
    struct phx_run *run = NULL;
    settings->gpu = world->node_rank;
    PHX_TRY(phx_world_agree(world, measure_context(settings, &own)));
    PHX_TRY(phx_run_open(world, settings, &run));
    enum phx_status status = measure(run, &own);
    phx_run_destroy(run);
    PHX_TRY(status);
    return report(world, &own);
}

static enum phx_status parse(int argc, char **argv, struct phx_run_settings *settings)
{
    static const struct option names[] = {{"model", required_argument, NULL, 'm'},
                                          {"eager", no_argument, NULL, 'e'},
                                          {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "m:", names, NULL)) != -1;) {
        if (c == 'm') settings->model = optarg;
        if (c == 'e') settings->eager = true;
        if (c == '?') return phx_fail(PHX_USAGE, "see the head of bench_memory.c");
    }
    return settings->model != NULL ? PHX_OK : phx_fail(PHX_USAGE, "-m DIR is needed");
}

int main(int argc, char **argv)
{
    struct phx_run_settings settings = {
        .dummy = true, .device = PHX_DEVICE_CUDA, .compute = PHX_BF16, .n_threads = 1};
    struct phx_world *world = NULL;
    enum phx_status status = phx_world_mpi_create(&argc, &argv, &world);
    if (status == PHX_OK) status = phx_world_agree(world, parse(argc, argv, &settings));
    if (status == PHX_OK) status = run_bench(world, &settings);
    if (status != PHX_OK && phx_fail_sentence()[0] != '\0')
        fprintf(stderr, "bench_memory: %s\n", phx_fail_sentence());
    if (world != NULL) phx_world_finish(world);
    phx_world_destroy(world);
    return status == PHX_OK ? 0 : 1;
}
