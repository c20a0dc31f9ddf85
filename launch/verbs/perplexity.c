#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/interrupt.h"
#include "launch/report.h"
#include "launch/settings.h"
#include "launch/verbs/json_line.h"
#include "launch/verbs/text_input.h"
#include "launch/verbs/verbs.h"
#include "runtime/tokenizer/tokenizer.h"

/* Tokens [begin, begin + length) are read, each predicts the next; the targets from `scored` on
 * count. */
struct window {
    struct score *score;
    int64_t begin, scored;
    struct phx_request *request;
};

/* What rank 0 keeps of the job. */
struct score {
    const struct phx_options *options;
    int64_t vocab;
    int32_t *ids;
    size_t n_ids;
    int32_t length; /* of every window */
    struct window *windows;
    size_t n_windows;
    double nll;
    enum phx_status status; /* of what went wrong in a callback */
    int64_t n_scored;
};

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    const struct window *w = request->options.user;
    struct score *s = w->score;
    int64_t target = w->begin + output->position;
    if (target < w->scored) return;
    double largest = output->logits[0], sum = 0;
    for (int64_t i = 1; i < s->vocab; i++) largest = fmax(largest, output->logits[i]);
    for (int64_t i = 0; i < s->vocab; i++) sum += exp(output->logits[i] - largest);
    double nll = largest + log(sum) - output->logits[s->ids[target]];
    if (!isfinite(nll)) {
        s->status = phx_fail(PHX_BAD_DATA,
                             "the model gives token %lld of the text no finite log-probability: "
                             "its weights are broken, or --dtype is too narrow for them",
                             (long long)target);
        phx_request_cancel(request, PHX_FINISH_ERROR);
        return;
    }
    s->nll += nll;
    s->n_scored++;
}

/* Windows that do not fit whole are left out, as llama.cpp does, unless there is no other. */
static enum phx_status cut(struct score *s, const struct phx_config *config)
{
    const struct phx_options *o = s->options;
    int64_t targets = (int64_t)s->n_ids - 1;
    int64_t context = o->context ? o->context : config->max_positions;
    int64_t length = o->window ? o->window : context;
    if (targets < 1)
        return phx_fail(PHX_USAGE, "the text has %zu tokens: at least 2 are needed", s->n_ids);
    if (length > config->max_positions)
        return phx_fail(PHX_USAGE, "a window of %lld tokens: the model has positions for %lld",
                        (long long)length, (long long)config->max_positions);
    if (length > context)
        return phx_fail(PHX_USAGE, "a window of %lld tokens and a context of %lld: raise -c",
                        (long long)length, (long long)context);
    int64_t stride = o->stride ? o->stride : length;
    if (stride > length)
        return phx_fail(PHX_USAGE, "--stride %d: must be at most the window, %lld", o->stride,
                        (long long)length);
    if (length > targets) length = targets; /* then there is one window */
    s->length = (int32_t)length;
    s->n_windows = (size_t)((targets - length) / stride + 1);
    s->windows = calloc(s->n_windows, sizeof *s->windows);
    if (s->windows == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu windows", s->n_windows);
    int64_t end = 0;
    for (size_t i = 0; i < s->n_windows; i++) {
        struct window *w = &s->windows[i];
        *w = (struct window){.score = s, .begin = (int64_t)i * stride, .scored = end + 1};
        end = w->begin + length;
        struct phx_request_options request = {.prompt_ids = s->ids + w->begin,
                                              .n_prompt = s->length,
                                              .sampling = {.top_p = 1, .repeat_penalty = 1},
                                              .want_all_logits = true,
                                              .on_output = on_output,
                                              .user = w};
        PHX_TRY(phx_request_create(&request, &w->request));
    }
    if (end < targets)
        phx_log(PHX_LOG_INFO, "the last %lld tokens do not fill a window and are left out",
                (long long)(targets - end));
    return PHX_OK;
}

/* Rank 0: the text, before the model is loaded. */
static enum phx_status prepare(struct score *s, const struct phx_run *run)
{
    struct phx_texts texts;
    struct phx_tokenizer *tokenizer = NULL;
    s->vocab = run->config->vocab;
    PHX_TRY(phx_texts_read(s->options, &texts));
    enum phx_status status = phx_tokenizer_load(run->directory, &tokenizer);
    if (status == PHX_OK)
        status = phx_tokenizer_encode(tokenizer, texts.items[0].text, texts.items[0].bytes, false,
                                      &s->ids, &s->n_ids);
    phx_tokenizer_destroy(tokenizer);
    phx_texts_free(&texts);
    return status == PHX_OK ? cut(s, run->config) : status;
}

static enum phx_status print(const struct score *s)
{
    double mean = s->nll / (double)s->n_scored;
    if (s->options->json)
        return phx_json_line(json_pack("{s:f, s:f, s:I, s:i, s:I}", "mean_nll", mean, "perplexity",
                                       exp(mean), "tokens", (json_int_t)s->n_scored, "window",
                                       s->length, "windows", (json_int_t)s->n_windows),
                             stdout);
    printf("perplexity %.4f (mean negative log-likelihood %.6f over %lld tokens, windows of %d)\n",
           exp(mean), mean, (long long)s->n_scored, s->length);
    return fflush(stdout) == 0 ? PHX_OK : phx_fail(PHX_IO, "cannot write the result");
}

static enum phx_status lead(struct score *s, struct phx_engine *engine)
{
    bool worked = true;
    phx_interrupt_catch();
    while (worked && !phx_interrupted()) {
        PHX_TRY(phx_engine_step(engine, &worked));
        PHX_TRY(s->status);
    }
    PHX_TRY(phx_engine_stop(engine)); /* after Ctrl-C a step may be under way */
    PHX_TRY(s->status);
    if (s->n_scored == 0) return PHX_OK;
    if (phx_interrupted()) phx_log(PHX_LOG_WARN, "interrupted: this is of a part of the text");
    return print(s);
}

static enum phx_status submit(struct score *s, struct phx_engine *engine)
{
    for (size_t i = 0; i < s->n_windows; i++)
        PHX_TRY(phx_engine_submit(engine, s->windows[i].request));
    return PHX_OK;
}

static enum phx_status run_score(struct score *s, struct phx_run *run)
{
    bool leads = run->world->rank == 0;
    struct phx_run_needs needs = {.max_rows = s->options->max_batched_tokens, .all_logits = true};
    PHX_TRY(phx_world_agree(run->world, leads ? prepare(s, run) : PHX_OK));
    if (leads) {
        /* Enough windows at a time to fill a step. */
        const int32_t rows =
            needs.max_rows != 0 ? needs.max_rows : phx_run_step_tokens(run->settings.device);
        needs.max_seqs = rows / s->length + 1;
        if (needs.max_seqs > s->options->max_seqs) needs.max_seqs = s->options->max_seqs;
        if ((size_t)needs.max_seqs > s->n_windows) needs.max_seqs = (int32_t)s->n_windows;
        needs.max_length = s->length;
    }
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(phx_world_agree(run->world, leads ? submit(s, run->engine) : PHX_OK));
    if (!leads) phx_interrupt_catch();
    PHX_TRY(leads ? lead(s, run->engine) : phx_engine_follow(run->engine));
    PHX_TRY(phx_report_run(run));
    phx_run_finish(run);
    return leads && phx_interrupted() ? PHX_INTERRUPTED : PHX_OK;
}

enum phx_status phx_verb_perplexity(struct phx_world *world, const struct phx_options *options)
{
    struct phx_placement *placement = NULL;
    struct phx_run_settings settings;
    struct phx_run *run = NULL;
    struct score score = {.options = options};
    enum phx_status status = phx_settings_make(world, options, &placement, &settings);
    if (status == PHX_OK) status = phx_run_open(world, &settings, &run);
    if (status == PHX_OK) status = run_score(&score, run);
    for (size_t i = 0; score.windows != NULL && i < score.n_windows; i++)
        phx_request_destroy(score.windows[i].request);
    free(score.windows);
    free(score.ids);
    phx_run_destroy(run);
    phx_placement_destroy(placement);
    return status;
}
