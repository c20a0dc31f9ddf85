#include "launch/server/reply_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/status.h"
#include "launch/logprobs.h"
#include "runtime/tokenizer/buffer.h"

static json_t *number(float logprob)
{
    return isnan(logprob) ? json_null() : json_real(phx_logprobs_json(logprob));
}

static size_t count_characters(const char *bytes, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)bytes[i] & 0xc0) != 0x80;
    return count;
}

/* A token that is no text by itself is told byte by byte, as the OpenAI API does it: so two of them
 * do not look alike. */
static json_t *token_text(const char *bytes, size_t n, bool is_chat)
{
    json_t *json = json_stringn(bytes, n);
    struct phx_bytes text = {0};
    char code[8];
    if (json != NULL) return json;
    enum phx_status status = phx_bytes_append(&text, "bytes:", is_chat ? 0 : 6);
    for (size_t i = 0; i < n && status == PHX_OK; i++) {
        snprintf(code, sizeof code, "\\x%02x", (unsigned char)bytes[i]);
        status = phx_bytes_append(&text, code, 4);
    }
    if (status == PHX_OK)
        json = json_stringn(text.data, text.n);
    else
        phx_fail_clear();
    free(text.data);
    return json;
}

static json_t *byte_array(const char *bytes, size_t n)
{
    json_t *json = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(json, json_integer((unsigned char)bytes[i]));
    return json;
}

static json_t *entry(const struct phx_job *job, int32_t id, float logprob, size_t *n_characters)
{
    bool is_chat = job->ask->kind == PHX_ASK_CHAT;
    char *bytes = NULL;
    size_t n = 0;
    /* An id beyond the tokenizer's, where the model has more rows than it, is no text. */
    if (phx_tokenizer_bytes(job->tokenizer, id, &bytes, &n) != PHX_OK) phx_fail_clear();
    json_t *json =
        json_pack("{s:o, s:o}", "token", token_text(bytes != NULL ? bytes : "", n, is_chat),
                  "logprob", number(logprob));
    if (json != NULL && is_chat) json_object_set_new(json, "bytes", byte_array(bytes, n));
    *n_characters += count_characters(bytes, n);
    free(bytes);
    return json;
}

json_t *phx_reply_place(const struct phx_job *job, const struct phx_news *news,
                        size_t *n_characters)
{
    size_t offset = *n_characters, unused = 0;
    json_t *place = entry(job, news->id, news->logprob, n_characters);
    json_t *top = json_array();
    for (int32_t i = 0; i < news->n_top; i++)
        json_array_append_new(top, entry(job, news->top_ids[i], news->top_logprobs[i], &unused));
    if (place == NULL || json_object_set_new(place, "top", top) != 0 ||
        json_object_set_new(place, "offset", json_integer((json_int_t)offset)) != 0) {
        json_decref(place);
        return NULL;
    }
    return place;
}

/* The likeliest ones, and the token itself if it is none of them. */
static json_t *top_object(const json_t *place)
{
    json_t *object = json_object();
    const json_t *top = json_object_get(place, "top"), *one;
    size_t i;
    json_array_foreach(top, i, one)
    {
        const char *token = json_string_value(json_object_get(one, "token"));
        if (json_object_get(object, token) == NULL) /* a model may have tokens that are alike */
            json_object_set(object, token, json_object_get(one, "logprob"));
    }
    const char *token = json_string_value(json_object_get(place, "token"));
    if (json_object_get(object, token) == NULL)
        json_object_set(object, token, json_object_get(place, "logprob"));
    return object;
}

json_t *phx_reply_text_logprobs(const json_t *places)
{
    json_t *tokens = json_array(), *logprobs = json_array(), *tops = json_array();
    json_t *offsets = json_array();
    const json_t *place;
    size_t i;
    json_array_foreach(places, i, place)
    {
        json_t *logprob = json_object_get(place, "logprob");
        json_array_append(tokens, json_object_get(place, "token"));
        json_array_append(logprobs, logprob);
        json_array_append_new(tops, json_is_null(logprob) ? json_null() : top_object(place));
        json_array_append(offsets, json_object_get(place, "offset"));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs,
                     "top_logprobs", tops, "text_offset", offsets);
}

static json_t *chat_entry(const json_t *token)
{
    return json_pack("{s:O, s:O, s:O}", "token", json_object_get(token, "token"), "logprob",
                     json_object_get(token, "logprob"), "bytes", json_object_get(token, "bytes"));
}

json_t *phx_reply_chat_logprobs(const json_t *places)
{
    json_t *content = json_array();
    const json_t *place;
    size_t i;
    json_array_foreach(places, i, place)
    {
        json_t *token = chat_entry(place);
        json_object_set(token, "top_logprobs", json_object_get(place, "top"));
        json_array_append_new(content, token);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

json_t *phx_reply_timings(const struct phx_job *job, int32_t n_new)
{
    double first_s = 0, last_s = 0;
    for (int32_t i = 0; i < job->n_choices; i++) {
        const struct phx_choice *c = &job->choices[i];
        if (c->n_new == 0) continue;
        if (first_s == 0 || c->first_s < first_s) first_s = c->first_s;
        if (c->last_s > last_s) last_s = c->last_s;
    }
    double prompt_ms = first_s > 0 ? 1e3 * (first_s - job->arrived_s) : 0;
    double predicted_ms = 1e3 * (last_s - first_s);
    int64_t n_read = job->n_prompt > job->n_cached ? job->n_prompt - job->n_cached : 0;
    /* The first token came with the end of the prompt. */
    int32_t n_timed = n_new > 0 ? n_new - 1 : 0;
    return json_pack("{s:i, s:I, s:f, s:f, s:f, s:i, s:f, s:f, s:f}", "cache_n", job->n_cached,
                     "prompt_n", (json_int_t)n_read, "prompt_ms", prompt_ms, "prompt_per_token_ms",
                     n_read > 0 ? prompt_ms / (double)n_read : 0.0, "prompt_per_second",
                     prompt_ms > 0 ? 1e3 * (double)n_read / prompt_ms : 0.0, "predicted_n", n_new,
                     "predicted_ms", predicted_ms, "predicted_per_token_ms",
                     n_timed > 0 ? predicted_ms / n_timed : 0.0, "predicted_per_second",
                     predicted_ms > 0 ? 1e3 * n_timed / predicted_ms : 0.0);
}
