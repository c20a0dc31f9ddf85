/* A step allocates nothing, on any rank: linked with malloc and its kin wrapped. */
#include "tests/support/check.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/job.h"

static atomic_bool counting;
static atomic_int n_allocations;

static void note(void)
{
    if (atomic_load(&counting)) atomic_fetch_add(&n_allocations, 1);
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    note();
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    note();
    return __real_calloc(n, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    note();
    return __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    note();
    return __real_aligned_alloc(alignment, bytes);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    note();
    return __real_posix_memalign(out, alignment, bytes);
}

enum { N_REQUESTS = 5 };

/* Joins, pieces of prompts, page changes, every kind of draw, biases and ends all happen in here.
 */
static enum phx_status lead(struct phx_run *run, void *user)
{
    static const struct phx_sampling rules[N_REQUESTS] = {
        {.temperature = 0, .top_p = 1, .repeat_penalty = 1.2f},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 1},
        {.temperature = 1, .top_k = 40, .top_p = 0.9f, .repeat_penalty = 1, .seed = 2},
        {.temperature = 1, .top_p = 0.9f, .min_p = 0.01f, .repeat_penalty = 1, .seed = 3},
        {.temperature = 0, .top_p = 1, .repeat_penalty = 1},
    };
    static const int32_t prompt[70] = {0, 664, 1174, 270, 789, 559, 337, 592};
    static const int32_t bias_id = 13;
    static const float bias_value = -3;
    struct phx_request *requests[N_REQUESTS] = {NULL};
    enum phx_status status = PHX_OK;
    (void)user;
    for (int i = 0; i < N_REQUESTS && status == PHX_OK; i++) {
        struct phx_request_options o = {.prompt_ids = prompt,
                                        .n_prompt = 5 + 16 * i,
                                        .max_new = 40 + i,
                                        .sampling = rules[i],
                                        .n_bias = i == 3,
                                        .bias_ids = &bias_id,
                                        .bias_values = &bias_value};
        if (i == 4) o.n_prompt = 70;
        status = phx_request_create(&o, &requests[i]);
        if (status == PHX_OK) status = phx_engine_submit(run->engine, requests[i]);
    }
    for (bool worked = true; worked && status == PHX_OK;) {
        atomic_store(&counting, true);
        status = phx_engine_step(run->engine, &worked);
        atomic_store(&counting, false);
    }
    for (int i = 0; i < N_REQUESTS; i++) phx_request_destroy(requests[i]);
    return status;
}

static void a_step_allocates_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        int size = 1 + i / 2;
        struct test_job job = {.settings = {.model = PHX_MODELS "/demo",
                                            .compute = PHX_F32,
                                            .n_threads = 2,
                                            .overlap = i % 2 == 1},
                               .needs = {.max_seqs = 3, .max_rows = 24, .max_length = 130},
                               .lead = lead};
        atomic_store(&n_allocations, 0);
        assert_ok(test_job_run(size, &job));
        assert_int_equal(atomic_load(&n_allocations), 0);
    }
    /* The wrapping works. */
    atomic_store(&counting, true);
    void *volatile kept = malloc(8);
    free(kept);
    atomic_store(&counting, false);
    assert_int_equal(atomic_load(&n_allocations), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_step_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
