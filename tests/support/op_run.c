#include "tests/support/op_run.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/* As an i32 the pattern is a large positive number: an index that nothing can have. */
enum { GUARD_BYTES = 256, PATTERN = 0x5a };

void *op_alloc(int64_t n, size_t bytes)
{
    void *memory = calloc(n > 0 ? (size_t)n : 1, bytes);
    PHX_ASSERT(memory != NULL);
    return memory;
}

static void must(enum phx_status status)
{
    if (status != PHX_OK) fprintf(stderr, "%s\n", phx_fail_sentence());
    PHX_ASSERT(status == PHX_OK);
}

void op_fail(struct op_run *run, const char *format, ...)
{
    if (run->result->failure[0] != '\0') return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(run->result->failure, sizeof run->result->failure, format, arguments);
    va_end(arguments);
}

void op_run_open(struct op_run *run, struct phx_device *device, const struct phx_limits *limits,
                 uint64_t seed, struct op_result *result)
{
    *run = (struct op_run){.device = device, .random = seed, .result = result};
    *result = (struct op_result){.hash = 0xcbf29ce484222325u};
    phx_device_info(device, &run->info);
    must(phx_stream_create(device, limits, &run->stream));
}

/* ---- random numbers ---- */

/* xorshift64*, Vigna 2014. */
static uint64_t next(struct op_run *run)
{
    if (run->random == 0) run->random = 88172645463325252u;
    run->random ^= run->random >> 12;
    run->random ^= run->random << 25;
    run->random ^= run->random >> 27;
    return run->random * 0x2545f4914f6cdd1du;
}

double op_uniform(struct op_run *run)
{
    return (double)(next(run) >> 11) * 0x1p-53;
}

int64_t op_below(struct op_run *run, int64_t n)
{
    return (int64_t)(op_uniform(run) * (double)n);
}

double op_normal(struct op_run *run)
{
    double u = 1 - op_uniform(run), v = op_uniform(run);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

int32_t *op_shuffled(struct op_run *run, int32_t n)
{
    int32_t *order = op_alloc(n, sizeof *order);
    for (int32_t i = 0; i < n; i++) {
        int64_t j = op_below(run, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

/* ---- operands ---- */

static void put(enum phx_dtype dtype, void *to, int64_t i, double value)
{
    switch (dtype) {
    case PHX_F32:
        ((float *)to)[i] = (float)value;
        break;
    case PHX_F16:
        ((uint16_t *)to)[i] = phx_f16_from_f32((float)value);
        break;
    case PHX_BF16:
        ((uint16_t *)to)[i] = phx_bf16_from_f32((float)value);
        break;
    case PHX_I32:
        ((int32_t *)to)[i] = (int32_t)value;
        break;
    case PHX_U16:
        ((uint16_t *)to)[i] = (uint16_t)value;
        break;
    default:
        PHX_ASSERT(dtype == PHX_U8);
        ((unsigned char *)to)[i] = (unsigned char)value;
    }
}

static double get(enum phx_dtype dtype, const void *from, int64_t i)
{
    switch (dtype) {
    case PHX_F32:
        return ((const float *)from)[i];
    case PHX_F16:
        return phx_f32_from_f16(((const uint16_t *)from)[i]);
    case PHX_BF16:
        return phx_f32_from_bf16(((const uint16_t *)from)[i]);
    case PHX_I32:
        return ((const int32_t *)from)[i];
    case PHX_U16:
        return ((const uint16_t *)from)[i];
    default:
        PHX_ASSERT(dtype == PHX_U8);
        return ((const unsigned char *)from)[i];
    }
}

/* The image of an operand, all pattern; values follow. */
static struct operand *reserve(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                               int64_t gap)
{
    PHX_ASSERT(run->n_operands < (int)(sizeof run->operands / sizeof *run->operands));
    struct operand *o = &run->operands[run->n_operands++];
    size_t bytes = 2 * (size_t)GUARD_BYTES + phx_dtype_bytes(dtype, rows * (cols + gap));
    o->image = op_alloc((int64_t)bytes, 1);
    memset(o->image, PATTERN, bytes);
    must(phx_buffer_create(run->device, bytes, &o->buffer));
    o->view = (struct phx_tensor){o->buffer, GUARD_BYTES, dtype, rows, cols, cols + gap};
    return o;
}

static void upload(struct op_run *run, struct operand *o)
{
    size_t bytes = phx_buffer_bytes(o->buffer);
    must(phx_buffer_upload(run->stream, o->buffer, 0, bytes, o->image, bytes, bytes, 1));
}

static void *image_row(const struct operand *o, int64_t row)
{
    return o->image + GUARD_BYTES + phx_dtype_bytes(o->view.dtype, row * o->view.stride);
}

struct operand *op_values(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                          int64_t gap, const double *values)
{
    struct operand *o = reserve(run, dtype, rows, cols, gap);
    o->values = op_alloc(rows * cols, sizeof *o->values);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            put(dtype, image_row(o, r), c, values[r * cols + c]);
            o->values[r * cols + c] = get(dtype, image_row(o, r), c);
        }
    }
    upload(run, o);
    return o;
}

struct operand *op_ints(struct op_run *run, int64_t rows, int64_t cols, const int32_t *values)
{
    double *wide = op_alloc(rows * cols, sizeof *wide);
    for (int64_t i = 0; i < rows * cols; i++) wide[i] = values[i];
    struct operand *o = op_values(run, PHX_I32, rows, cols, 0, wide);
    free(wide);
    return o;
}

/* Six standard errors: a wrong generator or rounding, never bad luck. */
static void check_moments(struct op_run *run, const double *values, int64_t n, double mean,
                          double deviation)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += values[i];
    for (int64_t i = 0; i < n; i++) squares += (values[i] - mean) * (values[i] - mean);
    double variance = deviation * deviation, root = sqrt((double)n);
    double rounding = fabs(mean) / 256 + deviation / 256;
    if (fabs(sum / (double)n - mean) > 6 * deviation / root + rounding)
        op_fail(run, "random input: mean %g, not %g", sum / (double)n, mean);
    if (fabs(squares / (double)n - variance) > 6 * 1.5 * variance / root + 2 * deviation * rounding)
        op_fail(run, "random input: variance %g, not %g", squares / (double)n, variance);
}

struct operand *op_random(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                          int64_t gap, double mean, double deviation)
{
    double *values = op_alloc(rows * cols, sizeof *values);
    for (int64_t i = 0; i < rows * cols; i++) values[i] = mean + deviation * op_normal(run);
    struct operand *o = op_values(run, dtype, rows, cols, gap, values);
    check_moments(run, o->values, rows * cols, mean, deviation);
    free(values);
    return o;
}

struct operand *op_output(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                          int64_t gap)
{
    struct operand *o = reserve(run, dtype, rows, cols, gap);
    upload(run, o);
    return o;
}

struct operand *op_bytes(struct op_run *run, int64_t rows, int64_t bytes, const void *from)
{
    struct operand *o = reserve(run, PHX_U8, rows, bytes, 0);
    if (from != NULL) memcpy(image_row(o, 0), from, (size_t)(rows * bytes));
    upload(run, o);
    return o;
}

double *op_weight(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                  double deviation)
{
    struct phx_weight_shape shape = {.dtype = dtype, .rows = rows, .cols = cols};
    float *values = op_alloc(rows * cols, sizeof *values);
    double *stored = op_alloc(rows * cols, sizeof *stored);
    for (int64_t i = 0; i < rows * cols; i++) values[i] = (float)(deviation * op_normal(run));
    must(phx_weight_create(run->device, &shape, &run->weight));
    must(phx_weight_write(run->stream, run->weight, 0, rows, PHX_F32, values,
                          (size_t)cols * sizeof *values));
    for (int64_t i = 0; i < rows * cols; i++) {
        float one;
        put(dtype, &one, 0, values[i]);
        stored[i] = get(dtype, &one, 0);
    }
    check_moments(run, stored, rows * cols, 0, deviation);
    free(values);
    return stored;
}

/* FNV-1a. */
static void hash(struct op_run *run, const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        run->result->hash = (run->result->hash ^ bytes[i]) * 0x100000001b3u;
}

void op_download_bytes(struct op_run *run, const struct operand *o, void *to)
{
    must(phx_tensor_download(run->stream, o->view, to));
    must(phx_stream_synchronize(run->stream));
    hash(run, to, phx_dtype_bytes(o->view.dtype, o->view.rows * o->view.cols));
}

double *op_download(struct op_run *run, const struct operand *o)
{
    int64_t n = o->view.rows * o->view.cols;
    void *raw = op_alloc(1, phx_dtype_bytes(o->view.dtype, n) + 1);
    double *values = op_alloc(n, sizeof *values);
    op_download_bytes(run, o, raw);
    for (int64_t i = 0; i < n; i++) values[i] = get(o->view.dtype, raw, i);
    free(raw);
    return values;
}

/* ---- judging ---- */

void op_compare(struct op_run *run, const char *what, const struct operand *o,
                const double *expected, double tolerance)
{
    const int64_t n = o->view.rows * o->view.cols;
    double low = INFINITY, high = -INFINITY, worst = 0, squares = 0, error_squares = 0;
    int64_t worst_at = 0;
    double *got = op_download(run, o);
    for (int64_t i = 0; i < n; i++) {
        double error = fabs(got[i] - expected[i]);
        if (isnan(expected[i])) continue;
        if (isinf(expected[i])) {
            if (got[i] != expected[i])
                op_fail(run, "%s[%ld] = %g, not %g", what, (long)i, got[i], expected[i]);
            continue;
        }
        if (isnan(error)) error = INFINITY;
        if (error > worst) {
            worst = error;
            worst_at = i;
        }
        low = fmin(low, expected[i]);
        high = fmax(high, expected[i]);
        squares += expected[i] * expected[i];
        error_squares += error * error;
    }
    double range = fmax(high - low, fmax(fabs(high), fabs(low)));
    if (worst > 0) {
        worst /= range > 0 && isfinite(range) ? range : 1;
        run->result->error = fmax(run->result->error, worst);
        run->result->nmse = fmax(run->result->nmse, error_squares / fmax(squares, 1e-300));
    }
    if (!(worst <= tolerance))
        op_fail(run, "%s[%ld, %ld] = %.9g, not %.9g: error %.2e of the range", what,
                (long)(worst_at / o->view.cols), (long)(worst_at % o->view.cols), got[worst_at],
                expected[worst_at], worst);
    free(got);
}

void op_unchanged(struct op_run *run, const char *what, const struct operand *o)
{
    size_t bytes = phx_buffer_bytes(o->buffer);
    unsigned char *now = op_alloc((int64_t)bytes, 1);
    must(phx_buffer_download(run->stream, o->buffer, 0, bytes, now, bytes, bytes, 1));
    must(phx_stream_synchronize(run->stream));
    if (memcmp(now, o->image, bytes) != 0) op_fail(run, "%s was written to", what);
    free(now);
}

void op_row_unchanged(struct op_run *run, const char *what, const struct operand *o, int64_t row)
{
    const size_t bytes = phx_dtype_bytes(o->view.dtype, o->view.cols);
    unsigned char *now = op_alloc((int64_t)bytes, 1);
    must(phx_tensor_download(run->stream, phx_tensor_rows(o->view, row, 1), now));
    must(phx_stream_synchronize(run->stream));
    if (memcmp(now, image_row(o, row), bytes) != 0)
        op_fail(run, "row %ld of %s was written to", (long)row, what);
    free(now);
}

/* Everything around and between the rows. */
static void check_guards(struct op_run *run, int index)
{
    const struct operand *o = &run->operands[index];
    const size_t bytes = phx_buffer_bytes(o->buffer);
    const size_t pitch = phx_dtype_bytes(o->view.dtype, o->view.stride);
    const size_t row_bytes = phx_dtype_bytes(o->view.dtype, o->view.cols);
    unsigned char *now = op_alloc((int64_t)bytes, 1);
    must(phx_buffer_download(run->stream, o->buffer, 0, bytes, now, bytes, bytes, 1));
    must(phx_stream_synchronize(run->stream));
    for (size_t i = 0; i < bytes; i++) {
        bool inside = i >= GUARD_BYTES && i < bytes - GUARD_BYTES && pitch > 0 &&
                      (i - GUARD_BYTES) % pitch < row_bytes;
        if (inside || now[i] == PATTERN) continue;
        op_fail(run, "operand %d: byte %ld outside its view was written", index,
                (long)i - GUARD_BYTES);
        break;
    }
    free(now);
}

void op_run_close(struct op_run *run)
{
    for (int i = 0; i < run->n_operands; i++) {
        check_guards(run, i);
        phx_buffer_destroy(run->operands[i].buffer);
        free(run->operands[i].image);
        free(run->operands[i].values);
    }
    phx_weight_destroy(run->weight);
    phx_stream_destroy(run->stream);
}

/* ---- launching ---- */

/* Of all operands one behind the other, each aligned. */
static size_t aligned_bytes(const struct operand *o)
{
    return (phx_buffer_bytes(o->buffer) + 15) & ~(size_t)15;
}

static size_t all_bytes(const struct op_run *run)
{
    size_t bytes = 0;
    for (int i = 0; i < run->n_operands; i++) bytes += aligned_bytes(&run->operands[i]);
    return bytes;
}

static void save(struct op_run *run, unsigned char *to)
{
    for (int i = 0; i < run->n_operands; i++) {
        const struct phx_buffer *buffer = run->operands[i].buffer;
        const size_t bytes = phx_buffer_bytes(buffer);
        must(phx_buffer_download(run->stream, buffer, 0, bytes, to, bytes, bytes, 1));
        to += aligned_bytes(&run->operands[i]);
    }
    must(phx_stream_synchronize(run->stream));
}

static void restore(struct op_run *run, const unsigned char *from)
{
    for (int i = 0; i < run->n_operands; i++) {
        struct phx_buffer *buffer = run->operands[i].buffer;
        const size_t bytes = phx_buffer_bytes(buffer);
        must(phx_buffer_upload(run->stream, buffer, 0, bytes, from, bytes, bytes, 1));
        from += aligned_bytes(&run->operands[i]);
    }
}

/* Minus half of every float: other numbers of the same kind. */
static void change(const struct op_run *run, unsigned char *all)
{
    for (int i = 0; i < run->n_operands; i++) {
        const struct operand *o = &run->operands[i];
        const struct phx_tensor *view = &o->view;
        for (int64_t r = 0; phx_dtype_traits(view->dtype)->is_float && r < view->rows; r++) {
            unsigned char *row = all + ((unsigned char *)image_row(o, r) - o->image);
            for (int64_t c = 0; c < view->cols; c++)
                put(view->dtype, row, c, -0.5 * get(view->dtype, row, c));
        }
        all += aligned_bytes(o);
    }
}

static void launch_recorded(struct op_run *run, op_launch *launch, const void *args)
{
    enum { REPLAYS = 4 };
    const size_t bytes = all_bytes(run);
    unsigned char *all = op_alloc(5, bytes), *got = all + 4 * bytes;
    unsigned char *inputs[2] = {all, all + bytes},
                  *expected[2] = {all + 2 * bytes, all + 3 * bytes};
    struct phx_graph *graph;
    save(run, inputs[0]);
    memcpy(inputs[1], inputs[0], bytes);
    change(run, inputs[1]);
    for (int i = 0; i < 2; i++) {
        restore(run, inputs[i]);
        must(launch(run->stream, args));
        save(run, expected[i]);
    }
    must(phx_graph_begin(run->stream));
    must(launch(run->stream, args));
    must(phx_graph_end(run->stream, &graph));
    for (int replay = REPLAYS - 1; replay >= 0; replay--) { /* the last one on what there was */
        restore(run, inputs[replay % 2]);
        must(phx_graph_launch(graph, run->stream));
        save(run, got);
        if (memcmp(got, expected[replay % 2], bytes) != 0)
            op_fail(run, "a graph, replayed on %s inputs, gives other bits than the launch",
                    replay % 2 == 0 ? "its own" : "other");
    }
    phx_graph_destroy(graph);
    free(all);
}

void op_launch_once(struct op_run *run, op_launch *launch, const void *args)
{
    if (run->recorded) {
        launch_recorded(run, launch, args);
        return;
    }
    must(launch(run->stream, args));
    must(phx_stream_synchronize(run->stream));
}

void op_launch_timed(struct op_run *run, op_launch *launch, const void *args, int n)
{
    struct phx_event *begin, *end;
    float ms;
    if (n == 0) return;
    PHX_ASSERT(!run->recorded);
    must(phx_event_create(run->device, &begin));
    must(phx_event_create(run->device, &end));
    op_launch_once(run, launch, args);
    must(phx_event_record(begin, run->stream));
    for (int i = 0; i < n; i++) must(launch(run->stream, args));
    must(phx_event_record(end, run->stream));
    must(phx_event_wait(end));
    must(phx_event_elapsed_ms(begin, end, &ms));
    run->result->seconds = ms / 1e3 / n;
    phx_event_destroy(begin);
    phx_event_destroy(end);
}
