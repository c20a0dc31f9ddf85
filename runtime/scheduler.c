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
    struct phx_schedule steps[PHX_MAX_AHEAD]; /* a ring */
    int32_t oldest, n_under_way;
    struct phx_schedule *schedule; /* the one being made */
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
    bool ok = s->running != NULL && s->free_slots != NULL;
    for (int i = 0; i < PHX_MAX_AHEAD; i++) {
        s->steps[i].entries = calloc(n, sizeof *s->steps[i].entries);
        ok = ok && s->steps[i].entries != NULL;
    }
    enum phx_status status = PHX_OK;
    if (!ok)
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
    for (int i = 0; i < PHX_MAX_AHEAD; i++) free(scheduler->steps[i].entries);
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
    r->next = s->waiting_head;
    if (s->waiting_head == NULL) s->waiting_tail = &r->next;
    s->waiting_head = r;
    s->n_waiting++;
    s->n_preemptions++;
}

static bool is_scheduled(const struct phx_scheduler *s, const struct phx_request *r)
{
    for (int32_t i = 0; i < s->schedule->n; i++)
        if (s->schedule->entries[i].request == r) return true;
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
    int32_t rows_left = s->limits.max_rows - s->schedule->n_rows;
    int32_t outputs_left = s->limits.max_outputs - s->schedule->n_outputs;
    if (r->cancelled) return e;
    /* Its last token is known or being drawn: nobody will read that one's keys. */
    bool drawn_all = r->ending != PHX_FINISH_NONE && r->n_planned > r->options.n_prompt;
    if (drawn_all && !r->options.want_all_logits) return e;
    e.position = r->n_computed;
    e.n_rows = r->n_planned - r->n_computed;
    if (e.n_rows > rows_left) e.n_rows = rows_left;
    if (e.n_rows > r->n_hold - r->n_computed) e.n_rows = r->n_hold - r->n_computed;
    if (e.n_rows <= 0) return (struct phx_scheduled){.request = r};
    if (r->options.want_all_logits) {
        /* Row p reports position p + 1; the positions before n_reported have been reported. */
        int32_t silent = r->n_reported - r->n_computed - 1;
        if (silent < 0) silent = 0;
        if (e.n_rows > silent + outputs_left) e.n_rows = silent + outputs_left;
        e.n_outputs = e.n_rows > silent ? e.n_rows - silent : 0;
    }
    e.samples = r->n_computed + e.n_rows == r->n_planned && r->ending == PHX_FINISH_NONE;
    if (e.samples && e.n_outputs == 0) {
        if (outputs_left > 0)
            e.n_outputs = 1;
        else
            e.n_rows = 0;
    }
    return e;
}

/* The step is sure to be run: what it will have done counts from here on. */
static void add(struct phx_scheduler *s, struct phx_scheduled e)
{
    struct phx_request *r = e.request;
    r->n_steps++;
    r->n_computed = e.position + e.n_rows;
    if (e.n_outputs > 0) r->n_reported = r->n_computed + 1;
    if (e.samples) {
        r->n_planned++;
        if (r->n_planned - r->options.n_prompt == r->options.max_new ||
            r->n_planned == s->limits.max_length)
            r->ending = PHX_FINISH_LENGTH;
    }
    s->schedule->entries[s->schedule->n++] = e;
    s->schedule->n_rows += e.n_rows;
    s->schedule->n_outputs += e.n_outputs;
}

static void schedule_running(struct phx_scheduler *s, bool decoding)
{
    for (int32_t i = 0; i < s->n_running;) {
        struct phx_request *r = s->running[i++];
        if ((r->n_planned - r->n_computed == 1) != decoding) continue;
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
        if (r->n_steps > 0) return; /* it lost its pages, and its last tokens are not known yet */
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

/* Nothing of the request is under way, and nothing is left to do. */
static bool is_over(const struct phx_request *r)
{
    if (r->n_steps > 0) return false;
    if (r->cancelled) return true;
    if (r->ending == PHX_FINISH_NONE || r->n_ids < r->n_planned) return false;
    if (r->options.want_all_logits) return r->n_reported > r->n_ids;
    return r->n_ids > r->options.n_prompt || r->n_computed >= r->options.n_prompt;
}

static void drop_finished(struct phx_scheduler *s)
{
    for (int32_t i = s->n_running - 1; i >= 0; i--) {
        struct phx_request *r = s->running[i];
        if (!is_over(r)) continue;
        release(s, r);
        r->finish = r->ending;
    }
    struct phx_request **link = &s->waiting_head;
    while (*link != NULL) {
        struct phx_request *r = *link;
        if (!is_over(r)) {
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
    struct phx_scheduler *s = scheduler;
    PHX_ASSERT(s->n_under_way < PHX_MAX_AHEAD);
    s->schedule = &s->steps[(s->oldest + s->n_under_way) % PHX_MAX_AHEAD];
    s->schedule->n = 0;
    s->schedule->n_rows = 0;
    s->schedule->n_outputs = 0;
    drop_finished(s); /* some may have been cancelled between steps */
    int64_t preemptions = s->n_preemptions;
    schedule_running(s, true);
    schedule_running(s, false);
    /* Whoever just gave its pages back must not get them again before the others have moved on. */
    if (s->n_preemptions == preemptions) admit_waiting(s);
    if (s->schedule->n > 0) s->n_under_way++;
    return s->schedule;
}

/* The token at the first unknown position, drawn or given, joins the text. */
static void push(struct phx_request *r, int32_t drawn, struct phx_output *output)
{
    const struct phx_request_options *o = &r->options;
    int32_t index = r->n_ids - o->n_prompt;
    bool forced = index < o->n_forced;
    int32_t id = forced ? o->forced_ids[index] : drawn;
    r->ids[r->n_ids++] = id;
    output->id = id;
    if (forced) output->logprob = NAN;
    for (int32_t i = 0; !forced && i < o->n_stop_ids; i++) {
        if (id != o->stop_ids[i]) continue;
        r->ending = PHX_FINISH_STOP;
        r->n_planned = r->n_ids; /* steps under way may be drawing more: dropped */
    }
}

/* One output of a step: row after row, `at` counts them. True if the text grew. */
static bool report(struct phx_request *r, int32_t position, const struct phx_step_results *results,
                   int32_t at)
{
    struct phx_output output = {.position = position, .id = -1, .logprob = NAN};
    bool drawn = position >= r->n_ids && position < r->n_planned;
    if (r->cancelled) return false;
    if (!drawn && (!r->options.want_all_logits || position > r->n_ids)) return false;
    if (results->logits != NULL && (r->options.want_all_logits || r->options.want_logits))
        output.logits = results->logits + at * results->vocab;
    if (drawn) {
        output.logprob = results->logprobs[at];
        push(r, results->ids[at], &output);
    }
    if (r->options.on_output != NULL) r->options.on_output(r, &output);
    return drawn;
}

int32_t phx_scheduler_complete(struct phx_scheduler *scheduler,
                               const struct phx_step_results *results)
{
    struct phx_scheduler *s = scheduler;
    PHX_ASSERT(s->n_under_way > 0);
    const struct phx_schedule *schedule = &s->steps[s->oldest];
    int32_t at = 0, grown = 0;
    for (int32_t i = 0; i < schedule->n; i++) {
        const struct phx_scheduled *e = &schedule->entries[i];
        e->request->n_steps--;
        for (int32_t k = e->n_outputs; k > 0; k--)
            grown += report(e->request, e->position + e->n_rows - k + 1, results, at++);
    }
    s->oldest = (s->oldest + 1) % PHX_MAX_AHEAD;
    s->n_under_way--;
    drop_finished(s);
    return grown;
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
