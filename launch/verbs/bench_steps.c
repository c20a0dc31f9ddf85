#include "launch/verbs/bench_steps.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "launch/verbs/bench_yardsticks.h"

/* What all ranks do next. */
enum order { ORDER_STEPS, ORDER_SUM, ORDER_MEMORY, ORDER_END };
struct command {
    int32_t order;
    uint32_t left_out, starts; /* STEPS: stages, and what is in their place */
    int32_t n_rows;            /* SUM */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- all ranks ---- */

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
        return phx_bench_most(run->world, memory_taken(run), out);
    case ORDER_STEPS:
        return phx_engine_leave_out(run->engine, c->left_out, c->starts != 0);
    default:
        return PHX_OK;
    }
}

static enum phx_status command(struct phx_run *run, struct command c, double *out)
{
    PHX_TRY(phx_world_broadcast(run->world, &c, sizeof c, 0));
    return obey(run, &c, out);
}

enum phx_status phx_bench_follow(struct phx_run *run)
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

static enum phx_status make_request(const struct phx_bench_steps *t, int32_t index,
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

static void hold(const struct phx_bench_steps *t, int32_t position)
{
    for (int32_t i = 0; i < t->test->n_seqs; i++) t->requests[i]->n_hold = position;
}

static void go_back(const struct phx_bench_steps *t)
{
    for (int32_t i = 0; i < t->test->n_seqs; i++) phx_request_seek(t->requests[i], t->begin);
}

static enum phx_status check_reached(const struct phx_bench_steps *t, int32_t position)
{
    for (int32_t i = 0; i < t->test->n_seqs; i++)
        if (t->requests[i]->n_computed != position)
            return phx_fail(PHX_BAD_DATA, "sequence %d is at position %d instead of %d", i,
                            t->requests[i]->n_computed, position);
    return PHX_OK;
}

enum phx_status phx_bench_repeat(struct phx_bench_steps *t, bool counts, double *out_seconds)
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
enum phx_status phx_bench_warm_up(struct phx_bench_steps *t, bool counts)
{
    double unused;
    if (t->test->n_gen == 1) PHX_TRY(phx_bench_repeat(t, counts, &unused));
    return phx_bench_repeat(t, counts, &unused);
}

enum phx_status phx_bench_prepare(struct phx_bench_steps *t)
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
    return phx_bench_warm_up(t, true);
}

enum phx_status phx_bench_leave(struct phx_bench_steps *t)
{
    for (int32_t i = 0; t->submitted && i < t->test->n_seqs; i++)
        phx_request_cancel(t->requests[i], PHX_FINISH_CANCELLED);
    return t->submitted ? drain(t->run->engine) : PHX_OK;
}

enum phx_status phx_bench_begin(struct phx_run *run, unsigned left_out, bool starts)
{
    double unused;
    struct command c = {.order = ORDER_STEPS, .left_out = left_out, .starts = starts};
    return command(run, c, &unused);
}

enum phx_status phx_bench_sum(struct phx_run *run, int32_t n_rows, double *out)
{
    return command(run, (struct command){.order = ORDER_SUM, .n_rows = n_rows}, out);
}

enum phx_status phx_bench_memory(struct phx_run *run, double *out_bytes)
{
    return command(run, (struct command){.order = ORDER_MEMORY}, out_bytes);
}

enum phx_status phx_bench_end(struct phx_run *run)
{
    double unused;
    return command(run, (struct command){.order = ORDER_END}, &unused);
}
