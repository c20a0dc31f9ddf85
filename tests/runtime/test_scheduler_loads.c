/* The scheduler under random loads, with no device: arrivals, lengths, shared beginnings, cancels
 * at any time, few pages. A pretended device computes what the records say, into pages that hold a
 * hash of the text up to each position; whatever a request reads must be its own text. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"
#include "runtime/scheduler.h"
#include "runtime/step_record.h"

enum { MAX_REQUESTS = 60, VOCAB = 40, N_FAMILIES = 3, MAX_SLOTS = 9, MAX_LENGTH = 300 };

/* What a request must come to, known from its prompt alone: the device draws from a hash of the
 * text. */
struct track {
    struct phx_request *request; /* NULL: destroyed */
    int32_t text[MAX_LENGTH + 1];
    uint64_t hash[MAX_LENGTH + 1]; /* of the text up to and with each position */
    int32_t n_text;
    int32_t next_output; /* position that the next output must have */
    int32_t n_given;     /* tokens that on_output reported */
    int32_t cancel_at;   /* -1: never */
    bool submitted, finished;
};

struct bench;

struct slot {
    int32_t last_id;
    uint16_t times[VOCAB];
    bool in_prompt[VOCAB];
    bool counted;
    int32_t n_banned, n_biases; /* of them the first n_biases are in effect */
    int32_t banned[PHX_MAX_BIAS];
};

struct bench {
    struct phx_scheduler *scheduler;
    struct phx_scheduler_limits limits;
    struct track tracks[MAX_REQUESTS];
    int n, n_submitted, n_finished;
    uint64_t random;
    /* the device */
    struct slot *slots;
    int32_t *table; /* [max_seqs][max_blocks] */
    uint64_t (*pages)[PHX_PAGE_TOKENS];
    int32_t max_blocks;
    int64_t n_rows, n_preempted_rows;
};

static int32_t draw(struct bench *b, int32_t below)
{
    b->random = phx_mix64(b->random + 0x9e3779b97f4a7c15ull);
    return (int32_t)((b->random >> 33) % (uint64_t)below);
}

static uint64_t follow_on(uint64_t hash, int32_t id)
{
    return phx_mix64(hash + 0x9e3779b97f4a7c15ull * (uint64_t)(id + 1));
}

static bool is_among(int32_t id, const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

/* What is drawn after a text of this hash; never one of the `banned`. */
static int32_t next_token(uint64_t hash, const int32_t *banned, int32_t n)
{
    int32_t id = (int32_t)(hash % VOCAB);
    while (is_among(id, banned, n)) id = (id + 1) % VOCAB;
    return id;
}

/* ---- requests ---- */

static void submit_random(struct bench *b);

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct track *t = request->options.user;
    assert_false(t->finished || request->cancelled);
    assert_int_equal(output->position, t->next_output);
    t->next_output++;
    if (output->id >= 0) {
        assert_int_equal(output->id, t->text[output->position]);
        t->n_given++;
    }
    if (t->cancel_at >= 0 && t->n_given >= t->cancel_at)
        phx_request_cancel(request, PHX_FINISH_CANCELLED);
}

static struct bench *current;

static void on_finish(struct phx_request *request)
{
    struct track *t = request->options.user;
    const struct phx_request_options *o = &request->options;
    assert_false(t->finished);
    t->finished = true;
    current->n_finished++;
    assert_int_equal(request->slot, -1);
    int32_t most = current->limits.max_length - o->n_prompt;
    if (o->max_new < most) most = o->max_new;
    if (request->finish == PHX_FINISH_LENGTH) assert_int_equal(request->n_ids - o->n_prompt, most);
    bool stops = is_among(request->ids[request->n_ids - 1], o->stop_ids, o->n_stop_ids);
    if (request->finish == PHX_FINISH_STOP) {
        assert_true(stops && request->n_ids - o->n_prompt > o->min_new);
    }
    assert_memory_equal(request->ids, t->text, (size_t)request->n_ids * sizeof *t->text);
    if (request->finish != PHX_FINISH_CANCELLED) {
        /* The last position has an output only where all logits were wanted. */
        int32_t last = request->n_ids + (o->want_all_logits ? 1 : 0);
        if (o->want_all_logits || most > 0) assert_int_equal(t->next_output, last);
    }
    assert_true(request->n_cached < o->n_prompt && request->n_cached % PHX_PAGE_TOKENS == 0);
    if (!current->limits.share || o->want_all_logits) assert_int_equal(request->n_cached, 0);
    if (draw(current, 2) == 0) {
        phx_request_destroy(request);
        t->request = NULL;
    }
    if (draw(current, 4) == 0 && current->n < MAX_REQUESTS) submit_random(current);
}

/* Begins as one of few texts, or as what an earlier request came to; often to its end. */
static void write_prompt(struct bench *b, struct track *t, int32_t n_prompt)
{
    int family = draw(b, N_FAMILIES);
    const struct track *earlier = draw(b, 2) == 0 ? &b->tracks[draw(b, b->n)] : NULL;
    int32_t own_from = draw(b, 2) == 0 ? n_prompt : draw(b, n_prompt + 1);
    for (int32_t i = 0; i < n_prompt; i++) {
        uint64_t mine = i < own_from ? 0 : 1000003 * (uint64_t)b->n;
        t->text[i] = (int32_t)(phx_mix64(mine + (uint64_t)(family * 1009 + i)) % VOCAB);
        if (earlier != NULL && i < own_from && i < earlier->n_text) t->text[i] = earlier->text[i];
    }
}

static void foresee(struct bench *b, struct track *t, const struct phx_request_options *o)
{
    uint64_t hash = 0;
    t->n_text = o->n_prompt + o->max_new;
    if (t->n_text > b->limits.max_length) t->n_text = b->limits.max_length;
    for (int32_t i = 0; i < t->n_text; i++) {
        int32_t n_banned = i - o->n_prompt < o->min_new ? o->n_stop_ids : 0;
        if (i >= o->n_prompt) t->text[i] = next_token(hash, o->stop_ids, n_banned);
        t->hash[i] = hash = follow_on(hash, t->text[i]);
    }
}

static void submit_random(struct bench *b)
{
    struct track *t = &b->tracks[b->n++];
    int32_t longest = b->limits.max_length;
    int32_t n_prompt = 1 + draw(b, draw(b, 3) == 0 ? longest : draw(b, 2) ? 130 : 40);
    int32_t max_new = draw(b, 5) == 0 ? 0 : draw(b, 90);
    bool all = draw(b, 3) == 0;
    *t = (struct track){.next_output = all ? 1 : n_prompt, .cancel_at = -1};
    write_prompt(b, t, n_prompt);
    int32_t stop_ids[3] = {draw(b, VOCAB), draw(b, VOCAB), draw(b, VOCAB)};
    struct phx_request_options o = {.prompt_ids = t->text,
                                    .n_prompt = n_prompt,
                                    .max_new = max_new,
                                    .stop_ids = stop_ids,
                                    .n_stop_ids = draw(b, 2) ? 0 : draw(b, 4),
                                    .min_new = draw(b, 2) ? 0 : draw(b, max_new + 1),
                                    .sampling = {.top_p = 1, .repeat_penalty = 1},
                                    .want_all_logits = all,
                                    .on_output = on_output,
                                    .on_finish = on_finish,
                                    .user = t};
    if (draw(b, 3) == 0) o.sampling.repeat_penalty = 1.1f;
    if (draw(b, 6) == 0) t->cancel_at = draw(b, 20);
    foresee(b, t, &o);
    assert_ok(phx_request_create(&o, &t->request));
    if (draw(b, 20) == 0) phx_request_cancel(t->request, PHX_FINISH_CANCELLED);
    enum phx_status status = phx_scheduler_submit(b->scheduler, t->request);
    if (phx_kv_blocks_for(t->n_text) > b->limits.n_pages) {
        assert_int_equal(status, PHX_USAGE);
        phx_fail_clear();
    } else {
        assert_int_equal(status, PHX_OK);
        t->submitted = true;
        b->n_submitted++;
    }
}

/* ---- what is checked from outside ---- */

/* A page belongs to as many slots as hold it, and to nobody if it is free. */
static void check_pages(const struct bench *b)
{
    const struct phx_kv_cache *cache = phx_scheduler_cache(b->scheduler);
    int users[512] = {0}, n_free = 0;
    for (int32_t slot = 0; slot < b->limits.max_seqs; slot++)
        for (int32_t i = 0; i < phx_kv_cache_slot_blocks(cache, slot); i++) {
            int32_t page = phx_kv_cache_page(cache, slot, i);
            assert_in_range(page, 0, b->limits.n_pages - 1);
            users[page]++;
        }
    for (int32_t page = 0; page < b->limits.n_pages; page++) {
        assert_int_equal(users[page], phx_kv_cache_users(cache, page));
        assert_true(b->limits.share || users[page] <= 1);
        n_free += users[page] == 0;
    }
    assert_int_equal(n_free, phx_kv_cache_free_pages(cache));
}

static void check_schedule(const struct bench *b, const struct phx_schedule *s)
{
    const struct phx_kv_cache *cache = phx_scheduler_cache(b->scheduler);
    int32_t rows = 0, outputs = 0;
    assert_in_range(s->n, 1, b->limits.max_seqs);
    for (int32_t i = 0; i < s->n; i++) {
        const struct phx_scheduled *e = &s->entries[i];
        const struct phx_request *r = e->request;
        assert_in_range(e->n_rows, 1, b->limits.max_rows);
        assert_in_range(e->n_outputs, 0, e->n_rows);
        /* Rows whose output nobody asked for are those of a prompt. */
        if (!r->options.want_all_logits && e->n_outputs == 0)
            assert_true(e->position + e->n_rows <= r->options.n_prompt ||
                        e->position + e->n_rows < r->n_ids);
        int32_t end = e->position + e->n_rows;
        assert_true(end <= r->n_planned && !r->cancelled);
        assert_true(phx_kv_cache_slot_blocks(cache, r->slot) >= phx_kv_blocks_for(end));
        for (int32_t j = 0; j < i; j++) assert_true(s->entries[j].request->slot != r->slot);
        rows += e->n_rows;
        outputs += e->n_outputs;
    }
    assert_int_equal(rows, s->n_rows);
    assert_int_equal(outputs, s->n_outputs);
    assert_true(rows <= b->limits.max_rows && outputs <= b->limits.max_outputs);
}

/* Schedule, and see that nobody is wronged: the one that has run for longest goes on, and whoever
 * decodes gets a token in this step or has given its pages to others. */
static const struct phx_schedule *next(struct bench *b)
{
    bool decodes[MAX_REQUESTS] = {false};
    int oldest = -1;
    for (int i = 0; i < b->n; i++) {
        const struct phx_request *r = b->tracks[i].request;
        if (r == NULL || r->slot < 0 || r->cancelled) continue;
        if (oldest < 0) oldest = i;
        decodes[i] = r->ending == PHX_FINISH_NONE && r->n_planned - r->n_computed == 1;
    }
    const struct phx_schedule *s = phx_scheduler_next(b->scheduler);
    check_pages(b);
    for (int i = 0; i < b->n; i++) {
        const struct phx_request *r = b->tracks[i].request;
        if (r == NULL) continue;
        assert_true(r->finish != PHX_FINISH_NONE || !r->cancelled); /* gone at once */
        if (i == oldest) assert_true(r->slot >= 0);
        if (!decodes[i] || r->slot < 0) continue;
        bool found = false;
        for (int32_t k = 0; k < s->n; k++) found |= s->entries[k].request == r;
        assert_true(found);
    }
    if (s->n > 0) check_schedule(b, s);
    return s;
}

/* ---- the device ---- */

static void count_token(struct slot *slot, int32_t id, bool prompt)
{
    if (prompt)
        slot->in_prompt[id] = true;
    else
        slot->times[id]++;
}

static void join(struct bench *b, const struct phx_step_record *r)
{
    const struct phx_record_bias *bias = r->biases;
    const int32_t *seen = r->seen;
    for (int32_t i = 0; i < r->head->n_joins; i++) {
        const struct phx_record_join *j = &r->joins[i];
        struct slot *slot = &b->slots[j->slot];
        if (j->fresh) {
            memset(slot, 0, sizeof *slot);
            slot->counted = j->sampling.repeat_penalty != 1;
            slot->n_banned = j->sampling.n_bias;
            for (int32_t k = 0; k < j->n_seen; k++) count_token(slot, *seen++, k < j->n_prompt);
            for (int32_t k = 0; k < slot->n_banned; k++) slot->banned[k] = (*bias++).id;
        }
        assert_true(j->sampling.n_bias <= slot->n_banned);
        slot->n_biases = j->sampling.n_bias;
    }
    assert_int_equal(bias - r->biases, r->head->n_biases);
    assert_int_equal(seen - r->seen, r->head->n_seen);
}

static uint64_t *place_of(const struct bench *b, int32_t slot, int32_t position)
{
    int32_t page = b->table[slot * b->max_blocks + position / PHX_PAGE_TOKENS];
    return &b->pages[page][position % PHX_PAGE_TOKENS];
}

/* Its text up to `end` is in its pages; the rows of this step too. */
static void check_text(const struct bench *b, const struct track *t, int32_t slot, int32_t end)
{
    for (int32_t p = 0; p < end; p++) assert_true(*place_of(b, slot, p) == t->hash[p]);
}

static void check_counts(const struct slot *slot, const struct track *t, int32_t n_prompt,
                         int32_t position)
{
    uint16_t times[VOCAB] = {0};
    bool in_prompt[VOCAB] = {false};
    for (int32_t p = 0; p < position; p++)
        if (p < n_prompt)
            in_prompt[t->text[p]] = true;
        else
            times[t->text[p]]++;
    assert_memory_equal(times, slot->times, sizeof times);
    assert_memory_equal(in_prompt, slot->in_prompt, sizeof in_prompt);
}

/* What a step comes to that is told by its record alone; `s` is for checking. */
static void run(struct bench *b, const struct phx_schedule *s, const struct phx_step_record *r,
                int32_t *ids)
{
    int32_t row = 0;
    join(b, r);
    for (int32_t i = 0; i < r->head->n_blocks; i++)
        b->table[r->blocks[i].slot * b->max_blocks + r->blocks[i].block] = r->blocks[i].page;
    for (int32_t i = 0; i < r->head->n_seqs; i++) {
        const struct phx_record_seq *q = &r->seqs[i];
        struct slot *slot = &b->slots[q->slot];
        for (int32_t k = 0; k < q->n_rows; k++, row++) {
            int32_t position = q->position + k, id = r->ids[row];
            if (id < 0) {
                assert_int_equal(id, -1 - q->slot);
                id = slot->last_id;
            }
            uint64_t before = position > 0 ? *place_of(b, q->slot, position - 1) : 0;
            *place_of(b, q->slot, position) = follow_on(before, id);
            if (slot->counted) count_token(slot, id, position < q->n_prompt);
        }
    }
    for (int32_t i = 0; i < r->head->n_seqs; i++)
        check_text(b, s->entries[i].request->options.user, r->seqs[i].slot,
                   r->seqs[i].position + r->seqs[i].n_rows);
    for (int32_t m = 0, i = 0, end = 0; m < r->head->n_outputs; m++) {
        int32_t at = r->outputs[m].row, position = r->outputs[m].position;
        while (at >= end + r->seqs[i].n_rows) end += r->seqs[i++].n_rows;
        struct slot *slot = &b->slots[r->seqs[i].slot];
        uint64_t hash = *place_of(b, r->seqs[i].slot, position - 1);
        ids[m] = next_token(hash, slot->banned, slot->n_biases);
        if (r->outputs[m].slot < 0) continue;
        const struct track *t = s->entries[i].request->options.user;
        slot->last_id = ids[m];
        assert_int_equal(ids[m], t->text[position]);
        if (slot->counted) check_counts(slot, t, r->seqs[i].n_prompt, position);
    }
}

static void launch(struct bench *b, const struct phx_schedule *s, int32_t *ids)
{
    size_t capacity = phx_step_record_capacity(&b->limits);
    void *buffer = malloc(capacity);
    struct phx_step_record written, read;
    phx_step_record_write(s, phx_scheduler_cache(b->scheduler),
                          &(struct phx_record_head){.number = 7}, buffer, &written);
    assert_true(written.bytes <= capacity);
    phx_step_record_read(buffer, written.bytes, &read);
    assert_int_equal(read.head->n_rows, s->n_rows);
    run(b, s, &read, ids);
    free(buffer);
}

/* ---- a load ---- */

static void cancel_some(struct bench *b)
{
    if (b->n == 0 || draw(b, 40) > 0) return;
    for (int n = 1 + draw(b, 3); n > 0; n--) {
        const struct track *t = &b->tracks[draw(b, b->n)];
        if (t->request != NULL) phx_request_cancel(t->request, PHX_FINISH_CANCELLED);
    }
}

/* One turn of the loop that runs steps, up to n_ahead of them at a time. True if all is quiet. */
static bool turn(struct bench *b, int n_ahead, int32_t *ids, const float *logprobs, int *n_begun,
                 int *n_complete)
{
    size_t outputs = (size_t)b->limits.max_outputs;
    bool begun = false, quiet = false;
    if (*n_begun - *n_complete < n_ahead) {
        const struct phx_schedule *s = next(b);
        begun = s->n > 0;
        if (begun) launch(b, s, ids + (size_t)((*n_begun)++ % PHX_MAX_AHEAD) * outputs);
        quiet = !begun && *n_begun == *n_complete;
    }
    if (quiet) {
        assert_int_equal(phx_scheduler_running(b->scheduler), 0);
        assert_int_equal(phx_scheduler_waiting(b->scheduler), 0);
        assert_int_equal(b->n_finished, b->n_submitted);
    }
    if (*n_begun > *n_complete && (!begun || draw(b, 2) == 0)) {
        const int32_t *drawn = ids + (size_t)((*n_complete)++ % PHX_MAX_AHEAD) * outputs;
        phx_scheduler_complete(b->scheduler, &(struct phx_step_results){drawn, logprobs, NULL, 0});
        check_pages(b);
    }
    return quiet;
}

static void check_end(const struct bench *b)
{
    const struct phx_scheduler_counters *c = phx_scheduler_counters(b->scheduler);
    const struct phx_kv_cache *cache = phx_scheduler_cache(b->scheduler);
    int64_t n = 0;
    for (int i = 0; i < PHX_FINISH_COUNT; i++) n += c->n_finished[i];
    assert_int_equal(n, b->n_submitted);
    assert_int_equal(phx_kv_cache_free_pages(cache), b->limits.n_pages);
    assert_true(c->cached_tokens < c->prompt_tokens || c->prompt_tokens == 0);
    if (!b->limits.share) assert_int_equal(c->cached_tokens, 0);
}

static struct phx_scheduler_counters run_random(uint64_t seed, struct phx_scheduler_limits limits,
                                                int n_ahead)
{
    static struct bench b;
    size_t slots = (size_t)limits.max_seqs, outputs = (size_t)limits.max_outputs;
    b = (struct bench){
        .limits = limits, .random = seed, .max_blocks = phx_kv_blocks_for(limits.max_length)};
    current = &b;
    b.slots = calloc(slots, sizeof *b.slots);
    b.table = malloc(slots * (size_t)b.max_blocks * sizeof *b.table);
    b.pages = calloc((size_t)limits.n_pages, sizeof *b.pages);
    int32_t *ids = malloc(PHX_MAX_AHEAD * outputs * sizeof *ids);
    float *logprobs = calloc(outputs, sizeof *logprobs);
    assert_ok(phx_scheduler_create(&limits, &b.scheduler));
    int quiet = 0, n_begun = 0, n_complete = 0;
    for (int step = 0; quiet < 3; step++) {
        assert_true(step < 100000);
        if (b.n < MAX_REQUESTS && draw(&b, 3) == 0) submit_random(&b);
        cancel_some(&b);
        bool is_quiet = turn(&b, n_ahead, ids, logprobs, &n_begun, &n_complete);
        quiet += is_quiet && b.n == MAX_REQUESTS;
    }
    check_end(&b);
    struct phx_scheduler_counters counters = *phx_scheduler_counters(b.scheduler);
    for (int i = 0; i < b.n; i++) {
        assert_true(b.tracks[i].finished || !b.tracks[i].submitted);
        phx_request_destroy(b.tracks[i].request);
    }
    phx_scheduler_destroy(b.scheduler);
    free(b.slots);
    free(b.table);
    free(b.pages);
    free(ids);
    free(logprobs);
    return counters;
}

static void random_loads(void **state)
{
    (void)state;
    int64_t n_preemptions = 0, cached_tokens = 0;
    for (uint64_t seed = 1; seed <= 60; seed++)
        for (int way = 0; way < 2 * PHX_MAX_AHEAD; way++) {
            int ahead = way / 2 + 1;
            bool share = way % 2 == 1;
            struct phx_scheduler_counters c[] = {
                run_random(seed, (struct phx_scheduler_limits){4, 32, 8, 300, 40, share}, ahead),
                /* pages run out; one row a step; whole prompts */
                run_random(seed, (struct phx_scheduler_limits){6, 50, 6, 300, 7, share}, ahead),
                run_random(seed, (struct phx_scheduler_limits){1, 1, 1, 130, 3, share}, ahead),
                run_random(seed, (struct phx_scheduler_limits){9, 700, 64, 200, 5, share}, ahead),
            };
            for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
                n_preemptions += c[i].n_preemptions;
                cached_tokens += c[i].cached_tokens;
            }
        }
    assert_true(n_preemptions > 1000 && cached_tokens > 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_loads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
