#include "tests/parallel/comm_bench.h"

#include <string.h>

#include "kernels/backend.h"
#include "kernels/base/check.h"

enum phx_status comm_bench_open(struct bench *bench, struct phx_world *world,
                                const struct setting *setting)
{
    struct phx_device_options device = {.kind = PHX_DEVICE_CPU, .n_threads = 1, .compute = PHX_F32};
    struct phx_limits limits = {.max_rows = 64,
                                .max_seqs = 1,
                                .max_length = 1,
                                .max_in = 64,
                                .max_out = 64,
                                .max_vocab = 64,
                                .max_heads = 1,
                                .max_kv_heads = 1,
                                .max_head_dim = 8};
    struct phx_comm_options options = {.kind = setting->kind,
                                       .max_reduce_bytes = setting->max_bytes,
                                       .max_gather_bytes = setting->max_bytes};
    memset(bench, 0, sizeof *bench);
    PHX_TRY(phx_device_create(&device, &bench->device));
    if (setting->staged) bench->device->info.kind = PHX_DEVICE_CUDA;
    PHX_TRY(phx_stream_create(bench->device, &limits, &bench->stream));
    return phx_comm_create(world, bench->device, &options, &bench->comm);
}

void comm_bench_close(struct bench *bench, enum phx_status status)
{
    if (status == PHX_OK) phx_comm_finish(bench->comm);
    phx_comm_destroy(bench->comm);
    phx_stream_destroy(bench->stream);
    phx_device_destroy(bench->device);
}

/* A test: its body between open and close, on every rank. */
struct test {
    enum phx_status (*body)(struct phx_world *world, struct bench *bench, void *user);
    const struct setting *setting;
    void *user;
};

static enum phx_status run_rank(struct phx_world *world, void *user)
{
    const struct test *test = user;
    struct bench bench;
    enum phx_status status = comm_bench_open(&bench, world, test->setting);
    if (status == PHX_OK) status = test->body(world, &bench, test->user);
    comm_bench_close(&bench, status);
    return status;
}

enum phx_status comm_bench_run(int size, const struct setting *setting,
                               enum phx_status (*body)(struct phx_world *, struct bench *, void *),
                               void *user)
{
    struct test test = {body, setting, user};
    int ranks_per_node = setting->ranks_per_node > 0 ? setting->ranks_per_node : size;
    return phx_world_threads_run_on_nodes(size, ranks_per_node, run_rank, &test);
}
