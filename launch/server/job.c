#include "launch/server/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "kernels/base/check.h"
#include "launch/logprobs.h"

double phx_job_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- news ---- */

/* One piece of memory; NULL without memory. */
static struct phx_news *make_news(const struct phx_choice *c, int32_t n_top, const char *text,
                                  size_t bytes)
{
    size_t each = sizeof(int32_t) + sizeof(float);
    struct phx_news *news = malloc(sizeof *news + (size_t)n_top * each + bytes);
    if (news == NULL) return NULL;
    char *rest = (char *)(news + 1);
    *news = (struct phx_news){.choice = c->index,
                              .id = -1,
                              .logprob = NAN,
                              .n_top = n_top,
                              .top_ids = (int32_t *)rest,
                              .top_logprobs = (float *)(rest + (size_t)n_top * sizeof(int32_t)),
                              .text = rest + (size_t)n_top * each,
                              .bytes = bytes};
    if (bytes > 0) memcpy(news->text, text, bytes);
    return news;
}

void phx_news_destroy(struct phx_news *news)
{
    while (news != NULL) {
        struct phx_news *next = news->next;
        free(news);
        news = next;
    }
}

static void stage(struct phx_job *job, struct phx_news *news)
{
    if (job->staged == NULL) {
        job->next_changed = NULL;
        *job->changes->tail = job;
        job->changes->tail = &job->next_changed;
    }
    *job->staged_tail = news;
    job->staged_tail = &news->next;
}

/* ---- outputs ---- */

static void fail(struct phx_job *job, enum phx_status status)
{
    if (job->problem.http == 0) phx_problem_take(&job->problem, status, NULL);
    phx_job_cancel(job);
}

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a text's results");
}

/* The text that can be shown now that the model gave this token. */
static enum phx_status decode(struct phx_choice *c, int32_t id, const char **text, size_t *bytes)
{
    const char *piece;
    size_t n;
    bool stopped;
    *bytes = 0;
    if (c->request->ending == PHX_FINISH_STOP) return PHX_OK; /* a stop token is not text */
    PHX_TRY(phx_text_stream_push(c->stream, id, &piece, &n));
    PHX_TRY(phx_stop_text_push(c->stop, piece, n, text, bytes, &stopped));
    if (stopped) phx_request_cancel(c->request, PHX_FINISH_STOP);
    return PHX_OK;
}

static enum phx_status nothing_to_draw(int32_t position)
{
    return phx_fail(PHX_BAD_DATA,
                    "the logits for token %d hold NaN or infinity: the model's weights are broken, "
                    "or --dtype is too narrow for them",
                    position);
}

static enum phx_status take(struct phx_choice *c, const struct phx_output *output)
{
    struct phx_job *job = c->job;
    const struct phx_request *r = c->request;
    bool in_prompt = output->position < r->options.n_prompt;
    int32_t id = in_prompt ? r->options.prompt_ids[output->position] : output->id;
    const char *text = NULL;
    size_t bytes = 0;
    if (id < 0) return PHX_OK; /* after the last token */
    if (!in_prompt) {
        if (isnan(output->logprob)) return nothing_to_draw(output->position);
        double now_s = phx_job_now();
        phx_metrics_token(job->metrics, job->arrived_s, c->last_s, now_s);
        c->last_s = now_s;
        if (c->n_new++ == 0) c->first_s = now_s;
        PHX_TRY(decode(c, id, &text, &bytes));
    }
    bool told = output->logits != NULL;
    struct phx_news *news = make_news(c, told ? job->ask->n_logprobs : 0, text, bytes);
    if (news == NULL) return no_memory();
    news->position = output->position;
    news->id = id;
    news->logprob = output->logprob;
    if (told) {
        double log_sum = phx_logprobs_sum(output->logits, job->vocab);
        if (isnan(log_sum)) {
            free(news);
            return nothing_to_draw(output->position);
        }
        news->logprob = (float)(output->logits[id] - log_sum);
        news->n_top = phx_logprobs_top(output->logits, job->vocab, log_sum, news->n_top,
                                       news->top_ids, news->top_logprobs);
    }
    stage(job, news);
    return PHX_OK;
}

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct phx_choice *c = request->options.user;
    enum phx_status status = take(c, output);
    if (status != PHX_OK) fail(c->job, status);
}

/* ---- ends ---- */

/* What the decoder and the stop texts still hold back. */
static enum phx_status flush(struct phx_choice *c, struct phx_news **out)
{
    const char *text = "", *rest;
    size_t n = 0, n_rest;
    bool stopped = false;
    bool open = !(c->request->cancelled && c->finish == PHX_FINISH_STOP);
    PHX_TRY(phx_text_stream_flush(c->stream, &text, &n));
    if (open && n > 0) {
        const char *shown;
        size_t n_shown;
        PHX_TRY(phx_stop_text_push(c->stop, text, n, &shown, &n_shown, &stopped));
        struct phx_news *news = n_shown > 0 ? make_news(c, 0, shown, n_shown) : NULL;
        if (news != NULL) stage(c->job, news);
        if (n_shown > 0 && news == NULL) return no_memory();
    }
    if (stopped) c->finish = PHX_FINISH_STOP;
    phx_stop_text_flush(c->stop, &rest, &n_rest);
    *out = make_news(c, 0, rest, n_rest);
    return *out != NULL ? PHX_OK : no_memory();
}

static void end(struct phx_choice *c, enum phx_finish finish)
{
    struct phx_job *job = c->job;
    struct phx_news *news = NULL;
    c->finish = finish;
    enum phx_status status = flush(c, &news);
    if (status != PHX_OK) fail(job, status);
    /* The end must be told: its news were made when there still was memory. */
    if (news == NULL) {
        news = c->last_news;
        c->last_news = NULL;
    }
    news->finish = c->finish;
    stage(job, news);
    job->n_ended++;
    job->n_cached += c->request->n_cached;
    phx_metrics_text_ended(job->metrics, c->finish, c->request->options.n_prompt, c->n_new,
                           job->arrived_s, c->first_s, c->last_s);
}

static void on_finish(struct phx_request *request)
{
    end(request->options.user, request->finish);
}

/* ---- the engine's thread ---- */

void phx_job_cancel(struct phx_job *job)
{
    for (int32_t i = 0; i < job->n_choices; i++)
        if (job->choices[i].finish == PHX_FINISH_NONE)
            phx_request_cancel(job->choices[i].request, PHX_FINISH_CANCELLED);
}

void phx_job_begin(struct phx_job *job, struct phx_engine *engine, struct phx_metrics *metrics,
                   struct phx_job_changes *changes)
{
    enum phx_status status = PHX_OK;
    int32_t n = 0;
    job->metrics = metrics;
    job->changes = changes;
    while (n < job->n_choices && status == PHX_OK) {
        status = phx_engine_submit(engine, job->choices[n].request);
        if (status == PHX_OK) n++;
    }
    if (status == PHX_OK) return;
    /* The engine never saw these. */
    for (int32_t i = n; i < job->n_choices; i++) end(&job->choices[i], PHX_FINISH_CANCELLED);
    fail(job, status);
}

/* ---- the server's thread ---- */

const int32_t *phx_job_prompt(const struct phx_job *job, int32_t choice, int32_t *out_n)
{
    const struct phx_ask_prompt *p = &job->ask->prompts[choice / job->ask->n_choices];
    *out_n = (int32_t)p->n_ids;
    return p->ids;
}

static const char *prompt_field(const struct phx_ask *ask)
{
    return ask->kind == PHX_ASK_CHAT ? "messages" : "prompt";
}

static bool check_ids(const struct phx_job_model *model, const char *field, const int32_t *ids,
                      size_t n, struct phx_problem *problem)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= model->vocab)
            return phx_problem_set(problem, 400, NULL, field,
                                   "%s: token id %d: those of this model are 0 to %lld", field,
                                   ids[i], (long long)model->vocab - 1);
    return true;
}

/* The tokens that a prompt may be continued by. */
static bool find_room(const struct phx_job_model *model, const struct phx_ask *ask, size_t n_prompt,
                      int32_t *max_new, struct phx_problem *problem)
{
    const char *field = prompt_field(ask);
    int64_t room = model->context - (int64_t)n_prompt;
    /* The old default of completions; a chat's answer may fill the context. */
    int64_t wanted = ask->kind == PHX_ASK_COMPLETION ? 16 : room;
    if (ask->max_new < 0) wanted = wanted < room ? wanted : room;
    if (ask->max_new >= 0) wanted = ask->max_new;
    if (n_prompt == 0)
        return phx_problem_set(problem, 400, NULL, field, "%s gives no tokens at all", field);
    if (room < 0 || (room == 0 && ask->max_new != 0))
        return phx_problem_set(problem, 400, "context_length_exceeded", field,
                               "%s has %zu tokens, the context holds %d: shorten it", field,
                               n_prompt, model->context);
    if (wanted > room)
        return phx_problem_set(problem, 400, "context_length_exceeded", "max_tokens",
                               "%zu tokens of the prompt and max_tokens %lld are more than the "
                               "context of %d: ask for at most %lld",
                               n_prompt, (long long)wanted, model->context, (long long)room);
    *max_new = (int32_t)wanted;
    return true;
}

/* The biases asked for, and "never" for the end-of-text tokens under ignore_eos. */
static bool choose_bias(const struct phx_job_model *model, const struct phx_ask *ask, int32_t *ids,
                        float *values, struct phx_request_options *out, struct phx_problem *problem)
{
    int32_t n = 0, n_eos = ask->ignore_eos ? model->n_eos : 0;
    if (!check_ids(model, "logit_bias", ask->bias_ids, (size_t)ask->n_bias, problem)) return false;
    for (int32_t i = 0; i < n_eos; i++, n++) {
        ids[n] = model->eos[i];
        values[n] = -INFINITY;
    }
    for (int32_t i = 0; i < ask->n_bias; i++) {
        bool known = false;
        for (int32_t k = 0; k < n_eos && !known; k++) known = ids[k] == ask->bias_ids[i];
        if (known) continue;
        if (n == PHX_MAX_BIAS)
            return phx_problem_set(problem, 400, NULL, "logit_bias",
                                   "logit_bias and ignore_eos together need more than %d entries",
                                   PHX_MAX_BIAS);
        ids[n] = ask->bias_ids[i];
        values[n++] = ask->bias_values[i];
    }
    out->n_bias = n;
    out->bias_ids = ids;
    out->bias_values = values;
    return true;
}

static bool choose_stops(const struct phx_job_model *model, const struct phx_ask *ask, int32_t *ids,
                         struct phx_request_options *out, struct phx_problem *problem)
{
    int32_t n = 0;
    if (!check_ids(model, "stop_token_ids", ask->stop_ids, ask->n_stop_ids, problem)) return false;
    for (int32_t i = 0; !ask->ignore_eos && i < model->n_eos; i++) ids[n++] = model->eos[i];
    for (size_t i = 0; i < ask->n_stop_ids; i++) ids[n++] = ask->stop_ids[i];
    out->stop_ids = ids;
    out->n_stop_ids = n;
    return true;
}

static enum phx_status make_choice(struct phx_choice *c, const struct phx_request_options *options)
{
    const struct phx_ask *ask = c->job->ask;
    PHX_TRY(phx_request_create(options, &c->request));
    PHX_TRY(phx_text_stream_create(c->job->tokenizer, options->prompt_ids,
                                   (size_t)options->n_prompt, true, &c->stream));
    PHX_TRY(phx_stop_text_create((const char *const *)ask->stops, ask->n_stops, &c->stop));
    c->last_news = make_news(c, 0, NULL, 0);
    return c->last_news != NULL ? PHX_OK : no_memory();
}

static bool make_choices(struct phx_job *job, const struct phx_job_model *model,
                         struct phx_problem *problem)
{
    const struct phx_ask *ask = job->ask;
    int32_t bias_ids[PHX_MAX_BIAS], stop_ids[PHX_MAX_EOS + PHX_ASK_STOP_IDS];
    float bias_values[PHX_MAX_BIAS];
    struct phx_request_options o = {.sampling = ask->sampling,
                                    .min_new = ask->min_new,
                                    .want_logits = ask->n_logprobs > 0,
                                    .want_all_logits = ask->echo && ask->n_logprobs >= 0,
                                    .on_output = on_output,
                                    .on_finish = on_finish};
    if (!choose_bias(model, ask, bias_ids, bias_values, &o, problem) ||
        !choose_stops(model, ask, stop_ids, &o, problem))
        return false;
    if (!ask->seeded &&
        getrandom(&o.sampling.seed, sizeof o.sampling.seed, 0) != (ssize_t)sizeof o.sampling.seed)
        return phx_problem_set(problem, 500, NULL, "seed", "the system has no random seed");
    for (int32_t i = 0; i < job->n_choices; i++) {
        struct phx_choice *c = &job->choices[i];
        const struct phx_ask_prompt *p = &ask->prompts[i / ask->n_choices];
        if (!check_ids(model, prompt_field(ask), p->ids, p->n_ids, problem) ||
            !find_room(model, ask, p->n_ids, &o.max_new, problem))
            return false;
        c->job = job;
        c->index = i;
        o.user = c;
        o.prompt_ids = p->ids;
        o.n_prompt = (int32_t)p->n_ids;
        o.sampling.choice = i % ask->n_choices;
        enum phx_status status = make_choice(c, &o);
        if (status != PHX_OK) return phx_problem_take(problem, status, NULL);
        if (i % ask->n_choices == 0) job->n_prompt += o.n_prompt;
    }
    return true;
}

bool phx_job_create(const struct phx_job_model *model, struct phx_ask *ask, struct phx_job **out,
                    struct phx_problem *problem)
{
    struct phx_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        phx_ask_destroy(ask);
        return phx_problem_set(problem, 503, NULL, NULL, "no memory for the request");
    }
    job->ask = ask;
    job->tokenizer = model->tokenizer;
    job->vocab = model->vocab;
    job->created = (int64_t)time(NULL);
    job->arrived_s = phx_job_now();
    job->n_choices = (int32_t)ask->n_prompts * ask->n_choices;
    job->staged_tail = &job->staged;
    job->delivered_tail = &job->delivered;
    job->choices = calloc((size_t)job->n_choices, sizeof *job->choices);
    bool ok = job->choices != NULL
                  ? make_choices(job, model, problem)
                  : phx_problem_set(problem, 503, NULL, NULL, "no memory for the request");
    if (!ok) {
        phx_job_destroy(job);
        return false;
    }
    *out = job;
    return true;
}

void phx_job_destroy(struct phx_job *job)
{
    if (job == NULL) return;
    for (int32_t i = 0; job->choices != NULL && i < job->n_choices; i++) {
        phx_request_destroy(job->choices[i].request);
        phx_text_stream_destroy(job->choices[i].stream);
        phx_stop_text_destroy(job->choices[i].stop);
        phx_news_destroy(job->choices[i].last_news);
    }
    phx_news_destroy(job->staged);
    phx_news_destroy(job->delivered);
    free(job->choices);
    phx_ask_destroy(job->ask);
    free(job);
}
