/* The sentence for every config.json and generation_config.json that is not taken. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/runtime/config_texts.h"
#include "tests/support/write_model.h"

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
        char *text = config_text_changed(r->family, r->changes);
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
        const char *text = rows[i].text ? rows[i].text : config_text(PHX_LLAMA);
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
    test_file_write_text(folder, "config.json", config_text(PHX_LLAMA));
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
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(broken_texts_are_refused),
        cmocka_unit_test(files_are_named_in_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
