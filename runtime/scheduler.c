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
    struct phx_request *cancelled; /* that have not been dropped yet */
    int32_t *free_slots;           /* [max_seqs] a stack */
    int32_t n_free_slots;
    struct phx_scheduler_counters counters;
    uint64_t n_scheduled;                     /* steps, and attempts at them */
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
        status =
            phx_kv_cache_create(limits->n_pages, limits->max_seqs,
                                phx_kv_blocks_for(limits->max_length), limits->share, &s->cache);
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

/* ---- the queue ---- */

static void insert_waiting(struct phx_scheduler *s, struct phx_request *r,
                           struct phx_request **link)
{
    r->link = link;
    r->next = *link;
    *link = r;
    if (r->next != NULL)
        r->next->link = &r->next;
    else
        s->waiting_tail = &r->next;
    s->n_waiting++;
}

static void remove_waiting(struct phx_scheduler *s, struct phx_request *r)
{
    *r->link = r->next;
    if (r->next != NULL)
        r->next->link = r->link;
    else
        s->waiting_tail = r->link;
    r->next = NULL;
    r->link = NULL;
    s->n_waiting--;
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
    if (request->ending == PHX_FINISH_NONE && (o->max_new == 0 || o->n_prompt == l->max_length))
        request->ending = PHX_FINISH_LENGTH;
    insert_waiting(scheduler, request, scheduler->waiting_tail);
    request->cancels = &scheduler->cancelled;
    if (request->cancelled) {
        request->next_cancelled = scheduler->cancelled;
        scheduler->cancelled = request;
    }
    return PHX_OK;
}

/* Steps under way may still read and write its pages: whatever comes next comes after them. */
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

static void preempt(struct phx_scheduler *s, struct phx_request *r)
{
    release(s, r);
    r->n_computed = 0;
    insert_waiting(s, r, &s->waiting_head);
    s->counters.n_preemptions++;
}

static bool is_scheduled(const struct phx_scheduler *s, const struct phx_request *r)
{
    return r->scheduled == s->n_scheduled;
}

/* Pages for `n_tokens`, taken from the youngest others if need be. False: r itself was the
 * youngest. */
static bool make_room(struct phx_scheduler *s, struct phx_request *r, int32_t n_tokens)
{
    int32_t i = s->n_running;
    while (!phx_kv_cache_grow(s->cache, r->slot, phx_kv_blocks_for(n_tokens))) {
        do {
            PHX_ASSERT(i > 0);
            i--;
        } while (is_scheduled(s, s->running[i]));
        bool itself = s->running[i] == r;
        preempt(s, s->running[i]);
        if (itself) return false;
    }
    return true;
}

/* ---- making a step ---- */

/* How many of the request's next rows fit into what is left of the step, and their outputs. */
static struct phx_scheduled fit(const struct phx_scheduler *s, struct phx_request *r)
{
    int32_t n_biases = phx_request_biases_at(r, r->n_planned);
    struct phx_scheduled e = {
        .request = r, .n_biases = n_biases, .changes = n_biases != r->n_biases};
    int32_t rows_left = s->limits.max_rows - s->schedule->n_rows;
    int32_t outputs_left = s->limits.max_outputs - s->schedule->n_outputs;
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

/* What others may share: tokens that are known and whose keys will be there for the next step. */
static void know(struct phx_scheduler *s, const struct phx_request *r)
{
    int32_t n = r->n_computed < r->n_ids ? r->n_computed : r->n_ids;
    if (r->slot >= 0) phx_kv_cache_know(s->cache, r->slot, r->ids, n);
}

/* The step is sure to be run: what it will have done counts from here on. */
static void add(struct phx_scheduler *s, struct phx_scheduled e)
{
    struct phx_request *r = e.request;
    r->n_steps++;
    r->scheduled = s->n_scheduled;
    r->n_biases = e.n_biases;
    r->n_computed = e.position + e.n_rows;
    know(s, r);
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

/* What a step can take of joining requests besides rows. */
struct room {
    int32_t biases, seen;
};

/* Start where known pages end. All its outputs are still due, and its last token's are never
 * known. */
static int32_t share(struct phx_scheduler *s, struct phx_request *r, int32_t slot)
{
    int32_t n = r->n_ids - 1;
    if (r->options.want_all_logits && n > r->n_reported - 1)
        n = r->n_reported > 0 ? r->n_reported - 1 : 0;
    return phx_kv_cache_share(s->cache, slot, r->ids, n / PHX_PAGE_TOKENS) * PHX_PAGE_TOKENS;
}

/* The request at the head of the queue gets a slot and the whole prompt's pages at once: half a
 * prompt that waits for pages would block others. False: not in this step. */
static bool admit(struct phx_scheduler *s, struct phx_request *r, struct room *room)
{
    int32_t slot = s->free_slots[s->n_free_slots - 1];
    int32_t n_biases = phx_request_biases_at(r, r->n_planned);
    if (n_biases > room->biases) return false;
    const int32_t sought = r->n_computed, known = share(s, r, slot);
    if (known > sought) r->n_computed = known;
    int32_t n_seen = phx_sampling_counts(&r->options.sampling) ? r->n_computed : 0;
    struct phx_scheduled e = fit(s, r);
    if (e.n_rows == 0 || n_seen > room->seen ||
        !phx_kv_cache_grow(s->cache, slot, phx_kv_blocks_for(r->n_ids))) {
        phx_kv_cache_release(s->cache, slot);
        r->n_computed = sought;
        return false;
    }
    remove_waiting(s, r);
    s->n_free_slots--;
    r->slot = slot;
    s->running[s->n_running++] = r;
    room->biases -= n_biases;
    room->seen -= n_seen;
    e.joins = true;
    e.changes = false;
    e.n_seen = r->n_computed;
    add(s, e);
    return true;
}

static void count_admission(struct phx_scheduler *s, struct phx_request *r)
{
    if (r->admitted) return;
    r->admitted = true;
    r->n_cached = s->schedule->entries[s->schedule->n - 1].n_seen;
    s->counters.prompt_tokens += r->options.n_prompt;
    s->counters.cached_tokens += r->n_cached;
}

static void admit_waiting(struct phx_scheduler *s)
{
    struct room room = {PHX_MAX_BIAS, s->limits.max_length};
    while (s->waiting_head != NULL && s->n_free_slots > 0) {
        struct phx_request *r = s->waiting_head;
        if (s->schedule->n_rows == s->limits.max_rows) return;
        if (r->n_steps > 0) return; /* it lost its pages, and its last tokens are not known yet */
        if (!admit(s, r, &room)) return;
        count_admission(s, r);
    }
}

/* ---- the end of requests ---- */

/* Nothing is left to do. */
static bool is_over(const struct phx_request *r)
{
    if (r->cancelled) return true;
    if (r->ending == PHX_FINISH_NONE || r->n_ids < r->n_planned) return false;
    if (r->n_ids > r->options.n_prompt && !r->options.want_all_logits) return true;
    if (r->n_steps > 0) return false;
    if (r->options.want_all_logits) return r->n_reported > r->n_ids;
    return r->n_computed >= r->options.n_prompt;
}

/* What steps under way draw for it is dropped; the one that is being completed forgets it too. */
static void leave_steps(struct phx_scheduler *s, const struct phx_request *r)
{
    for (int i = 0; i < PHX_MAX_AHEAD; i++) {
        struct phx_schedule *step = &s->steps[i];
        for (int32_t k = 0; k < step->n; k++)
            if (step->entries[k].request == r) step->entries[k].request = NULL;
    }
}

static void finish(struct phx_scheduler *s, struct phx_request *r)
{
    if (r->slot >= 0)
        release(s, r);
    else
        remove_waiting(s, r);
    leave_steps(s, r);
    r->n_steps = 0;
    r->finish = r->ending;
    s->counters.n_finished[r->finish]++;
    if (r->options.on_finish != NULL) r->options.on_finish(r);
}

static void drop_cancelled(struct phx_scheduler *s)
{
    while (s->cancelled != NULL) {
        struct phx_request *r = s->cancelled;
        s->cancelled = r->next_cancelled;
        finish(s, r);
    }
}

const struct phx_schedule *phx_scheduler_next(struct phx_scheduler *scheduler)
{
    struct phx_scheduler *s = scheduler;
    PHX_ASSERT(s->n_under_way < PHX_MAX_AHEAD);
    s->schedule = &s->steps[(s->oldest + s->n_under_way) % PHX_MAX_AHEAD];
    s->schedule->n = 0;
    s->schedule->n_rows = 0;
    s->schedule->n_outputs = 0;
    s->n_scheduled++;
    drop_cancelled(s); /* between steps */
    int64_t preemptions = s->counters.n_preemptions;
    schedule_running(s, true);
    schedule_running(s, false);
    /* Whoever just gave its pages back must not get them again before the others have moved on. */
    if (s->counters.n_preemptions == preemptions) admit_waiting(s);
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

/* All that the step says about a request's text. Returns by how much it grew. */
static int32_t report_entry(struct phx_scheduler *s, const struct phx_scheduled *e,
                            const struct phx_step_results *results, int32_t at)
{
    struct phx_request *r = e->request;
    int32_t grown = 0;
    r->n_steps--;
    for (int32_t k = e->n_outputs; k > 0; k--)
        grown += report(r, e->position + e->n_rows - k + 1, results, at++);
    know(s, r);
    return grown;
}

int32_t phx_scheduler_complete(struct phx_scheduler *scheduler,
                               const struct phx_step_results *results)
{
    struct phx_scheduler *s = scheduler;
    PHX_ASSERT(s->n_under_way > 0);
    struct phx_schedule *step = &s->steps[s->oldest];
    int32_t at = 0, grown = 0;
    for (int32_t i = 0; i < step->n; i++) {
        const struct phx_scheduled *e = &step->entries[i];
        if (e->request != NULL) grown += report_entry(s, e, results, at);
        at += e->n_outputs;
    }
    /* Callbacks may cancel any request, and free those that are over: entries are looked at anew
     * each time, the cancelled ones from their list. */
    drop_cancelled(s);
    for (int32_t i = 0; i < step->n; i++) {
        struct phx_request *r = step->entries[i].request;
        if (r != NULL && !r->cancelled && is_over(r)) finish(s, r);
    }
    drop_cancelled(s);
    step->n = 0;
    s->oldest = (s->oldest + 1) % PHX_MAX_AHEAD;
    s->n_under_way--;
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

const struct phx_scheduler_counters *phx_scheduler_counters(const struct phx_scheduler *scheduler)
{
    return &scheduler->counters;
}
