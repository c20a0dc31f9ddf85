#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/seats.h"
#include "launch/settings.h"
#include "launch/verbs/bench_report.h"
#include "launch/verbs/verbs.h"
#include "runtime/weight_walk.h"

struct job {
    struct phx_world *world;
    const struct phx_options *options;
    struct phx_bench_tests tests;
    int n_printed, n_failed;
};

static enum phx_status time_test(struct phx_bench_steps *steps, struct phx_bench_row *row)
{
    struct phx_run *run = steps->run;
    const struct phx_bench_test *test = steps->test;
    int32_t step = run->limits.max_rows;
    int64_t rows = test->n_gen > 0 ? test->n_seqs : (int64_t)test->n_prompt * test->n_seqs;
    row->sum_rows = (int32_t)(rows < step ? rows : step);
    PHX_TRY(phx_bench_begin(run, 0, false));
    PHX_TRY(phx_bench_prepare(steps));
    for (; row->n < steps->options->repetitions; row->n++)
        PHX_TRY(phx_bench_repeat(steps, true, &row->seconds[row->n]));
    PHX_TRY(phx_engine_stop(run->engine));
    row->token_hash = steps->hash;
    PHX_TRY(phx_bench_break_down(steps, &row->parts));
    PHX_TRY(phx_bench_begin(run, 0, false));
    PHX_TRY(phx_bench_leave(steps));
    PHX_TRY(phx_engine_stop(run->engine));
    PHX_TRY(phx_bench_sum(run, row->sum_rows, &row->sum_s));
    PHX_TRY(phx_bench_sum(run, 1, &row->small_sum_s));
    return phx_bench_memory(run, &row->peak_bytes);
}

/* ---- what it comes to ---- */

static void add_work(struct phx_step_work *sum, const struct phx_step_work *w)
{
    sum->weight_bytes += w->weight_bytes;
    sum->cache_bytes += w->cache_bytes;
    sum->product_operations += w->product_operations;
    sum->attention_operations += w->attention_operations;
    sum->n_products += w->n_products;
    sum->n_attentions += w->n_attentions;
    sum->n_sums += w->n_sums;
    sum->sum_bytes += w->sum_bytes;
}

/* Reading a prompt and making tokens have floors of their own. */
static void count_rank(const struct phx_bench_setup *setup, const struct phx_bench_rank *rank,
                       int32_t step, struct phx_bench_row *row)
{
    const struct phx_bench_test *t = &row->test;
    struct phx_bench_test parts[] = {{t->n_prompt, 0, t->depth, t->n_seqs},
                                     {0, t->n_gen, t->depth + t->n_prompt, t->n_seqs}};
    struct phx_step_work both = {0};
    double floor_s = 0, read_s = 0;
    row->n_steps = 0;
    for (int i = 0; i < 2; i++) {
        struct phx_step_work w;
        row->n_steps += phx_bench_test_work(&parts[i], rank, step, &w);
        double reading = phx_step_read_bytes(&w) / setup->yardsticks.read_bytes_s;
        floor_s += fmax(reading, phx_step_operations(&w) / setup->yardsticks.operations_s);
        read_s += reading;
        add_work(&both, &w);
    }
    add_work(&row->all_work, &both);
    if (floor_s <= row->floor_s) return;
    row->floor_s = floor_s;
    row->floor_is_reading = read_s >= floor_s;
    row->work = both;
}

static enum phx_status count_work(const struct phx_bench_setup *setup, struct phx_run *run,
                                  struct phx_bench_row *row)
{
    struct phx_layer_shape *layers = calloc((size_t)run->config->n_layers, sizeof *layers);
    if (layers == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the plans");
    struct phx_model_shape shape = phx_config_shape(run->config, layers);
    enum phx_status status = PHX_OK;
    for (int r = 0; r < run->world->size && status == PHX_OK; r++) {
        struct phx_shard_plan *plan = NULL;
        status = phx_shard_plan_create(&shape, run->world->size, r, &plan);
        if (status != PHX_OK) break;
        struct phx_bench_rank rank = {run->config, plan, run->checkpoint, run->device,
                                      setup->kv_dtype};
        count_rank(setup, &rank, run->limits.max_rows, row);
        phx_shard_plan_destroy(plan);
    }
    free(layers);
    return status;
}

/* What keeps a test from being run: a sentence, or "". */
static void find_obstacle(const struct phx_run *run, const struct phx_bench_test *test,
                          char *sentence, size_t size)
{
    int64_t length = phx_bench_test_length(test) + 2;
    int64_t pages = (int64_t)phx_kv_blocks_for(length) * test->n_seqs;
    sentence[0] = '\0';
    if (length > run->config->max_positions)
        snprintf(sentence, size, "takes %lld positions, the model has %lld", (long long)length,
                 (long long)run->config->max_positions);
    else if (pages > run->limits.n_pages)
        snprintf(
            sentence, size,
            "takes %lld tokens of cache, there is room for %lld: fewer sequences or more ranks",
            (long long)pages * PHX_PAGE_TOKENS, (long long)run->limits.n_pages * PHX_PAGE_TOKENS);
}

static enum phx_status run_test(struct job *job, struct phx_run *run,
                                const struct phx_bench_setup *setup,
                                const struct phx_bench_test *test)
{
    char name[PHX_BENCH_NAME_BYTES], obstacle[160];
    struct phx_bench_row row = {.test = *test};
    struct phx_bench_steps t = {.run = run, .options = job->options, .test = test};
    find_obstacle(run, test, obstacle, sizeof obstacle);
    if (obstacle[0] != '\0') {
        phx_bench_test_name(test, name);
        phx_log(PHX_LOG_ERROR, "%s of %d sequences %s", name, test->n_seqs, obstacle);
        job->n_failed++;
        return PHX_OK;
    }
    row.seconds = calloc((size_t)job->options->repetitions, sizeof *row.seconds);
    enum phx_status status = row.seconds != NULL
                                 ? time_test(&t, &row)
                                 : phx_fail(PHX_OUT_OF_MEMORY, "no memory for the times");
    if (status == PHX_OK) status = count_work(setup, run, &row);
    if (status == PHX_OK)
        status = phx_bench_print_row((enum phx_bench_output)job->options->output, stdout, setup,
                                     &row, job->n_printed == 0);
    job->n_printed++;
    for (int32_t i = 0; t.requests != NULL && i < test->n_seqs; i++)
        phx_request_destroy(t.requests[i]);
    free(t.requests);
    free(row.seconds);
    return status;
}

/* ---- a run: some number of threads, some number of tokens a step ---- */

/* Collective. Of all ranks, with commas; to be freed. */
static enum phx_status gather_hosts(struct phx_world *world, char **out)
{
    char mine[PHX_HOST_BYTES] = "";
    size_t n = (size_t)world->size;
    gethostname(mine, sizeof mine - 1);
    char *all = calloc(n, sizeof mine);
    *out = calloc(n, sizeof mine);
    if (all == NULL || *out == NULL) {
        free(all);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the hosts' names");
    }
    enum phx_status status = phx_world_allgather(world, mine, sizeof mine, all);
    for (size_t r = 0, used = 0; r < n && status == PHX_OK; r++)
        used += (size_t)snprintf(*out + used, n * sizeof mine - used, "%s%s", r > 0 ? "," : "",
                                 all + r * sizeof mine);
    free(all);
    return status;
}

/* Of the weight that takes most. */
static enum phx_dtype weight_dtype(const struct phx_run *run)
{
    struct phx_weight_walk walk = phx_weight_walk_start(run->config, run->plan, run->checkpoint);
    struct phx_weight_place place;
    enum phx_dtype dtype = run->config->dtype;
    size_t most_bytes = 0;
    while (phx_weight_walk_next(&walk, &place)) {
        if (place.is_vector) continue;
        size_t bytes = phx_weight_bytes(run->device, &place.shape);
        if (bytes > most_bytes) dtype = place.shape.dtype;
        if (bytes > most_bytes) most_bytes = bytes;
    }
    return dtype;
}

static void describe(const struct job *job, const struct phx_run *run, struct phx_bench_setup *out)
{
    phx_device_info(run->device, &out->device);
    phx_comm_describe(run->comm, out->sums, sizeof out->sums);
    out->options = job->options;
    out->config = run->config;
    out->model = job->options->model != NULL ? job->options->model : run->directory;
    out->tp_size = run->world->size;
    out->n_threads = run->settings.n_threads;
    out->kv_dtype = phx_run_kv_dtype(run);
    out->weight_dtype = weight_dtype(run);
    out->n_params = (double)phx_config_parameters(run->config);
    out->model_bytes = out->n_params * (double)phx_dtype_bytes(run->config->dtype, 1);
    if (run->checkpoint != NULL) out->model_bytes = (double)run->load.file_bytes;
}

/* Collective. */
static enum phx_status describe_load(const struct phx_run *run, struct phx_bench_setup *out)
{
    PHX_TRY(phx_bench_most(run->world, run->load.seconds, &out->load_s));
    return phx_bench_most(run->world, (double)run->load.read_bytes, &out->load_bytes);
}

static enum phx_status lead(struct job *job, struct phx_run *run, struct phx_bench_setup *setup)
{
    describe(job, run, setup);
    for (size_t i = 0; i < job->tests.n; i++)
        PHX_TRY(run_test(job, run, setup, &job->tests.items[i]));
    return phx_bench_end(run);
}

static enum phx_status run_setup(struct job *job, const struct phx_options *options,
                                 struct phx_bench_setup *setup)
{
    struct phx_placement *placement = NULL;
    struct phx_run_settings settings;
    struct phx_run *run = NULL;
    char *hosts = NULL;
    enum phx_status status;
    PHX_TRY_GOTO(phx_settings_make(job->world, options, &placement, &settings), done);
    PHX_TRY_GOTO(phx_run_open(job->world, &settings, &run), done);
    if (setup->part_tokens == 0) setup->part_tokens = phx_run_step_tokens(settings.device);
    int32_t step = setup->step_tokens;
    if (step > setup->part_tokens) step = setup->part_tokens;
    struct phx_run_needs needs = phx_bench_tests_needs(&job->tests, run->config, step);
    PHX_TRY_GOTO(phx_run_start(run, &needs), done);
    PHX_TRY_GOTO(phx_bench_yardsticks_measure(run, &setup->yardsticks), done);
    PHX_TRY_GOTO(describe_load(run, setup), done);
    PHX_TRY_GOTO(gather_hosts(job->world, &hosts), done);
    setup->hosts = hosts;
    status = options->fill == PHX_FILL_NOISE ? phx_bench_noise_fill(run) : PHX_OK;
    PHX_TRY_GOTO(phx_world_agree(job->world, status), done);
    PHX_TRY_GOTO(job->world->rank == 0 ? lead(job, run, setup) : phx_bench_follow(run), done);
    phx_run_finish(run);
done:
    free(hosts);
    phx_run_destroy(run);
    phx_placement_destroy(placement);
    return status;
}

static enum phx_status run_all(struct job *job)
{
    const struct phx_options *o = job->options;
    const size_t n_threads = o->thread_counts.n > 0 ? o->thread_counts.n : 1;
    for (size_t t = 0; t < n_threads; t++) {
        struct phx_options own = *o;
        if (o->thread_counts.n > 0) own.threads = o->thread_counts.items[t];
        for (size_t b = 0; b < o->step_tokens.n; b++)
            for (size_t ub = 0; ub < o->part_tokens.n; ub++) {
                struct phx_bench_setup setup = {.step_tokens = o->step_tokens.items[b],
                                                .part_tokens = o->part_tokens.items[ub]};
                PHX_TRY(run_setup(job, &own, &setup));
            }
    }
    return PHX_OK;
}

enum phx_status phx_verb_bench(struct phx_world *world, const struct phx_options *options)
{
    struct job job = {.world = world, .options = options};
    enum phx_bench_output form = (enum phx_bench_output)options->output;
    enum phx_status status = phx_world_agree(world, phx_bench_tests_create(options, &job.tests));
    if (status == PHX_OK && world->rank == 0) phx_bench_print_begin(form, stdout);
    if (status == PHX_OK) status = run_all(&job);
    if (status == PHX_OK && world->rank == 0) status = phx_bench_print_end(form, stdout);
    phx_bench_tests_free(&job.tests);
    if (status == PHX_OK && job.n_failed > 0) return PHX_BAD_DATA; /* why has been told */
    return status;
}
