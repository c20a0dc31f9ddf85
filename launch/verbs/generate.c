#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/interrupt.h"
#include "launch/report.h"
#include "launch/settings.h"
#include "launch/verbs/continuation.h"
#include "launch/verbs/text_input.h"
#include "launch/verbs/verbs.h"

/* What rank 0 keeps of the job. */
struct job {
    const struct phx_options *options;
    const struct phx_config *config;
    struct phx_tokenizer *tokenizer; /* NULL: dummy weights without tokenizer.json */
    struct phx_continuation **items;
    size_t n, n_printed;
    int32_t context;
};

static double choose(const struct phx_options *o, const char *name, double value, double model)
{
    return !phx_options_given(o, name) && !isnan(model) ? model : value;
}

static enum phx_status choose_sampling(const struct job *job, struct phx_sampling *out)
{
    const struct phx_options *o = job->options;
    const struct phx_config *c = job->config;
    *out = (struct phx_sampling){
        .temperature = (float)choose(o, "--temp", o->temperature, c->temperature),
        .top_p = (float)choose(o, "--top-p", o->top_p, c->top_p),
        .min_p = (float)choose(o, "--min-p", o->min_p, c->min_p),
        .top_k = !phx_options_given(o, "--top-k") && c->top_k >= 0 ? c->top_k : o->top_k,
        .repeat_penalty =
            (float)choose(o, "--repeat-penalty", o->repeat_penalty, c->repeat_penalty),
        .presence_penalty = (float)o->presence_penalty,
        .frequency_penalty = (float)o->frequency_penalty,
        .seed = (uint64_t)o->seed};
    if (o->seed >= 0) return PHX_OK;
    if (getrandom(&out->seed, sizeof out->seed, 0) != (ssize_t)sizeof out->seed)
        return phx_fail(PHX_IO, "the system has no random seed: give one with -s");
    out->seed >>= 1; /* so that it can be given back with -s */
    if (out->temperature > 0) phx_log(PHX_LOG_INFO, "seed %llu", (unsigned long long)out->seed);
    return PHX_OK;
}

/* The biases asked for, and "never" for the end-of-text tokens under --ignore-eos. */
static enum phx_status choose_bias(const struct job *job, int32_t *ids, float *values,
                                   struct phx_request_options *out)
{
    const struct phx_options *o = job->options;
    size_t wanted = o->logit_bias.n + (o->ignore_eos ? (size_t)job->config->n_eos : 0);
    if (wanted > PHX_MAX_BIAS)
        return phx_fail(PHX_USAGE, "%zu logit biases: at most %d", wanted, PHX_MAX_BIAS);
    int32_t n = 0;
    for (size_t i = 0; i < o->logit_bias.n; i++, n++) {
        ids[n] = o->logit_bias.items[i].id;
        values[n] = o->logit_bias.items[i].value;
    }
    for (int32_t i = 0; i < job->config->n_eos; i++) {
        if (!o->ignore_eos) {
            out->stop_ids[out->n_stop_ids++] = job->config->eos[i];
            continue;
        }
        ids[n] = job->config->eos[i];
        values[n++] = -INFINITY;
    }
    out->n_bias = n;
    out->bias_ids = ids;
    out->bias_values = values;
    return PHX_OK;
}

static enum phx_status add_prompt(struct job *job, const struct phx_request_options *request,
                                  struct phx_ids ids, char *text, size_t bytes)
{
    struct phx_request_options own = *request;
    enum phx_status status = PHX_OK;
    if (ids.n == 0)
        status = phx_fail(PHX_USAGE, "prompt %zu is empty: give at least one token", job->n + 1);
    else if (ids.n > (size_t)job->context)
        status = phx_fail(
            PHX_USAGE, "prompt %zu has %zu tokens, the context holds %d: shorten it%s", job->n + 1,
            ids.n, job->context, job->context < job->config->max_positions ? " or raise -c" : "");
    if (status != PHX_OK) {
        free(ids.items);
        free(text);
        return status;
    }
    int32_t room = job->context - (int32_t)ids.n;
    if (own.max_new < 0 || own.max_new > room) own.max_new = room;
    PHX_TRY(phx_continuation_create(job->tokenizer, job->options, &own, job->config->vocab, ids,
                                    text, bytes, &job->items[job->n]));
    job->n++;
    return PHX_OK;
}

static enum phx_status add_ids(struct job *job, const struct phx_request_options *request)
{
    const struct phx_id_list *list = &job->options->prompt_ids;
    struct phx_ids ids = {malloc(list->n * sizeof(int32_t) + 1), list->n};
    char *text = NULL;
    size_t bytes = 0;
    if (ids.items == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the prompt");
    memcpy(ids.items, list->items, list->n * sizeof(int32_t));
    if (job->tokenizer != NULL) {
        enum phx_status status =
            phx_tokenizer_decode(job->tokenizer, ids.items, ids.n, true, &text, &bytes);
        if (status != PHX_OK) {
            free(ids.items);
            return status;
        }
    }
    job->items = calloc(1, sizeof(struct phx_continuation *));
    if (job->items == NULL) {
        free(ids.items);
        free(text);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the prompt");
    }
    return add_prompt(job, request, ids, text, bytes);
}

static enum phx_status add_texts(struct job *job, const struct phx_request_options *request)
{
    struct phx_texts texts;
    if (job->tokenizer == NULL)
        return phx_fail(PHX_USAGE, "the model has no tokenizer.json: give --prompt-ids");
    PHX_TRY(phx_texts_read(job->options, &texts));
    enum phx_status status = PHX_OK;
    job->items = calloc(texts.n, sizeof(struct phx_continuation *));
    if (job->items == NULL)
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu prompts", texts.n);
    for (size_t i = 0; i < texts.n && status == PHX_OK; i++) {
        struct phx_ids ids = {NULL, 0};
        status = phx_tokenizer_encode(job->tokenizer, texts.items[i].text, texts.items[i].bytes,
                                      !job->options->no_bos, &ids.items, &ids.n);
        if (status != PHX_OK) break;
        status = add_prompt(job, request, ids, texts.items[i].text, texts.items[i].bytes);
        texts.items[i].text = NULL; /* the prompt's now */
    }
    phx_texts_free(&texts);
    return status;
}

/* Rank 0: everything about the prompts, before the model is loaded. */
static enum phx_status prepare(struct job *job, const struct phx_run *run)
{
    const struct phx_options *o = job->options;
    int32_t ids[PHX_MAX_BIAS];
    float values[PHX_MAX_BIAS];
    struct phx_request_options request = {.max_new = o->n_predict,
                                          .forced_ids = o->force_ids.items,
                                          .n_forced = (int32_t)o->force_ids.n};
    job->config = run->config;
    job->context = o->context ? o->context : (int32_t)run->config->max_positions;
    if (job->context > run->config->max_positions)
        return phx_fail(PHX_USAGE, "-c %d: the model has positions for %lld tokens", job->context,
                        (long long)run->config->max_positions);
    enum phx_status status = phx_tokenizer_load(run->directory, &job->tokenizer);
    if (status == PHX_NOT_FOUND && run->settings.dummy) {
        phx_fail_clear();
        status = PHX_OK;
    }
    if (status != PHX_OK) return status;
    PHX_TRY(choose_sampling(job, &request.sampling));
    PHX_TRY(choose_bias(job, ids, values, &request));
    PHX_TRY(o->prompt_ids.n > 0 ? add_ids(job, &request) : add_texts(job, &request));
    if (job->n > 1 && (o->logits_out != NULL || o->force_ids.n > 0))
        return phx_fail(PHX_USAGE, "--logits-out and --force-ids take one prompt, there are %zu",
                        job->n);
    return PHX_OK;
}

static struct phx_run_needs needs_of(const struct job *job)
{
    const struct phx_options *o = job->options;
    struct phx_run_needs needs = {.max_seqs = o->max_seqs,
                                  .max_rows = o->max_batched_tokens,
                                  .all_logits = o->logits_out != NULL};
    if ((size_t)needs.max_seqs > job->n) needs.max_seqs = (int32_t)job->n;
    for (size_t i = 0; i < job->n; i++) {
        const struct phx_request_options *r = &job->items[i]->request->options;
        int32_t length = r->n_prompt + r->max_new;
        if (length > needs.max_length) needs.max_length = length;
        needs.total_tokens += length;
    }
    return needs;
}

static enum phx_status print_finished(struct job *job, bool last_chance)
{
    for (; job->n_printed < job->n; job->n_printed++) {
        struct phx_continuation *c = job->items[job->n_printed];
        bool finished = c->request->finish != PHX_FINISH_NONE;
        if (!finished && !last_chance) return PHX_OK;
        /* An interrupted mpirun forwards little more: what has nothing to show stays away. */
        if (!finished && c->request->n_ids == c->request->options.n_prompt) continue;
        PHX_TRY(phx_continuation_end(c));
        if (job->options->json) {
            PHX_TRY(phx_continuation_print_json(c, stdout));
        } else if (c->live != NULL) {
            printf("\n");
        } else {
            if (job->n_printed > 0) printf("---\n");
            fwrite(c->prompt_text, 1, c->prompt_bytes, stdout);
            fwrite(c->text, 1, c->bytes, stdout);
            printf("\n");
        }
        if (fflush(stdout) != 0)
            return phx_fail(PHX_IO, "cannot write the text to standard output");
    }
    return PHX_OK;
}

/* Rank 0: the step loop. */
static enum phx_status lead(struct job *job, struct phx_engine *engine)
{
    bool worked = true;
    phx_interrupt_catch();
    for (size_t i = 0; i < job->n; i++)
        phx_continuation_begin(job->items[i], job->n == 1 && !job->options->json ? stdout : NULL);
    while (worked && !phx_interrupted()) {
        PHX_TRY(phx_engine_step(engine, &worked));
        for (size_t i = 0; i < job->n; i++) PHX_TRY(job->items[i]->status);
        PHX_TRY(print_finished(job, false));
    }
    PHX_TRY(print_finished(job, true));
    if (job->options->logits_out != NULL)
        PHX_TRY(phx_continuation_write_logits(job->items[0], job->options->logits_out));
    return phx_engine_stop(engine);
}

static enum phx_status submit(struct job *job, struct phx_engine *engine)
{
    for (size_t i = 0; i < job->n; i++) PHX_TRY(phx_engine_submit(engine, job->items[i]->request));
    return PHX_OK;
}

static enum phx_status run_job(struct job *job, struct phx_run *run)
{
    bool leads = run->world->rank == 0;
    struct phx_run_needs needs = {0};
    PHX_TRY(phx_world_agree(run->world, leads ? prepare(job, run) : PHX_OK));
    if (leads) needs = needs_of(job);
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(phx_world_agree(run->world, leads ? submit(job, run->engine) : PHX_OK));
    if (!leads) phx_interrupt_catch();
    PHX_TRY(leads ? lead(job, run->engine) : phx_engine_follow(run->engine));
    PHX_TRY(phx_report_run(run));
    phx_run_finish(run);
    return leads && phx_interrupted() ? PHX_INTERRUPTED : PHX_OK;
}

enum phx_status phx_verb_generate(struct phx_world *world, const struct phx_options *options)
{
    struct phx_placement *placement = NULL;
    struct phx_run_settings settings;
    struct phx_run *run = NULL;
    struct job job = {.options = options};
    enum phx_status status = phx_settings_make(world, options, &placement, &settings);
    if (status == PHX_OK) status = phx_run_open(world, &settings, &run);
    if (status == PHX_OK) status = run_job(&job, run);
    for (size_t i = 0; i < job.n; i++) phx_continuation_destroy(job.items[i]);
    free(job.items);
    phx_tokenizer_destroy(job.tokenizer);
    phx_run_destroy(run);
    phx_placement_destroy(placement);
    return status;
}
