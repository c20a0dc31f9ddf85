#include "runtime/seen_log.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/* What stands before the bytes of an entry, which are padded to a multiple of 8. */
struct head {
    struct phx_seen_key key;
    int32_t number; /* of the entry in its rank's log */
    uint64_t bytes;
};

struct log {
    char *bytes;
    size_t n, capacity;
};

struct indexed {
    int32_t rank;
    const struct head *head;
};

struct phx_seen_log {
    struct phx_world *world;
    struct log *logs; /* [T]: this rank's own; on rank 0, once gathered, all */
    int32_t n_entries;
    struct indexed *index; /* rank 0: sorted */
    size_t n_indexed;
};

enum phx_status phx_seen_log_create(struct phx_world *world, struct phx_seen_log **out)
{
    struct phx_seen_log *l = calloc(1, sizeof *l);
    if (l == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for what taps see");
    l->world = world;
    l->logs = calloc((size_t)world->size, sizeof *l->logs);
    if (l->logs == NULL) {
        phx_seen_log_destroy(l);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for what taps see");
    }
    *out = l;
    return PHX_OK;
}

void phx_seen_log_destroy(struct phx_seen_log *log)
{
    if (log == NULL) return;
    for (int r = 0; log->logs != NULL && r < log->world->size; r++) free(log->logs[r].bytes);
    free(log->logs);
    free(log->index);
    free(log);
}

static size_t padded(uint64_t bytes)
{
    return (size_t)(bytes + 7) & ~(size_t)7;
}

enum phx_status phx_seen_log_append(struct phx_seen_log *log, const struct phx_seen_key *key,
                                    size_t bytes, void **out)
{
    struct log *own = &log->logs[log->world->rank];
    struct head head = {.key = *key, .number = log->n_entries, .bytes = bytes};
    size_t need = own->n + sizeof head + padded(bytes);
    if (need > own->capacity) {
        size_t capacity = need > 2 * own->capacity ? need : 2 * own->capacity;
        char *grown = realloc(own->bytes, capacity);
        if (grown == NULL)
            return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of what taps see",
                            capacity);
        own->bytes = grown;
        own->capacity = capacity;
    }
    memcpy(own->bytes + own->n, &head, sizeof head);
    *out = own->bytes + own->n + sizeof head;
    memset((char *)*out + bytes, 0, padded(bytes) - bytes);
    own->n = need;
    log->n_entries++;
    return PHX_OK;
}

/* ---- gathering ---- */

static int order(int rank_a, const struct phx_seen_key *a, int rank_b, const struct phx_seen_key *b)
{
    const int32_t x[] = {rank_a, a->what, a->layer, a->slot, a->position, a->head};
    const int32_t y[] = {rank_b, b->what, b->layer, b->slot, b->position, b->head};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
}

static int order_in_time(const void *a, const void *b)
{
    const struct indexed *x = a, *y = b;
    int by_key = order(x->rank, &x->head->key, y->rank, &y->head->key);
    return by_key != 0 ? by_key : x->head->number < y->head->number ? -1 : 1;
}

static size_t list_entries(const struct phx_seen_log *l, struct indexed *to)
{
    size_t n = 0;
    for (int r = 0; r < l->world->size; r++) {
        for (size_t at = 0; at < l->logs[r].n;) {
            const struct head *head = (const struct head *)(l->logs[r].bytes + at);
            if (to != NULL) to[n] = (struct indexed){r, head};
            n++;
            at += sizeof *head + padded(head->bytes);
        }
    }
    return n;
}

static enum phx_status make_index(struct phx_seen_log *l)
{
    l->n_indexed = list_entries(l, NULL);
    l->index = malloc((l->n_indexed + 1) * sizeof *l->index);
    if (l->index == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to sort what taps saw");
    list_entries(l, l->index);
    qsort(l->index, l->n_indexed, sizeof *l->index, order_in_time);
    return PHX_OK;
}

/* A broadcast brings a rank's log to everybody; only rank 0 keeps it. */
static enum phx_status take_log(struct phx_seen_log *l, int rank, size_t bytes)
{
    struct log *log = &l->logs[rank];
    enum phx_status status = PHX_OK;
    if (rank != l->world->rank) {
        log->bytes = malloc(bytes + 1);
        log->n = bytes;
        if (log->bytes == NULL)
            status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of what rank %d saw",
                              bytes, rank);
    }
    PHX_TRY(phx_world_agree(l->world, status));
    status = phx_world_broadcast(l->world, log->bytes, bytes, rank);
    if (rank != l->world->rank && l->world->rank != 0) {
        free(log->bytes);
        *log = (struct log){0};
    }
    return status;
}

enum phx_status phx_seen_log_gather(struct phx_seen_log *log)
{
    struct phx_world *world = log->world;
    uint64_t mine = log->logs[world->rank].n;
    uint64_t *sizes = calloc((size_t)world->size, sizeof *sizes);
    enum phx_status status = PHX_OK;
    if (sizes == NULL) status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for what taps saw");
    PHX_TRY_GOTO(phx_world_agree(world, status), done);
    PHX_TRY_GOTO(phx_world_allgather(world, &mine, sizeof mine, sizes), done);
    for (int r = 1; r < world->size; r++) PHX_TRY_GOTO(take_log(log, r, (size_t)sizes[r]), done);
    status = phx_world_agree(world, world->rank == 0 ? make_index(log) : PHX_OK);
done:
    free(sizes);
    return status;
}

const void *phx_seen_log_find(const struct phx_seen_log *log, int rank,
                              const struct phx_seen_key *key, size_t *out_bytes)
{
    size_t low = 0, high = log->n_indexed; /* the last that is not after the key */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct indexed *at = &log->index[middle];
        if (order(at->rank, &at->head->key, rank, key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0) return NULL;
    const struct indexed *last = &log->index[low - 1];
    if (order(last->rank, &last->head->key, rank, key) != 0) return NULL;
    if (out_bytes != NULL) *out_bytes = (size_t)last->head->bytes;
    return last->head + 1;
}
