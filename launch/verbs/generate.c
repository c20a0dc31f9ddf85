#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/interrupt.h"
#include "launch/report.h"
#include "launch/results.h"
#include "launch/sampling.h"
#include "launch/settings.h"
#include "launch/verbs/continuation.h"
#include "launch/verbs/text_input.h"
#include "launch/verbs/verbs.h"
#include "runtime/safetensors.h"

/* What rank 0 keeps of the job. */
struct job {
    const struct phx_options *options;
    const struct phx_config *config;
    struct phx_tokenizer *tokenizer; /* NULL: dummy weights without tokenizer.json */
    struct phx_continuation **items;
    size_t n, n_refused; /* items; those without a request */
    size_t n_printed, n_shown, n_failed;
    int32_t context;
    struct phx_results out;
    enum phx_status status; /* of callbacks */
};

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
    if (!o->ignore_eos) {
        out->stop_ids = job->config->eos;
        out->n_stop_ids = job->config->n_eos;
    }
    for (int32_t i = 0; o->ignore_eos && i < job->config->n_eos; i++) {
        ids[n] = job->config->eos[i];
        values[n++] = -INFINITY;
    }
    out->n_bias = n;
    out->bias_ids = ids;
    out->bias_values = values;
    return PHX_OK;
}

static enum phx_status check_length(const struct job *job, size_t n_prompt)
{
    size_t n_forced = job->options->force_ids.n, context = (size_t)job->context;
    const char *advice = job->context < job->config->max_positions ? " or raise -c" : "";
    if (n_prompt == 0) return phx_fail(PHX_USAGE, "the prompt is empty: give at least one token");
    if (n_prompt > context)
        return phx_fail(PHX_USAGE, "the prompt has %zu tokens, the context holds %zu: shorten it%s",
                        n_prompt, context, advice);
    if (n_forced > context - n_prompt)
        return phx_fail(PHX_USAGE,
                        "the prompt has %zu tokens and --force-ids %zu, the context holds %zu: "
                        "shorten them%s",
                        n_prompt, n_forced, context, advice);
    return PHX_OK;
}

/* `ids` has a length that fits; it and `text` are the prompt's from here on. */
static enum phx_status add_prompt(struct job *job, const struct phx_request_options *request,
                                  struct phx_ids ids, char *text, size_t bytes)
{
    struct phx_request_options own = *request;
    int32_t room = job->context - (int32_t)ids.n;
    if (own.max_new < 0 || own.max_new > room) own.max_new = room;
    PHX_TRY(phx_continuation_create(job->tokenizer, job->options, &own, job->config->vocab, ids,
                                    text, bytes, &job->items[job->n]));
    job->items[job->n++]->status = &job->status;
    return PHX_OK;
}

static enum phx_status add_ids(struct job *job, const struct phx_request_options *request)
{
    const struct phx_id_list *list = &job->options->prompt_ids;
    PHX_TRY(check_length(job, list->n));
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

static enum phx_status encode(const struct job *job, const struct phx_text *text,
                              struct phx_ids *out)
{
    PHX_TRY(phx_tokenizer_encode(job->tokenizer, text->text, text->bytes, !job->options->no_bos,
                                 &out->items, &out->n));
    enum phx_status status = check_length(job, out->n);
    if (status != PHX_OK) free(out->items);
    return status;
}

static enum phx_status add_text(struct job *job, const struct phx_request_options *request,
                                struct phx_text *text, bool alone)
{
    struct phx_ids ids = {NULL, 0};
    enum phx_status status = encode(job, text, &ids);
    if (status == PHX_USAGE && !alone) { /* the others can be run */
        job->n_refused++;
        return phx_continuation_create_refused(&job->items[job->n++]);
    }
    if (status != PHX_OK) return status;
    char *own = text->text;
    text->text = NULL;
    return add_prompt(job, request, ids, own, text->bytes);
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
    for (size_t i = 0; i < texts.n && status == PHX_OK; i++)
        status = add_text(job, request, &texts.items[i], texts.n == 1);
    phx_texts_free(&texts);
    return status;
}

static enum phx_status print_text(struct job *job, const struct phx_continuation *c)
{
    FILE *file = job->out.file;
    if (job->options->json) return phx_continuation_print_json(c, file);
    if (c->request == NULL) return PHX_OK;
    if (c->live == NULL) {
        if (job->n_shown++ > 0) fprintf(file, "---\n");
        fwrite(c->prompt_text, 1, c->prompt_bytes, file);
        fwrite(c->text, 1, c->bytes, file);
    }
    fprintf(file, "\n");
    return fflush(file) == 0 ? PHX_OK
                             : phx_fail(PHX_IO, "cannot write the text to standard output");
}

/* In the order of the prompts. */
static enum phx_status print_finished(struct job *job, bool last_chance)
{
    for (; job->n_printed < job->n; job->n_printed++) {
        struct phx_continuation *c = job->items[job->n_printed];
        bool finished = c->request == NULL || c->request->finish != PHX_FINISH_NONE;
        if (!finished && !last_chance) return PHX_OK;
        /* Not begun: there is nothing to show. */
        if (!finished && c->request->n_ids == c->request->options.n_prompt) continue;
        if (c->request != NULL) PHX_TRY(phx_continuation_end(c));
        PHX_TRY(print_text(job, c));
        if (c->error != NULL) {
            job->n_failed++;
            phx_log(PHX_LOG_ERROR, "prompt %zu: %s", job->n_printed + 1, c->error);
        }
    }
    return PHX_OK;
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
    job->context = (int32_t)run->config->context;
    enum phx_status status = phx_tokenizer_load(run->directory, &job->tokenizer);
    if (status == PHX_NOT_FOUND && run->settings.dummy) {
        phx_fail_clear();
        status = PHX_OK;
    }
    if (status != PHX_OK) return status;
    PHX_TRY(phx_sampling_choose(o, job->config, &request.sampling));
    PHX_TRY(choose_bias(job, ids, values, &request));
    PHX_TRY(o->prompt_ids.n > 0 ? add_ids(job, &request) : add_texts(job, &request));
    if (job->n > 1 && (o->logits_out != NULL || o->force_ids.n > 0))
        return phx_fail(PHX_USAGE, "--logits-out and --force-ids take one prompt, there are %zu",
                        job->n);
    if (o->logits_out != NULL) PHX_TRY(phx_safetensors_can_write(o->logits_out));
    if (job->n_refused < job->n) return PHX_OK;
    PHX_TRY(print_finished(job, false));
    return phx_fail(PHX_USAGE, "none of the %zu prompts can be run", job->n);
}

static struct phx_run_needs needs_of(const struct job *job)
{
    const struct phx_options *o = job->options;
    struct phx_run_needs needs = {.max_seqs = o->max_seqs,
                                  .max_rows = o->max_batched_tokens,
                                  .logits = o->logprobs >= 0,
                                  .all_logits = o->logits_out != NULL};
    size_t n = job->n - job->n_refused;
    if ((size_t)needs.max_seqs > n) needs.max_seqs = (int32_t)n;
    for (size_t i = 0; i < job->n; i++) {
        if (job->items[i]->request == NULL) continue;
        const struct phx_request_options *r = &job->items[i]->request->options;
        int32_t length = r->n_prompt + r->max_new;
        if (o->logits_out != NULL) needs.kept_rows += length;
        if (length > needs.max_length) needs.max_length = length;
        needs.total_tokens += length;
    }
    return needs;
}

/* Rank 0: the step loop. */
static enum phx_status lead(struct job *job, struct phx_engine *engine)
{
    bool worked = true;
    phx_interrupt_catch();
    FILE *live = job->n == 1 && !job->options->json ? job->out.file : NULL;
    for (size_t i = 0; i < job->n; i++) phx_continuation_begin(job->items[i], live);
    while (worked && !phx_interrupted()) {
        PHX_TRY(phx_engine_step(engine, &worked));
        PHX_TRY(job->status);
        PHX_TRY(print_finished(job, false));
    }
    PHX_TRY(phx_engine_stop(engine)); /* after Ctrl-C a step may be under way, with its tokens */
    PHX_TRY(print_finished(job, true));
    PHX_TRY(phx_results_close(&job->out));
    if (job->options->logits_out != NULL)
        PHX_TRY(phx_continuation_write_logits(job->items[0], job->options->logits_out));
    return PHX_OK;
}

static enum phx_status submit(struct job *job, struct phx_engine *engine)
{
    for (size_t i = 0; i < job->n; i++) {
        if (job->items[i]->request == NULL) continue;
        if (job->options->logits_out != NULL) PHX_TRY(phx_continuation_keep_logits(job->items[i]));
        PHX_TRY(phx_engine_submit(engine, job->items[i]->request));
    }
    return PHX_OK;
}

static enum phx_status run_job(struct job *job, struct phx_run *run)
{
    bool leads = run->world->rank == 0;
    struct phx_run_needs needs = {0};
    if (leads) phx_results_open(&job->out);
    PHX_TRY(phx_world_agree(run->world, leads ? prepare(job, run) : PHX_OK));
    if (leads) needs = needs_of(job);
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(phx_world_agree(run->world, leads ? submit(job, run->engine) : PHX_OK));
    if (!leads) phx_interrupt_catch();
    PHX_TRY(leads ? lead(job, run->engine) : phx_engine_follow(run->engine));
    PHX_TRY(phx_report_run(run));
    phx_run_finish(run);
    if (leads && phx_interrupted()) return PHX_INTERRUPTED;
    return job->n_failed > 0 ? PHX_BAD_DATA : PHX_OK; /* why has been told */
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
    phx_results_close(&job.out); /* after a failure */
    for (size_t i = 0; i < job.n; i++) phx_continuation_destroy(job.items[i]);
    free(job.items);
    phx_tokenizer_destroy(job.tokenizer);
    phx_run_destroy(run);
    phx_placement_destroy(placement);
    return status;
}
