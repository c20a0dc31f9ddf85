/* The tiny models of tests/data/hf against what transformers computed, at every number of ranks.
 *
 *   test_fixtures            on the CPU
 *   test_fixtures cuda       on the GPUs, shared by up to four ranks; exit status 77 without any */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/safetensors.h"
#include "tests/support/gpus.h"
#include "tests/support/job.h"

/* What is run, and how far from the goldens it may be: of the logits' range, of K's and V's. */
static struct mode {
    enum phx_device_kind device;
    enum phx_dtype compute;
    double tolerance;
    int max_ranks;
    bool compare_cache; /* K and V are kept in f32 */
    int min_clear;      /* greedy tokens of 24 whose gap must exceed twice the tolerance */
} mode = {PHX_DEVICE_CPU, PHX_F32, 1e-4, 64, true, 12};

enum { N_PROMPT = 40, N_GREEDY = 24, N_ALL = N_PROMPT + N_GREEDY };

struct golden {
    struct phx_checkpoint *file;
    const int32_t *prompt, *greedy;
    const float *gap, *logits, *k, *v;
    int64_t vocab;
    int32_t n_heads, n_positions, head_dim; /* of k and v: the last n_positions of the prompt */
};

struct result {
    const struct golden *golden;
    float *logits; /* [N_ALL][vocab] */
    float *k, *v;  /* [heads][PHX_PAGE_TOKENS][head_dim] of layer 0 */
    int n_outputs;
};

static const void *data(const struct golden *g, const char *name)
{
    const struct phx_file_tensor *t = phx_checkpoint_find(g->file, name);
    assert_non_null(t);
    return t->data;
}

static void open_golden(const char *directory, struct golden *g)
{
    char path[600];
    snprintf(path, sizeof path, "%s/golden.safetensors", directory);
    assert_ok(phx_checkpoint_open(path, &g->file));
    g->prompt = data(g, "input_ids");
    g->greedy = data(g, "greedy_ids");
    g->gap = data(g, "greedy_gap");
    g->logits = data(g, "logits");
    g->k = data(g, "layer0_k");
    g->v = data(g, "layer0_v");
    g->vocab = phx_checkpoint_find(g->file, "logits")->shape[1];
    const struct phx_file_tensor *k = phx_checkpoint_find(g->file, "layer0_k");
    g->n_heads = (int32_t)k->shape[0];
    g->n_positions = (int32_t)k->shape[1];
    g->head_dim = (int32_t)k->shape[2];
}

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct result *r = request->options.user;
    int64_t vocab = r->golden->vocab;
    PHX_ASSERT(output->position == r->n_outputs + 1);
    memcpy(r->logits + r->n_outputs++ * vocab, output->logits, (size_t)vocab * sizeof(float));
}

/* The golden continuation is fed back, so that every step is compared, one token at a time. */
static enum phx_status lead(struct phx_run *run, void *user)
{
    struct result *r = user;
    struct phx_request *request = NULL;
    struct phx_request_options o = {.prompt_ids = r->golden->prompt,
                                    .n_prompt = N_PROMPT,
                                    .max_new = N_GREEDY,
                                    .forced_ids = r->golden->greedy,
                                    .n_forced = N_GREEDY,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1},
                                    .want_all_logits = true,
                                    .on_output = on_output,
                                    .user = r};
    PHX_TRY(phx_request_create(&o, &request));
    enum phx_status status = phx_engine_submit(run->engine, request);
    if (status == PHX_OK) status = test_job_drive(run->engine);
    phx_request_destroy(request);
    return status;
}

/* A single request of a page's length lies in page 0. */
static enum phx_status take_cache(struct phx_run *run, void *user)
{
    struct result *r = user;
    struct phx_kv_pages pages = phx_engine_kv(run->engine, 0);
    struct phx_interval heads = phx_shard_plan_kv_heads(run->plan, run->world->rank, 0);
    int64_t rows = phx_interval_length(heads) * PHX_PAGE_TOKENS;
    size_t at = (size_t)(heads.begin * PHX_PAGE_TOKENS * pages.head_dim);
    PHX_TRY(phx_tensor_download(run->stream, phx_tensor_rows(pages.k, 0, rows), r->k + at));
    PHX_TRY(phx_tensor_download(run->stream, phx_tensor_rows(pages.v, 0, rows), r->v + at));
    return phx_stream_synchronize(run->stream);
}

static double range(const float *x, size_t n)
{
    double low = x[0], high = x[0];
    for (size_t i = 1; i < n; i++) {
        low = fmin(low, x[i]);
        high = fmax(high, x[i]);
    }
    return high - low;
}

static void compare_cache(const struct golden *g, const float *ours, const float *theirs,
                          const char *what)
{
    size_t n = (size_t)(g->n_heads * g->n_positions * g->head_dim);
    double allowed = mode.tolerance * range(theirs, n);
    int first = N_PROMPT - g->n_positions;
    for (int h = 0; h < g->n_heads; h++)
        for (int p = 0; p < g->n_positions; p++)
            for (int d = 0; d < g->head_dim; d++) {
                float a = ours[(h * PHX_PAGE_TOKENS + first + p) * g->head_dim + d];
                float b = theirs[(h * g->n_positions + p) * g->head_dim + d];
                if (!(fabs((double)a - b) <= allowed))
                    fail_msg("layer 0 %s, head %d, position %d, element %d: %g, expected %g", what,
                             h, first + p, d, a, b);
            }
}

static int compare_logits(const struct golden *g, const float *logits)
{
    double spread = range(g->logits, (size_t)(N_PROMPT * g->vocab));
    for (int64_t i = 0; i < N_PROMPT * g->vocab; i++)
        if (!(fabs((double)logits[i] - g->logits[i]) <= mode.tolerance * spread))
            fail_msg("logit of token %lld at position %lld: %g, expected %g (range %g)",
                     (long long)(i % g->vocab), (long long)(i / g->vocab), logits[i], g->logits[i],
                     spread);
    int n_clear = 0;
    for (int i = 0; i < N_GREEDY; i++) {
        const float *row = logits + (N_PROMPT - 1 + i) * g->vocab;
        int32_t best = 0;
        for (int32_t id = 1; id < g->vocab; id++)
            if (row[id] > row[best]) best = id;
        if (g->gap[i] <= 2 * mode.tolerance * spread) continue;
        n_clear++;
        if (best != g->greedy[i])
            fail_msg("greedy token %d: %d, expected %d (gap %g)", i, best, g->greedy[i], g->gap[i]);
    }
    return n_clear;
}

static void check_fixture(const char *name, const char *file, int size, int32_t max_rows)
{
    char directory[512], model[512];
    struct golden g;
    snprintf(model, sizeof model, "%s/%s/%s", PHX_TEST_DATA, file ? "gguf" : "hf",
             file ? file : name);
    snprintf(directory, sizeof directory, "%s/hf/%s", PHX_TEST_DATA, name);
    open_golden(directory, &g);
    size_t cache = (size_t)(g.n_heads * PHX_PAGE_TOKENS * g.head_dim);
    struct result r = {.golden = &g,
                       .logits = calloc((size_t)(N_ALL * g.vocab), sizeof(float)),
                       .k = calloc(cache, sizeof(float)),
                       .v = calloc(cache, sizeof(float))};
    struct test_job job = {
        .settings = {.model = model,
                     .device = mode.device,
                     .compute = mode.compute,
                     .n_threads = 1},
        .needs = {.max_seqs = 1, .max_rows = max_rows, .all_logits = true, .max_length = N_ALL},
        .lead = lead,
        .after = mode.compare_cache ? take_cache : NULL,
        .user = &r};
    assert_ok(test_job_run(size, &job));
    assert_int_equal(r.n_outputs, N_ALL);
    int n_clear = compare_logits(&g, r.logits);
    if (mode.compare_cache) {
        compare_cache(&g, r.k, g.k, "K");
        compare_cache(&g, r.v, g.v, "V");
    }
    print_message("%s, %d ranks, steps of %d: %d of %d greedy tokens have a clear gap\n",
                  file ? file : name, size, max_rows, n_clear, N_GREEDY);
    assert_true(n_clear > mode.min_clear);
    free(r.logits);
    free(r.k);
    free(r.v);
    phx_checkpoint_destroy(g.file);
}

/* The model of tests/data/hf, or `file` of tests/data/gguf, which is the same. */
#define FIXTURE(label, name, file, kv_heads)                                                       \
    static void label(void **state)                                                                \
    {                                                                                              \
        (void)state;                                                                               \
        for (int size = 1; size <= (kv_heads) && size <= mode.max_ranks; size++) {                 \
            check_fixture(name, file, size, 512);                                                  \
            check_fixture(name, file, size, 7);                                                    \
        }                                                                                          \
    }

FIXTURE(llama_uneven, "llama-15q5kv-uneven", NULL, 5)
FIXTURE(llama_mha, "llama-mha-6q6kv", NULL, 6)
FIXTURE(llama_mqa, "llama-mqa-7q1kv", NULL, 1)
FIXTURE(llama3, "llama3-12q4kv", NULL, 4)
FIXTURE(mistral_window, "mistral-8q2kv-window16", NULL, 2)
FIXTURE(qwen2, "qwen2-14q2kv", NULL, 2)
FIXTURE(qwen3, "qwen3-16q4kv", NULL, 4)
/* As another program wrote it: heads interleaved, llama3 scaling as rope_freqs. */
FIXTURE(llama3_gguf, "llama3-12q4kv", "llama3-12q4kv.gguf", 4)

static int run_all(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_uneven),   cmocka_unit_test(llama_mha),
        cmocka_unit_test(llama_mqa),      cmocka_unit_test(llama3),
        cmocka_unit_test(mistral_window), cmocka_unit_test(qwen2),
        cmocka_unit_test(qwen3),          cmocka_unit_test(llama3_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "cuda") != 0) return run_all();
    int n_gpus = test_count_gpus();
    if (n_gpus == 0) return TEST_SKIPPED;
    mode = (struct mode){PHX_DEVICE_CUDA, PHX_F32, 1e-3, n_gpus > 4 ? n_gpus : 4, true, 12};
    int n_failed = run_all();
    mode.tolerance = 2e-2;
    mode.compare_cache = false;
    mode.min_clear = 3;
    mode.compute = PHX_BF16;
    n_failed += run_all();
    mode.compute = PHX_F16;
    return n_failed + run_all();
}
