/* What the metadata of a GGUF means, and which of it is refused: files with keys and hardly any
 * tensors. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/gguf_model.h"

enum { MAX_KEYS = 5, MAX_VECTORS = 3 };

/* A number as f32, `text` as a string, else an array of booleans "+-+". */
struct key {
    const char *name;
    double number;
    const char *text, *bools;
};

struct recipe {
    const char *architecture;
    int layers;
    struct key keys[MAX_KEYS];
    const char *vectors[MAX_VECTORS]; /* each with two numbers: 1 and `factor` */
    float factor;
    const char *says[2]; /* of the refusal; NULL: it loads */
};

static void write_keys(struct phx_gguf_writer *w, const struct recipe *r)
{
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"%s.context_length", 256},     {"%s.embedding_length", 60},
                 {"%s.feed_forward_length", 90}, {"%s.attention.head_count", 10},
                 {"%s.attention.key_length", 4}, {"%s.vocab_size", 100}};
    const char *arch = r->architecture;
    phx_gguf_write_text(w, "general.architecture", "", arch, strlen(arch));
    phx_gguf_write_f32(w, "%s.attention.layer_norm_rms_epsilon", arch, 1e-6f);
    phx_gguf_write_u32(w, "%s.block_count", arch, (uint32_t)r->layers);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        phx_gguf_write_u32(w, sizes[i].key, arch, sizes[i].value);
    for (const struct key *k = r->keys; k < r->keys + MAX_KEYS && k->name; k++) {
        bool values[16];
        if (k->text) {
            phx_gguf_write_text(w, k->name, arch, k->text, strlen(k->text));
        } else if (k->bools) {
            for (size_t i = 0; k->bools[i]; i++) values[i] = k->bools[i] == '+';
            phx_gguf_write_bools(w, k->name, arch, values, strlen(k->bools));
        } else if (k->number == floor(k->number) && k->number != 1) {
            phx_gguf_write_u32(w, k->name, arch, (uint32_t)k->number);
        } else {
            phx_gguf_write_f32(w, k->name, arch, (float)k->number);
        }
    }
}

/* As many tensors as the model has layers, so that its layers count. */
static void write_file(const char *path, const struct recipe *r)
{
    struct phx_gguf_writer *w = NULL;
    const float values[2] = {1, r->factor != 0 ? r->factor : 2};
    int n = 0;
    assert_ok(phx_gguf_writer_create(path, &w));
    write_keys(w, r);
    for (int i = 0; i < MAX_VECTORS && r->vectors[i]; i++, n++)
        phx_gguf_write_tensor(w, r->vectors[i], PHX_F32, 1, (int64_t[]){2});
    for (int l = 0; l < r->layers; l++, n++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
        phx_gguf_write_tensor(w, name, PHX_F32, 1, (int64_t[]){2});
    }
    for (int i = 0; i < n; i++) phx_gguf_write_data(w, values, sizeof values);
    assert_ok(phx_gguf_writer_finish(w));
    phx_gguf_writer_destroy(w);
}

/* NULL where it is refused, as the recipe says. */
static struct phx_config *load(const struct recipe *r)
{
    char path[] = "/tmp/phalanx-test-XXXXXX";
    struct phx_config *config = NULL;
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    write_file(path, r);
    enum phx_status status = phx_config_load(path, &config);
    if (!r->says[0]) {
        assert_ok(status);
    } else {
        assert_true(status == PHX_BAD_DATA || status == PHX_UNSUPPORTED);
        const char *sentence = phx_fail_sentence();
        if (!strstr(sentence, path) || !strstr(sentence, r->says[0]) ||
            !strstr(sentence, r->says[1]))
            fail_msg("%s: the sentence is: %s", r->says[0], sentence);
        phx_fail_clear();
    }
    unlink(path);
    return config;
}

static void what_changes_the_result_is_refused(void **state)
{
    (void)state;
    static const struct recipe rows[] = {
        {"mamba", 2, .says = {"mamba", "llama, qwen2, qwen3, qwen2moe, qwen3moe, phi3"}},
        {"llama", 2, .keys = {{"split.count", .number = 3}},
         .says = {"first of 3 files", "-00001-of-00003.gguf"}},
        {"llama", 2, .keys = {{"%s.expert_gating_func", .number = 2}},
         .says = {"expert_gating_func", "1"}},
        {"llama", 2, .keys = {{"%s.attention.clamp_kqv", .number = 8}}, .says = {"clamped", "0"}},
        {"llama", 2, .keys = {{"%s.attention.scale", .number = 0.3}},
         .says = {"attention_multiplier", ""}},
        {"llama", 2,
         .keys = {{"%s.expert_count", .number = 4}, {"%s.expert_weights_norm", .bools = "+"}},
         .says = {"expert_weights_norm", "true or false"}},
        {"llama", 2,
         .keys = {{"%s.rope.scaling.type", .text = "spiral"},
                  {"%s.rope.scaling.factor", .number = 4}},
         .says = {"spiral", "yarn"}},
        {"llama", 2,
         .keys = {{"%s.rope.scaling.type", .text = "linear"},
                  {"%s.rope.scaling.factor", .number = 4}},
         .vectors = {"rope_freqs.weight"}, .says = {"rope_freqs", "linear"}},
        {"llama", 2, .vectors = {"rope_freqs.weight"}, .factor = 1e-5f,
         .says = {"rope_freqs.weight has the factor 1e-05", "0.001"}},
        {"phi3", 2, .vectors = {"rope_factors_short.weight"}, .says = {"rope_factors_long", ""}},
        {"phi3", 2, .keys = {{"%s.rope.scaling.type", .text = "longrope"}},
         .says = {"longrope", "rope_factors_long"}},
        {"phi3", 2, .keys = {{"%s.rope.dimension_count", .number = 2}},
         .vectors = {"rope_factors_long.weight", "rope_factors_short.weight"},
         .says = {"short_factor has 2 numbers", "1"}},
        {"llama", 2, .keys = {{"%s.rope.dimension_count", .number = 2}},
         .says = {"partial_rotary", ""}},
        {"gemma3", 2,
         .keys = {{"%s.attention.sliding_window", .number = 8},
                  {"%s.attention.sliding_window_pattern", .bools = "+-+"}},
         .says = {"layer_types has 3 entries", "2"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_null(load(&rows[i]));
}

static void windows_are_those_of_the_architecture_or_the_key(void **state)
{
    (void)state;
    static const struct {
        struct recipe recipe;
        const char *windows; /* of each layer, + where it has one */
    } rows[] = {
        {{"llama", 3, .keys = {{"%s.attention.sliding_window", .number = 8}}}, "+++"},
        {{"qwen2", 3, .keys = {{"%s.attention.sliding_window", .number = 8}}}, "+++"},
        {{"qwen3", .layers = 3}, "---"},
        {{"phi3", 3, .keys = {{"%s.attention.sliding_window", .number = 0}}}, "---"},
        {{"gemma2", 4, .keys = {{"%s.attention.sliding_window", .number = 8}}}, "+-+-"},
        {{"gemma3", 7, .keys = {{"%s.attention.sliding_window", .number = 8}}}, "+++++-+"},
        {{"gemma3", 4,
          .keys = {{"%s.attention.sliding_window", .number = 8},
                   {"%s.attention.sliding_window_pattern", .number = 3}}},
         "++-+"},
        {{"qwen2", 3,
          .keys = {{"%s.attention.sliding_window", .number = 8},
                   {"%s.attention.sliding_window_pattern", .bools = "-++"}}},
         "-++"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_config *config = load(&rows[i].recipe);
        for (int32_t l = 0; l < config->n_layers; l++)
            assert_int_equal(config->layers[l].window, rows[i].windows[l] == '+' ? 8 : 0);
        phx_config_destroy(config);
    }
}

/* Gemma's converter leaves it to the reader. */
static void scores_are_scaled_as_the_architecture_does(void **state)
{
    (void)state;
    static const struct {
        struct recipe recipe;
        double scale;
    } rows[] = {
        {{"llama", .layers = 2}, 0.5},
        {{"granite", .layers = 2}, 0.5},
        {{"granite", 2, .keys = {{"%s.attention.scale", .number = 0.25}}}, 0.25},
        {{"gemma2", .layers = 2}, 0.5},
        {{"gemma2", .layers = 46}, 0.408248290463863}, /* of 60 / 10 */
        {{"gemma3", .layers = 46}, 0.5},
        {{"gemma3", .layers = 62}, 0.408248290463863},
        {{"gemma3", 2, .keys = {{"%s.attention.scale", .number = 0.25}}}, 0.25},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_config *config = load(&rows[i].recipe);
        assert_true(fabs((double)config->attention_scale - rows[i].scale) < 1e-6);
        assert_true(config->norm_offset == 0);
        phx_config_destroy(config);
    }
}

static void rotations_are_scaled_as_the_file_says(void **state)
{
    (void)state;
    float inv_freq[2], attention;
    const struct recipe linear = {"llama", 2,
                                  .keys = {{"%s.rope.scaling.type", .text = "linear"},
                                           {"%s.rope.scaling.factor", .number = 4}}};
    struct phx_config *config = load(&linear);
    phx_config_inv_freq(config, 0, inv_freq, &attention);
    assert_true(inv_freq[0] == 0.25f && attention == 1);
    phx_config_destroy(config);

    const struct recipe freqs = {"llama", 2, .vectors = {"rope_freqs.weight"}, .factor = 5};
    config = load(&freqs);
    phx_config_inv_freq(config, 0, inv_freq, &attention);
    assert_true(inv_freq[0] == 1 && fabsf(inv_freq[1] - 0.01f / 5) < 1e-9f && attention == 1);
    phx_config_destroy(config);

    const struct recipe yarn = {
        "qwen2", 2,
        .keys = {{"%s.rope.scaling.type", .text = "yarn"},
                 {"%s.rope.scaling.factor", .number = 4},
                 {"%s.rope.scaling.attn_factor", .number = 0.5},
                 {"%s.rope.scaling.yarn_beta_fast", .number = 16},
                 {"%s.rope.scaling.original_context_length", .number = 64}}};
    config = load(&yarn);
    assert_int_equal(config->ropes[0].kind, PHX_ROPE_YARN);
    assert_int_equal(config->ropes[0].original_max_positions, 64);
    assert_true(config->ropes[0].beta_fast == 16 && config->ropes[0].beta_slow == 1);
    assert_true(fabs(config->ropes[0].attention_factor - 0.5 * (0.1 * log(4) + 1)) < 1e-6);
    phx_config_destroy(config);

    const struct recipe gemma = {"gemma3", 6,
                                 .keys = {{"%s.attention.sliding_window", .number = 8},
                                          {"%s.rope.freq_base", .number = 1e6},
                                          {"%s.rope.freq_base_swa", .number = 5000}}};
    config = load(&gemma);
    assert_true(config->ropes[0].theta == 1e6 && config->ropes[1].theta == 5000);
    assert_true(config->layers[0].rope == 1 && config->layers[5].rope == 0);
    phx_config_destroy(config);
}

static void all_three_ends_are_read(void **state)
{
    (void)state;
    const struct recipe r = {"llama", 2,
                             .keys = {{"tokenizer.ggml.eos_token_id", .number = 7},
                                      {"tokenizer.ggml.eot_token_id", .number = 9},
                                      {"tokenizer.ggml.eom_token_id", .number = 8},
                                      {"tokenizer.ggml.bos_token_id", .number = 3}}};
    struct phx_config *config = load(&r);
    assert_int_equal(config->n_eos, 3);
    assert_int_equal(config->eos[1], 9);
    assert_int_equal(config->eos[2], 8);
    assert_int_equal(config->bos, 3);
    phx_config_destroy(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_changes_the_result_is_refused),
        cmocka_unit_test(windows_are_those_of_the_architecture_or_the_key),
        cmocka_unit_test(scores_are_scaled_as_the_architecture_does),
        cmocka_unit_test(rotations_are_scaled_as_the_file_says),
        cmocka_unit_test(all_three_ends_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
