#include "runtime/engine.h"

#include <stdlib.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "kernels/stages.h"
#include "runtime/batch.h"
#include "runtime/step_graphs.h"
#include "runtime/step_record.h"

/* A step from its record to its tokens. */
struct flight {
    void *buffer; /* the record's */
    struct phx_step_record record;
    int32_t *ids;    /* [max_outputs] on the host, once `done` */
    float *logprobs; /* [max_outputs] */
    float *logits;   /* [max_outputs, vocab] of rank 0, if requests may want them; those wanted */
    struct phx_event *begun, *done;
    double begun_s;
};

struct phx_engine {
    struct phx_engine_parts parts;
    struct phx_engine_options options;
    struct phx_buffer *kv_memory;
    struct phx_kv_pages *kv; /* [n_layers] */
    struct phx_forward *forward;
    struct phx_batch *batch;
    struct phx_scheduler *scheduler; /* rank 0 */
    struct phx_step_graphs *graphs;
    size_t record_capacity;
    struct flight flights[PHX_MAX_AHEAD]; /* a ring: step n is in flights[n % PHX_MAX_AHEAD] */
    uint64_t n_begun, n_done;             /* steps */
    double last_done_s;
    struct phx_tensor last_logits; /* f32 [1, V] local, of the last row of the newest step */
    struct phx_engine_counters counters;
    void (*on_step)(void *user, const struct phx_step_report *report);
    void *on_step_user;
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

/* A step at a time, or each step under way, has its own place. */
static enum phx_status make_logits(struct phx_engine *e)
{
    size_t n = (size_t)e->options.limits.max_outputs * (size_t)e->parts.config->vocab;
    for (int i = 0; i < e->options.n_ahead; i++)
        PHX_TRY(phx_host_alloc(e->parts.device, n * sizeof(float), (void **)&e->flights[i].logits));
    for (int i = e->options.n_ahead; i < PHX_MAX_AHEAD; i++)
        e->flights[i].logits = e->flights[0].logits;
    return PHX_OK;
}

static enum phx_status make_flight(struct phx_engine *e, struct flight *f)
{
    struct phx_device *device = e->parts.device;
    size_t n = (size_t)e->options.limits.max_outputs;
    f->buffer = malloc(e->record_capacity);
    if (f->buffer == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a step record of %zu bytes",
                        e->record_capacity);
    PHX_TRY(phx_host_alloc(device, n * sizeof *f->ids, (void **)&f->ids));
    PHX_TRY(phx_host_alloc(device, n * sizeof *f->logprobs, (void **)&f->logprobs));
    PHX_TRY(phx_event_create(device, &f->begun));
    return phx_event_create(device, &f->done);
}

static void drop_flight(struct phx_device *device, struct flight *f)
{
    free(f->buffer);
    if (f->ids != NULL) phx_host_free(device, f->ids);
    if (f->logprobs != NULL) phx_host_free(device, f->logprobs);
    phx_event_destroy(f->begun);
    phx_event_destroy(f->done);
}

static enum phx_status make_graphs(struct phx_engine *e)
{
    struct phx_device_info info;
    phx_device_info(e->parts.device, &info);
    bool graphs = e->options.graphs && info.has_graphs && phx_comm_recordable(e->parts.comm);
    return phx_step_graphs_create(e->forward, e->options.limits.max_seqs, graphs, &e->graphs);
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
    PHX_TRY(phx_batch_create(e->parts.device, l, vocab, e->options.pads, &e->batch));
    PHX_TRY(make_graphs(e));
    if (e->parts.world->rank == 0) PHX_TRY(phx_scheduler_create(l, &e->scheduler));
    e->record_capacity = phx_step_record_capacity(l);
    if (e->parts.world->rank == 0 && e->options.logits) PHX_TRY(make_logits(e));
    for (int i = 0; i < PHX_MAX_AHEAD; i++) PHX_TRY(make_flight(e, &e->flights[i]));
    return PHX_OK;
}

enum phx_status phx_engine_create(const struct phx_engine_parts *parts,
                                  const struct phx_engine_options *options, struct phx_engine **out)
{
    struct phx_engine *e = calloc(1, sizeof *e);
    if (e == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the engine");
    PHX_ASSERT(options->n_ahead >= 1 && options->n_ahead <= PHX_MAX_AHEAD);
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
    phx_step_graphs_destroy(engine->graphs);
    phx_batch_destroy(engine->batch);
    phx_forward_destroy(engine->forward);
    phx_buffer_destroy(engine->kv_memory);
    free(engine->kv);
    for (int i = 0; i < PHX_MAX_AHEAD; i++) {
        struct flight *f = &engine->flights[i];
        if (f->logits != NULL && i < engine->options.n_ahead)
            phx_host_free(engine->parts.device, f->logits);
        drop_flight(engine->parts.device, f);
    }
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
    PHX_ASSERT(engine->options.logits || !(o->want_logits || o->want_all_logits));
    return phx_scheduler_submit(engine->scheduler, request);
}

static struct flight *flight_of(struct phx_engine *e, uint64_t step)
{
    return &e->flights[step % PHX_MAX_AHEAD];
}

/* Of the rows that want it, next to each other as often as they are. */
static enum phx_status fetch_logits(struct phx_stream *s, const struct flight *f,
                                    struct phx_tensor logits)
{
    const struct phx_record_output *outputs = f->record.outputs;
    int32_t n = f->record.head->n_outputs;
    for (int32_t m = 0, end; m < n; m = end) {
        for (end = m + 1; end < n && outputs[end].wanted == outputs[m].wanted; end++) continue;
        if (!outputs[m].wanted) continue;
        PHX_TRY(phx_tensor_download(s, phx_tensor_rows(logits, m, end - m),
                                    f->logits + m * logits.cols));
    }
    return PHX_OK;
}

/* What every rank does with a record, rank 0 its own: give the step to the device. */
static enum phx_status launch(struct phx_engine *e, struct flight *f)
{
    const struct phx_record_head *h = f->record.head;
    struct phx_stream *s = e->parts.stream;
    struct phx_step step;
    struct phx_forward_result result;
    PHX_ASSERT(h->number == e->n_begun);
    f->begun_s = now();
    if (e->on_step != NULL) PHX_TRY(phx_event_record(f->begun, s));
    PHX_TRY(phx_batch_apply(e->batch, s, &f->record, &step));
    PHX_TRY(phx_step_graphs_run(e->graphs, s, &step, &result));
    if (h->draw != PHX_DRAW_NONE) {
        PHX_TRY(phx_tensor_download(s, result.ids, f->ids));
        PHX_TRY(phx_tensor_download(s, result.logprobs, f->logprobs));
    }
    if (h->want_logits && e->parts.world->rank == 0) PHX_TRY(fetch_logits(s, f, result.logits));
    PHX_TRY(phx_event_record(f->done, s));
    if (h->n_outputs > 0)
        e->last_logits = phx_tensor_rows(result.local_logits, h->n_outputs - 1, 1);
    e->n_begun++;
    return PHX_OK;
}

/* Rank 0 announces what all ranks then launch. */
static enum phx_status begin(struct phx_engine *e, struct flight *f)
{
    struct phx_world *world = e->parts.world;
    enum phx_status status = PHX_OK;
    phx_watchdog_enter(e->parts.watchdog);
    if (world->rank == 0) status = phx_world_send_record(world, f->buffer, f->record.bytes);
    if (status == PHX_OK) status = launch(e, f);
    phx_watchdog_leave(e->parts.watchdog);
    return status;
}

/* Wait for the oldest step's tokens. */
static enum phx_status await(struct phx_engine *e)
{
    const struct flight *f = flight_of(e, e->n_done);
    phx_watchdog_enter(e->parts.watchdog);
    enum phx_status status = phx_event_wait(f->done);
    phx_watchdog_leave(e->parts.watchdog);
    PHX_TRY(status);
    for (int32_t m = 0; m < f->record.head->n_outputs; m++)
        if (f->record.outputs[m].slot >= 0)
            e->counters.token_hash =
                phx_mix64(e->counters.token_hash + 0x9e3779b97f4a7c15ull + (uint32_t)f->ids[m]);
    e->n_done++;
    e->counters.n_steps++;
    return PHX_OK;
}

static enum phx_status count_step(struct phx_engine *e, const struct flight *f, int32_t n_new)
{
    struct phx_engine_counters *c = &e->counters;
    double start_s = f->begun_s > e->last_done_s ? f->begun_s : e->last_done_s;
    e->last_done_s = now();
    double seconds = e->last_done_s - start_s;
    int64_t prompt = 0;
    for (int32_t i = 0; i < f->record.head->n_seqs; i++) {
        const struct phx_record_seq *seq = &f->record.seqs[i];
        if (seq->position < seq->n_prompt) prompt += seq->n_rows;
    }
    if (e->on_step != NULL) {
        float device_ms;
        PHX_TRY(phx_event_elapsed_ms(f->begun, f->done, &device_ms));
        e->on_step(e->on_step_user,
                   &(struct phx_step_report){.n_seqs = f->record.head->n_seqs,
                                             .n_rows = f->record.head->n_rows,
                                             .n_prompt = (int32_t)prompt,
                                             .n_new = n_new,
                                             .seconds = seconds,
                                             .device_seconds = 1e-3 * (double)device_ms});
    }
    c->generated_tokens += n_new;
    if (prompt > 0) {
        c->prompt_tokens += prompt;
        c->prompt_seconds += seconds;
    } else {
        c->decode_tokens += n_new;
        c->decode_seconds += seconds;
    }
    return PHX_OK;
}

/* Rank 0: see the oldest step to its end. */
static enum phx_status complete(struct phx_engine *e)
{
    const struct flight *f = flight_of(e, e->n_done);
    PHX_TRY(await(e));
    int32_t n_new = phx_scheduler_complete(
        e->scheduler,
        &(struct phx_step_results){.ids = f->ids,
                                   .logprobs = f->logprobs,
                                   .logits = f->record.head->want_logits ? f->logits : NULL,
                                   .vocab = e->parts.config->vocab});
    return count_step(e, f, n_new);
}

/* The head of rank 0's next record. */
static struct phx_record_head next_head(const struct phx_engine *e)
{
    return (struct phx_record_head){
        .number = e->n_begun, .n_hashed = e->n_done, .token_hash = e->counters.token_hash};
}

/* Rank 0: announce the next step and begin it, if there is one. */
static enum phx_status begin_next(struct phx_engine *e, bool *out_begun)
{
    struct flight *f = flight_of(e, e->n_begun);
    struct phx_record_head head = next_head(e);
    const struct phx_schedule *schedule = phx_scheduler_next(e->scheduler);
    *out_begun = schedule->n > 0;
    if (schedule->n == 0) return PHX_OK;
    phx_step_record_write(schedule, phx_scheduler_cache(e->scheduler), &head, f->buffer,
                          &f->record);
    return begin(e, f);
}

enum phx_status phx_engine_step(struct phx_engine *engine, bool *out_worked)
{
    struct phx_engine *e = engine;
    PHX_ASSERT(e->scheduler != NULL);
    bool begun;
    PHX_TRY(begin_next(e, &begun));
    *out_worked = e->n_begun > e->n_done;
    if (!*out_worked) return PHX_OK;
    if (!begun) return complete(e);
    while (e->n_begun - e->n_done >= (uint64_t)e->options.n_ahead) PHX_TRY(complete(e));
    return PHX_OK;
}

enum phx_status phx_engine_stop(struct phx_engine *engine)
{
    struct phx_engine *e = engine;
    while (e->n_done < e->n_begun) PHX_TRY(complete(e));
    struct phx_record_head head = next_head(e);
    struct flight *f = flight_of(e, e->n_begun);
    phx_step_record_write_stop(&head, f->buffer, &f->record);
    return phx_world_send_record(e->parts.world, f->buffer, f->record.bytes);
}

/* Other ranks: the steps that rank 0 knows the tokens of must have come to the same here. */
static enum phx_status check_tokens(struct phx_engine *e, const struct phx_record_head *h)
{
    while (e->n_done < h->n_hashed) PHX_TRY(await(e));
    PHX_ASSERT(e->n_done == h->n_hashed);
    if (h->token_hash == e->counters.token_hash) return PHX_OK;
    return phx_fail(PHX_COMM,
                    "after %llu steps the tokens of this rank (hash %016llx) and of rank 0 "
                    "(%016llx) differ: the ranks do not compute the same sums",
                    (unsigned long long)h->n_hashed, (unsigned long long)e->counters.token_hash,
                    (unsigned long long)h->token_hash);
}

enum phx_status phx_engine_follow(struct phx_engine *engine)
{
    struct phx_engine *e = engine;
    for (;;) {
        /* Rank 0 announces no further one before it has seen the oldest of these end. */
        if (e->n_begun - e->n_done == PHX_MAX_AHEAD) PHX_TRY(await(e));
        size_t bytes;
        struct flight *f = flight_of(e, e->n_begun);
        PHX_TRY(phx_world_receive_record(e->parts.world, f->buffer, e->record_capacity, &bytes));
        phx_step_record_read(f->buffer, bytes, &f->record);
        PHX_TRY(check_tokens(e, f->record.head));
        if (f->record.head->kind == PHX_RECORD_STOP) return PHX_OK;
        PHX_TRY(begin(e, f));
    }
}

enum phx_status phx_engine_leave_out(struct phx_engine *engine, unsigned stages, bool starts)
{
    PHX_ASSERT(engine->n_done == engine->n_begun);
    phx_stream_leave_out(engine->parts.stream, stages, starts);
    phx_step_graphs_destroy(engine->graphs); /* they hold what they were recorded with */
    engine->graphs = NULL;
    return make_graphs(engine);
}

void phx_engine_counters(const struct phx_engine *engine, struct phx_engine_counters *out)
{
    *out = engine->counters;
    out->n_replayed = phx_step_graphs_replayed(engine->graphs);
}

void phx_engine_load(const struct phx_engine *engine, struct phx_engine_load *out)
{
    const struct phx_scheduler *s = engine->scheduler;
    PHX_ASSERT(s != NULL);
    const struct phx_kv_cache *cache = phx_scheduler_cache(s);
    *out = (struct phx_engine_load){.n_running = phx_scheduler_running(s),
                                    .n_waiting = phx_scheduler_waiting(s),
                                    .n_pages = phx_kv_cache_pages(cache),
                                    .n_free_pages = phx_kv_cache_free_pages(cache),
                                    .n_known_pages = phx_kv_cache_known_pages(cache),
                                    .counters = *phx_scheduler_counters(s),
                                    .sum_seconds = phx_comm_seconds(engine->parts.comm)};
}

int32_t phx_engine_max_tokens(const struct phx_engine *engine)
{
    const struct phx_scheduler_limits *l = &engine->options.limits;
    int64_t held = (int64_t)l->n_pages * PHX_PAGE_TOKENS;
    return held < l->max_length ? (int32_t)held : l->max_length;
}

void phx_engine_on_step(struct phx_engine *engine,
                        void (*on_step)(void *user, const struct phx_step_report *report),
                        void *user)
{
    PHX_ASSERT(on_step == NULL || engine->n_done == engine->n_begun);
    engine->on_step = on_step;
    engine->on_step_user = user;
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

void phx_engine_set_taps(struct phx_engine *engine, const struct phx_forward_taps *taps)
{
    PHX_ASSERT(!engine->options.graphs);
    phx_forward_set_taps(engine->forward, taps);
}

struct phx_kv_pages phx_engine_kv(const struct phx_engine *engine, int32_t layer)
{
    PHX_ASSERT(layer >= 0 && layer < engine->parts.config->n_layers);
    return engine->kv[layer];
}
