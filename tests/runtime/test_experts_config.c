/* Mixtures of experts in a config.json: which layers have one, and how rows are sent. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/config.h"
#include "runtime/safetensors.h"

#define SIZES                                                                                      \
    "\"hidden_size\": 96, \"intermediate_size\": 160, \"num_hidden_layers\": 6,"                   \
    "\"num_attention_heads\": 12, \"num_key_value_heads\": 4, \"vocab_size\": 512,"                \
    "\"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 256"
#define MIXTRAL "{\"model_type\": \"mixtral\", " SIZES "%s}"
#define QWEN2 "{\"model_type\": \"qwen2_moe\", " SIZES "%s}"
#define QWEN3 "{\"model_type\": \"qwen3_moe\", " SIZES "%s}"

static enum phx_status parse(const char *base, const char *more, struct phx_config **out)
{
    char text[1024];
    snprintf(text, sizeof text, base, more);
    return phx_config_parse("config.json", text, strlen(text), NULL, 0, out);
}

static struct phx_config *parsed(const char *base, const char *more)
{
    struct phx_config *config = NULL;
    if (parse(base, more, &config) != PHX_OK) fail_msg("%s: %s", more, phx_fail_sentence());
    return config;
}

static void check_layer(const struct phx_config *c, int32_t layer, int64_t ffn, int32_t n_experts,
                        int64_t moe_ffn, int64_t shared_ffn)
{
    const struct phx_layer_shape *s = &c->layers[layer].shape;
    assert_int_equal(s->n_heads, 12);
    assert_int_equal(s->ffn, ffn);
    assert_int_equal(s->n_experts, n_experts);
    assert_int_equal(s->moe_ffn, moe_ffn);
    assert_int_equal(s->shared_ffn, shared_ffn);
    assert_int_equal(phx_config_dim(c, layer, PHX_DIM_EXPERTS), n_experts);
    assert_int_equal(phx_config_dim(c, layer, PHX_DIM_MOE_FFN), moe_ffn);
    assert_int_equal(phx_config_dim(c, layer, PHX_DIM_SHARED_FFN), shared_ffn);
}

static void absent_keys_have_known_values(void **state)
{
    (void)state;
    struct phx_config *c = parsed(MIXTRAL, "");
    check_layer(c, 5, 0, 8, 160, 0);
    assert_true(c->n_chosen == 2 && c->normalize_choice);
    assert_false(c->qkv_bias || c->qk_norm || c->expert_parallel);
    assert_int_equal(c->layers[0].window, 0);
    phx_config_destroy(c);
    c = parsed(QWEN2, "");
    check_layer(c, 5, 0, 60, 1408, 5632);
    assert_true(c->n_chosen == 4 && !c->normalize_choice);
    assert_true(c->qkv_bias && !c->o_bias && !c->qk_norm);
    assert_int_equal(c->layers[0].window, 0);
    phx_config_destroy(c);
    c = parsed(QWEN3, "");
    check_layer(c, 0, 0, 128, 768, 0);
    assert_true(c->n_chosen == 8 && !c->normalize_choice);
    assert_true(c->qk_norm && !c->qkv_bias);
    assert_int_equal(c->layers[0].shape.head_dim, 8);
    phx_config_destroy(c);
}

static void keys_are_understood(void **state)
{
    (void)state;
    struct phx_config *c = parsed(MIXTRAL, ", \"num_local_experts\": 5, \"num_experts_per_tok\": 3,"
                                           " \"sliding_window\": 32");
    check_layer(c, 2, 0, 5, 160, 0);
    assert_true(c->n_chosen == 3 && c->layers[5].window == 32);
    phx_config_destroy(c);
    c = parsed(QWEN2, ", \"num_experts\": 7, \"num_experts_per_tok\": 7, \"qkv_bias\": false,"
                      " \"moe_intermediate_size\": 24, \"norm_topk_prob\": true,"
                      " \"shared_expert_intermediate_size\": 56, \"use_sliding_window\": true,"
                      " \"sliding_window\": 32, \"max_window_layers\": 3");
    check_layer(c, 0, 0, 7, 24, 56);
    assert_true(c->n_chosen == 7 && c->normalize_choice && !c->qkv_bias);
    for (int32_t l = 0; l < 6; l++)
        assert_int_equal(c->layers[l].window, l == 0 || l == 2 ? 32 : 0);
    phx_config_destroy(c);
    c = parsed(QWEN3,
               ", \"num_local_experts\": 17, \"num_experts\": 17, \"use_sliding_window\": true,"
               " \"sliding_window\": 32, \"attention_bias\": true");
    check_layer(c, 0, 0, 17, 768, 0);
    assert_true(c->layers[0].window == 32 && c->qkv_bias && c->o_bias);
    phx_config_destroy(c);
}

/* Layer l has experts if (l + 1) % decoder_sparse_step == 0 and mlp_only_layers has no l. */
static void some_layers_have_none(void **state)
{
    (void)state;
    struct phx_config *c =
        parsed(QWEN3, ", \"decoder_sparse_step\": 2, \"mlp_only_layers\": [3, 0]");
    for (int32_t l = 0; l < 6; l++) {
        bool experts = l == 1 || l == 5;
        check_layer(c, l, experts ? 0 : 160, experts ? 128 : 0, experts ? 768 : 0, 0);
    }
    phx_config_destroy(c);
    c = parsed(QWEN2, ", \"num_experts\": 0");
    for (int32_t l = 0; l < 6; l++) check_layer(c, l, 160, 0, 0, 0);
    phx_config_destroy(c);
}

static void refusals_say_why(void **state)
{
    (void)state;
    static const struct {
        const char *base, *more;
        enum phx_status status;
        const char *words[3];
    } rows[] = {
        {MIXTRAL, ", \"num_local_experts\": 0", PHX_BAD_DATA, {"num_local_experts", "0"}},
        {MIXTRAL, ", \"num_local_experts\": 2000", PHX_BAD_DATA, {"num_local_experts", "1024"}},
        {MIXTRAL, ", \"num_experts_per_tok\": 9", PHX_BAD_DATA, {"num_experts_per_tok", "9", "8"}},
        {MIXTRAL, ", \"num_experts_per_tok\": 0", PHX_BAD_DATA, {"num_experts_per_tok", "0"}},
        {QWEN3, ", \"num_experts_per_tok\": 33", PHX_BAD_DATA, {"num_experts_per_tok", "33", "32"}},
        {QWEN3, ", \"num_experts\": 4", PHX_BAD_DATA, {"4 experts", "8 of them"}},
        {QWEN3,
         ", \"num_experts\": 16, \"num_local_experts\": 8",
         PHX_BAD_DATA,
         {"num_experts is 16", "num_local_experts is 8"}},
        {QWEN3, ", \"moe_intermediate_size\": 0", PHX_BAD_DATA, {"moe_intermediate_size", "0"}},
        {QWEN3, ", \"moe_intermediate_size\": 1000000", PHX_BAD_DATA, {"128 experts", "1000000"}},
        {QWEN3, ", \"mlp_only_layers\": [6]", PHX_BAD_DATA, {"mlp_only_layers[0]", "6", "0 to 5"}},
        {QWEN3, ", \"mlp_only_layers\": [\"a\"]", PHX_BAD_DATA, {"mlp_only_layers[0]", "a"}},
        {QWEN3, ", \"decoder_sparse_step\": 0", PHX_BAD_DATA, {"decoder_sparse_step", "0"}},
        {QWEN2,
         ", \"shared_expert_intermediate_size\": -1",
         PHX_BAD_DATA,
         {"shared_expert_intermediate_size", "-1"}},
        {"{\"model_type\": \"llama\", " SIZES "%s}",
         ", \"num_experts\": 4",
         PHX_UNSUPPORTED,
         {"num_experts", "4", "only 0"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_config *config = NULL;
        phx_fail_clear();
        if (parse(rows[i].base, rows[i].more, &config) != rows[i].status)
            fail_msg("%s: %s", rows[i].more, phx_fail_sentence());
        for (int w = 0; w < 3 && rows[i].words[w] != NULL; w++)
            if (strstr(phx_fail_sentence(), rows[i].words[w]) == NULL)
                fail_msg("%s: no %s in: %s", rows[i].more, rows[i].words[w], phx_fail_sentence());
        assert_null(config);
    }
}

/* Of the fixtures: all numbers of the files. */
static void parameters_are_those_of_the_files(void **state)
{
    (void)state;
    static const char *const names[] = {"mixtral-8q2kv-4experts", "qwen3moe-12q4kv-8experts"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        struct phx_config *config = NULL;
        struct phx_checkpoint *file = NULL;
        int64_t numbers = 0;
        snprintf(path, sizeof path, "%s/hf/%s", PHX_TEST_DATA, names[i]);
        assert_ok(phx_config_load(path, &config));
        snprintf(path, sizeof path, "%s/hf/%s/model.safetensors", PHX_TEST_DATA, names[i]);
        assert_ok(phx_checkpoint_open(path, &file));
        for (size_t t = 0; t < phx_checkpoint_count(file); t++)
            numbers += (int64_t)phx_checkpoint_at(file, t)->bytes / 2;
        assert_int_equal(phx_config_parameters(config), numbers);
        phx_checkpoint_destroy(file);
        phx_config_destroy(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_have_known_values),
        cmocka_unit_test(keys_are_understood),
        cmocka_unit_test(some_layers_have_none),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(parameters_are_those_of_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
