/* The embedded model: its golden continuations, and that text does not depend on ranks, batch or
 * steps. */
#include "tests/support/check.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "tests/support/job.h"

static const char demo[] = PHX_MODELS "/demo";

enum { MAX_TEXTS = 8, MAX_NEW = 96 };

/* ThreadSanitizer looks at the waits between ranks: some numbers of ranks and short texts do. */
#ifdef __SANITIZE_THREAD__
static const int sizes[] = {2, 3};
static const int32_t n_greedy = 8, n_sampled = 8;
#else
static const int sizes[] = {1, 2, 3, 4};
static const int32_t n_greedy = MAX_NEW, n_sampled = 60;
#endif
enum { N_SIZES = (int)(sizeof sizes / sizeof sizes[0]) };

/* Texts that go through together, and what comes out. */
struct batch {
    int n;
    struct phx_request_options options[MAX_TEXTS];
    int32_t ids[MAX_TEXTS][MAX_NEW];
    int32_t n_ids[MAX_TEXTS];
};

static enum phx_status lead(struct phx_run *run, void *user)
{
    struct batch *b = user;
    struct phx_request *requests[MAX_TEXTS] = {NULL};
    enum phx_status status = PHX_OK;
    for (int i = 0; i < b->n && status == PHX_OK; i++) {
        status = phx_request_create(&b->options[i], &requests[i]);
        if (status == PHX_OK) status = phx_engine_submit(run->engine, requests[i]);
    }
    if (status == PHX_OK) status = test_job_drive(run->engine);
    for (int i = 0; i < b->n; i++) {
        if (status == PHX_OK) {
            PHX_ASSERT(requests[i]->finish != PHX_FINISH_NONE);
            b->n_ids[i] = requests[i]->n_ids - b->options[i].n_prompt;
            memcpy(b->ids[i], requests[i]->ids + b->options[i].n_prompt,
                   (size_t)b->n_ids[i] * sizeof(int32_t));
        }
        phx_request_destroy(requests[i]);
    }
    return status;
}

static void run(int size, int32_t max_seqs, int32_t max_rows, bool overlap, struct batch *b)
{
    struct test_job job = {
        .settings = {.model = demo, .compute = PHX_F32, .n_threads = 1, .overlap = overlap},
        .needs = {.max_seqs = max_seqs, .max_rows = max_rows, .max_length = 256},
        .lead = lead,
        .user = b};
    assert_ok(test_job_run(size, &job));
}

static struct phx_request_options text(const int32_t *prompt, int32_t n, int32_t max_new,
                                       struct phx_sampling sampling)
{
    return (struct phx_request_options){
        .prompt_ids = prompt, .n_prompt = n, .max_new = max_new, .sampling = sampling};
}

static const struct phx_sampling greedy = {.top_p = 1, .repeat_penalty = 1};

static void golden_continuations(void **state)
{
    (void)state;
    json_t *golden = json_load_file(PHX_MODELS "/demo/golden.json", 0, NULL);
    assert_non_null(golden);
    struct batch b = {.n = 0};
    static int32_t prompts[MAX_TEXTS][64], expected[MAX_TEXTS][MAX_NEW];
    int32_t n_expected[MAX_TEXTS];
    const char *prompt;
    json_t *entry, *id;
    size_t i;
    /* Its continuations are those of the prompts without the BOS token that begins prompt_ids. */
    json_object_foreach(json_object_get(golden, "prompts"), prompt, entry)
    {
        json_array_foreach(json_object_get(entry, "prompt_ids"), i, id) prompts[b.n][i] =
            (int32_t)json_integer_value(id);
        int32_t n = (int32_t)json_array_size(json_object_get(entry, "prompt_ids"));
        json_array_foreach(json_object_get(entry, "greedy_ids"), i, id) expected[b.n][i] =
            (int32_t)json_integer_value(id);
        n_expected[b.n] = (int32_t)json_array_size(json_object_get(entry, "greedy_ids"));
        if (n_expected[b.n] > n_greedy) n_expected[b.n] = n_greedy;
        assert_int_equal(prompts[b.n][0], 0);
        b.options[b.n] = text(prompts[b.n] + 1, n - 1, n_expected[b.n], greedy);
        b.n++;
    }
    assert_true(b.n >= 6);
    for (int t = 0; t < N_SIZES; t++) {
        int size = sizes[t];
        run(size, 3, 20, false, &b);
        for (int p = 0; p < b.n; p++) {
            assert_int_equal(b.n_ids[p], n_expected[p]);
            for (int32_t k = 0; k < b.n_ids[p]; k++)
                if (b.ids[p][k] != expected[p][k])
                    fail_msg("%d ranks, prompt %d, token %d: %d, expected %d", size, p, k,
                             b.ids[p][k], expected[p][k]);
        }
    }
    json_decref(golden);
}

static const int32_t opening[] = {0, 664, 1174, 270, 789, 559, 337};
static const int32_t bias_ids[] = {200, 15, 13};
static const float bias_values[] = {2.5f, -INFINITY, 1};

/* Eight texts, each drawn by other rules; the last two differ only in their seed. */
static void fill(struct batch *b)
{
    static const struct phx_sampling rules[MAX_TEXTS] = {
        {.temperature = 0, .top_p = 1, .repeat_penalty = 1.3f},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 11},
        {.temperature = 0.8f,
         .top_k = 40,
         .top_p = 0.95f,
         .min_p = 0.05f,
         .repeat_penalty = 1,
         .seed = 12},
        {.temperature = 1.2f, .top_p = 0.9f, .repeat_penalty = 1, .seed = 13},
        {.temperature = 1,
         .top_p = 1,
         .min_p = 0.1f,
         .repeat_penalty = 1.1f,
         .presence_penalty = 0.5f,
         .frequency_penalty = 0.3f,
         .seed = 14},
        {.temperature = 1.5f, .top_k = 300, .top_p = 1, .repeat_penalty = 1, .seed = 15},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 16},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 17},
    };
    b->n = MAX_TEXTS;
    for (int i = 0; i < MAX_TEXTS; i++)
        b->options[i] = text(opening, 4 + i % 4, n_sampled, rules[i]);
    b->options[3].n_bias = 3;
    b->options[3].bias_ids = bias_ids;
    b->options[3].bias_values = bias_values;
    b->options[6].n_prompt = b->options[7].n_prompt = 5;
}

static void assert_same(const struct batch *a, int i, const struct batch *b, int j,
                        const char *what)
{
    assert_int_equal(a->n_ids[i], b->n_ids[j]);
    for (int32_t k = 0; k < a->n_ids[i]; k++)
        if (a->ids[i][k] != b->ids[j][k])
            fail_msg("%s: text %d differs at token %d: %d and %d", what, i, k, a->ids[i][k],
                     b->ids[j][k]);
}

static void sampled_text_is_the_same(void **state)
{
    (void)state;
    struct batch first = {.n = 0};
    fill(&first);
    run(1, MAX_TEXTS, 512, false, &first);
    assert_true(memcmp(first.ids[6], first.ids[7], sizeof first.ids[6]) != 0);
    for (int32_t k = 0; k < first.n_ids[3]; k++) assert_int_not_equal(first.ids[3][k], 15);
    for (int t = 0; t < N_SIZES; t++) {
        int size = sizes[t];
        struct batch again = {.n = 0};
        fill(&again);
        run(size, MAX_TEXTS, 512, false, &again);
        for (int i = 0; i < MAX_TEXTS; i++) assert_same(&first, i, &again, i, "other ranks");
        fill(&again);
        run(size, 3, 5, true, &again);
        for (int i = 0; i < MAX_TEXTS; i++) assert_same(&first, i, &again, i, "other steps");
    }
    for (int i = 0; i < MAX_TEXTS; i++) {
        struct batch alone = {.n = 0};
        fill(&alone);
        alone.options[0] = alone.options[i];
        alone.n = 1;
        run(sizes[i % N_SIZES], 1, 512, i % 2 == 1, &alone);
        assert_same(&first, i, &alone, 0, "alone");
    }
}

/* A stop token that is seen only when further steps are under way ends its text and no other. */
static void stop_token(void **state)
{
    (void)state;
    enum { STOPS = 5, AT = 4 };
    struct batch first = {.n = 0};
    fill(&first);
    run(2, MAX_TEXTS, 512, false, &first);
    int32_t id = first.ids[STOPS][AT], n = 1;
    while (first.ids[STOPS][n - 1] != id) n++;
    for (int overlap = 0; overlap < 2; overlap++) {
        struct batch again = {.n = 0};
        fill(&again);
        again.options[STOPS].stop_ids = &id;
        again.options[STOPS].n_stop_ids = 1;
        run(2, 3, 20, overlap, &again);
        assert_int_equal(again.n_ids[STOPS], n);
        again.n_ids[STOPS] = first.n_ids[STOPS];
        memcpy(again.ids[STOPS] + n, first.ids[STOPS] + n, sizeof again.ids[0] - (size_t)n * 4);
        for (int i = 0; i < MAX_TEXTS; i++) assert_same(&first, i, &again, i, "stopped");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_continuations),
        cmocka_unit_test(sampled_text_is_the_same),
        cmocka_unit_test(stop_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
