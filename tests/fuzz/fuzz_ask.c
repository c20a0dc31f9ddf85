/* The body of a request for text: its first byte says of which kind. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/server/ask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_prompts(const struct phx_ask *ask)
{
    PHX_ASSERT(ask->n_prompts >= 1 && ask->n_prompts <= PHX_ASK_PROMPTS);
    for (size_t i = 0; i < ask->n_prompts; i++) {
        const struct phx_ask_prompt *p = &ask->prompts[i];
        PHX_ASSERT((p->text != NULL && p->bytes > 0) || (p->ids != NULL && p->n_ids > 0));
        for (size_t k = 0; k < p->n_ids; k++) PHX_ASSERT(p->ids[k] >= 0);
    }
}

/* What the rest of the server takes for granted. */
static void check(const struct phx_ask *ask)
{
    const struct phx_sampling *s = &ask->sampling;
    PHX_ASSERT(s->temperature == 0 || (s->temperature >= 1e-6f && s->temperature <= 2));
    PHX_ASSERT(s->top_p > 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1 && s->top_k >= 0);
    PHX_ASSERT(s->repeat_penalty > 0 && fabsf(s->presence_penalty) <= 2);
    PHX_ASSERT(ask->n_choices >= 1 && ask->n_choices <= PHX_ASK_CHOICES);
    PHX_ASSERT(ask->max_new >= -1 && ask->min_new >= 0 && ask->n_logprobs >= -1);
    PHX_ASSERT(ask->n_logprobs <= PHX_ASK_LOGPROBS && ask->n_bias <= PHX_MAX_BIAS);
    for (int32_t i = 0; i < ask->n_bias; i++)
        for (int32_t k = 0; k < i; k++) PHX_ASSERT(ask->bias_ids[i] != ask->bias_ids[k]);
    for (size_t i = 0; i < ask->n_stops; i++) PHX_ASSERT(ask->stops[i][0] != '\0');
    if (ask->kind == PHX_ASK_CHAT)
        PHX_ASSERT(json_array_size(ask->messages) >= 1);
    else
        check_prompts(ask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct phx_sampling defaults = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
    if (size == 0) return 0;
    struct phx_ask *ask;
    struct phx_problem problem = {0};
    enum phx_ask_kind kind = data[0] == 'm' ? PHX_ASK_CHAT : PHX_ASK_COMPLETION;
    if (phx_ask_parse(kind, &defaults, (const char *)data + 1, size - 1, &ask, &problem)) {
        check(ask);
        phx_ask_destroy(ask);
        return 0;
    }
    PHX_ASSERT(problem.http >= 400 && problem.message[0] != '\0');
    json_t *told = phx_problem_json(&problem);
    PHX_ASSERT(told != NULL);
    json_decref(told);
    return 0;
}
