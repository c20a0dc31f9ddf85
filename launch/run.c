#include "launch/run.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/model_path.h"
#include "launch/progress.h"
#include "runtime/weights_check.h"

static enum phx_status open_model(struct phx_run *run)
{
    char model[PHX_PATH_BYTES];
    PHX_TRY(phx_model_path(run->settings.model, model));
    run->directory = strdup(model);
    if (run->directory == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a path");
    PHX_TRY(phx_config_load(model, &run->config));
    if (run->settings.context > run->config->max_positions)
        return phx_fail(PHX_USAGE, "-c %d: the model has positions for %lld tokens",
                        run->settings.context, (long long)run->config->max_positions);
    if (run->settings.context > 0) run->config->context = run->settings.context;
    if (run->settings.expert_parallel) PHX_TRY(phx_config_divide_experts(run->config));
    struct phx_layer_shape *layers = calloc((size_t)run->config->n_layers, sizeof *layers);
    if (layers == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the plan");
    struct phx_model_shape shape = phx_config_shape(run->config, layers);
    enum phx_status status =
        phx_shard_plan_create(&shape, run->world->size, run->world->rank, &run->plan);
    free(layers);
    if (status != PHX_OK || run->settings.dummy) return status;
    PHX_TRY(phx_checkpoint_open(model, &run->checkpoint));
    return phx_weights_check(run->config, run->plan, run->checkpoint);
}

enum phx_status phx_run_open(struct phx_world *world, const struct phx_run_settings *settings,
                             struct phx_run **out)
{
    *out = NULL;
    struct phx_run *run = calloc(1, sizeof *run);
    enum phx_status status = PHX_OK;
    if (run == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for a run");
    } else {
        run->world = world;
        run->settings = *settings;
        status = open_model(run);
    }
    status = phx_world_agree(world, status);
    if (status != PHX_OK) {
        phx_run_destroy(run);
        return status;
    }
    *out = run;
    return PHX_OK;
}

static int32_t min32(int64_t a, int64_t b)
{
    return (int32_t)(a < b ? a : b);
}

int32_t phx_run_step_tokens(enum phx_device_kind device)
{
    return device == PHX_DEVICE_CUDA ? 2048 : 512;
}

struct phx_scheduler_limits phx_run_limits(const struct phx_config *config,
                                           enum phx_device_kind device,
                                           const struct phx_run_needs *needs)
{
    const int32_t rows = needs->max_rows != 0 ? needs->max_rows : phx_run_step_tokens(device);
    struct phx_scheduler_limits l = {.max_seqs = needs->max_seqs,
                                     .max_rows = rows,
                                     .max_length = min32(needs->max_length, config->max_positions),
                                     .share = needs->share_prefixes};
    /* No step has more rows than all texts together. */
    l.max_rows = min32(l.max_rows, (int64_t)l.max_seqs * l.max_length);
    if (l.max_rows < l.max_seqs) l.max_rows = l.max_seqs;
    l.max_outputs = l.max_seqs;
    if (needs->all_logits) {
        /* As many rows of logits as 64 MiB hold: more would not make a product faster. */
        int64_t fit = ((int64_t)64 << 20) / (config->vocab * (int64_t)sizeof(float));
        int32_t outputs = min32(l.max_rows, fit);
        if (outputs > l.max_outputs) l.max_outputs = outputs;
    }
    int64_t tokens = needs->total_tokens;
    int64_t all = (int64_t)l.max_seqs * l.max_length;
    if (tokens == 0 || tokens > all) tokens = all;
    /* Each sequence may leave its last page partly empty. */
    l.n_pages = phx_kv_blocks_for(tokens) + l.max_seqs;
    return l;
}

static bool needs_logits(const struct phx_run_needs *needs)
{
    return needs->logits || needs->all_logits;
}

/* Steps under way at most. */
static int n_ahead(const struct phx_run *run)
{
    struct phx_device_info info;
    phx_device_info(run->device, &info);
    return info.has_graphs || run->settings.overlap ? PHX_MAX_AHEAD : 1;
}

/* Rows of logits on rank 0's host: what steps hand out, and what the verb keeps of it. */
static int64_t host_rows(const struct phx_run *run, const struct phx_run_needs *needs,
                         const struct phx_scheduler_limits *limits)
{
    int64_t rows = (int64_t)limits->max_outputs * n_ahead(run);
    return (needs_logits(needs) ? rows : 0) + needs->kept_rows;
}

static enum phx_status make_device(struct phx_run *run)
{
    const struct phx_run_settings *s = &run->settings;
    bool weights_type = s->weights_type && s->device == PHX_DEVICE_CUDA;
    return phx_device_create(
        &(struct phx_device_options){.kind = s->device,
                                     .ordinal = s->gpu,
                                     .n_threads = s->n_threads,
                                     .crowded = s->crowded,
                                     .isa = s->isa,
                                     .cpus = s->cpus,
                                     .compute = weights_type ? run->config->dtype : s->compute},
        &run->device);
}

enum phx_dtype phx_run_kv_dtype(const struct phx_run *run)
{
    struct phx_device_info info;
    phx_device_info(run->device, &info);
    return run->settings.choose_kv ? run->settings.kv_dtype : info.kv_default;
}

enum phx_comm_kind phx_run_comm_kind(int size, enum phx_device_kind device, int gpu_sharers)
{
    if (size == 1) return PHX_COMM_SOLO;
    /* NCCL takes no two ranks of one GPU. */
    return device == PHX_DEVICE_CUDA && gpu_sharers <= 1 ? PHX_COMM_NCCL : PHX_COMM_HOST;
}

/* Collective. How many pages the cache has on each rank: limits->n_pages, or fewer. */
static enum phx_status plan_memory(struct phx_run *run, const struct phx_run_needs *needs,
                                   struct phx_scheduler_limits *limits)
{
    const struct phx_run_settings *s = &run->settings;
    struct phx_world *world = run->world;
    struct phx_memory_share share = {
        .device = run->device,
        .n_sharers = s->device == PHX_DEVICE_CPU ? world->node_size : s->gpu_sharers,
        .utilization = s->gpu_memory_utilization > 0 ? s->gpu_memory_utilization : 0.9};
    if (share.n_sharers < 1) share.n_sharers = 1;
    struct phx_comm_options comm = {.kind =
                                        phx_run_comm_kind(world->size, s->device, s->gpu_sharers),
                                    .allreduce = s->allreduce};
    phx_memory_plan_make(run->config, run->plan, run->checkpoint, &share, &comm, limits,
                         phx_run_kv_dtype(run), host_rows(run, needs, limits), &run->memory);
    struct phx_memory_plan *all = calloc((size_t)world->size, sizeof *all);
    enum phx_status status =
        all != NULL ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "no memory for the ranks' plans");
    PHX_TRY_GOTO(phx_world_agree(world, status), done);
    PHX_TRY_GOTO(phx_world_allgather(world, &run->memory, sizeof run->memory, all), done);
    status = phx_world_agree(
        world, phx_memory_plans_settle(all, world->size, world->rank, &share, limits));
done:
    free(all);
    return status;
}

static enum phx_status make_comm(struct phx_run *run)
{
    if (run->settings.crowded) run->world->crowded = true; /* its waits sleep, like the pool's */
    return phx_comm_create(run->world, run->device, &run->memory.comm, &run->comm);
}

static enum phx_status load_weights(struct phx_run *run)
{
    if (run->settings.dummy)
        return phx_weights_dummy(run->config, run->plan, run->stream, &run->weights, &run->load);
    struct phx_progress bar;
    phx_progress_start(&bar, run->settings.progress && run->world->rank == 0);
    struct phx_load_options options = {
        .mode = run->settings.load_mode, .progress = phx_progress_update, .progress_user = &bar};
    enum phx_status status = phx_weights_load(run->config, run->plan, run->checkpoint, run->stream,
                                              &options, &run->weights, &run->load);
    phx_progress_end(&bar);
    return status;
}

/* One CPU rank has nobody to wait for. */
static enum phx_status make_watchdog(struct phx_run *run)
{
    int timeout_s = run->settings.watchdog_timeout_s;
    bool waits = run->world->size > 1 || run->settings.device != PHX_DEVICE_CPU;
    if (timeout_s == 0 || !waits) return PHX_OK;
    return phx_watchdog_create(&(struct phx_watchdog_parts){run->world, run->config, timeout_s},
                               &run->watchdog);
}

struct phx_engine_parts phx_run_parts(const struct phx_run *run)
{
    return (struct phx_engine_parts){.world = run->world,
                                     .device = run->device,
                                     .stream = run->stream,
                                     .comm = run->comm,
                                     .watchdog = run->watchdog,
                                     .partials = run->partials,
                                     .config = run->config,
                                     .plan = run->plan,
                                     .weights = run->weights};
}

static enum phx_status make_engine(struct phx_run *run, const struct phx_run_needs *needs,
                                   const struct phx_scheduler_limits *limits)
{
    struct phx_engine_parts parts = phx_run_parts(run);
    return phx_engine_create(&parts,
                             &(struct phx_engine_options){.limits = *limits,
                                                          .kv_dtype = phx_run_kv_dtype(run),
                                                          .logits = needs_logits(needs),
                                                          .n_ahead = n_ahead(run),
                                                          .graphs = !run->settings.eager,
                                                          .pads = n_ahead(run) > 1},
                             &run->engine);
}

/* What was read against an even part of the files. */
static void log_load(const struct phx_load_report *load, int size)
{
    double even = load->file_bytes > 0 ? (double)load->fetch_bytes * size / (double)load->file_bytes
                                       : 0; /* no files */
    phx_log(PHX_LOG_INFO,
            "weights: %.1f MB in the files; this rank's are %.1f MB, for which it read %.1f MB, "
            "%.2f of an even part; %.1f MB kept, %.2f s",
            (double)load->file_bytes / 1e6, (double)load->read_bytes / 1e6,
            (double)load->fetch_bytes / 1e6, even, (double)load->device_bytes / 1e6, load->seconds);
}

enum phx_status phx_run_start(struct phx_run *run, const struct phx_run_needs *needs)
{
    struct phx_world *world = run->world;
    struct phx_run_needs shared = *needs;
    PHX_TRY(phx_world_agree(world, phx_world_broadcast(world, &shared, sizeof shared, 0)));
    struct phx_scheduler_limits limits = phx_run_limits(run->config, run->settings.device, &shared);
    PHX_TRY(phx_world_agree(world, make_watchdog(run)));
    PHX_TRY(phx_world_agree(world, make_device(run)));
    PHX_TRY(plan_memory(run, &shared, &limits));
    PHX_TRY(phx_world_agree(
        world, phx_stream_create(run->device, &run->memory.stream_limits, &run->stream)));
    PHX_TRY(make_comm(run));
    /* A phase of its own, since it is collective: nobody may fail before it and leave the others.
     */
    PHX_TRY(phx_world_agree(
        world, phx_comm_buffer(run->comm, run->memory.partials_bytes, &run->partials)));
    PHX_TRY(phx_world_agree(world, load_weights(run)));
    PHX_TRY(phx_world_agree(world, make_engine(run, &shared, &limits)));
    phx_watchdog_begin(run->watchdog, run->comm);
    run->limits = limits;
    char sums[128];
    phx_comm_describe(run->comm, sums, sizeof sums);
    if (world->size > 1) phx_log(PHX_LOG_INFO, "sums over ranks: %s", sums);
    phx_log(PHX_LOG_INFO, "steps of up to %d texts and %d tokens", limits.max_seqs,
            limits.max_rows);
    log_load(&run->load, world->size);
    return PHX_OK;
}

void phx_run_finish(struct phx_run *run)
{
    phx_engine_destroy(run->engine); /* its graphs hold calls of the communicator */
    run->engine = NULL;
    phx_watchdog_destroy(run->watchdog);
    run->watchdog = NULL;
    if (run->comm != NULL) phx_comm_finish(run->comm);
}

void phx_run_destroy(struct phx_run *run)
{
    if (run == NULL) return;
    phx_engine_destroy(run->engine);
    phx_watchdog_destroy(run->watchdog);
    phx_weights_destroy(run->weights);
    phx_comm_destroy(run->comm);
    phx_stream_destroy(run->stream);
    phx_device_destroy(run->device);
    phx_checkpoint_destroy(run->checkpoint);
    phx_shard_plan_destroy(run->plan);
    phx_config_destroy(run->config);
    free(run->directory);
    free(run);
}
