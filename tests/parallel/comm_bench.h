/* A communicator over ranks as threads, for tests of it. */
#ifndef PHX_TESTS_PARALLEL_COMM_BENCH_H
#define PHX_TESTS_PARALLEL_COMM_BENCH_H

#include "parallel/comm_impl.h"
#include "parallel/world_threads.h"

enum { MAX_SIZE = 8 }; /* of a world */

/* What the body of a rank works with. */
struct bench {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_comm *comm;
};

/* How the communicator of a test is made. */
struct setting {
    enum phx_comm_kind kind;
    int ranks_per_node; /* 0: all on one */
    bool staged;        /* pretend that the host cannot see the device's memory */
    size_t max_bytes;
};

static const struct setting near = {PHX_COMM_HOST, 0, false, 1 << 20};

/* Of one rank. Close it whatever came of opening it. */
enum phx_status comm_bench_open(struct bench *bench, struct phx_world *world,
                                const struct setting *setting);
void comm_bench_close(struct bench *bench, enum phx_status status);

/* `body` between open and close, on every rank of a world of `size`. */
enum phx_status comm_bench_run(int size, const struct setting *setting,
                               enum phx_status (*body)(struct phx_world *, struct bench *, void *),
                               void *user);

#endif
