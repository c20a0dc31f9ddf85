#include "runtime/step_record.h"

#include <string.h>

#include "kernels/base/check.h"

/* Set the arrays from the head's counts. Only the joins hold 8-byte fields and they come first. */
static void place(struct phx_step_record *r, void *buffer)
{
    const struct phx_record_head *h = r->head = buffer;
    char *at = (char *)buffer + sizeof *r->head;
#define PHX_PLACE(field, n)                                                                        \
    do {                                                                                           \
        r->field = (void *)at;                                                                     \
        at += (size_t)(n) * sizeof *r->field;                                                      \
    } while (0)
    PHX_PLACE(joins, h->n_joins);
    PHX_PLACE(biases, h->n_biases);
    PHX_PLACE(blocks, h->n_blocks);
    PHX_PLACE(seqs, h->n_seqs);
    PHX_PLACE(outputs, h->n_outputs);
    PHX_PLACE(ids, h->n_rows);
    PHX_PLACE(seen, h->n_seen);
#undef PHX_PLACE
    r->bytes = (size_t)(at - (char *)buffer);
}

/* As many as all slots can hold, or all pages there are if no two slots hold the same: a step
 * appends no more. */
static int64_t max_blocks(const struct phx_scheduler_limits *l)
{
    int64_t all = (int64_t)l->max_seqs * phx_kv_blocks_for(l->max_length);
    return l->share || all < l->n_pages ? all : l->n_pages;
}

size_t phx_step_record_capacity(const struct phx_scheduler_limits *limits)
{
    size_t seqs = (size_t)limits->max_seqs;
    return sizeof(struct phx_record_head) + seqs * sizeof(struct phx_record_join) +
           PHX_MAX_BIAS * sizeof(struct phx_record_bias) +
           (size_t)max_blocks(limits) * sizeof(struct phx_record_block) +
           seqs * sizeof(struct phx_record_seq) +
           (size_t)limits->max_outputs * sizeof(struct phx_record_output) +
           (size_t)limits->max_rows * sizeof(int32_t) +
           (limits->share ? (size_t)limits->max_length * sizeof(int32_t) : 0);
}

/* Its shared tokens that a record has to tell. */
static int32_t n_told(const struct phx_scheduled *e)
{
    return e->joins && phx_sampling_counts(&e->request->options.sampling) ? e->n_seen : 0;
}

/* Candidates that the row needs of each rank; 0: it needs the whole vocabulary. */
static int32_t candidates_for(const struct phx_sampling *s)
{
    if (s->temperature == 0) return 1;
    if (s->top_k > PHX_MAX_CANDIDATES) return 0;
    if (s->top_k > 0) return s->top_k;
    return s->top_p < 1 || s->min_p > 0 ? 0 : 1;
}

static bool wants_logits(const struct phx_request_options *o)
{
    return o->want_logits || o->want_all_logits;
}

static void count(const struct phx_schedule *schedule, const struct phx_kv_cache *cache,
                  struct phx_record_head *h)
{
    int32_t most = 0;
    bool full = false;
    for (int32_t i = 0; i < schedule->n; i++) {
        const struct phx_scheduled *e = &schedule->entries[i];
        const struct phx_request_options *o = &e->request->options;
        h->n_blocks += phx_kv_cache_slot_blocks(cache, e->request->slot) - e->first_block;
        h->n_joins += e->joins || e->changes;
        if (e->joins) h->n_biases += e->n_biases;
        h->n_seen += n_told(e);
        if (e->n_biases > 0 || phx_sampling_counts(&o->sampling)) h->adjust = 1;
        if (e->n_outputs > 0 && wants_logits(o)) h->want_logits = 1;
        if (!e->samples) continue;
        int32_t k = candidates_for(&o->sampling);
        if (k == 0) full = true;
        if (k > most) most = k;
    }
    h->n_seqs = schedule->n;
    h->n_outputs = schedule->n_outputs;
    h->n_rows = schedule->n_rows;
    h->draw = full ? PHX_DRAW_FULL : most > 0 ? PHX_DRAW_CANDIDATES : PHX_DRAW_NONE;
    /* Few sizes, so that few variants of a step exist. */
    h->n_candidates = most <= 1 ? 1 : most <= 64 ? 64 : PHX_MAX_CANDIDATES;
}

static struct phx_record_head start(const struct phx_record_head *head, enum phx_record_kind kind)
{
    return (struct phx_record_head){.number = head->number,
                                    .n_hashed = head->n_hashed,
                                    .token_hash = head->token_hash,
                                    .kind = kind};
}

/* Where the next join's entries go. */
struct cursor {
    int32_t join, bias, seen;
};

static void write_join(struct phx_step_record *r, const struct phx_scheduled *e, struct cursor *at)
{
    const struct phx_request *request = e->request;
    struct phx_record_join *join = &r->joins[at->join++];
    *join = (struct phx_record_join){.sampling = request->options.sampling,
                                     .slot = request->slot,
                                     .fresh = e->joins,
                                     .n_seen = n_told(e),
                                     .n_prompt = request->options.n_prompt};
    join->sampling.n_bias = e->n_biases;
    memcpy(r->seen + at->seen, request->ids, (size_t)join->n_seen * sizeof *r->seen);
    at->seen += join->n_seen;
    for (int32_t i = 0; e->joins && i < e->n_biases; i++) {
        struct phx_record_bias *bias = &r->biases[at->bias++];
        phx_request_bias(request, i, &bias->id, &bias->value);
    }
}

void phx_step_record_write(const struct phx_schedule *schedule, const struct phx_kv_cache *cache,
                           const struct phx_record_head *head, void *buffer,
                           struct phx_step_record *out)
{
    struct phx_record_head own = start(head, PHX_RECORD_STEP);
    count(schedule, cache, &own);
    memcpy(buffer, &own, sizeof own);
    place(out, buffer);
    struct cursor at = {0};
    int32_t block = 0, output = 0, row = 0;
    for (int32_t i = 0; i < schedule->n; i++) {
        const struct phx_scheduled *e = &schedule->entries[i];
        const struct phx_request *r = e->request;
        if (e->joins || e->changes) write_join(out, e, &at);
        for (int32_t b = e->first_block; b < phx_kv_cache_slot_blocks(cache, r->slot); b++)
            out->blocks[block++] =
                (struct phx_record_block){r->slot, b, phx_kv_cache_page(cache, r->slot, b)};
        out->seqs[i] =
            (struct phx_record_seq){r->slot, e->n_rows, e->position, r->options.n_prompt};
        int32_t end = e->position + e->n_rows;
        for (int32_t p = e->position; p < end; p++) out->ids[row++] = phx_request_id_at(r, p);
        for (int32_t k = e->n_outputs; k > 0; k--)
            out->outputs[output++] =
                (struct phx_record_output){row - k, k == 1 && e->samples ? r->slot : -1,
                                           end - k + 1, wants_logits(&r->options)};
    }
}

void phx_step_record_write_stop(const struct phx_record_head *head, void *buffer,
                                struct phx_step_record *out)
{
    struct phx_record_head own = start(head, PHX_RECORD_STOP);
    memcpy(buffer, &own, sizeof own);
    place(out, buffer);
}

void phx_step_record_read(void *buffer, size_t bytes, struct phx_step_record *out)
{
    PHX_ASSERT(bytes >= sizeof(struct phx_record_head));
    place(out, buffer);
    PHX_ASSERT(out->bytes == bytes);
}
