/* GGUF files as models: what another program quantised gives, at every number of ranks, the logits
 * of its values in safetensors; and conversions there and back. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/blocks.h"
#include "kernels/base/check.h"
#include "runtime/convert.h"
#include "runtime/gguf.h"
#include "tests/support/job.h"

enum { N_PROMPT = 20 };

struct result {
    int64_t vocab;
    float *logits; /* [N_PROMPT][vocab] */
    int n;
};

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct result *r = request->options.user;
    memcpy(r->logits + r->n++ * r->vocab, output->logits, (size_t)r->vocab * sizeof(float));
}

static enum phx_status lead(struct phx_run *run, void *user)
{
    static int32_t ids[N_PROMPT + 1];
    struct result *r = user;
    struct phx_request *request = NULL;
    for (int i = 0; i <= N_PROMPT; i++) ids[i] = (i * 37 + 5) % 250;
    r->vocab = run->config->vocab;
    r->logits = calloc((size_t)((N_PROMPT + 1) * r->vocab), sizeof(float));
    struct phx_request_options o = {.prompt_ids = ids,
                                    .n_prompt = N_PROMPT,
                                    .max_new = 1,
                                    .forced_ids = ids,
                                    .n_forced = 1,
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

static struct result run(const char *model, int size, int32_t max_rows, bool expert_parallel)
{
    struct result r = {0};
    struct test_job job = {
        .settings = {.model = model,
                     .expert_parallel = expert_parallel,
                     .device = PHX_DEVICE_CPU,
                     .compute = PHX_F32,
                     .n_threads = 1},
        .needs = {.max_seqs = 1, .max_rows = max_rows, .all_logits = true, .max_length = 30},
        .lead = lead,
        .user = &r};
    assert_ok(test_job_run(size, &job));
    assert_true(r.n >= N_PROMPT);
    return r;
}

static void expect_same(const struct result *a, const struct result *b, const char *what, int size)
{
    float low = b->logits[0], high = b->logits[0];
    assert_int_equal(a->vocab, b->vocab);
    for (int64_t i = 0; i < N_PROMPT * a->vocab; i++) {
        low = fminf(low, b->logits[i]);
        high = fmaxf(high, b->logits[i]);
    }
    assert_true(high > low);
    for (int64_t i = 0; i < N_PROMPT * a->vocab; i++)
        if (!(fabsf(a->logits[i] - b->logits[i]) <= 1e-4f * (high - low)))
            fail_msg("%s, %d ranks: logit %lld is %g, expected %g", what, size, (long long)i,
                     (double)a->logits[i], (double)b->logits[i]);
}

static void temporary(char out[64])
{
    snprintf(out, 64, "/tmp/phalanx-test-XXXXXX");
    assert_non_null(mkdtemp(out));
}

static void clear(const char *folder)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* The GGUF, at every number of ranks, as its values in f32 on one. */
static void check_quantised(const char *file, int most, bool experts)
{
    char folder[64];
    temporary(folder);
    const struct phx_convert_options f32 = {.matrices = PHX_F32};
    assert_ok(phx_convert_from_gguf(file, folder, &f32));
    struct result wanted = run(folder, 1, 64, false);
    for (int size = 1; size <= most; size++) {
        for (int rows = 1; rows <= 64; rows *= 8) {
            for (int whole = 0; whole <= experts; whole++) {
                struct result r = run(file, size, rows, whole);
                expect_same(&r, &wanted, file, size);
                free(r.logits);
            }
        }
    }
    free(wanted.logits);
    clear(folder);
}

static void quantised_models_are_their_values(void **state)
{
    (void)state;
    check_quantised(PHX_TEST_DATA "/gguf/mixed.gguf", 4, false);
}

static void values_are_as_another_program_reads_them(void **state)
{
    (void)state;
    struct phx_gguf *gguf = NULL;
    struct phx_checkpoint *values = NULL;
    assert_ok(phx_gguf_open(PHX_TEST_DATA "/gguf/mixed.gguf", &gguf));
    assert_ok(phx_checkpoint_open(PHX_TEST_DATA "/gguf/mixed_values.safetensors", &values));
    assert_int_equal(phx_checkpoint_count(values), 16);
    for (size_t i = 0; i < phx_checkpoint_count(values); i++) {
        const struct phx_file_tensor *v = phx_checkpoint_at(values, i);
        const struct phx_file_tensor *t = phx_gguf_tensor(gguf, v->name);
        int64_t n = v->shape[0] * v->shape[1];
        assert_non_null(t);
        float *ours = malloc((size_t)n * sizeof *ours);
        phx_values_widen((enum phx_dtype)t->dtype, t->data, n, ours);
        for (int64_t k = 0; k < n; k++) {
            float theirs;
            memcpy(&theirs, (const char *)v->data + 4 * k, sizeof theirs);
            if (!(fabsf(ours[k] - theirs) <= 1e-6f * (fabsf(theirs) + 0.1f)))
                fail_msg("%s (%s), value %lld: %g, expected %g", t->name, t->dtype_name,
                         (long long)k, (double)ours[k], (double)theirs);
        }
        free(ours);
    }
    phx_checkpoint_destroy(values);
    phx_gguf_destroy(gguf);
}

static double value_at(const struct phx_file_tensor *t, int64_t i)
{
    float value;
    phx_values_widen((enum phx_dtype)t->dtype,
                     (const char *)t->data + phx_dtype_bytes((enum phx_dtype)t->dtype, i), 1,
                     &value);
    return (double)value;
}

/* Matrices have the same bits, vectors, which are f32 on the way, the same values. */
static void expect_same_tensors(const char *before, const char *after)
{
    struct phx_checkpoint *a = NULL, *b = NULL;
    assert_ok(phx_checkpoint_open(before, &a));
    assert_ok(phx_checkpoint_open(after, &b));
    assert_int_equal(phx_checkpoint_count(a), phx_checkpoint_count(b));
    for (size_t i = 0; i < phx_checkpoint_count(a); i++) {
        const struct phx_file_tensor *x = phx_checkpoint_at(a, i);
        const struct phx_file_tensor *y = phx_checkpoint_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->n_dims, y->n_dims);
        assert_memory_equal(x->shape, y->shape, sizeof x->shape);
        if (x->n_dims == 2 && x->shape[0] > 1) {
            assert_int_equal(x->bytes, y->bytes);
            assert_memory_equal(x->data, y->data, x->bytes);
            continue;
        }
        for (int64_t k = 0; k < x->shape[x->n_dims - 1]; k++)
            if (!(fabs(value_at(x, k) - value_at(y, k)) <= 1e-7))
                fail_msg("%s[%lld]: %g, before it was %g", x->name, (long long)k, value_at(y, k),
                         value_at(x, k));
    }
    phx_checkpoint_destroy(a);
    phx_checkpoint_destroy(b);
}

/* A folder with the weights of a model of tests/data/hf and its config.json, edited by sed. */
static void link_model(const char *name, const char *edit, const char *folder)
{
    char command[2048];
    snprintf(command, sizeof command,
             "ln -s " PHX_TEST_DATA "/hf/%s/model*.safetensors* %s && tr -d '\n' < " PHX_TEST_DATA
             "/hf/%s/config.json | sed '%s' > %s/config.json",
             name, folder, name, edit, folder);
    assert_int_equal(system(command), 0);
}

/* To GGUF and back, of every family: the same tensors, and at all three the same logits. */
static const struct converted {
    const char *name;
    bool experts;
    const char *edit; /* of config.json: what a GGUF can say */
} models[] = {
    {.name = "llama-15q5kv-uneven"},
    {.name = "llama3-12q4kv"},
    {.name = "mistral-8q2kv-window16"},
    {.name = "qwen2-14q2kv"},
    {.name = "qwen2-9q3kv-windows"},
    {.name = "qwen3-16q4kv"},
    {.name = "mixtral-8q2kv-4experts", .experts = true},
    {.name = "qwen2moe-9q3kv-7experts", .experts = true},
    {.name = "qwen3moe-12q4kv-8experts", .experts = true},
    {.name = "phi3-15q5kv-longrope"},
    {.name = "phi3-9q3kv-partial"},
    {.name = "granite-12q4kv"},
    {.name = "smollm3-10q2kv",
     .edit = "s/\"no_rope_layers\": *\\[[^]]*]/\"no_rope_layers\": [1,1,1,0]/"},
    {.name = "gemma2-10q5kv"},
    {.name = "gemma3-12q3kv"},
    {.name = "olmo2-8q4kv"},
};

static void conversions_keep_bits_and_logits(void **state)
{
    const struct converted *m = *state;
    char source[64], folder[64], back[80], file[80];
    temporary(source);
    temporary(folder);
    link_model(m->name, m->edit ? m->edit : "", source);
    snprintf(file, sizeof file, "%s/a.safetensors", folder); /* its content says what it is */
    snprintf(back, sizeof back, "%s/back", folder);
    assert_int_equal(mkdir(back, 0777), 0);
    const struct phx_convert_options same = {.matrices = PHX_DTYPE_COUNT};
    assert_ok(phx_convert_to_gguf(source, file, &same));
    assert_ok(phx_convert_from_gguf(file, back, &same));
    expect_same_tensors(source, back);
    struct result wanted = run(source, 1, 64, false), got = run(file, 2, 64, m->experts);
    expect_same(&got, &wanted, m->name, 2);
    free(got.logits);
    got = run(back, 2, 7, false);
    expect_same(&got, &wanted, back, 2);
    free(wanted.logits);
    free(got.logits);
    const struct phx_convert_options q8 = {.matrices = PHX_Q8_0}, q4 = {.matrices = PHX_Q4_0};
    assert_ok(phx_convert_to_gguf(source, file, &q8));
    check_quantised(file, 2, m->experts);
    assert_ok(phx_convert_to_gguf(source, file, &q4));
    check_quantised(file, 2, m->experts);
    clear(folder);
    clear(source);
}

int main(void)
{
    enum { N_MODELS = sizeof models / sizeof *models };
    struct CMUnitTest tests[2 + N_MODELS] = {
        cmocka_unit_test(values_are_as_another_program_reads_them),
        cmocka_unit_test(quantised_models_are_their_values),
    };
    for (int i = 0; i < N_MODELS; i++)
        tests[2 + i] = (struct CMUnitTest){.name = models[i].name,
                                           .test_func = conversions_keep_bits_and_logits,
                                           .initial_state = (void *)&models[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
