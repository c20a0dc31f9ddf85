/* How much memory a run takes, and how one ends that has too little. Linked with what the device
 * says wrapped, so that a rank can be poor.
 *
 *   test_memory            on the CPU
 *   test_memory cuda       on two GPUs, or on one that two ranks share; exit status 77 without any
 */
#include "tests/support/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "tests/support/gpus.h"
#include "tests/support/job.h"

enum { MAX_RANKS = 3, N_TEXTS = 3, N_PROMPT = 40, N_NEW = 60, LENGTH = N_PROMPT + N_NEW };

static const char model[] = PHX_TEST_DATA "/hf/llama3-12q4kv";
static struct phx_run_settings settings = {.model = model, .device = PHX_DEVICE_CPU};
static int n_ranks = 3, n_sharers = 3; /* of a device's memory */

/* ---- what is wrapped ---- */

enum { NO_RANK = -1 };

static struct {
    int poor;           /* rank */
    size_t free_bytes;  /* its device has; 0: what it has */
    size_t refuse_from; /* bytes of a buffer that it does not get; 0: it gets all */
    double refused;     /* when it last heard of that */
    atomic_size_t buffer_bytes;
    atomic_int n_errors, n_warnings;
    char error[1024];
} planted;

static _Thread_local int own_rank;

static void plant(int poor, size_t free_bytes, size_t refuse_from)
{
    planted.poor = poor;
    planted.free_bytes = free_bytes;
    planted.refuse_from = refuse_from;
    atomic_store(&planted.buffer_bytes, 0);
    atomic_store(&planted.n_errors, 0);
    atomic_store(&planted.n_warnings, 0);
    planted.error[0] = '\0';
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void __real_phx_log_rank_set(int rank);
void __wrap_phx_log_rank_set(int rank);
void __wrap_phx_log(enum phx_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void __real_phx_device_info(const struct phx_device *device, struct phx_device_info *out);
void __wrap_phx_device_info(const struct phx_device *device, struct phx_device_info *out);
enum phx_status __real_phx_buffer_create(struct phx_device *device, size_t bytes,
                                         struct phx_buffer **out);
enum phx_status __wrap_phx_buffer_create(struct phx_device *device, size_t bytes,
                                         struct phx_buffer **out);

void __wrap_phx_log_rank_set(int rank)
{
    own_rank = rank < 0 ? 0 : rank;
    __real_phx_log_rank_set(rank);
}

void __wrap_phx_log(enum phx_log_level level, const char *format, ...)
{
    if (level == PHX_LOG_WARN) atomic_fetch_add(&planted.n_warnings, 1);
    if (level != PHX_LOG_ERROR || atomic_fetch_add(&planted.n_errors, 1) > 0) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(planted.error, sizeof planted.error, format, arguments);
    va_end(arguments);
}

void __wrap_phx_device_info(const struct phx_device *device, struct phx_device_info *out)
{
    __real_phx_device_info(device, out);
    if (planted.poor != own_rank || planted.free_bytes == 0) return;
    out->memory_total_bytes = out->memory_free_bytes = planted.free_bytes;
    planted.refused = seconds_now();
}

enum phx_status __wrap_phx_buffer_create(struct phx_device *device, size_t bytes,
                                         struct phx_buffer **out)
{
    atomic_fetch_add(&planted.buffer_bytes, bytes);
    if (planted.poor != own_rank || planted.refuse_from == 0 || bytes < planted.refuse_from)
        return __real_phx_buffer_create(device, bytes, out);
    planted.refused = seconds_now();
    return phx_fail(PHX_OUT_OF_MEMORY, "rank %d gets no buffer of %zu bytes", own_rank, bytes);
}

/* ---- a run ---- */

struct seen {
    struct phx_memory_plan plans[MAX_RANKS];
    int32_t n_pages;
    enum phx_dtype kv_dtype;
    size_t vector_bytes; /* of rank 0 */
    int32_t ids[N_TEXTS][N_NEW];
};

static enum phx_status lead(struct phx_run *run, void *user)
{
    struct seen *seen = user;
    struct phx_request *requests[N_TEXTS] = {NULL};
    enum phx_status status = PHX_OK;
    for (int t = 0; t < N_TEXTS && status == PHX_OK; t++) {
        int32_t prompt[N_PROMPT];
        for (int i = 0; i < N_PROMPT; i++) prompt[i] = 5 + 7 * t + i;
        struct phx_request_options o = {.prompt_ids = prompt,
                                        .n_prompt = N_PROMPT,
                                        .max_new = N_NEW,
                                        .sampling = {.top_p = 1, .repeat_penalty = 1}};
        status = phx_request_create(&o, &requests[t]);
        if (status == PHX_OK) status = phx_engine_submit(run->engine, requests[t]);
    }
    if (status == PHX_OK) status = test_job_drive(run->engine);
    for (int t = 0; t < N_TEXTS; t++) {
        if (status == PHX_OK) {
            PHX_ASSERT(requests[t]->n_ids == LENGTH);
            memcpy(seen->ids[t], requests[t]->ids + N_PROMPT, sizeof seen->ids[t]);
        }
        phx_request_destroy(requests[t]);
    }
    return status;
}

static enum phx_status look(struct phx_run *run, void *user)
{
    struct seen *seen = user;
    struct phx_kv_pages kv = phx_engine_kv(run->engine, 0);
    seen->plans[run->world->rank] = run->memory;
    if (run->world->rank > 0) return PHX_OK;
    seen->n_pages = kv.n_pages;
    seen->kv_dtype = kv.k.dtype;
    seen->vector_bytes = phx_buffer_bytes(run->weights->vectors);
    return PHX_OK;
}

static enum phx_status run_texts(int size, struct seen *seen)
{
    struct test_job job = {.settings = settings,
                           .needs = {.max_seqs = N_TEXTS,
                                     .max_rows = 64,
                                     .max_length = LENGTH,
                                     .total_tokens = N_TEXTS * LENGTH},
                           .lead = lead,
                           .after = look,
                           .user = seen};
    return test_job_run(size, &job);
}

/* Free memory with which a rank of this plan has room for this many pages. */
static size_t free_for(const struct phx_memory_plan *plan, int n_pages)
{
    return (size_t)n_sharers * phx_memory_plan_bytes(plan, n_pages);
}

/* ---- tests ---- */

static void what_is_planned_is_taken(void **state)
{
    struct seen seen;
    (void)state;
    plant(NO_RANK, 0, 0);
    assert_ok(run_texts(1, &seen));
    const struct phx_memory_plan *p = &seen.plans[0];
    size_t planned = p->activation_bytes + p->partials_bytes + seen.vector_bytes +
                     (size_t)seen.n_pages * p->kv_page_bytes;
    assert_int_equal(atomic_load(&planted.buffer_bytes), planned);
    assert_int_equal(atomic_load(&planted.n_warnings), 0);
}

static void expect_same_texts(const struct seen *all, size_t free_bytes, int n_pages)
{
    struct seen few;
    plant(0, free_bytes, 0);
    assert_ok(run_texts(n_ranks, &few));
    assert_int_equal(few.n_pages, n_pages);
    assert_memory_equal(all->ids, few.ids, sizeof few.ids);
    assert_int_equal(atomic_load(&planted.n_warnings), 0);
}

/* Each text takes two pages. */
static void texts_take_turns_in_a_small_cache(void **state)
{
    struct seen all;
    (void)state;
    plant(NO_RANK, 0, 0);
    assert_ok(run_texts(n_ranks, &all));
    assert_int_equal(all.n_pages, phx_kv_blocks_for(N_TEXTS * LENGTH) + N_TEXTS);
    for (int i = 0; i < 2; i++) {
        settings.overlap = i == 1; /* steps under way while others are planned */
        expect_same_texts(&all, 2 * free_for(&all.plans[0], 3), 3); /* half is for the cache */
        expect_same_texts(&all, free_for(&all.plans[0], 2), 2);     /* one text may take it all */
    }
    settings.overlap = false;
}

/* The run ends at once, on all ranks, with one sentence that has these words in it. */
static void expect_refusal(const char *const *words, int n_warnings)
{
    struct seen seen;
    assert_int_equal(run_texts(n_ranks, &seen), PHX_OUT_OF_MEMORY);
    assert_true(seconds_now() - planted.refused < 2);
    assert_int_equal(atomic_load(&planted.n_errors), 1);
    assert_int_equal(atomic_load(&planted.n_warnings), n_warnings);
    for (; *words; words++)
        if (!strstr(planted.error, *words)) fail_msg("no \"%s\" in: %s", *words, planted.error);
}

static void one_poor_rank_ends_all(void **state)
{
    struct seen rich;
    const char *more = settings.device == PHX_DEVICE_CPU ? "more machines" : "more ranks";
    int table = 1 + n_ranks;
    (void)state;
    plant(NO_RANK, 0, 0);
    assert_ok(run_texts(n_ranks, &rich));

    plant(1, free_for(&rich.plans[1], 2) - 1, 0); /* a text takes two pages */
    expect_refusal((const char *[]){"rank 1 needs ", "KV cache for one text of 128 tokens",
                                    "a context of 64 tokens would fit (-c 64)", NULL},
                   table);
    plant(1, 1000, 0);
    expect_refusal((const char *[]){"rank 1 needs ", "weights", more, NULL}, table);
    /* Its plan fits, and still it gets no memory: for anything, for its cache. */
    plant(1, 0, 1);
    expect_refusal((const char *[]){"rank 1 gets no buffer", NULL}, 0);
    plant(1, 0, (size_t)rich.n_pages * rich.plans[1].kv_page_bytes);
    expect_refusal((const char *[]){"rank 1 gets no buffer", NULL}, 0);
}

/* ---- types of the cache ---- */

struct golden {
    struct phx_checkpoint *file;
    const int32_t *prompt;
    const float *logits;
    int64_t vocab;
    double range, worst; /* of the logits; difference from them */
    struct seen seen;
};

static void compare_row(struct phx_request *request, const struct phx_output *output)
{
    struct golden *g = request->options.user;
    for (int64_t i = 0; i < g->vocab; i++)
        g->worst = fmax(g->worst, fabs((double)output->logits[i] -
                                       g->logits[(output->position - 1) * g->vocab + i]));
}

static enum phx_status read_prompt(struct phx_run *run, void *user)
{
    struct golden *g = user;
    struct phx_request *request = NULL;
    struct phx_request_options o = {.prompt_ids = g->prompt,
                                    .n_prompt = N_PROMPT,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1},
                                    .want_all_logits = true,
                                    .on_output = compare_row,
                                    .user = g};
    PHX_TRY(phx_request_create(&o, &request));
    enum phx_status status = phx_engine_submit(run->engine, request);
    if (status == PHX_OK) status = test_job_drive(run->engine);
    phx_request_destroy(request);
    return status;
}

static enum phx_status look_too(struct phx_run *run, void *user)
{
    return look(run, &((struct golden *)user)->seen);
}

static void open_golden(struct golden *g)
{
    assert_ok(phx_checkpoint_open(PHX_TEST_DATA "/hf/llama3-12q4kv/golden.safetensors", &g->file));
    const struct phx_file_tensor *logits = phx_checkpoint_find(g->file, "logits");
    g->prompt = phx_checkpoint_find(g->file, "input_ids")->data;
    g->logits = logits->data;
    g->vocab = logits->shape[1];
    double low = 0, high = 0;
    for (int64_t i = 0; i < N_PROMPT * g->vocab; i++) {
        low = fmin(low, g->logits[i]);
        high = fmax(high, g->logits[i]);
    }
    g->range = high - low;
}

/* The largest error over the range of the logits; small steps, so that most of what attention reads
 * comes from earlier ones. */
static double error_with(struct golden *g, enum phx_dtype kv_dtype, int size)
{
    struct test_job job = {
        .settings = settings,
        .needs = {.max_seqs = 1, .max_rows = 7, .all_logits = true, .max_length = N_PROMPT + 1},
        .lead = read_prompt,
        .after = look_too,
        .user = g};
    job.settings.choose_kv = true;
    job.settings.kv_dtype = kv_dtype;
    g->worst = 0;
    assert_ok(test_job_run(size, &job));
    assert_int_equal(g->seen.kv_dtype, kv_dtype);
    return g->worst / g->range;
}

static void halves_of_the_cache_are_close(void **state)
{
    static const enum phx_dtype halves[] = {PHX_F16, PHX_BF16};
    struct golden g;
    (void)state;
    plant(NO_RANK, 0, 0);
    open_golden(&g);
    for (int size = 1; size <= n_ranks; size += n_ranks - 1) {
        double exact = error_with(&g, PHX_F32, size);
        size_t bytes = g.seen.plans[0].kv_page_bytes;
        for (int i = 0; i < 2; i++) {
            double error = error_with(&g, halves[i], size);
            print_message("%d ranks, cache in %s: %.2g of the range, in f32 %.2g\n", size,
                          phx_dtype_traits(halves[i])->name, error, exact);
            assert_true(error < 2e-2 && error != exact);
            assert_int_equal(2 * g.seen.plans[0].kv_page_bytes, bytes);
        }
    }
    phx_checkpoint_destroy(g.file);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest on_cpu[] = {
        cmocka_unit_test(what_is_planned_is_taken),
        cmocka_unit_test(texts_take_turns_in_a_small_cache),
    };
    const struct CMUnitTest anywhere[] = {
        cmocka_unit_test(one_poor_rank_ends_all),
        cmocka_unit_test(halves_of_the_cache_are_close),
    };
    if (argc < 2 || strcmp(argv[1], "cuda") != 0)
        return cmocka_run_group_tests(on_cpu, NULL, NULL) +
               cmocka_run_group_tests(anywhere, NULL, NULL);
    int n_gpus = test_count_gpus();
    if (n_gpus == 0) return TEST_SKIPPED;
    settings.device = PHX_DEVICE_CUDA;
    settings.gpu_memory_utilization = 1;
    n_ranks = 2;
    n_sharers = n_gpus == 1 ? 2 : 1;
    int n_failed = cmocka_run_group_tests(anywhere, NULL, NULL);
    settings.compute = PHX_BF16;
    return n_failed + cmocka_run_group_tests(anywhere, NULL, NULL);
}
