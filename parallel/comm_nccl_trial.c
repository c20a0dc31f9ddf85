/* The ways to add are tried before they are used: whether their sums are right, and how long they
 * take. What does not come to an end is ended here, so that another way can be taken.
 *
 * All ranks make all sums, whatever one of them has found: a rank that stopped would make the
 * others wait. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "parallel/comm_nccl.h"
#include "parallel/host_sum.h"

enum {
    COLS = 4096, /* of a row, where there are that many values */
    ROUNDS = 3,  /* of a check: the exchange alternates between two places */
    CHAIN = 32,  /* sums in a row, timed together */
    REPEATS = 5  /* of the chain; the shortest counts */
};

/* A megabyte in 16 bits is the largest sum that is fused. */
static const struct shape {
    int64_t rows, cols;
} shapes[] = {{1, 1}, {3, 335}, {1, COLS}, {7, 5120}, {64, COLS}, {128, COLS}, {512, COLS}};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], MAX_CHECKED = 512 * COLS };

static const size_t max_timed_bytes = (size_t)8 << 20;
enum { MAX_ROWS = (8 << 20) / 2 / COLS };

const char *const phx_nccl_way_names[PHX_ALLREDUCE_FUSED + 1] = {
    [PHX_ALLREDUCE_AUTO] = "auto",
    [PHX_ALLREDUCE_NCCL] = "nccl",
    [PHX_ALLREDUCE_SYMMETRIC] = "symmetric",
    [PHX_ALLREDUCE_FUSED] = "fused",
};

struct phx_nccl_trial {
    struct phx_nccl_comm *c;
    struct phx_stream *stream;
    struct phx_event *begin, *end;
    enum phx_dtype dtype; /* of activations */
    size_t x_bytes;       /* of the largest sum */
    struct phx_buffer *plain;
    struct phx_nccl_window window;
    struct phx_buffer *in_window; /* over the window's memory */
    struct phx_buffer *residual, *weight, *out;
    char **parts; /* [ranks] of all ranks, on the host */
    char *sum;
    char *got;               /* of phx_host_alloc: any other download waits as long as the sum */
    float *floats;           /* [values] of the residual or the weight */
    enum phx_status verdict; /* of the sums looked at so far */
};

/* ---- life ---- */

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    PHX_ASSERT(memory != NULL);
    return memory;
}

static enum phx_status prepare(struct phx_nccl_trial *t)
{
    struct phx_device *device = t->c->base.device;
    const int size = t->c->base.world->size;
    struct phx_device_info info;
    phx_device_info(device, &info);
    t->dtype = info.activation;
    size_t bytes = t->c->base.options.max_reduce_bytes;
    if (bytes > max_timed_bytes) bytes = max_timed_bytes;
    const size_t value_bytes = phx_dtype_bytes(t->dtype, 1), values = bytes / value_bytes;
    t->x_bytes = values * value_bytes;
    const size_t checked = values < MAX_CHECKED ? values : MAX_CHECKED;
    PHX_TRY(phx_stream_create(device, &(struct phx_limits){.max_rows = MAX_ROWS}, &t->stream));
    PHX_TRY(phx_event_create(device, &t->begin));
    PHX_TRY(phx_event_create(device, &t->end));
    PHX_TRY(phx_buffer_create(device, t->x_bytes, &t->plain));
    PHX_TRY(phx_buffer_create(device, values * sizeof(float), &t->residual));
    PHX_TRY(phx_buffer_create(device, values * sizeof(float), &t->weight));
    PHX_TRY(phx_buffer_create(device, t->x_bytes, &t->out));
    t->parts = allocate((size_t)size * sizeof *t->parts);
    for (int r = 0; r < size; r++) t->parts[r] = allocate(checked * value_bytes);
    t->sum = allocate(checked * value_bytes);
    t->floats = allocate(checked * sizeof(float));
    return phx_host_alloc(device, checked * sizeof(float), (void **)&t->got);
}

enum phx_status phx_nccl_trial_open(struct phx_nccl_comm *c, struct phx_nccl_trial **out)
{
    struct phx_nccl_trial *t = allocate(sizeof *t);
    t->c = c;
    enum phx_status status = phx_nccl_together(c->base.world, prepare(t));
    if (status != PHX_OK) {
        phx_nccl_trial_close(t);
        return status;
    }
    *out = t;
    return PHX_OK;
}

void phx_nccl_trial_close(struct phx_nccl_trial *t)
{
    if (t == NULL) return;
    const int size = t->c->base.world->size;
    phx_event_destroy(t->begin);
    phx_event_destroy(t->end);
    phx_buffer_destroy(t->plain);
    phx_buffer_destroy(t->in_window);
    phx_nccl_window_close(t->c, &t->window);
    phx_buffer_destroy(t->residual);
    phx_buffer_destroy(t->weight);
    phx_buffer_destroy(t->out);
    phx_stream_destroy(t->stream);
    for (int r = 0; r < size && t->parts != NULL; r++) free(t->parts[r]);
    free(t->parts);
    free(t->sum);
    if (t->got != NULL) phx_host_free(t->c->base.device, t->got);
    free(t->floats);
    free(t);
}

struct phx_stream *phx_nccl_trial_stream(struct phx_nccl_trial *t)
{
    return t->stream;
}

size_t phx_nccl_trial_max_bytes(const struct phx_nccl_trial *t)
{
    return t->x_bytes;
}

enum phx_status phx_nccl_trial_open_window(struct phx_nccl_trial *t)
{
    PHX_TRY(phx_nccl_window_open(t->c, t->x_bytes, &t->window));
    return phx_buffer_wrap(t->c->base.device, t->window.memory, t->x_bytes, &t->in_window);
}

/* ---- running ---- */

static struct phx_tensor tensor(struct phx_buffer *buffer, enum phx_dtype dtype, struct shape shape)
{
    return phx_tensor_view(buffer, 0, dtype, shape.rows, shape.cols);
}

static struct phx_reduce_norm operands(const struct phx_nccl_trial *t, enum phx_allreduce way,
                                       struct shape shape)
{
    return (struct phx_reduce_norm){
        .partial =
            tensor(way == PHX_ALLREDUCE_SYMMETRIC ? t->in_window : t->plain, t->dtype, shape),
        .residual = tensor(t->residual, PHX_F32, shape),
        .weight = tensor(t->weight, PHX_F32, (struct shape){1, shape.cols}),
        .epsilon = 1e-5f,
        .out = tensor(t->out, t->dtype, shape),
    };
}

/* `n` sums, with a norm or without, recorded. */
static enum phx_status record(struct phx_nccl_trial *t, enum phx_allreduce way,
                              const struct phx_reduce_norm *args, bool norm, int n,
                              struct phx_graph **out)
{
    enum phx_status status = PHX_OK;
    PHX_TRY(phx_graph_begin(t->stream));
    for (int i = 0; i < n && status == PHX_OK; i++)
        status = norm ? phx_nccl_reduce_norm(t->c, way, t->stream, args)
                      : phx_nccl_reduce(t->c, way, t->stream, args->partial);
    if (status == PHX_OK) return phx_graph_end(t->stream, out);
    phx_graph_end(t->stream, NULL); /* why it failed has been said */
    return status;
}

static void abort_fused(struct phx_nccl_trial *t)
{
    __atomic_store_n(&t->c->fused.host->abort, 1, __ATOMIC_RELAXED);
}

/* Until the stream has done all its work, for some time: if a fused sum is lost, there are others;
 * without NCCL there is nothing. Nothing before this may wait for the stream. */
static enum phx_status wait(struct phx_nccl_trial *t, enum phx_allreduce way)
{
    const int patience_s = way == PHX_ALLREDUCE_FUSED ? 5 : 30;
    const struct timespec moment = {.tv_nsec = 20000};
    struct timespec now, since;
    clock_gettime(CLOCK_MONOTONIC, &since);
    for (;;) {
        cudaError_t error = cudaStreamQuery(phx_cuda_stream_native(t->stream));
        if (error != cudaErrorNotReady) return phx_cuda_status(error, "cudaStreamQuery");
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - since.tv_sec > patience_s) break;
        nanosleep(&moment, NULL);
    }
    if (way == PHX_ALLREDUCE_FUSED) abort_fused(t); /* before its graph is destroyed */
    return phx_fail(PHX_PEER, "the %s all-reduce has not come to an end within %d s",
                    phx_nccl_way_names[way], patience_s);
}

/* After a failure: what still waits for other ranks is made to end. Graphs are gone by now:
 * NCCL's abort waits for that. */
static void end_waiting(struct phx_nccl_trial *t, enum phx_allreduce way)
{
    if (cudaStreamQuery(phx_cuda_stream_native(t->stream)) != cudaErrorNotReady) return;
    if (way == PHX_ALLREDUCE_FUSED) {
        abort_fused(t);
    } else {
        ncclCommAbort(t->c->native);
        t->c->native = NULL;
    }
    cudaStreamSynchronize(phx_cuda_stream_native(t->stream));
}

/* ---- checking ---- */

static void put(enum phx_dtype dtype, char *to, int64_t i, float value)
{
    if (dtype == PHX_F32)
        ((float *)(void *)to)[i] = value;
    else
        ((uint16_t *)(void *)to)[i] =
            dtype == PHX_F16 ? phx_f16_from_f32(value) : phx_bf16_from_f32(value);
}

static float get(enum phx_dtype dtype, const char *from, int64_t i)
{
    if (dtype == PHX_F32) return ((const float *)(const void *)from)[i];
    uint16_t bits = ((const uint16_t *)(const void *)from)[i];
    return dtype == PHX_F16 ? phx_f32_from_f16(bits) : phx_f32_from_bf16(bits);
}

/* Whole numbers, so small that their sums are exact in every type, in whatever order they are
 * added: at most 128, while there are no more ranks than that. */
static float value_of(int rank, int n_ranks, int64_t i)
{
    const int most = n_ranks <= 18 ? 7 : 1;
    uint32_t draw = (uint32_t)phx_mix64((uint64_t)rank << 40 ^ (uint64_t)i);
    return (float)((int)(draw % (uint32_t)(2 * most + 1)) - most);
}

static void draw_values(struct phx_nccl_trial *t, int64_t n)
{
    const int size = t->c->base.world->size;
    const struct phx_host_parts parts = {t->dtype, size, t->parts};
    for (int r = 0; r < size; r++)
        for (int64_t i = 0; i < n; i++) put(t->dtype, t->parts[r], i, value_of(r, size, i));
    phx_host_sum(&parts, 0, n, t->sum);
}

/* The first finding counts. */
static void judge(struct phx_nccl_trial *t, enum phx_allreduce way, struct shape shape,
                  bool from_graph, bool right)
{
    if (right || t->verdict != PHX_OK) return;
    t->verdict = phx_fail(PHX_COMM, "the %s all-reduce gives wrong sums (of %lld x %lld values%s)",
                          phx_nccl_way_names[way], (long long)shape.rows, (long long)shape.cols,
                          from_graph ? ", in a graph" : "");
}

static enum phx_status check_sum(struct phx_nccl_trial *t, enum phx_allreduce way,
                                 struct shape shape, struct phx_graph *graph)
{
    const struct phx_reduce_norm args = operands(t, way, shape);
    const int64_t n = shape.rows * shape.cols;
    bool right = true;
    for (int round = 0; round < ROUNDS; round++) {
        PHX_TRY(phx_tensor_upload(t->stream, args.partial, t->parts[t->c->base.world->rank]));
        PHX_TRY(graph != NULL ? phx_graph_launch(graph, t->stream)
                              : phx_nccl_reduce(t->c, way, t->stream, args.partial));
        PHX_TRY(phx_tensor_download(t->stream, args.partial, t->got));
        PHX_TRY(wait(t, way));
        for (int64_t i = 0; i < n; i++)
            right = right && get(t->dtype, t->got, i) == get(t->dtype, t->sum, i);
    }
    judge(t, way, shape, graph != NULL, right);
    return PHX_OK;
}

/* What lies in the residual before, and the weights: exact too. */
static float residual_of(int64_t i)
{
    return (float)(i % 13 - 6);
}

static float weight_of(int64_t col)
{
    return 1 + (float)(col % 5) / 4;
}

static bool norms_right(const struct phx_nccl_trial *t, struct shape shape, float epsilon)
{
    const double tolerance = t->dtype == PHX_F32   ? 1e-5
                             : t->dtype == PHX_F16 ? 1.0 / 1024
                                                   : 1.0 / 128;
    for (int64_t row = 0; row < shape.rows; row++) {
        const int64_t begin = row * shape.cols, end = begin + shape.cols;
        double squares = 0;
        for (int64_t i = begin; i < end; i++) {
            double r = residual_of(i) + get(t->dtype, t->sum, i);
            squares += r * r;
        }
        const double scale = 1 / sqrt(squares / (double)shape.cols + epsilon);
        for (int64_t i = begin; i < end; i++) {
            double expected = (residual_of(i) + get(t->dtype, t->sum, i)) * scale;
            expected *= weight_of(i - begin);
            double error = fabs(get(t->dtype, t->got, i) - expected);
            if (!(error <= tolerance * fabs(expected))) return false;
        }
    }
    return true;
}

static enum phx_status check_norm(struct phx_nccl_trial *t, enum phx_allreduce way,
                                  struct shape shape, struct phx_graph *graph)
{
    const struct phx_reduce_norm args = operands(t, way, shape);
    const int64_t n = shape.rows * shape.cols;
    bool right = true;
    for (int64_t col = 0; col < shape.cols; col++) t->floats[col] = weight_of(col);
    PHX_TRY(phx_tensor_upload(t->stream, args.weight, t->floats));
    for (int64_t i = 0; i < n; i++) t->floats[i] = residual_of(i);
    for (int round = 0; round < ROUNDS; round++) {
        PHX_TRY(phx_tensor_upload(t->stream, args.partial, t->parts[t->c->base.world->rank]));
        PHX_TRY(phx_tensor_upload(t->stream, args.residual, t->floats));
        PHX_TRY(graph != NULL ? phx_graph_launch(graph, t->stream)
                              : phx_nccl_reduce_norm(t->c, way, t->stream, &args));
        PHX_TRY(phx_tensor_download(t->stream, args.residual, t->got));
        PHX_TRY(wait(t, way));
        for (int64_t i = 0; i < n; i++)
            right = right && get(PHX_F32, t->got, i) == residual_of(i) + get(t->dtype, t->sum, i);
        PHX_TRY(phx_tensor_download(t->stream, args.out, t->got));
        PHX_TRY(phx_stream_synchronize(t->stream));
        right = right && norms_right(t, shape, args.epsilon);
    }
    judge(t, way, shape, graph != NULL, right);
    return PHX_OK;
}

typedef enum phx_status check_function(struct phx_nccl_trial *, enum phx_allreduce, struct shape,
                                       struct phx_graph *);

/* One by one, then from a graph. */
static enum phx_status check_both(struct phx_nccl_trial *t, enum phx_allreduce way,
                                  struct shape shape, bool norm)
{
    check_function *check = norm ? check_norm : check_sum;
    const struct phx_reduce_norm args = operands(t, way, shape);
    struct phx_graph *graph;
    PHX_TRY(check(t, way, shape, NULL));
    PHX_TRY(record(t, way, &args, norm, 1, &graph));
    enum phx_status status = check(t, way, shape, graph);
    phx_graph_destroy(graph);
    return status;
}

static enum phx_status check_shapes(struct phx_nccl_trial *t, enum phx_allreduce way)
{
    for (int s = 0; s < N_SHAPES; s++) {
        const struct shape shape = shapes[s];
        const int64_t n = shape.rows * shape.cols;
        const bool fused = way == PHX_ALLREDUCE_FUSED;
        if (phx_dtype_bytes(t->dtype, n) > t->x_bytes) continue;
        draw_values(t, n);
        if (!fused || phx_nccl_can_fuse_sum(t->c, t->dtype, n))
            PHX_TRY(check_both(t, way, shape, false));
        if (fused && phx_nccl_can_fuse_norm(t->c, t->dtype, shape.rows, shape.cols))
            PHX_TRY(check_both(t, way, shape, true));
    }
    return PHX_OK;
}

enum phx_status phx_nccl_trial_check(struct phx_nccl_trial *t, enum phx_allreduce way)
{
    t->verdict = PHX_OK;
    enum phx_status status = check_shapes(t, way);
    if (status != PHX_OK) end_waiting(t, way);
    return t->verdict != PHX_OK ? t->verdict : status;
}

/* ---- timing ---- */

static enum phx_status time_chain(struct phx_nccl_trial *t, enum phx_allreduce way,
                                  struct phx_graph *graph, double *out_us)
{
    float ms, least = INFINITY;
    for (int i = -1; i < REPEATS; i++) { /* the first warms up */
        PHX_TRY(phx_event_record(t->begin, t->stream));
        PHX_TRY(phx_graph_launch(graph, t->stream));
        PHX_TRY(phx_event_record(t->end, t->stream));
        PHX_TRY(wait(t, way));
        PHX_TRY(phx_event_elapsed_ms(t->begin, t->end, &ms));
        if (i >= 0 && ms < least) least = ms;
    }
    *out_us = (double)least * 1e3 / CHAIN;
    return PHX_OK;
}

enum phx_status phx_nccl_trial_time(struct phx_nccl_trial *t, enum phx_allreduce way, size_t bytes,
                                    double *out_us)
{
    const int64_t n = (int64_t)(bytes / phx_dtype_bytes(t->dtype, 1));
    const int64_t cols = n < COLS ? n : COLS;
    struct phx_reduce_norm args = operands(t, way, (struct shape){n / cols, cols});
    struct phx_graph *graph;
    *out_us = 0;
    if (way == PHX_ALLREDUCE_FUSED && !phx_nccl_can_fuse_norm(t->c, t->dtype, n / cols, cols))
        return PHX_OK;
    args.start = true;
    PHX_TRY(phx_buffer_zero(t->stream, args.partial.buffer, 0, t->x_bytes)); /* and so they stay */
    PHX_TRY(record(t, way, &args, true, CHAIN, &graph));
    enum phx_status status = time_chain(t, way, graph, out_us);
    phx_graph_destroy(graph);
    if (status != PHX_OK) end_waiting(t, way);
    return status;
}
