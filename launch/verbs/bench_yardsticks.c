#include "launch/verbs/bench_yardsticks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "kernels/probe.h"

enum {
    REPEATS = 11,
    CPU_PASSES = 40,
    EMPTY_CHAIN = 200,
    SUM_CHAIN = 64,
    PRODUCT_CHAIN = 4,
    PRODUCT_SIDE = 8192
};

enum phx_status phx_bench_most(struct phx_world *world, double mine, double *out)
{
    double *all = calloc((size_t)world->size, sizeof *all);
    if (all == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the ranks' figures");
    enum phx_status status = phx_world_allgather(world, &mine, sizeof mine, all);
    *out = mine;
    for (int r = 0; r < world->size && status == PHX_OK; r++) *out = fmax(*out, all[r]);
    free(all);
    return status;
}

static const size_t largest = (size_t)1 << 30, slice_of_thread = (size_t)16 << 20;

/* ---- chains ---- */

/* n calls on a stream, recorded where it can, and timed by the device. */
struct chain {
    struct phx_stream *stream;
    bool records;
    int n;
    enum phx_status (*call)(struct phx_stream *stream, void *user, int i);
    void *user;
};

static enum phx_status run_calls(const struct chain *c)
{
    for (int i = 0; i < c->n; i++) PHX_TRY(c->call(c->stream, c->user, i));
    return PHX_OK;
}

static enum phx_status record_calls(const struct chain *c, struct phx_graph **out)
{
    PHX_TRY(run_calls(c)); /* libraries set up on first use */
    PHX_TRY(phx_graph_begin(c->stream));
    enum phx_status status = run_calls(c);
    if (status == PHX_OK) return phx_graph_end(c->stream, out);
    phx_graph_end(c->stream, NULL);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double phx_bench_median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

/* Seconds of a call: the median over chains, and the least. */
static enum phx_status time_chain(const struct chain *c, double *out, double *out_least)
{
    struct phx_device *device = phx_stream_device(c->stream);
    struct phx_event *begin = NULL, *end = NULL;
    struct phx_graph *graph = NULL;
    double all[REPEATS];
    enum phx_status status = PHX_OK;
    PHX_TRY_GOTO(phx_event_create(device, &begin), done);
    PHX_TRY_GOTO(phx_event_create(device, &end), done);
    if (c->records) PHX_TRY_GOTO(record_calls(c, &graph), done);
    for (int i = -1; i < REPEATS; i++) { /* the first warms up */
        float ms;
        PHX_TRY_GOTO(phx_event_record(begin, c->stream), done);
        PHX_TRY_GOTO(graph != NULL ? phx_graph_launch(graph, c->stream) : run_calls(c), done);
        PHX_TRY_GOTO(phx_event_record(end, c->stream), done);
        PHX_TRY_GOTO(phx_stream_synchronize(c->stream), done);
        PHX_TRY_GOTO(phx_event_elapsed_ms(begin, end, &ms), done);
        all[i < 0 ? 0 : i] = 1e-3 * (double)ms / c->n;
    }
    *out = phx_bench_median(all, REPEATS);
    *out_least = all[0];
done:
    phx_graph_destroy(graph);
    phx_event_destroy(begin);
    phx_event_destroy(end);
    return status;
}

/* ---- reading ---- */

struct reading {
    struct phx_buffer *words, *result;
    size_t slice, at;
};

/* The next slice in each call: what a call reads has long left the caches. */
static enum phx_status read_slice(struct phx_stream *stream, void *user, int i)
{
    struct reading *r = user;
    (void)i;
    PHX_TRY(phx_probe_read(stream, r->words, r->at, r->slice, r->result));
    r->at += r->slice;
    if (r->at + r->slice > phx_buffer_bytes(r->words)) r->at = 0;
    return PHX_OK;
}

static enum phx_status measure_reading(const struct phx_run *run, double *out)
{
    struct phx_device_info info;
    struct reading r = {0};
    enum phx_status status;
    *out = 0;
    phx_device_info(run->device, &info);
    bool cpu = info.kind == PHX_DEVICE_CPU;
    int sharers = cpu ? run->world->node_size : run->settings.gpu_sharers;
    size_t room = info.memory_free_bytes / 4 / (size_t)(sharers > 1 ? sharers : 1);
    size_t slice = cpu ? slice_of_thread * (size_t)info.n_units : largest / 4;
    if (room > largest) room = largest;
    r.slice = slice < room ? slice : room / 256 * 256;
    if (r.slice == 0) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to measure reading");
    PHX_TRY(phx_buffer_create(run->device, room / r.slice * r.slice, &r.words));
    double seconds, least;
    PHX_TRY_GOTO(phx_buffer_create(run->device, 256, &r.result), done);
    PHX_TRY_GOTO(phx_probe_fill(run->stream, r.words), done);
    /* On a CPU one slice at a time, about a millisecond: others may use the machine, and its
     * threads do not read evenly, as they do with work that they share out. */
    struct chain chain = {run->stream, info.has_graphs, cpu ? 1 : 4, read_slice, &r};
    for (int i = 0; i < (cpu ? CPU_PASSES : 1); i++) {
        PHX_TRY_GOTO(time_chain(&chain, &seconds, &least), done);
        *out = fmax(*out, (double)r.slice / least);
    }
done:
    phx_buffer_destroy(r.words);
    phx_buffer_destroy(r.result);
    return status;
}

/* ---- multiplying ---- */

struct product {
    struct phx_tensor x, out;
    struct phx_weight *weight;
};

static enum phx_status multiply(struct phx_stream *stream, void *user, int i)
{
    const struct product *p = user;
    (void)i;
    return phx_op_linear(stream,
                         &(struct phx_linear){.x = p->x, .weight = p->weight, .out = p->out});
}

/* The weight's rows, in the type of activations. */
static enum phx_status copy_rows(struct phx_stream *stream, const struct phx_weight *weight,
                                 struct phx_tensor out)
{
    struct phx_buffer *buffer = NULL;
    int32_t *list = malloc((size_t)out.rows * sizeof *list);
    enum phx_status status;
    if (list == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a list of rows");
    for (int64_t i = 0; i < out.rows; i++) list[i] = (int32_t)i;
    size_t bytes = phx_dtype_bytes(PHX_I32, out.rows);
    PHX_TRY_GOTO(phx_buffer_create(phx_stream_device(stream), bytes, &buffer), done);
    struct phx_tensor ids = phx_tensor_view(buffer, 0, PHX_I32, out.rows, 1);
    PHX_TRY_GOTO(phx_tensor_upload(stream, ids, list), done);
    PHX_TRY_GOTO(
        phx_op_embed(stream,
                     &(struct phx_embed){.table = weight, .ids = ids, .scale = 1, .out = out}),
        done);
    PHX_TRY_GOTO(phx_stream_synchronize(stream), done);
done:
    phx_buffer_destroy(buffer);
    free(list);
    return status;
}

/* A product of square matrices of random values, by the device's own operation. */
static enum phx_status measure_product(const struct phx_run *run, double *out)
{
    const int64_t n = PRODUCT_SIDE;
    struct phx_device_info info;
    phx_device_info(run->device, &info);
    struct phx_limits limits = {.max_rows = PRODUCT_SIDE, .max_in = n, .max_out = n};
    struct phx_weight_shape shape = {.dtype = info.activation, .rows = n, .cols = n};
    size_t bytes = phx_dtype_bytes(info.activation, n * n);
    struct phx_buffer *x = NULL, *y = NULL;
    struct phx_stream *stream = NULL;
    struct product p = {.weight = NULL};
    enum phx_status status;
    PHX_TRY_GOTO(phx_stream_create(run->device, &limits, &stream), done);
    PHX_TRY_GOTO(phx_weight_create(run->device, &shape, &p.weight), done);
    struct phx_dummy dummy = {.key = phx_dummy_key("yardstick"), .scale = 1};
    PHX_TRY_GOTO(phx_weight_write_dummy(stream, p.weight, 0, n, &dummy, 0, 0), done);
    PHX_TRY_GOTO(phx_buffer_create(run->device, bytes, &x), done);
    PHX_TRY_GOTO(phx_buffer_create(run->device, bytes, &y), done);
    p.x = phx_tensor_view(x, 0, info.activation, n, n);
    PHX_TRY_GOTO(copy_rows(stream, p.weight, p.x), done);
    p.out = phx_tensor_view(y, 0, info.activation, n, n);
    struct chain chain = {stream, info.has_graphs, PRODUCT_CHAIN, multiply, &p};
    double seconds, least;
    PHX_TRY_GOTO(time_chain(&chain, &seconds, &least), done);
    *out = 2.0 * (double)n * (double)n * (double)n / seconds;
done:
    phx_weight_destroy(p.weight);
    phx_buffer_destroy(x);
    phx_buffer_destroy(y);
    phx_stream_destroy(stream);
    return status;
}

/* ---- starting ---- */

static enum phx_status start(struct phx_stream *stream, void *user, int i)
{
    (void)user;
    (void)i;
    return phx_probe_empty(stream, true);
}

/* Barriers, so that ranks that share a machine measure what each has of it. */
static enum phx_status measure_own(const struct phx_run *run, struct phx_bench_yardsticks *out)
{
    struct phx_device_info info;
    phx_device_info(run->device, &info);
    double least;
    struct chain empty = {run->stream, info.has_graphs, EMPTY_CHAIN, start, NULL};
    PHX_TRY(phx_world_barrier(run->world));
    enum phx_status status = measure_reading(run, &out->read_bytes_s);
    PHX_TRY(phx_world_agree(run->world, status));
    out->operations_s = phx_probe_multiply(run->stream);
    if (out->operations_s == 0) status = measure_product(run, &out->operations_s);
    PHX_TRY(phx_world_agree(run->world, status));
    return phx_world_agree(run->world, time_chain(&empty, &out->start_s, &least));
}

enum phx_status phx_bench_yardsticks_measure(const struct phx_run *run,
                                             struct phx_bench_yardsticks *out)
{
    PHX_TRY(measure_own(run, out));
    double *rates[] = {&out->read_bytes_s, &out->operations_s};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        PHX_TRY(phx_bench_most(run->world, -*rates[i], rates[i]));
        *rates[i] = -*rates[i];
    }
    return phx_bench_most(run->world, out->start_s, &out->start_s);
}

/* ---- sums ---- */

struct sum {
    const struct phx_run *run;
    struct phx_reduce_norm args;
};

static enum phx_status sum_and_norm(struct phx_stream *stream, void *user, int i)
{
    const struct sum *s = user;
    (void)i;
    return phx_comm_reduce_norm(s->run->comm, stream, &s->args);
}

static enum phx_status norm_alone(struct phx_stream *stream, void *user, int i)
{
    const struct phx_reduce_norm *a = &((const struct sum *)user)->args;
    (void)i;
    return phx_op_add_norm(stream, &(struct phx_add_norm){.x = a->partial,
                                                          .residual = a->residual,
                                                          .weight = a->weight,
                                                          .epsilon = a->epsilon,
                                                          .out = a->out});
}

enum phx_status phx_bench_sum_measure(const struct phx_run *run, int32_t n_rows, double *out)
{
    const int64_t e = run->config->hidden;
    struct phx_device_info info;
    struct phx_buffer *residual = NULL, *weight = NULL, *x = NULL;
    double both = 0, norm = 0, least;
    enum phx_status status;
    *out = 0;
    if (run->world->size == 1) return PHX_OK;
    phx_device_info(run->device, &info);
    size_t floats = phx_dtype_bytes(PHX_F32, n_rows * e);
    PHX_TRY_GOTO(phx_buffer_create(run->device, floats, &residual), agree);
    PHX_TRY_GOTO(phx_buffer_create(run->device, phx_dtype_bytes(PHX_F32, e), &weight), agree);
    PHX_TRY_GOTO(phx_buffer_create(run->device, floats, &x), agree);
    PHX_TRY_GOTO(phx_comm_begin_step(run->comm, run->stream), agree);
agree:
    PHX_TRY_GOTO(phx_world_agree(run->world, status), done);
    struct sum s = {run,
                    {.partial = phx_tensor_view(run->partials, 0, info.activation, n_rows, e),
                     .residual = phx_tensor_view(residual, 0, PHX_F32, n_rows, e),
                     .weight = phx_tensor_view(weight, 0, PHX_F32, 1, e),
                     .epsilon = 1e-5F,
                     .out = phx_tensor_view(x, 0, info.activation, n_rows, e)}};
    bool records = info.has_graphs && phx_comm_recordable(run->comm);
    struct chain chain = {run->stream, records, SUM_CHAIN, sum_and_norm, &s};
    PHX_TRY_GOTO(time_chain(&chain, &both, &least), done);
    chain.call = norm_alone;
    PHX_TRY_GOTO(time_chain(&chain, &norm, &least), done);
    *out = fmax(0, both - norm);
done:
    phx_buffer_destroy(residual);
    phx_buffer_destroy(weight);
    phx_buffer_destroy(x);
    return status;
}

/* ---- noise ---- */

enum { NOISE_VALUES = 1 << 20, PAGES_AT_ONCE = 64 };

/* Random numbers in [-1, 1), of which each page of each head gets some that lie together. */
static void *make_noise(enum phx_dtype type)
{
    const size_t bytes = phx_dtype_bytes(type, 1);
    void *noise = malloc(NOISE_VALUES * bytes);
    for (int32_t i = 0; noise != NULL && i < NOISE_VALUES; i++) {
        float x = (float)(int32_t)phx_mix32((uint32_t)i) * 0x1p-31F;
        if (type == PHX_F32)
            ((float *)noise)[i] = x;
        else
            ((uint16_t *)noise)[i] = type == PHX_F16 ? phx_f16_from_f32(x) : phx_bf16_from_f32(x);
    }
    return noise;
}

/* Keys or values of a layer, some pages at a time. `first_head` of the rank: what a head gets does
 * not depend on who has it. */
static enum phx_status fill_pages(struct phx_stream *stream, const struct phx_kv_pages *kv,
                                  struct phx_tensor to, uint64_t key, int64_t first_head,
                                  const char *noise, char *staging)
{
    const int64_t block = (int64_t)PHX_PAGE_TOKENS * kv->head_dim;
    const size_t bytes = phx_dtype_bytes(to.dtype, block);
    for (int64_t page = 0; page < kv->n_pages; page += PAGES_AT_ONCE) {
        int64_t n = kv->n_pages - page < PAGES_AT_ONCE ? kv->n_pages - page : PAGES_AT_ONCE;
        for (int64_t i = 0; i < n * kv->n_kv_heads; i++) {
            uint64_t head = (uint64_t)(first_head + i % kv->n_kv_heads);
            uint64_t at = (uint64_t)(page + i / kv->n_kv_heads) << 16 | head;
            at = phx_mix64(key + at) % (uint64_t)(NOISE_VALUES - block);
            memcpy(staging + (size_t)i * bytes, noise + phx_dtype_bytes(to.dtype, (int64_t)at),
                   bytes);
        }
        int64_t rows = (int64_t)kv->n_kv_heads * PHX_PAGE_TOKENS;
        PHX_TRY(phx_tensor_upload(stream, phx_tensor_rows(to, page * rows, n * rows), staging));
    }
    return PHX_OK;
}

static enum phx_status fill_layer(const struct phx_run *run, int32_t layer, const char *noise)
{
    const struct phx_kv_pages kv = phx_engine_kv(run->engine, layer);
    const uint64_t key = (uint64_t)layer << 48;
    int64_t first = phx_shard_plan_kv_heads(run->plan, run->world->rank, layer).begin;
    size_t page =
        phx_dtype_bytes(kv.k.dtype, (int64_t)kv.n_kv_heads * PHX_PAGE_TOKENS) * (size_t)kv.head_dim;
    char *staging = malloc(PAGES_AT_ONCE * page);
    if (staging == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for made-up keys");
    enum phx_status status = fill_pages(run->stream, &kv, kv.k, key, first, noise, staging);
    if (status == PHX_OK)
        status = fill_pages(run->stream, &kv, kv.v, key + 0x5555555555ull, first, noise, staging);
    if (status == PHX_OK) status = phx_stream_synchronize(run->stream);
    free(staging);
    return status;
}

enum phx_status phx_bench_noise_fill(const struct phx_run *run)
{
    char *noise = make_noise(phx_run_kv_dtype(run));
    if (noise == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for made-up keys");
    enum phx_status status = PHX_OK;
    for (int32_t l = 0; l < run->config->n_layers && status == PHX_OK; l++)
        status = fill_layer(run, l, noise);
    free(noise);
    return status;
}
