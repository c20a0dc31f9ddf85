/* Whole runs on GPUs, on as many as there are up to two: graphs change no bit, a batch is its texts
 * alone, and large made-up models are the same on any number of ranks and on the CPU. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "tests/support/gpus.h"
#include "tests/support/job.h"

enum { MAX_TEXTS = 8, MAX_NEW = 60, MAX_PROMPT = 180 };

static int n_gpus;

struct texts {
    int n;
    struct phx_request_options options[MAX_TEXTS];
    int64_t vocab;
    int32_t ids[MAX_TEXTS][MAX_NEW];
    float logprobs[MAX_TEXTS][MAX_NEW];
    float *logits[MAX_TEXTS]; /* [n_prompt + max_new][vocab] where all logits are wanted */
    int n_new[MAX_TEXTS], n_rows[MAX_TEXTS];
    int64_t n_steps, n_replayed;
    uint64_t logits_hash;
};

struct place {
    struct texts *texts;
    int i;
};

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    const struct place *p = request->options.user;
    struct texts *t = p->texts;
    if (output->id >= 0) {
        t->ids[p->i][t->n_new[p->i]] = output->id;
        t->logprobs[p->i][t->n_new[p->i]++] = output->logprob;
    }
    if (output->logits != NULL)
        memcpy(t->logits[p->i] + t->n_rows[p->i]++ * t->vocab, output->logits,
               (size_t)t->vocab * sizeof(float));
}

static enum phx_status lead(struct phx_run *run, void *user)
{
    struct texts *t = user;
    struct place places[MAX_TEXTS];
    struct phx_request *requests[MAX_TEXTS] = {NULL};
    enum phx_status status = PHX_OK;
    t->vocab = run->config->vocab;
    for (int i = 0; i < t->n && status == PHX_OK; i++) {
        struct phx_request_options o = t->options[i];
        places[i] = (struct place){t, i};
        o.on_output = on_output;
        o.user = &places[i];
        t->n_new[i] = t->n_rows[i] = 0;
        if (o.want_all_logits) {
            t->logits[i] = malloc((size_t)(o.n_prompt + o.max_new) * (size_t)t->vocab * 4);
            PHX_ASSERT(t->logits[i] != NULL);
        }
        status = phx_request_create(&o, &requests[i]);
        if (status == PHX_OK) status = phx_engine_submit(run->engine, requests[i]);
    }
    if (status == PHX_OK) status = test_job_drive(run->engine);
    for (int i = 0; i < t->n; i++) phx_request_destroy(requests[i]);
    return status;
}

static enum phx_status after(struct phx_run *run, void *user)
{
    struct texts *t = user;
    struct phx_engine_counters c;
    uint64_t hash;
    phx_engine_counters(run->engine, &c);
    PHX_TRY(phx_engine_logits_hash(run->engine, &hash));
    if (run->world->rank != 0) return PHX_OK;
    t->n_steps = c.n_steps;
    t->n_replayed = c.n_replayed;
    t->logits_hash = hash;
    return PHX_OK;
}

static void run(int size, const struct test_job *how, struct texts *t)
{
    struct test_job job = *how;
    job.lead = lead;
    job.after = after;
    job.user = t;
    assert_ok(test_job_run(size, &job));
}

static void forget(struct texts *t)
{
    for (int i = 0; i < t->n; i++) free(t->logits[i]);
    free(t);
}

/* Prompts of the embedded model, and every way to draw. */
static struct texts *sampled_texts(void)
{
    static const int32_t prompt[16] = {664, 1174, 270, 789, 559, 337, 592, 15,
                                       13,  200,  410, 33,  9,   77,  301, 4};
    static const struct phx_sampling rules[MAX_TEXTS] = {
        {.temperature = 0, .top_p = 1, .repeat_penalty = 1},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 1},
        {.temperature = 1, .top_k = 40, .top_p = 0.9f, .repeat_penalty = 1, .seed = 2},
        {.temperature = 0.7f, .top_k = 200, .top_p = 1, .repeat_penalty = 1, .seed = 3},
        {.temperature = 1, .top_p = 0.9f, .min_p = 0.01f, .repeat_penalty = 1, .seed = 4},
        {.temperature = 0, .top_p = 1, .repeat_penalty = 1.2f, .presence_penalty = 0.3f},
        {.temperature = 0, .top_p = 1, .repeat_penalty = 1},
        {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .frequency_penalty = 0.5f, .seed = 5},
    };
    static const int32_t bias_id = 13;
    static const float bias_value = -3;
    struct texts *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->n = MAX_TEXTS;
    for (int i = 0; i < t->n; i++)
        t->options[i] = (struct phx_request_options){.prompt_ids = prompt + i,
                                                     .n_prompt = 1 + i,
                                                     .max_new = 20 + 5 * i,
                                                     .sampling = rules[i],
                                                     .n_bias = i == 3,
                                                     .bias_ids = &bias_id,
                                                     .bias_values = &bias_value};
    return t;
}

static void same_bits(const struct texts *a, const struct texts *b)
{
    for (int i = 0; i < a->n; i++) {
        assert_int_equal(a->n_new[i], b->n_new[i]);
        assert_memory_equal(a->ids[i], b->ids[i], (size_t)a->n_new[i] * sizeof(int32_t));
        assert_memory_equal(a->logprobs[i], b->logprobs[i], (size_t)a->n_new[i] * sizeof(float));
    }
    assert_true(a->logits_hash == b->logits_hash);
}

static void graphs_change_no_bit(void **state)
{
    (void)state;
    static const enum phx_dtype types[] = {PHX_F32, PHX_BF16};
    for (int size = 1; size <= n_gpus; size++)
        for (int k = 0; k < 2; k++) {
            struct test_job job = {.settings = {.model = PHX_MODELS "/demo",
                                                .device = PHX_DEVICE_CUDA,
                                                .compute = types[k]},
                                   .needs = {.max_seqs = 5, .max_rows = 24, .max_length = 200}};
            struct texts *graphs = sampled_texts(), *eager = sampled_texts();
            run(size, &job, graphs);
            job.settings.eager = true;
            run(size, &job, eager);
            print_message("%d GPUs: %lld of %lld steps replayed\n", size,
                          (long long)graphs->n_replayed, (long long)graphs->n_steps);
            assert_true(graphs->n_replayed > graphs->n_steps / 2);
            assert_int_equal(eager->n_replayed, 0);
            same_bits(graphs, eager);
            forget(graphs);
            forget(eager);
        }
}

/* Largest difference as a part of the range of a's logits. */
static double difference(const float *a, const float *b, int64_t n)
{
    double low = a[0], high = a[0], worst = 0;
    for (int64_t i = 0; i < n; i++) {
        low = fmin(low, a[i]);
        high = fmax(high, a[i]);
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        if (!isfinite(b[i])) return INFINITY;
    }
    assert_true(high - low > 1); /* flat logits would prove nothing */
    return worst / (high - low);
}

static struct texts *forced_texts(int n, const int32_t *lengths, int32_t vocab)
{
    static int32_t prompts[MAX_TEXTS][MAX_PROMPT], forced[MAX_NEW];
    struct texts *t = calloc(1, sizeof *t);
    assert_non_null(t);
    t->n = n;
    uint64_t random = 7;
    for (int k = 0; k < 8; k++)
        forced[k] = (int32_t)((random = phx_mix64(random + 1)) % (uint64_t)vocab);
    for (int i = 0; i < n; i++) {
        for (int32_t k = 0; k < lengths[i]; k++)
            prompts[i][k] = (int32_t)((random = phx_mix64(random + 1)) % (uint64_t)vocab);
        t->options[i] = (struct phx_request_options){.prompt_ids = prompts[i],
                                                     .n_prompt = lengths[i],
                                                     .max_new = 8,
                                                     .forced_ids = forced,
                                                     .n_forced = 8,
                                                     .sampling = {.top_p = 1, .repeat_penalty = 1},
                                                     .want_all_logits = true};
    }
    return t;
}

static void a_batch_is_its_texts(void **state)
{
    (void)state;
    static const int32_t lengths[6] = {1, 3, 40, 65, 100, MAX_PROMPT};
    struct test_job job = {
        .settings = {.model = PHX_MODELS "/demo", .device = PHX_DEVICE_CUDA, .compute = PHX_BF16},
        .needs = {.max_seqs = 6, .max_rows = 48, .all_logits = true, .max_length = 200}};
    for (int size = 1; size <= n_gpus; size++) {
        struct texts *together = forced_texts(6, lengths, 2048), *alone[6];
        run(size, &job, together);
        for (int i = 0; i < 6; i++) {
            alone[i] = forced_texts(6, lengths, 2048);
            alone[i]->options[0] = alone[i]->options[i];
            alone[i]->n = 1;
            run(size, &job, alone[i]);
            int64_t n = (int64_t)together->n_rows[i] * together->vocab;
            assert_int_equal(together->n_rows[i], lengths[i] + 8);
            assert_int_equal(alone[i]->n_rows[0], lengths[i] + 8);
            double worst = difference(alone[i]->logits[0], together->logits[i], n);
            print_message("%d GPUs, %d tokens: %.2e of the range\n", size, lengths[i], worst);
            assert_true(worst <= 2e-2);
            forget(alone[i]);
        }
        forget(together);
    }
}

static void compare_dummies(const char *model, int size_a, enum phx_device_kind kind_a, int size_b)
{
    static const int32_t lengths[1] = {21};
    struct test_job job = {
        .settings = {.model = model,
                     .dummy = true,
                     .device = kind_a,
                     .compute = kind_a == PHX_DEVICE_CPU ? PHX_F32 : PHX_BF16,
                     .n_threads = 16},
        .needs = {.max_seqs = 1, .max_rows = 16, .all_logits = true, .max_length = 32}};
    struct texts *a = forced_texts(1, lengths, 128000), *b = forced_texts(1, lengths, 128000);
    run(size_a, &job, a);
    job.settings.device = PHX_DEVICE_CUDA;
    job.settings.compute = PHX_BF16;
    run(size_b, &job, b);
    assert_int_equal(a->n_rows[0], b->n_rows[0]);
    double worst = difference(a->logits[0], b->logits[0], (int64_t)a->n_rows[0] * a->vocab);
    print_message("%s, %d %s against %d GPUs: %.2e of the range\n", strrchr(model, '/') + 1, size_a,
                  kind_a == PHX_DEVICE_CPU ? "CPU ranks" : "GPUs", size_b, worst);
    assert_true(worst <= 2e-2);
    forget(a);
    forget(b);
}

static void large_models(void **state)
{
    (void)state;
    compare_dummies(PHX_TEST_DATA "/dummy/llama-3.2-1b", 1, PHX_DEVICE_CPU, 1);
    if (n_gpus < 2) {
        print_message("one GPU: T = 1 against T = 2 is not compared\n");
        return;
    }
    compare_dummies(PHX_TEST_DATA "/dummy/llama-3.2-1b", 1, PHX_DEVICE_CUDA, 2);
    compare_dummies(PHX_TEST_DATA "/dummy/llama-3-8b", 1, PHX_DEVICE_CUDA, 2);
}

int main(void)
{
    n_gpus = test_count_gpus();
    if (n_gpus == 0) return TEST_SKIPPED;
    if (n_gpus > 2) n_gpus = 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_change_no_bit),
        cmocka_unit_test(a_batch_is_its_texts),
        cmocka_unit_test(large_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
