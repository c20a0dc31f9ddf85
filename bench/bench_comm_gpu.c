/* All-reduce between GPUs, one a rank, in each of the ways that a communicator knows.
 *
 *     mpirun -np 2 [options] bench_comm_gpu [-b MIN] [-e MAX] [-f FACTOR] [-j]    sizes as 8, 64K,
 * 4M
 *
 * Each number is the median over launches of a graph, in which sums in bf16 follow each other, each
 * in place of the one before: dependent, as the layers of a model are. `with norm` is the same with
 * residual and norm, phx_comm_reduce_norm(), of rows of 4096. The sums timed are of zeros, which
 * take as long as any; `#wrong` counts the wrong values among sums of small whole numbers, alone
 * and with residual and norm. The ways are NCCL's, ours between GPUs, and last the sum through the
 * hosts, which no graph can hold. The table is that of nccl-tests; -j: an object a line. A wrong
 * value anywhere makes the program fail. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/comm_table.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/base/random.h"
#include "launch/world_mpi.h"
#include "parallel/comm.h"

enum {
    COLS = 4096,
    REPEATS = 11, /* odd for the median */
    SMALLEST = 1 << 10,
    LARGEST = 64 << 20
};

static const char *const names[] = {"auto", "nccl", "symmetric", "fused"};

struct bench {
    struct phx_world *world;
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_event *begin, *end;
    struct phx_comm *comm;
    struct phx_buffer *buffer, *residual, *weight, *out;
    uint16_t *values; /* bf16, of the largest sum */
    float *floats;    /* likewise */
    const struct comm_sizes *sizes;
    const char *way;
};

static struct phx_reduce_norm operands(const struct bench *bench, int64_t n)
{
    const int64_t cols = n < COLS ? n : COLS, rows = n / cols;
    return (struct phx_reduce_norm){
        .partial = phx_tensor_view(bench->buffer, 0, PHX_BF16, rows, cols),
        .residual = phx_tensor_view(bench->residual, 0, PHX_F32, rows, cols),
        .start = true,
        .weight = phx_tensor_view(bench->weight, 0, PHX_F32, 1, cols),
        .epsilon = 1e-5f,
        .out = phx_tensor_view(bench->out, 0, PHX_BF16, rows, cols),
    };
}

static enum phx_status run_chain(struct bench *bench, int64_t n, bool norm, int chain)
{
    const struct phx_reduce_norm args = operands(bench, n);
    for (int i = 0; i < chain; i++)
        PHX_TRY(norm ? phx_comm_reduce_norm(bench->comm, bench->stream, &args)
                     : phx_comm_all_reduce(bench->comm, bench->stream, args.partial));
    return PHX_OK;
}

/* NULL where the ranks' hosts add, which cannot be recorded. */
static enum phx_status record(struct bench *bench, int64_t n, bool norm, int chain,
                              struct phx_graph **out)
{
    *out = NULL;
    if (!phx_comm_recordable(bench->comm)) return PHX_OK;
    PHX_TRY(phx_graph_begin(bench->stream));
    PHX_TRY(run_chain(bench, n, norm, chain));
    return phx_graph_end(bench->stream, out);
}

static enum phx_status launch(struct bench *bench, struct phx_graph *graph, int64_t n, bool norm,
                              int chain)
{
    return graph != NULL ? phx_graph_launch(graph, bench->stream)
                         : run_chain(bench, n, norm, chain);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum phx_status time_sum(struct bench *bench, int64_t n, bool norm, double *out_us)
{
    const int chain = n > 1 << 20 ? 10 : 100;
    double us[REPEATS];
    struct phx_graph *graph;
    PHX_TRY(phx_buffer_zero(bench->stream, bench->buffer, 0, (size_t)n * 2));
    PHX_TRY(record(bench, n, norm, chain, &graph));
    for (int i = -2; i < REPEATS; i++) { /* the first two warm up */
        float ms;
        PHX_TRY(phx_event_record(bench->begin, bench->stream));
        PHX_TRY(launch(bench, graph, n, norm, chain));
        PHX_TRY(phx_event_record(bench->end, bench->stream));
        PHX_TRY(phx_stream_synchronize(bench->stream));
        PHX_TRY(phx_event_elapsed_ms(bench->begin, bench->end, &ms));
        us[i < 0 ? 0 : i] = (double)ms * 1e3 / chain;
    }
    phx_graph_destroy(graph);
    qsort(us, REPEATS, sizeof *us, compare);
    *out_us = us[REPEATS / 2];
    return PHX_OK;
}

static float value_of(int rank, int64_t i)
{
    return (float)((int)(phx_mix64((uint64_t)rank << 40 ^ (uint64_t)i) % 15) - 7);
}

static float sum_of(const struct bench *bench, int64_t i)
{
    float sum = 0;
    for (int r = 0; r < bench->world->size; r++) sum += value_of(r, i);
    return sum;
}

/* Of this rank. */
static enum phx_status count_wrong(struct bench *bench, int64_t n, int64_t *out)
{
    const struct phx_tensor x = operands(bench, n).partial;
    struct phx_graph *graph;
    for (int64_t i = 0; i < n; i++)
        bench->values[i] = phx_bf16_from_f32(value_of(bench->world->rank, i));
    PHX_TRY(phx_tensor_upload(bench->stream, x, bench->values));
    PHX_TRY(record(bench, n, false, 1, &graph));
    PHX_TRY(launch(bench, graph, n, false, 1));
    PHX_TRY(phx_tensor_download(bench->stream, x, bench->values));
    PHX_TRY(phx_stream_synchronize(bench->stream));
    phx_graph_destroy(graph);
    *out = 0;
    for (int64_t i = 0; i < n; i++) *out += phx_f32_from_bf16(bench->values[i]) != sum_of(bench, i);
    return PHX_OK;
}

/* Of a sum with residual and norm: the residual is the sum itself, and the output is that over its
 * root mean square, as far as two roundings to bf16 go. */
static enum phx_status count_wrong_norm(struct bench *bench, int64_t n, int64_t *out)
{
    const struct phx_reduce_norm args = operands(bench, n);
    const int64_t rows = args.partial.rows, cols = args.partial.cols;
    struct phx_graph *graph;
    for (int64_t i = 0; i < n; i++)
        bench->values[i] = phx_bf16_from_f32(value_of(bench->world->rank, i));
    for (int64_t i = 0; i < cols; i++) bench->floats[i] = 1;
    PHX_TRY(phx_tensor_upload(bench->stream, args.weight, bench->floats));
    PHX_TRY(phx_stream_synchronize(bench->stream));
    PHX_TRY(phx_tensor_upload(bench->stream, args.partial, bench->values));
    PHX_TRY(record(bench, n, true, 1, &graph));
    PHX_TRY(launch(bench, graph, n, true, 1));
    PHX_TRY(phx_tensor_download(bench->stream, args.out, bench->values));
    PHX_TRY(phx_tensor_download(bench->stream, args.residual, bench->floats));
    PHX_TRY(phx_stream_synchronize(bench->stream));
    phx_graph_destroy(graph);
    for (int64_t row = 0; row < rows; row++) {
        double squares = 0;
        for (int64_t i = row * cols; i < (row + 1) * cols; i++) {
            double sum = (double)sum_of(bench, i);
            squares += sum * sum;
        }
        const double root = sqrt(squares / (double)cols + (double)args.epsilon);
        for (int64_t i = row * cols; i < (row + 1) * cols; i++) {
            const float sum = sum_of(bench, i);
            const double expected = (double)sum / root;
            double apart = fabs((double)phx_f32_from_bf16(bench->values[i]) - expected);
            *out += bench->floats[i] != sum || !(apart <= fabs(expected) / 100);
        }
    }
    return PHX_OK;
}

/* Rank 0 prints. `n_wrong` grows by those of all ranks. */
static enum phx_status run_size(struct bench *bench, size_t bytes, int64_t *n_wrong)
{
    const int64_t n = (int64_t)(bytes / 2);
    double sum_us, norm_us;
    int64_t mine, wrong = 0;
    int64_t *all = calloc((size_t)bench->world->size, sizeof *all);
    PHX_ASSERT(all != NULL);
    PHX_TRY(count_wrong(bench, n, &mine));
    PHX_TRY(count_wrong_norm(bench, n, &mine));
    PHX_TRY(phx_world_allgather(bench->world, &mine, sizeof mine, all));
    for (int r = 0; r < bench->world->size; r++) wrong += all[r];
    free(all);
    PHX_TRY(time_sum(bench, n, false, &sum_us));
    PHX_TRY(time_sum(bench, n, true, &norm_us));
    *n_wrong += wrong;
    if (bench->world->rank != 0) return PHX_OK;
    comm_table_row(bench->sizes, &(struct comm_row){.way = bench->way,
                                                    .type = "bfloat16",
                                                    .bytes = bytes,
                                                    .element_bytes = 2,
                                                    .size = bench->world->size,
                                                    .us = sum_us,
                                                    .n_wrong = wrong,
                                                    .norm_us = norm_us});
    return PHX_OK;
}

static enum phx_status run_way(struct bench *bench, enum phx_comm_kind kind, enum phx_allreduce way,
                               const struct comm_sizes *sizes, int64_t *n_wrong)
{
    const size_t largest = sizes->largest;
    char text[64], name[128];
    PHX_TRY(phx_comm_create(
        bench->world, bench->device,
        &(struct phx_comm_options){.kind = kind, .allreduce = way, .max_reduce_bytes = largest},
        &bench->comm));
    PHX_TRY(phx_comm_buffer(bench->comm, largest, &bench->buffer));
    phx_comm_describe(bench->comm, text, sizeof text);
    bench->way = kind == PHX_COMM_HOST ? "host" : names[way];
    snprintf(name, sizeof name, "%s: %s", bench->way, text);
    if (bench->world->rank == 0) comm_table_head(sizes, name, "with norm");
    for (size_t bytes = sizes->smallest; bytes <= largest; bytes *= (size_t)sizes->factor)
        PHX_TRY(run_size(bench, bytes, n_wrong));
    phx_comm_finish(bench->comm);
    phx_comm_destroy(bench->comm);
    return PHX_OK;
}

static enum phx_status run(struct phx_world *world, const struct comm_sizes *sizes)
{
    const size_t largest = sizes->largest;
    struct bench own = {.world = world, .sizes = sizes}, *bench = &own;
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device_info info;
    const size_t floats = largest / 2 * sizeof(float);
    int64_t n_wrong = 0;
    options.ordinal = world->node_rank;
    options.compute = PHX_BF16;
    PHX_TRY(phx_device_create(&options, &bench->device));
    PHX_TRY(phx_stream_create(
        bench->device, &(struct phx_limits){.max_rows = (int32_t)(largest / 2)}, &bench->stream));
    PHX_TRY(phx_event_create(bench->device, &bench->begin));
    PHX_TRY(phx_event_create(bench->device, &bench->end));
    PHX_TRY(phx_buffer_create(bench->device, floats, &bench->residual));
    PHX_TRY(phx_buffer_create(bench->device, COLS * sizeof(float), &bench->weight));
    PHX_TRY(phx_buffer_create(bench->device, largest, &bench->out));
    bench->values = malloc(largest);
    bench->floats = malloc(floats > COLS * sizeof(float) ? floats : COLS * sizeof(float));
    PHX_ASSERT(bench->values != NULL && bench->floats != NULL);
    phx_device_info(bench->device, &info);
    if (world->rank == 0 && !sizes->json) printf("# %d x %s\n", world->size, info.name);
    for (int way = PHX_ALLREDUCE_NCCL; way <= PHX_ALLREDUCE_FUSED; way++)
        PHX_TRY(run_way(bench, PHX_COMM_NCCL, (enum phx_allreduce)way, sizes, &n_wrong));
    PHX_TRY(run_way(bench, PHX_COMM_NCCL, PHX_ALLREDUCE_AUTO, sizes, &n_wrong));
    PHX_TRY(run_way(bench, PHX_COMM_HOST, PHX_ALLREDUCE_AUTO, sizes, &n_wrong));
    free(bench->values);
    free(bench->floats);
    phx_buffer_destroy(bench->residual);
    phx_buffer_destroy(bench->weight);
    phx_buffer_destroy(bench->out);
    phx_event_destroy(bench->begin);
    phx_event_destroy(bench->end);
    phx_stream_destroy(bench->stream);
    phx_device_destroy(bench->device);
    return n_wrong == 0 ? PHX_OK : phx_fail(PHX_COMM, "sums came out wrong");
}

int main(int argc, char **argv)
{
    struct phx_world *world = NULL;
    struct comm_sizes sizes = {SMALLEST, LARGEST, 2, false};
    enum phx_status status = phx_world_mpi_create(&argc, &argv, &world);
    if (status == PHX_OK) status = phx_world_agree(world, comm_sizes_parse(argc, argv, &sizes));
    if (status == PHX_OK && world->size < 2)
        status =
            phx_fail(PHX_USAGE, "nothing to measure with one rank: mpirun -np 2 bench_comm_gpu");
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
