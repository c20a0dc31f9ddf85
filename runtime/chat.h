/// \file chat.h
/// A model's chat template and the tokens it names: messages -> the text that the model continues.
///
/// The template is, in this order: the file that is given; chat_template.jinja of the folder;
/// chat_template of its tokenizer_config.json (of several, the one named "default"); the key
/// tokenizer.chat_template of a GGUF file.
#ifndef PHX_RUNTIME_CHAT_H
#define PHX_RUNTIME_CHAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/tokenizer.h"

/// The template as it is written, and what it may ask for.
struct phx_chat_source {
    char *name; ///< where it comes from, for messages
    char *text; ///< [bytes]
    size_t bytes;
    json_t *tokens; ///< bos_token, ...: variables of every rendering
};
/// `model` is a folder or a GGUF file, `file` a template in its place or NULL; `tokenizer` is the
/// model's, which a folder can do without. PHX_NOT_FOUND if the model has no template; on failure
/// there is nothing to free.
enum phx_status phx_chat_source_find(const char *model, const char *file,
                                     const struct phx_tokenizer *tokenizer,
                                     struct phx_chat_source *out);
void phx_chat_source_free(struct phx_chat_source *source);

/// Immutable: several threads may render at once.
struct phx_chat;

/// As phx_chat_source_find(), then as phx_template_parse().
enum phx_status phx_chat_load(const char *model, const char *file,
                              const struct phx_tokenizer *tokenizer, struct phx_chat **out);
void phx_chat_destroy(struct phx_chat *chat);
/// Where the template comes from, for messages.
const char *phx_chat_source(const struct phx_chat *chat);

/// Exactly the text that transformers' apply_chat_template() makes of `messages`, an array of
/// objects. `arguments` (an object, or NULL) are further variables; they replace none of the
/// others. It may hold the BOS token: encode it without special ones. As phx_template_render().
enum phx_status phx_chat_render(const struct phx_chat *chat, const json_t *messages,
                                const json_t *arguments, bool add_generation_prompt,
                                char **out_text, size_t *out_bytes);

#endif
