/* The fused kernels among 2 to 8 ranks that share one GPU: a stream and buffers each, and tables of
 * windows that are plain memory. Sums are held against the host's, bit by bit, norms against double
 * precision. Each rank gets so few blocks that those of all ranks run at once; whatever does not
 * come to an end is aborted and fails. Exit status 77 without a GPU: skipped. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "parallel/comm_nccl_fused.h"
#include "parallel/host_sum.h"
#include "tests/support/gpus.h"

enum {
    MAX_RANKS = PHX_LINES_MAX_RANKS,
    CAPACITY = 1 << 16, /* lines */
    MAX_VALUES = 1 << 18,
    PATIENCE_S = 10
};

struct rank {
    struct phx_stream *stream;
    struct phx_fused fused;
    struct phx_buffer *window, *state, *x, *residual, *weight, *out;
    struct phx_graph *graph;
};

static struct phx_device *device;
static struct rank ranks[MAX_RANKS];
static int n_sms;
static char *parts[MAX_RANKS], *sum, *got, *first_out; /* [MAX_VALUES] of any type */
static float *residual, *weight;

static cudaStream_t native(int r)
{
    return phx_cuda_stream_native(ranks[r].stream);
}

/* ---- ranks ---- */

static void open_rank(struct rank *r)
{
    void *host;
    const size_t bytes = MAX_VALUES * sizeof(float);
    assert_ok(phx_stream_create(device, &(struct phx_limits){0}, &r->stream));
    assert_ok(phx_buffer_create(device, phx_lines_window_bytes(MAX_RANKS, CAPACITY), &r->window));
    assert_ok(phx_buffer_create(device, sizeof(struct phx_fused_state), &r->state));
    assert_ok(phx_buffer_create(device, bytes, &r->x));
    assert_ok(phx_buffer_create(device, bytes, &r->residual));
    assert_ok(phx_buffer_create(device, bytes, &r->weight));
    assert_ok(phx_buffer_create(device, bytes, &r->out));
    assert_ok(phx_host_alloc(device, sizeof(struct phx_fused_host), &host));
    memset(host, 0, sizeof(struct phx_fused_host));
    r->fused.host = host;
    r->fused.state = phx_buffer_address(r->state);
}

static void close_rank(struct rank *r)
{
    phx_buffer_destroy(r->window);
    phx_buffer_destroy(r->state);
    phx_buffer_destroy(r->x);
    phx_buffer_destroy(r->residual);
    phx_buffer_destroy(r->weight);
    phx_buffer_destroy(r->out);
    phx_host_free(device, r->fused.host);
    phx_stream_destroy(r->stream);
}

/* `depth` kernels of each rank may be on the GPU at once. */
static void connect(int n_ranks, int depth, uint32_t epoch)
{
    bool starts_early;
    const struct phx_fused_state state = {.epoch = epoch};
    assert_ok(phx_fused_load(n_ranks, &starts_early));
    for (int r = 0; r < n_ranks; r++) {
        struct phx_fused *f = &ranks[r].fused;
        f->rank = r;
        f->n_ranks = n_ranks;
        f->capacity = CAPACITY;
        f->max_blocks = n_sms / (n_ranks * depth);
        f->starts_early = starts_early && depth > 1;
        for (int p = 0; p < n_ranks; p++) f->windows[p] = phx_buffer_address(ranks[p].window);
        assert_true(f->max_blocks > 0 && f->max_blocks * n_ranks * depth <= n_sms);
        assert_ok(phx_buffer_zero(ranks[r].stream, ranks[r].window, 0,
                                  phx_buffer_bytes(ranks[r].window)));
        assert_ok(phx_buffer_upload(ranks[r].stream, ranks[r].state, 0, sizeof state, &state,
                                    sizeof state, sizeof state, 1));
        f->host->position = 0;
        f->host->abort = 0;
        assert_ok(phx_stream_synchronize(ranks[r].stream));
    }
}

static bool is_done(int n_ranks)
{
    for (int r = 0; r < n_ranks; r++)
        if (cudaStreamQuery(native(r)) == cudaErrorNotReady) return false;
    return true;
}

static void abort_all(int n_ranks)
{
    for (int r = 0; r < n_ranks; r++)
        __atomic_store_n(&ranks[r].fused.host->abort, 1, __ATOMIC_RELAXED);
}

/* What was given to the streams comes to an end. */
static void finish(int n_ranks, const char *what)
{
    struct timespec now, since, moment = {.tv_nsec = 50000};
    clock_gettime(CLOCK_MONOTONIC, &since);
    now = since;
    while (!is_done(n_ranks) && now.tv_sec - since.tv_sec < PATIENCE_S) {
        nanosleep(&moment, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    const bool done = is_done(n_ranks);
    if (!done) abort_all(n_ranks);
    for (int r = 0; r < n_ranks; r++) assert_ok(phx_stream_synchronize(ranks[r].stream));
    if (!done) fail_msg("%s among %d ranks does not come to an end", what, n_ranks);
}

static void upload(int r, struct phx_buffer *to, size_t offset, const void *from, size_t bytes)
{
    assert_ok(phx_buffer_upload(ranks[r].stream, to, offset, bytes, from, bytes, bytes, 1));
    assert_ok(phx_stream_synchronize(ranks[r].stream));
}

static void download(int r, struct phx_buffer *from, size_t offset, void *to, size_t bytes)
{
    assert_ok(phx_buffer_download(ranks[r].stream, from, offset, bytes, to, bytes, bytes, 1));
    assert_ok(phx_stream_synchronize(ranks[r].stream));
}

/* ---- values ---- */

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

/* Their sum depends on the order in which they are added. */
static float uneven(int rank, int64_t i)
{
    uint64_t bits = phx_mix64((uint64_t)rank << 56 ^ (uint64_t)i);
    return ((float)(bits >> 40) / 8388608.0f - 1) * (float)(1 << (bits & 7));
}

static void draw_parts(enum phx_dtype dtype, int n_ranks, int64_t n)
{
    const struct phx_host_parts all = {dtype, n_ranks, parts};
    for (int r = 0; r < n_ranks; r++)
        for (int64_t i = 0; i < n; i++) put(dtype, parts[r], i, uneven(r, i));
    phx_host_sum(&all, 0, n, sum);
}

/* ---- sums ---- */

static const enum phx_dtype types[] = {PHX_F32, PHX_F16, PHX_BF16};

/* `skip` values into the buffer; each rank's x must not reach past its end. */
static void check_sum(int n_ranks, enum phx_dtype dtype, int64_t n, int64_t skip)
{
    const size_t offset = phx_dtype_bytes(dtype, skip), bytes = phx_dtype_bytes(dtype, n);
    const uint32_t guard = 0x7e57ab1e;
    uint32_t after;
    draw_parts(dtype, n_ranks, n);
    for (int r = 0; r < n_ranks; r++) {
        upload(r, ranks[r].x, offset, parts[r], bytes);
        upload(r, ranks[r].x, offset + bytes, &guard, sizeof guard);
    }
    for (int r = 0; r < n_ranks; r++)
        assert_ok(phx_fused_all_reduce(&ranks[r].fused, native(r), dtype,
                                       (char *)phx_buffer_address(ranks[r].x) + offset, n));
    finish(n_ranks, "a sum");
    for (int r = 0; r < n_ranks; r++) {
        download(r, ranks[r].x, offset, got, bytes);
        download(r, ranks[r].x, offset + bytes, &after, sizeof after);
        if (memcmp(got, sum, bytes) != 0 || after != guard)
            fail_msg("rank %d of %d: the sum of %lld values of type %d is wrong", r, n_ranks,
                     (long long)n, (int)dtype);
    }
}

static void test_sums(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 255, 1024, 4097, 70001, 131072};
    for (int n_ranks = 1; n_ranks <= MAX_RANKS; n_ranks++) {
        connect(n_ranks, 1, 0);
        for (int t = 0; t < 3; t++)
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
                check_sum(n_ranks, types[t], sizes[s], s % 3 == 2 ? 1 : 0);
    }
}

/* All lines lie there as if written 2^32 sums ago. Small sums do not touch most of them, and the
 * one whose flag they have is large. Ranks begin one after the other: there is time to take the old
 * data for new. */
static void test_epochs_repeat(void **state)
{
    (void)state;
    enum { SUMS = 8, LARGE = 6, FLAG = 5, WINDOW_WORDS = 4 * 2 * MAX_RANKS * CAPACITY };
    uint32_t *old = malloc(WINDOW_WORDS * sizeof *old);
    assert_non_null(old);
    for (int i = 0; i < WINDOW_WORDS; i++) old[i] = i % 2 == 0 ? 0xdead : FLAG;
    for (int n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks += 3) {
        struct phx_fused_state after;
        connect(n_ranks, 1, UINT32_MAX - 3);
        for (int r = 0; r < n_ranks; r++)
            upload(r, ranks[r].window, 0, old, WINDOW_WORDS * sizeof *old);
        for (int i = 0; i < SUMS; i++) { /* epochs MAX - 2, MAX - 1, MAX, 2, ... 6 */
            check_sum(n_ranks, PHX_BF16, i == LARGE ? 70001 : 10, 0);
            download(0, ranks[0].state, 0, &after, sizeof after);
            assert_int_equal(after.epoch == FLAG, i == LARGE);
        }
    }
    free(old);
}

enum { CHAIN = 5, REPLAYS = 7 };

static float start_of(int64_t i)
{
    return (float)(i % 7 - 3);
}

static void start_chain(int n_ranks, int64_t n)
{
    for (int64_t i = 0; i < n; i++) put(PHX_F32, parts[0], i, start_of(i));
    for (int r = 0; r < n_ranks; r++) upload(r, ranks[r].x, 0, parts[0], (size_t)n * sizeof(float));
}

static void add_to_chain(int r, int64_t n)
{
    assert_ok(phx_fused_all_reduce(&ranks[r].fused, native(r), PHX_F32,
                                   phx_buffer_address(ranks[r].x), n));
}

/* Whole numbers, added again and again: all values have become `times` as large. */
static void finish_chain(int n_ranks, int64_t n, float times)
{
    finish(n_ranks, "a chain");
    for (int r = 0; r < n_ranks; r++) {
        download(r, ranks[r].x, 0, got, (size_t)n * sizeof(float));
        for (int64_t i = 0; i < n; i++)
            if (get(PHX_F32, got, i) != start_of(i) * times)
                fail_msg("rank %d of %d: value %lld of a chain is wrong", r, n_ranks, (long long)i);
    }
}

/* Sums follow each other without a stop in between. */
static void check_chain(int n_ranks, int64_t n)
{
    const float times = (float)pow(n_ranks, CHAIN);
    start_chain(n_ranks, n);
    for (int i = 0; i < CHAIN; i++)
        for (int r = 0; r < n_ranks; r++) add_to_chain(r, n);
    finish_chain(n_ranks, n, times);
    for (int r = 0; r < n_ranks; r++) {
        assert_ok(phx_graph_begin(ranks[r].stream));
        for (int i = 0; i < CHAIN; i++) add_to_chain(r, n);
        assert_ok(phx_graph_end(ranks[r].stream, &ranks[r].graph));
    }
    for (int replay = 0; replay < REPLAYS; replay++) {
        start_chain(n_ranks, n);
        for (int r = 0; r < n_ranks; r++)
            assert_ok(phx_graph_launch(ranks[r].graph, ranks[r].stream));
        finish_chain(n_ranks, n, times);
    }
    for (int r = 0; r < n_ranks; r++) phx_graph_destroy(ranks[r].graph);
}

static void test_chains(void **state)
{
    (void)state;
    for (int n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks++)
        for (int depth = 1; depth <= 2; depth++) {
            connect(n_ranks, depth, 0);
            check_chain(n_ranks, 1500);
            check_chain(n_ranks, 40000);
        }
}

/* ---- norms ---- */

struct shape {
    int64_t rows, cols, gap; /* of values between rows of the residual and the output */
};

static struct phx_fused_norm norm_of(int r, enum phx_dtype dtype, struct shape s, bool start)
{
    return (struct phx_fused_norm){
        .dtype = dtype,
        .partial = phx_buffer_address(ranks[r].x),
        .residual = phx_buffer_address(ranks[r].residual),
        .weight = phx_buffer_address(ranks[r].weight),
        .out = phx_buffer_address(ranks[r].out),
        .rows = s.rows,
        .residual_stride = s.cols + s.gap,
        .out_stride = s.cols + s.gap,
        .cols = (int32_t)s.cols,
        .start = start,
        .epsilon = 1e-5f,
    };
}

/* Of row `row`, whose values begin at `at` in what was downloaded. */
static void check_row(enum phx_dtype dtype, struct shape s, int64_t row, const float *old)
{
    const double tolerance = dtype == PHX_F32 ? 2e-6 : dtype == PHX_F16 ? 6e-4 : 5e-3;
    const int64_t at = row * (s.cols + s.gap);
    double squares = 0;
    for (int64_t c = 0; c < s.cols; c++) squares += (double)old[c] * old[c];
    const double scale = 1 / sqrt(squares / (double)s.cols + 1e-5);
    for (int64_t c = 0; c < s.cols; c++) {
        const double expected = old[c] * scale * weight[c];
        const double error = fabs(get(dtype, got, at + c) - expected);
        if (!(error <= tolerance * fabs(expected) + 1e-6))
            fail_msg("row %lld of %lld x %lld: out[%lld] = %g, expected %g", (long long)row,
                     (long long)s.rows, (long long)s.cols, (long long)c,
                     (double)get(dtype, got, at + c), expected);
    }
}

static void check_norm(int n_ranks, enum phx_dtype dtype, struct shape s, bool start)
{
    const int64_t n = s.rows * s.cols, stride = s.cols + s.gap, span = s.rows * stride;
    const size_t out_bytes = phx_dtype_bytes(dtype, span);
    static float expected[MAX_VALUES], gotten[MAX_VALUES];
    draw_parts(dtype, n_ranks, n);
    for (int64_t i = 0; i < span; i++) residual[i] = uneven(11, i);
    for (int64_t c = 0; c < s.cols; c++) weight[c] = 1 + uneven(12, c) / 256;
    memset(got, 0x3c, out_bytes);
    for (int r = 0; r < n_ranks; r++) {
        upload(r, ranks[r].x, 0, parts[r], phx_dtype_bytes(dtype, n));
        upload(r, ranks[r].residual, 0, residual, (size_t)span * sizeof(float));
        upload(r, ranks[r].weight, 0, weight, (size_t)s.cols * sizeof(float));
        upload(r, ranks[r].out, 0, got, out_bytes);
    }
    for (int r = 0; r < n_ranks; r++) {
        const struct phx_fused_norm norm = norm_of(r, dtype, s, start);
        assert_ok(phx_fused_reduce_norm(&ranks[r].fused, native(r), &norm));
    }
    finish(n_ranks, "a norm");
    memcpy(expected, residual, (size_t)span * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        float *to = &expected[i / s.cols * stride + i % s.cols];
        *to = (start ? 0 : *to) + get(dtype, sum, i);
    }
    for (int r = 0; r < n_ranks; r++) {
        download(r, ranks[r].residual, 0, gotten, (size_t)span * sizeof(float));
        assert_memory_equal(gotten, expected, (size_t)span * sizeof(float));
        download(r, ranks[r].out, 0, got, out_bytes);
        if (r == 0) memcpy(first_out, got, out_bytes);
        assert_memory_equal(got, first_out, out_bytes);
        for (int64_t row = 0; row < s.rows && r == 0; row++) {
            check_row(dtype, s, row, expected + row * stride);
            for (size_t i = phx_dtype_bytes(dtype, row * stride + s.cols);
                 i < phx_dtype_bytes(dtype, (row + 1) * stride); i++)
                assert_int_equal(got[i], 0x3c);
        }
    }
}

static void test_norms(void **state)
{
    (void)state;
    static const struct shape shapes[] = {{1, 1, 0},    {3, 335, 5},  {1, 4096, 0}, {2, 4096, 8},
                                          {5, 5120, 4}, {7, 1000, 3}, {150, 64, 0}, {150, 67, 1},
                                          {1, 8192, 0}, {3, 7168, 0}, {2, 8188, 2}, {9, 36, 4},
                                          {30, 4096, 0}};
    for (int n_ranks = 1; n_ranks <= MAX_RANKS; n_ranks++) {
        connect(n_ranks, 1, 0);
        for (int t = 0; t < 3; t++) {
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                check_norm(n_ranks, types[t], shapes[s], s % 2 != 0);
            if (types[t] != PHX_F32) {
                check_norm(n_ranks, types[t], (struct shape){2, 16384, 0}, false);
                check_norm(n_ranks, types[t], (struct shape){3, 12289, 1}, false);
            }
        }
    }
    /* The last epochs clear what a norm has read too. */
    connect(3, 1, UINT32_MAX - 3);
    for (int i = 0; i < 7; i++)
        check_norm(3, PHX_BF16, (struct shape){i % 2 == 0 ? 150 : 3, 335, 1}, false);
}

/* ---- positions, and the end of waiting ---- */

static void test_positions(void **state)
{
    (void)state;
    const struct phx_fused_norm norm = norm_of(0, PHX_F32, (struct shape){300, 8, 0}, true);
    connect(1, 1, 0);
    for (uint32_t step = 1; step < 4; step++) {
        assert_ok(phx_fused_mark(&ranks[0].fused, native(0), true));
        for (uint32_t i = 1; i < 4 + step; i++) {
            if (i % 3 == 0) assert_ok(phx_fused_mark(&ranks[0].fused, native(0), false));
            if (i % 3 == 1) assert_ok(phx_fused_reduce_norm(&ranks[0].fused, native(0), &norm));
            if (i % 3 == 2)
                assert_ok(phx_fused_all_reduce(&ranks[0].fused, native(0), PHX_F32,
                                               phx_buffer_address(ranks[0].x), 5000));
            finish(1, "a sum of one rank");
            assert_int_equal(ranks[0].fused.host->position, (uint64_t)step << 32 | i);
        }
    }
}

/* One rank is missing: the others wait until they are told not to, in that sum and all after it. */
static void test_abort(void **state)
{
    (void)state;
    const struct timespec while_ = {.tv_nsec = 200000000};
    struct phx_fused_state after;
    const int n_ranks = 3;
    connect(n_ranks, 1, 0);
    for (int i = 0; i < 4; i++)
        for (int r = 0; r < n_ranks - 1; r++) {
            const struct phx_fused_norm norm =
                norm_of(r, PHX_BF16, (struct shape){5, 4096, 0}, true);
            assert_ok(phx_fused_reduce_norm(&ranks[r].fused, native(r), &norm));
            assert_ok(phx_fused_all_reduce(&ranks[r].fused, native(r), PHX_F32,
                                           phx_buffer_address(ranks[r].x), 5000));
        }
    nanosleep(&while_, NULL);
    for (int r = 0; r < n_ranks - 1; r++) {
        assert_int_equal(cudaStreamQuery(native(r)), cudaErrorNotReady);
        assert_int_equal(ranks[r].fused.host->position, 1); /* where it waits */
    }
    abort_all(n_ranks);
    finish(n_ranks, "an aborted sum");
    download(0, ranks[0].state, 0, &after, sizeof after);
    assert_int_equal(after.given_up, 1);
    assert_int_equal(after.n_begun, 8);
}

/* ---- all ---- */

static int open_all(void **state)
{
    (void)state;
    const size_t bytes = MAX_VALUES * sizeof(float);
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    options.compute = PHX_BF16;
    assert_ok(phx_device_create(&options, &device));
    assert_int_equal(cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, 0), 0);
    for (int r = 0; r < MAX_RANKS; r++) {
        open_rank(&ranks[r]);
        parts[r] = malloc(bytes);
    }
    sum = malloc(bytes);
    got = malloc(bytes);
    first_out = malloc(bytes);
    residual = malloc(bytes);
    weight = malloc(bytes);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    for (int r = 0; r < MAX_RANKS; r++) {
        close_rank(&ranks[r]);
        free(parts[r]);
    }
    phx_device_destroy(device);
    free(sum);
    free(got);
    free(first_out);
    free(residual);
    free(weight);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions),     cmocka_unit_test(test_sums),
        cmocka_unit_test(test_epochs_repeat), cmocka_unit_test(test_chains),
        cmocka_unit_test(test_norms),         cmocka_unit_test(test_abort),
    };
    /* Streams that share a connection to the GPU would wait for each other. */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
    if (test_count_gpus() == 0) return TEST_SKIPPED;
    return cmocka_run_group_tests_name("fused", tests, open_all, close_all);
}
