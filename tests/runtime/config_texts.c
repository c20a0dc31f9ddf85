#include "tests/runtime/config_texts.h"

#include "tests/support/check.h"

#include <string.h>

#include <jansson.h>

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

const char *config_text(enum phx_family family)
{
    return bases[family];
}

char *config_text_changed(enum phx_family family, const char *changes)
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
