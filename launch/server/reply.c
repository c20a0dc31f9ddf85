#include "launch/server/reply.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/server/reply_json.h"

/* What came of a choice and is not in an answer or a chunk yet. */
struct part {
    struct phx_bytes text;
    json_t *places; /* of log-probabilities */
    json_t *ids;
    size_t n_characters; /* of the tokens' texts since the beginning */
    enum phx_finish finish;
    bool begun; /* a chunk of it was made */
};

struct phx_reply {
    const struct phx_job *job;
    const char *model_name;
    struct part *parts; /* [n_choices] */
    int32_t n_ended, n_new;
    struct phx_problem problem;
    struct phx_bytes events;
    bool closed;
};

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a reply");
}

static bool is_chat(const struct phx_reply *reply)
{
    return reply->job->ask->kind == PHX_ASK_CHAT;
}

enum phx_status phx_reply_create(const struct phx_job *job, const char *model_name,
                                 struct phx_reply **out)
{
    struct phx_reply *r = calloc(1, sizeof *r);
    if (r == NULL) return no_memory();
    r->job = job;
    r->model_name = model_name;
    r->parts = calloc((size_t)job->n_choices, sizeof *r->parts);
    if (r->parts == NULL) {
        free(r);
        return no_memory();
    }
    *out = r;
    return PHX_OK;
}

void phx_reply_destroy(struct phx_reply *reply)
{
    if (reply == NULL) return;
    for (int32_t i = 0; i < reply->job->n_choices; i++) {
        free(reply->parts[i].text.data);
        json_decref(reply->parts[i].places);
        json_decref(reply->parts[i].ids);
    }
    free(reply->parts);
    free(reply->events.data);
    free(reply);
}

/* ---- an answer, or a chunk of one ---- */

/* What a part holds as a choice, emptied. NULL without memory. */
static json_t *take_choice(struct phx_reply *r, int32_t index)
{
    struct part *p = &r->parts[index];
    const struct phx_ask *ask = r->job->ask;
    const char *finish = p->finish != PHX_FINISH_NONE ? phx_finish_name(p->finish) : NULL;
    json_t *text = json_stringn(p->text.data != NULL ? p->text.data : "", p->text.n);
    json_t *logprobs = json_null();
    json_t *choice;
    if (ask->n_logprobs >= 0)
        logprobs =
            is_chat(r) ? phx_reply_chat_logprobs(p->places) : phx_reply_text_logprobs(p->places);
    if (!is_chat(r))
        choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", index, "text", text, "logprobs",
                           logprobs, "finish_reason", finish);
    else if (!ask->stream)
        choice = json_pack("{s:i, s:{s:s, s:o, s:n}, s:o, s:s?}", "index", index, "message", "role",
                           "assistant", "content", text, "refusal", "logprobs", logprobs,
                           "finish_reason", finish);
    else if (!p->begun)
        choice =
            json_pack("{s:i, s:{s:s, s:o}, s:o, s:s?}", "index", index, "delta", "role",
                      "assistant", "content", text, "logprobs", logprobs, "finish_reason", finish);
    else if (p->text.n > 0)
        choice = json_pack("{s:i, s:{s:o}, s:o, s:s?}", "index", index, "delta", "content", text,
                           "logprobs", logprobs, "finish_reason", finish);
    else {
        json_decref(text);
        choice = json_pack("{s:i, s:{}, s:o, s:s?}", "index", index, "delta", "logprobs", logprobs,
                           "finish_reason", finish);
    }
    if (choice != NULL && ask->return_token_ids)
        json_object_set_new(choice, "token_ids",
                            p->ids != NULL ? json_incref(p->ids) : json_array());
    p->begun = true;
    p->text.n = 0;
    json_decref(p->places);
    json_decref(p->ids);
    p->places = p->ids = NULL;
    return choice;
}

static json_t *usage(const struct phx_reply *r)
{
    const struct phx_job *job = r->job;
    return json_pack("{s:I, s:i, s:I, s:{s:i}}", "prompt_tokens", (json_int_t)job->n_prompt,
                     "completion_tokens", r->n_new, "total_tokens",
                     (json_int_t)(job->n_prompt + r->n_new), "prompt_tokens_details",
                     "cached_tokens", job->n_cached);
}

/* Around choices, which become its own. */
static json_t *envelope(const struct phx_reply *r, json_t *choices)
{
    const struct phx_ask *ask = r->job->ask;
    const char *object = "text_completion";
    char id[40];
    if (is_chat(r)) object = ask->stream ? "chat.completion.chunk" : "chat.completion";
    snprintf(id, sizeof id, "%s-%08llx%08llx", is_chat(r) ? "chatcmpl" : "cmpl",
             (unsigned long long)r->job->created, (unsigned long long)r->job->number);
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", id, "object", object, "created",
                     (json_int_t)r->job->created, "model", r->model_name, "choices", choices);
}

/* Append and release; NULL is no memory. */
static enum phx_status print(json_t *object, const char *before, const char *after,
                             struct phx_bytes *out)
{
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (text == NULL) return no_memory();
    enum phx_status status = phx_bytes_append(out, before, strlen(before));
    if (status == PHX_OK) status = phx_bytes_append(out, text, strlen(text));
    if (status == PHX_OK) status = phx_bytes_append(out, after, strlen(after));
    free(text);
    return status;
}

static enum phx_status send(struct phx_reply *r, json_t *object)
{
    return print(object, "data: ", "\n\n", &r->events);
}

static enum phx_status send_chunk(struct phx_reply *r, int32_t index)
{
    json_t *chunk = envelope(r, json_pack("[o]", take_choice(r, index)));
    bool last = r->n_ended == r->job->n_choices;
    if (chunk != NULL && r->job->ask->include_usage)
        json_object_set_new(chunk, "usage", json_null());
    if (chunk != NULL && last && !r->job->ask->include_usage)
        json_object_set_new(chunk, "timings", phx_reply_timings(r->job, r->n_new));
    return send(r, chunk);
}

static enum phx_status send_usage(struct phx_reply *r)
{
    json_t *chunk = envelope(r, json_array());
    if (chunk != NULL) json_object_set_new(chunk, "usage", usage(r));
    if (chunk != NULL) json_object_set_new(chunk, "timings", phx_reply_timings(r->job, r->n_new));
    return send(r, chunk);
}

static enum phx_status close_events(struct phx_reply *r)
{
    static const char done[] = "data: [DONE]\n\n";
    if (r->closed) return PHX_OK;
    r->closed = true;
    if (r->problem.http != 0)
        PHX_TRY(send(r, phx_problem_json(&r->problem)));
    else if (r->job->ask->include_usage)
        PHX_TRY(send_usage(r));
    return phx_bytes_append(&r->events, done, sizeof done - 1);
}

enum phx_status phx_reply_body(struct phx_reply *reply, struct phx_bytes *out)
{
    struct phx_reply *r = reply;
    PHX_ASSERT(phx_reply_ended(r) && r->problem.http == 0);
    json_t *choices = json_array();
    for (int32_t i = 0; i < r->job->n_choices; i++)
        if (json_array_append_new(choices, take_choice(r, i)) != 0) {
            json_decref(choices);
            return no_memory();
        }
    json_t *answer = envelope(r, choices);
    if (answer != NULL) json_object_set_new(answer, "usage", usage(r));
    if (answer != NULL) json_object_set_new(answer, "timings", phx_reply_timings(r->job, r->n_new));
    return print(answer, "", "\n", out);
}

/* ---- news ---- */

static enum phx_status note_token(struct phx_reply *r, struct part *p, const struct phx_news *news)
{
    const struct phx_ask *ask = r->job->ask;
    if (ask->return_token_ids) {
        if (p->ids == NULL) p->ids = json_array();
        if (json_array_append_new(p->ids, json_integer(news->id)) != 0) return no_memory();
    }
    if (ask->n_logprobs < 0) return PHX_OK;
    if (p->places == NULL) p->places = json_array();
    json_t *place = phx_reply_place(r->job, news, &p->n_characters);
    return json_array_append_new(p->places, place) == 0 ? PHX_OK : no_memory();
}

/* The prompt that is echoed, before the first token of a choice. */
static enum phx_status begin(struct phx_reply *r, struct part *p, const struct phx_news *news)
{
    const struct phx_job *job = r->job;
    const struct phx_ask_prompt *prompt = &job->ask->prompts[news->choice / job->ask->n_choices];
    if (prompt->text != NULL) {
        PHX_TRY(phx_bytes_append(&p->text, prompt->text, prompt->bytes));
    } else {
        char *text;
        size_t bytes;
        PHX_TRY(
            phx_tokenizer_decode(job->tokenizer, prompt->ids, prompt->n_ids, true, &text, &bytes));
        enum phx_status status = phx_bytes_append(&p->text, text, bytes);
        free(text);
        PHX_TRY(status);
    }
    if (job->ask->n_logprobs < 0) return PHX_OK;
    /* Nothing predicts a text's first token. */
    struct phx_news first = {.choice = news->choice, .id = prompt->ids[0], .logprob = NAN};
    return note_token(r, p, &first);
}

static enum phx_status add(struct phx_reply *r, const struct phx_news *news)
{
    struct part *p = &r->parts[news->choice];
    const struct phx_job *job = r->job;
    if (job->ask->echo && !p->begun && p->text.n == 0 && p->places == NULL)
        PHX_TRY(begin(r, p, news));
    if (news->id >= 0) {
        int32_t n_prompt;
        phx_job_prompt(job, news->choice, &n_prompt);
        if (news->position >= n_prompt) r->n_new++;
        PHX_TRY(note_token(r, p, news));
    }
    if (news->bytes > 0) PHX_TRY(phx_bytes_append(&p->text, news->text, news->bytes));
    if (news->finish != PHX_FINISH_NONE) {
        p->finish = news->finish;
        r->n_ended++;
        if (p->finish == PHX_FINISH_CANCELLED) return PHX_OK; /* the last news tell why */
    }
    bool something =
        p->text.n > 0 || p->places != NULL || p->ids != NULL || p->finish != PHX_FINISH_NONE;
    if (!job->ask->stream || !something) return PHX_OK;
    return send_chunk(r, news->choice);
}

enum phx_status phx_reply_add(struct phx_reply *reply, const struct phx_news *news)
{
    struct phx_reply *r = reply;
    for (; news != NULL && !r->closed; news = news->next) PHX_TRY(add(r, news));
    if (r->closed || r->n_ended < r->job->n_choices) return PHX_OK;
    for (int32_t i = 0; i < r->job->n_choices; i++) {
        if (r->parts[i].finish != PHX_FINISH_CANCELLED) continue;
        r->problem = r->job->problem;
        if (r->problem.http == 0)
            phx_problem_set(&r->problem, 503, "server_stopping", NULL,
                            "the server is being stopped");
    }
    return r->job->ask->stream ? close_events(r) : PHX_OK;
}

bool phx_reply_ended(const struct phx_reply *reply)
{
    return reply->n_ended == reply->job->n_choices || reply->closed;
}

const struct phx_problem *phx_reply_problem(const struct phx_reply *reply)
{
    return &reply->problem;
}

void phx_reply_fail(struct phx_reply *reply, const struct phx_problem *problem)
{
    if (phx_reply_ended(reply)) return;
    reply->problem = *problem;
    /* Without memory for the words the stream just ends. */
    if (close_events(reply) != PHX_OK) phx_fail_clear();
}

const struct phx_bytes *phx_reply_events(struct phx_reply *reply)
{
    return &reply->events;
}

void phx_reply_sent(struct phx_reply *reply, size_t bytes)
{
    struct phx_bytes *e = &reply->events;
    PHX_ASSERT(bytes <= e->n);
    memmove(e->data, e->data + bytes, e->n - bytes);
    e->n -= bytes;
}

enum phx_status phx_reply_ping(struct phx_reply *reply)
{
    static const char ping[] = ": still here\n\n";
    return phx_bytes_append(&reply->events, ping, sizeof ping - 1);
}
