/* NCCL over ranks as threads, one for each GPU of this machine: sums that are exact in every type,
 * gathers of unequal shares, both of them also from a recorded graph. Exit status 77 without a
 * GPU: skipped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/comm.h"
#include "parallel/world_threads.h"
#include "tests/parallel/rank_check.h"
#include "tests/support/check.h"
#include "tests/support/gpus.h"

enum { MAX_SIZE = 8, MAX_BYTES = 1 << 20 };

struct bench {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_comm *comm;
};

static enum phx_status bench_open(struct bench *bench, struct phx_world *world)
{
    struct phx_device_options device = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_limits limits = {.max_rows = 64, .max_in = 600, .max_out = 600};
    struct phx_comm_options options = {.kind = PHX_COMM_NCCL,
                                       .allreduce = PHX_ALLREDUCE_NCCL,
                                       .max_reduce_bytes = MAX_BYTES,
                                       .max_gather_bytes = MAX_BYTES};
    device.ordinal = world->rank;
    device.compute = PHX_BF16;
    memset(bench, 0, sizeof *bench);
    PHX_TRY(phx_device_create(&device, &bench->device));
    PHX_TRY(phx_stream_create(bench->device, &limits, &bench->stream));
    return phx_comm_create(world, bench->device, &options, &bench->comm);
}

static void bench_close(struct bench *bench, enum phx_status status)
{
    if (status == PHX_OK) phx_comm_finish(bench->comm);
    phx_comm_destroy(bench->comm);
    phx_stream_destroy(bench->stream);
    phx_device_destroy(bench->device);
}

static void put(enum phx_dtype dtype, void *to, int64_t i, float value)
{
    if (dtype == PHX_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] = dtype == PHX_F16 ? phx_f16_from_f32(value) : phx_bf16_from_f32(value);
}

/* Whole numbers: their sums over 8 ranks are exact in bf16. */
static float value_of(int rank, int64_t i)
{
    return (float)((int64_t)(phx_mix64((uint64_t)rank << 40 ^ (uint64_t)i) % 31) - 15);
}

static float sum_of(int size, int64_t i)
{
    float sum = 0;
    for (int r = 0; r < size; r++) sum += value_of(r, i);
    return sum;
}

/* ---- sums ---- */

static enum phx_status check_sum(struct phx_world *world, struct bench *bench,
                                 struct phx_buffer *buffer, enum phx_dtype dtype, int64_t rows,
                                 int64_t cols, bool from_graph)
{
    struct phx_tensor x = phx_tensor_view(buffer, 0, dtype, rows, cols);
    size_t bytes = phx_tensor_span_bytes(x);
    char *given = malloc(bytes), *expected = malloc(bytes), *got = malloc(bytes);
    struct phx_graph *graph = NULL;
    for (int64_t i = 0; i < rows * cols; i++) {
        put(dtype, given, i, value_of(world->rank, i));
        put(dtype, expected, i, sum_of(world->size, i));
    }
    if (from_graph) {
        PHX_TRY(phx_graph_begin(bench->stream));
        PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
        PHX_TRY(phx_graph_end(bench->stream, &graph));
    }
    for (int round = 0; round < 3; round++) {
        PHX_TRY(phx_tensor_upload(bench->stream, x, given));
        if (from_graph)
            PHX_TRY(phx_graph_launch(graph, bench->stream));
        else
            PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
        PHX_TRY(phx_tensor_download(bench->stream, x, got));
        PHX_TRY(phx_stream_synchronize(bench->stream));
        RANK_CHECK(memcmp(got, expected, bytes) == 0);
    }
    phx_graph_destroy(graph);
    free(given);
    free(expected);
    free(got);
    return PHX_OK;
}

static enum phx_status sums(struct phx_world *world, struct bench *bench)
{
    static const enum phx_dtype types[] = {PHX_F32, PHX_F16, PHX_BF16};
    struct phx_buffer *buffer;
    PHX_TRY(phx_comm_buffer(bench->comm, MAX_BYTES, &buffer));
    for (int t = 0; t < 6; t++) {
        PHX_TRY(check_sum(world, bench, buffer, types[t / 2], 1, 2, t % 2 != 0));
        PHX_TRY(check_sum(world, bench, buffer, types[t / 2], 3, 335, t % 2 != 0));
        PHX_TRY(check_sum(world, bench, buffer, types[t / 2], 64, 4096, t % 2 != 0));
    }
    return PHX_OK;
}

/* ---- gathers ---- */

static enum phx_status check_gather(struct phx_world *world, struct bench *bench, int64_t rows,
                                    int64_t least, bool from_graph)
{
    int64_t begin[MAX_SIZE + 1] = {0};
    const int size = world->size;
    for (int r = 0; r < size; r++) begin[r + 1] = begin[r] + least + r * 7 % 5;
    const int64_t own = begin[world->rank + 1] - begin[world->rank], cols = begin[size], gap = 5;
    struct phx_buffer *buffer;
    const size_t mine_bytes = (size_t)(rows * (own + gap)) * sizeof(float);
    const size_t all_bytes = (size_t)(rows * (cols + gap)) * sizeof(float);
    PHX_TRY(phx_buffer_create(bench->device, mine_bytes + all_bytes, &buffer));
    struct phx_tensor mine = phx_tensor_view(buffer, 0, PHX_F32, rows, own + gap);
    struct phx_tensor all = phx_tensor_view(buffer, mine_bytes, PHX_F32, rows, cols + gap);
    mine = phx_tensor_cols(mine, 0, own);
    all = phx_tensor_cols(all, 0, cols);
    float *given = malloc(mine_bytes), *got = malloc(all_bytes);
    for (int64_t i = 0; i < rows * own; i++) given[i] = (float)(world->rank * 1000003 + (int32_t)i);
    PHX_TRY(phx_tensor_upload(bench->stream, mine, given));
    if (from_graph) {
        struct phx_graph *graph;
        PHX_TRY(phx_graph_begin(bench->stream));
        PHX_TRY(phx_comm_gather_cols(bench->comm, bench->stream, mine, begin, all));
        PHX_TRY(phx_graph_end(bench->stream, &graph));
        PHX_TRY(phx_graph_launch(graph, bench->stream));
        PHX_TRY(phx_stream_synchronize(bench->stream));
        phx_graph_destroy(graph);
    } else {
        PHX_TRY(phx_comm_gather_cols(bench->comm, bench->stream, mine, begin, all));
    }
    PHX_TRY(phx_tensor_download(bench->stream, all, got));
    PHX_TRY(phx_stream_synchronize(bench->stream));
    for (int r = 0; r < size; r++)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t c = begin[r]; c < begin[r + 1]; c++) {
                int64_t i = row * (begin[r + 1] - begin[r]) + c - begin[r];
                RANK_CHECK(got[row * cols + c] == (float)(r * 1000003 + (int32_t)i));
            }
    free(given);
    free(got);
    phx_buffer_destroy(buffer);
    return PHX_OK;
}

static enum phx_status gathers(struct phx_world *world, struct bench *bench)
{
    for (int from_graph = 0; from_graph < 2; from_graph++) {
        PHX_TRY(check_gather(world, bench, 1, 1, from_graph != 0));
        PHX_TRY(check_gather(world, bench, 5, 997, from_graph != 0));
        PHX_TRY(check_gather(world, bench, 40, 16000, from_graph != 0)); /* more than a piece */
    }
    return PHX_OK;
}

/* ---- ranks ---- */

static enum phx_status run_rank(struct phx_world *world, void *user)
{
    (void)user;
    struct bench bench;
    enum phx_status status = bench_open(&bench, world);
    if (status == PHX_OK) status = sums(world, &bench);
    if (status == PHX_OK) status = gathers(world, &bench);
    bench_close(&bench, status);
    return status;
}

static void test_ranks(void **state)
{
    (void)state;
    const int n_gpus = test_count_gpus();
    for (int size = 1; size <= n_gpus && size <= MAX_SIZE; size++) {
        assert_ok(phx_world_threads_run(size, run_rank, NULL));
        print_message("%d of %d GPUs: right\n", size, n_gpus);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks)};
    if (test_count_gpus() == 0) return TEST_SKIPPED;
    return cmocka_run_group_tests_name("NCCL", tests, NULL, NULL);
}
