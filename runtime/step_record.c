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
#undef PHX_PLACE
    r->bytes = (size_t)(at - (char *)buffer);
}

/* All pages there are, or as many as all slots can hold: a step appends no more. */
static int64_t max_blocks(const struct phx_scheduler_limits *l)
{
    int64_t all = (int64_t)l->max_seqs * phx_kv_blocks_for(l->max_length);
    return all < l->n_pages ? all : l->n_pages;
}

size_t phx_step_record_capacity(const struct phx_scheduler_limits *limits)
{
    size_t seqs = (size_t)limits->max_seqs;
    return sizeof(struct phx_record_head) + seqs * sizeof(struct phx_record_join) +
           PHX_MAX_BIAS * sizeof(struct phx_record_bias) +
           (size_t)max_blocks(limits) * sizeof(struct phx_record_block) +
           seqs * sizeof(struct phx_record_seq) +
           (size_t)limits->max_outputs * sizeof(struct phx_record_output) +
           (size_t)limits->max_rows * sizeof(int32_t);
}

static bool has_penalties(const struct phx_sampling *s)
{
    return s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0 ||
           s->n_bias > 0;
}

/* Candidates that the row needs of each rank; 0: it needs the whole vocabulary. */
static int32_t candidates_for(const struct phx_sampling *s)
{
    if (s->temperature == 0) return 1;
    if (s->top_k > PHX_MAX_CANDIDATES) return 0;
    if (s->top_k > 0) return s->top_k;
    return s->top_p < 1 || s->min_p > 0 ? 0 : 1;
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
        if (e->joins) {
            h->n_joins++;
            h->n_biases += o->n_bias;
        }
        if (has_penalties(&o->sampling)) h->adjust = 1;
        if (e->n_outputs > 0 && (o->want_logits || o->want_all_logits)) h->want_logits = 1;
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

static void write_join(struct phx_step_record *r, const struct phx_request *request, int32_t join,
                       int32_t bias)
{
    const struct phx_request_options *o = &request->options;
    r->joins[join] = (struct phx_record_join){.sampling = o->sampling, .slot = request->slot};
    for (int32_t i = 0; i < o->n_bias; i++)
        r->biases[bias + i] = (struct phx_record_bias){o->bias_ids[i], o->bias_values[i]};
}

void phx_step_record_write(const struct phx_schedule *schedule, const struct phx_kv_cache *cache,
                           const struct phx_record_head *head, void *buffer,
                           struct phx_step_record *out)
{
    struct phx_record_head own = start(head, PHX_RECORD_STEP);
    count(schedule, cache, &own);
    memcpy(buffer, &own, sizeof own);
    place(out, buffer);
    int32_t join = 0, bias = 0, block = 0, output = 0, row = 0;
    for (int32_t i = 0; i < schedule->n; i++) {
        const struct phx_scheduled *e = &schedule->entries[i];
        const struct phx_request *r = e->request;
        if (e->joins) {
            write_join(out, r, join++, bias);
            bias += r->options.n_bias;
        }
        for (int32_t b = e->first_block; b < phx_kv_cache_slot_blocks(cache, r->slot); b++)
            out->blocks[block++] =
                (struct phx_record_block){r->slot, b, phx_kv_cache_page(cache, r->slot, b)};
        out->seqs[i] =
            (struct phx_record_seq){r->slot, e->n_rows, e->position, r->options.n_prompt};
        int32_t end = e->position + e->n_rows;
        for (int32_t p = e->position; p < end; p++) out->ids[row++] = phx_request_id_at(r, p);
        for (int32_t k = e->n_outputs; k > 0; k--)
            out->outputs[output++] = (struct phx_record_output){
                row - k, k == 1 && e->samples ? r->slot : -1, end - k + 1};
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
