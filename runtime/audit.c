#include "runtime/audit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/audit_impl.h"

const int32_t phx_audit_choices[PHX_AUDIT_CHOICES] = {0, 37, PHX_PAGE_TOKENS + 5};

enum {
    MIN_PROMPT = PHX_PAGE_TOKENS + 13, /* so that a second block is read */
    DECOY_SHORTER = 6                  /* by so much */
};

static int32_t prompt_length(const struct phx_config *config, int32_t n_prompt)
{
    int64_t n = n_prompt > MIN_PROMPT ? n_prompt : MIN_PROMPT;
    int64_t room = config->context - PHX_AUDIT_NEW;
    return (int32_t)(n < room ? n : room);
}

int32_t phx_audit_length(const struct phx_config *config, int32_t n_prompt)
{
    return prompt_length(config, n_prompt) + PHX_AUDIT_NEW;
}

static void on_output(struct phx_request *request, const struct phx_output *output)
{
    struct phx_audit_text *text = request->options.user;
    (void)output;
    if (request->slot >= 0) text->slot = request->slot;
}

/* The prompt, repeated; the decoy is the same backwards, and shorter. */
static enum phx_status make_texts(struct phx_audit *a)
{
    const struct phx_audit_options *o = &a->options;
    int32_t n = prompt_length(a->parts.config, o->n_prompt);
    if (n < 1 || o->n_prompt < 1)
        return phx_fail(PHX_USAGE,
                        "an audit needs a prompt of at least one token and a model with "
                        "positions for %d more",
                        PHX_AUDIT_NEW);
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (ids == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the texts of an audit");
    enum phx_status status = PHX_OK;
    for (int t = 0; t < PHX_AUDIT_TEXTS && status == PHX_OK; t++) {
        struct phx_audit_text *text = &a->texts[t];
        int32_t length = t == 0 || n <= DECOY_SHORTER ? n : n - DECOY_SHORTER;
        for (int32_t i = 0; i < length; i++)
            ids[i] = o->prompt_ids[(t == 0 ? i : n - 1 - i) % o->n_prompt];
        text->slot = -1;
        text->n_prompt = length;
        text->n_computed = length + PHX_AUDIT_NEW - 1;
        status = phx_request_create(
            &(struct phx_request_options){.prompt_ids = ids,
                                          .n_prompt = length,
                                          .max_new = PHX_AUDIT_NEW,
                                          .sampling = {.top_p = 1, .repeat_penalty = 1},
                                          .on_output = on_output,
                                          .user = text},
            &text->request);
    }
    free(ids);
    return status;
}

static enum phx_status make_capture(struct phx_audit *a, const struct phx_limits *limits)
{
    const uint32_t points = 1u << PHX_POINT_RESIDUAL | 1u << PHX_POINT_QKV | 1u << PHX_POINT_Q |
                            1u << PHX_POINT_ATTENDED | 1u << PHX_POINT_O |
                            1u << PHX_POINT_MID_RESIDUAL | 1u << PHX_POINT_FINAL_NORM |
                            1u << PHX_POINT_LOGITS | 1u << PHX_SEEN_K | 1u << PHX_SEEN_V;
    struct phx_capture_options options = {.layers = a->layers,
                                          .points = points,
                                          .choices = phx_audit_choices,
                                          .n_choices = PHX_AUDIT_CHOICES};
    /* All keys are recomputed from all inputs of a layer, which are the same on all ranks. */
    if (a->parts.world->rank == 0) options.all_rows = 1u << PHX_POINT_RESIDUAL;
    return phx_capture_create(&a->parts, a->engine, limits, &options, &a->capture);
}

enum phx_status phx_audit_create(const struct phx_engine_parts *parts, struct phx_engine *engine,
                                 const struct phx_limits *limits,
                                 const struct phx_audit_options *options, struct phx_audit **out)
{
    struct phx_audit *a = calloc(1, sizeof *a);
    if (a == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for an audit");
    a->parts = *parts;
    a->engine = engine;
    a->options = *options;
    size_t layers_bytes = (size_t)parts->config->n_layers * sizeof *a->layers;
    a->layers = malloc(layers_bytes);
    enum phx_status status = PHX_OK;
    if (a->layers == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for an audit");
        goto fail;
    }
    memcpy(a->layers, options->layers, layers_bytes);
    if (parts->world->rank == 0) PHX_TRY_GOTO(make_texts(a), fail);
    PHX_TRY_GOTO(make_capture(a, limits), fail);
    *out = a;
    return PHX_OK;
fail:
    phx_audit_destroy(a);
    return status;
}

void phx_audit_destroy(struct phx_audit *audit)
{
    if (audit == NULL) return;
    for (int t = 0; t < PHX_AUDIT_TEXTS; t++) phx_request_destroy(audit->texts[t].request);
    phx_capture_destroy(audit->capture);
    free(audit->layers);
    free(audit->twins);
    free(audit);
}

enum phx_status phx_audit_run(struct phx_audit *audit)
{
    struct phx_audit *a = audit;
    bool worked = true;
    if (a->parts.world->rank != 0) return phx_engine_follow(a->engine);
    /* The decoy first: whatever looks at the first sequence finds the wrong one. */
    for (int t = PHX_AUDIT_TEXTS - 1; t >= 0; t--)
        PHX_TRY(phx_engine_submit(a->engine, a->texts[t].request));
    while (worked) PHX_TRY(phx_engine_step(a->engine, &worked));
    return phx_engine_stop(a->engine);
}

enum phx_status phx_audit_judge(struct phx_audit *audit, const struct phx_checkpoint *checkpoint,
                                bool *out_passed)
{
    struct phx_audit *a = audit;
    struct phx_world *world = a->parts.world;
    struct phx_reference *reference = NULL;
    enum phx_status status = PHX_OK;
    PHX_TRY(phx_capture_gather(a->capture));
    if (world->rank == 0) {
        status =
            phx_reference_create(a->parts.config, checkpoint,
                                 &(struct phx_reference_options){.inv_freq = PHX_F32}, &reference);
        if (status == PHX_OK) status = phx_audit_judge_all(a, reference);
        phx_reference_destroy(reference);
    }
    PHX_TRY(phx_world_agree(world, status));
    a->passed = world->rank == 0 && phx_audit_first_failure(a) == NULL;
    PHX_TRY(phx_world_broadcast(world, &a->passed, sizeof a->passed, 0));
    *out_passed = a->passed;
    return PHX_OK;
}

const struct phx_audit_twins *phx_audit_twins(const struct phx_audit *audit, size_t *out_n)
{
    *out_n = audit->n_twins;
    return audit->twins;
}

const struct phx_audit_check *phx_audit_checks(const struct phx_audit *audit)
{
    return audit->checks;
}

/* The layer of a failure; after all layers what is of none. */
static int32_t depth(const struct phx_audit_check *check)
{
    return check->place.layer < 0 ? INT32_MAX : check->place.layer;
}

const struct phx_audit_check *phx_audit_first_failure(const struct phx_audit *audit)
{
    /* A layer that is wrong may hand NaNs to the next ones, where everything fails then. */
    const struct phx_audit_check *first = NULL;
    for (int i = 0; i < PHX_CHECK_COUNT; i++) {
        const struct phx_audit_check *c = &audit->checks[i];
        if (!c->passed && (first == NULL || depth(c) < depth(first))) first = c;
    }
    return first;
}

void phx_audit_lengths(const struct phx_audit *audit, int32_t *out_prompt, int32_t *out_all)
{
    *out_prompt = audit->texts[0].n_prompt;
    *out_all = 0;
    for (int t = 0; t < PHX_AUDIT_TEXTS; t++) *out_all += audit->texts[t].n_computed;
}

/* The rank whose plan says that it has this query head, -1: none. */
static int owner(const struct phx_audit *a, int32_t layer, int32_t q_head)
{
    for (int r = 0; r < a->parts.world->size; r++) {
        struct phx_interval q = phx_capture_cache(a->capture, r, layer)->q_heads;
        if (q_head >= q.begin && q_head < q.end) return r;
    }
    return -1;
}

/* Which key of a head's reads is shown: the first of the first block that it read. */
static int32_t first_read(const struct phx_seen_read *reads, size_t n)
{
    for (size_t b = 0; b < n; b++)
        if (reads[b].was_read) return (int32_t)b;
    return -1;
}

static int take8(float *to, const float *from, int64_t n)
{
    int count = (int)(n < 8 ? n : 8);
    memcpy(to, from, (size_t)count * sizeof *to);
    return count;
}

static const struct phx_seen_read *reads_of(const struct phx_audit *a, int rank, int32_t layer,
                                            int32_t local, size_t *out_n)
{
    size_t bytes = 0;
    const struct phx_seen_read *reads =
        phx_capture_find(a->capture, rank, PHX_SEEN_READS, layer, a->texts[0].slot,
                         a->texts[0].n_prompt - 1, local, &bytes);
    *out_n = bytes / sizeof *reads;
    return reads;
}

/* As the addresses of two heads of the rank, or of two blocks, show it; `else_bytes` where it has
 * no two. */
static int64_t head_stride(const struct phx_audit *a, int rank, int32_t layer, int32_t b,
                           const struct phx_seen_read *read, int64_t else_bytes)
{
    const struct phx_interval own = phx_capture_cache(a->capture, rank, layer)->q_heads;
    for (int32_t q = 0; q < phx_interval_length(own); q++) {
        size_t n;
        const struct phx_seen_read *other = reads_of(a, rank, layer, q, &n);
        if (other == NULL || (size_t)b >= n || !other[b].was_read) continue;
        if (other[b].page != read->page || other[b].kv_head == read->kv_head) continue;
        return (other[b].k_offset - read->k_offset) / (other[b].kv_head - read->kv_head);
    }
    return else_bytes;
}

static int64_t page_stride(const struct phx_seen_read *reads, size_t n, int32_t b,
                           int64_t else_bytes)
{
    for (size_t i = 0; i < n; i++)
        if (reads[i].was_read && reads[i].page != reads[b].page)
            return (reads[i].k_offset - reads[b].k_offset) / (reads[i].page - reads[b].page);
    return else_bytes;
}

bool phx_audit_head(const struct phx_audit *audit, int32_t layer, int32_t q_head,
                    struct phx_audit_head *out)
{
    const struct phx_audit *a = audit;
    const struct phx_layer_shape *shape = &a->parts.config->layers[layer].shape;
    const int32_t position = a->texts[0].n_prompt - 1, slot = a->texts[0].slot;
    int rank = owner(a, layer, q_head);
    if (rank < 0) return false;
    const struct phx_seen_cache *cache = phx_capture_cache(a->capture, rank, layer);
    const int32_t local = (int32_t)(q_head - cache->q_heads.begin);
    size_t n;
    const struct phx_seen_read *reads = reads_of(a, rank, layer, local, &n);
    int32_t b = reads == NULL ? -1 : first_read(reads, n);
    if (b < 0) return false;
    const struct phx_seen_read *read = &reads[b];
    const int64_t head_bytes = (int64_t)PHX_PAGE_TOKENS * cache->head_dim * cache->element_bytes;
    const int64_t page_bytes = cache->n_kv_heads * head_bytes;
    const int64_t row = (int64_t)cache->element_bytes * PHX_PAGE_TOKENS;
    *out = (struct phx_audit_head){
        .layer = layer,
        .q_head = q_head,
        .kv_head = (int32_t)cache->kv_heads.begin + read->kv_head,
        .rank = rank,
        .local_q = local,
        .local_kv = read->kv_head,
        .k_offset = (read->k_offset - read->page * page_bytes) / row,
        .v_offset = (read->v_offset - read->page * page_bytes) / row,
        .token_stride = read->k_stride,
        .head_stride = head_stride(a, rank, layer, b, read, head_bytes),
        .page_stride = page_stride(reads, n, b, page_bytes),
        .element_bytes = cache->element_bytes,
        .block = b,
        .page = read->page,
    };
    out->ok = out->kv_head == q_head / (shape->n_heads / shape->n_kv_heads);
    const float *block =
        phx_capture_find(a->capture, rank, PHX_SEEN_BLOCK, layer, -1, read->block, -1, NULL);
    if (block != NULL) {
        out->n_k = take8(out->k, block, cache->head_dim);
        take8(out->v, block + PHX_PAGE_TOKENS * cache->head_dim, cache->head_dim);
    }
    const float *scores =
        phx_capture_find(a->capture, rank, PHX_SEEN_SCORES, layer, slot, position, local, NULL);
    int32_t first = b * PHX_PAGE_TOKENS;
    if (scores != NULL) out->n_scores = take8(out->scores, scores + first, position + 1 - first);
    return true;
}
