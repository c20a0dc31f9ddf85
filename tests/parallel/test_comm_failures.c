/* Communicators that fail: a rank that is gone, one that fails alone while they are made, a kind
 * that is not there. */
#include "tests/support/check.h"

#include <string.h>
#include <time.h>

#include "tests/parallel/comm_bench.h"
#include "tests/parallel/rank_check.h"

struct loss {
    int64_t n;
    bool own_buffer;
    enum phx_status seen[MAX_SIZE];
};

static enum phx_status lose_a_peer(struct phx_world *world, struct bench *bench, void *user)
{
    struct loss *loss = user;
    struct phx_buffer *buffer;
    PHX_TRY(phx_comm_buffer(bench->comm, (size_t)loss->n * sizeof(float), &buffer));
    struct phx_tensor x = phx_tensor_view(buffer, 0, PHX_F32, 1, loss->n);
    PHX_TRY(phx_comm_all_reduce(bench->comm, bench->stream, x));
    if (world->rank == 1) {
        struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
        return phx_fail(PHX_DEVICE, "rank 1 is gone");
    }
    loss->seen[world->rank] = phx_comm_all_reduce(bench->comm, bench->stream, x);
    return loss->seen[world->rank];
}

static void test_no_wait_outlives_its_peers(void **state)
{
    (void)state;
    struct setting nodes = {PHX_COMM_HOST, 2, false, 1 << 10};
    const struct setting *settings[] = {&near, &nodes};
    for (size_t s = 0; s < 2; s++)
        for (int64_t n = 100; n < 1000000; n *= 100) {
            struct loss loss = {.n = n};
            assert_int_equal(comm_bench_run(4, settings[s], lose_a_peer, &loss), PHX_DEVICE);
            assert_string_equal(phx_fail_sentence(), "rank 1 is gone");
            for (int r = 0; r < 4; r++)
                if (r != 1) assert_int_equal(loss.seen[r], PHX_PEER);
        }
}

static enum phx_status need_nccl(struct phx_world *world, void *user)
{
    (void)user;
    struct bench bench;
    struct setting setting = {.kind = PHX_COMM_NCCL};
    enum phx_status status = comm_bench_open(&bench, world, &setting);
    RANK_CHECK(status == PHX_UNSUPPORTED && bench.comm == NULL); /* and all ranks were told */
    comm_bench_close(&bench, status);
    return PHX_OK;
}

/* A rank that fails alone in one of the phases of phx_comm_create(). */
struct planted {
    bool in_create;
    int rank;
    enum phx_status seen[MAX_SIZE];
};

static _Thread_local const struct planted *planted;

static enum phx_status fail_if_planted(int rank, bool in_create)
{
    if (planted->in_create != in_create || planted->rank != rank) return PHX_OK;
    return phx_fail(PHX_DEVICE, "not an error, a test of failing alone");
}

static enum phx_status create_or_fail(struct phx_world *world, struct phx_device *device,
                                      const struct phx_comm_options *options, struct phx_comm **out)
{
    PHX_TRY(fail_if_planted(world->rank, true));
    return phx_comm_host.create(world, device, options, out);
}

static enum phx_status connect_or_fail(struct phx_comm *comm)
{
    PHX_TRY(phx_comm_host.connect(comm));
    return fail_if_planted(comm->world->rank, false);
}

static enum phx_status fail_alone(struct phx_world *world, void *user)
{
    struct planted *p = user;
    struct phx_comm_ops ops = phx_comm_host;
    struct phx_comm *comm = NULL;
    struct phx_device *device;
    const struct phx_comm_options options = {.kind = PHX_COMM_HOST, .max_reduce_bytes = 1000};
    planted = p;
    ops.create = create_or_fail;
    ops.connect = connect_or_fail;
    PHX_TRY(phx_device_create(&(struct phx_device_options){.kind = PHX_DEVICE_CPU, .n_threads = 1},
                              &device));
    p->seen[world->rank] = phx_comm_create_as(&ops, world, device, &options, &comm);
    RANK_CHECK(comm == NULL && phx_fail_sentence()[0] == '\0');
    phx_device_destroy(device);
    return PHX_OK;
}

static void test_ranks_fail_together(void **state)
{
    (void)state;
    for (int ranks_per_node = 2; ranks_per_node <= 3; ranks_per_node++)
        for (int in_create = 0; in_create < 2; in_create++)
            for (int rank = 0; rank < 3; rank++) {
                struct planted p = {in_create, rank, {0}};
                assert_ok(phx_world_threads_run_on_nodes(3, ranks_per_node, fail_alone, &p));
                for (int r = 0; r < 3; r++)
                    assert_int_equal(p.seen[r], r == rank ? PHX_DEVICE : PHX_PEER);
            }
}

/* Without a GPU, or in a build without NCCL. */
static void test_no_nccl_on_the_cpu(void **state)
{
    (void)state;
    assert_ok(phx_world_threads_run(1, need_nccl, NULL));
    phx_comm_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_wait_outlives_its_peers),
        cmocka_unit_test(test_ranks_fail_together),
        cmocka_unit_test(test_no_nccl_on_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
