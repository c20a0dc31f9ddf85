/* Worlds without MPI: a rank alone, and ranks as threads. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "parallel/record_ring.h"
#include "parallel/world_threads.h"
#include "tests/parallel/rank_check.h"
#include "tests/parallel/world_bodies.h"

enum { MAX_SIZE = BODY_MAX_SIZE };

static void expect_ok(enum phx_status status)
{
    if (status != PHX_OK) fail_msg("%s: %s", phx_status_text(status), phx_fail_sentence());
}

/* ---- collective calls ---- */

static enum phx_status count_at_barriers(struct phx_world *world, void *user)
{
    int *n_arrived = user;
    for (int round = 1; round <= 100; round++) {
        __atomic_fetch_add(n_arrived, 1, __ATOMIC_RELAXED);
        PHX_TRY(phx_world_barrier(world));
        RANK_CHECK(__atomic_load_n(n_arrived, __ATOMIC_RELAXED) >= round * world->size);
        PHX_TRY(phx_world_barrier(world));
    }
    return PHX_OK;
}

static void test_collectives(void **state)
{
    (void)state;
    for (int size = 1; size <= MAX_SIZE; size++) {
        int n_arrived = 0;
        expect_ok(phx_world_threads_run(size, body_exchange, NULL));
        expect_ok(phx_world_threads_run(size, count_at_barriers, &n_arrived));
        expect_ok(phx_world_threads_run(size, body_share, NULL));
    }
}

static enum phx_status check_nodes(struct phx_world *world, void *user)
{
    const int *ranks_per_node = user;
    int node = world->rank / *ranks_per_node;
    int first = node * *ranks_per_node;
    int left = world->size - first;
    RANK_CHECK(world->node_rank == world->rank - first);
    RANK_CHECK(world->node_size == (left < *ranks_per_node ? left : *ranks_per_node));
    PHX_TRY(body_share(world, NULL));
    return body_exchange(world, NULL);
}

static void test_pretended_nodes(void **state)
{
    (void)state;
    for (int size = 2; size <= 7; size++)
        for (int ranks_per_node = 1; ranks_per_node <= 4; ranks_per_node++)
            expect_ok(
                phx_world_threads_run_on_nodes(size, ranks_per_node, check_nodes, &ranks_per_node));
}

/* ---- agree ---- */

/* What is written to stderr while `run` runs. */
static void capture_stderr(void (*run)(void *), void *user, char *text, size_t capacity)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    run(user);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    text[fread(text, 1, capacity - 1, file)] = '\0';
    fclose(file);
}

struct phase {
    int size;
    enum phx_status statuses[MAX_SIZE]; /* of each rank's phase */
    enum phx_status agreed[MAX_SIZE];   /* what came back */
    bool sentence_left[MAX_SIZE];
};

static enum phx_status end_phase(struct phx_world *world, void *user)
{
    struct phase *phase = user;
    enum phx_status mine = phase->statuses[world->rank];
    if (mine != PHX_OK && mine != PHX_PEER)
        phx_fail(mine, "sentence of rank %d with 100%%s", world->rank);
    phase->agreed[world->rank] = phx_world_agree(world, mine);
    phase->sentence_left[world->rank] = phx_fail_sentence()[0] != '\0';
    return PHX_OK;
}

static void run_phase(void *user)
{
    struct phase *phase = user;
    expect_ok(phx_world_threads_run(phase->size, end_phase, phase));
}

static void expect_phase(struct phase *phase, const char *expected_stderr)
{
    char text[4096];
    bool all_ok = true;
    capture_stderr(run_phase, phase, text, sizeof text);
    assert_string_equal(text, expected_stderr);
    for (int r = 0; r < phase->size; r++) all_ok = all_ok && phase->statuses[r] == PHX_OK;
    for (int r = 0; r < phase->size; r++) {
        enum phx_status own = phase->statuses[r];
        assert_int_equal(phase->agreed[r], all_ok || own != PHX_OK ? own : PHX_PEER);
        assert_false(phase->sentence_left[r]);
    }
}

static void test_agree(void **state)
{
    (void)state;
    expect_phase(&(struct phase){.size = 4}, "");
    expect_phase(&(struct phase){.size = 4, .statuses = {[2] = PHX_IO}},
                 "phalanx[2]: error: sentence of rank 2 with 100%s\n");
    expect_phase(&(struct phase){.size = 5, .statuses = {[4] = PHX_USAGE, [1] = PHX_DEVICE}},
                 "phalanx[1]: error: sentence of rank 1 with 100%s\n");
    /* Rank 0 failed because rank 3 did. */
    expect_phase(&(struct phase){.size = 4, .statuses = {[0] = PHX_PEER, [3] = PHX_NOT_FOUND}},
                 "phalanx[3]: error: sentence of rank 3 with 100%s\n");
    expect_phase(&(struct phase){.size = 3, .statuses = {[1] = PHX_PEER}},
                 "phalanx[1]: error: another rank failed\n");
    expect_phase(&(struct phase){.size = 1, .statuses = {PHX_IO}},
                 "phalanx[0]: error: sentence of rank 0 with 100%s\n");
}

/* ---- records ---- */

static void test_records(void **state)
{
    (void)state;
    for (int size = 1; size <= 5; size++) {
        struct record_stream small = {2000, 300, size - 1};
        struct record_stream large = {40, 700000, size - 1}; /* longer than the ring */
        expect_ok(phx_world_threads_run(size, body_records, &small));
        expect_ok(phx_world_threads_run(size, body_records, &large));
    }
    struct record_stream across_nodes = {500, 300, 1};
    expect_ok(phx_world_threads_run_on_nodes(5, 2, body_records, &across_nodes));
}

static void test_idle_followers_sleep(void **state)
{
    (void)state;
    double cpu_s[3] = {0};
    expect_ok(phx_world_threads_run(3, body_idle, cpu_s));
    assert_true(cpu_s[1] < 0.02 && cpu_s[2] < 0.02);
}

/* ---- failure ---- */

enum where { IN_BARRIER, IN_ALLGATHER, IN_BROADCAST, IN_SHARE, IN_RECEIVE, IN_SEND, N_PLACES };

struct disaster {
    enum where where;
    bool by_abort;
    enum phx_status seen[MAX_SIZE]; /* what the waiting ranks were told */
    enum phx_status later[MAX_SIZE];
};

static enum phx_status wait_somewhere(struct phx_world *world, enum where where)
{
    char small[MAX_SIZE] = {0};
    size_t bytes;
    struct phx_shared shared;
    switch (where) {
    case IN_BARRIER:
        return phx_world_barrier(world);
    case IN_ALLGATHER:
        return phx_world_allgather(world, small, 1, small);
    case IN_BROADCAST:
        return phx_world_broadcast(world, small, 1, 1);
    case IN_SHARE:
        return phx_world_share(world, 100, &shared);
    case IN_RECEIVE:
        if (world->rank == 0) return phx_world_barrier(world);
        return phx_world_receive_record(world, small, sizeof small, &bytes);
    default: /* IN_SEND: nobody reads, so that the ring fills up */
        if (world->rank != 0) return phx_world_barrier(world);
        for (;;) PHX_TRY(phx_world_send_record(world, small, sizeof small));
    }
}

static enum phx_status meet_disaster(struct phx_world *world, void *user)
{
    struct disaster *disaster = user;
    if (world->rank == 2) {
        body_sleep_ms(10);
        if (!disaster->by_abort) return phx_fail(PHX_DEVICE, "the device of rank 2 is on fire");
        phx_world_abort(world, 3);
        disaster->seen[2] = PHX_PEER;
    } else {
        disaster->seen[world->rank] = wait_somewhere(world, disaster->where);
    }
    RANK_CHECK(phx_world_aborted(world));
    disaster->later[world->rank] = phx_world_barrier(world);
    return PHX_PEER;
}

static void test_no_wait_outlives_its_peers(void **state)
{
    (void)state;
    for (int where = 0; where < N_PLACES; where++)
        for (int by_abort = 0; by_abort < 2; by_abort++) {
            struct disaster disaster = {.where = (enum where)where, .by_abort = by_abort};
            double start_s = body_now_s(CLOCK_MONOTONIC);
            enum phx_status status = phx_world_threads_run(4, meet_disaster, &disaster);
            assert_true(body_now_s(CLOCK_MONOTONIC) - start_s < 10);
            assert_int_equal(status, by_abort ? PHX_PEER : PHX_DEVICE);
            assert_string_equal(phx_fail_sentence(),
                                by_abort ? "" : "the device of rank 2 is on fire");
            for (int r = 0; r < 4; r++) {
                if (r == 2 && !by_abort) continue;
                assert_int_equal(disaster.seen[r], PHX_PEER);
                assert_int_equal(disaster.later[r], PHX_PEER);
            }
        }
}

static enum phx_status fail_in_turn(struct phx_world *world, void *user)
{
    (void)user;
    PHX_TRY(phx_world_barrier(world));
    if (world->rank == 1) return phx_fail(PHX_IO, "sentence 1");
    if (world->rank == 3) return phx_fail(PHX_USAGE, "sentence 3");
    PHX_TRY(phx_world_barrier(world));
    return PHX_OK;
}

static void test_lowest_sentence_is_kept(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(phx_world_threads_run(5, fail_in_turn, NULL), PHX_IO);
        assert_string_equal(phx_fail_sentence(), "sentence 1");
    }
}

/* ---- signals ---- */

enum { TURNS = 3000, PAUSE_TURNS = 500 };

struct table_tennis {
    struct phx_signal *signals;
    uint32_t start;
};

static enum phx_status play(struct phx_world *world, void *user)
{
    const struct table_tennis *game = user;
    struct phx_signal *own = &game->signals[world->rank], *other = &game->signals[1 - world->rank];
    for (uint32_t i = 1; i <= TURNS; i++) {
        uint32_t turn = game->start + i;
        if (i % PAUSE_TURNS == 0 && world->rank == 0) body_sleep_ms(2); /* rank 1 sleeps */
        if (world->rank == 0) phx_signal_set(own, turn);
        int spin_us = i % 3 == 0 ? 0 : 20;
        RANK_CHECK(phx_signal_wait(other, turn, world, spin_us));
        RANK_CHECK(__atomic_load_n(&other->value, __ATOMIC_RELAXED) == turn);
        if (world->rank == 1) phx_signal_set(own, turn);
    }
    return PHX_OK;
}

static void test_signals(void **state)
{
    (void)state;
    /* In the middle, at a pause, the counter passes 0 or the end of int32_t. */
    const uint32_t starts[] = {0, 0u - TURNS / 2, 0x80000000u - TURNS / 2};
    for (size_t s = 0; s < sizeof starts / sizeof starts[0]; s++) {
        struct phx_signal signals[2] = {{.value = starts[s]}, {.value = starts[s]}};
        struct table_tennis game = {signals, starts[s]};
        expect_ok(phx_world_threads_run(2, play, &game));
    }
}

/* ---- a rank alone ---- */

static void test_solo(void **state)
{
    (void)state;
    struct phx_world *world = phx_world_solo();
    assert_int_equal(world->rank, 0);
    assert_int_equal(world->size, 1);
    assert_int_equal(world->node_rank, 0);
    assert_int_equal(world->node_size, 1);
    expect_ok(body_exchange(world, NULL));
    expect_ok(body_share(world, NULL));
    expect_ok(phx_world_barrier(world));
    expect_ok(phx_world_send_record(world, "x", 1));
    expect_ok(phx_world_agree(world, PHX_OK));
    assert_false(phx_world_aborted(world));
    phx_world_finish(world);
    phx_world_destroy(world);
    phx_world_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_solo),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_collectives),
        cmocka_unit_test(test_pretended_nodes),
        cmocka_unit_test(test_agree),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_idle_followers_sleep),
        cmocka_unit_test(test_no_wait_outlives_its_peers),
        cmocka_unit_test(test_lowest_sentence_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
