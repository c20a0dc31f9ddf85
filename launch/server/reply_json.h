/// \file reply_json.h
/// Parts of a reply as JSON. Every json_t is new; NULL without memory.
#ifndef PHX_LAUNCH_SERVER_REPLY_JSON_H
#define PHX_LAUNCH_SERVER_REPLY_JSON_H

#include <jansson.h>

#include "launch/server/job.h"

/// A token and its likeliest rivals, as the next two take it. *n_characters is where the token's
/// text begins, and is moved on by its length.
json_t *phx_reply_place(const struct phx_job *job, const struct phx_news *news,
                        size_t *n_characters);
/// `logprobs` of a completion: tokens, token_logprobs, top_logprobs, text_offset. `places` may be
/// NULL.
json_t *phx_reply_text_logprobs(const json_t *places);
/// `logprobs` of a chat: content, an entry a token. `places` may be NULL.
json_t *phx_reply_chat_logprobs(const json_t *places);

/// As llama.cpp's server tells them; of several texts: the first's and last's moments.
json_t *phx_reply_timings(const struct phx_job *job, int32_t n_new);

#endif
