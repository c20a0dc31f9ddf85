/* One process makes the plans of all ranks, for devices on paper. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/model_path.h"
#include "launch/placement.h"
#include "launch/settings.h"
#include "launch/verbs/plan_report.h"
#include "launch/verbs/verbs.h"
#include "runtime/weights_check.h"

enum {
    MOST_RANKS = 4096,
    MANY_SMS = 132, /* as of an H100, for a GPU of which only the memory is known */
};

struct job {
    const struct phx_options *options;
    struct phx_config *config;
    struct phx_checkpoint *checkpoint;
    struct phx_topology *topology; /* of this machine, for ranks on its CPU */
    struct phx_layer_shape *layers;
    struct phx_model_shape shape;
    struct phx_plan_report report;
};

/* ---- what is asked ---- */

/* "80GiB", "40GB" */
static bool read_memory(const char *text, size_t *out)
{
    char *unit;
    errno = 0;
    double number = strtod(text, &unit);
    bool gib = strcmp(unit, "GiB") == 0, gb = strcmp(unit, "GB") == 0;
    if (errno != 0 || !(gib || gb) || !(number >= 1 && number <= 1e6)) return false;
    *out = (size_t)(number * (gib ? 1024.0 * 1024.0 * 1024.0 : 1e9));
    return true;
}

static enum phx_dtype activation_on_gpu(const struct job *job)
{
    int compute = job->options->compute;
    if (compute == PHX_COMPUTE_AUTO) return job->config->dtype;
    return compute == PHX_COMPUTE_BFLOAT16 ? PHX_BF16 : PHX_F32;
}

static enum phx_status choose_gpu(struct job *job, const char *text)
{
    struct phx_plan_report *r = &job->report;
    const struct phx_gpu_kind *gpu = phx_gpu_kind_find(text);
    enum phx_dtype act = activation_on_gpu(job);
    size_t bytes = gpu != NULL ? gpu->memory_bytes : 0;
    if (gpu == NULL && !read_memory(text, &bytes))
        return phx_fail(PHX_USAGE,
                        "--gpu %s: must be h200, h100, a100, or a GPU's memory as in 80GiB", text);
    r->gpu = gpu;
    r->device = (struct phx_device_info){.kind = PHX_DEVICE_CUDA,
                                         .memory_total_bytes = bytes,
                                         .memory_free_bytes = bytes,
                                         .activation = act,
                                         .kv_default = act,
                                         .n_units = gpu != NULL ? gpu->n_sms : MANY_SMS};
    snprintf(r->device.name, sizeof r->device.name, "%s", gpu != NULL ? gpu->full_name : "a GPU");
    if (gpu == NULL) r->no_prediction = "of this GPU only the memory is known";
    if (act == PHX_F32) r->no_prediction = "it is made for 16-bit products only";
    return PHX_OK;
}

static enum phx_status choose_cpu(struct job *job)
{
    struct phx_device_info *info = &job->report.device;
    PHX_TRY(phx_device_describe(PHX_DEVICE_CPU, 0, info));
    PHX_TRY(phx_topology_create(NULL, 0, &job->topology));
    snprintf(info->name, sizeof info->name, "the CPU of this machine");
    info->memory_free_bytes = phx_host_free_bytes();
    info->activation = info->kv_default = PHX_F32;
    job->report.no_prediction = "there is none for CPUs";
    return PHX_OK;
}

/* What generate would ask for with so many texts of such a length. */
static struct phx_scheduler_limits limits_of(const struct job *job, int64_t context,
                                             int64_t n_texts)
{
    return phx_run_limits(job->config, job->report.device.kind,
                          &(struct phx_run_needs){.max_seqs = (int32_t)n_texts,
                                                  .max_rows = job->options->max_batched_tokens,
                                                  .max_length = (int32_t)context});
}

static enum phx_status prepare(struct job *job)
{
    const struct phx_options *o = job->options;
    struct phx_plan_report *r = &job->report;
    const struct phx_config *c = job->config;
    PHX_TRY(o->gpu != NULL ? choose_gpu(job, o->gpu) : choose_cpu(job));
    if (o->context > c->max_positions)
        return phx_fail(PHX_USAGE, "-c %d: the model has positions for %lld tokens", o->context,
                        (long long)c->max_positions);
    r->config = c;
    r->checkpoint = job->checkpoint;
    r->utilization = o->gpu_memory_utilization;
    r->kv_dtype = phx_settings_kv_dtype(o, r->device.kv_default);
    r->context = o->context != 0 ? o->context : c->max_positions;
    r->n_texts = o->batch;
    r->limits = limits_of(job, r->context, r->n_texts);
    int64_t rows = r->limits.max_rows < r->context ? r->limits.max_rows : r->context;
    r->prompt = (struct phx_step_shape){.n_seqs = 1, .n_rows = rows, .length = rows};
    return PHX_OK;
}

/* That the files are those of the config: as of one rank, who holds all. */
static enum phx_status check_weights(const struct job *job)
{
    struct phx_shard_plan *whole;
    if (job->checkpoint == NULL) return PHX_OK;
    PHX_TRY(phx_shard_plan_create(&job->shape, 1, 0, &whole));
    enum phx_status status = phx_weights_check(job->config, whole, job->checkpoint);
    phx_shard_plan_destroy(whole);
    return status;
}

static enum phx_status open_model(struct job *job)
{
    char directory[PHX_PATH_BYTES];
    PHX_TRY(phx_model_path(job->options->model, directory));
    PHX_TRY(phx_config_load(directory, &job->config));
    if (job->options->expert_parallel) PHX_TRY(phx_config_divide_experts(job->config));
    job->layers = calloc((size_t)job->config->n_layers, sizeof *job->layers);
    if (job->layers == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the plan");
    job->shape = phx_config_shape(job->config, job->layers);
    if (job->options->load_format == PHX_LOAD_DUMMY) return PHX_OK;
    enum phx_status status = phx_checkpoint_open(directory, &job->checkpoint);
    /* A folder with only a config.json is a model too. */
    if (status == PHX_NOT_FOUND && job->options->load_format == PHX_LOAD_AUTO) {
        phx_fail_clear();
        return PHX_OK;
    }
    return status;
}

/* ---- a number of ranks ---- */

static enum phx_status make_device(const struct job *job, int size, int rank,
                                   struct phx_device **out)
{
    struct phx_device_info info = job->report.device;
    if (info.kind == PHX_DEVICE_CPU) {
        struct phx_placement *placement;
        PHX_TRY(phx_placement_create(job->topology, rank, size, job->options->threads, &placement));
        info.n_units = placement->n_threads;
        phx_placement_destroy(placement);
    }
    return phx_device_on_paper(&info, out);
}

static void make_memory(const struct job *job, const struct phx_plan_case *c,
                        const struct phx_scheduler_limits *limits, const struct phx_plan_rank *rank,
                        struct phx_memory_plan *out)
{
    const struct phx_plan_report *r = &job->report;
    bool on_gpu = r->device.kind == PHX_DEVICE_CUDA;
    struct phx_memory_share share = {
        .device = rank->device, .n_sharers = on_gpu ? 1 : c->size, .utilization = r->utilization};
    struct phx_comm_options comm = {
        .kind = phx_run_comm_kind(c->size, r->device.kind, 1),
        .allreduce = (enum phx_allreduce)job->options->allreduce,
    };
    phx_memory_plan_make(r->config, rank->plan, r->checkpoint, &share, &comm, limits, r->kv_dtype,
                         0, out);
}

static bool fits(const struct job *job, const struct phx_plan_case *c, int64_t context,
                 int64_t n_texts)
{
    struct phx_scheduler_limits limits = limits_of(job, context, n_texts);
    for (int rank = 0; rank < c->size; rank++) {
        struct phx_memory_plan memory;
        make_memory(job, c, &limits, &c->ranks[rank], &memory);
        if (phx_memory_plan_bytes(&memory, limits.n_pages) > memory.room_bytes) return false;
    }
    return true;
}

/* The most that fits: tokens of the texts asked for, or texts of the length asked for. More of
 * either never takes less. */
static int64_t find_most(const struct job *job, const struct phx_plan_case *c, bool of_texts)
{
    const struct phx_plan_report *r = &job->report;
    int64_t fit = 0, most = r->config->max_positions;
    if (of_texts) {
        int64_t pages = INT64_C(1) << 30; /* what a table of pages can count */
        most = pages / (r->context / PHX_PAGE_TOKENS + 2);
        if (most > PHX_MAX_SEQS) most = PHX_MAX_SEQS;
    }
    while (fit < most) {
        int64_t middle = most - (most - fit) / 2;
        if (of_texts ? fits(job, c, r->context, middle) : fits(job, c, middle, r->n_texts))
            fit = middle;
        else
            most = middle - 1;
    }
    return fit;
}

static void add_work(const struct job *job, const struct phx_plan_rank *rank,
                     struct phx_plan_case *c)
{
    const struct phx_plan_report *r = &job->report;
    const struct phx_step_shape token = {.n_seqs = 1, .n_rows = 1, .length = r->context};
    const struct phx_step_shape decode = {.n_seqs = r->n_texts, .n_rows = 1, .length = r->context};
    struct phx_step_work work;
    phx_step_work_of(r->config, rank->plan, r->checkpoint, rank->device, r->kv_dtype, &token,
                     &work);
    c->sum_bytes = work.sum_bytes;
    if (!c->predicted) return;
    phx_step_work_of(r->config, rank->plan, r->checkpoint, rank->device, r->kv_dtype, &decode,
                     &work);
    c->decode_s = fmax(c->decode_s, phx_step_seconds(r->gpu, c->size, &work));
    phx_step_work_of(r->config, rank->plan, r->checkpoint, rank->device, r->kv_dtype, &r->prompt,
                     &work);
    c->prompt_s = fmax(c->prompt_s, phx_step_seconds(r->gpu, c->size, &work));
}

static enum phx_status fill_case(const struct job *job, struct phx_plan_case *c)
{
    const struct phx_scheduler_limits *limits = &job->report.limits;
    size_t most_bytes = 0, least_bytes = SIZE_MAX;
    c->ranks = calloc((size_t)c->size, sizeof *c->ranks);
    if (c->ranks == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %d ranks", c->size);
    for (int r = 0; r < c->size; r++) {
        struct phx_plan_rank *rank = &c->ranks[r];
        PHX_TRY(phx_shard_plan_create(&job->shape, c->size, r, &rank->plan));
        PHX_TRY(make_device(job, c->size, r, &rank->device));
        make_memory(job, c, limits, rank, &rank->memory);
        size_t bytes = phx_memory_plan_bytes(&rank->memory, limits->n_pages);
        if (bytes > most_bytes) most_bytes = bytes, c->fullest = r;
        if (bytes < least_bytes) least_bytes = bytes, c->lightest = r;
    }
    c->fits = fits(job, c, job->report.context, job->report.n_texts);
    c->longest = find_most(job, c, false);
    c->most_texts = find_most(job, c, true);
    c->predicted =
        c->fits && job->report.no_prediction == NULL && c->size <= PHX_STEP_MODEL_MAX_RANKS;
    for (int r = 0; r < c->size; r++) add_work(job, &c->ranks[r], c);
    return PHX_OK;
}

/* Not as many ranks: the plan's own sentence is the result. */
static enum phx_status add_case(struct job *job, int size, bool *out_possible)
{
    struct phx_plan_report *r = &job->report;
    struct phx_plan_case *cases = realloc(r->cases, ((size_t)r->n_cases + 1) * sizeof *cases);
    if (cases == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the plan");
    struct phx_plan_case *c = &cases[r->n_cases++];
    struct phx_shard_plan *plan = NULL;
    r->cases = cases;
    *c = (struct phx_plan_case){.size = size};
    enum phx_status status = phx_shard_plan_create(&job->shape, size, 0, &plan);
    phx_shard_plan_destroy(plan);
    *out_possible = status == PHX_OK;
    if (status == PHX_OK) return fill_case(job, c);
    if (status != PHX_USAGE) return status;
    snprintf(c->refusal, sizeof c->refusal, "%s", phx_fail_sentence());
    phx_fail_clear();
    return PHX_OK;
}

static enum phx_status add_cases(struct job *job)
{
    const char *text = job->options->ranks;
    bool possible = true;
    if (strcmp(text, "all") == 0) {
        for (int size = 1; possible; size++) PHX_TRY(add_case(job, size, &possible));
        return PHX_OK;
    }
    for (const char *at = text;;) {
        char *end;
        long size = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0') || size < 1 || size > MOST_RANKS)
            return phx_fail(PHX_USAGE, "-T %s: must be all, or a list like 1,2,4 of at most %d",
                            text, MOST_RANKS);
        PHX_TRY(add_case(job, (int)size, &possible));
        if (*end == '\0') return PHX_OK;
        at = end + 1;
    }
}

/* ---- */

static void clean_up(struct job *job)
{
    struct phx_plan_report *r = &job->report;
    for (int i = 0; i < r->n_cases; i++) {
        struct phx_plan_case *c = &r->cases[i];
        for (int rank = 0; c->ranks != NULL && rank < c->size; rank++) {
            phx_shard_plan_destroy(c->ranks[rank].plan);
            phx_device_destroy(c->ranks[rank].device);
        }
        free(c->ranks);
    }
    free(r->cases);
    free(job->layers);
    phx_topology_destroy(job->topology);
    phx_checkpoint_destroy(job->checkpoint);
    phx_config_destroy(job->config);
}

static enum phx_status work(const struct phx_options *options)
{
    struct job job = {.options = options};
    enum phx_status status = open_model(&job);
    if (status == PHX_OK) status = check_weights(&job);
    if (status == PHX_OK) status = prepare(&job);
    if (status == PHX_OK) status = add_cases(&job);
    if (status == PHX_OK)
        status = options->json ? phx_plan_print_json(&job.report) : phx_plan_print(&job.report);
    clean_up(&job);
    return status;
}

enum phx_status phx_verb_plan(struct phx_world *world, const struct phx_options *options)
{
    return phx_world_agree(world, world->rank == 0 ? work(options) : PHX_OK);
}
