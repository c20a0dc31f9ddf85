/* Hyper-parameters: what is read from both key styles. What is not taken: test_config_refusals.c.
 */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "runtime/safetensors.h"
#include "tests/runtime/config_texts.h"

static struct phx_config *parsed(enum phx_family family, const char *changes)
{
    struct phx_config *config = NULL;
    char *text = config_text_changed(family, changes);
    if (phx_config_parse("config.json", text, strlen(text), NULL, 0, &config) != PHX_OK)
        fail_msg("%s: %s", text, phx_fail_sentence());
    free(text);
    return config;
}

/* ---- fixtures ---- */

static const struct fixture {
    const char *name;
    enum phx_family family;
    int64_t hidden, vocab, ffn;
    int32_t n_layers, n_heads, n_kv_heads, head_dim, window;
    bool tied, qkv_bias, qk_norm;
    double theta;
    float epsilon;
} fixtures[] = {
    {"llama-15q5kv-uneven", PHX_LLAMA, 120, 515, 104, 2, 15, 5, 8, 0, false, false, false, 1e4,
     1e-5f},
    {"llama-mha-6q6kv", PHX_LLAMA, 96, 512, 144, 2, 6, 6, 16, 0, false, false, false, 1e4, 1e-5f},
    {"llama-mqa-7q1kv", PHX_LLAMA, 112, 512, 144, 2, 7, 1, 16, 0, false, false, false, 1e4, 1e-5f},
    {"llama3-12q4kv", PHX_LLAMA, 96, 512, 160, 3, 12, 4, 16, 0, false, false, false, 5e5, 1e-5f},
    {"mistral-8q2kv-window16", PHX_MISTRAL, 96, 512, 160, 2, 8, 2, 16, 16, false, false, false, 1e4,
     1e-5f},
    {"qwen2-14q2kv", PHX_QWEN2, 128, 512, 192, 2, 14, 2, 64, 0, true, true, false, 1e6, 1e-6f},
    {"qwen3-16q4kv", PHX_QWEN3, 96, 512, 160, 2, 16, 4, 32, 0, false, false, true, 1e6, 1e-6f},
};
enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures };

static void fixture_path(char path[512], const char *name, const char *file)
{
    snprintf(path, 512, "%s/hf/%s%s%s", PHX_TEST_DATA, name, file ? "/" : "", file ? file : "");
}

static void check_fixture(const struct fixture *f, const struct phx_config *c)
{
    assert_int_equal(c->family, f->family);
    assert_int_equal(c->hidden, f->hidden);
    assert_int_equal(c->vocab, f->vocab);
    assert_int_equal(c->n_layers, f->n_layers);
    assert_int_equal(c->max_positions, 256);
    assert_int_equal(c->dtype, PHX_BF16);
    assert_int_equal(c->activation, PHX_SILU);
    assert_int_equal(c->tied, f->tied);
    assert_int_equal(c->qkv_bias, f->qkv_bias);
    assert_int_equal(c->qk_norm, f->qk_norm);
    assert_false(c->o_bias || c->mlp_bias);
    assert_true(c->norm_epsilon == f->epsilon);
    assert_true(fabs(c->attention_scale * sqrt(f->head_dim) - 1) < 1e-6);
    assert_true(c->ropes[0].theta == f->theta);
    assert_int_equal(c->bos, 1);
    assert_int_equal(c->n_eos, 1);
    assert_int_equal(c->eos[0], 2);
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct phx_layer_config *layer = &c->layers[l];
        assert_int_equal(layer->shape.n_heads, f->n_heads);
        assert_int_equal(layer->shape.n_kv_heads, f->n_kv_heads);
        assert_int_equal(layer->shape.head_dim, f->head_dim);
        assert_int_equal(layer->shape.ffn, f->ffn);
        assert_int_equal(layer->window, f->window);
    }
    bool llama3 = strcmp(f->name, "llama3-12q4kv") == 0;
    assert_int_equal(c->ropes[0].kind, llama3 ? PHX_ROPE_LLAMA3 : PHX_ROPE_DEFAULT);
    if (llama3) {
        assert_true(c->ropes[0].factor == 8 && c->ropes[0].low_freq_factor == 1);
        assert_true(c->ropes[0].high_freq_factor == 4 && c->ropes[0].original_max_positions == 64);
    }
}

static void fixtures_parse(void **state)
{
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++) {
        char path[512];
        struct phx_config *config = NULL;
        fixture_path(path, fixtures[i].name, NULL);
        if (phx_config_load(path, &config) != PHX_OK) fail_msg("%s", phx_fail_sentence());
        check_fixture(&fixtures[i], config);
        assert_true(isnan(config->temperature) && isnan(config->top_p) && isnan(config->min_p));
        assert_true(isnan(config->repeat_penalty) && config->top_k == -1);

        struct phx_layer_shape layers[8];
        struct phx_model_shape shape = phx_config_shape(config, layers);
        assert_int_equal(shape.n_layers, config->n_layers);
        assert_memory_equal(&shape.layers[1], &config->layers[1].shape, sizeof shape.layers[1]);
        phx_config_destroy(config);
    }
}

/* The same config in the keys of transformers 4: torch_dtype, rope_theta, rope_scaling, nothing
 * that was not written then. */
static char *in_older_style(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    assert_non_null(root);
    json_object_set(root, "torch_dtype", json_object_get(root, "dtype"));
    json_object_del(root, "dtype");
    json_t *rope = json_incref(json_object_get(root, "rope_parameters"));
    json_object_del(root, "rope_parameters");
    json_object_set(root, "rope_theta", json_object_get(rope, "rope_theta"));
    json_object_del(rope, "rope_theta");
    json_object_set(rope, "type", json_object_get(rope, "rope_type"));
    json_object_del(rope, "rope_type");
    bool scaled = strcmp(json_string_value(json_object_get(rope, "type")), "default") != 0;
    json_object_set_new(root, "rope_scaling", scaled ? json_incref(rope) : json_null());
    json_decref(rope);
    json_object_del(root, "layer_types");
    char *text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

static void older_style_gives_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++) {
        char path[512];
        struct phx_config *config = NULL;
        fixture_path(path, fixtures[i].name, "config.json");
        char *text = in_older_style(path);
        assert_null(strstr(text, "rope_parameters"));
        if (phx_config_parse("config.json", text, strlen(text), NULL, 0, &config) != PHX_OK)
            fail_msg("%s: %s", text, phx_fail_sentence());
        check_fixture(&fixtures[i], config);
        phx_config_destroy(config);
        free(text);
    }
}

/* Every element of the files is a parameter of the config, and nothing else is. */
static void parameters_are_those_of_the_files(void **state)
{
    (void)state;
    for (int i = 0; i < N_FIXTURES; i++) {
        char path[512];
        struct phx_config *config = NULL;
        struct phx_checkpoint *checkpoint = NULL;
        fixture_path(path, fixtures[i].name, NULL);
        assert_int_equal(phx_config_load(path, &config), PHX_OK);
        assert_int_equal(phx_checkpoint_open(path, &checkpoint), PHX_OK);
        int64_t elements = 0;
        for (size_t t = 0; t < phx_checkpoint_count(checkpoint); t++)
            elements += (int64_t)phx_checkpoint_at(checkpoint, t)->bytes / 2;
        assert_int_equal(phx_config_parameters(config), elements);
        phx_checkpoint_destroy(checkpoint);
        phx_config_destroy(config);
    }
}

/* ---- what may be said, and what holds when it is not ---- */

static void absent_keys_have_known_values(void **state)
{
    (void)state;
    struct phx_config *c = parsed(PHX_LLAMA, "{\"num_key_value_heads\": null, \"torch_dtype\":"
                                             "\"<absent>\"}");
    assert_int_equal(c->layers[0].shape.n_kv_heads, 12);
    assert_int_equal(c->layers[0].shape.head_dim, 8);
    assert_int_equal(c->dtype, PHX_F32);
    assert_int_equal(c->bos, -1);
    assert_int_equal(c->n_eos, 0);
    assert_false(c->tied || c->qkv_bias || c->o_bias || c->mlp_bias || c->qk_norm);
    assert_int_equal(c->ropes[0].kind, PHX_ROPE_DEFAULT);
    assert_true(c->ropes[0].theta == 10000);
    assert_int_equal(c->activation, PHX_SILU);
    phx_config_destroy(c);

    c = parsed(PHX_QWEN3, "{}"); /* its head_dim is not hidden / heads, also when it is not said */
    assert_int_equal(c->layers[0].shape.head_dim, 128);
    phx_config_destroy(c);
}

static void biases_follow_the_family(void **state)
{
    (void)state;
    static const struct {
        enum phx_family family;
        const char *changes;
        bool qkv, o, mlp;
    } rows[] = {
        {PHX_LLAMA, "{\"attention_bias\": true}", true, true, false},
        {PHX_LLAMA, "{\"mlp_bias\": true}", false, false, true},
        {PHX_MISTRAL, "{\"attention_bias\": false, \"mlp_bias\": null}", false, false, false},
        {PHX_QWEN2, "{}", true, false, false},
        {PHX_QWEN3, "{\"attention_bias\": true}", true, true, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_config *c = parsed(rows[i].family, rows[i].changes);
        assert_int_equal(c->qkv_bias, rows[i].qkv);
        assert_int_equal(c->o_bias, rows[i].o);
        assert_int_equal(c->mlp_bias, rows[i].mlp);
        phx_config_destroy(c);
    }
}

static void windows_follow_the_family_or_layer_types(void **state)
{
    (void)state;
    static const struct {
        enum phx_family family;
        const char *changes;
        int32_t windows[3];
    } rows[] = {
        {PHX_LLAMA, "{\"sliding_window\": null}", {0, 0, 0}},
        {PHX_LLAMA,
         "{\"sliding_window\": 7, \"layer_types\": [\"full_attention\", \"sliding_attention\","
         "\"full_attention\"]}",
         {0, 7, 0}},
        {PHX_MISTRAL, "{}", {16, 16, 16}},
        {PHX_MISTRAL, "{\"sliding_window\": null}", {0, 0, 0}},
        {PHX_MISTRAL, "{\"sliding_window\": \"<absent>\"}", {4096, 4096, 4096}},
        {PHX_QWEN2, "{\"sliding_window\": 9, \"max_window_layers\": 1}", {0, 0, 0}},
        {PHX_QWEN2,
         "{\"sliding_window\": 9, \"max_window_layers\": 1, \"use_sliding_window\": true}",
         {0, 9, 9}},
        {PHX_QWEN3, "{\"max_window_layers\": 2, \"use_sliding_window\": true}", {0, 0, 4096}},
        {PHX_QWEN3,
         "{\"sliding_window\": 9, \"use_sliding_window\": true, \"max_window_layers\": 0,"
         "\"layer_types\": [\"sliding_attention\", \"full_attention\", \"full_attention\"]}",
         {9, 0, 0}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_config *c = parsed(rows[i].family, rows[i].changes);
        for (int l = 0; l < 3; l++)
            if (c->layers[l].window != rows[i].windows[l])
                fail_msg("%s: layer %d has window %d", rows[i].changes, l, c->layers[l].window);
        phx_config_destroy(c);
    }
}

static void values_are_understood(void **state)
{
    (void)state;
    struct phx_config *c =
        parsed(PHX_LLAMA,
               "{\"hidden_act\": \"gelu_pytorch_tanh\", \"dtype\": \"float16\", \"torch_dtype\":"
               "\"float16\", \"tie_word_embeddings\": true, \"eos_token_id\": [5, 6, 511],"
               "\"bos_token_id\": 4, \"head_dim\": 6, \"rope_theta\": 500000,"
               "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4},"
               "\"partial_rotary_factor\": 1.0, \"quantization_config\": null,"
               "\"use_mrope\": false, \"pretraining_tp\": 1, \"embedding_multiplier\": 1}");
    assert_int_equal(c->activation, PHX_GELU_TANH);
    assert_int_equal(c->dtype, PHX_F16);
    assert_true(c->tied);
    assert_int_equal(c->n_eos, 3);
    assert_int_equal(c->eos[2], 511);
    assert_int_equal(c->bos, 4);
    assert_int_equal(c->layers[2].shape.head_dim, 6);
    assert_int_equal(c->ropes[0].kind, PHX_ROPE_LINEAR);
    assert_true(c->ropes[0].factor == 4 && c->ropes[0].theta == 500000);
    phx_config_destroy(c);

    /* Both styles at once, in agreement. */
    c = parsed(PHX_LLAMA, "{\"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"linear\","
                          "\"type\": \"linear\", \"factor\": 2.0}, \"rope_parameters\": {"
                          "\"rope_type\": \"linear\", \"factor\": 2, \"rope_theta\": 500000}}");
    assert_true(c->ropes[0].kind == PHX_ROPE_LINEAR && c->ropes[0].factor == 2);
    phx_config_destroy(c);
    c = parsed(PHX_LLAMA, "{\"hidden_act\": \"swish\"}");
    assert_int_equal(c->activation, PHX_SILU);
    phx_config_destroy(c);
}

static void generation_defaults(void **state)
{
    (void)state;
    struct phx_config *c = NULL;
    char *text = config_text_changed(PHX_LLAMA, "{\"eos_token_id\": 3}");
    static const char first[] =
        "{\"temperature\": 0.6, \"top_k\": 20, \"top_p\": 0.95, \"min_p\": 0.05,"
        "\"repetition_penalty\": 1.05, \"do_sample\": true, \"eos_token_id\": [7, 8]}";
    assert_int_equal(phx_config_parse("config.json", text, strlen(text), first, strlen(first), &c),
                     PHX_OK);
    assert_true(c->temperature == 0.6f && c->top_p == 0.95f && c->min_p == 0.05f);
    assert_true(c->repeat_penalty == 1.05f && c->top_k == 20);
    assert_int_equal(c->n_eos, 2);
    assert_int_equal(c->eos[1], 8);
    phx_config_destroy(c);

    static const char second[] = "{\"temperature\": 0.6, \"do_sample\": false, \"top_k\": null,"
                                 "\"eos_token_id\": []}";
    assert_int_equal(
        phx_config_parse("config.json", text, strlen(text), second, strlen(second), &c), PHX_OK);
    assert_true(c->temperature == 0 && c->top_k == -1);
    assert_int_equal(c->n_eos, 1);
    assert_int_equal(c->eos[0], 3);
    phx_config_destroy(c);
    free(text);
}

/* ---- rotary frequencies ---- */

static int ulps(float a, float b)
{
    return abs((int)(phx_bits_from_f32(a) - phx_bits_from_f32(b)));
}

/* Values of the functions of transformers with every step rounded to f32, made apart from this
 * code; a few units in the last place are theirs. */
static void frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *changes;
        struct {
            int i;
            float value;
        } expected[9];
    } rows[] = {
        {"{\"head_dim\": 32, \"rope_theta\": 1e6}",
         {{0, 1}, {1, 0.421696514f}, {8, 0.00100000005f}, {15, 2.37137374e-06f}}},
        {"{\"head_dim\": 8, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}}",
         {{0, 0.25f}, {1, 0.0250000004f}, {2, 0.00249999994f}, {3, 0.000250000012f}}},
        {"{\"head_dim\": 128, \"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\","
         "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4,"
         "\"original_max_position_embeddings\": 8192}}",
         {{0, 1},
          {1, 0.814617217f},
          {28, 0.00321144611f},
          {29, 0.00216657063f},
          {30, 0.00137189368f},
          {32, 0.000524846022f},
          {34, 0.00017850782f},
          {36, 7.78465546e-05f},
          {63, 3.06892588e-07f}}},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        float inv_freq[64], factor = 0;
        struct phx_config *c = parsed(PHX_LLAMA, rows[r].changes);
        phx_config_inv_freq(c, 2, inv_freq, &factor);
        assert_true(factor == 1);
        for (int k = 0; k < 9 && rows[r].expected[k].value != 0; k++) {
            float found = inv_freq[rows[r].expected[k].i], expected = rows[r].expected[k].value;
            if (ulps(found, expected) > 6)
                fail_msg("row %zu: inv_freq[%d] is %.9g, not %.9g", r, rows[r].expected[k].i,
                         (double)found, (double)expected);
        }
        phx_config_destroy(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixtures_parse),
        cmocka_unit_test(older_style_gives_the_same),
        cmocka_unit_test(parameters_are_those_of_the_files),
        cmocka_unit_test(absent_keys_have_known_values),
        cmocka_unit_test(biases_follow_the_family),
        cmocka_unit_test(windows_follow_the_family_or_layer_types),
        cmocka_unit_test(values_are_understood),
        cmocka_unit_test(generation_defaults),
        cmocka_unit_test(frequencies_are_those_of_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
