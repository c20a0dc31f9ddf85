#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "launch/interrupt.h"
#include "launch/sampling.h"
#include "launch/settings.h"
#include "launch/verbs/verbs.h"
#include "runtime/chat.h"
#include "runtime/stop_text.h"
#include "runtime/tokenizer/buffer.h"
#include "runtime/tokenizer/tokenizer.h"

/* Rank 0's side of the conversation. */
struct talk {
    const struct phx_options *options;
    const struct phx_config *config;
    struct phx_tokenizer *tokenizer;
    struct phx_chat *chat;
    struct phx_sampling sampling;
    json_t *messages;
    /* of the answer under way */
    struct phx_request *request;
    struct phx_text_stream *stream;
    struct phx_stop_text *stop;
    struct phx_bytes answer;
    enum phx_status status;
};

/* ---- an answer ---- */

static enum phx_status show(struct talk *t, const char *text, size_t n)
{
    PHX_TRY(phx_bytes_append(&t->answer, text, n));
    if (fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0) return PHX_OK;
    return phx_fail(PHX_IO, "cannot write the text to standard output");
}

static enum phx_status push(struct talk *t, const char *piece, size_t n)
{
    const char *text;
    size_t bytes;
    bool stopped;
    PHX_TRY(phx_stop_text_push(t->stop, piece, n, &text, &bytes, &stopped));
    if (stopped) phx_request_cancel(t->request, PHX_FINISH_STOP);
    return show(t, text, bytes);
}

static enum phx_status take(struct talk *t, const struct phx_output *output)
{
    const char *piece;
    size_t n;
    if (isnan(output->logprob))
        return phx_fail(PHX_BAD_DATA,
                        "the logits for token %d hold NaN or infinity: the model's weights are "
                        "broken, or --dtype is too narrow for them",
                        output->position);
    if (t->request->ending == PHX_FINISH_STOP) return PHX_OK; /* a stop token is not text */
    PHX_TRY(phx_text_stream_push(t->stream, output->id, &piece, &n));
    return push(t, piece, n);
}

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct talk *t = request->options.user;
    t->status = take(t, output);
    if (t->status != PHX_OK) phx_request_cancel(request, PHX_FINISH_CANCELLED);
}

/* What the decoder and the stop texts still hold back. */
static enum phx_status flush(struct talk *t)
{
    const char *text;
    size_t n;
    bool stopped = t->request->cancelled && t->request->finish == PHX_FINISH_STOP;
    PHX_TRY(phx_text_stream_flush(t->stream, &text, &n));
    if (!stopped && n > 0) PHX_TRY(push(t, text, n));
    phx_stop_text_flush(t->stop, &text, &n);
    return show(t, text, n);
}

static enum phx_status run(struct talk *t, struct phx_engine *engine)
{
    PHX_TRY(phx_engine_submit(engine, t->request));
    while (t->request->finish == PHX_FINISH_NONE) {
        bool worked;
        if (phx_interrupted()) phx_request_cancel(t->request, PHX_FINISH_CANCELLED);
        PHX_TRY(phx_engine_step(engine, &worked));
    }
    PHX_TRY(t->status);
    return flush(t);
}

static void drop_answer(struct talk *t)
{
    phx_request_destroy(t->request);
    phx_text_stream_destroy(t->stream);
    phx_stop_text_destroy(t->stop);
    t->request = NULL;
    t->stream = NULL;
    t->stop = NULL;
    t->answer.n = 0;
}

static enum phx_status prepare_answer(struct talk *t, const int32_t *ids, size_t n, int32_t context)
{
    const struct phx_options *o = t->options;
    int32_t max_new = o->n_predict;
    if (n >= (size_t)context)
        return phx_fail(PHX_USAGE,
                        "the conversation has %zu tokens, the context holds %d: /clear begins a "
                        "new one",
                        n, context);
    if (max_new < 0 || max_new > context - (int32_t)n) max_new = context - (int32_t)n;
    const struct phx_request_options options = {.prompt_ids = ids,
                                                .n_prompt = (int32_t)n,
                                                .max_new = max_new,
                                                .sampling = t->sampling,
                                                .stop_ids = t->config->eos,
                                                .n_stop_ids = t->config->n_eos,
                                                .on_output = on_output,
                                                .user = t};
    PHX_TRY(phx_request_create(&options, &t->request));
    PHX_TRY(phx_text_stream_create(t->tokenizer, ids, n, true, &t->stream));
    return phx_stop_text_create(o->stop.items, o->stop.n, &t->stop);
}

static enum phx_status answer(struct talk *t, struct phx_engine *engine)
{
    char *text;
    size_t bytes, n;
    int32_t *ids;
    PHX_TRY(phx_chat_render(t->chat, t->messages, NULL, true, &text, &bytes));
    enum phx_status status = phx_tokenizer_encode(t->tokenizer, text, bytes, false, &ids, &n);
    free(text);
    PHX_TRY(status);
    status = prepare_answer(t, ids, n, phx_engine_max_tokens(engine));
    free(ids);
    if (status == PHX_OK) status = run(t, engine);
    return status;
}

/* ---- the conversation ---- */

static enum phx_status say(struct talk *t, const char *role, const char *text, size_t n)
{
    json_t *content = json_stringn(text, n);
    if (content == NULL) return phx_fail(PHX_USAGE, "the text is not valid UTF-8");
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
    if (json_array_append_new(t->messages, message) == 0) return PHX_OK;
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a message");
}

static enum phx_status begin(struct talk *t)
{
    const char *system = t->options->system_message;
    json_array_clear(t->messages);
    return system != NULL ? say(t, "system", system, strlen(system)) : PHX_OK;
}

/* One message of the user and its answer. What the user can mend is told, and the talk goes on. */
static enum phx_status turn(struct talk *t, struct phx_engine *engine, const char *line, size_t n)
{
    size_t before = json_array_size(t->messages);
    enum phx_status status = say(t, "user", line, n);
    if (status == PHX_OK) status = answer(t, engine);
    if (status == PHX_OK) {
        status = say(t, "assistant", t->answer.data != NULL ? t->answer.data : "", t->answer.n);
        printf("\n");
    }
    drop_answer(t);
    if (status != PHX_USAGE) return status;
    while (json_array_size(t->messages) > before)
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
    fprintf(stderr, "%s\n", phx_fail_sentence());
    phx_fail_clear();
    return PHX_OK;
}

static enum phx_status lead(struct talk *t, struct phx_engine *engine)
{
    char *line = NULL;
    size_t capacity = 0;
    enum phx_status status = begin(t);
    bool shows = isatty(STDIN_FILENO) != 0;
    if (shows) fprintf(stderr, "/clear begins anew, /exit or Ctrl-D ends\n");
    phx_interrupt_catch();
    while (status == PHX_OK && !phx_interrupted()) {
        if (shows) fprintf(stderr, "> ");
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0) break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = '\0';
        if (strcmp(line, "/exit") == 0) break;
        if (strcmp(line, "/clear") == 0)
            status = begin(t);
        else if (n > 0)
            status = turn(t, engine, line, (size_t)n);
    }
    free(line);
    PHX_TRY(status);
    return phx_engine_stop(engine);
}

static enum phx_status prepare(struct talk *t, const struct phx_run *run)
{
    t->config = run->config;
    PHX_TRY(phx_tokenizer_load(run->directory, &t->tokenizer));
    PHX_TRY(phx_chat_load(run->directory, t->options->chat_template, t->tokenizer, &t->chat));
    PHX_TRY(phx_sampling_choose(t->options, run->config, &t->sampling));
    t->messages = json_array();
    return t->messages != NULL ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "no memory for messages");
}

static enum phx_status run_talk(struct talk *t, struct phx_run *run)
{
    bool leads = run->world->rank == 0;
    PHX_TRY(phx_world_agree(run->world, leads ? prepare(t, run) : PHX_OK));
    struct phx_run_needs needs = {.max_seqs = 1,
                                  .max_rows = t->options->max_batched_tokens,
                                  .max_length = (int32_t)run->config->context,
                                  .share_prefixes = true};
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(leads ? lead(t, run->engine) : phx_engine_follow(run->engine));
    phx_run_finish(run);
    return PHX_OK;
}

enum phx_status phx_verb_chat(struct phx_world *world, const struct phx_options *options)
{
    struct phx_placement *placement = NULL;
    struct phx_run_settings settings;
    struct phx_run *run = NULL;
    struct talk t = {.options = options};
    enum phx_status status = phx_settings_make(world, options, &placement, &settings);
    if (status == PHX_OK) status = phx_run_open(world, &settings, &run);
    if (status == PHX_OK) status = run_talk(&t, run);
    phx_run_destroy(run);
    drop_answer(&t);
    free(t.answer.data);
    json_decref(t.messages);
    phx_chat_destroy(t.chat);
    phx_tokenizer_destroy(t.tokenizer);
    phx_placement_destroy(placement);
    return status;
}
