#include "runtime/chat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "runtime/gguf.h"
#include "runtime/json.h"
#include "runtime/template/template.h"

struct phx_chat {
    struct phx_template *tmpl;
    char *source;
    json_t *tokens; /* bos_token, ...: variables of every rendering */
};

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a chat template");
}

static char *join(const char *model, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", model, name) < 0 ? NULL : path;
}

/* ---- the template ---- */

static enum phx_status parse(struct phx_chat *chat, const char *source, const char *text, size_t n)
{
    chat->source = strdup(source);
    if (chat->source == NULL) return no_memory();
    return phx_template_parse(source, text, n, &chat->tmpl);
}

/* PHX_NOT_FOUND if there is no such file. */
static enum phx_status parse_file(struct phx_chat *chat, const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return phx_fail(errno == ENOENT ? PHX_NOT_FOUND : PHX_IO, "%s: %s", path, strerror(errno));
    size_t limit = PHX_TEMPLATE_SOURCE_BYTES + 1; /* one more: then it is refused as too long */
    char *text = malloc(limit);
    enum phx_status status = PHX_OK;
    if (text == NULL) {
        status = no_memory();
    } else {
        size_t n = fread(text, 1, limit, file);
        status = ferror(file) ? phx_fail(PHX_IO, "%s: cannot be read", path)
                              : parse(chat, path, text, n);
    }
    free(text);
    fclose(file);
    return status;
}

/* chat_template: a text, or several with names. */
static const json_t *default_of(const json_t *value)
{
    const json_t *one;
    size_t i;
    json_array_foreach(value, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name != NULL && strcmp(name, "default") == 0) return json_object_get(one, "template");
    }
    return value;
}

/* ---- a folder ---- */

static enum phx_status take_tokens(struct phx_chat *chat, const json_t *config)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *token = json_object_get(config, names[i]);
        if (json_is_object(token)) token = json_object_get(token, "content");
        if (json_is_string(token) && json_object_set(chat->tokens, names[i], token) != 0)
            return no_memory();
    }
    return PHX_OK;
}

static enum phx_status load_config(struct phx_chat *chat, const char *path)
{
    json_t *config = NULL;
    enum phx_status status = phx_json_load(path, &config);
    if (status == PHX_NOT_FOUND) {
        phx_fail_clear();
        return PHX_OK;
    }
    PHX_TRY(status);
    PHX_TRY_GOTO(take_tokens(chat, config), done);
    const json_t *text = default_of(json_object_get(config, "chat_template"));
    if (chat->tmpl == NULL && json_is_string(text))
        status = parse(chat, path, json_string_value(text), json_string_length(text));
done:
    json_decref(config);
    return status;
}

static enum phx_status load_folder(struct phx_chat *chat, const char *model)
{
    char *template_path = join(model, "chat_template.jinja");
    char *config_path = join(model, "tokenizer_config.json");
    enum phx_status status = PHX_OK;
    if (template_path == NULL || config_path == NULL) {
        status = no_memory();
        goto done;
    }
    if (chat->tmpl == NULL) status = parse_file(chat, template_path);
    if (status == PHX_NOT_FOUND) {
        phx_fail_clear();
        status = PHX_OK;
    }
    if (status == PHX_OK) status = load_config(chat, config_path);
done:
    free(template_path);
    free(config_path);
    return status;
}

/* ---- a GGUF file ---- */

static enum phx_status take_gguf_token(struct phx_chat *chat, const struct phx_gguf *gguf,
                                       const char *key, const char *name)
{
    const struct phx_gguf_value *tokens = NULL;
    int64_t id = -1;
    PHX_TRY(phx_gguf_strings(gguf, "tokenizer.ggml.tokens", &tokens));
    PHX_TRY(phx_gguf_int(gguf, key, 0, INT32_MAX, &id));
    if (id < 0 || tokens == NULL || (uint64_t)id >= tokens->count) return PHX_OK;
    const unsigned char *at = tokens->data;
    struct phx_gguf_string text = phx_gguf_next_string(&at);
    for (int64_t i = 0; i < id; i++) text = phx_gguf_next_string(&at);
    json_t *json = json_stringn(text.data, text.bytes);
    if (json == NULL)
        return phx_fail(PHX_BAD_DATA, "%s: token %lld is not UTF-8", phx_gguf_path(gguf),
                        (long long)id);
    return json_object_set_new(chat->tokens, name, json) == 0 ? PHX_OK : no_memory();
}

static enum phx_status load_gguf(struct phx_chat *chat, const char *model)
{
    static const char *const names[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                           {"tokenizer.ggml.eos_token_id", "eos_token"},
                                           {"tokenizer.ggml.unknown_token_id", "unk_token"},
                                           {"tokenizer.ggml.padding_token_id", "pad_token"}};
    struct phx_gguf *gguf = NULL;
    struct phx_gguf_string text = {NULL, 0};
    enum phx_status status;
    PHX_TRY(phx_gguf_open(model, &gguf));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        PHX_TRY_GOTO(take_gguf_token(chat, gguf, names[i][0], names[i][1]), done);
    PHX_TRY_GOTO(phx_gguf_text(gguf, "tokenizer.chat_template", &text), done);
    if (chat->tmpl == NULL && text.data != NULL) status = parse(chat, model, text.data, text.bytes);
done:
    phx_gguf_destroy(gguf);
    return status;
}

/* ---- */

static enum phx_status load(struct phx_chat *chat, const char *model, const char *file)
{
    if (file != NULL) PHX_TRY(parse_file(chat, file));
    PHX_TRY(phx_gguf_is(model) ? load_gguf(chat, model) : load_folder(chat, model));
    if (chat->tmpl != NULL) return PHX_OK;
    return phx_fail(PHX_NOT_FOUND,
                    "%s: the model has no chat template: give one with --chat-template FILE",
                    model);
}

enum phx_status phx_chat_load(const char *model, const char *file, struct phx_chat **out)
{
    struct phx_chat *chat = calloc(1, sizeof *chat);
    if (chat == NULL) return no_memory();
    chat->tokens = json_object();
    enum phx_status status = chat->tokens != NULL ? load(chat, model, file) : no_memory();
    if (status != PHX_OK) {
        phx_chat_destroy(chat);
        return status;
    }
    *out = chat;
    return PHX_OK;
}

void phx_chat_destroy(struct phx_chat *chat)
{
    if (chat == NULL) return;
    phx_template_destroy(chat->tmpl);
    json_decref(chat->tokens);
    free(chat->source);
    free(chat);
}

const char *phx_chat_source(const struct phx_chat *chat)
{
    return chat->source;
}

enum phx_status phx_chat_render(const struct phx_chat *chat, const json_t *messages,
                                const json_t *arguments, bool add_generation_prompt,
                                char **out_text, size_t *out_bytes)
{
    json_t *variables = json_object();
    /* Deep copies: reference counts are not for several threads. What transformers sets is set
     * whether there is any or not. */
    bool ok =
        variables != NULL &&
        (arguments == NULL || json_object_update_new(variables, json_deep_copy(arguments)) == 0) &&
        json_object_update_new(variables, json_deep_copy(chat->tokens)) == 0 &&
        json_object_set_new(variables, "messages", json_deep_copy(messages)) == 0 &&
        json_object_set_new(variables, "tools", json_null()) == 0 &&
        json_object_set_new(variables, "documents", json_null()) == 0 &&
        json_object_set_new(variables, "add_generation_prompt",
                            json_boolean(add_generation_prompt)) == 0;
    enum phx_status status =
        ok ? phx_template_render(chat->tmpl, variables, time(NULL), out_text, out_bytes)
           : no_memory();
    json_decref(variables);
    return status;
}
