#include "parallel/world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"

enum phx_status phx_world_broadcast(struct phx_world *world, void *data, size_t bytes, int root)
{
    PHX_ASSERT(root >= 0 && root < world->size && (data != NULL || bytes == 0));
    return world->ops->broadcast(world, data, bytes, root);
}

enum phx_status phx_world_allgather(struct phx_world *world, const void *mine, size_t bytes,
                                    void *all)
{
    PHX_ASSERT((mine != NULL && all != NULL) || bytes == 0);
    return world->ops->allgather(world, mine, bytes, all);
}

enum phx_status phx_world_barrier(struct phx_world *world)
{
    return world->ops->barrier(world);
}

enum phx_status phx_world_share(struct phx_world *world, size_t bytes, struct phx_shared *out)
{
    PHX_ASSERT(bytes > 0);
    return world->ops->share(world, bytes, out);
}

/* Of the ranks that can say what went wrong the lowest; failing that the lowest that failed. */
static int find_reporter(const int *statuses, int size)
{
    int reporter = -1;
    for (int r = size - 1; r >= 0; r--)
        if (statuses[r] != PHX_OK && statuses[r] != PHX_PEER) reporter = r;
    for (int r = size - 1; r >= 0 && reporter < 0; r--)
        if (statuses[r] != PHX_OK) reporter = r;
    return reporter;
}

enum phx_status phx_world_agree(struct phx_world *world, enum phx_status status)
{
    int mine = (int)status;
    int *statuses = calloc((size_t)world->size, sizeof *statuses);
    PHX_ASSERT(statuses != NULL);
    enum phx_status gathered = phx_world_allgather(world, &mine, sizeof mine, statuses);
    int reporter = gathered == PHX_OK ? find_reporter(statuses, world->size) : -1;
    free(statuses);
    if (gathered != PHX_OK) return status != PHX_OK ? status : gathered;
    if (reporter < 0) return PHX_OK;
    if (reporter == world->rank) {
        const char *sentence = phx_fail_sentence();
        phx_log(PHX_LOG_ERROR, "%s", sentence[0] != '\0' ? sentence : phx_status_text(status));
    }
    phx_fail_clear();
    return status != PHX_OK ? status : PHX_PEER;
}

enum phx_status phx_world_send_record(struct phx_world *world, const void *record, size_t bytes)
{
    PHX_ASSERT(world->rank == 0 && record != NULL && bytes > 0);
    return world->ops->send_record(world, record, bytes);
}

enum phx_status phx_world_receive_record(struct phx_world *world, void *record, size_t capacity,
                                         size_t *out_bytes)
{
    PHX_ASSERT(world->rank > 0 && record != NULL);
    return world->ops->receive_record(world, record, capacity, out_bytes);
}

void phx_world_abort(struct phx_world *world, int exit_code)
{
    world->ops->abort(world, exit_code);
}

bool phx_world_aborted(struct phx_world *world)
{
    return world->ops->aborted != NULL && world->ops->aborted(world);
}

void phx_world_finish(struct phx_world *world)
{
    world->ops->finish(world);
}

void phx_world_destroy(struct phx_world *world)
{
    if (world != NULL) world->ops->destroy(world);
}

/* ---- a job of one rank ---- */

struct solo_block {
    struct solo_block *next;
    _Alignas(PHX_SHARED_ALIGNMENT) char data[];
};

struct solo_world {
    struct phx_world base;
    struct solo_block *blocks;
};

static enum phx_status solo_broadcast(struct phx_world *world, void *data, size_t bytes, int root)
{
    (void)world, (void)data, (void)bytes, (void)root;
    return PHX_OK;
}

static enum phx_status solo_allgather(struct phx_world *world, const void *mine, size_t bytes,
                                      void *all)
{
    (void)world;
    if (bytes > 0) memcpy(all, mine, bytes);
    return PHX_OK;
}

static enum phx_status solo_barrier(struct phx_world *world)
{
    (void)world;
    return PHX_OK;
}

static enum phx_status solo_share(struct phx_world *world, size_t bytes, struct phx_shared *out)
{
    struct solo_world *solo = (struct solo_world *)world;
    size_t rounded = (bytes + PHX_SHARED_ALIGNMENT - 1) / PHX_SHARED_ALIGNMENT;
    size_t block_bytes = sizeof(struct solo_block) + rounded * PHX_SHARED_ALIGNMENT;
    struct solo_block *block = aligned_alloc(PHX_SHARED_ALIGNMENT, block_bytes);
    if (block == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes between ranks", bytes);
    memset(block, 0, block_bytes);
    block->next = solo->blocks;
    solo->blocks = block;
    *out = (struct phx_shared){block->data, bytes};
    return PHX_OK;
}

static enum phx_status solo_send_record(struct phx_world *world, const void *record, size_t bytes)
{
    (void)world, (void)record, (void)bytes;
    return PHX_OK;
}

static void solo_abort(struct phx_world *world, int exit_code)
{
    (void)world;
    _exit(exit_code);
}

static void solo_finish(struct phx_world *world)
{
    (void)world;
}

static void solo_destroy(struct phx_world *world)
{
    struct solo_world *solo = (struct solo_world *)world;
    while (solo->blocks != NULL) {
        struct solo_block *block = solo->blocks;
        solo->blocks = block->next;
        free(block);
    }
    free(solo);
}

static const struct phx_world_ops solo_ops = {
    .name = "solo",
    .broadcast = solo_broadcast,
    .allgather = solo_allgather,
    .barrier = solo_barrier,
    .share = solo_share,
    .send_record = solo_send_record,
    .receive_record = NULL, /* there is no rank but 0 */
    .aborted = NULL,
    .abort = solo_abort,
    .finish = solo_finish,
    .destroy = solo_destroy,
};

struct phx_world *phx_world_solo(void)
{
    struct solo_world *solo = calloc(1, sizeof *solo);
    PHX_ASSERT(solo != NULL);
    solo->base = (struct phx_world){.ops = &solo_ops, .size = 1, .node_size = 1};
    return &solo->base;
}
