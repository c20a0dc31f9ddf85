/* Where a chat template and its tokens come from: folders, lists of templates, GGUF files, a file
 * in their place. What templates come to is test_template.c's. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/chat.h"
#include "runtime/gguf.h"
#include "runtime/tokenizer/buffer.h"
#include "tests/support/write_model.h"

#define LINE(name) name "|{{ bos_token }}|{{ eos_token }}|{{ messages[0].content }}"

/* What the model makes of one message. */
static void assert_renders(const char *model, const char *file,
                           const struct phx_tokenizer *tokenizer, const char *expected)
{
    struct phx_chat *chat;
    char *text;
    size_t bytes;
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "Hi");
    assert_ok(phx_chat_load(model, file, tokenizer, &chat));
    assert_ok(phx_chat_render(chat, messages, NULL, true, &text, &bytes));
    assert_int_equal(bytes, strlen(expected));
    assert_memory_equal(text, expected, bytes);
    free(text);
    json_decref(messages);
    phx_chat_destroy(chat);
}

/* ---- folders ---- */

#define CONFIG(template) "{\"bos_token\": \"<s>\", \"chat_template\": " template "}"
#define NAMED(name) "{\"name\": \"" name "\", \"template\": \"" LINE(name) "\"}"

static const struct row {
    const char *config;   /* tokenizer_config.json */
    const char *jinja;    /* chat_template.jinja, or NULL */
    const char *expected; /* the text; or the sentence, if `fails` */
    bool fails;
} rows[] = {
    {CONFIG("\"" LINE("one") "\""), NULL, "one|<s>||Hi", false},
    {"{\"bos_token\": null, \"eos_token\": {\"content\": \"</s>\", \"lstrip\": false}, "
     "\"chat_template\": \"" LINE("one") "\"}",
     NULL, "one||</s>|Hi", false},
    {CONFIG("[" NAMED("default") ", " NAMED("tool_use") "]"), NULL, "default|<s>||Hi", false},
    {CONFIG("[" NAMED("rag") ", " NAMED("tool_use") ", " NAMED("default") "]"), NULL,
     "default|<s>||Hi", false},
    {CONFIG("[" NAMED("default") "]"), LINE("file"), "file|<s>||Hi", false},
    {CONFIG("7"), LINE("file"), "file|<s>||Hi", false},
    {NULL, LINE("file"), "file|||Hi", false},
    {CONFIG("[" NAMED("rag") ", " NAMED("tool_use") "]"), NULL, "named \"default\"", true},
    {CONFIG("[]"), NULL, "named \"default\"", true},
    {CONFIG("[7, {\"name\": \"default\"}]"), NULL, "named \"default\"", true},
    {CONFIG("7"), NULL, "chat_template is neither a text nor", true},
    {CONFIG("null"), NULL, "has no chat template", true},
    {NULL, NULL, "has no chat template", true},
    {CONFIG("\"{{ bos_token\""), NULL, "tokenizer_config.json", true},
    {"{", NULL, "tokenizer_config.json", true},
};

static void test_folders(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *row = &rows[i];
        char *folder = test_folder_create(), file[512];
        struct phx_chat *chat;
        if (row->config != NULL) test_file_write_text(folder, "tokenizer_config.json", row->config);
        if (row->jinja != NULL) test_file_write_text(folder, "chat_template.jinja", row->jinja);
        test_file_write_text(folder, "own.jinja", LINE("own"));
        snprintf(file, sizeof file, "%s/own.jinja", folder);
        if (!row->fails) {
            assert_renders(folder, NULL, NULL, row->expected);
        } else {
            enum phx_status status = phx_chat_load(folder, NULL, NULL, &chat);
            assert_true(status != PHX_OK);
            if (strstr(phx_fail_sentence(), row->expected) == NULL)
                fail_msg("row %zu: %s", i, phx_fail_sentence());
            phx_fail_clear();
        }
        /* A file in its place, with the model's tokens. */
        bool broken = row->config != NULL && strcmp(row->config, "{") == 0;
        const char *tokens = strchr(row->fails ? "|<s>||Hi" : row->expected, '|');
        char expected[64];
        snprintf(expected, sizeof expected, "own%s", row->config != NULL ? tokens : "|||Hi");
        if (!broken) assert_renders(folder, file, NULL, expected);
        assert_fails(phx_chat_load(folder, "/nowhere/x.jinja", NULL, &chat), PHX_NOT_FOUND,
                     "/nowhere/x.jinja");
        test_folder_destroy(folder);
    }
}

/* ---- GGUF files ---- */

static void put(struct phx_bytes *out, const void *data, size_t n)
{
    assert_ok(phx_bytes_append(out, data, n));
}

static void put_string(struct phx_bytes *out, const char *text)
{
    uint64_t n = strlen(text);
    put(out, &n, 8);
    put(out, text, n);
}

static void put_key(struct phx_bytes *out, const char *key, uint32_t type)
{
    char name[64];
    snprintf(name, sizeof name, "tokenizer.%s", key);
    put_string(out, name);
    put(out, &type, 4);
}

static void put_text(struct phx_bytes *out, const char *key, const char *text)
{
    put_key(out, key, PHX_GGUF_STRING);
    put_string(out, text);
}

static void put_array(struct phx_bytes *out, const char *key, uint32_t type, uint64_t n)
{
    put_key(out, key, PHX_GGUF_ARRAY);
    put(out, &type, 4);
    put(out, &n, 8);
}

/* Pieces with scores; `template` may be NULL. */
static void write_gguf(const char *folder, const char *template)
{
    static const char *const tokens[] = {"<unk>", "<s>", "</s>", "Hi"};
    struct phx_bytes b = {0};
    uint64_t n_keys = template != NULL ? 8 : 7;
    put(&b, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16);
    put(&b, &n_keys, 8);
    put_text(&b, "ggml.model", "llama");
    put_array(&b, "ggml.tokens", PHX_GGUF_STRING, 4);
    for (int i = 0; i < 4; i++) put_string(&b, tokens[i]);
    put_array(&b, "ggml.token_type", PHX_GGUF_I32, 4);
    put(&b, (int32_t[]){2, 3, 3, 1}, 16);
    put_array(&b, "ggml.scores", PHX_GGUF_F32, 4);
    put(&b, (float[]){0, 0, 0, -1}, 16);
    put_key(&b, "ggml.bos_token_id", PHX_GGUF_U32);
    put(&b, &(uint32_t){1}, 4);
    put_key(&b, "ggml.eos_token_id", PHX_GGUF_U32);
    put(&b, &(uint32_t){2}, 4);
    put_text(&b, "chat_template.tool_use", LINE("tool_use"));
    if (template != NULL) put_text(&b, "chat_template", template);
    test_file_write(folder, "model.gguf", b.data, b.n);
    free(b.data);
}

static void test_gguf(void **state)
{
    (void)state;
    char *folder = test_folder_create(), model[512], file[512];
    struct phx_tokenizer *tokenizer;
    struct phx_chat *chat;
    snprintf(model, sizeof model, "%s/model.gguf", folder);
    snprintf(file, sizeof file, "%s/own.jinja", folder);
    test_file_write_text(folder, "own.jinja", LINE("own"));
    write_gguf(folder, LINE("its"));
    assert_ok(phx_tokenizer_load(model, &tokenizer));
    assert_renders(model, NULL, tokenizer, "its|<s>|</s>|Hi");
    assert_renders(model, file, tokenizer, "own|<s>|</s>|Hi");

    write_gguf(folder, "{% if %}");
    assert_fails(phx_chat_load(model, NULL, tokenizer, &chat), PHX_BAD_DATA, "model.gguf");
    write_gguf(folder, NULL);
    assert_fails(phx_chat_load(model, NULL, tokenizer, &chat), PHX_NOT_FOUND,
                 "has no chat template");
    assert_renders(model, file, tokenizer, "own|<s>|</s>|Hi");
    phx_tokenizer_destroy(tokenizer);
    test_folder_destroy(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
