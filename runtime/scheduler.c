#include "runtime/scheduler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

struct phx_scheduler {
    struct phx_scheduler_limits limits;
    struct phx_kv_cache *cache;
    struct phx_request **running; /* [max_seqs] oldest admission first */
    int32_t n_running;
    struct phx_request *waiting_head, **waiting_tail;
    int32_t n_waiting;
    int32_t *free_slots; /* [max_seqs] a stack */
    int32_t n_free_slots;
    int64_t n_preemptions;
    struct phx_schedule schedule;
};

enum phx_status phx_scheduler_create(const struct phx_scheduler_limits *limits,
                                     struct phx_scheduler **out)
{
    PHX_ASSERT(limits->max_seqs > 0 && limits->max_rows >= limits->max_seqs);
    PHX_ASSERT(limits->max_outputs >= limits->max_seqs && limits->max_length > 0);
    struct phx_scheduler *s = calloc(1, sizeof *s);
    if (s == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the scheduler");
    size_t n = (size_t)limits->max_seqs;
    s->limits = *limits;
    s->waiting_tail = &s->waiting_head;
    s->running = calloc(n, sizeof(struct phx_request *));
    s->free_slots = malloc(n * sizeof *s->free_slots);
    s->schedule.entries = calloc(n, sizeof *s->schedule.entries);
    enum phx_status status = PHX_OK;
    if (s->running == NULL || s->free_slots == NULL || s->schedule.entries == NULL)
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for the scheduler");
    else
        status = phx_kv_cache_create(limits->n_pages, limits->max_seqs,
                                     phx_kv_blocks_for(limits->max_length), &s->cache);
    if (status != PHX_OK) {
        phx_scheduler_destroy(s);
        return status;
    }
    for (int32_t slot = limits->max_seqs - 1; slot >= 0; slot--)
        s->free_slots[s->n_free_slots++] = slot;
    *out = s;
    return PHX_OK;
}

void phx_scheduler_destroy(struct phx_scheduler *scheduler)
{
    if (scheduler == NULL) return;
    phx_kv_cache_destroy(scheduler->cache);
    free(scheduler->running);
    free(scheduler->free_slots);
    free(scheduler->schedule.entries);
    free(scheduler);
}

enum phx_status phx_scheduler_submit(struct phx_scheduler *scheduler, struct phx_request *request)
{
    const struct phx_scheduler_limits *l = &scheduler->limits;
    const struct phx_request_options *o = &request->options;
    if (o->n_prompt > l->max_length)
        return phx_fail(PHX_USAGE,
                        "the prompt has %d tokens, the context holds %d: raise -c or shorten it",
                        o->n_prompt, l->max_length);
    int64_t wanted = (int64_t)o->n_prompt + o->max_new;
    int32_t blocks = phx_kv_blocks_for(wanted < l->max_length ? wanted : l->max_length);
    if (blocks > l->n_pages)
        return phx_fail(
            PHX_USAGE,
            "%lld tokens take %d cache pages of %d tokens, there are %d in all: ask for "
            "fewer tokens",
            (long long)wanted, blocks, PHX_PAGE_TOKENS, l->n_pages);
    if (o->max_new == 0 || o->n_prompt == l->max_length) request->ending = PHX_FINISH_LENGTH;
    request->next = NULL;
    *scheduler->waiting_tail = request;
    scheduler->waiting_tail = &request->next;
    scheduler->n_waiting++;
    return PHX_OK;
}

static void release(struct phx_scheduler *s, struct phx_request *r)
{
    phx_kv_cache_release(s->cache, r->slot);
    s->free_slots[s->n_free_slots++] = r->slot;
    r->slot = -1;
    for (int32_t i = 0; i < s->n_running; i++) {
        if (s->running[i] != r) continue;
        s->n_running--;
        memmove(s->running + i, s->running + i + 1,
                (size_t)(s->n_running - i) * sizeof(struct phx_request *));
        return;
    }
    PHX_ASSERT(!"released request is running");
}

static struct phx_request *pop_waiting(struct phx_scheduler *s)
{
    struct phx_request *r = s->waiting_head;
    s->waiting_head = r->next;
    if (s->waiting_head == NULL) s->waiting_tail = &s->waiting_head;
    s->n_waiting--;
    r->next = NULL;
    return r;
}

static void preempt(struct phx_scheduler *s, struct phx_request *r)
{
    release(s, r);
    r->n_computed = 0;
    r->last_on_device = false;
    r->next = s->waiting_head;
    if (s->waiting_head == NULL) s->waiting_tail = &r->next;
    s->waiting_head = r;
    s->n_waiting++;
    s->n_preemptions++;
}

static bool is_scheduled(const struct phx_scheduler *s, const struct phx_request *r)
{
    for (int32_t i = 0; i < s->schedule.n; i++)
        if (s->schedule.entries[i].request == r) return true;
    return false;
}

/* Pages for `n_tokens`, taken from the youngest others if need be. False: r itself was the
 * youngest. */
static bool make_room(struct phx_scheduler *s, struct phx_request *r, int32_t n_tokens)
{
    while (!phx_kv_cache_grow(s->cache, r->slot, phx_kv_blocks_for(n_tokens))) {
        struct phx_request *youngest = NULL;
        for (int32_t i = s->n_running - 1; i >= 0 && youngest == NULL; i--)
            if (!is_scheduled(s, s->running[i])) youngest = s->running[i];
        PHX_ASSERT(youngest != NULL);
        preempt(s, youngest);
        if (youngest == r) return false;
    }
    return true;
}

/* How many of the request's next rows fit into what is left of the step, and their outputs. */
static struct phx_scheduled fit(const struct phx_scheduler *s, struct phx_request *r)
{
    struct phx_scheduled e = {.request = r};
    int32_t rows_left = s->limits.max_rows - s->schedule.n_rows;
    int32_t outputs_left = s->limits.max_outputs - s->schedule.n_outputs;
    e.n_rows = r->n_ids - r->n_computed;
    if (e.n_rows > rows_left) e.n_rows = rows_left;
    if (r->options.want_all_logits) {
        /* Row p reports position p + 1; the positions before n_reported have been reported. */
        int32_t silent = r->n_reported - r->n_computed - 1;
        if (silent < 0) silent = 0;
        if (e.n_rows > silent + outputs_left) e.n_rows = silent + outputs_left;
        e.n_outputs = e.n_rows > silent ? e.n_rows - silent : 0;
    }
    e.samples = r->n_computed + e.n_rows == r->n_ids && r->ending == PHX_FINISH_NONE;
    if (e.samples && e.n_outputs == 0) {
        if (outputs_left > 0)
            e.n_outputs = 1;
        else
            e.n_rows = 0;
    }
    return e;
}

static void add(struct phx_scheduler *s, struct phx_scheduled e)
{
    s->schedule.entries[s->schedule.n++] = e;
    s->schedule.n_rows += e.n_rows;
    s->schedule.n_outputs += e.n_outputs;
}

static void schedule_running(struct phx_scheduler *s, bool decoding)
{
    for (int32_t i = 0; i < s->n_running;) {
        struct phx_request *r = s->running[i++];
        if ((r->n_ids - r->n_computed == 1) != decoding) continue;
        struct phx_scheduled e = fit(s, r);
        if (e.n_rows == 0) continue;
        e.first_block = phx_kv_cache_slot_blocks(s->cache, r->slot);
        /* Only requests younger than r, or r itself, can leave the array: i stays right. */
        if (!make_room(s, r, r->n_computed + e.n_rows)) return;
        add(s, e);
    }
}

static void admit_waiting(struct phx_scheduler *s)
{
    int32_t bias_left = PHX_MAX_BIAS;
    while (s->waiting_head != NULL && s->n_free_slots > 0) {
        struct phx_request *r = s->waiting_head;
        if (r->options.n_bias > bias_left) return;
        struct phx_scheduled e = fit(s, r);
        if (e.n_rows == 0) return;
        int32_t slot = s->free_slots[s->n_free_slots - 1];
        /* The whole prompt's pages at once: half a prompt that waits for pages would block others.
         */
        if (!phx_kv_cache_grow(s->cache, slot, phx_kv_blocks_for(r->n_ids))) return;
        pop_waiting(s);
        s->n_free_slots--;
        r->slot = slot;
        s->running[s->n_running++] = r;
        bias_left -= r->options.n_bias;
        e.joins = true;
        add(s, e);
    }
}

/* Requests that were cancelled while they waited or between steps. */
static void drop_cancelled(struct phx_scheduler *s)
{
    for (int32_t i = s->n_running - 1; i >= 0; i--) {
        struct phx_request *r = s->running[i];
        if (!r->cancelled) continue;
        release(s, r);
        r->finish = r->ending;
    }
    struct phx_request **link = &s->waiting_head;
    while (*link != NULL) {
        struct phx_request *r = *link;
        if (!r->cancelled) {
            link = &r->next;
            continue;
        }
        *link = r->next;
        r->next = NULL;
        r->finish = r->ending;
        s->n_waiting--;
    }
    s->waiting_tail = link;
}

const struct phx_schedule *phx_scheduler_next(struct phx_scheduler *scheduler)
{
    scheduler->schedule.n = 0;
    scheduler->schedule.n_rows = 0;
    scheduler->schedule.n_outputs = 0;
    drop_cancelled(scheduler);
    int64_t preemptions = scheduler->n_preemptions;
    schedule_running(scheduler, true);
    schedule_running(scheduler, false);
    /* Whoever just gave its pages back must not get them again before the others have moved on. */
    if (scheduler->n_preemptions == preemptions) admit_waiting(scheduler);
    return &scheduler->schedule;
}

/* The token at `position`, drawn or given, joins the request. */
static void push(struct phx_scheduler *s, struct phx_request *r, int32_t drawn,
                 struct phx_output *output)
{
    const struct phx_request_options *o = &r->options;
    int32_t index = r->n_ids - o->n_prompt;
    bool forced = index < o->n_forced;
    int32_t id = forced ? o->forced_ids[index] : drawn;
    r->ids[r->n_ids++] = id;
    r->last_on_device = !forced;
    output->id = id;
    if (forced) output->logprob = NAN;
    if (index + 1 == o->max_new || r->n_ids == s->limits.max_length) r->ending = PHX_FINISH_LENGTH;
    for (int32_t i = 0; !forced && i < o->n_stop_ids; i++)
        if (id == o->stop_ids[i]) r->ending = PHX_FINISH_STOP;
}

void phx_scheduler_complete(struct phx_scheduler *scheduler, const struct phx_schedule *schedule,
                            const struct phx_step_results *results)
{
    int32_t at = 0;
    for (int32_t i = 0; i < schedule->n; i++) {
        const struct phx_scheduled *e = &schedule->entries[i];
        struct phx_request *r = e->request;
        r->n_computed += e->n_rows;
        for (int32_t k = e->n_outputs; k > 0; k--, at++) {
            bool drawn = k == 1 && e->samples;
            struct phx_output output = {
                .position = r->n_computed - k + 1, .id = -1, .logprob = NAN};
            if (r->cancelled) continue;
            if (results->logits != NULL && (r->options.want_all_logits || r->options.want_logits))
                output.logits = results->logits + at * results->vocab;
            if (drawn) {
                output.logprob = results->logprobs[at];
                push(scheduler, r, results->ids[at], &output);
            }
            r->n_reported = output.position + 1;
            if (r->options.on_output != NULL) r->options.on_output(r, &output);
        }
        bool all_done = !r->options.want_all_logits || r->n_computed == r->n_ids;
        bool prompt_read = r->n_computed >= r->options.n_prompt;
        if (r->ending != PHX_FINISH_NONE && ((all_done && prompt_read) || r->cancelled)) {
            release(scheduler, r);
            r->finish = r->ending;
        }
    }
}

const struct phx_kv_cache *phx_scheduler_cache(const struct phx_scheduler *scheduler)
{
    return scheduler->cache;
}

int32_t phx_scheduler_running(const struct phx_scheduler *scheduler)
{
    return scheduler->n_running;
}

int32_t phx_scheduler_waiting(const struct phx_scheduler *scheduler)
{
    return scheduler->n_waiting;
}

int64_t phx_scheduler_preemptions(const struct phx_scheduler *scheduler)
{
    return scheduler->n_preemptions;
}
