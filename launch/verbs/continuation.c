#include "launch/verbs/continuation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "launch/logprobs.h"
#include "launch/verbs/json_line.h"
#include "runtime/safetensors.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum phx_status keep(struct phx_continuation *c, const char *text, size_t bytes)
{
    if (bytes == 0) return PHX_OK;
    if (c->bytes + bytes > c->capacity) {
        size_t capacity = 2 * (c->bytes + bytes) + 256;
        char *grown = realloc(c->text, capacity);
        if (grown == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the text");
        c->text = grown;
        c->capacity = capacity;
    }
    memcpy(c->text + c->bytes, text, bytes);
    c->bytes += bytes;
    if (c->live == NULL) return PHX_OK;
    if (fwrite(text, 1, bytes, c->live) != bytes || fflush(c->live) != 0)
        return phx_fail(PHX_IO, "cannot write the text to standard output");
    return PHX_OK;
}

static enum phx_status show(struct phx_continuation *c, const char *piece, size_t bytes,
                            bool *out_stopped)
{
    const char *text;
    size_t n;
    PHX_TRY(phx_stop_text_push(c->stop, piece, bytes, &text, &n, out_stopped));
    return keep(c, text, n);
}

/* The recorded sentence becomes this text's own. */
static enum phx_status take_error(struct phx_continuation *c)
{
    c->error = strdup(phx_fail_sentence());
    if (c->error == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a sentence");
    phx_fail_clear();
    return PHX_OK;
}

static enum phx_status give_up(struct phx_continuation *c, int32_t position)
{
    phx_fail(PHX_BAD_DATA,
             "the logits for token %d hold NaN or infinity: the model's weights are broken, or "
             "--dtype is too narrow for them",
             position);
    phx_request_cancel(c->request, PHX_FINISH_ERROR);
    return take_error(c);
}

/* Without the one that there was nothing to draw from for. */
static int32_t n_new(const struct phx_continuation *c)
{
    const struct phx_request *r = c->request;
    return r->n_ids - r->options.n_prompt - (r->finish == PHX_FINISH_ERROR);
}

static enum phx_status note_place(struct phx_continuation *c, const struct phx_output *output)
{
    struct phx_place *place = &c->places[output->position - (int32_t)c->prompt.n];
    double log_sum = phx_logprobs_sum(output->logits, c->vocab);
    if (isnan(log_sum)) return give_up(c, output->position);
    place->logprob = (float)(output->logits[output->id] - log_sum);
    place->n_top = c->n_logprobs;
    if (place->n_top == 0) return PHX_OK;
    place->top_ids = malloc((size_t)place->n_top * sizeof *place->top_ids);
    place->top_logprobs = malloc((size_t)place->n_top * sizeof *place->top_logprobs);
    if (place->top_ids == NULL || place->top_logprobs == NULL) {
        place->n_top = 0;
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for log-probabilities");
    }
    place->n_top = phx_logprobs_top(output->logits, c->vocab, log_sum, place->n_top, place->top_ids,
                                    place->top_logprobs);
    return PHX_OK;
}

static enum phx_status take(struct phx_continuation *c, const struct phx_output *output)
{
    if (c->logits != NULL && output->logits != NULL)
        memcpy(c->logits + (output->position - 1) * c->vocab, output->logits,
               (size_t)c->vocab * sizeof *c->logits);
    if (output->id < 0) return PHX_OK;
    bool drawn = output->position - (int32_t)c->prompt.n >= c->request->options.n_forced;
    if (drawn && isnan(output->logprob)) return give_up(c, output->position);
    c->last = now();
    if (c->first == 0) c->first = c->last;
    if (c->n_logprobs >= 0) PHX_TRY(note_place(c, output));
    /* The model's own end-of-text token is not text. */
    if (c->error != NULL || c->stream == NULL || c->request->ending == PHX_FINISH_STOP)
        return PHX_OK;
    const char *piece;
    size_t bytes;
    PHX_TRY(phx_text_stream_push(c->stream, output->id, &piece, &bytes));
    bool stopped;
    PHX_TRY(show(c, piece, bytes, &stopped));
    if (stopped) phx_request_cancel(c->request, PHX_FINISH_STOP);
    return PHX_OK;
}

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct phx_continuation *c = request->options.user;
    enum phx_status status = take(c, output);
    if (status == PHX_OK) return;
    *c->status = status;
    phx_request_cancel(request, PHX_FINISH_CANCELLED);
}

/* Of a text to which nothing was added all time is that of its prompt. */
static void on_finish(struct phx_request *request)
{
    struct phx_continuation *c = request->options.user;
    if (c->first == 0) c->first = c->last = now();
}

enum phx_status phx_continuation_create(const struct phx_tokenizer *tokenizer,
                                        const struct phx_options *command,
                                        const struct phx_request_options *options, int64_t vocab,
                                        struct phx_ids prompt, char *prompt_text,
                                        size_t prompt_bytes, struct phx_continuation **out)
{
    struct phx_continuation *c = calloc(1, sizeof *c);
    if (c == NULL) {
        free(prompt.items);
        free(prompt_text);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a prompt");
    }
    enum phx_status status = PHX_OK;
    c->tokenizer = tokenizer;
    c->prompt = prompt;
    c->prompt_text = prompt_text;
    c->prompt_bytes = prompt_bytes;
    c->n_logprobs = command->logprobs;
    c->vocab = vocab;
    struct phx_request_options o = *options;
    o.prompt_ids = prompt.items;
    o.n_prompt = (int32_t)prompt.n;
    o.want_logits = command->logprobs >= 0;
    o.want_all_logits = command->logits_out != NULL;
    o.on_output = on_output;
    o.on_finish = on_finish;
    o.user = c;
    PHX_TRY_GOTO(phx_request_create(&o, &c->request), fail);
    if (tokenizer != NULL)
        PHX_TRY_GOTO(phx_text_stream_create(tokenizer, prompt.items, prompt.n, true, &c->stream),
                     fail);
    PHX_TRY_GOTO(phx_stop_text_create(command->stop.items, command->stop.n, &c->stop), fail);
    c->places = calloc((size_t)o.max_new + 1, sizeof *c->places);
    if (c->places == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for %d tokens' results", o.max_new);
        goto fail;
    }
    *out = c;
    return PHX_OK;
fail:
    phx_continuation_destroy(c);
    return status;
}

enum phx_status phx_continuation_create_refused(struct phx_continuation **out)
{
    struct phx_continuation *c = calloc(1, sizeof *c);
    if (c == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a prompt");
    *out = c;
    return take_error(c);
}

void phx_continuation_destroy(struct phx_continuation *continuation)
{
    if (continuation == NULL) return;
    int32_t max_new = continuation->request ? continuation->request->options.max_new : 0;
    for (int32_t i = 0; continuation->places != NULL && i < max_new; i++) {
        free(continuation->places[i].top_ids);
        free(continuation->places[i].top_logprobs);
    }
    free(continuation->places);
    phx_request_destroy(continuation->request);
    phx_text_stream_destroy(continuation->stream);
    phx_stop_text_destroy(continuation->stop);
    free(continuation->prompt.items);
    free(continuation->prompt_text);
    free(continuation->text);
    free(continuation->logits);
    free(continuation->error);
    free(continuation);
}

enum phx_status phx_continuation_keep_logits(struct phx_continuation *continuation)
{
    const struct phx_request_options *o = &continuation->request->options;
    size_t rows = (size_t)o->n_prompt + (size_t)o->max_new;
    continuation->logits = malloc(rows * (size_t)continuation->vocab * sizeof(float));
    if (continuation->logits != NULL) return PHX_OK;
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the logits of %zu positions", rows);
}

void phx_continuation_begin(struct phx_continuation *continuation, FILE *live)
{
    continuation->begin = now();
    continuation->live = live;
    if (live == NULL) return;
    fwrite(continuation->prompt_text, 1, continuation->prompt_bytes, live);
    fflush(live);
}

enum phx_status phx_continuation_end(struct phx_continuation *continuation)
{
    struct phx_continuation *c = continuation;
    const char *text;
    size_t bytes;
    if (c->request->finish == PHX_FINISH_NONE) c->request->finish = PHX_FINISH_CANCELLED;
    if (c->stream != NULL) {
        PHX_TRY(phx_text_stream_flush(c->stream, &text, &bytes));
        bool open = !(c->request->cancelled && c->request->finish == PHX_FINISH_STOP);
        bool stopped = false;
        if (open && bytes > 0) PHX_TRY(show(c, text, bytes, &stopped));
        if (stopped) c->request->finish = PHX_FINISH_STOP;
    }
    phx_stop_text_flush(c->stop, &text, &bytes);
    return keep(c, text, bytes);
}

static json_t *json_place(const struct phx_place *place, int32_t id)
{
    json_t *top = json_array();
    for (int32_t i = 0; i < place->n_top; i++)
        json_array_append_new(top, json_pack("{s:i, s:f}", "id", place->top_ids[i], "logprob",
                                             phx_logprobs_json(place->top_logprobs[i])));
    return json_pack("{s:i, s:f, s:o}", "id", id, "logprob", phx_logprobs_json(place->logprob),
                     "top", top);
}

static json_t *json_timings(const struct phx_continuation *c)
{
    int32_t n_predicted = n_new(c);
    double prompt = c->first > 0 ? c->first - c->begin : 0;
    double predicted = c->last - c->first;
    return json_pack("{s:i, s:f, s:i, s:f, s:f}", "prompt_n", c->request->options.n_prompt,
                     "prompt_ms", 1e3 * prompt, "predicted_n", n_predicted, "predicted_ms",
                     1e3 * predicted, "predicted_per_second",
                     predicted > 0 ? (n_predicted - 1) / predicted : 0.0);
}

enum phx_status phx_continuation_print_json(const struct phx_continuation *continuation, FILE *file)
{
    const struct phx_continuation *c = continuation;
    const struct phx_request *r = c->request;
    if (r == NULL) return phx_json_line(json_pack("{s:s}", "error", c->error), file);
    int32_t n_prompt = r->options.n_prompt, n_ids = n_new(c);
    json_t *object =
        json_pack("{s:o, s:o, s:s%, s:s}", "prompt_ids", phx_json_ids(r->ids, (size_t)n_prompt),
                  "ids", phx_json_ids(r->ids + n_prompt, (size_t)n_ids), "text",
                  c->text ? c->text : "", c->bytes, "finish_reason", phx_finish_name(r->finish));
    if (object != NULL && c->n_logprobs >= 0) {
        json_t *places = json_array();
        for (int32_t i = 0; i < n_ids; i++)
            json_array_append_new(places, json_place(&c->places[i], r->ids[n_prompt + i]));
        json_object_set_new(object, "logprobs", places);
    }
    if (object != NULL) json_object_set_new(object, "timings", json_timings(c));
    if (object != NULL && c->error != NULL)
        json_object_set_new(object, "error", json_string(c->error));
    return phx_json_line(object, file);
}

enum phx_status phx_continuation_write_logits(const struct phx_continuation *continuation,
                                              const char *path)
{
    const struct phx_request *r = continuation->request;
    /* Fewer rows than ids if the request was given up in between. */
    int64_t n = r->n_computed;
    const struct phx_tensor_to_write tensors[] = {
        {"input_ids", PHX_I32, 1, {n}, r->ids},
        {"logits", PHX_F32, 2, {n, continuation->vocab}, continuation->logits},
    };
    return phx_safetensors_write(path, tensors, sizeof tensors / sizeof tensors[0]);
}
