/* All-reduce between the ranks of a machine: the host communicator beside MPI_Allreduce.
 *
 *     mpirun -np 2 [options] bench_comm [-b MIN] [-e MAX] [-f FACTOR] [-j]  sizes as 8, 64K, 4M
 *
 * Each number is the median over chains of sums. Before each sum a rank writes its own values,
 * which need the sum before, as the product of a layer would: the data lies in its own caches. What
 * the writing takes alone is measured likewise and taken off. The contenders take turns, so that
 * whatever else the machine does meets all of them. The table is that of nccl-tests; -j: an
 * object a line. A wrong value anywhere makes the program fail. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/comm_table.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/verbs/bench_yardsticks.h"
#include "launch/world_mpi.h"
#include "parallel/comm.h"

enum {
    CHAIN = 8,          /* sums in a row */
    MAX_REPEATS = 201,  /* chains per size, odd for the median */
    SMALLEST = 2 << 10, /* bytes */
    LARGEST = 16 << 20
};

enum contender { NOTHING, HOST, MPI, N_CONTENDERS };

struct bench {
    struct phx_world *world;
    struct phx_stream *stream;
    struct phx_comm *comm;
    struct phx_buffer *buffer;
    double us[N_CONTENDERS][MAX_REPEATS];
    int64_t n_wrong[N_CONTENDERS];
};

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

/* Small whole numbers, other ones for each rank and turn. x - x is 0, but the processor must have x
 * to know. */
static void write_values(int rank, int turn, float *data, int64_t n)
{
    float add = (float)(rank * 7 + turn);
    for (int64_t i = 0; i < n; i++) data[i] = (float)(i & 1023) + add + (data[i] - data[i]);
}

static int64_t count_wrong(int size, int turn, const float *data, int64_t n)
{
    float add = 0;
    int64_t n_wrong = 0;
    for (int r = 0; r < size; r++) add += (float)(r * 7 + turn);
    for (int64_t i = 0; i < n; i++) n_wrong += data[i] != (float)(i & 1023) * (float)size + add;
    return n_wrong;
}

static enum phx_status run_chain(struct bench *bench, enum contender contender, int64_t n,
                                 double *out_us)
{
    struct phx_tensor x = phx_tensor_view(bench->buffer, 0, PHX_F32, 1, n);
    float *data = phx_tensor_address(x);
    memset(data, 0, (size_t)n * sizeof *data);
    PHX_TRY(phx_world_barrier(bench->world));
    double start_us = now_us();
    for (int turn = 0; turn < CHAIN; turn++) {
        write_values(bench->world->rank, turn, data, n);
        if (contender == HOST)
            PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
        else if (contender == MPI)
            MPI_Allreduce(MPI_IN_PLACE, data, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    *out_us = (now_us() - start_us) / CHAIN;
    if (contender != NOTHING)
        bench->n_wrong[contender] += count_wrong(bench->world->size, CHAIN - 1, data, n);
    return PHX_OK;
}

/* Rank 0 prints. `out_wrong` is of all ranks. */
static enum phx_status run_size(struct bench *bench, const struct comm_sizes *sizes, size_t bytes,
                                int64_t *out_wrong)
{
    int64_t n = (int64_t)(bytes / sizeof(float)), wrong[N_CONTENDERS];
    int repeats = bytes > 1 << 20 ? 15 : bytes > 1 << 16 ? 51 : MAX_REPEATS;
    memset(bench->n_wrong, 0, sizeof bench->n_wrong);
    for (int i = -2; i < repeats; i++) /* the first two warm up */
        for (int c = 0; c < N_CONTENDERS; c++)
            PHX_TRY(run_chain(bench, (enum contender)c, n, &bench->us[c][i < 0 ? 0 : i]));
    MPI_Allreduce(bench->n_wrong, wrong, N_CONTENDERS, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    *out_wrong = wrong[HOST] + wrong[MPI];
    if (bench->world->rank != 0) return PHX_OK;
    double writing_us = phx_bench_median(bench->us[NOTHING], repeats);
    for (int c = HOST; c <= MPI; c++)
        comm_table_row(
            sizes, &(struct comm_row){.way = c == HOST ? "host" : "mpi",
                                      .type = c == HOST ? "float" : "float, MPI",
                                      .bytes = bytes,
                                      .element_bytes = sizeof(float),
                                      .size = bench->world->size,
                                      .us = phx_bench_median(bench->us[c], repeats) - writing_us,
                                      .n_wrong = wrong[c]});
    return PHX_OK;
}

static enum phx_status run(struct phx_world *world, const struct comm_sizes *sizes)
{
    struct bench own = {.world = world}, *bench = &own;
    struct phx_device *device = NULL;
    int64_t n_wrong = 0;
    PHX_TRY(phx_device_create(&(struct phx_device_options){.kind = PHX_DEVICE_CPU, .n_threads = 1},
                              &device));
    PHX_TRY(phx_stream_create(device, &(struct phx_limits){0}, &bench->stream));
    PHX_TRY(phx_comm_create(
        world, device,
        &(struct phx_comm_options){.kind = PHX_COMM_HOST, .max_reduce_bytes = sizes->largest},
        &bench->comm));
    PHX_TRY(phx_comm_buffer(bench->comm, sizes->largest, &bench->buffer));
    if (world->rank == 0) {
        if (!sizes->json)
            printf("# %d ranks%s\n", world->size, world->crowded ? ", fewer processors" : "");
        comm_table_head(sizes, "host, and MPI_Allreduce (type: MPI) in turn with it", "");
    }
    for (size_t bytes = sizes->smallest; bytes <= sizes->largest && n_wrong == 0;
         bytes *= (size_t)sizes->factor)
        PHX_TRY(run_size(bench, sizes, bytes, &n_wrong));
    phx_comm_finish(bench->comm);
    phx_comm_destroy(bench->comm);
    phx_stream_destroy(bench->stream);
    phx_device_destroy(device);
    return n_wrong == 0 ? PHX_OK : phx_fail(PHX_COMM, "sums came out wrong");
}

int main(int argc, char **argv)
{
    struct phx_world *world = NULL;
    struct comm_sizes sizes = {SMALLEST, LARGEST, 2, false};
    enum phx_status status = phx_world_mpi_create(&argc, &argv, &world);
    if (status == PHX_OK) status = phx_world_agree(world, comm_sizes_parse(argc, argv, &sizes));
    if (status == PHX_OK && world->size < 2)
        status = phx_fail(PHX_USAGE, "nothing to measure with one rank: mpirun -np 2 bench_comm");
    if (status == PHX_OK) status = run(world, &sizes);
    if (status != PHX_OK) {
        if (phx_fail_sentence()[0] != '\0') phx_log(PHX_LOG_ERROR, "%s", phx_fail_sentence());
        if (world != NULL) phx_world_abort(world, 1);
        return 1;
    }
    phx_world_finish(world);
    phx_world_destroy(world);
    return 0;
}
