/* Communicators over ranks as threads: every rank can work out what all ranks gave, so each result
 * is compared with the sum or the gather made naively from that. How they fail:
 * test_comm_failures.c. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/random.h"
#include "kernels/ops.h"
#include "tests/parallel/comm_bench.h"
#include "tests/parallel/rank_check.h"

enum { GUARD = 0x5a };

static const enum phx_dtype float_types[] = {PHX_F32, PHX_F16, PHX_BF16};

/* ---- values ---- */

static void put(enum phx_dtype dtype, char *data, int64_t i, float value)
{
    if (dtype == PHX_F32)
        ((float *)(void *)data)[i] = value;
    else
        ((uint16_t *)(void *)data)[i] =
            dtype == PHX_F16 ? phx_f16_from_f32(value) : phx_bf16_from_f32(value);
}

static float get(enum phx_dtype dtype, const char *data, int64_t i)
{
    if (dtype == PHX_F32) return ((const float *)(const void *)data)[i];
    uint16_t bits = ((const uint16_t *)(const void *)data)[i];
    return dtype == PHX_F16 ? phx_f32_from_f16(bits) : phx_f32_from_bf16(bits);
}

static float rounded(enum phx_dtype dtype, float value)
{
    char data[4] __attribute__((aligned(4)));
    put(dtype, data, 0, value);
    return get(dtype, data, 0);
}

/* Values whose sum depends on the order in which they are added. */
static float uneven(int rank, int round, int64_t i)
{
    uint64_t bits = phx_mix64((uint64_t)rank << 56 ^ (uint64_t)round << 40 ^ (uint64_t)i);
    float magnitude = (float)(1 << (bits & 7));
    return ((float)(bits >> 40) / 8388608.0f - 1) * magnitude;
}

static float sum_in_rank_order(enum phx_dtype dtype, int size, int round, int64_t i)
{
    float sum = rounded(dtype, uneven(0, round, i));
    for (int r = 1; r < size; r++) sum += rounded(dtype, uneven(r, round, i));
    return rounded(dtype, sum);
}

/* ---- all-reduce ---- */

struct sums {
    enum phx_dtype dtype;
    bool own_buffer; /* the communicator's, at an offset that differs between ranks */
    int64_t rows, cols;
    int rounds;
};

/* Now and then, each rank at other times. */
static void dawdle(const struct phx_world *world, int round)
{
    int dice = round * MAX_SIZE + world->rank;
    struct timespec pause = {.tv_nsec = (long)(phx_mix64((uint64_t)dice) % 200000)};
    if (dice % 5 == 0) nanosleep(&pause, NULL);
}

static enum phx_status reduce_rounds(struct phx_world *world, struct bench *bench,
                                     const struct sums *sums, struct phx_buffer *buffer)
{
    size_t lead_bytes = (size_t)world->rank * 8, guard_bytes = 8;
    struct phx_tensor x = phx_tensor_view(buffer, lead_bytes, sums->dtype, sums->rows, sums->cols);
    char *data = phx_tensor_address(x);
    int64_t n = sums->rows * sums->cols;
    memset(phx_buffer_address(buffer), GUARD, phx_buffer_bytes(buffer));
    for (int round = 0; round < sums->rounds; round++) {
        if (sums->rounds > 10) dawdle(world, round);
        for (int64_t i = 0; i < n; i++) put(sums->dtype, data, i, uneven(world->rank, round, i));
        PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
        for (int64_t i = 0; i < n; i++)
            RANK_CHECK(get(sums->dtype, data, i) ==
                       sum_in_rank_order(sums->dtype, world->size, round, i));
    }
    for (size_t b = 0; b < lead_bytes; b++) RANK_CHECK((data - lead_bytes)[b] == GUARD);
    char *end = data + phx_tensor_span_bytes(x);
    for (size_t b = 0; b < guard_bytes; b++) RANK_CHECK(end[b] == GUARD);
    return PHX_OK;
}

static enum phx_status reduce(struct phx_world *world, struct bench *bench, void *user)
{
    const struct sums *sums = user;
    size_t bytes =
        phx_dtype_bytes(sums->dtype, sums->rows * sums->cols) + 8 * (size_t)(world->size + 1);
    struct phx_buffer *buffer = NULL;
    if (sums->own_buffer) {
        PHX_TRY(phx_comm_buffer(bench->comm, bytes, &buffer));
        return reduce_rounds(world, bench, sums, buffer);
    }
    PHX_TRY(phx_buffer_create(bench->device, bytes, &buffer));
    enum phx_status status = reduce_rounds(world, bench, sums, buffer);
    phx_buffer_destroy(buffer);
    return status;
}

static void expect_sums(int size, const struct setting *setting, struct sums sums)
{
    for (int own_buffer = 0; own_buffer < 2; own_buffer++) {
        sums.own_buffer = own_buffer;
        assert_ok(comm_bench_run(size, setting, reduce, &sums));
    }
}

static void test_sums_of_every_size(void **state)
{
    (void)state;
    static const int64_t lengths[] = {1, 2, 15, 63, 1000, 4096, 4097, 9999, 70001};
    for (int size = 1; size <= MAX_SIZE; size++)
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
            expect_sums(size, &near, (struct sums){PHX_F32, false, 1, lengths[l], 2});
    expect_sums(3, &near, (struct sums){PHX_F32, false, 517, 2051, 1});
    expect_sums(2, &near, (struct sums){PHX_F32, false, 7, 2048, 3});
}

static void test_sums_of_every_type(void **state)
{
    (void)state;
    for (size_t t = 0; t < sizeof float_types / sizeof float_types[0]; t++)
        for (int size = 2; size <= 5; size += 3) {
            expect_sums(size, &near, (struct sums){float_types[t], false, 3, 335, 2});
            expect_sums(size, &near, (struct sums){float_types[t], false, 5, 33331, 2});
        }
}

/* Rounds follow each other without a pause, so that slots are filled again while others read. */
static void test_many_rounds(void **state)
{
    (void)state;
    for (int size = 2; size <= MAX_SIZE; size += 2) {
        expect_sums(size, &near, (struct sums){PHX_F32, false, 1, 301, 400});
        expect_sums(size, &near, (struct sums){PHX_F32, false, 3, 2003, 60});
    }
}

static void test_small_pieces(void **state)
{
    (void)state;
    struct setting setting = {PHX_COMM_HOST, 0, false, 100};
    expect_sums(3, &setting, (struct sums){PHX_F32, false, 3, 335, 2});
    expect_sums(3, &setting, (struct sums){PHX_BF16, false, 3, 7001, 2});
}

static void test_staged_device(void **state)
{
    (void)state;
    struct setting setting = {PHX_COMM_HOST, 0, true, 1 << 16};
    expect_sums(3, &setting, (struct sums){PHX_F32, false, 3, 335, 2});
    expect_sums(3, &setting, (struct sums){PHX_F16, false, 5, 33331, 2});
}

static void test_several_nodes(void **state)
{
    (void)state;
    struct setting setting = {PHX_COMM_HOST, 2, false, 1 << 14};
    for (int size = 3; size <= 5; size++) {
        expect_sums(size, &setting, (struct sums){PHX_F32, false, 3, 335, 20});
        expect_sums(size, &setting, (struct sums){PHX_BF16, false, 5, 7331, 2});
        setting.staged = true;
        expect_sums(size, &setting, (struct sums){PHX_F32, false, 5, 7331, 2});
    }
}

/* Different lengths and both kinds of memory in turn: whatever comes next must not disturb. */
static enum phx_status reduce_mixture(struct phx_world *world, struct bench *bench, void *user)
{
    (void)user;
    enum { N = 20000 };
    struct phx_buffer *buffers[2] = {NULL, NULL};
    PHX_TRY(phx_comm_buffer(bench->comm, N * sizeof(float), &buffers[0]));
    PHX_TRY(phx_comm_buffer(bench->comm, N * sizeof(float), &buffers[1]));
    for (int round = 0; round < 150; round++) {
        uint64_t dice = phx_mix64((uint64_t)round);
        int64_t n = 1 + (int64_t)(dice >> 8) % (dice & 1 ? N : 100);
        struct phx_tensor x = phx_tensor_view(buffers[dice >> 1 & 1], 0, PHX_F32, 1, n);
        char *data = phx_tensor_address(x);
        for (int64_t i = 0; i < n; i++) put(PHX_F32, data, i, uneven(world->rank, round, i));
        dawdle(world, round);
        PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
        for (int64_t i = 0; i < n; i++)
            RANK_CHECK(get(PHX_F32, data, i) == sum_in_rank_order(PHX_F32, world->size, round, i));
    }
    return PHX_OK;
}

static void test_mixture(void **state)
{
    (void)state;
    for (int size = 2; size <= 6; size += 2)
        assert_ok(comm_bench_run(size, &near, reduce_mixture, NULL));
}

/* ---- reduce and norm ---- */

struct norms {
    int64_t rows, cols;
    bool start;
};

static enum phx_status fill_norm(struct phx_world *world, struct bench *bench,
                                 const struct norms *norms, struct phx_buffer *memory,
                                 struct phx_reduce_norm *out)
{
    int64_t n = norms->rows * norms->cols, stride = norms->cols + 3;
    struct phx_buffer *buffer;
    PHX_TRY(phx_comm_buffer(bench->comm, (size_t)n * sizeof(float), &buffer));
    struct phx_tensor partial = phx_tensor_view(buffer, 0, PHX_F32, norms->rows, norms->cols);
    size_t padded_bytes = (size_t)(norms->rows * stride) * sizeof(float);
    struct phx_tensor residual = phx_tensor_view(memory, 0, PHX_F32, norms->rows, stride);
    struct phx_tensor result = phx_tensor_view(memory, padded_bytes, PHX_F32, norms->rows, stride);
    struct phx_tensor weight = phx_tensor_view(memory, 2 * padded_bytes, PHX_F32, 1, norms->cols);
    for (int64_t i = 0; i < n; i++)
        put(PHX_F32, phx_tensor_address(partial), i, uneven(world->rank, 1, i));
    for (int64_t i = 0; i < norms->rows * stride; i++)
        put(PHX_F32, phx_tensor_address(residual), i, uneven(0, 2, i));
    for (int64_t i = 0; i < norms->cols; i++)
        put(PHX_F32, phx_tensor_address(weight), i, uneven(0, 3, i));
    *out = (struct phx_reduce_norm){
        .partial = partial,
        .residual = phx_tensor_cols(residual, 0, norms->cols),
        .start = norms->start,
        .weight = weight,
        .epsilon = 1e-5f,
        .out = phx_tensor_cols(result, 0, norms->cols),
    };
    return PHX_OK;
}

static enum phx_status compare_norms(struct phx_world *world, struct bench *bench, void *user)
{
    const struct norms *norms = user;
    size_t bytes = (size_t)((2 * norms->rows + 1) * (norms->cols + 3)) * sizeof(float);
    struct phx_buffer *memory[2];
    struct phx_reduce_norm args[2];
    for (int i = 0; i < 2; i++) {
        PHX_TRY(phx_buffer_create(bench->device, bytes, &memory[i]));
        PHX_TRY(fill_norm(world, bench, norms, memory[i], &args[i]));
    }
    PHX_TRY(phx_comm_reduce_norm(bench->comm, bench->stream, &args[0]));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, args[1].partial));
    struct phx_add_norm composed = {.x = args[1].partial,
                                    .residual = args[1].residual,
                                    .start = args[1].start,
                                    .weight = args[1].weight,
                                    .epsilon = args[1].epsilon,
                                    .out = args[1].out};
    PHX_TRY(phx_op_add_norm(bench->stream, &composed));
    RANK_CHECK(memcmp(phx_buffer_address(memory[0]), phx_buffer_address(memory[1]), bytes) == 0);
    for (int i = 0; i < 2; i++) phx_buffer_destroy(memory[i]);
    return PHX_OK;
}

static void test_reduce_norm_is_its_composition(void **state)
{
    (void)state;
    for (int size = 1; size <= 4; size++)
        for (int start = 0; start < 2; start++) {
            assert_ok(comm_bench_run(size, &near, compare_norms, &(struct norms){1, 1023, start}));
            assert_ok(comm_bench_run(size, &near, compare_norms, &(struct norms){5, 601, start}));
            assert_ok(comm_bench_run(size, &near, compare_norms, &(struct norms){11, 2049, start}));
        }
    struct setting staged = {PHX_COMM_HOST, 0, true, 1 << 16};
    assert_ok(comm_bench_run(3, &staged, compare_norms, &(struct norms){5, 601, false}));
    struct setting nodes = {PHX_COMM_HOST, 2, false, 1 << 16};
    assert_ok(comm_bench_run(3, &nodes, compare_norms, &(struct norms){5, 601, false}));
    struct setting solo = {PHX_COMM_SOLO, 0, false, 1 << 16};
    assert_ok(comm_bench_run(1, &solo, compare_norms, &(struct norms){5, 601, true}));
}

/* ---- gather ---- */

struct gather {
    enum phx_dtype dtype;
    int64_t rows;
    int64_t cols[MAX_SIZE]; /* of each rank */
    int rounds;
};

static char byte_given(int rank, int round, int64_t row, int64_t byte)
{
    return (char)phx_mix64((uint64_t)rank << 48 ^ (uint64_t)round << 40 ^ (uint64_t)row << 24 ^
                           (uint64_t)byte);
}

static struct phx_tensor with_gaps(struct phx_buffer *buffer, const struct gather *gather,
                                   int64_t cols, int64_t gap)
{
    struct phx_tensor wide = phx_tensor_view(buffer, 0, gather->dtype, gather->rows, cols + gap);
    return phx_tensor_cols(wide, 0, cols);
}

static enum phx_status gather_round(struct phx_world *world, struct bench *bench,
                                    const struct gather *gather, struct phx_buffer *buffers[2],
                                    const int64_t *col_begin, int round)
{
    int64_t gap = 3;
    int size = world->size;
    int64_t element_bytes = (int64_t)phx_dtype_bytes(gather->dtype, 1);
    int64_t own_bytes = gather->cols[world->rank] * element_bytes;
    struct phx_tensor mine = with_gaps(buffers[0], gather, gather->cols[world->rank], gap);
    struct phx_tensor all = with_gaps(buffers[1], gather, col_begin[size], gap);
    memset(phx_buffer_address(buffers[1]), GUARD, phx_buffer_bytes(buffers[1]));
    char *from = phx_tensor_address(mine);
    for (int64_t row = 0; row < gather->rows; row++)
        for (int64_t b = 0; b < own_bytes; b++)
            from[row * mine.stride * element_bytes + b] = byte_given(world->rank, round, row, b);
    PHX_TRY(phx_comm_gather_cols(bench->comm, bench->stream, mine, col_begin, all));

    const char *to = phx_tensor_address(all);
    for (int64_t row = 0; row < gather->rows; row++) {
        for (int r = 0; r < size; r++)
            for (int64_t b = 0; b < gather->cols[r] * element_bytes; b++)
                RANK_CHECK(*to++ == byte_given(r, round, row, b));
        for (int64_t b = 0; b < gap * element_bytes; b++) RANK_CHECK(*to++ == GUARD);
    }
    return PHX_OK;
}

static enum phx_status gather_rounds(struct phx_world *world, struct bench *bench, void *user)
{
    const struct gather *gather = user;
    int64_t col_begin[MAX_SIZE + 1] = {0};
    for (int r = 0; r < world->size; r++) col_begin[r + 1] = col_begin[r] + gather->cols[r];
    struct phx_buffer *buffers[2];
    for (int i = 0; i < 2; i++) {
        int64_t cols = (i == 0 ? gather->cols[world->rank] : col_begin[world->size]) + 3;
        size_t bytes = phx_dtype_bytes(gather->dtype, gather->rows * cols);
        PHX_TRY(phx_buffer_create(bench->device, bytes, &buffers[i]));
    }
    enum phx_status status = PHX_OK;
    for (int round = 0; round < gather->rounds && status == PHX_OK; round++)
        status = gather_round(world, bench, gather, buffers, col_begin, round);
    for (int i = 0; i < 2; i++) phx_buffer_destroy(buffers[i]);
    return status;
}

static void test_gather(void **state)
{
    (void)state;
    struct setting nodes = {PHX_COMM_HOST, 2, false, 1 << 10};
    struct setting staged = {PHX_COMM_HOST, 0, true, 1 << 10};
    struct setting pieces = {PHX_COMM_HOST, 0, false, 500};
    struct setting solo = {PHX_COMM_SOLO, 0, false, 500};
    const struct setting *settings[] = {&near, &nodes, &staged, &pieces};
    struct gather cases[] = {
        {PHX_F32, 1, {1, 1, 1, 1, 1, 1, 1, 1}, 100},
        {PHX_F32, 7, {64, 56, 56, 61, 8, 8, 16, 3}, 10},
        {PHX_BF16, 5, {301, 0, 17, 0, 1, 299, 5, 40}, 10},
        {PHX_U8, 9, {16, 33, 0, 7, 100, 1, 2, 3}, 10},
        {PHX_I32, 4, {0, 9, 4, 3, 5, 6, 7, 8}, 10},
        {PHX_F32, 3, {40000, 39992, 39991, 9, 0, 0, 0, 1}, 2},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        assert_ok(comm_bench_run(1, &solo, gather_rounds, &cases[c]));
        for (size_t s = 0; s < sizeof settings / sizeof settings[0]; s++)
            for (int size = 1; size <= MAX_SIZE; size += s == 0 ? 1 : 3)
                assert_ok(comm_bench_run(size, settings[s], gather_rounds, &cases[c]));
    }
}

/* ---- positions, unequal limits ---- */

static enum phx_status count_calls(struct phx_world *world, struct bench *bench, void *user)
{
    (void)user;
    struct phx_buffer *buffer;
    PHX_TRY(phx_comm_buffer(bench->comm, 1000, &buffer));
    for (int b = 0; b < 1000; b++) RANK_CHECK(((char *)phx_buffer_address(buffer))[b] == 0);
    struct phx_tensor x = phx_tensor_view(buffer, 0, PHX_F32, 2, 30);
    struct phx_tensor all = phx_tensor_view(buffer, 240, PHX_F32, 2, 15 * world->size);
    int64_t col_begin[MAX_SIZE + 1] = {0};
    for (int r = 0; r < world->size; r++) col_begin[r + 1] = col_begin[r] + 15;
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, phx_tensor_rows(x, 0, 0)));
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, phx_tensor_rows(x, 0, 1)));
    PHX_TRY(phx_comm_gather_cols(bench->comm, bench->stream, phx_tensor_cols(x, 3, 15), col_begin,
                                 all));
    struct phx_comm_position at;
    phx_comm_position(bench->comm, &at);
    RANK_CHECK(at.n_steps == 0 && at.n_begun == 3); /* no rows: nothing to begin */
    PHX_TRY(phx_comm_begin_step(bench->comm, bench->stream));
    phx_comm_position(bench->comm, &at);
    RANK_CHECK(at.n_steps == 1 && at.n_begun == 0);
    double seconds = phx_comm_seconds(bench->comm);
    RANK_CHECK(world->size == 1 ? seconds == 0 : seconds > 0 && seconds < 100);
    return PHX_OK;
}

static void test_positions(void **state)
{
    (void)state;
    struct setting solo = {PHX_COMM_SOLO, 0, false, 500};
    assert_ok(comm_bench_run(1, &solo, count_calls, NULL));
    assert_ok(comm_bench_run(3, &near, count_calls, NULL));
}

/* A rank's share of the vocabulary may be smaller than another's. */
static enum phx_status give_unequally(struct phx_world *world, void *user)
{
    static const struct gather gather = {PHX_F32, 7, {64, 0, 33}, 10};
    struct setting setting = {PHX_COMM_HOST, 0, false, 100 + 500 * (size_t)(2 - world->rank)};
    struct bench bench;
    (void)user;
    enum phx_status status = comm_bench_open(&bench, world, &setting);
    if (status == PHX_OK) status = gather_rounds(world, &bench, (void *)&gather);
    comm_bench_close(&bench, status);
    return status;
}

static void test_unequal_limits(void **state)
{
    (void)state;
    assert_ok(phx_world_threads_run(3, give_unequally, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_of_every_size),
        cmocka_unit_test(test_sums_of_every_type),
        cmocka_unit_test(test_many_rounds),
        cmocka_unit_test(test_mixture),
        cmocka_unit_test(test_small_pieces),
        cmocka_unit_test(test_staged_device),
        cmocka_unit_test(test_several_nodes),
        cmocka_unit_test(test_reduce_norm_is_its_composition),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_unequal_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
