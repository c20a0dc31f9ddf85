/* Made-up weights are a function of name and place: any number of ranks gives the same logits. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/job.h"

enum { N_PROMPT = 9, N_NEW = 3, N_ALL = N_PROMPT + N_NEW };

struct result {
    float *logits; /* [N_ALL][vocab] */
    int64_t vocab;
    int n;
};

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct result *r = request->options.user;
    memcpy(r->logits + r->n++ * r->vocab, output->logits, (size_t)r->vocab * sizeof(float));
}

static enum phx_status lead(struct phx_run *run, void *user)
{
    struct result *r = user;
    static const int32_t prompt[N_PROMPT] = {1, 70000, 5, 128000, 33, 9, 4242, 7, 100};
    static const int32_t forced[N_NEW] = {17, 90001, 3};
    r->vocab = run->config->vocab;
    r->n = 0;
    if (r->logits == NULL) r->logits = malloc((size_t)(N_ALL * r->vocab) * sizeof(float));
    struct phx_request *request = NULL;
    struct phx_request_options o = {.prompt_ids = prompt,
                                    .n_prompt = N_PROMPT,
                                    .max_new = N_NEW,
                                    .forced_ids = forced,
                                    .n_forced = N_NEW,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1},
                                    .want_all_logits = true,
                                    .on_output = on_output,
                                    .user = r};
    enum phx_status status = phx_request_create(&o, &request);
    if (status == PHX_OK) status = phx_engine_submit(run->engine, request);
    if (status == PHX_OK) status = test_job_drive(run->engine);
    phx_request_destroy(request);
    return status;
}

static void check_model(const char *model, bool experts)
{
    struct result one = {.n = 0}, many = {.n = 0};
    struct test_job job = {
        .settings = {.model = model, .dummy = true, .compute = PHX_F32, .n_threads = 2},
        .needs = {.max_seqs = 1, .max_rows = 16, .all_logits = true, .max_length = N_ALL},
        .lead = lead,
        .user = &one};
    assert_ok(test_job_run(1, &job));
    assert_int_equal(one.n, N_ALL);
    double low = one.logits[0], high = one.logits[0], sum = 0, squares = 0;
    int64_t n = N_ALL * one.vocab;
    for (int64_t i = 0; i < n; i++) {
        low = fmin(low, one.logits[i]);
        high = fmax(high, one.logits[i]);
        sum += one.logits[i];
        squares += (double)one.logits[i] * one.logits[i];
    }
    /* The logits are neither flat nor wild: a comparison of them says something. */
    double mean = sum / (double)n, deviation = sqrt(squares / (double)n - mean * mean);
    assert_true(deviation > 0.05 && deviation < 20 && fabs(mean) < deviation);
    job.user = &many;
    for (int run = 2; run <= (experts ? 5 : 4); run++) {
        const int size = run <= 4 ? run : 3;
        job.settings.expert_parallel = run == 5;
        assert_ok(test_job_run(size, &job));
        assert_int_equal(many.n, N_ALL);
        double worst = 0;
        for (int64_t i = 0; i < n; i++)
            worst = fmax(worst, fabs((double)one.logits[i] - many.logits[i]));
        print_message("%d ranks%s: largest difference %.2e of the range\n", size,
                      run == 5 ? " with whole experts" : "", worst / (high - low));
        assert_true(worst <= 1e-4 * (high - low));
    }
    free(one.logits);
    free(many.logits);
}

/* A Llama-3.2-1B with fewer layers: every width is the real one. */
static void ranks_agree(void **state)
{
    (void)state;
    check_model(PHX_TEST_DATA "/dummy/llama-1b-2layers", false);
}

static void ranks_agree_on_experts(void **state)
{
    (void)state;
    check_model(PHX_TEST_DATA "/dummy/moe-2layers", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ranks_agree),
                                       cmocka_unit_test(ranks_agree_on_experts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
