/* Every planted fault x number of ranks, on one model: the audit must catch it, by the right check
 * and at the right head and rank, and compare must name the right activation first; or the fault
 * must be provably invisible there, and then both must pass. Prints who caught what where.
 *
 *   test_faults MODEL        a folder of tests/data/hf, or "bias": a model of this file's own
 *   test_faults MODEL once   each fault with one number of ranks, which differs between faults
 *   test_faults              every fault is visible somewhere, with several ranks and, where it can
 *                            be, with one
 *   test_faults cuda         every fault on GPUs, on models that together show them all
 *   test_audit clean TYPE    no fault, but every model on GPUs, by the backend's own kernels, in
 * f32, bf16 or f16
 *
 * On GPUs, ranks share them if need be; the exit status without any is 77. */
#include "tests/support/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "runtime/config.h"
#include "tests/faults/expected.h"
#include "tests/faults/judged_run.h"
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

static const char *const fault_names[] = {
#define TEST_FAULT_NAME(name, text) #name,
    TEST_FAULTS(TEST_FAULT_NAME)
#undef TEST_FAULT_NAME
};

static const char *model_name; /* of the command line */
static bool once;              /* also of the command line */
static char *bias_folder;

static const struct test_mode on_cpu = {"f32", PHX_DEVICE_CPU, PHX_F32, 1e-4, false};

/* ---- the tests ---- */

static void folder_of(const char *name, char path[600])
{
    if (strcmp(name, "bias") == 0)
        snprintf(path, 600, "%s", bias_folder);
    else
        snprintf(path, 600, "%s/hf/%s", PHX_TEST_DATA, name);
}

static struct test_shape shape_of(const char *directory)
{
    struct phx_config *config = NULL;
    assert_ok(phx_config_load(directory, &config));
    const struct phx_layer_shape *l = &config->layers[0].shape;
    struct test_shape s = {.heads = l->n_heads,
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

/* ---- faults x models and ranks ---- */

enum { MAX_COLUMNS = 32, CELL_BYTES = 28 };

struct column {
    const char *model;
    int size; /* ranks */
    const struct test_mode *mode;
    bool compares;      /* too */
    bool whole_experts; /* else: columns of each */
};

static char cells[FAULT_COUNT][MAX_COLUMNS][CELL_BYTES];
static int n_wrong;

__attribute__((format(printf, 2, 3))) static void wrong(const char *where, const char *format, ...)
{
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error("%s: %s\n", where, text);
    n_wrong++;
}

static void check_audit(const struct test_outcome *o, const struct test_expected *e,
                        const char *where)
{
    const struct phx_audit_check *f = &o->failure;
    const bool visible = e->visible && !e->unaudited;
    if (!visible && !f->passed) wrong(where, "must pass, but %s fails: %s", f->name, f->found);
    if (visible && f->passed) wrong(where, "passes the audit");
    if (!visible || f->passed) return;
    if (o->id != e->check || f->place.rank != e->rank || f->place.q_head != e->q_head ||
        f->place.kv_head != e->kv_head || f->place.layer != (o->id == PHX_CHECK_LM_HEAD ? -1 : 0))
        wrong(where,
              "expected check %d, rank %d, q_head %d, kv_head %d; got %d (%s), layer %d, rank %d, "
              "q_head %d, kv_head %d: %s",
              (int)e->check, e->rank, e->q_head, e->kv_head, (int)o->id, f->name, f->place.layer,
              f->place.rank, f->place.q_head, f->place.kv_head, f->found);
}

static void check_compare(const struct test_outcome *o, const struct test_expected *e,
                          const char *where)
{
    const struct phx_difference *d = &o->first;
    if (!e->visible && !d->ok)
        wrong(where, "must compare well, but %s of layer %d is off: nmse %g, max %g", d->name,
              d->layer, d->nmse, d->max_abs);
    if (e->visible && d->ok) wrong(where, "compare sees nothing");
    if (!e->visible || d->ok) return;
    if (strcmp(d->name, e->activation) != 0 || d->rank != e->activation_rank || d->layer > 0)
        wrong(where, "compare names %s of layer %d on rank %d first, expected %s on rank %d",
              d->name, d->layer, d->rank, e->activation, e->activation_rank);
}

static void write_cell(const struct phx_audit_check *f, char cell[CELL_BYTES])
{
    const struct phx_audit_place *p = &f->place;
    if (f->passed)
        snprintf(cell, CELL_BYTES, "-");
    else if (p->q_head >= 0)
        snprintf(cell, CELL_BYTES, "%s q%d r%d", f->name, p->q_head, p->rank);
    else if (p->kv_head >= 0)
        snprintf(cell, CELL_BYTES, "%s kv%d r%d", f->name, p->kv_head, p->rank);
    else
        snprintf(cell, CELL_BYTES, "%s r%d", f->name, p->rank);
}

static void run_one(enum test_fault fault, const struct column *c, struct test_outcome *out)
{
    test_fault = fault;
    enum phx_status status = test_run_judged(c->size, out);
    test_fault = FAULT_NONE;
    test_fault_clear();
    if (status != PHX_OK)
        fail_msg("%s, %d ranks, %s, %s: %s", c->model, c->size, c->mode->name, fault_names[fault],
                 phx_fail_sentence());
}

static void run_fault(const struct column *c, enum test_fault fault, const char *directory,
                      const struct test_expected *e, char cell[CELL_BYTES])
{
    char where[200];
    struct test_outcome o = {
        .mode = c->mode, .directory = directory, .whole_experts = c->whole_experts};
    snprintf(where, sizeof where, "%s, %d ranks%s, %s: %s", c->model, c->size,
             c->whole_experts ? " with whole experts" : "", c->mode->name, fault_texts[fault]);
    run_one(fault, c, &o);
    check_audit(&o, e, where);
    write_cell(&o.failure, cell);
    if (!c->compares) return;
    o.compares = true;
    run_one(fault, c, &o);
    check_compare(&o, e, where);
    if (e->unaudited) snprintf(cell, CELL_BYTES, "compare: %s", o.first.ok ? "-" : o.first.name);
}

/* Where a fault is run `once`: in the first of the columns, which begin elsewhere for each fault,
 * where it shows. */
static int only_column(enum test_fault fault, const struct test_shape *s,
                       const struct column *columns, int n)
{
    for (int i = 0; i < n; i++)
        if (test_expect(fault, s, columns[((int)fault + i) % n].size).visible)
            return ((int)fault + i) % n;
    return (int)fault % n;
}

static void run_column(const struct column *columns, int n, int index)
{
    char directory[600];
    const struct column *c = &columns[index];
    folder_of(c->model, directory);
    const struct test_shape s = shape_of(directory);
    PHX_ASSERT(index < MAX_COLUMNS);
    for (int fault = 0; fault < FAULT_COUNT; fault++) {
        const struct test_expected e = test_expect((enum test_fault)fault, &s, c->size);
        snprintf(cells[fault][index], CELL_BYTES, "-");
        if (once && fault != FAULT_NONE &&
            only_column((enum test_fault)fault, &s, columns, n) != index)
            continue;
        /* On GPUs time is short: what is invisible is left to the CPU. */
        if (e.visible || fault == FAULT_NONE || c->mode == &on_cpu)
            run_fault(c, (enum test_fault)fault, directory, &e, cells[fault][index]);
    }
}

/* Which check caught which fault, at which head and rank; -: invisible there. */
static void print_table(const struct column *columns, int n)
{
    for (int i = 0; i < n; i++)
        print_message("%2d: %s, %d ranks%s, %s\n", i + 1, columns[i].model, columns[i].size,
                      columns[i].whole_experts ? " with whole experts" : "", columns[i].mode->name);
    print_message("%-20s", "");
    for (int i = 0; i < n; i++) print_message(" %-21d", i + 1);
    for (int fault = 0; fault < FAULT_COUNT; fault++) {
        print_message("\n%-20s", fault_names[fault]);
        for (int i = 0; i < n; i++) print_message(" %-21s", cells[fault][i]);
    }
    print_message("\n");
}

static void test_columns(const struct column *columns, int n)
{
    n_wrong = 0;
    for (int i = 0; i < n; i++) {
        const time_t begin = time(NULL);
        run_column(columns, n, i);
        print_message("%s, %d ranks, %s: %lld s\n", columns[i].model, columns[i].size,
                      columns[i].mode->name, (long long)(time(NULL) - begin));
        fflush(stdout); /* what a time limit leaves of it */
    }
    print_table(columns, n);
    assert_int_equal(n_wrong, 0);
}

static void test_model(void **state)
{
    (void)state;
    struct column columns[MAX_COLUMNS];
    char directory[600];
    folder_of(model_name, directory);
    const struct test_shape s = shape_of(directory);
    int n = 0;
    for (int whole = 0; whole <= s.experts; whole++)
        for (int size = 1; size <= s.kv; size++)
            columns[n++] = (struct column){model_name, size, &on_cpu, true, whole == 1};
    test_columns(columns, n);
}

/* In 16 bits, heads of 64 go through other kernels than the rest. */
static void test_faults_on_gpus(void **state)
{
    static const struct test_mode f32 = {"f32 on a GPU", PHX_DEVICE_CUDA, PHX_F32, 1e-3, true},
                                  bf16 = {"bf16 on a GPU", PHX_DEVICE_CUDA, PHX_BF16, 3e-2, true},
                                  f16 = {"f16 on a GPU", PHX_DEVICE_CUDA, PHX_F16, 3e-2, true};
    static const struct column columns[] = {{"llama-15q5kv-uneven", 1, &f32, false, false},
                                            {"llama-15q5kv-uneven", 3, &f32, true, false},
                                            {"mistral-8q2kv-window16", 1, &f32, false, false},
                                            {"qwen3-16q4kv", 3, &f32, false, false},
                                            {"qwen2moe-9q3kv-7experts", 2, &f32, true, true},
                                            {"bias", 4, &f32, false, false},
                                            {"qwen2-14q2kv", 1, &bf16, true, false},
                                            {"qwen2-14q2kv", 2, &f16, false, false}};
    const int n = sizeof columns / sizeof *columns;
    (void)state;
    test_columns(columns, n);
    for (int fault = FAULT_NONE + 1; fault < FAULT_COUNT; fault++) {
        bool caught = false;
        for (int i = 0; i < n; i++) caught = caught || strcmp(cells[fault][i], "-") != 0;
        if (!caught) fail_msg("%s is invisible everywhere", fault_texts[fault]);
    }
}

static enum phx_dtype clean_type;

static void test_clean_on_gpus(void **state)
{
    const struct test_mode mode = {"on GPUs", PHX_DEVICE_CUDA, clean_type,
                                   clean_type == PHX_F32 ? 1e-3 : 3e-2, false};
    (void)state;
    n_wrong = 0;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        char directory[600];
        folder_of(models[m], directory);
        const struct test_shape s = shape_of(directory);
        for (int whole = 0; whole <= s.experts; whole++)
            for (int size = 1; size <= s.kv; size++)
                run_fault(&(struct column){models[m], size, &mode, true, whole == 1}, FAULT_NONE,
                          directory, &(struct test_expected){.visible = false},
                          cells[FAULT_NONE][0]);
    }
    assert_int_equal(n_wrong, 0);
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
            const struct test_shape s = shape_of(directory);
            for (int size = 1; size <= s.kv; size++) {
                if (!test_expect((enum test_fault)fault, &s, size).visible) continue;
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

/* Layer 0's W_k in a file is changed: [rows, 72] in bf16. */
static void change_keys(const char *folder, void (*change)(uint16_t *rows))
{
    char path[600];
    size_t bytes, header = 0, begin;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    char *file = test_file_read(path, &bytes);
    memcpy(&header, file, 8);
    char *entry = strstr(file + 8, "model.layers.0.self_attn.k_proj.weight");
    assert_non_null(entry);
    assert_int_equal(sscanf(strstr(entry, "data_offsets"), "data_offsets\":[%zu", &begin), 1);
    change((uint16_t *)(void *)(file + 8 + header + begin));
    test_file_write(folder, "model.safetensors", file, bytes);
    free(file);
}

static void copy_head(uint16_t *rows)
{
    memcpy(rows + 10 * 72, rows, 10 * 72 * sizeof *rows);
}

static void spoil_head_2(uint16_t *rows)
{
    rows[25 * 72 + 3] = 0x7fc0; /* NaN */
}

/* Reported, not failed; their values differ, and that is enough for gate 5. */
static void test_twins(void **state)
{
    (void)state;
    char *folder = test_folder_create();
    test_model_write(folder, &(struct test_model){.config_json = twins_config});
    change_keys(folder, copy_head);
    for (int size = 1; size <= 3; size += 2) {
        struct test_outcome o = {.mode = &on_cpu, .directory = folder};
        assert_ok(test_run_judged(size, &o));
        assert_true(o.failure.passed);
        assert_int_equal(o.n_twins, 1);
        assert_true(o.twins.layer == 0 && o.twins.a == 0 && o.twins.b == 1 && !o.twins.values);
    }
    test_folder_destroy(folder);
}

/* From layer 0 on nothing is a number any more: what failed first is said all the same. */
static void test_nan(void **state)
{
    (void)state;
    char *folder = test_folder_create();
    test_model_write(folder, &(struct test_model){.config_json = bias_config});
    change_keys(folder, spoil_head_2);
    for (int size = 1; size <= 2; size++) {
        struct test_outcome o = {.mode = &on_cpu, .directory = folder};
        assert_ok(test_run_judged(size, &o));
        const struct phx_audit_place *p = &o.failure.place;
        assert_false(o.failure.passed);
        assert_int_equal(o.id, PHX_CHECK_K_PROJECTION);
        assert_true(p->layer == 0 && p->rank == 0 && p->kv_head == 2);
        assert_int_equal(o.n_twins, 0);
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
                                       cmocka_unit_test(test_twins), cmocka_unit_test(test_nan)};
    const struct CMUnitTest runs[] = {cmocka_unit_test(test_model)};
    const struct CMUnitTest clean[] = {cmocka_unit_test(test_clean_on_gpus)};
    const struct CMUnitTest faults[] = {cmocka_unit_test(test_faults_on_gpus)};
    if (argc < 2) return cmocka_run_group_tests(table, make_bias_model, drop_bias_model);
    const bool cleanly = argc == 3 && strcmp(argv[1], "clean") == 0;
    if (cleanly && !test_compute_type(argv[2], &clean_type)) return 2;
    if (cleanly || strcmp(argv[1], "cuda") == 0) {
        if (test_count_gpus() == 0) return TEST_SKIPPED;
        if (cleanly) return cmocka_run_group_tests(clean, make_bias_model, drop_bias_model);
        return cmocka_run_group_tests(faults, make_bias_model, drop_bias_model);
    }
    model_name = argv[1];
    once = argc == 3 && strcmp(argv[2], "once") == 0;
    if (argc > 2 && !once) return 2;
    return cmocka_run_group_tests(runs, make_bias_model, drop_bias_model);
}
