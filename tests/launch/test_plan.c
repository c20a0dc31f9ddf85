/* `plan` against what runs take: bytes that the allocator gives on the CPU, sums that the
 * communicator makes; against the published sizes of models; and what it refuses. Linked with
 * allocations and sums wrapped. */
#include "tests/support/check.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "launch/options.h"
#include "launch/verbs/verbs.h"
#include "parallel/world_threads.h"
#include "runtime/step_model.h"
#include "tests/support/job.h"

enum { MAX_RANKS = 4, CONTEXT = 100, N_TEXTS = 2, N_NEW = 10 };

static const char model[] = PHX_TEST_DATA "/hf/llama3-12q4kv";

/* ---- what a rank's device memory comes to ---- */

static _Thread_local size_t taken; /* since the rank's device was made */
static _Thread_local bool elsewhere;
static _Thread_local int64_t summed; /* bytes */

int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);
enum phx_status __real_phx_device_create(const struct phx_device_options *options,
                                         struct phx_device **out);
enum phx_status __wrap_phx_device_create(const struct phx_device_options *options,
                                         struct phx_device **out);
enum phx_status __real_phx_host_alloc(struct phx_device *device, size_t bytes, void **out);
enum phx_status __wrap_phx_host_alloc(struct phx_device *device, size_t bytes, void **out);
enum phx_status __real_phx_world_share(struct phx_world *world, size_t bytes,
                                       struct phx_shared *out);
enum phx_status __wrap_phx_world_share(struct phx_world *world, size_t bytes,
                                       struct phx_shared *out);

enum phx_status __real_phx_comm_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                            const struct phx_reduce_norm *args);
enum phx_status __wrap_phx_comm_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                            const struct phx_reduce_norm *args);
enum phx_status __real_phx_comm_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                           struct phx_tensor x);
enum phx_status __wrap_phx_comm_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                           struct phx_tensor x);

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    if (!elsewhere) taken += bytes;
    return __real_posix_memalign(out, alignment, bytes);
}

enum phx_status __wrap_phx_device_create(const struct phx_device_options *options,
                                         struct phx_device **out)
{
    enum phx_status status = __real_phx_device_create(options, out);
    taken = 0;
    summed = 0;
    return status;
}

enum phx_status __wrap_phx_host_alloc(struct phx_device *device, size_t bytes, void **out)
{
    elsewhere = true;
    enum phx_status status = __real_phx_host_alloc(device, bytes, out);
    elsewhere = false;
    return status;
}

/* The partial results of several ranks lie there: their buffer is counted by its own size. */
enum phx_status __wrap_phx_world_share(struct phx_world *world, size_t bytes,
                                       struct phx_shared *out)
{
    elsewhere = true;
    enum phx_status status = __real_phx_world_share(world, bytes, out);
    elsewhere = false;
    return status;
}

enum phx_status __wrap_phx_comm_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                            const struct phx_reduce_norm *args)
{
    summed += (int64_t)phx_tensor_span_bytes(args->partial);
    return __real_phx_comm_reduce_norm(comm, stream, args);
}

/* Of squares; what reduce_norm adds does not pass here. */
enum phx_status __wrap_phx_comm_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                           struct phx_tensor x)
{
    summed += (int64_t)phx_tensor_span_bytes(x);
    return __real_phx_comm_all_reduce(comm, stream, x);
}

static const struct phx_gpu_kind *planted; /* in place of any */

const struct phx_gpu_kind *__real_phx_gpu_kind_find(const char *name);
const struct phx_gpu_kind *__wrap_phx_gpu_kind_find(const char *name);

const struct phx_gpu_kind *__wrap_phx_gpu_kind_find(const char *name)
{
    return planted != NULL ? planted : __real_phx_gpu_kind_find(name);
}

/* ---- a run ---- */

struct seen {
    struct phx_memory_plan plans[MAX_RANKS];
    size_t taken[MAX_RANKS];
    int64_t sum_bytes, n_steps;
    int32_t n_pages;
};

/* Steps of a token each. */
static enum phx_status lead(struct phx_run *run, void *user)
{
    (void)user;
    const int32_t prompt = 5;
    struct phx_request *request = NULL;
    struct phx_request_options o = {.prompt_ids = &prompt,
                                    .n_prompt = 1,
                                    .max_new = N_NEW,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1}};
    PHX_TRY(phx_request_create(&o, &request));
    enum phx_status status = phx_engine_submit(run->engine, request);
    if (status == PHX_OK) status = test_job_drive(run->engine);
    phx_request_destroy(request);
    return status;
}

static enum phx_status look(struct phx_run *run, void *user)
{
    struct seen *seen = user;
    int rank = run->world->rank;
    struct phx_engine_counters steps;
    seen->plans[rank] = run->memory;
    seen->taken[rank] = taken;
    if (run->world->size > 1) seen->taken[rank] += phx_buffer_bytes(run->partials);
    if (rank > 0) return PHX_OK;
    phx_engine_counters(run->engine, &steps);
    seen->sum_bytes = summed;
    seen->n_steps = steps.n_steps;
    seen->n_pages = phx_engine_kv(run->engine, 0).n_pages;
    return PHX_OK;
}

static void run_model(const char *directory, int size, enum phx_dtype kv_dtype, bool whole_experts,
                      struct seen *seen)
{
    struct test_job job = {.settings = {.model = directory,
                                        .expert_parallel = whole_experts,
                                        .device = PHX_DEVICE_CPU,
                                        .n_threads = 2,
                                        .choose_kv = true,
                                        .kv_dtype = kv_dtype},
                           .needs = {.max_seqs = N_TEXTS, .max_rows = 64, .max_length = CONTEXT},
                           .lead = lead,
                           .after = look,
                           .user = seen};
    assert_ok(test_job_run(size, &job));
}

/* ---- the verb ---- */

struct call {
    int argc;
    char *argv[24];
    struct phx_options *options;
};

static enum phx_status body(struct phx_world *world, void *user)
{
    return phx_verb_plan(world, ((struct call *)user)->options);
}

static char *no_variable(const char *name)
{
    (void)name;
    return NULL;
}

/* "plan -m DIR ...", words parted by blanks; what it prints and complains of goes to
 * `text`. */
static enum phx_status plan(const char *line, size_t bytes, char *text)
{
    char words[512];
    struct call call = {.argv = {(char *)"phalanx"}, .argc = 1};
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        call.argv[call.argc++] = word;
    text[0] = '\0';
    PHX_TRY(phx_options_create(call.argc, call.argv, no_variable, &call.options));
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    enum phx_status status = phx_world_threads_run(1, body, &call);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    rewind(file);
    text[fread(text, 1, bytes - 1, file)] = '\0';
    fclose(file);
    phx_options_destroy(call.options);
    return status;
}

static json_t *plan_json(const char *line)
{
    static char text[1 << 20];
    assert_ok(plan(line, sizeof text, text));
    json_t *root = json_loads(text, 0, NULL);
    if (root == NULL) fail_msg("no JSON: %.200s", text);
    return root;
}

static json_t *case_of(const json_t *root, size_t i)
{
    json_t *c = json_array_get(json_object_get(root, "cases"), i);
    assert_non_null(c);
    return c;
}

static int64_t int_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) fail_msg("%s is no whole number", key);
    return json_integer_value(value);
}

/* ---- tests ---- */

static void plans_are_what_is_taken(void **state)
{
    static const struct {
        const char *model;
        int max_ranks;
        enum phx_dtype kv_dtype;
        bool whole_experts;
    } rows[] = {
        {model, MAX_RANKS, PHX_F32, false},
        {model, MAX_RANKS, PHX_F16, false},
        {PHX_TEST_DATA "/hf/qwen2moe-9q3kv-7experts", 3, PHX_F32, false},
        {PHX_TEST_DATA "/hf/qwen2moe-9q3kv-7experts", 3, PHX_F32, true},
        {PHX_TEST_DATA "/hf/mixtral-8q2kv-4experts", 2, PHX_F32, false},
        {PHX_TEST_DATA "/hf/phi3-9q3kv-partial", 3, PHX_F32, false},
        {PHX_TEST_DATA "/hf/gemma3-12q3kv", 3, PHX_F32, false},
        {PHX_TEST_DATA "/hf/olmo2-8q4kv", 4, PHX_F32, false},
    };
    (void)state;
    for (size_t t = 0; t < sizeof rows / sizeof *rows; t++) {
        char line[512];
        snprintf(line, sizeof line,
                 "plan -m %s -t 2 -c %d --batch %d --max-num-batched-tokens 64 "
                 "--kv-cache-dtype %s --json%s",
                 rows[t].model, CONTEXT, N_TEXTS, rows[t].kv_dtype == PHX_F32 ? "f32" : "f16",
                 rows[t].whole_experts ? " --expert-parallel" : "");
        json_t *root = plan_json(line);
        assert_int_equal(json_array_size(json_object_get(root, "cases")), rows[t].max_ranks + 1);
        for (int size = 1; size <= rows[t].max_ranks; size++) {
            struct seen seen = {0};
            const json_t *c = case_of(root, (size_t)size - 1);
            assert_int_equal(int_of(c, "ranks"), size);
            run_model(rows[t].model, size, rows[t].kv_dtype, rows[t].whole_experts, &seen);
            for (int r = 0; r < size; r++) {
                const json_t *rank = json_array_get(json_object_get(c, "each"), (size_t)r);
                const struct phx_memory_plan *p = &seen.plans[r];
                assert_int_equal(int_of(rank, "total_bytes"), seen.taken[r]);
                assert_int_equal(int_of(rank, "total_bytes"),
                                 phx_memory_plan_bytes(p, seen.n_pages));
                assert_int_equal(int_of(rank, "weights_total_bytes"), p->weights_bytes);
                assert_int_equal(int_of(rank, "activation_bytes"), p->activation_bytes);
                assert_int_equal(int_of(rank, "scratch_bytes"), p->scratch_bytes);
                assert_int_equal(int_of(rank, "comm_bytes"), p->comm_bytes);
                assert_int_equal(int_of(rank, "kv_bytes"), (size_t)seen.n_pages * p->kv_page_bytes);
                assert_int_equal(int_of(rank, "kv_token_bytes"), p->kv_page_bytes / 64);
            }
            if (size > 1)
                assert_int_equal(int_of(c, "sum_bytes_per_token") * seen.n_steps, seen.sum_bytes);
        }
        json_decref(root);
    }
}

/* Bytes of the published checkpoints: "total_size" of their index. */
static void weights_have_the_published_sizes(void **state)
{
    static const struct {
        const char *name;
        double bytes;
    } rows[] = {
        {"llama-3.1-8b", 16060522496},  {"llama-3.1-70b", 141107412992},
        {"qwen2.5-0.5b", 988065536},    {"qwen2.5-7b", 15231233024},
        {"qwen2.5-72b", 145412407296.}, {"mixtral-8x7b", 93405585408},
        {"qwen3-30b-a3b", 61064245248}, {"phi-4", 29319014400},
        {"gemma-2-9b", 18483411968},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int gpu = 0; gpu < 2; gpu++) {
            char line[512];
            snprintf(line, sizeof line, "plan -m %s/%s -c 2048 -T 1,2 --json%s", PHX_SHAPES,
                     rows[i].name, gpu ? " --gpu a100" : "");
            json_t *root = plan_json(line);
            for (size_t c = 0; c < 2; c++) {
                const json_t *each = json_object_get(case_of(root, c), "each");
                double bytes = 0;
                for (size_t r = 0; r <= c; r++)
                    bytes += (double)int_of(json_array_get(each, r), "weights_total_bytes");
                if (fabs(bytes / rows[i].bytes - 1) > 1e-3)
                    fail_msg("%s, %zu ranks: %.0f bytes, published %.0f", rows[i].name, c + 1,
                             bytes, rows[i].bytes);
            }
            json_decref(root);
        }
    }
}

/* Neither a token nor a text more than what is said to fit does. */
static void most_is_the_most(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *what = i == 0 ? "longest_context" : "most_texts";
        char line[512];
        const char *format = i == 0 ? "plan -m %s/llama-3.1-70b --gpu h100 -T 3 --json --batch 8 "
                                      "-c %lld"
                                    : "plan -m %s/llama-3.1-70b --gpu h100 -T 3 --json -c 20000 "
                                      "--batch %lld";
        snprintf(line, sizeof line, format, PHX_SHAPES, 1LL);
        json_t *root = plan_json(line);
        long long most = (long long)int_of(case_of(root, 0), what);
        json_decref(root);
        assert_in_range(most, 2, 100000);
        for (int more = 0; more < 2; more++) {
            snprintf(line, sizeof line, format, PHX_SHAPES, most + more);
            root = plan_json(line);
            const json_t *c = case_of(root, 0);
            assert_int_equal(json_is_true(json_object_get(c, "fits")), !more);
            assert_int_equal(json_is_null(json_object_get(c, "prediction")), more);
            for (size_t r = 0; r < 3 && !more; r++) {
                const json_t *rank = json_array_get(json_object_get(c, "each"), r);
                assert_true(int_of(rank, "total_bytes") <= int_of(rank, "room_bytes"));
            }
            json_decref(root);
        }
    }
}

/* The formulas by hand, for a model whose numbers all differ. */
static void times_are_bytes_and_sums(void **state)
{
    (void)state;
    char line[512];
    snprintf(line, sizeof line, "plan -m %s/qwen2.5-7b --gpu h200 -T 1,4 -c 4096 --json",
             PHX_SHAPES);
    json_t *root = plan_json(line);
    const struct phx_gpu_kind *gpu = phx_gpu_kind_find("h200");
    for (int i = 0; i < 2; i++) {
        const json_t *prediction = json_object_get(case_of(root, (size_t)i), "prediction");
        double t = i == 0 ? 1 : 4, e = 3584, f = 18944, v = 152064, layers = 28, kv = 512;
        double matrices = layers * (e * (e + 2 * kv) + e * e + 3 * e * f);
        double bytes = 2 * (matrices + v * e) / t + layers * 2 * 4096 * kv / t * 2;
        double sum = gpu->direct.latency_s + (t - 1) * e * 2 / gpu->direct.bytes_s;
        double decode = bytes / gpu->read_bytes_s + (i == 0 ? 0 : 57 * sum);
        double value = json_real_value(json_object_get(prediction, "decode_s"));
        if (fabs(value / decode - 1) > 1e-3) fail_msg("decode: %g s, by hand %g", value, decode);
        /* 2048 rows multiply longer than they read; the last MLP and the head see one row. */
        double rows = 2048 * (matrices - 3 * e * f) + 3 * e * f + v * e;
        double operations = 2 * rows / t + layers * 4 * e / t * 2048 * 2049 / 2;
        double ring = gpu->ring.latency_s + 2 * (t - 1) / t * 2048 * e * 2 / gpu->ring.bytes_s;
        double prompt = operations / gpu->operations_s + (i == 0 ? 0 : 55 * ring);
        value = json_real_value(json_object_get(prediction, "prompt_s"));
        if (fabs(value / prompt - 1) > 3e-2) fail_msg("prompt: %g s, by hand %g", value, prompt);
    }
    json_decref(root);
}

/* A mixture reads the experts that are chosen, once for all rows, and multiplies by k of X. */
static void only_chosen_experts_count(void **state)
{
    (void)state;
    const struct phx_gpu_kind *gpu = phx_gpu_kind_find("h200");
    const double e = 2048, q = 4096, kv = 512, f = 768, x = 128, k = 8, v = 151936, layers = 48;
    for (int batch = 1; batch <= 16; batch += 15) {
        char line[512];
        snprintf(line, sizeof line,
                 "plan -m %s/qwen3-30b-a3b --gpu h200 -T 1 -c 1024 --batch %d --json", PHX_SHAPES,
                 batch);
        json_t *root = plan_json(line);
        double one = 3 * e * f, attention = e * (q + 2 * kv) + q * e;
        double read = x * (1 - pow(1 - k / x, batch));
        double bytes = 2 * (layers * (attention + x * e + read * one) + v * e);
        bytes += batch * layers * 2 * 1024 * kv * 2;
        double decode = bytes / gpu->read_bytes_s;
        const json_t *prediction = json_object_get(case_of(root, 0), "prediction");
        double value = json_real_value(json_object_get(prediction, "decode_s"));
        if (fabs(value / decode - 1) > 1e-3) fail_msg("%g s, by hand %g", value, decode);
        json_decref(root);
    }
}

static void impossible_ranks_say_why(void **state)
{
    (void)state;
    char line[512];
    snprintf(line, sizeof line, "plan -m %s --gpu 80GiB -T 2,5,64 --json", model);
    json_t *root = plan_json(line);
    assert_true(json_is_true(json_object_get(case_of(root, 0), "possible")));
    assert_true(json_is_null(json_object_get(case_of(root, 0), "prediction")));
    for (size_t i = 1; i < 3; i++) {
        const char *reason = json_string_value(json_object_get(case_of(root, i), "reason"));
        assert_true(json_is_false(json_object_get(case_of(root, i), "possible")));
        assert_non_null(reason);
        assert_non_null(strstr(reason, "ranks cannot share 4 KV heads (12 query heads in groups "
                                       "of 3): run with 1, 2, 3 or 4 ranks"));
    }
    json_decref(root);
}

static void mistakes_are_sentences(void **state)
{
    static const struct {
        const char *options, *sentence;
        enum phx_status status;
    } rows[] = {
        {"--gpu b52", "--gpu b52: must be h200, h100, a100, or a GPU's memory as in 80GiB",
         PHX_USAGE},
        {"--gpu 80", "--gpu 80: must be", PHX_USAGE},
        {"--gpu nanGiB", "--gpu nanGiB: must be", PHX_USAGE},
        {"-T 1,two", "-T 1,two: must be all, or a list like 1,2,4", PHX_USAGE},
        {"-T 0", "-T 0: must be all", PHX_USAGE},
        {"-T 1,", "-T 1,: must be all", PHX_USAGE},
        {"-T 99999999999999999999", "must be all", PHX_USAGE},
        {"-c 5000000", "-c 5000000: the model has positions for", PHX_USAGE},
        {"--batch 0", "--batch 0: must be", PHX_USAGE},
        {"--batch 600 --max-num-batched-tokens 512",
         "--batch 600 takes as many tokens a step, and --max-num-batched-tokens is 512", PHX_USAGE},
        {"--load-format safetensors -m " PHX_SHAPES "/qwen2.5-0.5b", "safetensors", PHX_NOT_FOUND},
        {"-m " PHX_SHAPES, "config.json", PHX_NOT_FOUND},
        {"--expert-parallel", "the model (llama) has no experts to divide", PHX_USAGE},
        {"-m " PHX_SHAPES "/mixtral-8x7b --gpu h100 -T 9 --expert-parallel -c 1024",
         "9 ranks cannot share 8 KV heads", PHX_OK},
    };
    char line[512], text[4096];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(line, sizeof line, "plan -m %s %s", model, rows[i].options);
        enum phx_status status = plan(line, sizeof text, text);
        const char *told = text[0] != '\0' ? text : phx_fail_sentence();
        if (status != rows[i].status || strstr(told, rows[i].sentence) == NULL)
            fail_msg("%s: %s: %s", rows[i].options, phx_status_text(status), told);
        phx_fail_clear();
    }
}

/* Tables for people: all that is there is there, in lines that fit a terminal. */
static void tables_are_readable(void **state)
{
    static const char *const words[] = {"494.03 million parameters",
                                        "embed.",
                                        "KV cache",
                                        "scratch",
                                        "predicted, not measured",
                                        "3 ranks cannot share 2 KV heads",
                                        "measured on H200"};
    char line[512], text[8192];
    (void)state;
    snprintf(line, sizeof line, "plan -m %s/qwen2.5-0.5b --gpu a100", PHX_SHAPES);
    assert_ok(plan(line, sizeof text, text));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(text, words[i]) == NULL) fail_msg("no \"%s\" in:\n%s", words[i], text);
    for (char *at = strtok(text, "\n"); at != NULL; at = strtok(NULL, "\n"))
        if (strlen(at) > 100) fail_msg("%zu columns: %s", strlen(at), at);
}

/* What the driver and NCCL take is told apart, and not made up where nobody measured it. */
static void what_is_beside_is_told_apart(void **state)
{
    struct phx_gpu_kind gpu = *phx_gpu_kind_find("a100");
    char line[512], text[8192];
    (void)state;
    gpu.beside = (struct phx_beside){0};
    planted = &gpu;
    for (int measured = 0; measured < 2; measured++) {
        snprintf(line, sizeof line, "plan -m %s --gpu a100 -T 2", model);
        assert_ok(plan(line, sizeof text, text));
        assert_non_null(strstr(text, measured ? "takes 512.5 MB for the driver and CUDA's "
                                                "libraries, and, of several, 321.0 MB\nfor NCCL: "
                                                "measured by hand"
                                              : "not measured on such a GPU"));
        strcat(line, " --json");
        json_t *root = plan_json(line), *beside = json_object_get(root, "beside");
        assert_non_null(beside);
        assert_int_equal(json_is_null(beside), !measured);
        if (measured) {
            assert_int_equal(int_of(beside, "driver_bytes"), 512500000);
            assert_int_equal(int_of(beside, "nccl_bytes"), 321000000);
        }
        json_decref(root);
        gpu.beside = (struct phx_beside){512500000, 321000000, "measured by hand"};
    }
    planted = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_what_is_taken),
        cmocka_unit_test(most_is_the_most),
        cmocka_unit_test(weights_have_the_published_sizes),
        cmocka_unit_test(times_are_bytes_and_sums),
        cmocka_unit_test(only_chosen_experts_count),
        cmocka_unit_test(impossible_ranks_say_why),
        cmocka_unit_test(mistakes_are_sentences),
        cmocka_unit_test(tables_are_readable),
        cmocka_unit_test(what_is_beside_is_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
