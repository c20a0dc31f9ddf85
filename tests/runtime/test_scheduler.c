/* The scheduler with no device: its rules one by one. test_scheduler_loads.c has them all at once.
 */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/scheduler.h"
#include "runtime/step_record.h"

static struct phx_request *request_of(int32_t n_prompt, int32_t max_new)
{
    int32_t ids[600] = {0};
    struct phx_request *r = NULL;
    struct phx_request_options o = {.prompt_ids = ids,
                                    .n_prompt = n_prompt,
                                    .max_new = max_new,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1}};
    assert_ok(phx_request_create(&o, &r));
    return r;
}

static void complete(struct phx_scheduler *s)
{
    int32_t ids[64] = {0};
    float logprobs[64] = {0};
    phx_scheduler_complete(s, &(struct phx_step_results){ids, logprobs, NULL, 0});
}

/* A long prompt is read in pieces while another request goes on decoding in every step. */
static void decoding_goes_on(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    assert_ok(phx_scheduler_create(&(struct phx_scheduler_limits){2, 16, 2, 600, 32, false}, &s));
    struct phx_request *short_one = request_of(3, 200), *long_one = request_of(500, 1);
    assert_ok(phx_scheduler_submit(s, short_one));
    phx_scheduler_next(s);
    complete(s);
    assert_ok(phx_scheduler_submit(s, long_one));
    while (long_one->finish == PHX_FINISH_NONE) {
        int32_t before = short_one->n_ids;
        const struct phx_schedule *schedule = phx_scheduler_next(s);
        assert_int_equal(schedule->n, 2);
        assert_ptr_equal(schedule->entries[0].request, short_one);
        complete(s);
        assert_int_equal(short_one->n_ids, before + 1);
    }
    phx_scheduler_destroy(s);
    phx_request_destroy(short_one);
    phx_request_destroy(long_one);
}

static int32_t steps_until_idle(struct phx_scheduler *s)
{
    int32_t n = 0;
    while (phx_scheduler_next(s)->n > 0) {
        complete(s);
        n++;
    }
    return n;
}

/* Requests wait where they are held; sent back, they do the same again, in the same pages. */
static void held_and_sent_back(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    struct phx_scheduler_limits limits = {2, 16, 2, 200, 8, false};
    assert_ok(phx_scheduler_create(&limits, &s));
    struct phx_request *r[2] = {request_of(80, 50), request_of(80, 50)};
    int32_t page = -1;
    for (int i = 0; i < 2; i++) {
        r[i]->n_hold = 70;
        assert_ok(phx_scheduler_submit(s, r[i]));
    }
    assert_int_equal(steps_until_idle(s), 9); /* 140 rows by 16 */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 2; i++) {
            assert_true(r[i]->n_computed == 70 && r[i]->n_ids == 80 && r[i]->slot == i);
            r[i]->n_hold = 90;
        }
        assert_int_equal(steps_until_idle(s), 2 + 10);
        for (int i = 0; i < 2; i++) {
            assert_true(r[i]->n_computed == 90 && r[i]->n_ids == 91);
            assert_int_equal(r[i]->finish, PHX_FINISH_NONE);
            phx_request_seek(r[i], 70);
        }
        int32_t now = phx_kv_cache_page(phx_scheduler_cache(s), 1, 1);
        assert_true(page == -1 || page == now);
        page = now;
    }
    for (int i = 0; i < 2; i++) phx_request_cancel(r[i], PHX_FINISH_CANCELLED);
    assert_int_equal(steps_until_idle(s), 0);
    assert_int_equal(phx_kv_cache_free_pages(phx_scheduler_cache(s)), limits.n_pages);

    /* One that never read what lies before. */
    struct phx_request *skips = request_of(101, 50);
    phx_request_seek(skips, 100);
    skips->n_hold = 103;
    assert_ok(phx_scheduler_submit(s, skips));
    const struct phx_schedule *first = phx_scheduler_next(s);
    assert_true(first->n_rows == 1 && first->entries[0].position == 100);
    complete(s);
    assert_int_equal(steps_until_idle(s), 2);
    assert_int_equal(skips->n_ids, 104);
    phx_scheduler_destroy(s);
    phx_request_destroy(skips);
    for (int i = 0; i < 2; i++) phx_request_destroy(r[i]);
}

/* One waits, two run, one of them in a step under way: all are gone before the next step, and their
 * pages and slots are there for it. */
static void count_finished(struct phx_request *request)
{
    ++*(int *)request->options.user;
    assert_int_equal(request->finish, PHX_FINISH_CANCELLED);
    phx_request_destroy(request);
}

static void cancelled_at_any_time(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    struct phx_request *r[4];
    int n_finished = 0;
    assert_ok(phx_scheduler_create(&(struct phx_scheduler_limits){2, 200, 2, 200, 4, false}, &s));
    for (int i = 0; i < 4; i++) {
        r[i] = request_of(100, 20);
        r[i]->options.on_finish = count_finished;
        r[i]->options.user = &n_finished;
        if (i < 3) assert_ok(phx_scheduler_submit(s, r[i]));
    }
    assert_int_equal(phx_scheduler_next(s)->n, 2);
    for (int i = 0; i < 3; i++) phx_request_cancel(r[i], PHX_FINISH_CANCELLED);
    phx_request_cancel(r[1], PHX_FINISH_CANCELLED);
    assert_ok(phx_scheduler_submit(s, r[3]));
    const struct phx_schedule *schedule = phx_scheduler_next(s);
    assert_int_equal(n_finished, 3);
    assert_int_equal(schedule->n, 1);
    assert_ptr_equal(schedule->entries[0].request, r[3]);
    assert_int_equal(phx_kv_cache_free_pages(phx_scheduler_cache(s)), 2);
    complete(s); /* what it drew is dropped */
    phx_request_cancel(r[3], PHX_FINISH_CANCELLED);
    complete(s);
    assert_int_equal(n_finished, 4);
    assert_int_equal(phx_scheduler_next(s)->n, 0);
    assert_int_equal(phx_scheduler_counters(s)->n_finished[PHX_FINISH_CANCELLED], 4);
    phx_scheduler_destroy(s);
}

/* Choices for one prompt, submitted together: one of them reads it, in as many steps as it takes;
 * the others find all of it but the last block. */
static void choices_share_their_prompt(void **state)
{
    (void)state;
    for (int32_t max_rows = 60; max_rows < 600; max_rows += 100) {
        struct phx_scheduler *s = NULL;
        struct phx_request *r[3];
        int64_t n_rows = 0;
        assert_ok(phx_scheduler_create(
            &(struct phx_scheduler_limits){3, max_rows, 3, 600, 32, true}, &s));
        for (int i = 0; i < 3; i++) {
            r[i] = request_of(64 * 5, 1);
            assert_ok(phx_scheduler_submit(s, r[i]));
        }
        while (r[2]->finish == PHX_FINISH_NONE) {
            n_rows += phx_scheduler_next(s)->n_rows;
            complete(s);
        }
        assert_int_equal(n_rows, 64 * 5 + 2 * 64); /* the last token is never known */
        assert_int_equal(r[0]->n_cached, 0);
        assert_int_equal(r[1]->n_cached, 64 * 4);
        assert_int_equal(phx_scheduler_counters(s)->prompt_tokens, 3 * 64 * 5);
        assert_int_equal(phx_scheduler_counters(s)->cached_tokens, 2 * 64 * 4);
        phx_scheduler_destroy(s);
        for (int i = 0; i < 3; i++) phx_request_destroy(r[i]);
    }
}

/* Stop tokens are ruled out for as long as a minimum of tokens asks, then they are not. */
static void a_minimum_of_tokens(void **state)
{
    (void)state;
    enum { MIN = 3, NEW = 6 };
    int32_t id = 0, stop_ids[] = {5, 6}, bias_id = 7;
    float bias_value = 1;
    struct phx_scheduler_limits limits = {1, 16, 1, 200, 4, false};
    struct phx_scheduler *s = NULL;
    struct phx_request *r = NULL;
    assert_ok(phx_request_create(
        &(struct phx_request_options){.prompt_ids = &id,
                                      .n_prompt = 1,
                                      .max_new = NEW,
                                      .n_stop_ids = 2,
                                      .stop_ids = stop_ids,
                                      .min_new = MIN,
                                      .n_bias = 1,
                                      .bias_ids = &bias_id,
                                      .bias_values = &bias_value,
                                      .sampling = {.top_p = 1, .repeat_penalty = 1}},
        &r));
    assert_ok(phx_scheduler_create(&limits, &s));
    assert_ok(phx_scheduler_submit(s, r));
    void *buffer = malloc(phx_step_record_capacity(&limits));
    for (int i = 0; i < NEW; i++) {
        struct phx_step_record record;
        phx_step_record_write(phx_scheduler_next(s), phx_scheduler_cache(s),
                              &(struct phx_record_head){0}, buffer, &record);
        assert_int_equal(record.head->n_joins, i == 0 || i == MIN);
        assert_int_equal(record.head->n_biases, i == 0 ? 3 : 0);
        assert_int_equal(record.head->adjust, 1);
        if (i == 0) {
            assert_true(record.joins[0].fresh);
            assert_int_equal(record.joins[0].sampling.n_bias, 3);
            assert_true(record.biases[0].id == 7 && record.biases[0].value == 1);
            assert_true(record.biases[2].id == 6 && record.biases[2].value == -INFINITY);
        } else if (i == MIN) {
            assert_false(record.joins[0].fresh);
            assert_int_equal(record.joins[0].sampling.n_bias, 1);
        }
        complete(s);
    }
    assert_int_equal(r->finish, PHX_FINISH_LENGTH);
    free(buffer);
    phx_scheduler_destroy(s);
    phx_request_destroy(r);
}

static void refusals(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    assert_ok(phx_scheduler_create(&(struct phx_scheduler_limits){2, 16, 2, 200, 2, false}, &s));
    struct phx_request *r = request_of(201, 0);
    assert_fails(phx_scheduler_submit(s, r), PHX_USAGE, "201 tokens, the context holds 200");
    phx_request_destroy(r);
    r = request_of(100, 80);
    assert_fails(phx_scheduler_submit(s, r), PHX_USAGE, "take 3 cache pages of 64 tokens");
    phx_request_destroy(r);
    phx_scheduler_destroy(s);
    int32_t id = 0;
    struct phx_request_options good = {
        .prompt_ids = &id, .n_prompt = 1, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    struct phx_request_options bad = good;
    bad.n_prompt = 0;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "prompt is empty");
    bad = good;
    bad.sampling.top_p = 0;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "top-p 0");
    bad = good;
    bad.sampling.temperature = -1;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "temperature -1");
    bad = good;
    bad.n_forced = 2;
    bad.max_new = 1;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "2 forced tokens");
    bad = good;
    bad.min_new = 1;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "at least 1 tokens");
    bad.max_new = 1;
    bad.n_stop_ids = PHX_MAX_BIAS + 1;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "1025 stop tokens that a minimum");
}

/* What the sampling parameters ask of a step. */
static void draw_kinds(void **state)
{
    (void)state;
    static const struct {
        float temperature, top_p, min_p;
        int32_t top_k, draw, n_candidates;
    } cases[] = {
        {0, 0.5f, 0.5f, 0, PHX_DRAW_CANDIDATES, 1},  {1, 1, 0, 0, PHX_DRAW_CANDIDATES, 1},
        {1, 0.9f, 0, 40, PHX_DRAW_CANDIDATES, 64},   {1, 1, 0, 65, PHX_DRAW_CANDIDATES, 256},
        {1, 1, 0.1f, 256, PHX_DRAW_CANDIDATES, 256}, {1, 1, 0, 257, PHX_DRAW_FULL, 0},
        {1, 0.9f, 0, 0, PHX_DRAW_FULL, 0},           {1, 1, 0.1f, 0, PHX_DRAW_FULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct phx_scheduler_limits limits = {1, 16, 1, 200, 4, false};
        struct phx_scheduler *s = NULL;
        struct phx_request *r = request_of(5, 5);
        r->options.sampling.temperature = cases[i].temperature;
        r->options.sampling.top_p = cases[i].top_p;
        r->options.sampling.min_p = cases[i].min_p;
        r->options.sampling.top_k = cases[i].top_k;
        assert_ok(phx_scheduler_create(&limits, &s));
        assert_ok(phx_scheduler_submit(s, r));
        void *buffer = malloc(phx_step_record_capacity(&limits));
        struct phx_step_record record;
        phx_step_record_write(phx_scheduler_next(s), phx_scheduler_cache(s),
                              &(struct phx_record_head){0}, buffer, &record);
        assert_int_equal(record.head->draw, cases[i].draw);
        if (cases[i].draw == PHX_DRAW_CANDIDATES)
            assert_int_equal(record.head->n_candidates, cases[i].n_candidates);
        free(buffer);
        phx_scheduler_destroy(s);
        phx_request_destroy(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(held_and_sent_back),
        cmocka_unit_test(decoding_goes_on),
        cmocka_unit_test(cancelled_at_any_time),
        cmocka_unit_test(choices_share_their_prompt),
        cmocka_unit_test(a_minimum_of_tokens),
        cmocka_unit_test(refusals),
        cmocka_unit_test(draw_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
