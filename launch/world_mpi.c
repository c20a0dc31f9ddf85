#include "launch/world_mpi.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/mpi_launcher.h"
#include "parallel/record_ring.h"
#include "parallel/shard_plan.h"

enum {
    N_LETTERS = 4, /* records on their way to other nodes before a sender waits */
    MAX_COUNT = 1 << 30,
    FIRST_NAP_US = 20, /* of a node's leader that waits for a record; by and by longer, up to ... */
    LAST_NAP_US = 4000
};

/* A record on its way to the leaders of the other nodes. */
struct letter {
    char *data;
    size_t capacity;
    MPI_Request *requests; /* [n_leaders - 1] */
};

struct window {
    struct window *next;
    MPI_Win win;
};

struct mpi_world {
    struct phx_world base;
    MPI_Comm node;    /* the ranks of this node */
    MPI_Comm leaders; /* the first rank of each node; MPI_COMM_NULL on the others */
    int n_leaders;
    struct window *windows; /* the newest first, alike on all ranks of a node */
    struct phx_record_ring ring;
    struct letter letters[N_LETTERS]; /* rank 0, with several nodes */
    unsigned n_sent;
};

static struct mpi_world *of(struct phx_world *world)
{
    return (struct mpi_world *)world;
}

static enum phx_status check(int code, const char *doing)
{
    if (code == MPI_SUCCESS) return PHX_OK;
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length;
    MPI_Error_string(code, text, &length);
    return phx_fail(PHX_COMM, "MPI failed while %s: %s", doing, text);
}

static enum phx_status mpi_broadcast(struct phx_world *world, void *data, size_t bytes, int root)
{
    (void)world;
    for (size_t done = 0; done < bytes; done += MAX_COUNT) {
        size_t count = bytes - done < MAX_COUNT ? bytes - done : MAX_COUNT;
        PHX_TRY(check(MPI_Bcast((char *)data + done, (int)count, MPI_BYTE, root, MPI_COMM_WORLD),
                      "broadcasting"));
    }
    return PHX_OK;
}

static enum phx_status mpi_allgather(struct phx_world *world, const void *mine, size_t bytes,
                                     void *all)
{
    (void)world;
    PHX_ASSERT(bytes <= MAX_COUNT);
    return check(
        MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD),
        "gathering from all ranks");
}

static enum phx_status mpi_barrier(struct phx_world *world)
{
    (void)world;
    return check(MPI_Barrier(MPI_COMM_WORLD), "waiting for all ranks");
}

/* ---- shared memory ---- */

/* Mappings start at pages everywhere, so that all ranks round the address up by the same. */
static char *aligned(char *address)
{
    uintptr_t past = (uintptr_t)address % PHX_SHARED_ALIGNMENT;
    return past == 0 ? address : address + (PHX_SHARED_ALIGNMENT - past);
}

static enum phx_status allocate_window(struct mpi_world *self, size_t bytes, char **out)
{
    struct window *window = malloc(sizeof *window);
    PHX_ASSERT(window != NULL);
    MPI_Aint own_bytes = self->base.node_rank == 0 ? (MPI_Aint)bytes + PHX_SHARED_ALIGNMENT : 0;
    int unit, code;
    code = MPI_Win_allocate_shared(own_bytes, 1, MPI_INFO_NULL, self->node, out, &window->win);
    int mine = code == MPI_SUCCESS, all = 0;
    enum phx_status told = check(MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, self->node),
                                 "agreeing on shared memory");
    if (told != PHX_OK || !all) {
        free(window); /* one that some rank lacks can only be left to the end of the process */
        if (told != PHX_OK) return told;
        return phx_fail(PHX_OUT_OF_MEMORY,
                        "MPI cannot share %zu bytes between the ranks of this machine: is there "
                        "room in /dev/shm? (in a container: docker run --shm-size=1g)",
                        bytes);
    }
    window->next = self->windows;
    self->windows = window;
    return check(MPI_Win_shared_query(window->win, 0, &own_bytes, &unit, out),
                 "looking for shared memory");
}

/* Each rank zeroes a part, first touch: in comm_host.c's segments this is about its own part, which
 * then lies in the memory of its own processor. */
static enum phx_status mpi_share(struct phx_world *world, size_t bytes, struct phx_shared *out)
{
    struct mpi_world *self = of(world);
    char *address;
    PHX_TRY(allocate_window(self, bytes, &address));
    address = aligned(address);
    struct phx_interval own = phx_interval_share((int64_t)bytes, PHX_SHARED_ALIGNMENT,
                                                 world->node_size, world->node_rank);
    memset(address + own.begin, 0, (size_t)phx_interval_length(own));
    PHX_TRY(check(MPI_Barrier(self->node), "sharing memory"));
    *out = (struct phx_shared){address, bytes};
    return PHX_OK;
}

/* ---- records ---- */

static enum phx_status wait_for_letter(struct letter *letter, int n_leaders)
{
    return check(MPI_Waitall(n_leaders - 1, letter->requests, MPI_STATUSES_IGNORE),
                 "sending a record");
}

static enum phx_status post_letter(struct mpi_world *self, const void *record, size_t bytes)
{
    PHX_ASSERT(bytes <= INT_MAX);
    struct letter *letter = &self->letters[self->n_sent++ % N_LETTERS];
    PHX_TRY(wait_for_letter(letter, self->n_leaders));
    if (letter->capacity < bytes) {
        char *data = realloc(letter->data, bytes);
        PHX_ASSERT(data != NULL);
        letter->data = data;
        letter->capacity = bytes;
    }
    memcpy(letter->data, record, bytes);
    for (int l = 1; l < self->n_leaders; l++)
        PHX_TRY(check(MPI_Isend(letter->data, (int)bytes, MPI_BYTE, l, 0, self->leaders,
                                &letter->requests[l - 1]),
                      "sending a record"));
    return PHX_OK;
}

/* MPI would spin; a waiting leader sleeps and looks. */
static enum phx_status receive_letter(struct mpi_world *self, void *record, size_t capacity,
                                      size_t *out_bytes)
{
    MPI_Status status;
    int arrived = 0, count;
    for (int nap_us = FIRST_NAP_US;;) {
        PHX_TRY(check(MPI_Iprobe(0, 0, self->leaders, &arrived, &status), "expecting a record"));
        if (arrived) break;
        struct timespec nap = {.tv_nsec = nap_us * 1000L};
        nanosleep(&nap, NULL);
        if (nap_us < LAST_NAP_US) nap_us += nap_us / 4; /* a fifth of the wait so far */
    }
    MPI_Get_count(&status, MPI_BYTE, &count);
    PHX_ASSERT((size_t)count <= capacity);
    *out_bytes = (size_t)count;
    return check(MPI_Recv(record, count, MPI_BYTE, 0, 0, self->leaders, MPI_STATUS_IGNORE),
                 "receiving a record");
}

static enum phx_status mpi_send_record(struct phx_world *world, const void *record, size_t bytes)
{
    struct mpi_world *self = of(world);
    if (self->n_leaders > 1) PHX_TRY(post_letter(self, record, bytes));
    return phx_record_ring_send(&self->ring, record, bytes);
}

/* The first rank of another node passes the record on. */
static enum phx_status mpi_receive_record(struct phx_world *world, void *record, size_t capacity,
                                          size_t *out_bytes)
{
    struct mpi_world *self = of(world);
    if (world->node_rank > 0)
        return phx_record_ring_receive(&self->ring, world->node_rank - 1, record, capacity,
                                       out_bytes);
    PHX_TRY(receive_letter(self, record, capacity, out_bytes));
    return phx_record_ring_send(&self->ring, record, *out_bytes);
}

/* ---- the end ---- */

static void mpi_abort(struct phx_world *world, int exit_code)
{
    (void)world;
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    _exit(exit_code);
}

static void mpi_finish(struct phx_world *world)
{
    struct mpi_world *self = of(world);
    for (int i = 0; i < N_LETTERS && self->letters[i].requests != NULL; i++)
        wait_for_letter(&self->letters[i], self->n_leaders);
    for (struct window *w = self->windows; w != NULL; w = w->next) MPI_Win_free(&w->win);
    if (self->leaders != MPI_COMM_NULL) MPI_Comm_free(&self->leaders);
    MPI_Comm_free(&self->node);
    MPI_Finalize();
}

static void mpi_destroy(struct phx_world *world)
{
    struct mpi_world *self = of(world);
    while (self->windows != NULL) {
        struct window *window = self->windows;
        self->windows = window->next;
        free(window);
    }
    for (int i = 0; i < N_LETTERS; i++) {
        free(self->letters[i].data);
        free(self->letters[i].requests);
    }
    free(self);
}

static const struct phx_world_ops mpi_ops = {
    .name = "mpi",
    .broadcast = mpi_broadcast,
    .allgather = mpi_allgather,
    .barrier = mpi_barrier,
    .share = mpi_share,
    .send_record = mpi_send_record,
    .receive_record = mpi_receive_record,
    .aborted = NULL,
    .abort = mpi_abort,
    .finish = mpi_finish,
    .destroy = mpi_destroy,
};

/* ---- the beginning ---- */

/* Settings of Open MPI that suit what it is used for here; the user's own come first. */
static void set_defaults(void)
{
    /* Collective calls spin, and ranks may be more than processors. */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    /* Reading a peer's memory is forbidden in many containers, and large data does not go through
     * MPI within a node. */
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

static enum phx_status split_nodes(struct mpi_world *self, int ranks_per_node)
{
    struct phx_world *base = &self->base;
    int code = ranks_per_node > 0 ? MPI_Comm_split(MPI_COMM_WORLD, base->rank / ranks_per_node,
                                                   base->rank, &self->node)
                                  : MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED,
                                                        base->rank, MPI_INFO_NULL, &self->node);
    PHX_TRY(check(code, "finding the ranks of this machine"));
    MPI_Comm_rank(self->node, &base->node_rank);
    MPI_Comm_size(self->node, &base->node_size);
    int color = base->node_rank == 0 ? 0 : MPI_UNDEFINED;
    PHX_TRY(check(MPI_Comm_split(MPI_COMM_WORLD, color, base->rank, &self->leaders),
                  "finding the machines' first ranks"));
    if (base->rank == 0) MPI_Comm_size(self->leaders, &self->n_leaders);
    return PHX_OK;
}

/* Ranks may be bound to processors of their own: what counts is what all of them have together. */
static enum phx_status find_crowding(struct mpi_world *self)
{
    cpu_set_t own, all;
    CPU_ZERO(&own);
    CPU_ZERO(&all);
    int n_known = sched_getaffinity(0, sizeof own, &own) == 0;
    PHX_TRY(check(MPI_Allreduce(&own, &all, sizeof own, MPI_BYTE, MPI_BOR, self->node),
                  "counting processors"));
    self->base.crowded = n_known && CPU_COUNT(&all) < self->base.node_size;
    return PHX_OK;
}

static enum phx_status prepare_records(struct mpi_world *self)
{
    int n_readers = self->base.node_size - 1;
    struct phx_shared shared;
    PHX_TRY(phx_world_share(&self->base, phx_record_ring_bytes(n_readers), &shared));
    phx_record_ring_attach(&self->ring, shared.address, n_readers, &self->base);
    for (int i = 0; i < N_LETTERS && self->n_leaders > 1; i++) {
        size_t n = (size_t)self->n_leaders - 1;
        self->letters[i].requests = malloc(n * sizeof(MPI_Request));
        PHX_ASSERT(self->letters[i].requests != NULL);
        for (size_t l = 0; l < n; l++) self->letters[i].requests[l] = MPI_REQUEST_NULL;
    }
    return PHX_OK;
}

static enum phx_status prepare(struct mpi_world *self, int ranks_per_node)
{
    PHX_TRY(split_nodes(self, ranks_per_node));
    PHX_TRY(find_crowding(self));
    return prepare_records(self);
}

static enum phx_status start_mpi(int *argc, char ***argv, const struct phx_mpi_launcher *launcher,
                                 int *out_size)
{
    char name[MPI_MAX_LIBRARY_VERSION_STRING];
    int granted, length;
    set_defaults();
    PHX_TRY(check(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &granted), "starting"));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Get_library_version(name, &length);
    MPI_Comm_size(MPI_COMM_WORLD, out_size);
    enum phx_status status = phx_mpi_launcher_check(launcher, *out_size, name);
    if (status != PHX_OK) MPI_Finalize();
    return status;
}

enum phx_status phx_world_mpi_create_on_nodes(int *argc, char ***argv, int ranks_per_node,
                                              struct phx_world **out)
{
    struct phx_mpi_launcher launcher = phx_mpi_launcher_detect(getenv);
    if (launcher.program != NULL) prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (launcher.program == NULL || launcher.size == 1) {
        *out = phx_world_solo();
        return PHX_OK;
    }
    int rank, size;
    PHX_TRY(start_mpi(argc, argv, &launcher, &size));
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    phx_log_rank_set(rank);
    struct mpi_world *self = calloc(1, sizeof *self);
    PHX_ASSERT(self != NULL);
    self->base = (struct phx_world){.ops = &mpi_ops, .rank = rank, .size = size};
    self->node = self->leaders = MPI_COMM_NULL;
    enum phx_status status = phx_world_agree(&self->base, prepare(self, ranks_per_node));
    if (status != PHX_OK) {
        mpi_destroy(&self->base);
        return status;
    }
    *out = &self->base;
    return PHX_OK;
}

enum phx_status phx_world_mpi_create(int *argc, char ***argv, struct phx_world **out)
{
    return phx_world_mpi_create_on_nodes(argc, argv, 0, out);
}
