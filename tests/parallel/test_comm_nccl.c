/* NCCL over ranks as threads, one for each GPU of this machine, with every strategy: sums that are
 * exact in every type, norms against double precision and against their composition, gathers of
 * unequal shares; all of them also from recorded graphs, again and again. Exit status 77 without a
 * GPU: skipped. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/native.h"
#include "kernels/ops.h"
#include "parallel/comm.h"
#include "parallel/world_threads.h"
#include "tests/parallel/rank_check.h"
#include "tests/support/gpus.h"

enum {
    MAX_SIZE = 8,
    REPLAYS = 6, /* of a graph, or of a call: exchanges alternate between two places */
    GATHER_BYTES = 1 << 20,
    REDUCE_BYTES = 64 << 20
};

static const char *const names[] = {"auto", "nccl", "symmetric", "fused"};

struct bench {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_comm *comm;
    struct phx_buffer *buffer; /* the communicator's */
    char *given, *expected, *got;
};

static enum phx_status bench_open(struct bench *bench, struct phx_world *world,
                                  enum phx_allreduce allreduce)
{
    struct phx_device_options device = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_comm_options options = {.kind = PHX_COMM_NCCL,
                                       .allreduce = allreduce,
                                       .max_reduce_bytes = REDUCE_BYTES,
                                       .max_gather_bytes = GATHER_BYTES};
    device.ordinal = world->rank;
    device.compute = PHX_BF16;
    memset(bench, 0, sizeof *bench);
    bench->given = malloc(REDUCE_BYTES);
    bench->expected = malloc(REDUCE_BYTES);
    bench->got = malloc(REDUCE_BYTES);
    PHX_TRY(phx_device_create(&device, &bench->device));
    PHX_TRY(
        phx_stream_create(bench->device, &(struct phx_limits){.max_rows = 512}, &bench->stream));
    PHX_TRY(phx_comm_create(world, bench->device, &options, &bench->comm));
    return phx_comm_buffer(bench->comm, REDUCE_BYTES, &bench->buffer);
}

static void bench_close(struct bench *bench, bool finish)
{
    if (finish) phx_comm_finish(bench->comm);
    phx_comm_destroy(bench->comm);
    phx_stream_destroy(bench->stream);
    phx_device_destroy(bench->device);
    free(bench->given);
    free(bench->expected);
    free(bench->got);
}

static void put(enum phx_dtype dtype, void *to, int64_t i, float value)
{
    if (dtype == PHX_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] = dtype == PHX_F16 ? phx_f16_from_f32(value) : phx_bf16_from_f32(value);
}

static float get(enum phx_dtype dtype, const void *from, int64_t i)
{
    if (dtype == PHX_F32) return ((const float *)from)[i];
    uint16_t bits = ((const uint16_t *)from)[i];
    return dtype == PHX_F16 ? phx_f32_from_f16(bits) : phx_f32_from_bf16(bits);
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

static enum phx_status sum_again(struct phx_world *world, struct bench *bench, struct phx_tensor x,
                                 struct phx_graph *graph)
{
    const size_t bytes = phx_tensor_span_bytes(x);
    const int rounds = bytes > 1 << 20 ? 2 : REPLAYS;
    for (int round = 0; round < rounds; round++) {
        PHX_TRY(phx_tensor_upload(bench->stream, x, bench->given));
        if (graph != NULL)
            PHX_TRY(phx_graph_launch(graph, bench->stream));
        else
            PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
        PHX_TRY(phx_tensor_download(bench->stream, x, bench->got));
        PHX_TRY(phx_stream_synchronize(bench->stream));
        RANK_CHECK(memcmp(bench->got, bench->expected, bytes) == 0);
    }
    return PHX_OK;
}

static enum phx_status check_sum(struct phx_world *world, struct bench *bench, struct phx_tensor x)
{
    struct phx_graph *graph;
    for (int64_t i = 0; i < x.rows * x.cols; i++) {
        put(x.dtype, bench->given, i, value_of(world->rank, i));
        put(x.dtype, bench->expected, i, sum_of(world->size, i));
    }
    PHX_TRY(sum_again(world, bench, x, NULL));
    PHX_TRY(phx_graph_begin(bench->stream));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
    PHX_TRY(phx_graph_end(bench->stream, &graph));
    enum phx_status status = sum_again(world, bench, x, graph);
    phx_graph_destroy(graph);
    return status;
}

/* From 8 bytes to 64 MB. */
static enum phx_status sums(struct phx_world *world, struct bench *bench)
{
    static const enum phx_dtype types[] = {PHX_F32, PHX_F16, PHX_BF16};
    struct phx_buffer *plain;
    for (int t = 0; t < 3; t++) {
        const int64_t value = (int64_t)phx_dtype_bytes(types[t], 1);
        for (int64_t bytes = 8; bytes <= (types[t] == PHX_BF16 ? REDUCE_BYTES : 1 << 20);
             bytes *= bytes >= 1 << 20 ? 4 : 2)
            PHX_TRY(check_sum(world, bench,
                              phx_tensor_view(bench->buffer, 0, types[t], 1, bytes / value)));
        PHX_TRY(check_sum(world, bench, phx_tensor_view(bench->buffer, 768, types[t], 3, 335)));
        PHX_TRY(check_sum(world, bench, phx_tensor_view(bench->buffer, 260, types[t], 1, 77)));
    }
    /* Memory that is not the communicator's. */
    PHX_TRY(phx_buffer_create(bench->device, 1 << 22, &plain));
    PHX_TRY(check_sum(world, bench, phx_tensor_view(plain, 0, PHX_BF16, 5, 1000)));
    PHX_TRY(check_sum(world, bench, phx_tensor_view(plain, 0, PHX_BF16, 512, 4096)));
    phx_buffer_destroy(plain);
    return PHX_OK;
}

/* ---- norms ---- */

struct norm {
    struct phx_reduce_norm args;
    struct phx_buffer *memory;
    float *residual, *weight, *got; /* [rows * cols] */
};

static float residual_of(int64_t i)
{
    return (float)(i % 11 - 5) / 4;
}

static enum phx_status open_norm(struct bench *bench, int64_t rows, int64_t cols, bool start,
                                 struct norm *n)
{
    const size_t floats = (size_t)(rows * cols) * sizeof(float);
    PHX_TRY(phx_buffer_create(bench->device, 3 * floats, &n->memory));
    n->args = (struct phx_reduce_norm){
        .partial = phx_tensor_view(bench->buffer, 0, PHX_BF16, rows, cols),
        .residual = phx_tensor_view(n->memory, 0, PHX_F32, rows, cols),
        .start = start,
        .weight = phx_tensor_view(n->memory, floats, PHX_F32, 1, cols),
        .epsilon = 1e-5f,
        .out = phx_tensor_view(n->memory, 2 * floats, PHX_BF16, rows, cols),
    };
    n->residual = malloc(floats);
    n->weight = malloc(floats);
    n->got = malloc(floats);
    for (int64_t i = 0; i < rows * cols; i++) n->residual[i] = residual_of(i);
    for (int64_t c = 0; c < cols; c++) n->weight[c] = 1 + (float)(c % 9) / 8;
    return PHX_OK;
}

static void close_norm(struct norm *n)
{
    phx_buffer_destroy(n->memory);
    free(n->residual);
    free(n->weight);
    free(n->got);
}

static enum phx_status set_norm(struct phx_world *world, struct bench *bench, struct norm *n)
{
    const struct phx_tensor x = n->args.partial;
    for (int64_t i = 0; i < x.rows * x.cols; i++)
        put(PHX_BF16, bench->given, i, value_of(world->rank, i));
    PHX_TRY(phx_tensor_upload(bench->stream, x, bench->given));
    PHX_TRY(phx_tensor_upload(bench->stream, n->args.residual, n->residual));
    return phx_tensor_upload(bench->stream, n->args.weight, n->weight);
}

/* The residual exactly, the output to a rounding. */
static enum phx_status check_norm_values(struct phx_world *world, struct bench *bench,
                                         struct norm *n)
{
    const int64_t rows = n->args.partial.rows, cols = n->args.partial.cols;
    PHX_TRY(phx_tensor_download(bench->stream, n->args.residual, n->got));
    PHX_TRY(phx_tensor_download(bench->stream, n->args.out, bench->got));
    PHX_TRY(phx_stream_synchronize(bench->stream));
    for (int64_t row = 0; row < rows; row++) {
        double squares = 0;
        for (int64_t i = row * cols; i < (row + 1) * cols; i++) {
            float old = n->args.start ? 0 : n->residual[i];
            RANK_CHECK(n->got[i] == old + sum_of(world->size, i));
            squares += (double)n->got[i] * n->got[i];
        }
        const double scale = 1 / sqrt(squares / (double)cols + 1e-5);
        for (int64_t i = row * cols; i < (row + 1) * cols; i++) {
            double expected = n->got[i] * scale * n->weight[i - row * cols];
            RANK_CHECK(fabs(get(PHX_BF16, bench->got, i) - expected) <= 5e-3 * fabs(expected));
        }
    }
    return PHX_OK;
}

static enum phx_status check_norm(struct phx_world *world, struct bench *bench, int64_t rows,
                                  int64_t cols, bool start)
{
    struct norm n;
    struct phx_graph *graph;
    PHX_TRY(open_norm(bench, rows, cols, start, &n));
    PHX_TRY(phx_graph_begin(bench->stream));
    PHX_TRY(phx_comm_reduce_norm(bench->comm, bench->stream, &n.args));
    PHX_TRY(phx_graph_end(bench->stream, &graph));
    for (int round = 0; round < REPLAYS; round++) {
        PHX_TRY(set_norm(world, bench, &n));
        if (round % 2 == 0)
            PHX_TRY(phx_comm_reduce_norm(bench->comm, bench->stream, &n.args));
        else
            PHX_TRY(phx_graph_launch(graph, bench->stream));
        PHX_TRY(check_norm_values(world, bench, &n));
    }
    phx_graph_destroy(graph);
    /* The composition gives the same. */
    PHX_TRY(set_norm(world, bench, &n));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, n.args.partial));
    PHX_TRY(phx_op_add_norm(bench->stream, &(struct phx_add_norm){.x = n.args.partial,
                                                                  .residual = n.args.residual,
                                                                  .start = start,
                                                                  .weight = n.args.weight,
                                                                  .epsilon = n.args.epsilon,
                                                                  .out = n.args.out}));
    PHX_TRY(check_norm_values(world, bench, &n));
    close_norm(&n);
    return PHX_OK;
}

static enum phx_status norms(struct phx_world *world, struct bench *bench)
{
    PHX_TRY(check_norm(world, bench, 1, 1, true));
    PHX_TRY(check_norm(world, bench, 1, 4096, false));
    PHX_TRY(check_norm(world, bench, 3, 335, false));
    PHX_TRY(check_norm(world, bench, 64, 4096, false));
    PHX_TRY(check_norm(world, bench, 2, 16384, false));
    PHX_TRY(check_norm(world, bench, 1, 16388, true)); /* wider than a block takes */
    return check_norm(world, bench, 300, 4096, false); /* more than the exchange takes */
}

/* ---- positions ---- */

static enum phx_status check_position(struct phx_world *world, struct bench *bench,
                                      uint32_t n_steps, uint32_t n_begun)
{
    struct phx_comm_position position;
    PHX_TRY(phx_stream_synchronize(bench->stream));
    phx_comm_position(bench->comm, &position);
    RANK_CHECK(position.n_steps == n_steps && position.n_begun == n_begun);
    return PHX_OK;
}

static enum phx_status step(struct bench *bench)
{
    struct phx_tensor small = phx_tensor_view(bench->buffer, 0, PHX_BF16, 1, 4096);
    struct phx_tensor large = phx_tensor_view(bench->buffer, 0, PHX_BF16, 512, 4096);
    PHX_TRY(phx_comm_begin_step(bench->comm, bench->stream));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, small));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, large));
    return phx_comm_all_reduce(bench->comm, bench->stream, small);
}

/* Before any other call. */
static enum phx_status positions(struct phx_world *world, struct bench *bench)
{
    struct phx_graph *graph;
    PHX_TRY(check_position(world, bench, 0, 0));
    PHX_TRY(step(bench));
    PHX_TRY(check_position(world, bench, 1, 3));
    PHX_TRY(phx_graph_begin(bench->stream));
    PHX_TRY(step(bench));
    PHX_TRY(phx_graph_end(bench->stream, &graph));
    PHX_TRY(check_position(world, bench, 1, 3));
    for (uint32_t replay = 2; replay < 6; replay++) {
        PHX_TRY(phx_graph_launch(graph, bench->stream));
        PHX_TRY(check_position(world, bench, replay, 3));
    }
    phx_graph_destroy(graph);
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

/* The way asked for is the one taken, where GPUs reach each other's memory. */
static enum phx_status check_way(struct phx_world *world, struct bench *bench,
                                 enum phx_allreduce wanted)
{
    struct phx_nccl_info info;
    char text[64];
    int reach = 1;
    phx_nccl_info(&info);
    phx_comm_describe(bench->comm, text, sizeof text);
    for (int r = 0; r < world->size && reach; r++)
        if (r != world->rank) cudaDeviceCanAccessPeer(&reach, world->rank, r);
    if (world->rank == 0) print_message("%d ranks, %s: %s\n", world->size, names[wanted], text);
    if (wanted == PHX_ALLREDUCE_AUTO || world->size == 1 || !info.has_windows || !reach)
        return PHX_OK;
    RANK_CHECK(strncmp(text, names[wanted], strlen(names[wanted])) == 0);
    return PHX_OK;
}

static enum phx_status run_rank(struct phx_world *world, void *user)
{
    const enum phx_allreduce allreduce = *(const enum phx_allreduce *)user;
    struct bench bench;
    enum phx_status status = bench_open(&bench, world, allreduce);
    if (status == PHX_OK) status = check_way(world, &bench, allreduce);
    if (status == PHX_OK) status = positions(world, &bench);
    if (status == PHX_OK) status = sums(world, &bench);
    if (status == PHX_OK) status = norms(world, &bench);
    if (status == PHX_OK && allreduce == PHX_ALLREDUCE_AUTO) status = gathers(world, &bench);
    bench_close(&bench, status == PHX_OK);
    return status;
}

static void test_ranks(void **state)
{
    (void)state;
    const int n_gpus = test_count_gpus();
    for (int size = 1; size <= n_gpus && size <= MAX_SIZE; size++)
        for (int way = PHX_ALLREDUCE_AUTO; way <= PHX_ALLREDUCE_FUSED; way++) {
            enum phx_allreduce allreduce = (enum phx_allreduce)way;
            if (size == 1 && allreduce != PHX_ALLREDUCE_AUTO) continue; /* nothing to choose */
            assert_ok(phx_world_threads_run(size, run_rank, &allreduce));
        }
}

static enum phx_status wait_alone(struct bench *bench)
{
    struct phx_tensor x = phx_tensor_view(bench->buffer, 0, PHX_BF16, 1, 4096);
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
    phx_comm_abort(bench->comm);
    PHX_TRY(phx_stream_synchronize(bench->stream));
    if (phx_comm_all_reduce(bench->comm, bench->stream, x) != PHX_COMM)
        return phx_fail(PHX_BAD_DATA, "a call after an abort does not fail");
    phx_fail_clear();
    return PHX_OK;
}

/* Rank 0 does not come: who waits in a fused sum gives up when told, and so does every later call.
 */
static enum phx_status run_lonely(struct phx_world *world, void *user)
{
    struct bench bench;
    char text[64];
    (void)user;
    enum phx_status status = bench_open(&bench, world, PHX_ALLREDUCE_FUSED);
    if (status == PHX_OK) {
        phx_comm_describe(bench.comm, text, sizeof text);
        if (world->rank > 0 && strncmp(text, "fused", 5) == 0) status = wait_alone(&bench);
    }
    if (status == PHX_OK) status = phx_world_barrier(world);
    bench_close(&bench, false);
    return status;
}

static void test_abort(void **state)
{
    (void)state;
    if (test_count_gpus() < 2) skip();
    assert_ok(phx_world_threads_run(2, run_lonely, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_abort),
    };
    if (test_count_gpus() == 0) return TEST_SKIPPED;
    return cmocka_run_group_tests_name("NCCL", tests, NULL, NULL);
}
