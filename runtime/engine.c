#include "runtime/engine.h"

#include <stdlib.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "runtime/batch.h"
#include "runtime/step_record.h"

struct phx_engine {
    struct phx_engine_parts parts;
    struct phx_engine_options options;
    struct phx_buffer *kv_memory;
    struct phx_kv_pages *kv; /* [n_layers] */
    struct phx_forward *forward;
    struct phx_batch *batch;
    struct phx_scheduler *scheduler; /* rank 0 */
    void *record;                    /* the record being written or read */
    size_t record_capacity;
    uint64_t n_records;
    int32_t *ids;    /* [max_outputs] of the last step, on the host */
    float *logprobs; /* [max_outputs] */
    float *logits;   /* [max_outputs, vocab], rank 0, from the first step that wants them */
    struct phx_tensor last_logits; /* f32 [1, V] local, of the last row of the last step */
    struct phx_engine_counters counters;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One buffer: per layer K pages, then V pages. */
static enum phx_status make_cache(struct phx_engine *e)
{
    const struct phx_config *config = e->parts.config;
    const struct phx_shard_plan *plan = e->parts.plan;
    int rank = phx_shard_plan_rank(plan);
    int64_t n_pages = e->options.limits.n_pages;
    e->kv = calloc((size_t)config->n_layers, sizeof *e->kv);
    if (e->kv == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the cache's layers");
    size_t bytes = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) PHX_TRY(phx_buffer_create(e->parts.device, bytes, &e->kv_memory));
        size_t used = 0;
        for (int32_t l = 0; l < config->n_layers; l++) {
            int64_t heads = phx_interval_length(phx_shard_plan_kv_heads(plan, rank, l));
            int64_t d = config->layers[l].shape.head_dim;
            struct phx_tensor pages = {
                NULL, 0, e->options.kv_dtype, n_pages * heads * PHX_PAGE_TOKENS, d, d};
            size_t half = phx_tensor_span_bytes(pages);
            if (pass == 1)
                e->kv[l] = (struct phx_kv_pages){
                    phx_tensor_view(e->kv_memory, used, pages.dtype, pages.rows, d),
                    phx_tensor_view(e->kv_memory, used + half, pages.dtype, pages.rows, d),
                    (int32_t)n_pages, (int32_t)heads, (int32_t)d};
            used += 2 * half;
        }
        bytes = used;
    }
    return PHX_OK;
}

static enum phx_status make_parts(struct phx_engine *e)
{
    const struct phx_scheduler_limits *l = &e->options.limits;
    int rank = phx_shard_plan_rank(e->parts.plan);
    PHX_TRY(make_cache(e));
    PHX_TRY(phx_forward_create(&(struct phx_forward_parts){.config = e->parts.config,
                                                           .plan = e->parts.plan,
                                                           .weights = e->parts.weights,
                                                           .kv = e->kv,
                                                           .comm = e->parts.comm,
                                                           .partials = e->parts.partials,
                                                           .device = e->parts.device,
                                                           .stream = e->parts.stream,
                                                           .max_rows = l->max_rows,
                                                           .max_outputs = l->max_outputs},
                               &e->forward));
    struct phx_interval vocab = phx_shard_plan_interval(e->parts.plan, rank, 0, PHX_DIM_VOCAB);
    PHX_TRY(
        phx_batch_create(e->parts.device, l, vocab.begin, phx_interval_length(vocab), &e->batch));
    if (e->parts.world->rank == 0) PHX_TRY(phx_scheduler_create(l, &e->scheduler));
    e->record_capacity = phx_step_record_capacity(l);
    e->record = malloc(e->record_capacity);
    e->ids = malloc((size_t)l->max_outputs * sizeof *e->ids);
    e->logprobs = malloc((size_t)l->max_outputs * sizeof *e->logprobs);
    if (e->record == NULL || e->ids == NULL || e->logprobs == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for step records of %zu bytes",
                        e->record_capacity);
    return PHX_OK;
}

enum phx_status phx_engine_create(const struct phx_engine_parts *parts,
                                  const struct phx_engine_options *options, struct phx_engine **out)
{
    struct phx_engine *e = calloc(1, sizeof *e);
    if (e == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the engine");
    e->parts = *parts;
    e->options = *options;
    enum phx_status status = make_parts(e);
    if (status != PHX_OK) {
        phx_engine_destroy(e);
        return status;
    }
    *out = e;
    return PHX_OK;
}

void phx_engine_destroy(struct phx_engine *engine)
{
    if (engine == NULL) return;
    phx_scheduler_destroy(engine->scheduler);
    phx_batch_destroy(engine->batch);
    phx_forward_destroy(engine->forward);
    phx_buffer_destroy(engine->kv_memory);
    free(engine->kv);
    free(engine->record);
    free(engine->ids);
    free(engine->logprobs);
    free(engine->logits);
    free(engine);
}

static enum phx_status check_ids(const struct phx_config *config, const char *what,
                                 const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= config->vocab)
            return phx_fail(PHX_USAGE, "%s %d: token ids of this model are 0 to %lld", what, ids[i],
                            (long long)config->vocab - 1);
    return PHX_OK;
}

enum phx_status phx_engine_submit(struct phx_engine *engine, struct phx_request *request)
{
    PHX_ASSERT(engine->scheduler != NULL);
    const struct phx_request_options *o = &request->options;
    const struct phx_config *config = engine->parts.config;
    PHX_TRY(check_ids(config, "prompt token", o->prompt_ids, o->n_prompt));
    PHX_TRY(check_ids(config, "forced token", o->forced_ids, o->n_forced));
    PHX_TRY(check_ids(config, "logit bias for token", o->bias_ids, o->n_bias));
    if ((o->want_logits || o->want_all_logits) && engine->logits == NULL) {
        size_t n = (size_t)engine->options.limits.max_outputs * (size_t)config->vocab;
        engine->logits = malloc(n * sizeof *engine->logits);
        if (engine->logits == NULL)
            return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu logits on the host", n);
    }
    return phx_scheduler_submit(engine->scheduler, request);
}

/* What every rank does with a record, rank 0 its own. Leaves ids, logprobs and logits on the host.
 */
static enum phx_status execute(struct phx_engine *e, const struct phx_step_record *record)
{
    const struct phx_record_head *h = record->head;
    struct phx_stream *s = e->parts.stream;
    struct phx_step step;
    struct phx_forward_result result;
    PHX_TRY(phx_batch_apply(e->batch, s, record, &step));
    PHX_TRY(phx_forward_run(e->forward, s, &step, &result));
    if (h->draw != PHX_DRAW_NONE) {
        PHX_TRY(phx_tensor_download(s, result.ids, e->ids));
        PHX_TRY(phx_tensor_download(s, result.logprobs, e->logprobs));
    }
    if (h->want_logits && e->parts.world->rank == 0)
        PHX_TRY(phx_tensor_download(s, result.logits, e->logits));
    PHX_TRY(phx_stream_synchronize(s));
    for (int32_t m = 0; m < h->n_outputs; m++)
        if (record->outputs[m].slot >= 0)
            e->counters.token_hash =
                phx_mix64(e->counters.token_hash + 0x9e3779b97f4a7c15ull + (uint32_t)e->ids[m]);
    if (h->n_outputs > 0)
        e->last_logits = phx_tensor_rows(result.local_logits, h->n_outputs - 1, 1);
    e->n_records++;
    e->counters.n_steps++;
    return PHX_OK;
}

static void count_step(struct phx_engine *e, const struct phx_schedule *schedule, double seconds)
{
    struct phx_engine_counters *c = &e->counters;
    bool reads_prompt = false;
    int64_t drawn = 0, prompt = 0;
    for (int32_t i = 0; i < schedule->n; i++) {
        const struct phx_scheduled *s = &schedule->entries[i];
        if (s->samples) drawn++;
        if (s->request->n_computed < s->request->options.n_prompt) {
            reads_prompt = true;
            prompt += s->n_rows;
        }
    }
    c->generated_tokens += drawn;
    if (reads_prompt) {
        c->prompt_tokens += prompt;
        c->prompt_seconds += seconds;
    } else {
        c->decode_tokens += drawn;
        c->decode_seconds += seconds;
    }
}

enum phx_status phx_engine_step(struct phx_engine *engine, bool *out_worked)
{
    PHX_ASSERT(engine->scheduler != NULL);
    double start = now();
    const struct phx_schedule *schedule = phx_scheduler_next(engine->scheduler);
    *out_worked = schedule->n > 0;
    if (schedule->n == 0) return PHX_OK;
    struct phx_step_record record;
    phx_step_record_write(schedule, phx_scheduler_cache(engine->scheduler), engine->n_records,
                          engine->counters.token_hash, engine->record, &record);
    PHX_TRY(phx_world_send_record(engine->parts.world, engine->record, record.bytes));
    PHX_TRY(execute(engine, &record));
    count_step(engine, schedule, now() - start);
    struct phx_step_results results = {.ids = engine->ids,
                                       .logprobs = engine->logprobs,
                                       .logits = record.head->want_logits ? engine->logits : NULL,
                                       .vocab = engine->parts.config->vocab};
    phx_scheduler_complete(engine->scheduler, schedule, &results);
    return PHX_OK;
}

enum phx_status phx_engine_stop(struct phx_engine *engine)
{
    struct phx_step_record record;
    phx_step_record_write_stop(engine->n_records, engine->counters.token_hash, engine->record,
                               &record);
    return phx_world_send_record(engine->parts.world, engine->record, record.bytes);
}

enum phx_status phx_engine_follow(struct phx_engine *engine)
{
    for (;;) {
        size_t bytes;
        struct phx_step_record record;
        PHX_TRY(phx_world_receive_record(engine->parts.world, engine->record,
                                         engine->record_capacity, &bytes));
        phx_step_record_read(engine->record, bytes, &record);
        PHX_ASSERT(record.head->number == engine->n_records);
        if (record.head->token_hash != engine->counters.token_hash)
            return phx_fail(PHX_COMM,
                            "before step %llu the tokens of this rank (hash %016llx) and of rank 0 "
                            "(%016llx) differ: the ranks do not compute the same sums",
                            (unsigned long long)record.head->number,
                            (unsigned long long)engine->counters.token_hash,
                            (unsigned long long)record.head->token_hash);
        if (record.head->kind == PHX_RECORD_STOP) return PHX_OK;
        PHX_TRY(execute(engine, &record));
    }
}

void phx_engine_counters(const struct phx_engine *engine, struct phx_engine_counters *out)
{
    *out = engine->counters;
}

enum phx_status phx_engine_logits_hash(struct phx_engine *engine, uint64_t *out)
{
    struct phx_world *world = engine->parts.world;
    struct phx_tensor t = engine->last_logits;
    uint64_t hash = 0;
    uint64_t *all = calloc((size_t)world->size, sizeof *all);
    uint32_t *bits = calloc((size_t)(t.cols > 0 ? t.cols : 1), sizeof *bits);
    enum phx_status status = PHX_OK;
    if (all == NULL || bits == NULL) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory to hash %lld logits", (long long)t.cols);
        goto done;
    }
    if (phx_tensor_present(t)) {
        PHX_TRY_GOTO(phx_tensor_download(engine->parts.stream, t, bits), done);
        PHX_TRY_GOTO(phx_stream_synchronize(engine->parts.stream), done);
    }
    for (int64_t i = 0; i < t.cols; i++) hash = phx_mix64(hash + 0x9e3779b97f4a7c15ull + bits[i]);
    PHX_TRY_GOTO(phx_world_allgather(world, &hash, sizeof hash, all), done);
    *out = 0;
    for (int r = 0; r < world->size; r++) *out = phx_mix64(*out + all[r]);
done:
    free(all);
    free(bits);
    return status;
}

struct phx_kv_pages phx_engine_kv(const struct phx_engine *engine, int32_t layer)
{
    PHX_ASSERT(layer >= 0 && layer < engine->parts.config->n_layers);
    return engine->kv[layer];
}
