/* Hyper-parameters: what is read from both key styles, and the sentence for everything that is not
 * taken. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <setjmp.h>

#include <jansson.h>
#include <cmocka.h>

#include "runtime/config.h"
#include "runtime/safetensors.h"
#include "tests/support/write_model.h"

static const char *const bases[PHX_FAMILY_COUNT] = {
    [PHX_LLAMA] = "{\"model_type\": \"llama\", \"hidden_size\": 96, \"intermediate_size\": 160,"
                  "\"num_hidden_layers\": 3, \"num_attention_heads\": 12,"
                  "\"num_key_value_heads\": 4, \"vocab_size\": 512, \"rms_norm_eps\": 1e-5,"
                  "\"max_position_embeddings\": 256, \"torch_dtype\": \"bfloat16\"}",
    [PHX_MISTRAL] = "{\"model_type\": \"mistral\", \"hidden_size\": 96, \"intermediate_size\": 160,"
                    "\"num_hidden_layers\": 3, \"num_attention_heads\": 8,"
                    "\"num_key_value_heads\": 2, \"vocab_size\": 512, \"rms_norm_eps\": 1e-5,"
                    "\"max_position_embeddings\": 256, \"sliding_window\": 16}",
    [PHX_QWEN2] = "{\"model_type\": \"qwen2\", \"hidden_size\": 128, \"intermediate_size\": 192,"
                  "\"num_hidden_layers\": 3, \"num_attention_heads\": 14, \"head_dim\": 64,"
                  "\"num_key_value_heads\": 2, \"vocab_size\": 512, \"rms_norm_eps\": 1e-6,"
                  "\"max_position_embeddings\": 256}",
    [PHX_QWEN3] = "{\"model_type\": \"qwen3\", \"hidden_size\": 96, \"intermediate_size\": 160,"
                  "\"num_hidden_layers\": 3, \"num_attention_heads\": 16,"
                  "\"num_key_value_heads\": 4, \"vocab_size\": 512, \"rms_norm_eps\": 1e-6,"
                  "\"max_position_embeddings\": 256}",
};

/* The base of a family with the entries of `changes` (a JSON object) put over it; a value of
 * "<absent>" takes the key away. free() it. */
static char *changed(enum phx_family family, const char *changes)
{
    json_error_t error;
    json_t *root = json_loads(bases[family], 0, &error);
    json_t *over = json_loads(changes, 0, &error);
    if (!root || !over) fail_msg("%s: %s", changes, error.text);
    const char *key;
    json_t *value;
    json_object_foreach(over, key, value)
    {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "<absent>") == 0)
            json_object_del(root, key);
        else
            json_object_set(root, key, value);
    }
    char *text = json_dumps(root, 0);
    json_decref(root);
    json_decref(over);
    assert_non_null(text);
    return text;
}

static struct phx_config *parsed(enum phx_family family, const char *changes)
{
    struct phx_config *config = NULL;
    char *text = changed(family, changes);
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
    char *text = changed(PHX_LLAMA, "{\"eos_token_id\": 3}");
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

/* ---- refusals ---- */

#define LLAMA3(factor, low, high, old)                                                             \
    "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": " factor                           \
    ", \"low_freq_factor\": " low ", \"high_freq_factor\": " high                                  \
    ", \"original_max_position_embeddings\": " old "}}"

static const struct refusal {
    enum phx_family family;
    const char *changes;
    enum phx_status status;
    const char *words[3]; /* that the sentence must hold, besides the file's name */
} refusals[] = {
    {PHX_LLAMA, "{\"model_type\": \"<absent>\"}", PHX_BAD_DATA, {"model_type", "missing"}},
    {PHX_LLAMA, "{\"model_type\": 3}", PHX_BAD_DATA, {"model_type", "3", "string"}},
    {PHX_LLAMA, "{\"model_type\": \"gpt2\"}", PHX_UNSUPPORTED, {"gpt2", "llama", "qwen3"}},
    {PHX_LLAMA, "{\"hidden_size\": \"<absent>\"}", PHX_BAD_DATA, {"hidden_size", "missing"}},
    {PHX_LLAMA, "{\"hidden_size\": null}", PHX_BAD_DATA, {"hidden_size", "missing"}},
    {PHX_LLAMA, "{\"hidden_size\": \"96\"}", PHX_BAD_DATA, {"hidden_size", "\"96\"", "whole"}},
    {PHX_LLAMA, "{\"hidden_size\": 96.0}", PHX_BAD_DATA, {"hidden_size", "96.0", "whole"}},
    {PHX_LLAMA, "{\"hidden_size\": 0}", PHX_BAD_DATA, {"hidden_size", " 0;", "from 1"}},
    {PHX_LLAMA, "{\"hidden_size\": -96}", PHX_BAD_DATA, {"hidden_size", "-96"}},
    {PHX_LLAMA, "{\"hidden_size\": 1048577}", PHX_BAD_DATA, {"hidden_size", "1048576"}},
    {PHX_LLAMA, "{\"hidden_size\": 100}", PHX_BAD_DATA, {"hidden_size 100", "12", "head_dim"}},
    {PHX_LLAMA, "{\"hidden_size\": 60}", PHX_BAD_DATA, {"head_dim", " 5;", "even"}},
    {PHX_LLAMA, "{\"hidden_size\": 12}", PHX_BAD_DATA, {"head_dim", " 1;"}},
    {PHX_LLAMA, "{\"head_dim\": 7}", PHX_BAD_DATA, {"head_dim", "7", "even"}},
    {PHX_LLAMA, "{\"head_dim\": 8192}", PHX_BAD_DATA, {"head_dim", "8192", "4096"}},
    {PHX_LLAMA, "{\"intermediate_size\": 0}", PHX_BAD_DATA, {"intermediate_size"}},
    {PHX_LLAMA, "{\"intermediate_size\": [160]}", PHX_BAD_DATA, {"intermediate_size", "[160]"}},
    {PHX_LLAMA, "{\"num_hidden_layers\": 0}", PHX_BAD_DATA, {"num_hidden_layers", "4096"}},
    {PHX_LLAMA,
     "{\"num_hidden_layers\": 9223372036854775807}",
     PHX_BAD_DATA,
     {"num_hidden_layers", "9223372036854775807"}},
    {PHX_LLAMA, "{\"num_attention_heads\": 0}", PHX_BAD_DATA, {"num_attention_heads"}},
    {PHX_LLAMA,
     "{\"num_key_value_heads\": 5}",
     PHX_BAD_DATA,
     {"num_attention_heads 12", "num_key_value_heads 5", "multiple"}},
    {PHX_LLAMA, "{\"num_key_value_heads\": 24}", PHX_BAD_DATA, {"12", "24"}},
    {PHX_LLAMA, "{\"num_key_value_heads\": 0}", PHX_BAD_DATA, {"num_key_value_heads", " 0;"}},
    {PHX_LLAMA, "{\"vocab_size\": 16777217}", PHX_BAD_DATA, {"vocab_size", "16777216"}},
    {PHX_LLAMA, "{\"vocab_size\": 0}", PHX_BAD_DATA, {"vocab_size", " 0;"}},
    {PHX_LLAMA,
     "{\"max_position_embeddings\": \"<absent>\"}",
     PHX_BAD_DATA,
     {"max_position_embeddings", "missing"}},
    {PHX_LLAMA,
     "{\"max_position_embeddings\": 2147483648}",
     PHX_BAD_DATA,
     {"max_position_embeddings", "2147483647"}},
    {PHX_LLAMA, "{\"rms_norm_eps\": 0}", PHX_BAD_DATA, {"rms_norm_eps", " 0;"}},
    {PHX_LLAMA, "{\"rms_norm_eps\": -1e-5}", PHX_BAD_DATA, {"rms_norm_eps"}},
    {PHX_LLAMA, "{\"rms_norm_eps\": \"1e-5\"}", PHX_BAD_DATA, {"rms_norm_eps", "number"}},
    {PHX_LLAMA, "{\"rms_norm_eps\": 1e-300}", PHX_BAD_DATA, {"rms_norm_eps"}},
    {PHX_LLAMA,
     "{\"tie_word_embeddings\": 1}",
     PHX_BAD_DATA,
     {"tie_word_embeddings", "true or false"}},
    {PHX_LLAMA, "{\"attention_bias\": \"true\"}", PHX_BAD_DATA, {"attention_bias"}},
    {PHX_MISTRAL, "{\"attention_bias\": true}", PHX_UNSUPPORTED, {"attention_bias"}},
    {PHX_QWEN3, "{\"mlp_bias\": true}", PHX_UNSUPPORTED, {"mlp_bias"}},
    {PHX_LLAMA, "{\"hidden_act\": \"relu\"}", PHX_UNSUPPORTED, {"hidden_act", "relu", "silu"}},
    {PHX_LLAMA, "{\"hidden_act\": \"gelu\"}", PHX_UNSUPPORTED, {"gelu", "gelu_pytorch_tanh"}},
    {PHX_LLAMA,
     "{\"hidden_act\": null, \"torch_dtype\": \"float8_e4m3fn\"}",
     PHX_UNSUPPORTED,
     {"torch_dtype", "float8_e4m3fn", "bfloat16"}},
    {PHX_LLAMA, "{\"dtype\": \"float16\"}", PHX_BAD_DATA, {"float16", "bfloat16"}},
    {PHX_LLAMA, "{\"dtype\": 16}", PHX_BAD_DATA, {"dtype", "16"}},
    /* windows */
    {PHX_LLAMA, "{\"sliding_window\": 16}", PHX_UNSUPPORTED, {"sliding_window", "16", "null"}},
    {PHX_MISTRAL, "{\"sliding_window\": 0}", PHX_BAD_DATA, {"sliding_window", " 0;"}},
    {PHX_MISTRAL, "{\"sliding_window\": 2147483648}", PHX_BAD_DATA, {"sliding_window"}},
    {PHX_QWEN2, "{\"use_sliding_window\": \"yes\"}", PHX_BAD_DATA, {"use_sliding_window"}},
    {PHX_QWEN2, "{\"max_window_layers\": -1}", PHX_BAD_DATA, {"max_window_layers", "-1"}},
    {PHX_QWEN2, "{\"layer_types\": [\"full_attention\"]}", PHX_BAD_DATA, {"layer_types", "1", "3"}},
    {PHX_QWEN2, "{\"layer_types\": \"full_attention\"}", PHX_BAD_DATA, {"layer_types", "array"}},
    {PHX_QWEN2,
     "{\"layer_types\": [\"full_attention\", 2, \"full_attention\"]}",
     PHX_UNSUPPORTED,
     {"layer_types[1]", "2"}},
    {PHX_QWEN2,
     "{\"layer_types\": [\"full_attention\", \"full_attention\", \"chunked_attention\"]}",
     PHX_UNSUPPORTED,
     {"layer_types[2]", "chunked_attention", "sliding_attention"}},
    {PHX_QWEN2,
     "{\"sliding_window\": 8, \"layer_types\": [\"full_attention\", \"sliding_attention\","
     "\"full_attention\"]}",
     PHX_BAD_DATA,
     {"layer_types[1]", "sliding_window"}},
    /* rotary */
    {PHX_LLAMA, "{\"rope_theta\": 0}", PHX_BAD_DATA, {"rope_theta", " 0;"}},
    {PHX_LLAMA, "{\"rope_theta\": \"big\"}", PHX_BAD_DATA, {"rope_theta", "big"}},
    {PHX_LLAMA, "{\"rope_scaling\": \"linear\"}", PHX_BAD_DATA, {"rope_scaling", "object"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"ntk\", \"factor\": 4}}",
     PHX_UNSUPPORTED,
     {"ntk", "default, linear, dynamic, llama3, yarn and longrope"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 1}}",
     PHX_UNSUPPORTED,
     {"rope_scaling.mscale", "yarn"}},
    {PHX_LLAMA,
     "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"rope_theta\": 1e4}}",
     PHX_BAD_DATA,
     {"rope_parameters.short_factor", "missing"}},
    {PHX_LLAMA,
     "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1e4}}}",
     PHX_UNSUPPORTED,
     {"rope_parameters.full_attention"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"default\", \"mrope_section\": [1, 2]}}",
     PHX_UNSUPPORTED,
     {"rope_scaling.mrope_section"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"linear\"}}",
     PHX_BAD_DATA,
     {"rope_scaling.factor", "missing"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}",
     PHX_BAD_DATA,
     {"rope_scaling.factor", " 0;"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"linear\", \"rope_type\": \"llama3\"}}",
     PHX_BAD_DATA,
     {"rope_scaling.type", "linear", "llama3"}},
    {PHX_LLAMA,
     LLAMA3("8", "4", "1", "64"),
     PHX_BAD_DATA,
     {"high_freq_factor 1", "low_freq_factor 4"}},
    {PHX_LLAMA, LLAMA3("8", "1", "1", "64"), PHX_BAD_DATA, {"high_freq_factor"}},
    {PHX_LLAMA,
     LLAMA3("8", "1", "4", "null"),
     PHX_BAD_DATA,
     {"original_max_position_embeddings", "missing"}},
    {PHX_LLAMA,
     LLAMA3("8", "1", "4", "64.5"),
     PHX_BAD_DATA,
     {"original_max_position_embeddings", "64.5"}},
    {PHX_LLAMA, LLAMA3("-8", "1", "4", "64"), PHX_BAD_DATA, {"rope_scaling.factor", "-8"}},
    {PHX_LLAMA,
     "{\"rope_theta\": 1e4, \"rope_parameters\": {\"rope_theta\": 5e5}}",
     PHX_BAD_DATA,
     {"rope_theta", "10000", "500000"}},
    {PHX_LLAMA,
     "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2},"
     "\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4}}",
     PHX_BAD_DATA,
     {"rope_scaling", "rope_parameters"}},
    {PHX_LLAMA,
     "{\"rope_parameters\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}}",
     PHX_BAD_DATA,
     {"rope_parameters.partial_rotary_factor", "0.5"}},
    /* keys that would change the result */
    {PHX_LLAMA,
     "{\"partial_rotary_factor\": 0.5}",
     PHX_UNSUPPORTED,
     {"partial_rotary_factor", "0.5", "only 1 "}},
    {PHX_LLAMA,
     "{\"quantization_config\": {\"bits\": 4}}",
     PHX_UNSUPPORTED,
     {"quantization_config", "bits", "null"}},
    {PHX_LLAMA, "{\"attn_logit_softcapping\": 50.0}", PHX_UNSUPPORTED, {"attn_logit_softcapping"}},
    {PHX_QWEN2, "{\"is_causal\": false}", PHX_UNSUPPORTED, {"is_causal", "only true "}},
    {PHX_QWEN2, "{\"use_mrope\": true}", PHX_UNSUPPORTED, {"use_mrope"}},
    {PHX_LLAMA, "{\"num_local_experts\": 4}", PHX_UNSUPPORTED, {"num_local_experts", "4"}},
    {PHX_LLAMA, "{\"residual_multiplier\": 0.22}", PHX_UNSUPPORTED, {"residual_multiplier"}},
    {PHX_LLAMA, "{\"embedding_multiplier\": \"1\"}", PHX_UNSUPPORTED, {"embedding_multiplier"}},
    /* tokens */
    {PHX_LLAMA, "{\"bos_token_id\": 512}", PHX_BAD_DATA, {"bos_token_id", "512", "511"}},
    {PHX_LLAMA, "{\"bos_token_id\": [1]}", PHX_BAD_DATA, {"bos_token_id", "[1]"}},
    {PHX_LLAMA, "{\"eos_token_id\": -1}", PHX_BAD_DATA, {"eos_token_id", "-1", "511"}},
    {PHX_LLAMA, "{\"eos_token_id\": [1, 512]}", PHX_BAD_DATA, {"eos_token_id", "[1, 512]"}},
    {PHX_LLAMA, "{\"eos_token_id\": \"</s>\"}", PHX_BAD_DATA, {"eos_token_id", "</s>"}},
    {PHX_LLAMA,
     "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
     PHX_UNSUPPORTED,
     {"eos_token_id", "17", "16"}},
};

static void expect_refusal(const char *what, enum phx_status found, enum phx_status expected,
                           const char *const words[3])
{
    if (found != expected)
        fail_msg("%s: %s (%s)", what, phx_status_text(found), phx_fail_sentence());
    for (int i = 0; i < 3 && words[i]; i++)
        if (!strstr(phx_fail_sentence(), words[i]))
            fail_msg("%s: no \"%s\" in: %s", what, words[i], phx_fail_sentence());
}

static void refusals_say_why(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        struct phx_config *config = NULL;
        char *text = changed(r->family, r->changes);
        enum phx_status status =
            phx_config_parse("some/config.json", text, strlen(text), NULL, 0, &config);
        expect_refusal(r->changes, status, r->status, r->words);
        assert_non_null(strstr(phx_fail_sentence(), "some/config.json"));
        assert_null(config);
        free(text);
    }
}

static void broken_texts_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *generation;
        const char *words[3];
    } rows[] = {
        {"", NULL, {"config.json", "not valid JSON"}},
        {"{\"model_type\": \"llama\"", NULL, {"config.json", "line 1"}},
        {"[1]", NULL, {"config.json", "object"}},
        {"{\"a\": 1, \"a\": 2}", NULL, {"config.json", "duplicate", "a"}},
        {"{\"rms_norm_eps\": NaN}", NULL, {"config.json", "NaN"}},
        {"{\"rms_norm_eps\": 1e999}", NULL, {"config.json", "overflow"}},
        {"{\"hidden_size\": 99999999999999999999}", NULL, {"config.json", "too big"}},
        {"{\"model_type\": \"\xff\"}", NULL, {"config.json", "0xff"}},
        {NULL, "{", {"generation_config.json", "not valid JSON"}},
        {NULL, "{\"temperature\": -1}", {"generation_config.json", "temperature", "-1"}},
        {NULL, "{\"temperature\": \"hot\"}", {"generation_config.json", "temperature", "hot"}},
        {NULL, "{\"top_p\": 0}", {"generation_config.json", "top_p", " 0;"}},
        {NULL, "{\"top_p\": 1.5}", {"generation_config.json", "top_p", "1.5"}},
        {NULL, "{\"min_p\": 2}", {"generation_config.json", "min_p", "2"}},
        {NULL, "{\"top_k\": -1}", {"generation_config.json", "top_k", "-1"}},
        {NULL, "{\"top_k\": 0.5}", {"generation_config.json", "top_k", "0.5"}},
        {NULL, "{\"repetition_penalty\": 0}", {"generation_config.json", "repetition_penalty"}},
        {NULL, "{\"do_sample\": 0}", {"generation_config.json", "do_sample"}},
        {NULL, "{\"eos_token_id\": 512}", {"generation_config.json", "eos_token_id", "512"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *text = rows[i].text ? rows[i].text : bases[PHX_LLAMA];
        const char *generation = rows[i].generation;
        struct phx_config *config = NULL;
        enum phx_status status = phx_config_parse("config.json", text, strlen(text), generation,
                                                  generation ? strlen(generation) : 0, &config);
        expect_refusal(generation ? generation : text, status, PHX_BAD_DATA, rows[i].words);
        assert_null(config);
    }
}

static void files_are_named_in_errors(void **state)
{
    (void)state;
    char *folder = test_folder_create();
    struct phx_config *config = NULL;
    expect_refusal("no file", phx_config_load(folder, &config), PHX_NOT_FOUND,
                   (const char *const[3]){folder, "/config.json", "No such file"});
    test_file_write_text(folder, "config.json", bases[PHX_LLAMA]);
    assert_int_equal(phx_config_load(folder, &config), PHX_OK);
    assert_string_equal(phx_fail_sentence(), ""); /* that the other file is absent is no failure */
    phx_config_destroy(config);
    config = NULL;
    test_file_write_text(folder, "generation_config.json", "{\"top_k\": \"many\"}");
    expect_refusal("generation", phx_config_load(folder, &config), PHX_BAD_DATA,
                   (const char *const[3]){folder, "/generation_config.json", "many"});
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", folder);
    expect_refusal("a file as folder", phx_config_load(path, &config), PHX_NOT_FOUND,
                   (const char *const[3]){path, "no GGUF"});
    assert_int_equal(remove(path), 0);
    assert_int_equal(mkdir(path, 0777), 0);
    expect_refusal("a folder as file", phx_config_load(folder, &config), PHX_BAD_DATA,
                   (const char *const[3]){path, "regular file"});
    assert_null(config);
    test_folder_destroy(folder);
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
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(broken_texts_are_refused),
        cmocka_unit_test(files_are_named_in_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
