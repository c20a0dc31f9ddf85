/* The engine as a server uses it: a text is the same alone and among 32 mixed ones, with and
 * without shared pages, with pages that run out, cancelled neighbours, one step ahead or not, at
 * one rank and at two; and ranks sleep while there is nothing to do.
 *
 *   test_engine            on the CPU
 *   test_engine cuda       on GPUs, where a batch rounds in another way than a single text: most
 *                          texts must be the same; exit status 77 without any */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "tests/support/gpus.h"
#include "tests/support/job.h"

enum { N_TEXTS = 32, CONTEXT = 256, MAX_PROMPT = 200, N_RULES = 8, N_STOP_IDS = 40 };

/* Sanitizers look at what is done, not at how often: few texts do. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { N_RUN = 8, MAX_NEW = 8 };
#else
enum { N_RUN = N_TEXTS, MAX_NEW = 50 };
#endif

static struct mode {
    enum phx_device_kind device;
    int n_other; /* texts of all that may differ from what they are alone */
} mode = {PHX_DEVICE_CPU, 0};

static const struct phx_sampling rules[N_RULES] = {
    {.top_p = 1, .repeat_penalty = 1},
    {.top_p = 1, .repeat_penalty = 1},
    {.top_p = 1, .repeat_penalty = 1.2f},
    {.top_p = 1, .repeat_penalty = 1, .presence_penalty = 0.5f, .frequency_penalty = 0.3f},
    {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 4},
    {.temperature = 0.9f, .top_k = 40, .top_p = 0.9f, .repeat_penalty = 1.1f, .seed = 5},
    {.temperature = 1.1f, .top_p = 0.95f, .min_p = 0.02f, .repeat_penalty = 1, .seed = 6},
    {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 7}, /* of which the choice counts */
};

struct texts {
    int32_t prompts[N_TEXTS][MAX_PROMPT];
    struct phx_request_options options[N_TEXTS];
    int32_t stop_ids[N_STOP_IDS];
    int32_t vocab;
};

struct outcome {
    int32_t ids[N_TEXTS][MAX_NEW];
    int32_t n[N_TEXTS];
    enum phx_finish finish[N_TEXTS];
    struct phx_engine_load load;
};

/* Its logits are this step's and this row's. */
static void check_logits(struct phx_request *request, const struct phx_output *output)
{
    const int32_t *vocab = request->options.user;
    double sum = 0;
    for (int32_t i = 0; i < *vocab; i++) sum += exp((double)output->logits[i]);
    double logprob = output->logits[output->id] - log(sum);
    PHX_ASSERT(fabs(logprob - (double)output->logprob) < 1e-4);
}

static const int32_t bias_ids[] = {20, 15, 13};
static const float bias_values[] = {2.5f, -100, 1};

/* Beginnings that many share, of which some go on differently; the last of each eight are two
 * choices for one prompt. */
static void make_texts(int32_t vocab, struct texts *t)
{
    memset(t, 0, sizeof *t);
    t->vocab = vocab;
    for (int i = 0; i < N_STOP_IDS; i++) t->stop_ids[i] = vocab / N_STOP_IDS * i;
    for (int i = 0; i < N_TEXTS; i++) {
        int like = i % 8 == 7 ? i - 1 : i, n_common = i % 3 == 0 ? 0 : 64 * (i % 3) + 5;
        int32_t n = 1 + (int32_t)(phx_mix64((uint64_t)like + 99) % MAX_PROMPT);
        for (int32_t p = 0; p < n; p++) {
            uint64_t own = p < n_common ? 0 : (uint64_t)like * 1000;
            t->prompts[i][p] = (int32_t)(phx_mix64(own + (uint64_t)p + 7777) % (uint64_t)vocab);
        }
        struct phx_request_options *o = &t->options[i];
        *o = (struct phx_request_options){.prompt_ids = t->prompts[i],
                                          .n_prompt = n,
                                          .max_new = 1 + i * 7 % MAX_NEW,
                                          .sampling = rules[i % N_RULES]};
        if (i % 8 >= 6) o->sampling = rules[N_RULES - 1];
        o->sampling.choice = i % 2;
        if (i % 4 == 1) {
            o->n_bias = 3;
            o->bias_ids = bias_ids;
            o->bias_values = bias_values;
        }
        if (i % 5 == 2) {
            o->want_logits = true;
            o->on_output = check_logits;
            o->user = &t->vocab;
        }
        if (i % 2 == 0) {
            o->n_stop_ids = N_STOP_IDS;
            o->stop_ids = t->stop_ids;
            o->min_new = o->max_new / 3;
        }
    }
}

struct trial {
    const struct texts *texts;
    bool alone;   /* one after the other */
    bool cancels; /* between them there are others that are given up */
    struct outcome *out;
};

static void keep(const struct phx_request *r, int i, struct outcome *out)
{
    PHX_ASSERT(r->finish != PHX_FINISH_NONE);
    out->finish[i] = r->finish;
    out->n[i] = r->n_ids - r->options.n_prompt;
    memcpy(out->ids[i], r->ids + r->options.n_prompt, (size_t)out->n[i] * sizeof(int32_t));
}

static void give_up(struct phx_request *request, const struct phx_output *output)
{
    if (output->position - request->options.n_prompt == 2)
        phx_request_cancel(request, PHX_FINISH_CANCELLED);
}

/* Like text i, but it comes to nothing: after two tokens, or before it begins. */
static enum phx_status submit_vain(struct phx_run *run, const struct texts *t, int i,
                                   struct phx_request **out)
{
    struct phx_request_options o = t->options[i];
    o.on_output = give_up;
    o.on_finish = phx_request_destroy;
    PHX_TRY(phx_request_create(&o, out));
    return phx_engine_submit(run->engine, *out);
}

static enum phx_status lead(struct phx_run *run, void *user)
{
    const struct trial *trial = user;
    struct phx_request *requests[N_TEXTS] = {NULL}, *vain;
    enum phx_status status = PHX_OK;
    bool worked;
    for (int i = 0; i < N_RUN && status == PHX_OK; i++) {
        if (trial->cancels && i % 3 == 0)
            status = submit_vain(run, trial->texts, (i + 5) % N_RUN, &vain);
        if (status == PHX_OK && trial->cancels && i % 9 == 0)
            phx_request_cancel(vain, PHX_FINISH_CANCELLED);
        if (status == PHX_OK) status = phx_request_create(&trial->texts->options[i], &requests[i]);
        if (status == PHX_OK) status = phx_engine_submit(run->engine, requests[i]);
        /* They come while others run. */
        if (status == PHX_OK && i % 5 == 4) status = phx_engine_step(run->engine, &worked);
        if (status == PHX_OK && trial->alone) status = test_job_drive(run->engine);
    }
    if (status == PHX_OK) status = test_job_drive(run->engine);
    for (int i = 0; i < N_RUN; i++) {
        if (status == PHX_OK) keep(requests[i], i, trial->out);
        phx_request_destroy(requests[i]);
    }
    phx_engine_load(run->engine, &trial->out->load);
    return status;
}

struct way {
    bool share, overlap, few_pages, cancels;
};

static void run_texts(const char *model, int size, const struct texts *texts, bool alone,
                      struct way way, struct outcome *out)
{
    struct trial trial = {texts, alone, way.cancels, out};
    struct test_job job = {.settings = {.model = model, .compute = PHX_F32, .overlap = way.overlap},
                           .needs = {.max_seqs = way.few_pages ? 6 : N_TEXTS,
                                     .max_rows = way.few_pages ? 40 : 300,
                                     .max_length = CONTEXT,
                                     .logits = true,
                                     .total_tokens = way.few_pages ? CONTEXT : 0,
                                     .share_prefixes = way.share},
                           .lead = lead,
                           .user = &trial};
    memset(out, 0, sizeof *out);
    assert_ok(test_job_run(size, &job));
    const struct phx_engine_load *l = &out->load;
    assert_int_equal(l->n_free_pages, l->n_pages);
    assert_int_equal(l->n_running + l->n_waiting, 0);
    assert_true(size == 1 ? l->sum_seconds == 0 : !(l->sum_seconds <= 0));
    if ((int)N_RUN < (int)N_TEXTS || alone) return;
    assert_true(way.few_pages == (l->counters.n_preemptions > 0));
    assert_true(way.share == (l->counters.cached_tokens > 0));
}

static void texts_are_the_same(const char *path, int32_t vocab)
{
    static const struct way ways[] = {
        {.share = false},
        {.share = true},
        {.share = true, .overlap = true},
        {.share = false, .overlap = true, .few_pages = true, .cancels = true},
        {.share = true, .few_pages = true},
        {.share = true, .overlap = true, .few_pages = true, .cancels = true},
    };
    static struct texts texts;
    static struct outcome alone, together;
    make_texts(vocab, &texts);
    for (int size = 1; size <= 2; size++) {
        run_texts(path, size, &texts, true, (struct way){false}, &alone);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            run_texts(path, size, &texts, false, ways[w], &together);
            int n_other = 0, first = -1;
            for (int i = 0; i < N_RUN; i++) {
                bool same = together.n[i] == alone.n[i] && together.finish[i] == alone.finish[i] &&
                            memcmp(together.ids[i], alone.ids[i], sizeof alone.ids[i]) == 0;
                if (!same && n_other++ == 0) first = i;
            }
            if (n_other > mode.n_other)
                fail_msg("%s, %d ranks, way %zu: %d texts are not what they are alone, the first "
                         "is %d",
                         path, size, w, n_other, first);
        }
        int n_stopped = 0;
        for (int i = 0; i < N_RUN; i++) {
            n_stopped += alone.finish[i] == PHX_FINISH_STOP;
            assert_true(alone.n[i] > texts.options[i].min_new ||
                        alone.finish[i] == PHX_FINISH_LENGTH);
        }
        if ((int)N_RUN == (int)N_TEXTS) assert_true(n_stopped > 0 && n_stopped < N_RUN);
    }
}

struct model {
    const char *path;
    int32_t vocab;
};

static void model(void **state)
{
    const struct model *m = *state;
    texts_are_the_same(m->path, m->vocab);
}

/* ---- idleness ---- */

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum { IDLE_MS = 2500 }; /* longer than the watchdog's patience */

static enum phx_status sleep_between(struct phx_run *run, void *user)
{
    double *idle_share = user;
    static const int32_t prompt[] = {0, 664, 1174};
    struct phx_request_options o = {
        .prompt_ids = prompt, .n_prompt = 3, .max_new = 5, .sampling = rules[0]};
    for (int i = 0; i < 2; i++) {
        struct phx_request *r = NULL;
        PHX_TRY(phx_request_create(&o, &r));
        enum phx_status status = phx_engine_submit(run->engine, r);
        if (status == PHX_OK) status = test_job_drive(run->engine);
        phx_request_destroy(r);
        PHX_TRY(status);
        if (i == 1) break;
        struct timespec nap = {.tv_sec = IDLE_MS / 1000, .tv_nsec = IDLE_MS % 1000 * 1000000L};
        double begin = seconds(CLOCK_PROCESS_CPUTIME_ID);
        nanosleep(&nap, NULL);
        *idle_share = (seconds(CLOCK_PROCESS_CPUTIME_ID) - begin) * 1e3 / IDLE_MS;
    }
    return PHX_OK;
}

/* Neither do followers spin, nor pools, nor does the watchdog take rank 0's silence for a stall. */
static void nobody_works_while_idle(void **state)
{
    (void)state;
    double idle_share = 1;
    struct test_job job = {.settings = {.model = PHX_MODELS "/demo",
                                        .compute = PHX_F32,
                                        .n_threads = 2,
                                        .overlap = true,
                                        .watchdog_timeout_s = 1},
                           .needs = {.max_seqs = 2, .max_rows = 16, .max_length = 64},
                           .lead = sleep_between,
                           .user = &idle_share};
    job.settings.device = mode.device;
    assert_ok(test_job_run(3, &job));
    if (idle_share > 0.05) fail_msg("%.0f %% of a processor while idle", 100 * idle_share);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "cuda") == 0) {
        if (test_count_gpus() == 0) return TEST_SKIPPED;
        mode = (struct mode){PHX_DEVICE_CUDA, N_RUN / 8};
    }
    static struct model demo = {PHX_MODELS "/demo", 2048};
    static struct model windows = {PHX_TEST_DATA "/hf/mistral-8q2kv-window16", 512};
    static struct model mixed = {PHX_TEST_DATA "/hf/gemma3-12q3kv", 331};
    static struct model experts = {PHX_TEST_DATA "/hf/qwen2moe-9q3kv-7experts", 331};
    const struct CMUnitTest tests[] = {
        {"demo", model, NULL, NULL, &demo},
        {"sliding windows", model, NULL, NULL, &windows},
        {"windows and whole layers", model, NULL, NULL, &mixed},
        {"experts", model, NULL, NULL, &experts},
        cmocka_unit_test(nobody_works_while_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
