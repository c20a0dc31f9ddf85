/* The world over MPI, and sums through its shared memory. Run under mpirun:
 *     test_world_mpi [ranks per pretended machine]
 *     test_world_mpi abort | leave     rank 1 ends the job while the others wait
 *     test_world_mpi share             rank 1 alone gets no shared memory: nobody waits for it */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/log.h"
#include "kernels/base/random.h"
#include "launch/world_mpi.h"
#include "parallel/comm.h"
#include "tests/parallel/rank_check.h"
#include "tests/parallel/world_bodies.h"

/* ---- sums ---- */

enum { N = 30000 }; /* more than one piece */

static float value(int rank, int round, int64_t i)
{
    return (float)(phx_mix64((uint64_t)rank << 56 ^ (uint64_t)round << 40 ^ (uint64_t)i) >> 40) *
           (rank % 2 == 0 ? 1e-3f : -0.7f);
}

static enum phx_status check_sums(struct phx_world *world, struct phx_comm *comm,
                                  struct phx_stream *stream, struct phx_buffer *buffer)
{
    for (int round = 0; round < 60; round++) {
        int64_t n = round % 3 == 0 ? N : 1 + 37 * round;
        struct phx_tensor x = phx_tensor_view(buffer, 0, PHX_F32, 1, n);
        float *data = phx_tensor_address(x);
        for (int64_t i = 0; i < n; i++) data[i] = value(world->rank, round, i);
        PHX_TRY(phx_comm_all_reduce(comm, stream, x));
        for (int64_t i = 0; i < n; i++) {
            float sum = value(0, round, i);
            for (int r = 1; r < world->size; r++) sum += value(r, round, i);
            RANK_CHECK(data[i] == sum);
        }
    }
    return PHX_OK;
}

static enum phx_status body_sums(struct phx_world *world, void *user)
{
    (void)user;
    struct phx_device_options device_options = {.kind = PHX_DEVICE_CPU, .n_threads = 1};
    struct phx_comm_options comm_options = {
        .kind = PHX_COMM_HOST, .max_reduce_bytes = N * sizeof(float), .max_gather_bytes = 0};
    struct phx_limits limits = {0};
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_comm *comm;
    struct phx_buffer *shared, *own;
    PHX_TRY(phx_device_create(&device_options, &device));
    PHX_TRY(phx_stream_create(device, &limits, &stream));
    PHX_TRY(phx_comm_create(world, device, &comm_options, &comm));
    PHX_TRY(phx_comm_buffer(comm, N * sizeof(float), &shared));
    PHX_TRY(phx_buffer_create(device, N * sizeof(float), &own));
    PHX_TRY(check_sums(world, comm, stream, shared));
    PHX_TRY(check_sums(world, comm, stream, own));
    phx_comm_finish(comm);
    phx_buffer_destroy(own);
    phx_comm_destroy(comm);
    phx_stream_destroy(stream);
    phx_device_destroy(device);
    return PHX_OK;
}

/* ---- the rest ---- */

static enum phx_status body_shape(struct phx_world *world, int ranks_per_node)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    int expected_size = size == NULL ? 1 : atoi(size);
    RANK_CHECK(world->size == expected_size);
    RANK_CHECK(world->rank == (rank == NULL ? 0 : atoi(rank)));
    int first = ranks_per_node > 0 ? world->rank / ranks_per_node * ranks_per_node : 0;
    int left = world->size - first;
    bool cut = ranks_per_node > 0 && ranks_per_node < left;
    RANK_CHECK(world->node_rank == world->rank - first);
    RANK_CHECK(world->node_size == (cut ? ranks_per_node : left));
    return PHX_OK;
}

static enum phx_status body_agree(struct phx_world *world)
{
    RANK_CHECK(phx_world_agree(world, PHX_OK) == PHX_OK);
    bool last = world->rank == world->size - 1;
    enum phx_status mine = last ? phx_fail(PHX_IO, "not an error, a test of agreeing") : PHX_OK;
    RANK_CHECK(phx_world_agree(world, mine) == (last ? PHX_IO : PHX_PEER));
    RANK_CHECK(phx_fail_sentence()[0] == '\0');
    return PHX_OK;
}

static enum phx_status body_all(struct phx_world *world, int ranks_per_node)
{
    struct record_stream small = {2000, 300, world->size - 1}, large = {20, 700000, 1};
    double cpu_s[BODY_MAX_SIZE] = {0};
    RANK_CHECK(world->size <= BODY_MAX_SIZE);
    PHX_TRY(body_shape(world, ranks_per_node));
    PHX_TRY(body_exchange(world, NULL));
    PHX_TRY(body_share(world, NULL));
    PHX_TRY(body_agree(world));
    PHX_TRY(body_sums(world, NULL));
    if (world->size == 1) return PHX_OK;
    PHX_TRY(body_records(world, &small));
    PHX_TRY(body_records(world, &large));
    PHX_TRY(phx_world_barrier(world));
    PHX_TRY(body_idle(world, cpu_s));
    RANK_CHECK(cpu_s[world->rank] < 0.03);
    return PHX_OK;
}

static bool share_fails;

/* MPI's profiling interface: this one is called instead. */
int MPI_Win_allocate_shared(MPI_Aint size, int unit, MPI_Info info, MPI_Comm comm, void *out,
                            MPI_Win *win)
{
    int code = PMPI_Win_allocate_shared(size, unit, info, comm, out, win);
    return share_fails ? MPI_ERR_NO_MEM : code;
}

static enum phx_status body_share_fails(struct phx_world *world)
{
    struct phx_device_options device_options = {.kind = PHX_DEVICE_CPU, .n_threads = 1};
    struct phx_comm_options options = {.kind = PHX_COMM_HOST, .max_reduce_bytes = 1000};
    struct phx_device *device;
    struct phx_comm *comm = NULL;
    PHX_TRY(phx_device_create(&device_options, &device));
    share_fails = world->rank == 1;
    enum phx_status status = phx_comm_create(world, device, &options, &comm);
    share_fails = false;
    RANK_CHECK(status == PHX_OUT_OF_MEMORY && comm == NULL);
    PHX_TRY(phx_comm_create(world, device, &options, &comm)); /* this time they all do */
    phx_comm_finish(comm);
    phx_comm_destroy(comm);
    phx_device_destroy(device);
    return PHX_OK;
}

static enum phx_status body_disaster(struct phx_world *world, bool abort)
{
    char record[8];
    size_t bytes;
    PHX_TRY(phx_world_barrier(world));
    if (world->rank == 1 && abort) phx_world_abort(world, 7);
    if (world->rank == 1) _exit(3);
    if (world->rank == 0) return phx_world_barrier(world);
    return phx_world_receive_record(world, record, sizeof record, &bytes);
}

int main(int argc, char **argv)
{
    struct phx_world *world = NULL;
    const char *mode = argc > 1 ? argv[1] : "0";
    int ranks_per_node = atoi(mode);
    enum phx_status status = phx_world_mpi_create_on_nodes(&argc, &argv, ranks_per_node, &world);
    if (status == PHX_OK) {
        if (strcmp(mode, "abort") == 0 || strcmp(mode, "leave") == 0)
            status = body_disaster(world, mode[0] == 'a');
        else if (strcmp(mode, "share") == 0)
            status = body_share_fails(world);
        else
            status = body_all(world, ranks_per_node);
    }
    if (status != PHX_OK) {
        phx_log(PHX_LOG_ERROR, "%s: %s", phx_status_text(status), phx_fail_sentence());
        if (world != NULL) phx_world_abort(world, 1);
        return 1;
    }
    phx_world_finish(world);
    phx_world_destroy(world);
    return 0;
}
