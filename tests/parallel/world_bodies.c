#include "tests/parallel/world_bodies.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"
#include "tests/parallel/rank_check.h"

double body_now_s(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void body_sleep_ms(int ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

static uint64_t given(int rank, int i, int round)
{
    return phx_mix64((uint64_t)rank << 40 ^ (uint64_t)round << 20 ^ (uint64_t)i);
}

enum phx_status body_exchange(struct phx_world *world, void *user)
{
    (void)user;
    enum { N = 37, ROUNDS = 50 };
    uint64_t mine[N], all[BODY_MAX_SIZE * N];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++) mine[i] = given(world->rank, i, round);
        PHX_TRY(phx_world_allgather(world, mine, sizeof mine, all));
        for (int i = 0; i < N; i++) mine[i] = 0; /* what others still read must not be this */
        for (int r = 0; r < world->size; r++)
            for (int i = 0; i < N; i++) RANK_CHECK(all[r * N + i] == given(r, i, round));

        int root = round % world->size;
        if (world->rank == root)
            for (int i = 0; i < N; i++) mine[i] = given(-1, i, round);
        PHX_TRY(phx_world_broadcast(world, mine, sizeof mine, root));
        for (int i = 0; i < N; i++) RANK_CHECK(mine[i] == given(-1, i, round));
        PHX_TRY(phx_world_broadcast(world, NULL, 0, root));
    }
    return PHX_OK;
}

enum phx_status body_share(struct phx_world *world, void *user)
{
    (void)user;
    struct phx_shared first, second;
    PHX_TRY(phx_world_share(world, 5000, &first));
    PHX_TRY(phx_world_share(world, 8 * BODY_MAX_SIZE, &second));
    RANK_CHECK((uintptr_t)first.address % PHX_SHARED_ALIGNMENT == 0);
    RANK_CHECK(first.bytes == 5000 && second.bytes == 8 * BODY_MAX_SIZE);
    for (int i = 0; i < 5000; i++) RANK_CHECK(((char *)first.address)[i] == 0);
    PHX_TRY(phx_world_barrier(world));
    ((int64_t *)second.address)[world->node_rank] = 100 + world->rank;
    PHX_TRY(phx_world_barrier(world));
    for (int r = 0; r < BODY_MAX_SIZE; r++) {
        int64_t expected = r < world->node_size ? 100 + world->rank - world->node_rank + r : 0;
        RANK_CHECK(((int64_t *)second.address)[r] == expected);
    }
    return PHX_OK;
}

static size_t record_bytes(const struct record_stream *stream, int i)
{
    return 1 + phx_mix64((uint64_t)i) % stream->longest;
}

enum phx_status body_records(struct phx_world *world, void *user)
{
    const struct record_stream *stream = user;
    unsigned char *record = malloc(stream->longest);
    PHX_ASSERT(record != NULL);
    enum phx_status status = PHX_OK;
    for (int i = 0; i < stream->n_records && status == PHX_OK; i++) {
        size_t bytes = record_bytes(stream, i);
        unsigned char fill = (unsigned char)(i * 7 + 1);
        if (world->rank == 0) {
            memset(record, fill, bytes);
            status = phx_world_send_record(world, record, bytes);
            continue;
        }
        if (world->rank == stream->slow_rank && i % 64 == 0) body_sleep_ms(1);
        size_t received = 0;
        status = phx_world_receive_record(world, record, stream->longest, &received);
        bool right = received == bytes;
        for (size_t b = 0; right && b < bytes; b++) right = record[b] == fill;
        if (status == PHX_OK && !right)
            status = phx_fail(PHX_BAD_DATA, "record %d of rank %d", i, world->rank);
    }
    free(record);
    return status;
}

enum phx_status body_idle(struct phx_world *world, void *user)
{
    double *cpu_s = user;
    int record = 1;
    size_t bytes;
    if (world->rank == 0) {
        body_sleep_ms(400);
        return phx_world_send_record(world, &record, sizeof record);
    }
    double start_s = body_now_s(CLOCK_THREAD_CPUTIME_ID);
    PHX_TRY(phx_world_receive_record(world, &record, sizeof record, &bytes));
    cpu_s[world->rank] = body_now_s(CLOCK_THREAD_CPUTIME_ID) - start_s;
    return PHX_OK;
}
