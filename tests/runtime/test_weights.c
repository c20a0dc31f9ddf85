/* The catalogue and the loader: every rank's rectangles, put together again, are the tensors of the
 * file, each element once. Checkpoints that do not fit: test_weights_refusals.c. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "runtime/loader.h"
#include "tests/runtime/whole_model.h"
#include "tests/runtime/written_model.h"

static struct phx_device *device;
static struct phx_stream *stream;

static int open_device(void **state)
{
    (void)state;
    const struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 2};
    const struct phx_limits limits = {0};
    return phx_device_create(&options, &device) != PHX_OK ||
           phx_stream_create(device, &limits, &stream) != PHX_OK;
}

static int close_device(void **state)
{
    (void)state;
    phx_stream_destroy(stream);
    phx_device_destroy(device);
    return 0;
}

static float file_value(const struct phx_file_tensor *t, int64_t i)
{
    const char *at = (const char *)t->data + phx_dtype_bytes((enum phx_dtype)t->dtype, i);
    float value;
    uint16_t half;
    if (t->dtype == PHX_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return t->dtype == PHX_BF16 ? phx_f32_from_bf16(half) : phx_f32_from_f16(half);
}

/* The model has the file's tensors, `n_ignored` excepted, and their values. */
static void expect_file(const struct whole_model *model, const struct phx_config *config,
                        const struct phx_checkpoint *checkpoint, int n_ignored)
{
    assert_int_equal(model->n, phx_checkpoint_count(checkpoint) - (size_t)n_ignored);
    for (int k = 0; k < model->n; k++) {
        const struct whole *w = &model->tensors[k];
        const struct phx_file_tensor *t = phx_checkpoint_find(checkpoint, w->name);
        assert_non_null(t);
        assert_int_equal(t->shape[t->n_dims - 1], w->cols);
        assert_int_equal(t->n_dims == 2 ? t->shape[0] : 1, w->rows);
        const float offset = strstr(w->name, "norm") ? config->norm_offset : 0;
        for (int64_t i = 0; i < w->rows * w->cols; i++)
            if (phx_bits_from_f32(w->values[i]) != phx_bits_from_f32(file_value(t, i) + offset))
                fail_msg("%s[%lld] is %g, in the file %g", w->name, (long long)i,
                         (double)w->values[i], (double)file_value(t, i));
    }
}

/* Load a folder at every number of ranks and compare with its files. */
static void check_folder(const char *folder, bool check_read, int n_ignored)
{
    struct phx_config *config = NULL;
    struct phx_checkpoint *checkpoint = NULL;
    if (phx_config_load(folder, &config) != PHX_OK ||
        phx_checkpoint_open(folder, &checkpoint) != PHX_OK)
        fail_msg("%s", phx_fail_sentence());
    for (int size = 1; size <= config->layers[0].shape.n_kv_heads; size++) {
        struct whole_model *model = whole_model_load(stream, config, checkpoint, size, check_read);
        expect_file(model, config, checkpoint, n_ignored);
        whole_model_destroy(model);
    }
    phx_checkpoint_destroy(checkpoint);
    phx_config_destroy(config);
}

static void fixtures_load_on_any_number_of_ranks(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama-15q5kv-uneven",    "llama-mha-6q6kv", "llama-mqa-7q1kv", "llama3-12q4kv",
        "mistral-8q2kv-window16", "qwen2-14q2kv",    "qwen3-16q4kv",    "phi3-15q5kv-longrope",
        "phi3-9q3kv-partial",     "granite-12q4kv",  "smollm3-10q2kv",  "qwen2-9q3kv-windows",
        "gemma2-10q5kv",          "gemma3-12q3kv",   "olmo2-8q4kv",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[512];
        snprintf(folder, sizeof folder, "%s/hf/%s", PHX_TEST_DATA, names[i]);
        check_folder(folder, true, 0);
    }
    check_folder(PHX_MODELS "/demo", true, 0);
}

/* ---- written models ---- */

static bool mix_types(struct phx_tensor_to_write *t)
{
    if (strstr(t->name, "k_proj") || strstr(t->name, "layers.0.mlp.up_proj")) t->dtype = PHX_F32;
    if (strstr(t->name, "layers.1.mlp.up_proj")) t->dtype = PHX_F16;
    if (strstr(t->name, "input_layernorm")) t->dtype = PHX_F16;
    return true;
}

static void written_models_load(void **state)
{
    (void)state;
    static const struct {
        struct test_model model;
        bool check_read;
        int n_ignored;
    } rows[] = {
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true,"
                                "\"mlp_bias\": true")},
         true,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"float16\", \"mlp_bias\": true"), .n_files = 3},
         true,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"float32\", \"attention_bias\": true"),
          .misaligned = true},
         true,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true"),
          .misaligned = true,
          .edit = mix_types},
         false,
         0},
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\", \"tie_word_embeddings\": true"),
          .extra = "lm_head.weight"},
         false,
         1},
        {{.config_json = CONFIG(", \"dtype\": \"bfloat16\""),
          .extra = "model.layers.1.self_attn.rotary_emb.inv_freq"},
         false,
         1},
        /* Read in several chunks of 16 MiB by one rank and by each of two. */
        {{.config_json = CONFIG_VOCAB("230011", ", \"dtype\": \"float32\","
                                                "\"tie_word_embeddings\": true"),
          .misaligned = true},
         true,
         0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *folder = test_folder_create();
        test_model_write(folder, &rows[i].model);
        check_folder(folder, rows[i].check_read, rows[i].n_ignored);
        test_folder_destroy(folder);
    }
}

/* A slot takes the type of its parts, f32 where they differ. */
static void parts_of_other_types(void **state)
{
    (void)state;
    const struct test_model mixed = {.config_json = CONFIG(", \"dtype\": \"bfloat16\""),
                                     .edit = mix_types};
    struct written_model m;
    struct phx_weights *weights = NULL;
    struct phx_load_report report;
    written_model_open(&mixed, &m);
    struct phx_shard_plan *plan = plan_of(m.config, 1, 0);
    assert_ok(phx_weights_load(m.config, plan, m.file, stream, NULL, &weights, &report));
    const struct phx_weight_shape qkv = phx_weight_shape(weights->layers[0].qkv);
    assert_int_equal(qkv.dtype, PHX_BF16);
    assert_int_equal(qkv.below[0].dtype, PHX_F32);
    assert_int_equal(qkv.below[0].rows, phx_config_dim(m.config, 0, PHX_DIM_KV));
    assert_int_equal(qkv.below[1].dtype, PHX_BF16);
    assert_int_equal(qkv.below[1].rows, phx_config_dim(m.config, 0, PHX_DIM_KV));
    assert_int_equal(phx_weight_shape(weights->layers[0].gate_up).dtype, PHX_F32);
    assert_int_equal(phx_weight_shape(weights->layers[1].gate_up).dtype, PHX_F32);
    assert_int_equal(phx_weight_shape(weights->layers[1].down).dtype, PHX_BF16);
    assert_int_equal(phx_weight_shape(weights->embed).dtype, PHX_BF16);
    phx_weights_destroy(weights);
    phx_shard_plan_destroy(plan);
    written_model_close(&m);
}

/* ---- dummy weights ---- */

static void expect_distribution(const struct whole *w, double center, double variance)
{
    double n = (double)(w->rows * w->cols), sum = 0, squares = 0;
    for (int64_t i = 0; i < w->rows * w->cols; i++) sum += (double)w->values[i];
    for (int64_t i = 0; i < w->rows * w->cols; i++) {
        double off = (double)w->values[i] - sum / n;
        squares += off * off;
    }
    /* Within five standard errors; the fourth moment of a uniform variable is 9/5 variance^2. */
    if (fabs(sum / n - center) > 5 * sqrt(variance / n) ||
        fabs(squares / n / variance - 1) > 5 * sqrt(0.8 / n) + 1 / n)
        fail_msg("%s: mean %g, variance %g instead of %g, %g", w->name, sum / n, squares / n,
                 center, variance);
}

static void expect_dummy_rule(const struct whole_model *model)
{
    for (int t = 0; t < model->n; t++) {
        const struct whole *w = &model->tensors[t];
        bool norm = strstr(w->name, "norm.weight") != NULL;
        if (w->rows > 1)
            expect_distribution(w, 0, 1.0 / (double)w->cols);
        else
            expect_distribution(w, norm ? 1 : 0, 0.01 / 3);
        for (int u = 0; u < t; u++) /* no two tensors alike */
            assert_true(w->values[0] != model->tensors[u].values[0] ||
                        w->values[1] != model->tensors[u].values[1]);
    }
}

static void dummy_weights_do_not_depend_on_the_ranks(void **state)
{
    (void)state;
    static const char *const configs[] = {
        CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true, \"mlp_bias\": true"),
        CONFIG(", \"dtype\": \"float16\", \"tie_word_embeddings\": true"),
        CONFIG(", \"dtype\": \"float32\""),
        "{\"model_type\": \"qwen3\", \"hidden_size\": 48, \"intermediate_size\": 100,"
        "\"num_hidden_layers\": 3, \"num_attention_heads\": 10, \"num_key_value_heads\": 5,"
        "\"head_dim\": 16, \"vocab_size\": 99, \"rms_norm_eps\": 1e-6, \"dtype\": \"bfloat16\","
        "\"max_position_embeddings\": 64}",
        "{\"model_type\": \"phi3\", \"hidden_size\": 40, \"intermediate_size\": 100,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 10, \"num_key_value_heads\": 5,"
        "\"vocab_size\": 99, \"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 64}",
        "{\"model_type\": \"olmo2\", \"hidden_size\": 48, \"intermediate_size\": 100,"
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 3,"
        "\"vocab_size\": 99, \"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 64}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct phx_config *config = NULL;
        assert_int_equal(
            phx_config_parse("config.json", configs[i], strlen(configs[i]), NULL, 0, &config),
            PHX_OK);
        struct whole_model *one = whole_model_load(stream, config, NULL, 1, true);
        int64_t n_elements = 0;
        for (int t = 0; t < one->n; t++) n_elements += one->tensors[t].rows * one->tensors[t].cols;
        assert_int_equal(n_elements, phx_config_parameters(config));
        expect_dummy_rule(one);
        for (int size = 2; size <= config->layers[0].shape.n_kv_heads; size++) {
            struct whole_model *many = whole_model_load(stream, config, NULL, size, true);
            assert_int_equal(many->n, one->n);
            for (int t = 0; t < one->n; t++) {
                const struct whole *a = &one->tensors[t], *b = &many->tensors[t];
                assert_string_equal(a->name, b->name);
                assert_memory_equal(a->values, b->values,
                                    (size_t)(a->rows * a->cols) * sizeof *a->values);
            }
            whole_model_destroy(many);
        }
        whole_model_destroy(one);
        phx_config_destroy(config);
    }
}

/* A checkpoint that holds what phx_weights_dummy makes (test_model_write works it out by itself)
 * loads to the same bits. */
static void dummy_weights_are_those_of_a_file(void **state)
{
    (void)state;
    const struct test_model written = {
        .config_json = CONFIG(", \"dtype\": \"bfloat16\", \"attention_bias\": true")};
    struct written_model m;
    written_model_open(&written, &m);
    struct whole_model *model = whole_model_load(stream, m.config, NULL, 2, false);
    expect_file(model, m.config, m.file, 0);
    whole_model_destroy(model);
    written_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixtures_load_on_any_number_of_ranks),
        cmocka_unit_test(written_models_load),
        cmocka_unit_test(parts_of_other_types),
        cmocka_unit_test(dummy_weights_do_not_depend_on_the_ranks),
        cmocka_unit_test(dummy_weights_are_those_of_a_file),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
