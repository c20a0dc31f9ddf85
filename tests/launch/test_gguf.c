/* GGUF files as models: what another program quantised gives, at every number of ranks, the logits
 * of its values in safetensors; and conversions there and back.
 *
 *   test_gguf            on the CPU
 *   test_gguf cuda TYPE  on the GPUs, shared by up to four ranks, computing in f32, bf16 or f16;
 *                        exit status 77 without any */
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
#include "tests/support/gpus.h"
#include "tests/support/job.h"

enum { N_PROMPT = 20 };

/* Where models run, and how far apart they may be: of the logits' range. */
static struct mode {
    enum phx_device_kind device;
    enum phx_dtype compute;
    double tolerance;
} mode = {PHX_DEVICE_CPU, PHX_F32, 1e-4};

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
                     .load_mode = (enum phx_load_mode)(max_rows % PHX_LOAD_MODE_DIRECT),
                     .device = mode.device,
                     .compute = mode.compute,
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
        if (!(fabs((double)a->logits[i] - (double)b->logits[i]) <=
              mode.tolerance * (double)(high - low)))
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
    if (m->experts && mode.compute != PHX_F32) skip(); /* rounding may choose other experts */
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

/* Weights of the first layer, and a config.json edited by sed. */
static void write_first_layer(const char *name, const char *edit, const char *folder)
{
    struct phx_checkpoint *model = NULL;
    char path[1024];
    snprintf(path, sizeof path, PHX_TEST_DATA "/hf/%s", name);
    assert_ok(phx_checkpoint_open(path, &model));
    size_t n = 0;
    struct phx_tensor_to_write *tensors = calloc(phx_checkpoint_count(model), sizeof *tensors);
    for (size_t i = 0; i < phx_checkpoint_count(model); i++) {
        const struct phx_file_tensor *t = phx_checkpoint_at(model, i);
        if (strstr(t->name, ".layers.") && !strstr(t->name, ".layers.0.")) continue;
        tensors[n] = (struct phx_tensor_to_write){.name = t->name,
                                                  .dtype = (enum phx_dtype)t->dtype,
                                                  .n_dims = t->n_dims,
                                                  .data = t->data};
        memcpy(tensors[n++].shape, t->shape, sizeof t->shape);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(phx_safetensors_write(path, tensors, n));
    free(tensors);
    phx_checkpoint_destroy(model);
    snprintf(path, sizeof path,
             "tr -d '\n ' < " PHX_TEST_DATA "/hf/%s/config.json | sed '%s' > %s/config.json", name,
             edit, folder);
    assert_int_equal(system(path), 0);
}

/* As another program writes Qwen2-MoE, which has no windows then and experts in every layer: here
 * the first layer of the model of tests/data/hf. */
static void shared_experts_are_as_another_program_writes_them(void **state)
{
    (void)state;
    static const char file[] = PHX_TEST_DATA "/gguf/qwen2moe-9q3kv-7experts.gguf";
    char folder[64];
    if (mode.compute != PHX_F32) skip(); /* rounding may choose other experts */
    temporary(folder);
    write_first_layer("qwen2moe-9q3kv-7experts",
                      "s/num_hidden_layers\":4/num_hidden_layers\":1/;"
                      "s/use_sliding_window\":true/use_sliding_window\":false/;"
                      "s/mlp_only_layers\":.1./mlp_only_layers\":[]/;"
                      "s/\"layer_types\":[^]]*],//",
                      folder);
    struct result wanted = run(folder, 1, 64, false);
    for (int size = 1; size <= 3; size++)
        for (int whole = 0; whole < 2; whole++) {
            struct result r = run(file, size, 7, whole);
            expect_same(&r, &wanted, file, size);
            free(r.logits);
        }
    free(wanted.logits);
    clear(folder);
}

/* ---- parts ---- */

static void expect_refused(const char *path, const char *says, const char *also)
{
    struct phx_gguf *gguf = NULL;
    assert_true(phx_gguf_open(path, &gguf) != PHX_OK);
    if (!strstr(phx_fail_sentence(), says) || !strstr(phx_fail_sentence(), also))
        fail_msg("%s: the sentence is: %s", path, phx_fail_sentence());
    phx_fail_clear();
}

static void parts_must_be_there_under_their_names(void **state)
{
    (void)state;
    static const char first[] = PHX_TEST_DATA "/gguf/phi3-parts-00001-of-00002.gguf";
    static const char second[] = PHX_TEST_DATA "/gguf/phi3-parts-00002-of-00002.gguf";
    char folder[64], command[1024], path[128];
    temporary(folder);
    expect_refused(second, "is file 2 of 2", "give the first");
    snprintf(command, sizeof command, "ln -s %s %s/model.gguf && ln -s %s %s/a-00001-of-00002.gguf",
             first, folder, first, folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    expect_refused(path, "model.gguf", "-00001-of-00002.gguf");
    snprintf(path, sizeof path, "%s/a-00001-of-00002.gguf", folder);
    expect_refused(path, "cannot open", "a-00002-of-00002.gguf");
    snprintf(command, sizeof command, "ln -s %s %s/a-00002-of-00002.gguf", first, folder);
    assert_int_equal(system(command), 0);
    expect_refused(path, "a-00002-of-00002.gguf says that it is file 1 of 2", "needs file 2 of 2");
    clear(folder);
}

/* ---- types ---- */

static enum phx_dtype dtype_of(const struct phx_file_tensor *t)
{
    return (enum phx_dtype)t->dtype;
}

/* The tensors of `name` in `dtype`, with values that no other type holds. */
static void write_in(enum phx_dtype dtype, const char *name, const char *folder)
{
    struct phx_checkpoint *model = NULL;
    char path[600];
    snprintf(path, sizeof path, PHX_TEST_DATA "/hf/%s", name);
    assert_ok(phx_checkpoint_open(path, &model));
    size_t n = phx_checkpoint_count(model);
    struct phx_tensor_to_write *tensors = calloc(n, sizeof *tensors);
    for (size_t i = 0; i < n; i++) {
        const struct phx_file_tensor *t = phx_checkpoint_at(model, i);
        int64_t count = t->shape[0] * (t->n_dims == 2 ? t->shape[1] : 1);
        float *values = calloc((size_t)count, sizeof *values);
        char *data = malloc(phx_dtype_bytes(dtype, count));
        phx_values_widen(dtype_of(t), t->data, count, values);
        for (int64_t k = 0; k < count; k++) values[k] *= 1 + (float)(k % 9973) / 65536;
        phx_values_narrow(dtype, values, count, data);
        free(values);
        tensors[i] = (struct phx_tensor_to_write){.name = t->name,
                                                  .dtype = dtype,
                                                  .n_dims = t->n_dims,
                                                  .shape = {t->shape[0], t->shape[1]},
                                                  .data = data};
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(phx_safetensors_write(path, tensors, n));
    for (size_t i = 0; i < n; i++) free((void *)tensors[i].data);
    free(tensors);
    phx_checkpoint_destroy(model);
    snprintf(path, sizeof path, "cp " PHX_TEST_DATA "/hf/%s/config.json %s", name, folder);
    assert_int_equal(system(path), 0);
}

/* Back from a GGUF whose matrices are `type`: the source's values rounded to it, and of a quantised
 * one to bf16 then; rows that are no whole blocks are f16. */
static void expect_rounded(const struct phx_file_tensor *from, const struct phx_file_tensor *back,
                           enum phx_dtype type)
{
    int64_t cols = from->shape[1];
    enum phx_dtype kept = cols % phx_dtype_traits(type)->block_elements == 0 ? type : PHX_F16;
    enum phx_dtype last = phx_dtype_traits(kept)->is_float ? kept : PHX_BF16;
    float *row = calloc((size_t)cols, sizeof *row);
    char *blocks = malloc(phx_dtype_bytes(kept, cols)), *wanted = malloc((size_t)cols * 4);
    assert_int_equal(back->dtype, last);
    for (int64_t r = 0; r < from->shape[0]; r++) {
        size_t pitch = phx_dtype_bytes(last, cols);
        phx_values_widen(dtype_of(from),
                         (const char *)from->data +
                             (size_t)r * phx_dtype_bytes(dtype_of(from), cols),
                         cols, row);
        phx_values_narrow(kept, row, cols, blocks);
        phx_values_widen(kept, blocks, cols, row);
        phx_values_narrow(last, row, cols, wanted);
        assert_memory_equal((const char *)back->data + (size_t)r * pitch, wanted, pitch);
    }
    free(row);
    free(blocks);
    free(wanted);
}

static void check_types(const char *source, enum phx_dtype type)
{
    char file[80], folder[64];
    struct phx_checkpoint *a = NULL, *b = NULL;
    const struct phx_convert_options to = {.matrices = type}, same = {.matrices = PHX_DTYPE_COUNT};
    temporary(folder);
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    assert_ok(phx_convert_to_gguf(source, file, &to));
    assert_ok(phx_convert_from_gguf(file, folder, &same));
    assert_ok(phx_checkpoint_open(source, &a));
    assert_ok(phx_checkpoint_open(folder, &b));
    for (size_t i = 0; i < phx_checkpoint_count(a); i++) {
        const struct phx_file_tensor *t = phx_checkpoint_at(a, i);
        const struct phx_file_tensor *back = phx_checkpoint_find(b, t->name);
        assert_non_null(back);
        if (t->n_dims == 2) expect_rounded(t, back, type);
    }
    phx_checkpoint_destroy(a);
    phx_checkpoint_destroy(b);
    clear(folder);
}

static void types_are_rounded_once(void **state)
{
    (void)state;
    static const enum phx_dtype from[] = {PHX_F32, PHX_F16, PHX_BF16};
    static const enum phx_dtype to[] = {PHX_F32, PHX_F16, PHX_BF16, PHX_Q8_0, PHX_Q4_0};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        char source[64];
        temporary(source);
        write_in(from[i], "llama-mha-6q6kv", source);
        for (size_t k = 0; k < sizeof to / sizeof *to; k++) check_types(source, to[k]);
        clear(source);
    }
}

static int run_all(void)
{
    enum { N_OTHERS = 5, N_MODELS = sizeof models / sizeof *models };
    struct CMUnitTest tests[N_OTHERS + N_MODELS] = {
        cmocka_unit_test(values_are_as_another_program_reads_them),
        cmocka_unit_test(quantised_models_are_their_values),
        cmocka_unit_test(shared_experts_are_as_another_program_writes_them),
        cmocka_unit_test(types_are_rounded_once),
        cmocka_unit_test(parts_must_be_there_under_their_names),
    };
    for (int i = 0; i < N_MODELS; i++)
        tests[N_OTHERS + i] = (struct CMUnitTest){.name = models[i].name,
                                                  .test_func = conversions_keep_bits_and_logits,
                                                  .initial_state = (void *)&models[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    enum phx_dtype type;
    if (argc < 3 || strcmp(argv[1], "cuda") != 0) return run_all();
    if (test_count_gpus() == 0) return TEST_SKIPPED;
    if (!test_compute_type(argv[2], &type)) return 2;
    mode = (struct mode){PHX_DEVICE_CUDA, type, type == PHX_F32 ? 1e-3 : 2e-2};
    return run_all();
}
