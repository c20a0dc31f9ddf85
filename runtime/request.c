#include "runtime/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

const char *phx_finish_name(enum phx_finish finish)
{
    switch (finish) {
    case PHX_FINISH_NONE:
        return "none";
    case PHX_FINISH_STOP:
        return "stop";
    case PHX_FINISH_LENGTH:
        return "length";
    case PHX_FINISH_CANCELLED:
        return "cancelled";
    case PHX_FINISH_ERROR:
        return "error";
    case PHX_FINISH_COUNT:
        break;
    }
    return "unknown";
}

static enum phx_status check(const struct phx_request_options *o)
{
    const struct phx_sampling *s = &o->sampling;
    if (o->n_prompt < 1) return phx_fail(PHX_USAGE, "the prompt is empty: give at least one token");
    if (o->max_new < 0)
        return phx_fail(PHX_USAGE, "%d tokens to generate: must not be negative", o->max_new);
    if (o->n_forced > o->max_new)
        return phx_fail(PHX_USAGE, "%d forced tokens but only %d to generate: raise -n to %d",
                        o->n_forced, o->max_new, o->n_forced);
    /* Below, logits divided by it would overflow. */
    if (s->temperature != 0 && !(s->temperature >= 1e-6f && s->temperature < INFINITY))
        return phx_fail(PHX_USAGE, "temperature %g: must be 0, or 0.000001 or more",
                        s->temperature);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return phx_fail(PHX_USAGE, "top-p %g: must be above 0 and at most 1", s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return phx_fail(PHX_USAGE, "min-p %g: must be between 0 and 1", s->min_p);
    if (s->top_k < 0) return phx_fail(PHX_USAGE, "top-k %d: must be 0 (off) or more", s->top_k);
    if (!(s->repeat_penalty > 0 && s->repeat_penalty < INFINITY))
        return phx_fail(PHX_USAGE, "repeat penalty %g: must be above 0", s->repeat_penalty);
    if (!isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty))
        return phx_fail(PHX_USAGE, "presence and frequency penalties must be finite");
    if (o->n_bias > PHX_MAX_BIAS)
        return phx_fail(PHX_USAGE, "%d logit biases: at most %d a request", o->n_bias,
                        PHX_MAX_BIAS);
    for (int32_t i = 0; i < o->n_bias; i++)
        if (isnan(o->bias_values[i]))
            return phx_fail(PHX_USAGE, "the logit bias of token %d is not a number",
                            o->bias_ids[i]);
    if (o->min_new < 0)
        return phx_fail(PHX_USAGE, "at least %d tokens to generate: must not be negative",
                        o->min_new);
    if (o->min_new > o->max_new)
        return phx_fail(PHX_USAGE, "at least %d tokens to generate, but at most %d", o->min_new,
                        o->max_new);
    if (o->min_new > 0 && o->n_stop_ids > PHX_MAX_BIAS - o->n_bias)
        return phx_fail(PHX_USAGE,
                        "%d logit biases and %d stop tokens that a minimum of tokens rules out: at "
                        "most %d together",
                        o->n_bias, o->n_stop_ids, PHX_MAX_BIAS);
    return PHX_OK;
}

/* NULL for n = 0; *ok stays true then. */
static void *copy(const void *from, int32_t n, size_t each, bool *ok)
{
    if (n == 0) return NULL;
    void *to = malloc((size_t)n * each);
    if (to == NULL)
        *ok = false;
    else
        memcpy(to, from, (size_t)n * each);
    return to;
}

enum phx_status phx_request_create(const struct phx_request_options *options,
                                   struct phx_request **out)
{
    PHX_TRY(check(options));
    struct phx_request *r = calloc(1, sizeof *r);
    if (r == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a request");
    r->options = *options;
    if (options->sampling.temperature == 0) {
        /* The likeliest token is kept by all of these: off, so that no step makes room for them. */
        r->options.sampling.top_k = 0;
        r->options.sampling.top_p = 1;
        r->options.sampling.min_p = 0;
    }
    bool ok = true;
    r->options.forced_ids = copy(options->forced_ids, options->n_forced, sizeof(int32_t), &ok);
    r->options.bias_ids = copy(options->bias_ids, options->n_bias, sizeof(int32_t), &ok);
    r->options.bias_values = copy(options->bias_values, options->n_bias, sizeof(float), &ok);
    r->options.stop_ids = copy(options->stop_ids, options->n_stop_ids, sizeof(int32_t), &ok);
    size_t capacity = (size_t)options->n_prompt + (size_t)options->max_new;
    r->ids = malloc(capacity * sizeof *r->ids);
    if (!ok || r->ids == NULL) {
        phx_request_destroy(r);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a request of %zu tokens", capacity);
    }
    memcpy(r->ids, options->prompt_ids, (size_t)options->n_prompt * sizeof *r->ids);
    r->options.prompt_ids = r->ids;
    r->n_ids = r->n_planned = options->n_prompt;
    r->n_hold = INT32_MAX;
    r->slot = -1;
    *out = r;
    return PHX_OK;
}

void phx_request_seek(struct phx_request *request, int32_t n_computed)
{
    PHX_ASSERT(request->n_steps == 0 && request->finish == PHX_FINISH_NONE);
    PHX_ASSERT(n_computed >= 0 && n_computed < request->options.n_prompt);
    request->n_ids = request->n_planned = request->options.n_prompt;
    request->n_computed = request->n_reported = n_computed;
    request->ending = PHX_FINISH_NONE;
}

void phx_request_destroy(struct phx_request *request)
{
    if (request == NULL) return;
    free((void *)request->options.forced_ids);
    free((void *)request->options.bias_ids);
    free((void *)request->options.bias_values);
    free((void *)request->options.stop_ids);
    free(request->ids);
    free(request);
}

bool phx_sampling_counts(const struct phx_sampling *sampling)
{
    return sampling->repeat_penalty != 1 || sampling->presence_penalty != 0 ||
           sampling->frequency_penalty != 0;
}

int32_t phx_request_biases_at(const struct phx_request *request, int32_t position)
{
    const struct phx_request_options *o = &request->options;
    return position - o->n_prompt < o->min_new ? o->n_bias + o->n_stop_ids : o->n_bias;
}

void phx_request_bias(const struct phx_request *request, int32_t i, int32_t *out_id,
                      float *out_value)
{
    const struct phx_request_options *o = &request->options;
    bool asked_for = i < o->n_bias;
    PHX_ASSERT(i >= 0 && i < o->n_bias + o->n_stop_ids);
    *out_id = asked_for ? o->bias_ids[i] : o->stop_ids[i - o->n_bias];
    *out_value = asked_for ? o->bias_values[i] : -INFINITY;
}

int32_t phx_request_id_at(const struct phx_request *request, int32_t position)
{
    const struct phx_request_options *o = &request->options;
    PHX_ASSERT(position >= 0 && position < request->n_planned);
    if (position < request->n_ids) return request->ids[position];
    int32_t index = position - o->n_prompt;
    if (index < o->n_forced) return o->forced_ids[index];
    /* The device holds only the newest one, which may have a successor in the same step. */
    PHX_ASSERT(position >= request->n_planned - 2);
    return -1 - request->slot;
}

void phx_request_cancel(struct phx_request *request, enum phx_finish finish)
{
    PHX_ASSERT(finish != PHX_FINISH_NONE);
    if (request->finish != PHX_FINISH_NONE) return;
    request->ending = finish;
    if (request->cancelled) return;
    request->cancelled = true;
    if (request->cancels == NULL) return;
    request->next_cancelled = *request->cancels;
    *request->cancels = request;
}
