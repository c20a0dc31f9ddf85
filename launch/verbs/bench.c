/* Runs tests through the engine as it is. Rank 0 leads: for each part of a test it tells the others
 * what follows, steps, and stops the engine again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/seats.h"
#include "launch/settings.h"
#include "launch/verbs/bench_report.h"
#include "launch/verbs/verbs.h"

enum { LEFT_OUT_ROUNDS = 3, LEFT_OUT_SETS = PHX_STAGE_COUNT + 2 };

struct job {
    struct phx_world *world;
    const struct phx_options *options;
    struct phx_bench_tests tests;
    int n_printed, n_failed;
};

/* What all ranks do next. */
enum order { ORDER_STEPS, ORDER_SUM, ORDER_MEMORY, ORDER_END };
struct command {
    int32_t order;
    uint32_t left_out; /* STEPS: stages */
    int32_t n_rows;    /* SUM */
};

/* A test under way, on rank 0. */
struct test_run {
    struct phx_run *run;
    const struct phx_options *options;
    const struct phx_bench_test *test;
    struct phx_request **requests; /* [n_seqs] */
    int32_t begin, end;            /* positions of each that the test computes */
    bool submitted, hashed;
    uint64_t hash; /* of the tokens that a repetition drew */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- all ranks ---- */

/* Collective. The greatest of what each rank gives. */
static enum phx_status most(struct phx_world *world, double mine, double *out)
{
    double *all = calloc((size_t)world->size, sizeof *all);
    if (all == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the ranks' figures");
    enum phx_status status = phx_world_allgather(world, &mine, sizeof mine, all);
    *out = mine;
    for (int r = 0; r < world->size && status == PHX_OK; r++) *out = fmax(*out, all[r]);
    free(all);
    return status;
}

/* Steps allocate nothing, so that what is taken after them is the most there was, but for the
 * yardsticks, which are given back. */
static double memory_taken(const struct phx_run *run)
{
    struct phx_device_info info;
    phx_device_info(run->device, &info);
    if (info.kind != PHX_DEVICE_CPU)
        return (double)(info.memory_total_bytes - info.memory_free_bytes);
    long all = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file != NULL) {
        if (fscanf(file, "%ld %ld", &all, &resident) != 2) resident = 0;
        fclose(file);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

/* What every rank does for a command but for rank 0's stepping. *out is rank 0's to use. */
static enum phx_status obey(struct phx_run *run, const struct command *c, double *out)
{
    switch (c->order) {
    case ORDER_SUM:
        return phx_bench_sum_measure(run, c->n_rows, out);
    case ORDER_MEMORY:
        return most(run->world, memory_taken(run), out);
    case ORDER_STEPS:
        return phx_engine_leave_out(run->engine, c->left_out);
    default:
        return PHX_OK;
    }
}

static enum phx_status command(struct phx_run *run, struct command c, double *out)
{
    PHX_TRY(phx_world_broadcast(run->world, &c, sizeof c, 0));
    return obey(run, &c, out);
}

static enum phx_status follow(struct phx_run *run)
{
    struct command c;
    double unused;
    for (;;) {
        PHX_TRY(phx_world_broadcast(run->world, &c, sizeof c, 0));
        if (c.order == ORDER_END) return PHX_OK;
        PHX_TRY(obey(run, &c, &unused));
        if (c.order == ORDER_STEPS) PHX_TRY(phx_engine_follow(run->engine));
    }
}

/* ---- a test, on rank 0 ---- */

static enum phx_status drain(struct phx_engine *engine)
{
    for (bool worked = true; worked;) PHX_TRY(phx_engine_step(engine, &worked));
    return PHX_OK;
}

static enum phx_status make_request(const struct test_run *t, int32_t index,
                                    struct phx_request **out)
{
    const struct phx_bench_test *test = t->test;
    int32_t n_prompt = test->depth + (test->n_prompt > 0 ? test->n_prompt : 1);
    int64_t vocab = t->run->config->vocab;
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    if (ids == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a prompt");
    for (int32_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)(phx_mix64((uint64_t)index << 32 | (uint32_t)i) % (uint64_t)vocab);
    struct phx_request_options o = {.prompt_ids = ids,
                                    .n_prompt = n_prompt,
                                    .max_new = test->n_gen + 2, /* it never ends by itself */
                                    .sampling = {.top_p = 1, .repeat_penalty = 1}};
    enum phx_status status = phx_request_create(&o, out);
    free(ids);
    return status;
}

static void hold(const struct test_run *t, int32_t position)
{
    for (int32_t i = 0; i < t->test->n_seqs; i++) t->requests[i]->n_hold = position;
}

static void go_back(const struct test_run *t)
{
    for (int32_t i = 0; i < t->test->n_seqs; i++) phx_request_seek(t->requests[i], t->begin);
}

static enum phx_status check_reached(const struct test_run *t, int32_t position)
{
    for (int32_t i = 0; i < t->test->n_seqs; i++)
        if (t->requests[i]->n_computed != position)
            return phx_fail(PHX_BAD_DATA, "sequence %d is at position %d instead of %d", i,
                            t->requests[i]->n_computed, position);
    return PHX_OK;
}

/* A repetition from its first step to its last token. The tokens are those of the first one. */
static enum phx_status repeat(struct test_run *t, bool counts, double *out_seconds)
{
    hold(t, t->end);
    double begin = now();
    PHX_TRY(drain(t->run->engine));
    *out_seconds = now() - begin;
    PHX_TRY(check_reached(t, t->end));
    uint64_t hash = 0;
    for (int32_t i = 0; i < t->test->n_seqs; i++) {
        const struct phx_request *r = t->requests[i];
        for (int32_t k = r->options.n_prompt; k < r->n_ids; k++)
            hash = phx_mix64(hash + 0x9e3779b97f4a7c15ull + (uint32_t)r->ids[k]);
    }
    go_back(t);
    if (!counts) return PHX_OK;
    if (t->hashed && hash != t->hash)
        return phx_fail(PHX_BAD_DATA,
                        "a repetition drew other tokens (hash %016llx) than the first (%016llx): "
                        "it is wrong and not timed",
                        (unsigned long long)hash, (unsigned long long)t->hash);
    t->hashed = true;
    t->hash = hash;
    return PHX_OK;
}

/* The second step of a kind is recorded on a GPU, the third replayed. */
static enum phx_status warm_up(struct test_run *t, bool counts)
{
    double unused;
    if (t->test->n_gen == 1) PHX_TRY(repeat(t, counts, &unused));
    return repeat(t, counts, &unused);
}

/* The cache comes to hold what lies before the test, and the test is run once or twice. */
static enum phx_status prepare(struct test_run *t)
{
    const struct phx_bench_test *test = t->test;
    bool noise = t->options->fill == PHX_FILL_NOISE;
    t->begin = test->depth;
    t->end = (int32_t)phx_bench_test_length(test);
    t->requests = calloc((size_t)test->n_seqs, sizeof(struct phx_request *));
    if (t->requests == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the requests");
    for (int32_t i = 0; i < test->n_seqs; i++) PHX_TRY(make_request(t, i, &t->requests[i]));
    bool reads = t->begin > 0 && !noise;
    hold(t, reads ? t->begin : t->end);
    if (t->begin > 0 && noise) go_back(t);
    for (int32_t i = 0; i < test->n_seqs; i++)
        PHX_TRY(phx_engine_submit(t->run->engine, t->requests[i]));
    t->submitted = true;
    if (reads) {
        PHX_TRY(drain(t->run->engine));
        PHX_TRY(check_reached(t, t->begin));
        go_back(t);
    }
    return warm_up(t, true);
}

static enum phx_status leave(struct test_run *t)
{
    for (int32_t i = 0; t->submitted && i < t->test->n_seqs; i++)
        phx_request_cancel(t->requests[i], PHX_FINISH_CANCELLED);
    return t->submitted ? drain(t->run->engine) : PHX_OK;
}

static enum phx_status begin_steps(struct phx_run *run, unsigned left_out)
{
    double unused;
    return command(run, (struct command){.order = ORDER_STEPS, .left_out = left_out}, &unused);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* For each set of stages that is left out the median time of the test, in turns, so that whatever
 * else the machine does meets all of them. */
static enum phx_status time_without(struct test_run *t, const unsigned *left_out, int n,
                                    double *out)
{
    double seconds[LEFT_OUT_SETS][LEFT_OUT_ROUNDS];
    for (int round = 0; round < LEFT_OUT_ROUNDS; round++)
        for (int i = 0; i < n; i++) {
            PHX_TRY(begin_steps(t->run, left_out[i]));
            PHX_TRY(warm_up(t, false));
            PHX_TRY(repeat(t, false, &seconds[i][round]));
            PHX_TRY(phx_engine_stop(t->run->engine));
        }
    for (int i = 0; i < n; i++) {
        qsort(seconds[i], LEFT_OUT_ROUNDS, sizeof **seconds, by_value);
        out[i] = seconds[i][LEFT_OUT_ROUNDS / 2];
    }
    return PHX_OK;
}

/* What sums take, and if asked for all other stages. */
static enum phx_status break_down(struct test_run *t, struct phx_bench_row *row)
{
    unsigned sets[LEFT_OUT_SETS] = {0};
    int stages[LEFT_OUT_SETS], n = 1;
    double seconds[LEFT_OUT_SETS];
    for (int s = 0; s < PHX_STAGE_COUNT; s++) {
        bool wanted = s == PHX_STAGE_SUMS ? t->run->world->size > 1 : t->options->breakdown;
        if (!wanted) continue;
        stages[n] = s;
        sets[n++] = 1u << s;
    }
    if (n == 1) return PHX_OK;
    sets[n] = (1u << PHX_STAGE_COUNT) - 1;
    PHX_TRY(time_without(t, sets, n + t->options->breakdown, seconds));
    row->whole_s = seconds[0];
    for (int i = 1; i < n; i++) row->stage_s[stages[i]] = seconds[0] - seconds[i];
    if (t->options->breakdown) row->host_s = seconds[n];
    return PHX_OK;
}

static enum phx_status time_test(struct test_run *t, struct phx_bench_row *row)
{
    const struct phx_bench_test *test = t->test;
    int32_t step = t->run->limits.max_rows;
    int64_t rows = test->n_gen > 0 ? test->n_seqs : (int64_t)test->n_prompt * test->n_seqs;
    row->sum_rows = (int32_t)(rows < step ? rows : step);
    PHX_TRY(begin_steps(t->run, 0));
    PHX_TRY(prepare(t));
    for (; row->n < t->options->repetitions; row->n++)
        PHX_TRY(repeat(t, true, &row->seconds[row->n]));
    PHX_TRY(phx_engine_stop(t->run->engine));
    row->token_hash = t->hash;
    PHX_TRY(break_down(t, row));
    PHX_TRY(begin_steps(t->run, 0));
    PHX_TRY(leave(t));
    PHX_TRY(phx_engine_stop(t->run->engine));
    struct command sum = {.order = ORDER_SUM, .n_rows = row->sum_rows}, one = sum;
    one.n_rows = 1;
    PHX_TRY(command(t->run, sum, &row->sum_s));
    PHX_TRY(command(t->run, one, &row->small_sum_s));
    return command(t->run, (struct command){.order = ORDER_MEMORY}, &row->peak_bytes);
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
    struct test_run t = {.run = run, .options = job->options, .test = test};
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

/* The least of all ranks. */
static enum phx_status measure_yardsticks(struct phx_run *run, struct phx_bench_yardsticks *out)
{
    PHX_TRY(phx_bench_yardsticks_measure(run, out));
    out->read_bytes_s = -out->read_bytes_s;
    out->operations_s = -out->operations_s;
    PHX_TRY(most(run->world, out->read_bytes_s, &out->read_bytes_s));
    PHX_TRY(most(run->world, out->operations_s, &out->operations_s));
    out->read_bytes_s = -out->read_bytes_s;
    out->operations_s = -out->operations_s;
    return most(run->world, out->start_s, &out->start_s);
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
    out->n_params = (double)phx_config_parameters(run->config);
    out->model_bytes = out->n_params * (double)phx_dtype_bytes(run->config->dtype, 1);
    if (run->checkpoint != NULL) out->model_bytes = (double)run->load.file_bytes;
}

static enum phx_status lead(struct job *job, struct phx_run *run, struct phx_bench_setup *setup)
{
    double unused;
    describe(job, run, setup);
    for (size_t i = 0; i < job->tests.n; i++)
        PHX_TRY(run_test(job, run, setup, &job->tests.items[i]));
    return command(run, (struct command){.order = ORDER_END}, &unused);
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
    PHX_TRY_GOTO(measure_yardsticks(run, &setup->yardsticks), done);
    PHX_TRY_GOTO(gather_hosts(job->world, &hosts), done);
    setup->hosts = hosts;
    status = options->fill == PHX_FILL_NOISE ? phx_bench_noise_fill(run) : PHX_OK;
    PHX_TRY_GOTO(phx_world_agree(job->world, status), done);
    PHX_TRY_GOTO(job->world->rank == 0 ? lead(job, run, setup) : follow(run), done);
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
