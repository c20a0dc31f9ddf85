/* GGUF files as models: what another program quantised gives, at every number of ranks, the logits
 * of its values in safetensors; and conversions there and back. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static struct result run(const char *model, int size, int32_t max_rows)
{
    struct result r = {0};
    struct test_job job = {
        .settings = {.model = model, .device = PHX_DEVICE_CPU, .compute = PHX_F32, .n_threads = 1},
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
static void check_quantised(const char *file, int most)
{
    char folder[64];
    temporary(folder);
    const struct phx_convert_options f32 = {.matrices = PHX_F32};
    assert_ok(phx_convert_from_gguf(file, folder, &f32));
    struct result wanted = run(folder, 1, 64);
    for (int size = 1; size <= most; size++) {
        for (int rows = 1; rows <= 64; rows *= 8) {
            struct result r = run(file, size, rows);
            expect_same(&r, &wanted, file, size);
            free(r.logits);
        }
    }
    free(wanted.logits);
    clear(folder);
}

static void quantised_models_are_their_values(void **state)
{
    (void)state;
    check_quantised(PHX_TEST_DATA "/gguf/mixed.gguf", 4);
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

/* To GGUF and back: every matrix has the same bits; and the GGUF the same logits. */
static void conversions_keep_bits_and_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-15q5kv-uneven", "mistral-8q2kv-window16",
                                        "qwen2-14q2kv", "qwen3-16q4kv"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char source[512], folder[64], file[80];
        struct phx_checkpoint *before = NULL, *after = NULL;
        snprintf(source, sizeof source, PHX_TEST_DATA "/hf/%s", names[i]);
        temporary(folder);
        snprintf(file, sizeof file, "%s/a.safetensors", folder); /* its content says what it is */
        const struct phx_convert_options same = {.matrices = PHX_DTYPE_COUNT};
        assert_ok(phx_convert_to_gguf(source, file, &same));
        struct result wanted = run(source, 1, 64), got = run(file, 2, 64);
        expect_same(&got, &wanted, names[i], 2);
        assert_ok(phx_convert_from_gguf(file, folder, &same));
        assert_ok(phx_checkpoint_open(source, &before));
        assert_ok(phx_checkpoint_open(folder, &after));
        for (size_t t = 0; t < phx_checkpoint_count(before); t++) {
            const struct phx_file_tensor *a = phx_checkpoint_at(before, t);
            const struct phx_file_tensor *b = phx_checkpoint_find(after, a->name);
            assert_non_null(b);
            if (a->n_dims == 2) {
                assert_int_equal(a->bytes, b->bytes);
                assert_memory_equal(a->data, b->data, a->bytes);
            }
        }
        free(wanted.logits);
        free(got.logits);
        phx_checkpoint_destroy(before);
        phx_checkpoint_destroy(after);
        const struct phx_convert_options q8 = {.matrices = PHX_Q8_0};
        assert_ok(phx_convert_to_gguf(source, file, &q8));
        check_quantised(file, 2);
        const struct phx_convert_options q4 = {.matrices = PHX_Q4_0};
        assert_ok(phx_convert_to_gguf(source, file, &q4));
        check_quantised(file, 2);
        clear(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_as_another_program_reads_them),
        cmocka_unit_test(quantised_models_are_their_values),
        cmocka_unit_test(conversions_keep_bits_and_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
