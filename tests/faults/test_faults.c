/* Every planted fault x number of ranks, on one model: the audit must catch it, by the right check
 * and at the right head and rank, and compare must name the right activation first; or the fault
 * must be provably invisible there, and then both must pass.
 *
 *   test_faults MODEL        a folder of tests/data/hf, or "bias": a model of this file's own
 *   test_faults              every fault is visible somewhere, with several ranks and, where it can
 *                            be, with one
 *   test_faults cuda         no fault, but every model on GPUs, which ranks share if need be; exit
 *                            status 77 without any */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/run.h"
#include "parallel/world_threads.h"
#include "runtime/audit.h"
#include "runtime/compare.h"
#include "tests/faults/fault.h"
#include "tests/support/gpus.h"
#include "tests/support/write_model.h"

static const char *const models[] = {"llama-15q5kv-uneven",
                                     "llama-mha-6q6kv",
                                     "llama-mqa-7q1kv",
                                     "llama3-12q4kv",
                                     "qwen2-14q2kv",
                                     "qwen3-16q4kv",
                                     "mistral-8q2kv-window16",
                                     "mixtral-8q2kv-4experts",
                                     "qwen3moe-12q4kv-8experts",
                                     "qwen2moe-9q3kv-7experts",
                                     "phi3-15q5kv-longrope",
                                     "phi3-9q3kv-partial",
                                     "granite-12q4kv",
                                     "smollm3-10q2kv",
                                     "qwen2-9q3kv-windows",
                                     "gemma2-10q5kv",
                                     "gemma3-12q3kv",
                                     "olmo2-8q4kv",
                                     "bias"};

/* With a bias of o; 12 query heads in groups of 2. */
static const char bias_config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 72, \"num_attention_heads\": 12, "
    "\"num_key_value_heads\": 6, \"head_dim\": 10, \"num_hidden_layers\": 2, "
    "\"vocab_size\": 301, \"intermediate_size\": 104, \"max_position_embeddings\": 256, "
    "\"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"rope_theta\": 10000.0, "
    "\"attention_bias\": true, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"}";

static const char twins_config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 72, \"num_attention_heads\": 6, "
    "\"num_key_value_heads\": 3, \"head_dim\": 10, \"num_hidden_layers\": 1, "
    "\"vocab_size\": 301, \"intermediate_size\": 104, \"max_position_embeddings\": 256, "
    "\"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\"}";

static const char *const fault_texts[] = {
#define TEST_FAULT_TEXT(name, text) text,
    TEST_FAULTS(TEST_FAULT_TEXT)
#undef TEST_FAULT_TEXT
};

static const char *model_name; /* of the command line; NULL: only the table */

/* What is run, and how far it may be off. */
static struct mode {
    enum phx_device_kind device;
    enum phx_dtype compute;
    double tolerance;
} mode = {PHX_DEVICE_CPU, PHX_F32, 1e-4};
static char *bias_folder;

/* ---- what must come of a fault ---- */

struct shape {
    int heads, kv, group, dim;
    bool qk_norm, qk_norm_all, o_bias, tied, square, experts;
};

struct expected {
    bool visible;
    bool unaudited; /* no mapping of heads: compare alone sees it */
    enum phx_audit_check_id check;
    int rank, q_head, kv_head; /* -1: of none */
    const char *activation;    /* that compare names first */
    int activation_rank;
};

static int kv_of(const struct shape *s, int size, int rank)
{
    return s->kv / size + (rank < s->kv % size);
}

static int kv_begin(const struct shape *s, int size, int rank)
{
    int begin = 0;
    for (int r = 0; r < rank; r++) begin += kv_of(s, size, r);
    return begin;
}

static struct expected at(enum phx_audit_check_id check, int rank, int q_head, int kv_head,
                          const char *activation)
{
    return (struct expected){.visible = true,
                             .check = check,
                             .rank = rank,
                             .q_head = q_head,
                             .kv_head = kv_head,
                             .activation = activation,
                             .activation_rank = rank};
}

static const struct expected invisible = {.visible = false};

/* The first rank with more than one KV head; -1: there is none. */
static int crowded_rank(const struct shape *s, int size)
{
    return kv_of(s, size, 0) > 1 ? 0 : -1; /* the first ranks own the most */
}

static struct expected expect_in_kernel(enum test_fault fault, const struct shape *s, int size)
{
    const int crowded = crowded_rank(s, size);
    switch (fault) {
    case FAULT_Q_MODULO_K: /* the head after a rank's first */
        if (crowded < 0 || s->group == 1) return invisible;
        return at(PHX_CHECK_MAP, crowded, 1, 0, "scores");
    case FAULT_GROUP_SIZE:
        if (s->group == 1) return invisible;
        return at(PHX_CHECK_CONFIG, 0, -1, -1, "scores");
    case FAULT_KV_HEAD_STRIDE: /* the second KV head is the first that is somewhere else */
        if (crowded < 0) return invisible;
        return at(PHX_CHECK_POINTERS, crowded, s->group, 1, "scores");
    case FAULT_STRIDES_SWAPPED:
        if (crowded < 0) return invisible;
        return at(PHX_CHECK_POINTERS, crowded, 0, 0, "scores");
    case FAULT_V_OF_NEIGHBOUR:
        if (crowded < 0) return invisible;
        return at(PHX_CHECK_VALUES, crowded, 0, 0, "attn");
    case FAULT_BLOCK_TABLE_ROW:
        return at(PHX_CHECK_POINTERS, 0, 0, 0, "scores");
    case FAULT_TAIL:
        return at(PHX_CHECK_MASK, 0, 0, 0, "attn");
    case FAULT_ROPE_POSITION:
    case FAULT_ROPE_PAIRS:
        return at(PHX_CHECK_Q_ROPE, 0, 0, -1, "q");
    case FAULT_QK_NORM_OVER_HEADS:
        if (s->qk_norm_all && size == 1) return invisible; /* as it should be */
        return s->qk_norm ? at(PHX_CHECK_Q_ROPE, 0, 0, -1, "q") : invisible;
    default:
        PHX_ASSERT(fault == FAULT_SCALE_MISSING || fault == FAULT_SCALE_TWICE);
        return at(PHX_CHECK_SCALE, 0, 0, 0, "scores");
    }
}

static struct expected expect_in_weights(enum test_fault fault, const struct shape *s, int size)
{
    switch (fault) {
    case FAULT_INTERLEAVED_GROUPS: /* rank 0's second group is group T instead of 1 */
        if (size == 1 || crowded_rank(s, size) < 0) return invisible;
        return at(PHX_CHECK_Q_PROJECTION, 0, s->group, -1, "q_proj");
    case FAULT_RANK_OFFSET:
        if (size == 1) return invisible;
        return at(PHX_CHECK_K_PROJECTION, 1, -1, kv_begin(s, size, 1), "k_proj");
    case FAULT_Q_PADDED:
        for (int r = 0; r < size; r++) {
            const int own = kv_begin(s, size, r) * s->group, n = kv_of(s, size, r) * s->group;
            int begin = r * ((s->heads + size - 1) / size);
            if (begin > s->heads - n) begin = s->heads - n;
            if (begin != own) return at(PHX_CHECK_Q_PROJECTION, r, own, -1, "q_proj");
        }
        return invisible;
    case FAULT_O_TRANSPOSED:
        return s->square ? at(PHX_CHECK_O_SLICE, 0, -1, -1, "o_partial") : invisible;
    case FAULT_O_COLUMNS:
        return size > 1 ? at(PHX_CHECK_O_SLICE, 0, -1, -1, "o_partial") : invisible;
    case FAULT_BIAS_EVERYWHERE:
        return size > 1 && s->o_bias ? at(PHX_CHECK_O_SLICE, 1, -1, -1, "o_partial") : invisible;
    default:
        PHX_ASSERT(fault == FAULT_LM_HEAD_SHIFTED);
        return size > 1 && !s->tied ? at(PHX_CHECK_LM_HEAD, 0, -1, -1, "logits") : invisible;
    }
}

static struct expected expect(enum test_fault fault, const struct shape *s, int size)
{
    switch (fault) {
    case FAULT_NONE:
        return invisible;
    case FAULT_INTERLEAVED_GROUPS:
    case FAULT_RANK_OFFSET:
    case FAULT_Q_PADDED:
    case FAULT_O_TRANSPOSED:
    case FAULT_O_COLUMNS:
    case FAULT_BIAS_EVERYWHERE:
    case FAULT_LM_HEAD_SHIFTED:
        return expect_in_weights(fault, s, size);
    case FAULT_EXPERT_OF_NEIGHBOUR:
        if (!s->experts) return invisible;
        return (struct expected){.visible = true, .unaudited = true, .activation = "gate_up"};
    default:
        return expect_in_kernel(fault, s, size);
    }
}

/* ---- a run ---- */

enum { N_IDS = 29, N_COMPARED = 80 };

struct outcome {
    const char *directory;
    bool compares, whole_experts;
    struct phx_audit_check failure; /* of the audit; passed: none */
    struct phx_difference first;    /* of compare; ok: none */
    enum phx_audit_check_id id;
    size_t n_twins;               /* of the audit */
    struct phx_audit_twins twins; /* the first */
};

static enum phx_status audit(struct phx_run *run, const int32_t *ids, const bool *layers,
                             struct outcome *out)
{
    struct phx_audit *a = NULL;
    bool passed;
    struct phx_engine_parts parts = phx_run_parts(run);
    PHX_TRY(phx_audit_create(
        &parts, run->engine, &run->memory.stream_limits,
        &(struct phx_audit_options){
            .prompt_ids = ids, .n_prompt = N_IDS, .layers = layers, .tolerance = mode.tolerance},
        &a));
    enum phx_status status = phx_audit_run(a);
    if (status == PHX_OK) status = phx_audit_judge(a, run->checkpoint, &passed);
    if (status == PHX_OK && run->world->rank == 0) {
        const struct phx_audit_check *failure = phx_audit_first_failure(a);
        const struct phx_audit_twins *twins = phx_audit_twins(a, &out->n_twins);
        if (out->n_twins > 0) out->twins = twins[0];
        if (failure != NULL) {
            out->failure = *failure;
            out->id = (enum phx_audit_check_id)(failure - phx_audit_checks(a));
        }
    }
    phx_audit_destroy(a);
    return status;
}

static enum phx_status compare(struct phx_run *run, const int32_t *ids, struct outcome *out)
{
    struct phx_compare *c = NULL;
    struct phx_engine_parts parts = phx_run_parts(run);
    PHX_TRY(phx_compare_create(&parts, run->engine, &run->memory.stream_limits,
                               &(struct phx_compare_options){.prompt_ids = ids,
                                                             .n_prompt = N_COMPARED,
                                                             .tolerance = mode.tolerance},
                               &c));
    enum phx_status status = phx_compare_run(c);
    if (status == PHX_OK && run->world->rank == 0) {
        status = phx_compare_with_reference(c, run->checkpoint);
        const struct phx_difference *first = phx_compare_first(c);
        if (status == PHX_OK && first != NULL) out->first = *first;
    }
    phx_compare_destroy(c);
    return status;
}

static enum phx_status run_started(struct phx_run *run, struct outcome *out)
{
    int32_t ids[N_COMPARED];
    struct phx_run_needs needs = {.max_seqs = 2, .max_rows = 512};
    for (int i = 0; i < N_COMPARED; i++)
        ids[i] = (int32_t)((i * i * 7 + 3 * i + 1) % run->config->vocab);
    needs.all_logits = out->compares;
    needs.max_length = out->compares ? N_COMPARED : phx_audit_length(run->config, N_IDS);
    bool *layers = calloc((size_t)run->config->n_layers, sizeof *layers);
    PHX_ASSERT(layers != NULL);
    for (int l = 0; l < run->config->n_layers; l++) layers[l] = true;
    enum phx_status status = phx_run_start(run, &needs);
    if (status == PHX_OK)
        status = out->compares ? compare(run, ids, out) : audit(run, ids, layers, out);
    free(layers);
    if (status == PHX_OK) phx_run_finish(run);
    return status;
}

static enum phx_status body(struct phx_world *world, void *user)
{
    struct outcome *out = user;
    struct phx_run *run = NULL;
    struct phx_run_settings settings = {.model = out->directory,
                                        .expert_parallel = out->whole_experts,
                                        .device = mode.device,
                                        .compute = mode.compute,
                                        .n_threads = 1,
                                        .eager = true,
                                        /* Padded steps, as on GPUs. */
                                        .overlap = test_fault_is(FAULT_NONE)};
    if (mode.device == PHX_DEVICE_CUDA) {
        int n_gpus = phx_device_count(PHX_DEVICE_CUDA);
        settings.gpu = world->rank % n_gpus;
        settings.gpu_sharers = (world->size + n_gpus - 1) / n_gpus;
    }
    PHX_TRY(phx_run_open(world, &settings, &run));
    enum phx_status status = run_started(run, out);
    phx_run_destroy(run);
    return status;
}

/* ---- the tests ---- */

static void folder_of(const char *name, char path[600])
{
    if (strcmp(name, "bias") == 0)
        snprintf(path, 600, "%s", bias_folder);
    else
        snprintf(path, 600, "%s/hf/%s", PHX_TEST_DATA, name);
}

static struct shape shape_of(const char *directory)
{
    struct phx_config *config = NULL;
    assert_ok(phx_config_load(directory, &config));
    const struct phx_layer_shape *l = &config->layers[0].shape;
    struct shape s = {.heads = l->n_heads,
                      .kv = l->n_kv_heads,
                      .group = l->n_heads / l->n_kv_heads,
                      .dim = l->head_dim,
                      .qk_norm = config->qk_norm,
                      .qk_norm_all = config->qk_norm_all,
                      .o_bias = config->o_bias,
                      .tied = config->tied,
                      .experts = l->n_experts > 0,
                      .square = config->hidden == (int64_t)l->n_heads * l->head_dim};
    phx_config_destroy(config);
    return s;
}

static void check_audit(const struct outcome *o, const struct expected *e, const char *where)
{
    const struct phx_audit_check *f = &o->failure;
    if (!e->visible || e->unaudited) {
        if (!f->passed) fail_msg("%s: must pass, but %s fails: %s", where, f->name, f->found);
        return;
    }
    if (f->passed) fail_msg("%s: passes the audit", where);
    if (o->id != e->check || f->place.rank != e->rank || f->place.q_head != e->q_head ||
        f->place.kv_head != e->kv_head || f->place.layer != (o->id == PHX_CHECK_LM_HEAD ? -1 : 0))
        fail_msg("%s: expected check %d, rank %d, q_head %d, kv_head %d; got %d (%s), layer %d, "
                 "rank %d, q_head %d, kv_head %d: %s",
                 where, (int)e->check, e->rank, e->q_head, e->kv_head, (int)o->id, f->name,
                 f->place.layer, f->place.rank, f->place.q_head, f->place.kv_head, f->found);
}

static void check_compare(const struct outcome *o, const struct expected *e, const char *where)
{
    const struct phx_difference *d = &o->first;
    if (!e->visible) {
        if (!d->ok)
            fail_msg("%s: must compare well, but %s of layer %d is off: nmse %g, max %g", where,
                     d->name, d->layer, d->nmse, d->max_abs);
        return;
    }
    if (d->ok) fail_msg("%s: compare sees nothing", where);
    if (strcmp(d->name, e->activation) != 0 || d->rank != e->activation_rank || d->layer > 0)
        fail_msg("%s: compare names %s of layer %d on rank %d first, expected %s on rank %d", where,
                 d->name, d->layer, d->rank, e->activation, e->activation_rank);
}

static void check_fault(enum test_fault fault, const char *directory, const struct shape *s,
                        int size, bool whole_experts)
{
    const struct expected e = expect(fault, s, size);
    char where[200];
    snprintf(where, sizeof where, "%s, %d ranks%s: %s", model_name, size,
             whole_experts ? " with whole experts" : "", fault_texts[fault]);
    for (int compares = 0; compares < 2; compares++) {
        struct outcome o = {.directory = directory,
                            .compares = compares == 1,
                            .whole_experts = whole_experts,
                            .failure = {.passed = true},
                            .first = {.ok = true}};
        test_fault = fault;
        enum phx_status status = phx_world_threads_run(size, body, &o);
        test_fault = FAULT_NONE;
        test_fault_clear();
        assert_ok(status);
        if (compares)
            check_compare(&o, &e, where);
        else
            check_audit(&o, &e, where);
        if (compares && e.unaudited)
            print_message("%-60s caught by compare\n", where);
        else if (!compares && e.visible && !e.unaudited)
            print_message("%-60s caught by %s\n", where, o.failure.name);
        else if (!compares && !e.visible)
            print_message("%-60s invisible\n", where);
    }
}

static void test_model(void **state)
{
    (void)state;
    char directory[600];
    folder_of(model_name, directory);
    const struct shape s = shape_of(directory);
    for (int size = 1; size <= s.kv; size++)
        for (int fault = 0; fault < FAULT_COUNT; fault++)
            check_fault((enum test_fault)fault, directory, &s, size, false);
    for (int size = 1; size <= s.kv && s.experts; size++) {
        check_fault(FAULT_NONE, directory, &s, size, true);
        check_fault(FAULT_EXPERT_OF_NEIGHBOUR, directory, &s, size, true);
    }
}

static void test_gpus(void **state)
{
    static const struct mode modes[] = {{PHX_DEVICE_CUDA, PHX_F32, 1e-3},
                                        {PHX_DEVICE_CUDA, PHX_BF16, 3e-2},
                                        {PHX_DEVICE_CUDA, PHX_F16, 3e-2}};
    (void)state;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        mode = modes[i];
        for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
            char directory[600];
            model_name = models[m];
            folder_of(model_name, directory);
            const struct shape s = shape_of(directory);
            for (int size = 1; size <= s.kv; size++)
                for (int whole = 0; whole <= s.experts; whole++)
                    check_fault(FAULT_NONE, directory, &s, size, whole);
        }
    }
}

/* What only several ranks can get wrong. */
static bool needs_ranks(enum test_fault fault)
{
    return fault == FAULT_INTERLEAVED_GROUPS || fault == FAULT_RANK_OFFSET ||
           fault == FAULT_Q_PADDED || fault == FAULT_O_COLUMNS || fault == FAULT_BIAS_EVERYWHERE ||
           fault == FAULT_LM_HEAD_SHIFTED;
}

static void test_every_fault_is_visible_somewhere(void **state)
{
    (void)state;
    for (int fault = FAULT_NONE + 1; fault < FAULT_COUNT; fault++) {
        int alone = 0, together = 0;
        for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
            char directory[600];
            folder_of(models[m], directory);
            const struct shape s = shape_of(directory);
            for (int size = 1; size <= s.kv; size++) {
                if (!expect((enum test_fault)fault, &s, size).visible) continue;
                if (size == 1) alone++;
                if (size > 1) together++;
            }
        }
        print_message("%-50s caught %d times on one rank, %d times on several\n",
                      fault_texts[fault], alone, together);
        assert_true(together > 0);
        assert_true(alone > 0 || needs_ranks((enum test_fault)fault));
    }
}

/* In a file, rows [dim, 2 dim) of layer 0's W_k become those before: KV heads 0 and 1 alike. */
static void copy_key_head(const char *folder, size_t row_bytes, size_t dim)
{
    char path[600];
    size_t bytes, header = 0, begin;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    char *file = test_file_read(path, &bytes);
    memcpy(&header, file, 8);
    char *entry = strstr(file + 8, "model.layers.0.self_attn.k_proj.weight");
    assert_non_null(entry);
    assert_int_equal(sscanf(strstr(entry, "data_offsets"), "data_offsets\":[%zu", &begin), 1);
    char *data = file + 8 + header + begin;
    memcpy(data + dim * row_bytes, data, dim * row_bytes);
    test_file_write(folder, "model.safetensors", file, bytes);
    free(file);
}

/* Reported, not failed; their values differ, and that is enough for gate 5. */
static void test_twins(void **state)
{
    (void)state;
    char *folder = test_folder_create();
    test_model_write(folder, &(struct test_model){.config_json = twins_config});
    copy_key_head(folder, 72 * 2, 10);
    for (int size = 1; size <= 3; size += 2) {
        struct outcome o = {
            .directory = folder, .failure = {.passed = true}, .first = {.ok = true}};
        assert_ok(phx_world_threads_run(size, body, &o));
        assert_true(o.failure.passed);
        assert_int_equal(o.n_twins, 1);
        assert_true(o.twins.layer == 0 && o.twins.a == 0 && o.twins.b == 1 && !o.twins.values);
    }
    test_folder_destroy(folder);
}

static int make_bias_model(void **state)
{
    (void)state;
    bias_folder = test_folder_create();
    test_model_write(bias_folder, &(struct test_model){.config_json = bias_config});
    return 0;
}

static int drop_bias_model(void **state)
{
    (void)state;
    test_folder_destroy(bias_folder);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest table[] = {cmocka_unit_test(test_every_fault_is_visible_somewhere),
                                       cmocka_unit_test(test_twins)};
    const struct CMUnitTest runs[] = {cmocka_unit_test(test_model)};
    const struct CMUnitTest gpus[] = {cmocka_unit_test(test_gpus)};
    if (argc < 2) return cmocka_run_group_tests(table, make_bias_model, drop_bias_model);
    if (strcmp(argv[1], "cuda") == 0) {
        if (test_count_gpus() == 0) return TEST_SKIPPED;
        return cmocka_run_group_tests(gpus, make_bias_model, drop_bias_model);
    }
    model_name = argv[1];
    return cmocka_run_group_tests(runs, make_bias_model, drop_bias_model);
}
