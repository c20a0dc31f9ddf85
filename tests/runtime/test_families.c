/* What the rows of runtime/families.c make of config.json, and the rotations that came with them.
 * The models themselves are in tests/data/hf. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/dtype.h"
#include "runtime/config.h"

#define SIZES                                                                                      \
    "\"hidden_size\": 96, \"intermediate_size\": 160, \"num_hidden_layers\": 6,"                   \
    "\"num_attention_heads\": 12, \"num_key_value_heads\": 4, \"vocab_size\": 512,"                \
    "\"rms_norm_eps\": 1e-6, \"max_position_embeddings\": 256"

static enum phx_status parse(const char *model_type, const char *more, struct phx_config **out)
{
    char text[2048];
    snprintf(text, sizeof text, "{\"model_type\": \"%s\", %s%s%s}", model_type, SIZES,
             *more ? ", " : "", more);
    return phx_config_parse("config.json", text, strlen(text), NULL, 0, out);
}

static struct phx_config *parsed(const char *model_type, const char *more)
{
    struct phx_config *config = NULL;
    if (parse(model_type, more, &config) != PHX_OK)
        fail_msg("%s with %s: %s", model_type, more, phx_fail_sentence());
    return config;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-6 * fabs(b);
}

static void check_windows(const struct phx_config *c, const int32_t *windows)
{
    for (int l = 0; l < 6; l++) assert_int_equal(c->layers[l].window, windows[l]);
}

static void phi3(void **state)
{
    (void)state;
    struct phx_config *c = parsed("phi3", "");
    assert_true(c->fused && !c->tied && !c->qkv_bias && c->pre_norm && !c->post_norm);
    assert_int_equal(phx_config_rotated(c, 5), 8);
    check_windows(c, (const int32_t[]){0, 0, 0, 0, 0, 0});
    phx_config_destroy(c);
    c = parsed("phi3", "\"partial_rotary_factor\": 0.75, \"sliding_window\": 7");
    assert_int_equal(phx_config_rotated(c, 0), 6);
    check_windows(c, (const int32_t[]){7, 7, 7, 7, 7, 7});
    phx_config_destroy(c);
}

static void granite(void **state)
{
    (void)state;
    struct phx_config *c = parsed("granite", "");
    assert_true(c->attention_scale == 1 && c->embed_scale == 1 && c->residual_scale == 1);
    assert_true(c->logits_scale == 1);
    phx_config_destroy(c);
    c = parsed("granite",
               "\"attention_multiplier\": 0.0078125, \"embedding_multiplier\": 12,"
               "\"residual_multiplier\": 0.22, \"logits_scaling\": 8, \"mlp_bias\": true");
    assert_true(c->attention_scale == 0.0078125f && c->embed_scale == 12);
    assert_true(c->residual_scale == 0.22f && c->logits_scale == 0.125f && c->mlp_bias);
    phx_config_destroy(c);
}

static void smollm3(void **state)
{
    (void)state;
    struct phx_config *c = parsed("smollm3", "");
    assert_true(c->tied && c->ropes[0].theta == 2e6);
    for (int l = 0; l < 6; l++) assert_int_equal(phx_config_rotated(c, l), l == 3 ? 0 : 8);
    phx_config_destroy(c);
    c = parsed("smollm3", "\"no_rope_layers\": [1, 0, 1, 1, 1, 0], \"use_sliding_window\": true,"
                          "\"sliding_window\": 9");
    for (int l = 0; l < 6; l++)
        assert_int_equal(phx_config_rotated(c, l), l == 1 || l == 5 ? 0 : 8);
    check_windows(c, (const int32_t[]){0, 9, 0, 0, 0, 9});
    phx_config_destroy(c);
}

static void gemma2(void **state)
{
    (void)state;
    struct phx_config *c = parsed("gemma2", "");
    assert_true(c->tied && c->post_norm && c->pre_norm && c->norm_offset == 1 && !c->qk_norm);
    assert_int_equal(c->activation, PHX_GELU_TANH);
    assert_int_equal(c->layers[0].shape.head_dim, 256);
    assert_true(c->attention_soft_cap == 50 && c->logits_soft_cap == 30);
    assert_true(c->attention_scale == 0.0625f && near((double)c->embed_scale, sqrt(96)));
    check_windows(c, (const int32_t[]){4096, 0, 4096, 0, 4096, 0});
    phx_config_destroy(c);
    c = parsed("gemma2", "\"attn_logit_softcapping\": null, \"final_logit_softcapping\": 7.5,"
                         "\"query_pre_attn_scalar\": 144, \"sliding_window\": 11,"
                         "\"hidden_act\": \"silu\", \"hidden_activation\": \"gelu_pytorch_tanh\"");
    assert_true(c->attention_soft_cap == 0 && c->logits_soft_cap == 7.5f);
    assert_true(near((double)c->attention_scale, 1.0 / 12));
    check_windows(c, (const int32_t[]){11, 0, 11, 0, 11, 0});
    phx_config_destroy(c);
}

/* The older style of published files, and the newer one. */
static void gemma3(void **state)
{
    (void)state;
    static const char *const styles[] = {
        "\"sliding_window\": 9, \"sliding_window_pattern\": 3, \"rope_theta\": 2e6,"
        "\"rope_local_base_freq\": 5000, \"rope_scaling\": {\"rope_type\": \"linear\","
        "\"factor\": 8}",
        "\"sliding_window\": 9, \"_sliding_window_pattern\": 3, \"rope_parameters\": {"
        "\"full_attention\": {\"rope_theta\": 2e6, \"rope_type\": \"linear\", \"factor\": 8},"
        "\"sliding_attention\": {\"rope_theta\": 5000, \"rope_type\": \"default\"}}"};
    for (int s = 0; s < 2; s++) {
        struct phx_config *c = parsed("gemma3_text", styles[s]);
        check_windows(c, (const int32_t[]){9, 9, 0, 9, 9, 0});
        assert_true(c->qk_norm && !c->qk_norm_all && c->attention_soft_cap == 0);
        assert_true(c->ropes[0].kind == PHX_ROPE_LINEAR && c->ropes[0].factor == 8);
        assert_true(c->ropes[0].theta == 2e6 && c->ropes[1].theta == 5000);
        assert_int_equal(c->ropes[1].kind, PHX_ROPE_DEFAULT);
        for (int l = 0; l < 6; l++) assert_int_equal(c->layers[l].rope, l % 3 == 2 ? 0 : 1);
        phx_config_destroy(c);
    }
    struct phx_config *c = parsed("gemma3_text", "");
    assert_true(c->ropes[0].theta == 1e6 && c->ropes[1].theta == 1e4);
    check_windows(c, (const int32_t[]){4096, 4096, 4096, 4096, 4096, 0});
    phx_config_destroy(c);
}

static void olmo2(void **state)
{
    (void)state;
    struct phx_config *c = parsed("olmo2", "");
    assert_true(c->qk_norm && c->qk_norm_all && !c->pre_norm && c->post_norm && !c->tied);
    assert_int_equal(phx_config_layer_sums(c), 3);
    phx_config_destroy(c);
}

/* ---- rotations ---- */

static int ulps(float a, float b)
{
    return abs((int)(phx_bits_from_f32(a) - phx_bits_from_f32(b)));
}

#define YARN(keys) "\"rope_scaling\": {\"rope_type\": \"yarn\", " keys "}"
#define LONGROPE                                                                                   \
    "\"head_dim\": 16, \"partial_rotary_factor\": 0.75, \"original_max_position_embeddings\":"     \
    "4096, \"rope_scaling\": {\"type\": \"longrope\","                                             \
    "\"short_factor\": [1, 1.25, 1.5, 1.75, 2, 2.25], \"long_factor\": [2, 5.5, 9, 12.5, 16,"      \
    "19.5], \"factor\": 32}"

/* Values of the functions of transformers 5.24; a few units in the last place are theirs. */
static const struct {
    const char *model_type, *more;
    int64_t context;
    float factor;
    struct {
        int i;
        float value;
    } expected[8];
} rotations[] = {
    {"qwen2",
     "\"head_dim\": 128, \"rope_theta\": 1e6, " YARN(
         "\"factor\": 4, \"original_max_position_embeddings\": 32768"),
     0,
     1.13862944f,
     {{0, 1},
      {1, 0.805842221f},
      {16, 0.0316227786f},
      {31, 0.000802959781f},
      {32, 0.000602941145f},
      {33, 0.000450323569f},
      {48, 7.90569356e-06f},
      {63, 3.10234441e-07f}}},
    {"qwen2",
     "\"head_dim\": 64, " YARN(
         "\"factor\": 8, \"original_max_position_embeddings\": 4096, \"beta_fast\": 16,"
         "\"beta_slow\": 2, \"attention_factor\": 1.25, \"truncate\": false"),
     0,
     1.25f,
     {{0, 1},
      {8, 0.100000001f},
      {15, 0.00991207734f},
      {16, 0.00622188905f},
      {17, 0.00375754735f},
      {24, 0.000125000006f},
      {31, 1.66690188e-05f}}},
    {"phi3",
     LONGROPE,
     4096,
     1.19023807f,
     {{0, 1}, {1, 0.172354758f}, {3, 0.00571428565f}, {5, 0.000206292883f}}},
    {"phi3",
     LONGROPE,
     4097,
     1.19023807f,
     {{0, 0.5f}, {1, 0.0391715392f}, {3, 0.00079999998f}, {5, 2.38030243e-05f}}},
    {"qwen2",
     "\"head_dim\": 128, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}",
     0,
     1,
     {{0, 1}, {1, 0.865964353f}, {33, 0.00865964312f}, {63, 0.000115478193f}}},
};

static void frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof rotations / sizeof *rotations; r++) {
        float inv_freq[64], factor = 0;
        struct phx_config *c = parsed(rotations[r].model_type, rotations[r].more);
        if (rotations[r].context != 0) c->context = rotations[r].context;
        phx_config_inv_freq(c, 2, inv_freq, &factor);
        assert_true(ulps(factor, rotations[r].factor) <= 1);
        for (int k = 0; k < 8 && rotations[r].expected[k].value != 0; k++) {
            float found = inv_freq[rotations[r].expected[k].i],
                  expected = rotations[r].expected[k].value;
            if (ulps(found, expected) > 16)
                fail_msg("row %zu: inv_freq[%d] is %.9g, not %.9g", r, rotations[r].expected[k].i,
                         (double)found, (double)expected);
        }
        phx_config_destroy(c);
    }
}

/* ---- refusals ---- */

static const struct {
    const char *model_type, *more;
    enum phx_status status;
    const char *words[2];
} refusals[] = {
    {"phi3", "\"partial_rotary_factor\": 0.4", PHX_UNSUPPORTED, {"3 of the 8", "even"}},
    {"phi3",
     "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [1]}",
     PHX_BAD_DATA,
     {"rope_scaling.short_factor has 1 numbers", "4"}},
    {"phi3",
     "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1, \"x\", 1],"
     "\"long_factor\": [1, 1, 1, 1]}",
     PHX_BAD_DATA,
     {"short_factor[2]", "\"x\""}},
    {"phi3",
     "\"rope_scaling\": {\"type\": \"yarn\", \"short_factor\": [1, 1, 1, 1]}",
     PHX_UNSUPPORTED,
     {"short_factor", "yarn"}},
    {"llama", "\"attention_multiplier\": 0.5", PHX_UNSUPPORTED, {"attention_multiplier"}},
    {"llama", "\"no_rope_layers\": [1]", PHX_UNSUPPORTED, {"no_rope_layers"}},
    {"granite", "\"logits_scaling\": 0", PHX_BAD_DATA, {"logits_scaling"}},
    {"granite", "\"attn_logit_softcapping\": 50", PHX_UNSUPPORTED, {"attn_logit_softcapping"}},
    {"smollm3", "\"no_rope_layers\": [1, 1]", PHX_BAD_DATA, {"no_rope_layers has 2", "6"}},
    {"smollm3", "\"no_rope_layers\": [1, 1, 1, 1, 1, 2]", PHX_BAD_DATA, {"[5] is 2", "0 or 1"}},
    {"gemma2", "\"hidden_activation\": \"relu\"", PHX_UNSUPPORTED, {"hidden_activation relu"}},
    {"gemma2", "\"query_pre_attn_scalar\": -1", PHX_BAD_DATA, {"query_pre_attn_scalar"}},
    {"gemma2", "\"use_bidirectional_attention\": true", PHX_UNSUPPORTED, {"bidirectional"}},
    {"gemma2", "\"rope_local_base_freq\": 1e4", PHX_UNSUPPORTED, {"rope_local_base_freq"}},
    {"gemma3_text",
     "\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1e6, \"beta\": 2}}",
     PHX_UNSUPPORTED,
     {"rope_parameters.full_attention.beta"}},
    {"qwen2",
     "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}, \"rope_theta\": 1",
     PHX_BAD_DATA,
     {"yarn", "rope_theta"}},
    {"gemma3", "", PHX_UNSUPPORTED, {"gemma3 ", "gemma3_text"}},
};

static void refusals_say_why(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof refusals / sizeof *refusals; r++) {
        struct phx_config *config = NULL;
        enum phx_status status = parse(refusals[r].model_type, refusals[r].more, &config);
        if (status != refusals[r].status)
            fail_msg("%s with %s: status %d", refusals[r].model_type, refusals[r].more,
                     (int)status);
        for (int w = 0; w < 2 && refusals[r].words[w]; w++)
            if (!strstr(phx_fail_sentence(), refusals[r].words[w]))
                fail_msg("%s: no \"%s\" in: %s", refusals[r].more, refusals[r].words[w],
                         phx_fail_sentence());
        phx_fail_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi3),
        cmocka_unit_test(granite),
        cmocka_unit_test(smollm3),
        cmocka_unit_test(gemma2),
        cmocka_unit_test(gemma3),
        cmocka_unit_test(olmo2),
        cmocka_unit_test(frequencies_are_those_of_transformers),
        cmocka_unit_test(refusals_say_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
