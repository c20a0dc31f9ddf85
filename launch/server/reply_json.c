#include "launch/server/reply_json.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/base/status.h"
#include "launch/logprobs.h"

static json_t *token_text(const struct phx_job *job, int32_t id)
{
    char *text;
    size_t bytes;
    if (phx_tokenizer_decode(job->tokenizer, &id, 1, false, &text, &bytes) != PHX_OK) {
        phx_fail_clear(); /* an id beyond the tokenizer's: the model has more rows than it */
        return json_string("");
    }
    json_t *json = json_stringn(text, bytes);
    free(text);
    return json;
}

static json_t *number(float logprob)
{
    return isnan(logprob) ? json_null() : json_real(phx_logprobs_json(logprob));
}

static json_t *entry(const struct phx_job *job, int32_t id, float logprob)
{
    return json_pack("{s:o, s:o}", "token", token_text(job, id), "logprob", number(logprob));
}

static size_t count_characters(const json_t *text)
{
    const char *bytes = json_string_value(text);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(text); i++)
        n += ((unsigned char)bytes[i] & 0xc0) != 0x80;
    return n;
}

json_t *phx_reply_place(const struct phx_job *job, const struct phx_news *news,
                        size_t *n_characters)
{
    json_t *place = entry(job, news->id, news->logprob);
    json_t *top = json_array();
    for (int32_t i = 0; i < news->n_top; i++)
        json_array_append_new(top, entry(job, news->top_ids[i], news->top_logprobs[i]));
    if (place == NULL || json_object_set_new(place, "top", top) != 0 ||
        json_object_set_new(place, "offset", json_integer((json_int_t)*n_characters)) != 0) {
        json_decref(place);
        return NULL;
    }
    *n_characters += count_characters(json_object_get(place, "token"));
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
        if (json_object_get(object, token) == NULL) /* texts of bytes may be alike */
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

static json_t *with_bytes(const json_t *token)
{
    json_t *text = json_object_get(token, "token");
    json_t *bytes = json_array();
    for (size_t i = 0; i < json_string_length(text); i++)
        json_array_append_new(bytes, json_integer((unsigned char)json_string_value(text)[i]));
    return json_pack("{s:O, s:O, s:o}", "token", text, "logprob", json_object_get(token, "logprob"),
                     "bytes", bytes);
}

json_t *phx_reply_chat_logprobs(const json_t *places)
{
    json_t *content = json_array();
    const json_t *place, *one;
    size_t i, k;
    json_array_foreach(places, i, place)
    {
        json_t *token = with_bytes(place), *top = json_array();
        json_array_foreach(json_object_get(place, "top"), k, one)
        {
            json_array_append_new(top, with_bytes(one));
        }
        json_object_set_new(token, "top_logprobs", top);
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
