#include "runtime/capture.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/seen_log.h"

/* The step under way, on the host. */
struct step {
    int32_t number;
    int32_t n_rows, n_outputs, n_tapped;
    int32_t *slot, *position; /* [N] of each row; slot -1: padding */
    int32_t *length;          /* [N] keys of its sequence */
    int32_t *tapped;          /* [N] index among the chosen rows, or -1 */
    int32_t *out_rows;        /* [M] */
    int32_t *table;           /* [B, blocks] */
};

/* A block that was kept: what makes it the same as another. */
struct known_block {
    int64_t k, v, k_stride, v_stride; /* bytes */
    int32_t n_keys;
};

struct phx_capture {
    struct phx_engine_parts parts;
    struct phx_engine *engine;
    struct phx_capture_options options;
    bool *layers;
    int32_t *choices;
    struct phx_forward_taps taps;
    int32_t max_rows, max_seqs, blocks, max_tapped, max_heads;
    struct step step;
    int32_t *lists; /* scratch for the layout's lists */
    struct phx_buffer *memory, *rows;
    struct phx_attention_tap tap; /* for the layer's heads; its rows are max_tapped * max_heads */
    struct phx_attention_tap now; /* of the attention under way */
    char *row;                    /* scratch: the widest row of a tensor, or a page's share */
    float *values;                /* scratch: a block's K and V */
    struct phx_attention_read *reads; /* scratch: a row of tap.reads */
    struct phx_seen_read *seen;       /* scratch: [blocks] */
    int32_t n_blocks, first_block;    /* numbers of PHX_SEEN_BLOCK: the next, this layer's first */
    struct known_block *known;        /* of this layer in this step */
    int32_t known_capacity;
    struct phx_seen_cache *caches; /* [T][n_layers] */
    struct phx_seen_log *log;
};

static void to_floats(enum phx_dtype dtype, const void *from, int64_t n, float *to)
{
    const uint16_t *bits = from;
    if (dtype == PHX_F32) memcpy(to, from, sizeof *to * (size_t)n);
    for (int64_t i = 0; i < n && dtype == PHX_BF16; i++) to[i] = phx_f32_from_bf16(bits[i]);
    for (int64_t i = 0; i < n && dtype == PHX_F16; i++) to[i] = phx_f32_from_f16(bits[i]);
    for (int64_t i = 0; i < n && dtype == PHX_I32; i++) to[i] = (float)((const int32_t *)from)[i];
}

/* Append `n` values that lie at `from` on the host, as f32. */
static enum phx_status append_floats(struct phx_capture *c, const struct phx_seen_key *key,
                                     enum phx_dtype dtype, const void *from, int64_t n)
{
    void *to;
    PHX_TRY(phx_seen_log_append(c->log, key, (size_t)n * sizeof(float), &to));
    to_floats(dtype, from, n, to);
    return PHX_OK;
}

/* ---- the step ---- */

static enum phx_status get(struct phx_stream *s, struct phx_tensor from, void *to)
{
    PHX_TRY(phx_tensor_download(s, from, to));
    return phx_stream_synchronize(s);
}

static bool chosen(const struct phx_capture *c, int32_t position, int32_t length)
{
    if (c->options.choose_all || position == length - 1) return true;
    for (int32_t i = 0; i < c->options.n_choices; i++)
        if (c->choices[i] == position) return true;
    return false;
}

static enum phx_status begin_step(struct phx_capture *c, struct phx_stream *s,
                                  const struct phx_step *step)
{
    const struct phx_step_layout *l = &step->layout;
    struct step *now = &c->step;
    int32_t *seq = c->lists, *slots = seq + c->max_rows, *lengths = slots + c->max_rows;
    now->number++;
    now->n_rows = l->n_rows;
    now->n_outputs = step->n_outputs;
    now->n_tapped = 0;
    PHX_TRY(get(s, l->positions, now->position));
    PHX_TRY(get(s, l->row_seq, seq));
    PHX_TRY(get(s, l->seq_slot, slots));
    PHX_TRY(get(s, l->seq_length, lengths));
    PHX_TRY(get(s, l->block_table, now->table));
    if (step->n_outputs > 0) PHX_TRY(get(s, step->out_rows, now->out_rows));
    for (int32_t r = 0; r < l->n_rows; r++) {
        now->slot[r] = slots[seq[r]];
        now->length[r] = lengths[seq[r]];
        bool taps = now->slot[r] >= 0 && chosen(c, now->position[r], now->length[r]);
        now->tapped[r] = taps ? now->n_tapped++ : -1;
    }
    PHX_ASSERT(now->n_tapped <= c->max_tapped);
    return phx_tensor_upload(s, phx_tensor_rows(c->tap.rows, 0, l->n_rows), now->tapped);
}

/* The row of the step that row `i` of a tensor at this point is. */
static int32_t step_row(const struct phx_capture *c, enum phx_point point, int32_t layer, int32_t i)
{
    bool last = layer + 1 == c->parts.config->n_layers || point == PHX_POINT_LOGITS;
    return last && point >= PHX_POINT_MID_RESIDUAL ? c->step.out_rows[i] : i;
}

static enum phx_status keep_rows(struct phx_capture *c, struct phx_stream *s, enum phx_point point,
                                 int32_t layer, struct phx_tensor tensor)
{
    bool all = c->options.all_rows >> point & 1;
    for (int32_t i = 0; i < tensor.rows; i++) {
        int32_t row = step_row(c, point, layer, i);
        if (c->step.slot[row] < 0 || (!all && c->step.tapped[row] < 0)) continue;
        PHX_TRY(get(s, phx_tensor_rows(tensor, i, 1), c->row));
        struct phx_seen_key key = {point, layer, c->step.slot[row], c->step.position[row], -1};
        PHX_TRY(append_floats(c, &key, tensor.dtype, c->row, tensor.cols));
    }
    return PHX_OK;
}

/* What lies in the cache where the block table says that a row's key is. */
static enum phx_status keep_cached(struct phx_capture *c, struct phx_stream *s, int what,
                                   int32_t layer)
{
    const struct phx_kv_pages kv = phx_engine_kv(c->engine, layer);
    const struct phx_tensor pages = what == PHX_SEEN_K ? kv.k : kv.v;
    const size_t row_bytes = phx_dtype_bytes(pages.dtype, kv.head_dim);
    for (int32_t r = 0; r < c->step.n_rows; r++) {
        int32_t slot = c->step.slot[r], position = c->step.position[r];
        if (slot < 0 || (!(c->options.all_rows >> what & 1) && c->step.tapped[r] < 0)) continue;
        int64_t page = c->step.table[slot * c->blocks + position / PHX_PAGE_TOKENS];
        if (page < 0 || page >= kv.n_pages) continue;
        int64_t first = page * kv.n_kv_heads * PHX_PAGE_TOKENS + position % PHX_PAGE_TOKENS;
        PHX_TRY(phx_buffer_download(s, pages.buffer, pages.offset_bytes + (size_t)first * row_bytes,
                                    PHX_PAGE_TOKENS * row_bytes, c->row, row_bytes, row_bytes,
                                    kv.n_kv_heads));
        PHX_TRY(phx_stream_synchronize(s));
        PHX_TRY(append_floats(c, &(struct phx_seen_key){what, layer, slot, position, -1},
                              pages.dtype, c->row, (int64_t)kv.n_kv_heads * kv.head_dim));
    }
    return PHX_OK;
}

/* ---- attention ---- */

static struct phx_tensor top(struct phx_tensor t, int64_t rows)
{
    return phx_tensor_rows(t, 0, rows);
}

static const struct phx_attention_tap *attention_tap(void *user, int32_t layer)
{
    struct phx_capture *c = user;
    if (!c->layers[layer] || c->step.n_tapped == 0) return NULL;
    const struct phx_seen_cache *cache =
        &c->caches[c->parts.world->rank * c->parts.config->n_layers + layer];
    int64_t entries = c->step.n_tapped * phx_interval_length(cache->q_heads);
    c->now = (struct phx_attention_tap){.rows = top(c->tap.rows, c->step.n_rows),
                                        .used = c->tap.used,
                                        .reads = top(c->tap.reads, entries),
                                        .scores = top(c->tap.scores, entries),
                                        .weights = top(c->tap.weights, entries),
                                        .maxima = top(c->tap.maxima, entries),
                                        .sums = top(c->tap.sums, entries)};
    return &c->now;
}

/* `n` rows of K or V from an offset, `stride` apart, as f32; false: outside of the pages. */
static enum phx_status fetch(const struct phx_capture *c, struct phx_stream *s,
                             struct phx_tensor pages, int64_t offset, int64_t stride, int64_t n,
                             float *to, bool *inside)
{
    const int64_t dim = pages.cols, row_bytes = (int64_t)phx_dtype_bytes(pages.dtype, dim);
    const int64_t end = offset + (n - 1) * stride + row_bytes;
    *inside = n > 0 && offset >= 0 && stride >= row_bytes && stride <= INT32_MAX &&
              end <= (int64_t)phx_tensor_span_bytes(pages);
    if (!*inside) return PHX_OK;
    PHX_TRY(phx_buffer_download(s, pages.buffer, pages.offset_bytes + (size_t)offset,
                                (size_t)stride, c->row, (size_t)row_bytes, (size_t)row_bytes, n));
    PHX_TRY(phx_stream_synchronize(s));
    to_floats(pages.dtype, c->row, n * dim, to);
    return PHX_OK;
}

/* The bytes that a read names, once for all heads and rows of the step that share them. */
static enum phx_status keep_block(struct phx_capture *c, struct phx_stream *s, int32_t layer,
                                  struct phx_seen_read *read)
{
    const struct known_block own = {read->k_offset, read->v_offset, read->k_stride, read->v_stride,
                                    read->n_keys};
    const int32_t n_known = c->n_blocks - c->first_block;
    for (int32_t b = 0; b < n_known; b++) {
        const struct known_block *k = &c->known[b];
        if (k->k != own.k || k->v != own.v || k->k_stride != own.k_stride ||
            k->v_stride != own.v_stride || k->n_keys != own.n_keys)
            continue;
        read->block = c->first_block + b;
        return PHX_OK;
    }
    const struct phx_kv_pages kv = phx_engine_kv(c->engine, layer);
    const int64_t half = (int64_t)PHX_PAGE_TOKENS * kv.head_dim;
    bool k_inside, v_inside;
    memset(c->values, 0, (size_t)(2 * half) * sizeof *c->values);
    PHX_TRY(fetch(c, s, kv.k, own.k, own.k_stride, own.n_keys, c->values, &k_inside));
    PHX_TRY(fetch(c, s, kv.v, own.v, own.v_stride, own.n_keys, c->values + half, &v_inside));
    if (!k_inside || !v_inside) return PHX_OK;
    if (n_known == c->known_capacity) {
        int32_t capacity = 2 * n_known + 64;
        struct known_block *grown = realloc(c->known, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a block of keys");
        c->known = grown;
        c->known_capacity = capacity;
    }
    c->known[n_known] = own;
    read->block = c->n_blocks++;
    return append_floats(c, &(struct phx_seen_key){PHX_SEEN_BLOCK, layer, -1, read->block, -1},
                         PHX_F32, c->values, 2 * half);
}

static enum phx_status keep_reads(struct phx_capture *c, struct phx_stream *s,
                                  const struct phx_seen_key *key, int64_t entry, int32_t n_blocks)
{
    const struct phx_kv_pages kv = phx_engine_kv(c->engine, key->layer);
    const uint64_t k_base = (uintptr_t)phx_tensor_address(kv.k);
    const uint64_t v_base = (uintptr_t)phx_tensor_address(kv.v);
    PHX_TRY(get(s, phx_tensor_rows(c->now.reads, entry, 1), c->reads));
    for (int32_t b = 0; b < n_blocks; b++) {
        const struct phx_attention_read *r = &c->reads[b];
        struct phx_seen_read *seen = &c->seen[b];
        *seen = (struct phx_seen_read){.true_slot = key->slot, .block = -1};
        if (r->k == 0) continue;
        seen->was_read = true;
        seen->k_offset = (int64_t)(r->k - k_base);
        seen->v_offset = (int64_t)(r->v - v_base);
        seen->k_stride = (int64_t)(r->k_next - r->k);
        seen->v_stride = (int64_t)(r->v_next - r->v);
        seen->slot = r->slot;
        seen->page = r->page;
        seen->kv_head = r->kv_head;
        seen->n_keys = r->n_keys;
        PHX_TRY(keep_block(c, s, key->layer, seen));
    }
    const size_t bytes = (size_t)n_blocks * sizeof *c->seen;
    void *to;
    PHX_TRY(phx_seen_log_append(c->log, key, bytes, &to));
    memcpy(to, c->seen, bytes);
    return PHX_OK;
}

/* All that a query head of a row did; `entry` is its place in what the taps wrote. */
static enum phx_status keep_head(struct phx_capture *c, struct phx_stream *s,
                                 struct phx_seen_key key, int64_t entry, int32_t n_blocks)
{
    const struct {
        int what;
        struct phx_tensor from;
        int64_t n;
    } parts[] = {{PHX_SEEN_SCORES, c->now.scores, n_blocks * PHX_PAGE_TOKENS},
                 {PHX_SEEN_WEIGHTS, c->now.weights, n_blocks * PHX_PAGE_TOKENS},
                 {PHX_SEEN_MAXIMA, c->now.maxima, n_blocks * PHX_PAGE_TOKENS},
                 {PHX_SEEN_SUMS, c->now.sums, 2}};
    key.what = PHX_SEEN_READS;
    PHX_TRY(keep_reads(c, s, &key, entry, n_blocks));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        PHX_TRY(get(s, phx_tensor_rows(parts[i].from, entry, 1), c->row));
        key.what = parts[i].what;
        PHX_TRY(append_floats(c, &key, PHX_F32, c->row, parts[i].n));
    }
    return PHX_OK;
}

static enum phx_status keep_attention(struct phx_capture *c, struct phx_stream *s, int32_t layer)
{
    struct phx_attention_used used;
    void *to;
    if (c->step.n_tapped == 0) return PHX_OK;
    PHX_TRY(get(s, c->now.used, &used));
    PHX_TRY(phx_seen_log_append(
        c->log, &(struct phx_seen_key){PHX_SEEN_USED, layer, -1, c->step.number, -1}, sizeof used,
        &to));
    memcpy(to, &used, sizeof used);
    c->first_block = c->n_blocks;
    int64_t heads = c->now.sums.rows / c->step.n_tapped;
    for (int32_t r = 0; r < c->step.n_rows; r++) {
        int32_t n_blocks = (c->step.length[r] + PHX_PAGE_TOKENS - 1) / PHX_PAGE_TOKENS;
        for (int32_t h = 0; h < heads && c->step.tapped[r] >= 0; h++)
            PHX_TRY(keep_head(
                c, s, (struct phx_seen_key){0, layer, c->step.slot[r], c->step.position[r], h},
                c->step.tapped[r] * heads + h, n_blocks));
    }
    return PHX_OK;
}

static enum phx_status look(void *user, struct phx_stream *stream, const struct phx_step *step,
                            enum phx_point point, int32_t layer, struct phx_tensor tensor)
{
    struct phx_capture *c = user;
    if (point == PHX_POINT_STEP) return begin_step(c, stream, step);
    if (!c->layers[layer] && point < PHX_POINT_END_RESIDUAL) return PHX_OK;
    if (c->options.points >> point & 1) PHX_TRY(keep_rows(c, stream, point, layer, tensor));
    if (point == PHX_POINT_Q) {
        for (int what = PHX_SEEN_K; what <= PHX_SEEN_V; what++)
            if (c->options.points >> what & 1) PHX_TRY(keep_cached(c, stream, what, layer));
        /* Nothing of the last layer's may stay. */
        return phx_buffer_zero(stream, c->memory, 0, phx_buffer_bytes(c->memory));
    }
    return point == PHX_POINT_ATTENDED ? keep_attention(c, stream, layer) : PHX_OK;
}

/* ---- its life ---- */

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void fill_caches(struct phx_capture *c)
{
    const struct phx_config *config = c->parts.config;
    const struct phx_shard_plan *plan = c->parts.plan;
    int rank = c->parts.world->rank;
    for (int32_t l = 0; l < config->n_layers; l++) {
        struct phx_kv_pages kv = phx_engine_kv(c->engine, l);
        struct phx_seen_cache *cache = &c->caches[rank * config->n_layers + l];
        *cache = (struct phx_seen_cache){
            .n_pages = kv.n_pages,
            .n_kv_heads = kv.n_kv_heads,
            .head_dim = kv.head_dim,
            .element_bytes = (int32_t)phx_dtype_bytes(kv.k.dtype, 1),
            .q_heads = phx_shard_plan_q_heads(plan, rank, l),
            .kv_heads = phx_shard_plan_kv_heads(plan, rank, l),
            .ffn = phx_shard_plan_interval(plan, rank, l, PHX_DIM_FFN),
            .experts = phx_shard_plan_experts(plan, rank, l),
            .moe_ffn = phx_shard_plan_interval(plan, rank, l, PHX_DIM_MOE_FFN),
            .shared_ffn = phx_shard_plan_interval(plan, rank, l, PHX_DIM_SHARED_FFN),
            .vocab = phx_shard_plan_interval(plan, rank, l, PHX_DIM_VOCAB)};
        c->max_heads = (int32_t)max64(c->max_heads, phx_interval_length(cache->q_heads));
    }
}

static struct phx_tensor carve(struct phx_buffer *memory, size_t *used, enum phx_dtype dtype,
                               int64_t rows, int64_t cols)
{
    struct phx_tensor t = {memory, *used, dtype, rows, cols, cols};
    *used += (phx_tensor_span_bytes(t) + 255) & ~(size_t)255;
    return t;
}

static size_t lay_out(struct phx_capture *c, struct phx_buffer *memory)
{
    const int64_t entries = (int64_t)c->max_tapped * c->max_heads;
    const int64_t length = (int64_t)c->blocks * PHX_PAGE_TOKENS;
    const int64_t reads = c->blocks * (int64_t)sizeof(struct phx_attention_read);
    struct phx_attention_tap *t = &c->tap;
    size_t used = 0;
    t->used = carve(memory, &used, PHX_U8, 1, sizeof(struct phx_attention_used));
    t->reads = carve(memory, &used, PHX_U8, entries, reads);
    t->scores = carve(memory, &used, PHX_F32, entries, length);
    t->weights = carve(memory, &used, PHX_F32, entries, length);
    t->maxima = carve(memory, &used, PHX_F32, entries, length);
    t->sums = carve(memory, &used, PHX_F32, entries, 2);
    return used;
}

static enum phx_status make_device_memory(struct phx_capture *c)
{
    PHX_TRY(phx_buffer_create(c->parts.device, lay_out(c, NULL), &c->memory));
    lay_out(c, c->memory);
    PHX_TRY(phx_buffer_create(c->parts.device, (size_t)c->max_rows * sizeof(int32_t), &c->rows));
    c->tap.rows = phx_tensor_view(c->rows, 0, PHX_I32, c->max_rows, 1);
    return PHX_OK;
}

static enum phx_status make_host_memory(struct phx_capture *c)
{
    const struct phx_config *config = c->parts.config;
    const size_t rows = (size_t)c->max_rows, n_layers = (size_t)config->n_layers;
    const size_t ranks = (size_t)c->parts.world->size;
    int64_t widest = max64(max64(config->hidden, config->vocab), c->blocks * PHX_PAGE_TOKENS);
    int64_t head_dim = 0;
    for (int32_t l = 0; l < config->n_layers; l++) {
        const struct phx_layer_shape *s = &config->layers[l].shape;
        int64_t heads = s->n_heads + 2 * (int64_t)s->n_kv_heads;
        head_dim = max64(head_dim, s->head_dim);
        widest = max64(widest, max64(s->ffn, max64(heads, PHX_PAGE_TOKENS) * s->head_dim));
        widest = max64(widest, max64(s->shared_ffn, config->n_chosen * s->moe_ffn));
        widest = max64(widest, s->n_experts);
    }
    c->row = malloc((size_t)widest * sizeof(float));
    c->values = malloc((size_t)(2 * PHX_PAGE_TOKENS * head_dim) * sizeof *c->values);
    c->reads = malloc((size_t)c->blocks * sizeof *c->reads);
    c->seen = malloc((size_t)c->blocks * sizeof *c->seen);
    c->lists = calloc(3 * rows + 1, sizeof *c->lists);
    c->step.slot = calloc(rows, sizeof *c->step.slot);
    c->step.position = calloc(rows, sizeof *c->step.position);
    c->step.length = calloc(rows, sizeof *c->step.length);
    c->step.tapped = calloc(rows, sizeof *c->step.tapped);
    c->step.out_rows = calloc(rows, sizeof *c->step.out_rows);
    c->step.table = calloc((size_t)c->max_seqs * (size_t)c->blocks, sizeof *c->step.table);
    c->caches = calloc(ranks * n_layers, sizeof *c->caches);
    c->layers = malloc(n_layers * sizeof *c->layers);
    c->choices = malloc(((size_t)c->options.n_choices + 1) * sizeof *c->choices);
    if (c->row == NULL || c->reads == NULL || c->lists == NULL || c->step.slot == NULL ||
        c->step.position == NULL || c->step.length == NULL || c->step.tapped == NULL ||
        c->step.out_rows == NULL || c->step.table == NULL || c->caches == NULL ||
        c->values == NULL || c->seen == NULL || c->layers == NULL || c->choices == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for taps");
    memcpy(c->layers, c->options.layers, n_layers * sizeof *c->layers);
    if (c->options.n_choices > 0)
        memcpy(c->choices, c->options.choices, (size_t)c->options.n_choices * sizeof *c->choices);
    return PHX_OK;
}

enum phx_status phx_capture_create(const struct phx_engine_parts *parts, struct phx_engine *engine,
                                   const struct phx_limits *limits,
                                   const struct phx_capture_options *options,
                                   struct phx_capture **out)
{
    struct phx_capture *c = calloc(1, sizeof *c);
    if (c == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for taps");
    c->parts = *parts;
    c->engine = engine;
    c->options = *options;
    c->max_rows = limits->max_rows;
    c->max_seqs = limits->max_seqs;
    c->blocks = phx_kv_blocks_for(limits->max_length);
    int64_t some = (int64_t)limits->max_seqs * (options->n_choices + 1);
    c->max_tapped = options->choose_all || some > c->max_rows ? c->max_rows : (int32_t)some;
    enum phx_status status = make_host_memory(c);
    if (status == PHX_OK) status = phx_seen_log_create(parts->world, &c->log);
    if (status == PHX_OK) {
        fill_caches(c);
        status = make_device_memory(c);
    }
    if (status != PHX_OK) {
        phx_capture_destroy(c);
        return status;
    }
    c->taps = (struct phx_forward_taps){.user = c, .look = look, .attention = attention_tap};
    phx_engine_set_taps(engine, &c->taps);
    *out = c;
    return PHX_OK;
}

void phx_capture_destroy(struct phx_capture *capture)
{
    struct phx_capture *c = capture;
    if (c == NULL) return;
    phx_seen_log_destroy(c->log);
    phx_buffer_destroy(c->memory);
    phx_buffer_destroy(c->rows);
    free(c->row);
    free(c->values);
    free(c->reads);
    free(c->seen);
    free(c->lists);
    free(c->step.slot);
    free(c->step.position);
    free(c->step.length);
    free(c->step.tapped);
    free(c->step.out_rows);
    free(c->step.table);
    free(c->known);
    free(c->caches);
    free(c->layers);
    free(c->choices);
    free(c);
}

/* ---- on rank 0 ---- */

enum phx_status phx_capture_gather(struct phx_capture *capture)
{
    struct phx_capture *c = capture;
    const struct phx_world *world = c->parts.world;
    const size_t bytes = (size_t)c->parts.config->n_layers * sizeof *c->caches;
    struct phx_seen_cache *own = malloc(bytes);
    enum phx_status status = PHX_OK;
    if (own == NULL) status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for taps");
    PHX_TRY_GOTO(phx_world_agree(c->parts.world, status), done);
    memcpy(own, c->caches + world->rank * c->parts.config->n_layers, bytes);
    PHX_TRY_GOTO(phx_world_allgather(c->parts.world, own, bytes, c->caches), done);
    status = phx_seen_log_gather(c->log);
done:
    free(own);
    return status;
}

const void *phx_capture_find(const struct phx_capture *capture, int rank, int what, int32_t layer,
                             int32_t slot, int32_t position, int32_t head, size_t *out_bytes)
{
    return phx_seen_log_find(capture->log, rank,
                             &(struct phx_seen_key){what, layer, slot, position, head}, out_bytes);
}

const struct phx_seen_cache *phx_capture_cache(const struct phx_capture *capture, int rank,
                                               int32_t layer)
{
    return &capture->caches[rank * capture->parts.config->n_layers + layer];
}
