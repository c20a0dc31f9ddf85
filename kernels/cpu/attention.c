/* Attention over the paged cache: an online softmax, page by page.
 *
 * The work is cut into units: up to 64 queries of one sequence and one KV head (all heads of the
 * group, as many rows as fit), so that each key and value that is read serves all of them. A
 * sequence's pages are cut into parts; each part is summed from nothing and then added to the ones
 * before it. Where units are long and few, their parts are computed side by side and added
 * afterwards, in the same order with the same roundings.
 *
 * So a row's bits depend on its own query and keys alone: not on the number of threads, the rows
 * and sequences beside it, or how a prompt is cut into steps. */
#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/loops.h"

#ifdef PHX_TAPPED /* attention_tapped.c */
#define ATTENTION phx_cpu_attention_tapped
enum { TAPPED = 1 };
#else
#define ATTENTION phx_cpu_attention
enum { TAPPED = 0 };
#endif

enum {
    TILE = 64, /* queries of a unit */
    PAGE = PHX_PAGE_TOKENS,
    MIN_PART_PAGES = 16,
    MAX_PARTS = 64, /* of the longest sequence */
    SPLIT_SEQS = 8, /* so many such sequences, one row each, may be split at once */
    MOST_LANES = 16
};

struct part_state {
    struct phx_softmax_state state[TILE];
    float *sums; /* [TILE][padded] */
};

/* A thread's scratch. */
struct tile {
    _Alignas(64) struct part_state part; /* and so all that follows */
    struct part_state total;
    float *q;      /* [TILE][padded] scaled */
    float *scores; /* [TILE][PAGE] */
    float *k, *v;  /* [PAGE][padded] as f32 */
    float *k_t;    /* [padded][PAGE] */
};

/* A sequence's share of the work. */
struct seq_work {
    int64_t n_units;
    int32_t first_part, n_parts; /* that any of its rows can see */
    bool split;                  /* an item is a part of a unit; else a unit */
    int64_t first_item;
    int64_t first_stored; /* among the parts that are stored, and where in floats */
    int64_t stored_at;
};

struct job {
    struct phx_stream *stream;
    const struct phx_attention *args;
    const struct phx_cpu_loops *loops;
    int64_t group;      /* G */
    int64_t head_step;  /* heads of a group in a unit */
    int64_t row_step;   /* rows in a unit */
    int64_t head_steps; /* units for a group's heads */
    int64_t padded;     /* D, rounded up to whole vectors */
    int64_t part_pages;
    struct seq_work *seqs; /* [S] */
    float *stored;         /* parts of split sequences: sums and state of each query */
    int64_t n_items, n_stored;
};

struct unit {
    int32_t seq;
    int64_t row, n_rows; /* rows of the step */
    int64_t kv_head;
    int64_t head, n_heads; /* query heads */
    int64_t n_queries;     /* n_rows * n_heads; query i is of row i / n_heads */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t blocks_of(int64_t n, int64_t block)
{
    return (n + block - 1) / block;
}

static int32_t at(struct phx_tensor list, int64_t row)
{
    return phx_i32_at(list, row, 0);
}

/* ---- scratch ---- */

static int64_t query_floats(int64_t padded)
{
    return padded + (int64_t)(sizeof(struct phx_softmax_state) / sizeof(float));
}

/* From the longest sequence that there may be, so that parts are the same in every step. */
static int64_t part_pages(const struct phx_limits *limits)
{
    return max64(blocks_of(blocks_of(limits->max_length, PAGE), MAX_PARTS), MIN_PART_PAGES);
}

static int64_t stored_floats(const struct phx_limits *limits)
{
    int64_t padded = blocks_of(limits->max_head_dim, MOST_LANES) * MOST_LANES;
    int64_t n_parts = blocks_of(limits->max_length, part_pages(limits) * PAGE);
    return min64(limits->max_seqs, SPLIT_SEQS) * limits->max_heads * n_parts * query_floats(padded);
}

#ifndef PHX_TAPPED
size_t phx_cpu_ops_thread_bytes(const struct phx_limits *limits)
{
    int64_t padded = blocks_of(limits->max_head_dim, MOST_LANES) * MOST_LANES;
    return sizeof(struct tile) +
           sizeof(float) * (size_t)((3 * TILE + 3 * PAGE) * padded + TILE * PAGE);
}

size_t phx_cpu_ops_shared_bytes(const struct phx_limits *limits)
{
    return sizeof(struct seq_work) * (size_t)limits->max_seqs +
           sizeof(float) * (size_t)stored_floats(limits);
}
#endif

static struct tile *tile_of(const struct job *j, int thread)
{
    struct tile *t = phx_cpu_scratch(j->stream, thread);
    t->q = (float *)(t + 1);
    t->part.sums = t->q + TILE * j->padded;
    t->total.sums = t->part.sums + TILE * j->padded;
    t->scores = t->total.sums + TILE * j->padded;
    t->k = t->scores + TILE * PAGE;
    t->v = t->k + PAGE * j->padded;
    t->k_t = t->v + PAGE * j->padded;
    return t;
}

/* ---- the cut ---- */

/* The parts that rows [row, end) of a sequence can see; with explicit positions any of them. */
static void visible_parts(const struct job *j, int32_t seq, int64_t row, int64_t end,
                          struct seq_work *work)
{
    const struct phx_step_layout *layout = j->args->layout;
    const int64_t length = at(layout->seq_length, seq), part_keys = j->part_pages * PAGE;
    PHX_ASSERT(length >= 0 && length <= layout->block_table.cols * PAGE);
    int64_t oldest = 0; /* key that is seen */
    if (j->args->window > 0 && !phx_tensor_present(layout->page_position)) {
        oldest = length;
        for (; row < end; row++)
            oldest = min64(oldest, at(layout->positions, row) - j->args->window + 1);
        oldest = max64(oldest, 0);
    }
    work->first_part = (int32_t)(oldest / part_keys);
    work->n_parts = (int32_t)(blocks_of(length, part_keys) - work->first_part);
}

static void cut(struct job *j)
{
    const struct phx_step_layout *layout = j->args->layout;
    int64_t free_floats = stored_floats(&j->stream->limits), stored_at = 0;
    for (int32_t s = 0; s < layout->n_seqs; s++) {
        const int64_t row = at(layout->seq_rows, s), end = at(layout->seq_rows, s + 1);
        struct seq_work *work = &j->seqs[s];
        *work = (struct seq_work){.first_item = j->n_items, .first_stored = j->n_stored};
        PHX_ASSERT(row >= 0 && row <= end && end <= layout->n_rows);
        if (at(layout->seq_slot, s) < 0) continue;
        visible_parts(j, s, row, end, work);
        work->n_units = blocks_of(end - row, j->row_step) * j->args->kv.n_kv_heads * j->head_steps;
        const int64_t n_parts = work->n_units * work->n_parts;
        const int64_t floats = n_parts * (end - row) * j->head_step * query_floats(j->padded);
        work->split = work->n_parts > 1 && end - row <= j->row_step && floats <= free_floats;
        j->n_items += work->split ? n_parts : work->n_units;
        if (!work->split) continue;
        work->stored_at = stored_at;
        j->n_stored += n_parts;
        stored_at += floats;
        free_floats -= floats;
    }
}

/* The last sequence whose items (or stored parts) begin at or before `index`: the one it belongs
 * to, since sequences that have none are passed over. */
static int32_t find_seq(const struct job *j, int64_t index, bool stored)
{
    int32_t low = 0, high = j->args->layout->n_seqs;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        int64_t first = stored ? j->seqs[middle].first_stored : j->seqs[middle].first_item;
        if (first <= index)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Units of a sequence are ordered by rows, then KV head, then heads of its group. */
static struct unit unit_at(const struct job *j, int32_t seq, int64_t index)
{
    const struct phx_step_layout *layout = j->args->layout;
    const int64_t n_kv = j->args->kv.n_kv_heads;
    const int64_t head_block = index % j->head_steps, row_block = index / j->head_steps / n_kv;
    struct unit u = {.seq = seq, .kv_head = index / j->head_steps % n_kv};
    u.head = u.kv_head * j->group + head_block * j->head_step;
    u.n_heads = min64(j->head_step, (u.kv_head + 1) * j->group - u.head);
    u.row = at(layout->seq_rows, seq) + row_block * j->row_step;
    u.n_rows = min64(j->row_step, at(layout->seq_rows, seq + 1) - u.row);
    u.n_queries = u.n_rows * u.n_heads;
    return u;
}

/* The query head of a unit's query i. */
static int64_t query_head(const struct unit *u, int64_t i)
{
    return u->head + i % u->n_heads;
}

/* ---- a part of a unit ---- */

static void load_queries(const struct job *j, const struct unit *u, float *to)
{
    const int64_t dim = j->args->kv.head_dim;
    for (int64_t i = 0; i < u->n_queries; i++, to += j->padded) {
        const float *from =
            phx_f32_row(j->args->q, u->row + i / u->n_heads) + query_head(u, i) * dim;
        for (int64_t d = 0; d < dim; d++) to[d] = from[d] * j->args->scale;
        for (int64_t d = dim; d < j->padded; d++) to[d] = 0;
    }
}

static void clear(const struct job *j, const struct unit *u, struct part_state *p)
{
    for (int64_t i = 0; i < u->n_queries; i++)
        p->state[i] = (struct phx_softmax_state){-INFINITY, 0};
    memset(p->sums, 0, sizeof *p->sums * (size_t)(u->n_queries * j->padded));
}

static const char *key_address(const struct job *j, struct phx_tensor pages, int64_t page,
                               int64_t kv_head, int64_t key)
{
    const int64_t row = (page * j->args->kv.n_kv_heads + kv_head) * PAGE + key;
    return (const char *)phx_tensor_address(pages) +
           phx_dtype_bytes(pages.dtype, row * j->args->kv.head_dim);
}

/* `n` rows of keys or values, as padded f32: where they lie, or copied to `to`. */
static const float *page_rows(const struct job *j, struct phx_tensor pages, const char *from,
                              int64_t n, float *to)
{
    const int64_t dim = j->args->kv.head_dim;
    if (pages.dtype == PHX_F32 && dim == j->padded) return (const float *)from;
    j->loops->widen(pages.dtype, from, n, dim, to, j->padded);
    return to;
}

struct span {
    int64_t begin, end;
};

static bool same_span(struct span a, struct span b)
{
    return a.begin == b.begin && a.end == b.end;
}

/* The keys of a block that a row sees; perhaps none. */
static struct span visible_keys(const struct job *j, const struct unit *u, int64_t row,
                                int64_t block_position, int64_t n_keys)
{
    const int64_t position = at(j->args->layout->positions, u->row + row) - block_position;
    struct span keys = {0, min64(position + 1, n_keys)};
    if (j->args->window > 0) keys.begin = max64(position - j->args->window + 1, 0);
    return keys;
}

/* ---- taps ---- */

/* The entry of a unit's query i in what taps write, -1 without one. */
static int64_t tap_entry(const struct job *j, const struct unit *u, int64_t i)
{
    const int64_t t = at(j->args->tap->rows, u->row + i / u->n_heads);
    return t < 0 ? -1 : t * j->args->n_heads + query_head(u, i);
}

static void tap_call(const struct job *j)
{
    const struct phx_attention *a = j->args;
    struct phx_attention_used *used = phx_tensor_address(a->tap->used);
    *used = (struct phx_attention_used){.n_heads = a->n_heads,
                                        .n_kv_heads = a->kv.n_kv_heads,
                                        .head_dim = a->kv.head_dim,
                                        .group = (int32_t)j->group,
                                        .window = a->window,
                                        .element_bytes = (int32_t)phx_dtype_bytes(a->kv.k.dtype, 1),
                                        .scale = a->scale,
                                        .soft_cap = a->soft_cap};
}

static void tap_scores(const struct job *j, const struct unit *u, const struct tile *t,
                       int32_t slot, int64_t page, int64_t block, int64_t n_keys)
{
    const struct phx_attention *a = j->args;
    const struct phx_attention_read read = {
        .k = (uintptr_t)key_address(j, a->kv.k, page, u->kv_head, 0),
        .v = (uintptr_t)key_address(j, a->kv.v, page, u->kv_head, 0),
        .k_next = (uintptr_t)key_address(j, a->kv.k, page, u->kv_head, 1),
        .v_next = (uintptr_t)key_address(j, a->kv.v, page, u->kv_head, 1),
        .slot = slot,
        .page = (int32_t)page,
        .kv_head = (int32_t)u->kv_head,
        .n_keys = (int32_t)n_keys};
    for (int64_t i = 0; i < u->n_queries; i++) {
        const int64_t entry = tap_entry(j, u, i);
        if (entry < 0) continue;
        struct phx_attention_read *reads =
            (struct phx_attention_read *)((char *)phx_tensor_address(a->tap->reads) +
                                          entry * a->tap->reads.stride);
        reads[block] = read;
        memcpy(phx_f32_row(a->tap->scores, entry) + block * PAGE, t->scores + i * PAGE,
               sizeof(float) * PAGE);
    }
}

/* The block's keys in `any` meet their values. */
static void tap_weights(const struct job *j, const struct unit *u, const struct tile *t,
                        int64_t block, struct span any)
{
    for (int64_t i = 0; i < u->n_queries; i++) {
        const int64_t entry = tap_entry(j, u, i);
        if (entry < 0) continue;
        for (int64_t key = any.begin; key < any.end; key++) {
            phx_f32_row(j->args->tap->weights, entry)[block * PAGE + key] =
                t->scores[i * PAGE + key];
            phx_f32_row(j->args->tap->maxima, entry)[block * PAGE + key] = t->part.state[i].max;
        }
    }
}

static void tap_sums(const struct job *j, const struct unit *u, int64_t i,
                     struct phx_softmax_state state)
{
    const int64_t entry = tap_entry(j, u, i);
    if (entry < 0) return;
    phx_f32_row(j->args->tap->sums, entry)[0] = state.max;
    phx_f32_row(j->args->tap->sums, entry)[1] = state.sum;
}

/* ---- a block, and the blocks of a part ---- */

/* Each row's weights times the values of the keys that it sees; `v` are those of `any`. What others
 * see may be NaN, and what nobody sees anything: it is not even multiplied by 0. */
static void add_values(const struct job *j, const struct unit *u, const struct tile *t,
                       const struct span *keys, struct span any, const float *v)
{
    for (int64_t r = 0, end; r < u->n_rows; r = end) {
        const struct span own = keys[r];
        for (end = r + 1; end < u->n_rows && same_span(keys[end], own);) end++;
        if (own.begin >= own.end) continue;
        j->loops->product((end - r) * u->n_heads, j->padded, own.end - own.begin,
                          t->scores + r * u->n_heads * PAGE + own.begin, PAGE,
                          v + (own.begin - any.begin) * j->padded, j->padded,
                          t->part.sums + r * u->n_heads * j->padded, j->padded);
    }
}

static void attend_block(const struct job *j, const struct unit *u, struct tile *t, int64_t block)
{
    const struct phx_step_layout *layout = j->args->layout;
    const int32_t slot = at(layout->seq_slot, u->seq);
    const int64_t page = phx_i32_at(layout->block_table, slot, block);
    if (page < 0) return;
    PHX_ASSERT(page < j->args->kv.n_pages);
    const int64_t position = phx_block_position(layout, slot, block);
    const int64_t n_keys = min64(PAGE, at(layout->seq_length, u->seq) - block * PAGE);

    struct span keys[TILE], any = {PAGE, 0};
    for (int64_t r = 0; r < u->n_rows; r++) {
        keys[r] = visible_keys(j, u, r, position, n_keys);
        if (keys[r].begin >= keys[r].end) continue;
        any.begin = min64(any.begin, keys[r].begin);
        any.end = max64(any.end, keys[r].end);
    }
    if (any.begin >= any.end) return;

    const float *k =
        page_rows(j, j->args->kv.k, key_address(j, j->args->kv.k, page, u->kv_head, 0), PAGE, t->k);
    j->loops->transpose(k, j->padded, j->padded, t->k_t);
    memset(t->scores, 0, sizeof *t->scores * (size_t)(u->n_queries * PAGE));
    j->loops->product(u->n_queries, PAGE, j->padded, t->q, j->padded, t->k_t, PAGE, t->scores,
                      PAGE);
    if (TAPPED) tap_scores(j, u, t, slot, page, block, n_keys);
    for (int64_t i = 0; i < u->n_queries; i++) {
        struct span own = keys[i / u->n_heads];
        float factor = j->loops->softmax(t->scores + i * PAGE, own.begin, own.end,
                                         j->args->soft_cap, &t->part.state[i]);
        if (factor != 1) j->loops->scale(t->part.sums + i * j->padded, j->padded, factor);
    }
    if (TAPPED) tap_weights(j, u, t, block, any);
    const float *v =
        page_rows(j, j->args->kv.v, key_address(j, j->args->kv.v, page, u->kv_head, any.begin),
                  any.end - any.begin, t->v);
    add_values(j, u, t, keys, any, v);
}

static void attend_part(const struct job *j, const struct unit *u, struct tile *t, int64_t part)
{
    const int64_t length = at(j->args->layout->seq_length, u->seq);
    const int64_t end = min64((part + 1) * j->part_pages, blocks_of(length, PAGE));
    clear(j, u, &t->part);
    for (int64_t block = part * j->part_pages; block < end; block++) attend_block(j, u, t, block);
}

/* ---- adding parts ---- */

/* A query's sums over one more part. */
static void add_part(struct phx_softmax_state *total, float *total_sums,
                     struct phx_softmax_state part, const float *part_sums, int64_t n)
{
    if (part.sum == 0) return;
    const float max = part.max > total->max ? part.max : total->max;
    const float old = expf(total->max - max), new = expf(part.max - max);
    total->sum = total->sum * old + part.sum * new;
    total->max = max;
    for (int64_t d = 0; d < n; d++) total_sums[d] = total_sums[d] * old + part_sums[d] * new;
}

static void finish(const struct job *j, const struct unit *u, const struct part_state *total)
{
    const int64_t dim = j->args->kv.head_dim;
    for (int64_t i = 0; i < u->n_queries; i++) {
        const struct phx_softmax_state state = total->state[i];
        const int64_t row = u->row + i / u->n_heads, head = query_head(u, i);
        const float factor = state.sum == 0 ? 0 : 1 / state.sum; /* NaN stays NaN */
        const float *sums = total->sums + i * j->padded;
        float *out = phx_f32_row(j->args->out, row) + head * dim;
        for (int64_t d = 0; d < dim; d++) out[d] = sums[d] * factor;
        if (phx_tensor_present(j->args->lse))
            phx_f32_row(j->args->lse, row)[head] = state.max + logf(state.sum);
        if (TAPPED) tap_sums(j, u, i, state);
    }
}

/* A stored part: the queries' states, then their sums. */
static float *stored_part(const struct job *j, const struct unit *u, int64_t index)
{
    const struct seq_work *work = &j->seqs[u->seq];
    const int64_t n = u->n_rows * j->head_step;
    return j->stored + work->stored_at + index * n * query_floats(j->padded);
}

static void store_part(const struct job *j, const struct unit *u, const struct tile *t, float *to)
{
    const size_t state_bytes = sizeof *t->part.state * (size_t)u->n_queries;
    memcpy(to, t->part.state, state_bytes);
    memcpy((char *)to + state_bytes, t->part.sums, sizeof *to * (size_t)(u->n_queries * j->padded));
}

static void run_item(const struct job *j, int64_t item, int thread)
{
    const int32_t seq = find_seq(j, item, false);
    const struct seq_work *work = &j->seqs[seq];
    struct tile *t = tile_of(j, thread);
    item -= work->first_item;
    if (work->split) {
        const struct unit u = unit_at(j, seq, item / work->n_parts);
        load_queries(j, &u, t->q);
        attend_part(j, &u, t, work->first_part + item % work->n_parts);
        store_part(j, &u, t, stored_part(j, &u, item));
        return;
    }
    const struct unit u = unit_at(j, seq, item);
    load_queries(j, &u, t->q);
    clear(j, &u, &t->total);
    for (int32_t p = 0; p < work->n_parts; p++) {
        attend_part(j, &u, t, work->first_part + p);
        for (int64_t i = 0; i < u.n_queries; i++)
            add_part(&t->total.state[i], t->total.sums + i * j->padded, t->part.state[i],
                     t->part.sums + i * j->padded, j->padded);
    }
    finish(j, &u, &t->total);
}

static void run_items(void *user, int64_t begin, int64_t end, int thread)
{
    for (int64_t item = begin; item < end; item++) run_item(user, item, thread);
}

/* For a unit's first stored part: add all of them. */
static void add_stored(const struct job *j, int64_t index, int thread)
{
    const int32_t seq = find_seq(j, index, true);
    const struct seq_work *work = &j->seqs[seq];
    index -= work->first_stored;
    if (index % work->n_parts != 0) return;
    const struct unit u = unit_at(j, seq, index / work->n_parts);
    struct part_state *total = &tile_of(j, thread)->total;
    clear(j, &u, total);
    for (int32_t p = 0; p < work->n_parts; p++) {
        const float *from = stored_part(j, &u, index + p);
        const struct phx_softmax_state *states = (const struct phx_softmax_state *)from;
        const float *sums = (const float *)(states + u.n_queries);
        for (int64_t i = 0; i < u.n_queries; i++)
            add_part(&total->state[i], total->sums + i * j->padded, states[i], sums + i * j->padded,
                     j->padded);
    }
    finish(j, &u, total);
}

static void add_all_stored(void *user, int64_t begin, int64_t end, int thread)
{
    for (int64_t index = begin; index < end; index++) add_stored(user, index, thread);
}

enum phx_status ATTENTION(struct phx_stream *stream, const struct phx_attention *args)
{
    struct job j = {.stream = stream, .args = args};
    j.loops = phx_cpu_loops(phx_cpu_device(stream)->isa);
    j.group = args->n_heads / args->kv.n_kv_heads;
    j.head_step = min64(j.group, TILE);
    j.row_step = TILE / j.head_step;
    j.head_steps = blocks_of(j.group, j.head_step);
    j.padded = blocks_of(args->kv.head_dim, j.loops->lanes) * j.loops->lanes;
    j.part_pages = part_pages(&stream->limits);
    j.seqs = phx_cpu_shared_scratch(stream);
    j.stored = (float *)(j.seqs + args->layout->n_seqs);

    if (TAPPED) tap_call(&j);
    cut(&j);
    phx_pool_for(phx_cpu_pool(stream), j.n_items, 1, run_items, &j);
    if (j.n_stored > 0) phx_pool_for(phx_cpu_pool(stream), j.n_stored, 1, add_all_stored, &j);
    return PHX_OK;
}
