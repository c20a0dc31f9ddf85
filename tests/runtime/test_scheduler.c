/* The scheduler and its pages, with no device: random arrivals, lengths and cancels. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"
#include "runtime/scheduler.h"
#include "runtime/step_record.h"

enum { MAX_REQUESTS = 60 };

/* What a request must have come to, checked from outside. */
struct track {
    struct phx_request *request;
    int32_t next_output; /* position that the next output must have */
    int32_t n_given;     /* tokens that on_output reported */
    int32_t cancel_at;   /* -1: never */
    bool submitted;
};

struct bench {
    struct phx_scheduler *scheduler;
    struct phx_scheduler_limits limits;
    struct track tracks[MAX_REQUESTS];
    int n;
    uint64_t random;
};

static int32_t draw(struct bench *b, int32_t below)
{
    b->random = phx_mix64(b->random + 0x9e3779b97f4a7c15ull);
    return (int32_t)((b->random >> 33) % (uint64_t)below);
}

/* The token that "the model" gives: a function of the text's length alone. */
static int32_t token_at(int32_t position)
{
    return 1000 + position;
}

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct track *t = request->options.user;
    assert_int_equal(output->position, t->next_output);
    t->next_output++;
    if (output->id >= 0) {
        assert_int_equal(output->id, token_at(output->position));
        t->n_given++;
    }
    if (t->cancel_at >= 0 && t->n_given >= t->cancel_at)
        phx_request_cancel(request, PHX_FINISH_CANCELLED);
}

static void submit_random(struct bench *b)
{
    struct track *t = &b->tracks[b->n++];
    int32_t longest = b->limits.max_length;
    int32_t n_prompt = 1 + draw(b, draw(b, 3) == 0 ? longest : 40);
    int32_t max_new = draw(b, 5) == 0 ? 0 : draw(b, 90);
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    for (int32_t i = 0; i < n_prompt; i++) prompt[i] = i;
    bool all = draw(b, 3) == 0;
    struct phx_request_options o = {.prompt_ids = prompt,
                                    .n_prompt = n_prompt,
                                    .max_new = max_new,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1},
                                    .want_all_logits = all,
                                    .on_output = on_output,
                                    .user = t};
    if (draw(b, 4) == 0) {
        o.stop_ids[0] = token_at(n_prompt + draw(b, 30));
        o.n_stop_ids = 1;
    }
    *t = (struct track){.next_output = all ? 1 : n_prompt, .cancel_at = -1};
    if (draw(b, 6) == 0) t->cancel_at = draw(b, 20);
    assert_ok(phx_request_create(&o, &t->request));
    free(prompt);
    enum phx_status status = phx_scheduler_submit(b->scheduler, t->request);
    int32_t whole = n_prompt + max_new < longest ? n_prompt + max_new : longest;
    if (phx_kv_blocks_for(whole) > b->limits.n_pages) {
        assert_int_equal(status, PHX_USAGE);
        phx_fail_clear();
    } else {
        assert_int_equal(status, PHX_OK);
        t->submitted = true;
    }
}

/* No page belongs to two slots, or to a slot and the free ones; every page belongs to somebody. */
static void check_pages(const struct bench *b)
{
    const struct phx_kv_cache *cache = phx_scheduler_cache(b->scheduler);
    bool owned[512] = {false};
    int32_t n_owned = 0;
    for (int32_t slot = 0; slot < b->limits.max_seqs; slot++)
        for (int32_t i = 0; i < phx_kv_cache_slot_blocks(cache, slot); i++) {
            int32_t page = phx_kv_cache_page(cache, slot, i);
            assert_in_range(page, 0, b->limits.n_pages - 1);
            assert_false(owned[page]);
            owned[page] = true;
            n_owned++;
        }
    assert_int_equal(n_owned + phx_kv_cache_free_pages(cache), b->limits.n_pages);
}

static void check_schedule(const struct bench *b, const struct phx_schedule *s)
{
    const struct phx_kv_cache *cache = phx_scheduler_cache(b->scheduler);
    int32_t rows = 0, outputs = 0;
    assert_in_range(s->n, 1, b->limits.max_seqs);
    for (int32_t i = 0; i < s->n; i++) {
        const struct phx_scheduled *e = &s->entries[i];
        assert_in_range(e->n_rows, 1, b->limits.max_rows);
        assert_in_range(e->n_outputs, 0, e->n_rows);
        /* Rows whose output nobody asked for are those of a prompt. */
        if (!e->request->options.want_all_logits && e->n_outputs == 0)
            assert_true(e->position + e->n_rows <= e->request->options.n_prompt ||
                        e->position + e->n_rows < e->request->n_ids);
        int32_t end = e->position + e->n_rows;
        assert_true(end <= e->request->n_planned);
        assert_true(phx_kv_cache_slot_blocks(cache, e->request->slot) >= phx_kv_blocks_for(end));
        for (int32_t j = 0; j < i; j++)
            assert_true(s->entries[j].request->slot != e->request->slot);
        rows += e->n_rows;
        outputs += e->n_outputs;
    }
    assert_int_equal(rows, s->n_rows);
    assert_int_equal(outputs, s->n_outputs);
    assert_true(rows <= b->limits.max_rows && outputs <= b->limits.max_outputs);
}

/* What a follower holds that only reads the records. */
struct follower {
    int32_t *table;    /* [max_seqs][max_blocks] */
    int32_t *last_ids; /* [max_seqs] the newest token of each slot */
    int32_t max_blocks;
};

/* Run the record: every slot's pages must be known, every row must be its text's token. What the
 * step draws goes to `ids`. */
static void follow(const struct bench *b, const struct phx_schedule *s, struct follower *f,
                   int32_t *ids)
{
    const struct phx_kv_cache *cache = phx_scheduler_cache(b->scheduler);
    size_t capacity = phx_step_record_capacity(&b->limits);
    void *buffer = malloc(capacity);
    struct phx_step_record written, read;
    phx_step_record_write(s, cache, &(struct phx_record_head){.number = 7}, buffer, &written);
    assert_true(written.bytes <= capacity);
    phx_step_record_read(buffer, written.bytes, &read);
    for (int32_t i = 0; i < read.head->n_blocks; i++)
        f->table[read.blocks[i].slot * f->max_blocks + read.blocks[i].block] = read.blocks[i].page;
    assert_int_equal(read.head->n_rows, s->n_rows);
    int32_t row = 0;
    for (int32_t i = 0; i < read.head->n_seqs; i++) {
        const struct phx_record_seq *q = &read.seqs[i];
        for (int32_t block = 0; block < phx_kv_blocks_for(q->position + q->n_rows); block++)
            assert_int_equal(f->table[q->slot * f->max_blocks + block],
                             phx_kv_cache_page(cache, q->slot, block));
        for (int32_t k = 0; k < q->n_rows; k++, row++) {
            int32_t position = q->position + k, id = read.ids[row];
            if (id < 0) {
                assert_int_equal(id, -1 - q->slot);
                id = f->last_ids[q->slot];
            }
            assert_int_equal(id, position < q->n_prompt ? position : token_at(position));
        }
    }
    for (int32_t m = 0; m < read.head->n_outputs; m++) {
        ids[m] = token_at(read.outputs[m].position);
        if (read.outputs[m].slot >= 0) f->last_ids[read.outputs[m].slot] = ids[m];
    }
    free(buffer);
}

static void run_random(uint64_t seed, struct phx_scheduler_limits limits, int n_ahead)
{
    struct bench b = {.limits = limits, .random = seed};
    struct follower f = {.max_blocks = phx_kv_blocks_for(limits.max_length)};
    size_t outputs = (size_t)limits.max_outputs;
    f.table = malloc((size_t)(limits.max_seqs * f.max_blocks) * sizeof *f.table);
    f.last_ids = calloc((size_t)limits.max_seqs, sizeof *f.last_ids);
    int32_t *ids = malloc(PHX_MAX_AHEAD * outputs * sizeof *ids);
    float *logprobs = calloc(outputs, sizeof *logprobs);
    assert_ok(phx_scheduler_create(&limits, &b.scheduler));
    int idle = 0, n_begun = 0, n_complete = 0;
    for (int step = 0; idle < 3; step++) {
        assert_true(step < 100000);
        if (b.n < MAX_REQUESTS && draw(&b, 3) == 0) submit_random(&b);
        if (b.n > 0 && draw(&b, 40) == 0) {
            struct phx_request *r = b.tracks[draw(&b, b.n)].request;
            phx_request_cancel(r, PHX_FINISH_CANCELLED);
        }
        bool begun = false;
        if (n_begun - n_complete < n_ahead) {
            const struct phx_schedule *s = phx_scheduler_next(b.scheduler);
            check_pages(&b);
            begun = s->n > 0;
            if (begun) {
                check_schedule(&b, s);
                follow(&b, s, &f, ids + (size_t)(n_begun++ % PHX_MAX_AHEAD) * outputs);
            } else if (n_begun == n_complete) {
                assert_int_equal(phx_scheduler_running(b.scheduler), 0);
                assert_int_equal(phx_scheduler_waiting(b.scheduler), 0);
                idle += b.n == MAX_REQUESTS;
            }
        }
        if (n_begun > n_complete && (!begun || draw(&b, 2) == 0)) {
            const int32_t *drawn = ids + (size_t)(n_complete++ % PHX_MAX_AHEAD) * outputs;
            phx_scheduler_complete(b.scheduler,
                                   &(struct phx_step_results){drawn, logprobs, NULL, 0});
            check_pages(&b);
        }
    }
    for (int i = 0; i < b.n; i++) {
        const struct track *t = &b.tracks[i];
        const struct phx_request *r = t->request;
        const struct phx_request_options *o = &r->options;
        if (t->submitted) {
            assert_true(r->finish != PHX_FINISH_NONE);
            int32_t most = limits.max_length - o->n_prompt;
            if (o->max_new < most) most = o->max_new;
            if (r->finish == PHX_FINISH_LENGTH) assert_int_equal(r->n_ids - o->n_prompt, most);
            if (r->finish == PHX_FINISH_STOP)
                assert_int_equal(r->ids[r->n_ids - 1], o->stop_ids[0]);
            if (r->finish != PHX_FINISH_CANCELLED) {
                /* The last position has an output only where all logits were wanted. */
                int32_t last = r->n_ids + (o->want_all_logits ? 1 : 0);
                if (o->want_all_logits || most > 0) assert_int_equal(t->next_output, last);
            }
        }
        phx_request_destroy(t->request);
    }
    assert_int_equal(phx_kv_cache_free_pages(phx_scheduler_cache(b.scheduler)), limits.n_pages);
    phx_scheduler_destroy(b.scheduler);
    free(f.table);
    free(f.last_ids);
    free(ids);
    free(logprobs);
}

static void random_loads(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++)
        for (int ahead = 1; ahead <= PHX_MAX_AHEAD; ahead++) {
            run_random(seed, (struct phx_scheduler_limits){4, 32, 8, 300, 40}, ahead);
            /* pages run out; one row a step; whole prompts */
            run_random(seed, (struct phx_scheduler_limits){6, 50, 6, 300, 7}, ahead);
            run_random(seed, (struct phx_scheduler_limits){1, 1, 1, 130, 3}, ahead);
            run_random(seed, (struct phx_scheduler_limits){9, 700, 64, 200, 5}, ahead);
        }
}

static struct phx_request *request_of(int32_t n_prompt, int32_t max_new)
{
    int32_t ids[600] = {0};
    struct phx_request *r = NULL;
    struct phx_request_options o = {.prompt_ids = ids,
                                    .n_prompt = n_prompt,
                                    .max_new = max_new,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1}};
    assert_ok(phx_request_create(&o, &r));
    return r;
}

static void complete(struct phx_scheduler *s)
{
    int32_t ids[64] = {0};
    float logprobs[64] = {0};
    phx_scheduler_complete(s, &(struct phx_step_results){ids, logprobs, NULL, 0});
}

/* A long prompt is read in pieces while another request goes on decoding in every step. */
static void decoding_goes_on(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    assert_ok(phx_scheduler_create(&(struct phx_scheduler_limits){2, 16, 2, 600, 32}, &s));
    struct phx_request *short_one = request_of(3, 200), *long_one = request_of(500, 1);
    assert_ok(phx_scheduler_submit(s, short_one));
    phx_scheduler_next(s);
    complete(s);
    assert_ok(phx_scheduler_submit(s, long_one));
    while (long_one->finish == PHX_FINISH_NONE) {
        int32_t before = short_one->n_ids;
        const struct phx_schedule *schedule = phx_scheduler_next(s);
        assert_int_equal(schedule->n, 2);
        assert_ptr_equal(schedule->entries[0].request, short_one);
        complete(s);
        assert_int_equal(short_one->n_ids, before + 1);
    }
    phx_scheduler_destroy(s);
    phx_request_destroy(short_one);
    phx_request_destroy(long_one);
}

static int32_t steps_until_idle(struct phx_scheduler *s)
{
    int32_t n = 0;
    while (phx_scheduler_next(s)->n > 0) {
        complete(s);
        n++;
    }
    return n;
}

/* Requests wait where they are held; sent back, they do the same again, in the same pages. */
static void held_and_sent_back(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    struct phx_scheduler_limits limits = {2, 16, 2, 200, 8};
    assert_ok(phx_scheduler_create(&limits, &s));
    struct phx_request *r[2] = {request_of(80, 50), request_of(80, 50)};
    int32_t page = -1;
    for (int i = 0; i < 2; i++) {
        r[i]->n_hold = 70;
        assert_ok(phx_scheduler_submit(s, r[i]));
    }
    assert_int_equal(steps_until_idle(s), 9); /* 140 rows by 16 */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 2; i++) {
            assert_true(r[i]->n_computed == 70 && r[i]->n_ids == 80 && r[i]->slot == i);
            r[i]->n_hold = 90;
        }
        assert_int_equal(steps_until_idle(s), 2 + 10);
        for (int i = 0; i < 2; i++) {
            assert_true(r[i]->n_computed == 90 && r[i]->n_ids == 91);
            assert_int_equal(r[i]->finish, PHX_FINISH_NONE);
            phx_request_seek(r[i], 70);
        }
        int32_t now = phx_kv_cache_page(phx_scheduler_cache(s), 1, 1);
        assert_true(page == -1 || page == now);
        page = now;
    }
    for (int i = 0; i < 2; i++) phx_request_cancel(r[i], PHX_FINISH_CANCELLED);
    assert_int_equal(steps_until_idle(s), 0);
    assert_int_equal(phx_kv_cache_free_pages(phx_scheduler_cache(s)), limits.n_pages);

    /* One that never read what lies before. */
    struct phx_request *skips = request_of(101, 50);
    phx_request_seek(skips, 100);
    skips->n_hold = 103;
    assert_ok(phx_scheduler_submit(s, skips));
    const struct phx_schedule *first = phx_scheduler_next(s);
    assert_true(first->n_rows == 1 && first->entries[0].position == 100);
    complete(s);
    assert_int_equal(steps_until_idle(s), 2);
    assert_int_equal(skips->n_ids, 104);
    phx_scheduler_destroy(s);
    phx_request_destroy(skips);
    for (int i = 0; i < 2; i++) phx_request_destroy(r[i]);
}

static void refusals(void **state)
{
    (void)state;
    struct phx_scheduler *s = NULL;
    assert_ok(phx_scheduler_create(&(struct phx_scheduler_limits){2, 16, 2, 200, 2}, &s));
    struct phx_request *r = request_of(201, 0);
    assert_fails(phx_scheduler_submit(s, r), PHX_USAGE, "201 tokens, the context holds 200");
    phx_request_destroy(r);
    r = request_of(100, 80);
    assert_fails(phx_scheduler_submit(s, r), PHX_USAGE, "take 3 cache pages of 64 tokens");
    phx_request_destroy(r);
    phx_scheduler_destroy(s);
    int32_t id = 0;
    struct phx_request_options good = {
        .prompt_ids = &id, .n_prompt = 1, .sampling = {.top_p = 1, .repeat_penalty = 1}};
    struct phx_request_options bad = good;
    bad.n_prompt = 0;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "prompt is empty");
    bad = good;
    bad.sampling.top_p = 0;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "top-p 0");
    bad = good;
    bad.sampling.temperature = -1;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "temperature -1");
    bad = good;
    bad.n_forced = 2;
    bad.max_new = 1;
    assert_fails(phx_request_create(&bad, &r), PHX_USAGE, "2 forced tokens");
}

/* What the sampling parameters ask of a step. */
static void draw_kinds(void **state)
{
    (void)state;
    static const struct {
        float temperature, top_p, min_p;
        int32_t top_k, draw, n_candidates;
    } cases[] = {
        {0, 0.5f, 0.5f, 0, PHX_DRAW_CANDIDATES, 1},  {1, 1, 0, 0, PHX_DRAW_CANDIDATES, 1},
        {1, 0.9f, 0, 40, PHX_DRAW_CANDIDATES, 64},   {1, 1, 0, 65, PHX_DRAW_CANDIDATES, 256},
        {1, 1, 0.1f, 256, PHX_DRAW_CANDIDATES, 256}, {1, 1, 0, 257, PHX_DRAW_FULL, 0},
        {1, 0.9f, 0, 0, PHX_DRAW_FULL, 0},           {1, 1, 0.1f, 0, PHX_DRAW_FULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct phx_scheduler_limits limits = {1, 16, 1, 200, 4};
        struct phx_scheduler *s = NULL;
        struct phx_request *r = request_of(5, 5);
        r->options.sampling.temperature = cases[i].temperature;
        r->options.sampling.top_p = cases[i].top_p;
        r->options.sampling.min_p = cases[i].min_p;
        r->options.sampling.top_k = cases[i].top_k;
        assert_ok(phx_scheduler_create(&limits, &s));
        assert_ok(phx_scheduler_submit(s, r));
        void *buffer = malloc(phx_step_record_capacity(&limits));
        struct phx_step_record record;
        phx_step_record_write(phx_scheduler_next(s), phx_scheduler_cache(s),
                              &(struct phx_record_head){0}, buffer, &record);
        assert_int_equal(record.head->draw, cases[i].draw);
        if (cases[i].draw == PHX_DRAW_CANDIDATES)
            assert_int_equal(record.head->n_candidates, cases[i].n_candidates);
        free(buffer);
        phx_scheduler_destroy(s);
        phx_request_destroy(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_loads),       cmocka_unit_test(decoding_goes_on),
        cmocka_unit_test(held_and_sent_back), cmocka_unit_test(refusals),
        cmocka_unit_test(draw_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
