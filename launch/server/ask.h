/// \file ask.h
/// The body of a request for text, checked field by field. Pure: knows no model, opens nothing.
///
/// Fields that are not known are ignored, as are null ones. A known field of another type or out of
/// its range, and one that asks for something that is not built (tools, response_format other than
/// text, ...), is refused by name.
#ifndef PHX_LAUNCH_SERVER_ASK_H
#define PHX_LAUNCH_SERVER_ASK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "launch/server/problem.h"

enum {
    PHX_ASK_PROMPTS = 64,   ///< at most in one request
    PHX_ASK_CHOICES = 128,  ///< at most of one prompt
    PHX_ASK_STOPS = 16,     ///< stop strings at most
    PHX_ASK_STOP_IDS = 64,  ///< stop_token_ids at most
    PHX_ASK_LOGPROBS = 20,  ///< likeliest tokens at each place at most
    PHX_ASK_MESSAGES = 4096 ///< of a chat at most
};

enum phx_ask_kind { PHX_ASK_COMPLETION, PHX_ASK_CHAT };

/// What is asked to be continued: `ids` if not NULL, else `text`. Of a chat neither is set: the
/// text is what the model's template makes of the messages.
struct phx_ask_prompt {
    const char *text; ///< UTF-8; lies in the body
    size_t bytes;
    int32_t *ids; ///< [n_ids], each >= 0; whether the model has it is not known here
    size_t n_ids;
};

struct phx_ask {
    enum phx_ask_kind kind;
    json_t *body;      ///< what the texts lie in
    const char *model; ///< NULL: not said

    struct phx_ask_prompt *prompts; ///< [n_prompts]; a chat has one
    size_t n_prompts;
    json_t *messages;            ///< of a chat: an array of objects with a role, in `body`
    json_t *template_arguments;  ///< of a chat: chat_template_kwargs, in `body`; or NULL
    bool add_generation_prompt;  ///< of a chat
    bool continue_final_message; ///< of a chat

    int32_t n_choices;            ///< n
    int32_t max_new;              ///< -1: not said
    int32_t min_new;              ///< min_tokens
    struct phx_sampling sampling; ///< but for seed, choice and n_bias
    bool seeded;                  ///< sampling.seed is the client's
    int32_t n_bias;
    int32_t *bias_ids; ///< [n_bias], each once
    float *bias_values;
    const char *stops[PHX_ASK_STOPS]; ///< zero-terminated, not empty; lie in the body
    size_t n_stops;
    int32_t stop_ids[PHX_ASK_STOP_IDS];
    size_t n_stop_ids;
    bool ignore_eos;

    int32_t n_logprobs; ///< likeliest tokens reported at each place; -1: no log-probabilities
    bool echo;
    bool stream, include_usage;
    bool add_special_tokens; ///< the tokenizer's (BOS, ...) around a prompt that is text
    bool return_token_ids;
};

/// From the body of a request; `defaults` is what the model wishes where the client says nothing.
/// False: *problem tells why, and *out is NULL.
bool phx_ask_parse(enum phx_ask_kind kind, const struct phx_sampling *defaults, const char *body,
                   size_t bytes, struct phx_ask **out, struct phx_problem *problem);
void phx_ask_destroy(struct phx_ask *ask);

#endif
