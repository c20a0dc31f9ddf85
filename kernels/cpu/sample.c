#include <math.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/sample_select.h"

/* ---- a share's best candidates ---- */

/* The best K so far are a heap in the record itself, the worst of them first. */
struct heap {
    struct phx_candidate *items;
    int32_t n;
    bool by_value; /* else by noisy */
};

static bool worse(const struct heap *h, const struct phx_candidate *a,
                  const struct phx_candidate *b)
{
    float x = h->by_value ? a->value : a->noisy, y = h->by_value ? b->value : b->noisy;
    return x < y || (x == y && a->id > b->id);
}

static void swap(struct phx_candidate *a, struct phx_candidate *b)
{
    struct phx_candidate c = *a;
    *a = *b;
    *b = c;
}

static void sift_down(const struct heap *h, int32_t n)
{
    for (int32_t parent = 0, child; (child = 2 * parent + 1) < n; parent = child) {
        if (child + 1 < n && worse(h, &h->items[child + 1], &h->items[child])) child++;
        if (!worse(h, &h->items[child], &h->items[parent])) return;
        swap(&h->items[child], &h->items[parent]);
    }
}

static void push(struct heap *h, struct phx_candidate item)
{
    int32_t child = h->n++;
    h->items[child] = item;
    for (int32_t parent; child > 0; child = parent) {
        parent = (child - 1) / 2;
        if (!worse(h, &h->items[child], &h->items[parent])) return;
        swap(&h->items[child], &h->items[parent]);
    }
}

/* Best first. */
static void sort(const struct heap *h)
{
    for (int32_t n = h->n; n > 1; n--) {
        swap(&h->items[0], &h->items[n - 1]);
        sift_down(h, n - 1);
    }
}

/* The share's largest logit and the sum of its exponentials; 0 where all are minus infinity. */
static struct phx_candidate statistics(const struct phx_cpu_loops *loops, const float *logits,
                                       int64_t n)
{
    struct phx_candidate stats = {.id = -1};
    stats.value = loops->max(logits, n);
    stats.raw = loops->sum_exp(logits, n, stats.value == -INFINITY ? 0 : stats.value);
    return stats;
}

struct candidates_job {
    const struct phx_sample_candidates *args;
    const struct phx_cpu_loops *loops;
};

static void candidates_row(const struct candidates_job *job, int64_t m)
{
    const struct phx_sample_candidates *args = job->args;
    const int32_t slot = phx_i32_at(args->slots, m, 0), limit = args->n_candidates;
    if (slot < 0) return;
    const struct phx_sampling *p = phx_sampling_at(args->params, slot);
    PHX_ASSERT(p->top_k <= limit);
    const uint64_t key = phx_sample_key(p->seed, p->choice, phx_i32_at(args->positions, m, 0));
    const float *logits = phx_f32_row(args->logits, m), *adjusted = phx_f32_row(args->adjusted, m);
    struct heap h = {phx_candidates_row(args->records, m), 0, p->top_k > 0};
    const bool noise = p->temperature > 0;

    for (int64_t i = 0; i < args->logits.cols; i++) {
        struct phx_candidate c = {.value = phx_sample_value(adjusted[i], p->temperature)};
        const bool full = h.n == limit;
        if (full && h.by_value && !(c.value > h.items[0].value)) continue;
        c.id = args->vocab_begin + (int32_t)i;
        c.raw = logits[i];
        c.noisy = c.value;
        if (noise && !h.by_value)
            c.noisy = phx_sample_noisy(c.value, key, c.id, full ? h.items[0].noisy : -INFINITY);
        if (!full) {
            push(&h, c);
        } else if (worse(&h, &h.items[0], &c)) {
            h.items[0] = c;
            sift_down(&h, h.n);
        }
    }
    sort(&h);
    for (int32_t i = 0; noise && h.by_value && i < h.n; i++)
        h.items[i].noisy = phx_sample_noisy(h.items[i].value, key, h.items[i].id, -INFINITY);
    for (int32_t i = h.n; i < limit; i++) h.items[i] = (struct phx_candidate){.id = -1};
    h.items[limit] = statistics(job->loops, logits, args->logits.cols);
}

static void candidates_rows(void *user, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t m = begin; m < end; m++) candidates_row(user, m);
}

enum phx_status phx_cpu_sample_candidates(struct phx_stream *stream,
                                          const struct phx_sample_candidates *args)
{
    struct candidates_job job = {args, phx_cpu_loops(phx_cpu_device(stream)->isa)};
    phx_pool_for(phx_cpu_pool(stream), args->logits.rows, 1, candidates_rows, &job);
    return PHX_OK;
}

/* ---- drawing ---- */

/* log of the sum of exponentials over all shares. */
static float log_sum(const struct phx_candidate *records, int32_t n_ranks, int32_t record_items)
{
    float max = -INFINITY, sum = 0;
    const struct phx_candidate *stats = records + record_items - 1;
    for (int32_t r = 0; r < n_ranks; r++) max = fmaxf(max, stats[(int64_t)r * record_items].value);
    for (int32_t r = 0; r < n_ranks; r++) {
        struct phx_candidate share = stats[(int64_t)r * record_items];
        if (share.value == max)
            sum += share.raw;
        else
            sum += share.raw * expf(share.value - max);
    }
    return max + logf(sum);
}

static void pick_row(const struct phx_sample_pick *args, int64_t m)
{
    const int32_t slot = phx_i32_at(args->slots, m, 0), record_items = args->n_candidates + 1;
    if (slot < 0) return;
    const struct phx_sampling *p = phx_sampling_at(args->params, slot);
    PHX_ASSERT(!(p->temperature > 0) || (p->top_k > 0 && p->top_k <= args->n_candidates) ||
               (p->top_k <= 0 && p->top_p >= 1 && p->min_p <= 0));
    const struct phx_candidate *records = phx_candidates_row(args->records, m);
    struct phx_sample_tokens tokens = {NULL, records, (int64_t)args->n_ranks * record_items};
    const int64_t drawn = phx_sample_draw(&tokens, p, 0);
    PHX_ASSERT(drawn >= 0);
    const int32_t id = records[drawn].id;
    *phx_i32_entry(args->ids, m) = id;
    *phx_i32_entry(args->last_ids, slot) = id;
    *phx_f32_row(args->logprobs, m) =
        records[drawn].raw - log_sum(records, args->n_ranks, record_items);
}

/* Few tokens: not worth waking threads. */
enum phx_status phx_cpu_sample_pick(struct phx_stream *stream, const struct phx_sample_pick *args)
{
    (void)stream;
    for (int64_t m = 0; m < args->records.rows; m++) pick_row(args, m);
    return PHX_OK;
}

struct full_job {
    const struct phx_sample_full *args;
    const struct phx_cpu_loops *loops;
};

static void full_row(const struct full_job *job, int64_t m)
{
    const struct phx_sample_full *args = job->args;
    const int32_t slot = phx_i32_at(args->slots, m, 0);
    if (slot < 0) return;
    const struct phx_sampling *p = phx_sampling_at(args->params, slot);
    const uint64_t key = phx_sample_key(p->seed, p->choice, phx_i32_at(args->positions, m, 0));
    const float *logits = phx_f32_row(args->logits, m);
    struct phx_sample_tokens tokens = {phx_f32_row(args->adjusted, m), NULL, args->logits.cols};
    const int64_t id = phx_sample_draw(&tokens, p, key);
    *phx_i32_entry(args->ids, m) = (int32_t)id;
    *phx_i32_entry(args->last_ids, slot) = (int32_t)id;
    const struct phx_candidate stats = statistics(job->loops, logits, args->logits.cols);
    *phx_f32_row(args->logprobs, m) = logits[id] - log_sum(&stats, 1, 1);
}

static void full_rows(void *user, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t m = begin; m < end; m++) full_row(user, m);
}

enum phx_status phx_cpu_sample_full(struct phx_stream *stream, const struct phx_sample_full *args)
{
    struct full_job job = {args, phx_cpu_loops(phx_cpu_device(stream)->isa)};
    phx_pool_for(phx_cpu_pool(stream), args->logits.rows, 1, full_rows, &job);
    return PHX_OK;
}
