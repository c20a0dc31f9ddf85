#include "parallel/world_threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "parallel/record_ring.h"

/* What a rank brings to a collective call. */
enum call { CALL_BARRIER, CALL_BROADCAST, CALL_ALLGATHER, CALL_SHARE };
struct offer {
    enum call call;
    const void *data;
    size_t bytes;
    int root;
    void *memory; /* what the first rank of a node has allocated for it */
};

/* Ranks that meet: all, or those of a node. */
struct meeting {
    int first, n_ranks;
    int n_arrived;
    unsigned round;
};

struct block {
    struct block *next;
    void *address;
};

struct job {
    int size;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool aborted; /* written under the mutex, read atomically */
    struct meeting everyone;
    struct meeting *nodes; /* [n_nodes] */
    struct offer *offers;  /* [size], each written by its rank before a meeting */
    struct block *blocks;  /* shared memory */
    void *ring_memory;
    enum phx_status (*body)(struct phx_world *world, void *user);
    void *user;
};

struct thread_world {
    struct phx_world base;
    struct job *job;
    struct meeting *node;
    struct phx_record_ring ring;
    pthread_t thread;
    enum phx_status status;
    char sentence[PHX_SENTENCE_BYTES];
};

static struct thread_world *of(struct phx_world *world)
{
    return (struct thread_world *)world;
}

static bool is_aborted(struct phx_world *world)
{
    return __atomic_load_n(&of(world)->job->aborted, __ATOMIC_ACQUIRE);
}

static void poison(struct job *job)
{
    pthread_mutex_lock(&job->mutex);
    __atomic_store_n(&job->aborted, true, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->mutex);
}

/* Different calls, lengths or roots in one meeting are a programmer's mistake. */
static void check_offers(const struct job *job, const struct meeting *meeting)
{
    const struct offer *first = &job->offers[meeting->first];
    for (int r = meeting->first + 1; r < meeting->first + meeting->n_ranks; r++) {
        const struct offer *other = &job->offers[r];
        PHX_ASSERT(other->call == first->call);
        PHX_ASSERT(other->bytes == first->bytes && other->root == first->root);
    }
}

/* Wait until all ranks of the meeting are here. False if the job was aborted before that. */
static bool arrive(struct thread_world *self, struct meeting *meeting, struct offer offer)
{
    struct job *job = self->job;
    pthread_mutex_lock(&job->mutex);
    job->offers[self->base.rank] = offer;
    unsigned round = meeting->round;
    if (!job->aborted && ++meeting->n_arrived == meeting->n_ranks) {
        check_offers(job, meeting);
        meeting->n_arrived = 0;
        meeting->round++;
        pthread_cond_broadcast(&job->changed);
    }
    while (meeting->round == round && !job->aborted) pthread_cond_wait(&job->changed, &job->mutex);
    bool complete = meeting->round != round;
    pthread_mutex_unlock(&job->mutex);
    return complete;
}

/* After a complete arrive(): wait until nobody needs what others offered. Everyone who was there
 * comes here, so not even an abort cuts this short: it would free data that others still read. */
static void leave(struct thread_world *self, struct meeting *meeting)
{
    struct job *job = self->job;
    pthread_mutex_lock(&job->mutex);
    unsigned round = meeting->round;
    if (++meeting->n_arrived == meeting->n_ranks) {
        meeting->n_arrived = 0;
        meeting->round++;
        pthread_cond_broadcast(&job->changed);
    }
    while (meeting->round == round) pthread_cond_wait(&job->changed, &job->mutex);
    pthread_mutex_unlock(&job->mutex);
}

static enum phx_status thread_broadcast(struct phx_world *world, void *data, size_t bytes, int root)
{
    struct thread_world *self = of(world);
    struct meeting *everyone = &self->job->everyone;
    struct offer offer = {.call = CALL_BROADCAST, .data = data, .bytes = bytes, .root = root};
    if (!arrive(self, everyone, offer)) return PHX_PEER;
    if (world->rank != root && bytes > 0) memcpy(data, self->job->offers[root].data, bytes);
    leave(self, everyone);
    return PHX_OK;
}

static enum phx_status thread_allgather(struct phx_world *world, const void *mine, size_t bytes,
                                        void *all)
{
    struct thread_world *self = of(world);
    struct meeting *everyone = &self->job->everyone;
    struct offer offer = {.call = CALL_ALLGATHER, .data = mine, .bytes = bytes};
    if (!arrive(self, everyone, offer)) return PHX_PEER;
    for (int r = 0; r < world->size && bytes > 0; r++)
        memcpy((char *)all + (size_t)r * bytes, self->job->offers[r].data, bytes);
    leave(self, everyone);
    return PHX_OK;
}

static enum phx_status thread_barrier(struct phx_world *world)
{
    struct offer offer = {.call = CALL_BARRIER};
    return arrive(of(world), &of(world)->job->everyone, offer) ? PHX_OK : PHX_PEER;
}

/* NULL if there is no memory. The job owns it. */
static void *allocate(struct job *job, size_t bytes)
{
    struct block *block = malloc(sizeof *block);
    void *address = NULL;
    if (block == NULL || posix_memalign(&address, PHX_SHARED_ALIGNMENT, bytes) != 0) {
        free(block);
        return NULL;
    }
    memset(address, 0, bytes);
    block->address = address;
    pthread_mutex_lock(&job->mutex);
    block->next = job->blocks;
    job->blocks = block;
    pthread_mutex_unlock(&job->mutex);
    return address;
}

static enum phx_status thread_share(struct phx_world *world, size_t bytes, struct phx_shared *out)
{
    struct thread_world *self = of(world);
    struct offer offer = {.call = CALL_SHARE, .bytes = bytes};
    if (world->node_rank == 0) offer.memory = allocate(self->job, bytes);
    if (!arrive(self, self->node, offer)) return PHX_PEER;
    void *address = self->job->offers[self->node->first].memory;
    leave(self, self->node);
    if (address == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes between ranks", bytes);
    *out = (struct phx_shared){address, bytes};
    return PHX_OK;
}

static enum phx_status thread_send_record(struct phx_world *world, const void *record, size_t bytes)
{
    return phx_record_ring_send(&of(world)->ring, record, bytes);
}

static enum phx_status thread_receive_record(struct phx_world *world, void *record, size_t capacity,
                                             size_t *out_bytes)
{
    return phx_record_ring_receive(&of(world)->ring, world->rank - 1, record, capacity, out_bytes);
}

static void thread_abort(struct phx_world *world, int exit_code)
{
    (void)exit_code; /* the process goes on */
    poison(of(world)->job);
}

static void thread_finish(struct phx_world *world)
{
    thread_barrier(world); /* an abort meanwhile ends it as well */
}

/* The worlds belong to the run, which outlives the threads. */
static void thread_destroy(struct phx_world *world)
{
    (void)world;
}

static const struct phx_world_ops thread_ops = {
    .name = "threads",
    .broadcast = thread_broadcast,
    .allgather = thread_allgather,
    .barrier = thread_barrier,
    .share = thread_share,
    .send_record = thread_send_record,
    .receive_record = thread_receive_record,
    .aborted = is_aborted,
    .abort = thread_abort,
    .finish = thread_finish,
    .destroy = thread_destroy,
};

static void *run_rank(void *argument)
{
    struct thread_world *self = argument;
    phx_log_rank_set(self->base.rank);
    self->status = self->job->body(&self->base, self->job->user);
    if (self->status == PHX_OK)
        phx_world_finish(&self->base);
    else
        phx_world_abort(&self->base, 1);
    snprintf(self->sentence, sizeof self->sentence, "%s", phx_fail_sentence());
    return NULL;
}

static bool processors_short(int size)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < size;
}

static void job_free(struct job *job)
{
    while (job->blocks != NULL) {
        struct block *block = job->blocks;
        job->blocks = block->next;
        free(block->address);
        free(block);
    }
    pthread_cond_destroy(&job->changed);
    pthread_mutex_destroy(&job->mutex);
    free(job->ring_memory);
    free(job->offers);
    free(job->nodes);
}

static void job_init(struct job *job, int size, int ranks_per_node)
{
    pthread_mutex_init(&job->mutex, NULL);
    pthread_cond_init(&job->changed, NULL);
    job->size = size;
    job->everyone.n_ranks = size;
    job->nodes = calloc((size_t)size, sizeof *job->nodes);
    job->offers = calloc((size_t)size, sizeof *job->offers);
    PHX_ASSERT(job->nodes != NULL && job->offers != NULL);
    struct meeting *node = job->nodes;
    for (int first = 0; first < size; first += ranks_per_node, node++) {
        int left = size - first;
        *node = (struct meeting){first, left < ranks_per_node ? left : ranks_per_node, 0, 0};
    }
    size_t ring_bytes = phx_record_ring_bytes(size - 1);
    PHX_ASSERT(posix_memalign(&job->ring_memory, PHX_SHARED_ALIGNMENT, ring_bytes) == 0);
    memset(job->ring_memory, 0, ring_bytes);
}

static void world_init(struct thread_world *self, struct job *job, int rank)
{
    struct meeting *node = job->nodes;
    while (rank >= node->first + node->n_ranks) node++;
    self->base = (struct phx_world){
        .ops = &thread_ops,
        .rank = rank,
        .size = job->size,
        .node_rank = rank - node->first,
        .node_size = node->n_ranks,
        .crowded = processors_short(job->size),
    };
    self->job = job;
    self->node = node;
    phx_record_ring_attach(&self->ring, job->ring_memory, job->size - 1, &self->base);
}

/* The lowest rank that says what went wrong; failing that the lowest that failed. */
static const struct thread_world *find_failure(const struct thread_world *worlds, int size)
{
    const struct thread_world *failed = NULL;
    for (int r = 0; r < size; r++) {
        const struct thread_world *world = &worlds[r];
        if (world->status == PHX_OK) continue;
        if (failed == NULL || (failed->status == PHX_PEER && world->status != PHX_PEER))
            failed = world;
    }
    return failed;
}

enum phx_status phx_world_threads_run_on_nodes(int size, int ranks_per_node,
                                               enum phx_status (*body)(struct phx_world *world,
                                                                       void *user),
                                               void *user)
{
    PHX_ASSERT(size >= 1 && ranks_per_node >= 1);
    struct job job = {.body = body, .user = user};
    job_init(&job, size, ranks_per_node);
    struct thread_world *worlds = calloc((size_t)size, sizeof *worlds);
    PHX_ASSERT(worlds != NULL);
    for (int r = 0; r < size; r++) world_init(&worlds[r], &job, r);

    int n_started = 0, error = 0;
    while (n_started < size && error == 0) {
        struct thread_world *world = &worlds[n_started];
        error = pthread_create(&world->thread, NULL, run_rank, world);
        if (error == 0) n_started++;
    }
    if (error != 0) poison(&job);
    for (int r = 0; r < n_started; r++) pthread_join(worlds[r].thread, NULL);

    enum phx_status status = PHX_OK;
    const struct thread_world *failed = find_failure(worlds, n_started);
    if (error != 0)
        status = phx_fail(PHX_OUT_OF_MEMORY, "the system refused to start a thread for rank %d: %s",
                          n_started, strerror(error));
    else if (failed != NULL)
        status = phx_fail(failed->status, "%s", failed->sentence);
    free(worlds);
    job_free(&job);
    return status;
}

enum phx_status phx_world_threads_run(int size,
                                      enum phx_status (*body)(struct phx_world *world, void *user),
                                      void *user)
{
    return phx_world_threads_run_on_nodes(size, size, body, user);
}
