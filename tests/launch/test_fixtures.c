/* The tiny models of tests/data/hf against what transformers computed, at every number of ranks.
 *
 *   test_fixtures            on the CPU
 *   test_fixtures cuda TYPE  on the GPUs, shared by up to four ranks, computing in f32, bf16 or
 * f16; exit status 77 without any */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/reference.h"
#include "runtime/safetensors.h"
#include "tests/support/golden_rope.h"
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
    const float *logits, *k, *v;
    int64_t vocab;
    int32_t n_heads, n_positions, head_dim; /* of k and v: the last n_positions of the prompt */
    int32_t best[N_GREEDY]; /* the tokens with the largest logits after the prompt */
    float gap[N_GREEDY];    /* from them to the second largest */
    bool close[N_ALL];      /* a choice of experts is so close that rounding may turn it */
};

enum { MAX_LAYERS = 8, MAX_CHOSEN = 8 };

struct result {
    const struct golden *golden;
    struct phx_forward_taps taps; /* looks at rank 0's choices of experts, if it looks */
    int32_t positions[N_ALL];     /* of the step's rows */
    int32_t chosen[MAX_LAYERS][N_ALL][MAX_CHOSEN];
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
    memcpy(g->best, g->greedy, sizeof g->best);
    memcpy(g->gap, data(g, "greedy_gap"), sizeof g->gap);
    g->logits = data(g, "logits");
    g->k = data(g, "layer0_k");
    g->v = data(g, "layer0_v");
    g->vocab = phx_checkpoint_find(g->file, "logits")->shape[1];
    const struct phx_file_tensor *k = phx_checkpoint_find(g->file, "layer0_k");
    g->n_heads = (int32_t)k->shape[0];
    g->n_positions = (int32_t)k->shape[1];
    g->head_dim = (int32_t)k->shape[2];
}

/* The reference, in double precision, on the golden text. */
static void run_reference(const char *directory, const struct phx_reference_options *options,
                          const struct golden *g, const struct phx_config *config,
                          enum phx_status (*see)(void *, enum phx_activation_name, int32_t, int64_t,
                                                 const double *),
                          void *user)
{
    struct phx_checkpoint *weights = NULL;
    struct phx_reference *reference = NULL;
    int32_t ids[N_ALL];
    memcpy(ids, g->prompt, N_PROMPT * sizeof *ids);
    memcpy(ids + N_PROMPT, g->greedy, N_GREEDY * sizeof *ids);
    assert_ok(phx_checkpoint_open(directory, &weights));
    assert_ok(phx_reference_create(config, weights, options, &reference));
    assert_ok(phx_reference_run(reference, ids, N_ALL, see, user));
    phx_reference_destroy(reference);
    phx_checkpoint_destroy(weights);
}

/* ---- choices of experts: rounding may turn a close one ---- */

struct choices {
    struct golden *golden;
    const struct phx_config *config;
    const struct result *result;
    float *logits;
};

static int larger_first(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Where the last expert that is chosen and the first that is not are closer than what rounding may
 * do to their logits. */
static enum phx_status see_choice(void *user, enum phx_activation_name name, int32_t layer,
                                  int64_t cols, const double *values)
{
    const struct choices *c = user;
    double sorted[64];
    (void)layer;
    if (name != PHX_ACT_ROUTER || c->config->n_chosen == cols) return PHX_OK;
    PHX_ASSERT(cols <= 64);
    for (int p = 0; p < N_ALL; p++) {
        memcpy(sorted, values + p * cols, (size_t)cols * sizeof *sorted);
        qsort(sorted, (size_t)cols, sizeof *sorted, larger_first);
        const double gap = sorted[c->config->n_chosen - 1] - sorted[c->config->n_chosen];
        if (gap <= 2 * mode.tolerance) c->golden->close[p] = true;
    }
    return PHX_OK;
}

static bool as_run(void *user, int32_t layer, int64_t position, int32_t *ids)
{
    const struct choices *c = user;
    memcpy(ids, c->result->chosen[layer][position], (size_t)c->config->n_chosen * sizeof *ids);
    return true;
}

static enum phx_status see_logits(void *user, enum phx_activation_name name, int32_t layer,
                                  int64_t cols, const double *values)
{
    const struct choices *c = user;
    (void)layer;
    for (int64_t i = 0; name == PHX_ACT_LOGITS && i < N_ALL * cols; i++)
        c->logits[i] = (float)values[i];
    return PHX_OK;
}

static void find_best(struct golden *g, int i, const float *row)
{
    float second = -INFINITY;
    g->best[i] = 0;
    for (int32_t id = 1; id < g->vocab; id++)
        if (row[id] > row[g->best[i]]) g->best[i] = id;
    for (int32_t id = 0; id < g->vocab; id++)
        if (id != g->best[i]) second = fmaxf(second, row[id]);
    g->gap[i] = row[g->best[i]] - second;
}

/* What must come out: the golden but for close positions; or, where rounding is so coarse that
 * turned choices reach other positions through attention, what the reference computes with the
 * choices of the run, each of which must be as good as its own. */
static float *judge_choices(const char *directory, bool rounded, const struct result *r,
                            struct golden *g)
{
    struct phx_config *config = NULL;
    struct choices c = {.golden = g, .result = r};
    struct phx_reference_options options = {.inv_freq = rounded ? PHX_BF16 : PHX_F32, .user = &c};
    assert_ok(phx_config_load(directory, &config));
    c.config = config;
    if (r->taps.look == NULL) {
        run_reference(directory, &options, g, config, see_choice, &c);
    } else {
        options.chosen = as_run;
        options.close = 2 * mode.tolerance;
        c.logits = malloc((size_t)(N_ALL * g->vocab) * sizeof *c.logits);
        assert_non_null(c.logits);
        run_reference(directory, &options, g, config, see_logits, &c);
        g->logits = c.logits;
        for (int i = 0; i < N_GREEDY; i++)
            find_best(g, i, c.logits + (N_PROMPT - 1 + i) * g->vocab);
    }
    phx_config_destroy(config);
    return c.logits;
}

static enum phx_status look(void *user, struct phx_stream *s, const struct phx_step *step,
                            enum phx_point point, int32_t layer, struct phx_tensor tensor)
{
    struct result *r = user;
    int32_t ids[N_ALL * MAX_CHOSEN];
    const int64_t k = tensor.cols;
    if (point == PHX_POINT_STEP) {
        PHX_TRY(phx_tensor_download(s, step->layout.positions, r->positions));
        return phx_stream_synchronize(s);
    }
    if (point != PHX_POINT_CHOSEN) return PHX_OK;
    PHX_ASSERT(layer < MAX_LAYERS && tensor.rows <= N_ALL && k <= MAX_CHOSEN);
    PHX_TRY(phx_tensor_download(s, tensor, ids));
    PHX_TRY(phx_stream_synchronize(s));
    for (int64_t i = 0; i < tensor.rows; i++)
        memcpy(r->chosen[layer][r->positions[i]], ids + i * k, (size_t)k * sizeof *ids);
    return PHX_OK;
}

static const struct phx_attention_tap *no_attention(void *user, int32_t layer)
{
    (void)user;
    (void)layer;
    return NULL;
}

/* ---- the run ---- */

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
    if (r->taps.look != NULL) phx_engine_set_taps(run->engine, &r->taps);
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
    int n_close = 0;
    for (int p = 0; p < N_PROMPT; p++) n_close += g->close[p];
    assert_true(n_close <= N_PROMPT / 4);
    for (int64_t i = 0; i < N_PROMPT * g->vocab; i++)
        if (!g->close[i / g->vocab] &&
            !(fabs((double)logits[i] - g->logits[i]) <= mode.tolerance * spread))
            fail_msg("logit of token %lld at position %lld: %g, expected %g (range %g)",
                     (long long)(i % g->vocab), (long long)(i / g->vocab), logits[i], g->logits[i],
                     spread);
    int n_clear = 0;
    for (int i = 0; i < N_GREEDY; i++) {
        const float *row = logits + (N_PROMPT - 1 + i) * g->vocab;
        int32_t best = 0;
        for (int32_t id = 1; id < g->vocab; id++)
            if (row[id] > row[best]) best = id;
        if (g->gap[i] <= 2 * mode.tolerance * spread || g->close[N_PROMPT - 1 + i]) continue;
        n_clear++;
        if (best != g->best[i])
            fail_msg("greedy token %d: %d, expected %d (gap %g)", i, best, g->best[i], g->gap[i]);
    }
    return n_clear;
}

static const struct fixture {
    const char *name;
    int kv_heads;
    bool experts;     /* run with both ways of cutting them */
    int32_t context;  /* as of struct phx_run_settings */
    bool rounded;     /* by a maker who had rounded the rotary frequencies (golden_rope.h) */
    const char *gguf; /* of tests/data/gguf, the same model; NULL: that of tests/data/hf */
} fixtures[] = {
    {"llama-15q5kv-uneven", 5, .rounded = true},
    {"llama-mha-6q6kv", 6, .rounded = true},
    {"llama-mqa-7q1kv", 1, .rounded = true},
    {"llama3-12q4kv", 4, .rounded = true},
    {"mistral-8q2kv-window16", 2, .rounded = true},
    {"qwen2-14q2kv", 2, .rounded = true},
    {"qwen3-16q4kv", 4, .rounded = true},
    {"mixtral-8q2kv-4experts", 2, .experts = true, .rounded = true},
    {"qwen3moe-12q4kv-8experts", 4, .experts = true, .rounded = true},
    {"qwen2moe-9q3kv-7experts", 3, .experts = true},
    {"phi3-15q5kv-longrope", .kv_heads = 5},
    {"phi3-9q3kv-partial", 3, .context = N_ALL},
    {"granite-12q4kv", .kv_heads = 4},
    {"smollm3-10q2kv", .kv_heads = 2},
    {"qwen2-9q3kv-windows", .kv_heads = 3},
    {"gemma2-10q5kv", .kv_heads = 5},
    {"gemma3-12q3kv", .kv_heads = 3},
    {"olmo2-8q4kv", .kv_heads = 4},
    /* As another program wrote them: heads interleaved, factors of rotations as tensors, experts
     * stacked, Gemma's norms whole. */
    {"llama3-12q4kv", 4, .rounded = true, .gguf = "llama3-12q4kv.gguf"},
    {"mixtral-8q2kv-4experts", 2, .experts = true, .rounded = true,
     .gguf = "mixtral-8q2kv-4experts.gguf"},
    {"phi3-15q5kv-longrope", .kv_heads = 5, .gguf = "phi3-15q5kv-longrope.gguf"},
    {"phi3-15q5kv-longrope", .kv_heads = 5, .gguf = "phi3-parts-00001-of-00002.gguf"},
    {"granite-12q4kv", .kv_heads = 4, .gguf = "granite-12q4kv.gguf"},
    {"gemma2-10q5kv", .kv_heads = 5, .gguf = "gemma2-10q5kv.gguf"},
    {"gemma3-12q3kv", .kv_heads = 3, .gguf = "gemma3-12q3kv.gguf"},
    {"olmo2-8q4kv", .kv_heads = 4, .gguf = "olmo2-8q4kv.gguf"},
};

static void check_fixture(const struct fixture *f, int size, int32_t max_rows, bool expert_parallel)
{
    const char *name = f->gguf ? f->gguf : f->name;
    char directory[512], model[512];
    struct golden g = {0};
    snprintf(directory, sizeof directory, "%s/hf/%s", PHX_TEST_DATA, f->name);
    snprintf(model, sizeof model, "%s/%s/%s", PHX_TEST_DATA, f->gguf ? "gguf" : "hf", name);
    open_golden(directory, &g);
    size_t cache = (size_t)(g.n_heads * PHX_PAGE_TOKENS * g.head_dim);
    const bool looks = f->experts && mode.compute != PHX_F32;
    struct result r = {.golden = &g,
                       .logits = calloc((size_t)(N_ALL * g.vocab), sizeof(float)),
                       .k = calloc(cache, sizeof(float)),
                       .v = calloc(cache, sizeof(float))};
    if (looks) r.taps = (struct phx_forward_taps){&r, look, no_attention};
    struct test_job job = {
        .settings = {.model = model,
                     .expert_parallel = expert_parallel,
                     .eager = looks, /* whoever looks on sees no recorded steps */
                     .context = f->context,
                     .device = mode.device,
                     .compute = mode.compute,
                     .n_threads = 1},
        .needs = {.max_seqs = 1, .max_rows = max_rows, .all_logits = true, .max_length = N_ALL},
        .lead = lead,
        .after = mode.compare_cache ? take_cache : NULL,
        .user = &r};
    assert_ok(test_job_run(size, &job));
    assert_int_equal(r.n_outputs, N_ALL);
    float *judged = f->experts ? judge_choices(directory, f->rounded, &r, &g) : NULL;
    int n_clear = compare_logits(&g, r.logits);
    if (mode.compare_cache) {
        compare_cache(&g, r.k, g.k, "K");
        compare_cache(&g, r.v, g.v, "V");
    }
    print_message("%s, %d ranks%s, steps of %d: %d of %d greedy tokens have a clear gap\n", name,
                  size, expert_parallel ? " with whole experts" : "", max_rows, n_clear, N_GREEDY);
    assert_true(n_clear > mode.min_clear);
    free(judged);
    free(r.logits);
    free(r.k);
    free(r.v);
    phx_checkpoint_destroy(g.file);
}

enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures };

static void at_every_size(void **state)
{
    const struct fixture *f = *state;
    test_golden_rope_rounded = f->rounded;
    for (int size = 1; size <= f->kv_heads && size <= mode.max_ranks; size++)
        for (int whole = 0; whole <= f->experts; whole++) {
            check_fixture(f, size, 512, whole);
            check_fixture(f, size, 7, whole);
        }
}

static int run_all(void)
{
    struct CMUnitTest tests[N_FIXTURES];
    for (int i = 0; i < N_FIXTURES; i++)
        tests[i] =
            (struct CMUnitTest){.name = fixtures[i].gguf ? fixtures[i].gguf : fixtures[i].name,
                                .test_func = at_every_size,
                                .initial_state = (void *)&fixtures[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    enum phx_dtype type;
    if (argc < 3 || strcmp(argv[1], "cuda") != 0) return run_all();
    int n_gpus = test_count_gpus();
    if (n_gpus == 0) return TEST_SKIPPED;
    if (!test_compute_type(argv[2], &type)) return 2;
    const int max_ranks = n_gpus > 4 ? n_gpus : 4;
    if (type == PHX_F32)
        mode = (struct mode){PHX_DEVICE_CUDA, PHX_F32, 1e-3, max_ranks, true, 12};
    else
        mode = (struct mode){PHX_DEVICE_CUDA, type, 2e-2, max_ranks, false, 3};
    return run_all();
}
