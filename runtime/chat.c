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
    struct phx_chat_source source;
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

static enum phx_status take(struct phx_chat_source *source, const char *name, const char *text,
                            size_t bytes)
{
    source->name = strdup(name);
    source->text = malloc(bytes + 1);
    if (source->name == NULL || source->text == NULL) return no_memory();
    memcpy(source->text, text, bytes);
    source->bytes = bytes;
    return PHX_OK;
}

/* PHX_NOT_FOUND if there is no such file. */
static enum phx_status take_file(struct phx_chat_source *source, const char *path)
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
                              : take(source, path, text, n);
    }
    free(text);
    fclose(file);
    return status;
}

/* chat_template: a text, or several with names. */
static enum phx_status take_value(struct phx_chat_source *source, const char *path,
                                  const json_t *value)
{
    const json_t *one, *chosen = value;
    size_t i;
    json_array_foreach(value, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name != NULL && strcmp(name, "default") == 0) chosen = json_object_get(one, "template");
    }
    if (value == NULL || json_is_null(value)) return PHX_OK;
    if (json_is_string(chosen))
        return take(source, path, json_string_value(chosen), json_string_length(chosen));
    return phx_fail(PHX_NOT_FOUND,
                    "%s: chat_template is neither a text nor several of which one is named "
                    "\"default\": give one with --chat-template FILE",
                    path);
}

/* ---- a folder ---- */

static enum phx_status take_tokens(struct phx_chat_source *source, const json_t *config)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *token = json_object_get(config, names[i]);
        if (json_is_object(token)) token = json_object_get(token, "content");
        if (json_is_string(token) && json_object_set(source->tokens, names[i], token) != 0)
            return no_memory();
    }
    return PHX_OK;
}

static enum phx_status take_config(struct phx_chat_source *source, const char *path)
{
    json_t *config = NULL;
    enum phx_status status = phx_json_load(path, &config);
    if (status == PHX_NOT_FOUND) {
        phx_fail_clear();
        return PHX_OK;
    }
    PHX_TRY(status);
    status = take_tokens(source, config);
    if (status == PHX_OK && source->text == NULL)
        status = take_value(source, path, json_object_get(config, "chat_template"));
    json_decref(config);
    return status;
}

static enum phx_status take_folder(struct phx_chat_source *source, const char *model)
{
    char *template_path = join(model, "chat_template.jinja");
    char *config_path = join(model, "tokenizer_config.json");
    enum phx_status status = PHX_OK;
    if (template_path == NULL || config_path == NULL) {
        status = no_memory();
        goto done;
    }
    if (source->text == NULL) status = take_file(source, template_path);
    if (status == PHX_NOT_FOUND) {
        phx_fail_clear();
        status = PHX_OK;
    }
    if (status == PHX_OK) status = take_config(source, config_path);
done:
    free(template_path);
    free(config_path);
    return status;
}

/* ---- a GGUF file ---- */

static enum phx_status take_gguf_token(struct phx_chat_source *source, const struct phx_gguf *gguf,
                                       const struct phx_tokenizer *tokenizer, const char *key,
                                       const char *name)
{
    int64_t id = -1;
    char *text;
    size_t bytes;
    PHX_TRY(phx_gguf_int(gguf, key, 0, INT32_MAX, &id));
    if (id < 0 || id >= phx_tokenizer_size(tokenizer)) return PHX_OK;
    PHX_TRY(phx_tokenizer_bytes(tokenizer, (int32_t)id, &text, &bytes));
    json_t *json = json_stringn(text, bytes);
    free(text);
    if (json == NULL)
        return phx_fail(PHX_BAD_DATA, "%s: token %lld is not UTF-8", phx_gguf_path(gguf),
                        (long long)id);
    return json_object_set_new(source->tokens, name, json) == 0 ? PHX_OK : no_memory();
}

static enum phx_status take_gguf(struct phx_chat_source *source, const char *model,
                                 const struct phx_tokenizer *tokenizer)
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
        PHX_TRY_GOTO(take_gguf_token(source, gguf, tokenizer, names[i][0], names[i][1]), done);
    PHX_TRY_GOTO(phx_gguf_text(gguf, "tokenizer.chat_template", &text), done);
    if (source->text == NULL && text.data != NULL)
        status = take(source, model, text.data, text.bytes);
done:
    phx_gguf_destroy(gguf);
    return status;
}

/* ---- */

static enum phx_status find(struct phx_chat_source *source, const char *model, const char *file,
                            const struct phx_tokenizer *tokenizer)
{
    source->tokens = json_object();
    if (source->tokens == NULL) return no_memory();
    if (file != NULL) PHX_TRY(take_file(source, file));
    PHX_TRY(phx_gguf_is(model) ? take_gguf(source, model, tokenizer) : take_folder(source, model));
    if (source->text != NULL) return PHX_OK;
    return phx_fail(PHX_NOT_FOUND,
                    "%s: the model has no chat template: give one with --chat-template FILE",
                    model);
}

enum phx_status phx_chat_source_find(const char *model, const char *file,
                                     const struct phx_tokenizer *tokenizer,
                                     struct phx_chat_source *out)
{
    *out = (struct phx_chat_source){0};
    enum phx_status status = find(out, model, file, tokenizer);
    if (status != PHX_OK) phx_chat_source_free(out);
    return status;
}

void phx_chat_source_free(struct phx_chat_source *source)
{
    json_decref(source->tokens);
    free(source->name);
    free(source->text);
    *source = (struct phx_chat_source){0};
}

enum phx_status phx_chat_load(const char *model, const char *file,
                              const struct phx_tokenizer *tokenizer, struct phx_chat **out)
{
    struct phx_chat *chat = calloc(1, sizeof *chat);
    if (chat == NULL) return no_memory();
    struct phx_chat_source *source = &chat->source;
    enum phx_status status = phx_chat_source_find(model, file, tokenizer, source);
    if (status == PHX_OK)
        status = phx_template_parse(source->name, source->text, source->bytes, &chat->tmpl);
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
    phx_chat_source_free(&chat->source);
    free(chat);
}

const char *phx_chat_source(const struct phx_chat *chat)
{
    return chat->source.name;
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
        json_object_update_new(variables, json_deep_copy(chat->source.tokens)) == 0 &&
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
