/* Ways to add that were made wrong on purpose are noticed when a communicator is created, told, and
 * replaced. This program is linked so that calls of two launchers and of some of NCCL's functions
 * come here first. Two GPUs, ranks as threads. What does not come to an end is told and ends the
 * program. Exit status 77 without a GPU: skipped. */
#include "tests/support/check.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "parallel/comm.h"
#include "parallel/comm_nccl_fused.h"
#include "parallel/world_threads.h"
#include "tests/parallel/rank_check.h"
#include "tests/support/gpus.h"

enum {
    N_RANKS = 2,
    MAX_BYTES = 1 << 20,
    MAX_MEMORIES = 64,
    TOLD_BYTES = 4096,
    PATIENCE_S = 60 /* with a case; lost sums take 6 seconds each */
};

/* What goes wrong, on rank 1. */
static struct {
    bool fused_sum, fused_norm, only_in_graphs; /* a byte of the result */
    bool fused_launch;                          /* it fails */
    bool fused_lost;                            /* it is not launched, and nobody is told */
    bool symmetric, plain;                      /* a byte of NCCL's result */
} planted;

/* Memory from ncclMemAlloc(), which sums on symmetric windows lie in. */
static struct {
    const char *begin, *end; /* NULL: none */
} memories[MAX_MEMORIES];
static pthread_mutex_t memories_mutex = PTHREAD_MUTEX_INITIALIZER;

static __thread int own_rank;

/* What each rank has begun last, and how much before it. */
static struct {
    const char *what;
    int n;
} places[N_RANKS];

static void enter(const char *what)
{
    __atomic_store_n(&places[own_rank].what, what, __ATOMIC_RELAXED);
    __atomic_fetch_add(&places[own_rank].n, 1, __ATOMIC_RELAXED);
}

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
ncclResult_t __real_ncclMemFree(void *);
ncclResult_t __wrap_ncclMemFree(void *);

/* Whether what goes wrong does so on this rank and now. */
static bool is_due(cudaStream_t stream)
{
    enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &status);
    return own_rank == 1 && (!planted.only_in_graphs || status == cudaStreamCaptureStatusActive);
}

/* The high byte of the last value: sign and exponent. */
static void spoil(void *data, size_t bytes, cudaStream_t stream)
{
    if (is_due(stream))
        PHX_ASSERT(cudaMemsetAsync((char *)data + bytes - 1, 0x55, 1, stream) == cudaSuccess);
}

enum phx_status __wrap_phx_fused_all_reduce(const struct phx_fused *fused, cudaStream_t stream,
                                            enum phx_dtype dtype, void *x, int64_t n)
{
    enter("a fused sum");
    if (planted.fused_launch && is_due(stream))
        return phx_fail(PHX_DEVICE, "all_reduce failed: planted");
    if (planted.fused_lost && is_due(stream)) return phx_fused_mark(fused, stream, false);
    PHX_TRY(__real_phx_fused_all_reduce(fused, stream, dtype, x, n));
    if (planted.fused_sum) spoil(x, phx_dtype_bytes(dtype, n), stream);
    return PHX_OK;
}

enum phx_status __wrap_phx_fused_reduce_norm(const struct phx_fused *fused, cudaStream_t stream,
                                             const struct phx_fused_norm *args)
{
    enter("a fused norm");
    PHX_TRY(__real_phx_fused_reduce_norm(fused, stream, args));
    if (planted.fused_norm)
        spoil(args->out,
              phx_dtype_bytes(args->dtype, (args->rows - 1) * args->out_stride + args->cols),
              stream);
    return PHX_OK;
}

/* Which of the memories holds this address; NULL is in those that are free. */
static int find_memory(const char *address)
{
    int found = -1;
    for (int i = 0; i < MAX_MEMORIES && found < 0; i++)
        if (address == NULL ? memories[i].begin == NULL
                            : address >= memories[i].begin && address < memories[i].end)
            found = i;
    return found;
}

ncclResult_t __wrap_ncclMemAlloc(void **memory, size_t bytes)
{
    ncclResult_t result = __real_ncclMemAlloc(memory, bytes);
    PHX_ASSERT(result == ncclSuccess);
    pthread_mutex_lock(&memories_mutex);
    int i = find_memory(NULL);
    PHX_ASSERT(i >= 0);
    memories[i].begin = *memory;
    memories[i].end = memories[i].begin + bytes;
    pthread_mutex_unlock(&memories_mutex);
    return result;
}

ncclResult_t __wrap_ncclMemFree(void *memory)
{
    pthread_mutex_lock(&memories_mutex);
    int i = find_memory(memory);
    PHX_ASSERT(i >= 0);
    memories[i].begin = memories[i].end = NULL;
    pthread_mutex_unlock(&memories_mutex);
    return __real_ncclMemFree(memory);
}

static bool is_symmetric(const void *data)
{
    pthread_mutex_lock(&memories_mutex);
    int i = find_memory(data);
    pthread_mutex_unlock(&memories_mutex);
    return i >= 0;
}

ncclResult_t __wrap_ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    const size_t value_bytes = type == ncclFloat32 ? 4 : 2;
    enter("ncclAllReduce()");
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
    enter("a sum in the way chosen");
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

/* What CUDA sets a byte with is loaded before anybody waits for anybody. */
static enum phx_status load_spoil(struct phx_device *device)
{
    struct phx_buffer *buffer;
    PHX_TRY(phx_buffer_create(device, 1, &buffer));
    phx_buffer_destroy(buffer);
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
    enter("the device");
    PHX_TRY(phx_device_create(&options, &device));
    PHX_TRY(load_spoil(device));
    enter("the communicator");
    enum phx_status status = phx_comm_create(
        world, device,
        &(struct phx_comm_options){
            .kind = PHX_COMM_NCCL, .allreduce = outcome->allreduce, .max_reduce_bytes = MAX_BYTES},
        &comm);
    if (status == PHX_OK) {
        if (world->rank == 0) phx_comm_describe(comm, outcome->text, sizeof outcome->text);
        status = add_once(world, device, comm);
        enter("the end");
        if (status == PHX_OK) phx_comm_finish(comm);
        phx_comm_destroy(comm);
    }
    phx_device_destroy(device);
    enter("nothing more");
    return status;
}

/* ---- cases ---- */

struct patience {
    const char *name; /* of the case */
    int told, error;  /* files: what the ranks tell, and the standard error proper */
    sem_t ended;      /* posted when the case is over */
};

/* Nobody can end a thread that waits in CUDA, so the whole program ends. */
static void *lose_patience(void *user)
{
    struct patience *patience = user;
    struct timespec until;
    char told[TOLD_BYTES];
    int error;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    do error = sem_timedwait(&patience->ended, &until) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == 0) return NULL;
    dprintf(patience->error, "\"%s\" has not come to an end within %d s\n", patience->name,
            PATIENCE_S);
    for (int r = 0; r < N_RANKS; r++) {
        const char *what = __atomic_load_n(&places[r].what, __ATOMIC_RELAXED);
        dprintf(patience->error, "rank %d: call %d, %s\n", r,
                __atomic_load_n(&places[r].n, __ATOMIC_RELAXED), what != NULL ? what : "nothing");
    }
    ssize_t n = pread(patience->told, told, sizeof told, 0);
    dprintf(patience->error, "told: %.*s\n", n > 0 ? (int)n : 0, told);
    _exit(EXIT_FAILURE);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A creation with what was planted: what it came to, and what it told. */
static enum phx_status create(const char *name, struct outcome *outcome, char *told)
{
    FILE *file = tmpfile();
    struct patience patience = {.name = name, .error = dup(STDERR_FILENO)};
    const double since_s = now_s();
    pthread_t watch;
    assert_non_null(file);
    print_message("%s ...\n", name);
    patience.told = fileno(file);
    memset(places, 0, sizeof places);
    assert_int_equal(sem_init(&patience.ended, 0, 0), 0);
    assert_int_equal(pthread_create(&watch, NULL, lose_patience, &patience), 0);
    dup2(patience.told, STDERR_FILENO);
    enum phx_status status = phx_world_threads_run(N_RANKS, run_rank, outcome);
    dup2(patience.error, STDERR_FILENO);
    sem_post(&patience.ended);
    pthread_join(watch, NULL);
    sem_destroy(&patience.ended);
    close(patience.error);
    rewind(file);
    size_t n = fread(told, 1, TOLD_BYTES - 1, file);
    told[n] = '\0';
    fclose(file);
    memset(&planted, 0, sizeof planted);
    print_message("    \"%s\" in %.1f s\n", outcome->text, now_s() - since_s);
    return status;
}

/* `tells` NULL: nothing is told. */
static void expect(const char *name, enum phx_allreduce allreduce, const char *begins,
                   const char *tells)
{
    struct outcome outcome = {.allreduce = allreduce};
    char told[TOLD_BYTES];
    enum phx_status status = create(name, &outcome, told);
    if (status != PHX_OK) fail_msg("%s: %s: %s", name, phx_status_text(status), told);
    if (strncmp(outcome.text, begins, strlen(begins)) != 0)
        fail_msg("%s: \"%s\", expected \"%s\"; told: %s", name, outcome.text, begins, told);
    if (tells == NULL ? told[0] != '\0' : strstr(told, tells) == NULL)
        fail_msg("%s: told \"%s\", expected \"%s\"", name, told, tells != NULL ? tells : "");
}

static void test_nothing_planted(void **state)
{
    (void)state;
    expect("fused, nothing wrong", PHX_ALLREDUCE_FUSED, "fused", NULL);
    expect("symmetric, nothing wrong", PHX_ALLREDUCE_SYMMETRIC, "symmetric", NULL);
    expect("nccl, nothing wrong", PHX_ALLREDUCE_NCCL, "nccl", NULL);
}

static void test_fused_wrong(void **state)
{
    (void)state;
    const char *const wrong = "the fused all-reduce gives wrong sums";
    planted.fused_sum = true;
    expect("wrong fused sums", PHX_ALLREDUCE_FUSED, "symmetric", wrong);
    planted.fused_norm = true;
    expect("wrong fused norms", PHX_ALLREDUCE_FUSED, "symmetric", wrong);
    planted.fused_norm = planted.only_in_graphs = true;
    expect("wrong fused norms in graphs", PHX_ALLREDUCE_FUSED, "symmetric", "in a graph");
}

/* The other rank waits for a sum that does not come. */
static void test_fused_lost(void **state)
{
    (void)state;
    planted.fused_launch = true;
    expect("fused sums that cannot be launched", PHX_ALLREDUCE_FUSED, "symmetric", "planted");
    planted.fused_launch = planted.only_in_graphs = true;
    expect("fused sums that cannot be recorded", PHX_ALLREDUCE_FUSED, "symmetric", "planted");
    planted.fused_lost = true;
    expect("lost fused sums", PHX_ALLREDUCE_FUSED, "symmetric", "the fused all-reduce");
}

static void test_two_wrong(void **state)
{
    (void)state;
    const char *const wrong = "the symmetric all-reduce gives wrong sums";
    planted.fused_sum = planted.symmetric = true;
    expect("wrong fused and symmetric sums", PHX_ALLREDUCE_FUSED, "nccl", wrong);
    planted.symmetric = true;
    expect("wrong symmetric sums", PHX_ALLREDUCE_SYMMETRIC, "nccl", wrong);
    planted.fused_sum = planted.symmetric = true;
    expect("a choice without fused and symmetric sums", PHX_ALLREDUCE_AUTO, "nccl",
           "the fused all-reduce gives wrong sums");
}

static void test_all_wrong(void **state)
{
    (void)state;
    struct outcome outcome = {.allreduce = PHX_ALLREDUCE_AUTO};
    char told[TOLD_BYTES];
    planted.plain = true;
    assert_int_equal(create("wrong sums by NCCL", &outcome, told), PHX_COMM);
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
