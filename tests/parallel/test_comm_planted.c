/* Ways to add that were made wrong on purpose are noticed when a communicator is created, told, and
 * replaced. This program is linked so that calls of two launchers and of ncclAllReduce() come here
 * first. Two GPUs, ranks as threads. Exit status 77 without a GPU: skipped. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parallel/comm.h"
#include "parallel/comm_nccl_fused.h"
#include "parallel/world_threads.h"
#include "tests/parallel/rank_check.h"
#include "tests/support/gpus.h"

enum { MAX_BYTES = 1 << 20, MAX_MEMORIES = 64 };

/* What goes wrong, on rank 1. */
static struct {
    bool fused_sum, fused_norm, only_in_graphs; /* a byte of the result */
    bool fused_launch;                          /* it fails */
    bool fused_lost;                            /* it is not launched, and nobody is told */
    bool symmetric, plain;                      /* a byte of NCCL's result */
} planted;

/* Memory from ncclMemAlloc(), which sums on symmetric windows lie in. */
static struct {
    const char *begin, *end;
} memories[MAX_MEMORIES];
static int n_memories;

static __thread int own_rank;

/* ---- in the place of others ---- */

enum phx_status __real_phx_fused_all_reduce(const struct phx_fused *, cudaStream_t, enum phx_dtype,
                                            void *, int64_t);
enum phx_status __wrap_phx_fused_all_reduce(const struct phx_fused *, cudaStream_t, enum phx_dtype,
                                            void *, int64_t);
enum phx_status __real_phx_fused_reduce_norm(const struct phx_fused *, cudaStream_t,
                                             const struct phx_fused_norm *);
enum phx_status __wrap_phx_fused_reduce_norm(const struct phx_fused *, cudaStream_t,
                                             const struct phx_fused_norm *);
ncclResult_t __real_ncclAllReduce(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t,
                                  ncclComm_t, cudaStream_t);
ncclResult_t __wrap_ncclAllReduce(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t,
                                  ncclComm_t, cudaStream_t);
ncclResult_t __real_ncclMemAlloc(void **, size_t);
ncclResult_t __wrap_ncclMemAlloc(void **, size_t);

static bool is_recorded(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &status);
    return status == cudaStreamCaptureStatusActive;
}

/* The high byte of the last value: sign and exponent. */
static void spoil(void *data, size_t bytes, cudaStream_t stream)
{
    if (own_rank == 1 && (!planted.only_in_graphs || is_recorded(stream)))
        cudaMemsetAsync((char *)data + bytes - 1, 0x55, 1, stream);
}

enum phx_status __wrap_phx_fused_all_reduce(const struct phx_fused *fused, cudaStream_t stream,
                                            enum phx_dtype dtype, void *x, int64_t n)
{
    if (planted.fused_launch && own_rank == 1)
        return phx_fail(PHX_DEVICE, "all_reduce failed: planted");
    if (planted.fused_lost && own_rank == 1) return PHX_OK;
    PHX_TRY(__real_phx_fused_all_reduce(fused, stream, dtype, x, n));
    if (planted.fused_sum) spoil(x, phx_dtype_bytes(dtype, n), stream);
    return PHX_OK;
}

enum phx_status __wrap_phx_fused_reduce_norm(const struct phx_fused *fused, cudaStream_t stream,
                                             const struct phx_fused_norm *args)
{
    PHX_TRY(__real_phx_fused_reduce_norm(fused, stream, args));
    if (planted.fused_norm)
        spoil(args->out,
              phx_dtype_bytes(args->dtype, (args->rows - 1) * args->out_stride + args->cols),
              stream);
    return PHX_OK;
}

ncclResult_t __wrap_ncclMemAlloc(void **memory, size_t bytes)
{
    ncclResult_t result = __real_ncclMemAlloc(memory, bytes);
    int i = __atomic_fetch_add(&n_memories, 1, __ATOMIC_RELAXED);
    PHX_ASSERT(i < MAX_MEMORIES);
    memories[i].begin = *memory;
    memories[i].end = memories[i].begin + bytes;
    return result;
}

static bool is_symmetric(const char *data)
{
    for (int i = 0; i < n_memories; i++)
        if (data >= memories[i].begin && data < memories[i].end) return true;
    return false;
}

ncclResult_t __wrap_ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    const size_t value_bytes = type == ncclFloat32 ? 4 : 2;
    ncclResult_t result = __real_ncclAllReduce(from, to, n, type, op, comm, stream);
    if (is_symmetric(to) ? planted.symmetric : planted.plain) spoil(to, n * value_bytes, stream);
    return result;
}

/* ---- ranks ---- */

struct outcome {
    enum phx_allreduce allreduce;
    char text[64]; /* rank 0's */
};

static enum phx_status add_once(struct phx_world *world, struct phx_device *device,
                                struct phx_comm *comm)
{
    struct phx_stream *stream;
    struct phx_buffer *buffer;
    float value = (float)(world->rank + 1);
    PHX_TRY(phx_stream_create(device, &(struct phx_limits){0}, &stream));
    PHX_TRY(phx_comm_buffer(comm, MAX_BYTES, &buffer));
    struct phx_tensor x = phx_tensor_view(buffer, 0, PHX_F32, 1, 1);
    PHX_TRY(phx_tensor_upload(stream, x, &value));
    PHX_TRY(phx_comm_all_reduce(comm, stream, x));
    PHX_TRY(phx_tensor_download(stream, x, &value));
    PHX_TRY(phx_stream_synchronize(stream));
    RANK_CHECK(value == 3);
    phx_stream_destroy(stream);
    return PHX_OK;
}

static enum phx_status run_rank(struct phx_world *world, void *user)
{
    struct outcome *outcome = user;
    struct phx_device *device;
    struct phx_comm *comm;
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    options.ordinal = own_rank = world->rank;
    options.compute = PHX_BF16;
    PHX_TRY(phx_device_create(&options, &device));
    enum phx_status status = phx_comm_create(
        world, device,
        &(struct phx_comm_options){
            .kind = PHX_COMM_NCCL, .allreduce = outcome->allreduce, .max_reduce_bytes = MAX_BYTES},
        &comm);
    if (status == PHX_OK) {
        if (world->rank == 0) phx_comm_describe(comm, outcome->text, sizeof outcome->text);
        status = add_once(world, device, comm);
        if (status == PHX_OK) phx_comm_finish(comm);
        phx_comm_destroy(comm);
    }
    phx_device_destroy(device);
    return status;
}

/* Standard error of a creation with what was planted; what it came to. */
static enum phx_status create(struct outcome *outcome, char *told, size_t size)
{
    FILE *file = tmpfile();
    const int kept = dup(STDERR_FILENO);
    assert_non_null(file);
    dup2(fileno(file), STDERR_FILENO);
    n_memories = 0;
    enum phx_status status = phx_world_threads_run(2, run_rank, outcome);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(file);
    size_t n = fread(told, 1, size - 1, file);
    told[n] = '\0';
    fclose(file);
    memset(&planted, 0, sizeof planted);
    return status;
}

static void expect(enum phx_allreduce allreduce, const char *begins, const char *tells)
{
    struct outcome outcome = {.allreduce = allreduce};
    char told[4096];
    assert_ok(create(&outcome, told, sizeof told));
    if (strncmp(outcome.text, begins, strlen(begins)) != 0)
        fail_msg("\"%s\", expected \"%s\"; told: %s", outcome.text, begins, told);
    if (tells == NULL ? told[0] != '\0' : strstr(told, tells) == NULL)
        fail_msg("told \"%s\", expected \"%s\"", told, tells != NULL ? tells : "");
}

static void test_nothing_planted(void **state)
{
    (void)state;
    expect(PHX_ALLREDUCE_FUSED, "fused", NULL);
    expect(PHX_ALLREDUCE_SYMMETRIC, "symmetric", NULL);
    expect(PHX_ALLREDUCE_NCCL, "nccl", NULL);
}

static void test_fused_wrong(void **state)
{
    (void)state;
    planted.fused_sum = true;
    expect(PHX_ALLREDUCE_FUSED, "symmetric", "the fused all-reduce gives wrong sums");
    planted.fused_norm = true;
    expect(PHX_ALLREDUCE_FUSED, "symmetric", "the fused all-reduce gives wrong sums");
    planted.fused_norm = planted.only_in_graphs = true;
    expect(PHX_ALLREDUCE_FUSED, "symmetric", "in a graph");
    planted.fused_launch = true;
    expect(PHX_ALLREDUCE_FUSED, "symmetric", "planted");
}

static void test_fused_lost(void **state)
{
    (void)state;
    planted.fused_lost = true;
    expect(PHX_ALLREDUCE_FUSED, "symmetric", "the fused all-reduce");
}

static void test_two_wrong(void **state)
{
    (void)state;
    planted.fused_sum = planted.symmetric = true;
    expect(PHX_ALLREDUCE_FUSED, "nccl", "the symmetric all-reduce gives wrong sums");
    planted.symmetric = true;
    expect(PHX_ALLREDUCE_SYMMETRIC, "nccl", "the symmetric all-reduce gives wrong sums");
    planted.fused_sum = planted.symmetric = true;
    expect(PHX_ALLREDUCE_AUTO, "nccl", "the fused all-reduce gives wrong sums");
}

static void test_all_wrong(void **state)
{
    (void)state;
    struct outcome outcome = {.allreduce = PHX_ALLREDUCE_AUTO};
    char told[4096];
    planted.plain = true;
    assert_int_equal(create(&outcome, told, sizeof told), PHX_COMM);
    assert_non_null(strstr(told, "the nccl all-reduce gives wrong sums"));
}

/* Where windows are to be had, these must be as said; elsewhere there is nothing to plant. */
static bool has_windows(void)
{
    struct phx_nccl_info info;
    int reach = 0;
    phx_nccl_info(&info);
    cudaDeviceCanAccessPeer(&reach, 0, 1);
    return info.has_windows && reach;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_planted), cmocka_unit_test(test_fused_wrong),
        cmocka_unit_test(test_fused_lost),      cmocka_unit_test(test_two_wrong),
        cmocka_unit_test(test_all_wrong),
    };
    if (test_count_gpus() == 0) return TEST_SKIPPED;
    if (test_count_gpus() < 2 || !has_windows()) {
        printf("skipped: this needs two GPUs that reach each other's memory\n");
        return TEST_SKIPPED;
    }
    return cmocka_run_group_tests_name("planted", tests, NULL, NULL);
}
