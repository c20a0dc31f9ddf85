/// \file job.h
/// A request for text on its way through the engine: what is asked, the texts being continued, and
/// the news of them.
///
/// Two threads have it in turn. The server's makes a job and gives it to the engine's through the
/// mailbox; from then on the choices are the engine's, who makes news of what becomes of them. News
/// come back through the mailbox. When the last choice's end is among them the job is the server's
/// again, who destroys it. What was set before it was given away is read by both and changed by
/// none.
#ifndef PHX_LAUNCH_SERVER_JOB_H
#define PHX_LAUNCH_SERVER_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launch/server/ask.h"
#include "launch/server/metrics.h"
#include "launch/server/problem.h"
#include "runtime/engine.h"
#include "runtime/request.h"
#include "runtime/stop_text.h"
#include "runtime/tokenizer/tokenizer.h"

/// What happened to one choice: a token, text that can be shown, its end, or several of these.
struct phx_news {
    struct phx_news *next;
    int32_t choice;
    int32_t position;       ///< of the token in the text; within the prompt if it is echoed
    int32_t id;             ///< -1: no token
    float logprob;          ///< of id; NaN: not known (the first token of a prompt)
    int32_t n_top;          ///< likeliest tokens in its place
    int32_t *top_ids;       ///< [n_top]; in the same piece of memory, as are the next two
    float *top_logprobs;    ///< [n_top]
    char *text;             ///< UTF-8
    size_t bytes;           ///< of text; 0: none
    enum phx_finish finish; ///< of the choice; NONE: it goes on
};

struct phx_choice {
    struct phx_job *job;
    int32_t index;
    struct phx_request *request;
    struct phx_text_stream *stream;
    struct phx_stop_text *stop;
    enum phx_finish finish;     ///< NONE until its end was made news of
    int32_t n_new;              ///< tokens of the continuation
    double first_s, last_s;     ///< when its first and last token came; 0: none did
    struct phx_news *last_news; ///< memory for its end's
};

/// Jobs that there are news of, in the order in which these came.
struct phx_job_changes {
    struct phx_job *first, **tail; ///< by next_changed
};

struct phx_job {
    /* set before it is given away */
    struct phx_ask *ask;
    const struct phx_tokenizer *tokenizer;
    int64_t vocab;
    int64_t number;    ///< counts the server's requests; names it
    int64_t created;   ///< seconds since 1970
    double arrived_s;  ///< monotonic
    int32_t n_choices; ///< of all prompts together: n of the first, n of the second, ...
    int64_t n_prompt;  ///< tokens of all prompts
    void *exchange;    ///< the server's own

    /* the engine's */
    struct phx_choice *choices; ///< [n_choices]
    struct phx_metrics *metrics;
    struct phx_job_changes *changes;
    int32_t n_ended;
    int32_t n_cached;           ///< prompt tokens that were in the cache
    struct phx_problem problem; ///< http is 0 unless the job failed; final with the last news
    struct phx_news *staged;    ///< not yet given to the mailbox, oldest first
    struct phx_news **staged_tail;
    struct phx_job *next_changed;        ///< where there are some
    struct phx_job *next_active, **link; ///< of the loop's list; link points at what points here

    /* the mailbox's */
    struct phx_job *next;
    struct phx_news *delivered, **delivered_tail;
    bool listed, cancelled;
};

/// The model and the bounds that jobs are made for.
struct phx_job_model {
    const struct phx_tokenizer *tokenizer;
    int64_t vocab;
    int32_t context; ///< tokens of one text
    int32_t n_eos;
    const int32_t *eos;
};

double phx_job_now(void);

/// Server's thread. `ask` is the job's from here on, on failure too. Of prompt i the ids are
/// prompts[i].ids, which must be set. False: *problem tells why.
bool phx_job_create(const struct phx_job_model *model, struct phx_ask *ask, struct phx_job **out,
                    struct phx_problem *problem);
void phx_job_destroy(struct phx_job *job);
void phx_news_destroy(struct phx_news *news);
/// Those that the choice continues; they never change.
const int32_t *phx_job_prompt(const struct phx_job *job, int32_t choice, int32_t *out_n);

/// Engine's thread, in which everything that follows is counted in `metrics` and noted in
/// `changes`. All choices begin, or the job ends with a problem. It is over when n_ended is
/// n_choices; once the news of that are published the engine must not touch it.
void phx_job_begin(struct phx_job *job, struct phx_engine *engine, struct phx_metrics *metrics,
                   struct phx_job_changes *changes);
/// End what goes on.
void phx_job_cancel(struct phx_job *job);

#endif
