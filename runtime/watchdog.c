#include "runtime/watchdog.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "runtime/stall.h"

enum {
    TICK_MS = 100,
    LONGEST_TICK_MS = 500, /* a longer sleep was not ours: the process was stopped */
    LINGER_MS = 200,       /* so that the sentence, and those of other machines, get out */
    END_S = 3              /* the end takes no longer: whatever hangs in it is cut short */
};

/* What a rank shows the others of its machine. All atomic. */
struct face {
    uint64_t n_passages; /* of phx_watchdog_enter and _leave: odd inside; at once */
    uint64_t position;   /* n_steps << 32 | n_begun; at each tick */
    uint64_t n_ticks;
    uint64_t has_begun;   /* after phx_watchdog_begin */
    uint64_t rank;        /* in the job */
    uint64_t padding[11]; /* to two cache lines */
};

struct board {
    uint64_t reported; /* somebody has found a stall, and tells; atomic */
    uint64_t padding[15];
    struct face faces[]; /* [node_size] */
};

/* What this rank has seen of a face, and for how long it has not changed. */
struct seen {
    uint64_t n_passages, position, n_ticks, has_begun;
    int64_t still_ms;  /* neither passages nor position */
    int64_t silent_ms; /* no ticks */
};

struct phx_watchdog {
    struct phx_watchdog_parts parts;
    struct phx_comm *comm; /* NULL during the start; atomic */
    struct board *board;
    struct seen *seen;            /* [node_size] */
    struct phx_stall_rank *ranks; /* [node_size] scratch for the report */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool over; /* under the mutex, as what follows */
    void (*on_stall)(void *user, const char *sentence);
    void *on_stall_user;
};

static uint64_t get(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void set(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static struct face *own_face(struct phx_watchdog *w)
{
    return &w->board->faces[w->parts.world->node_rank];
}

static struct phx_comm *comm_of(struct phx_watchdog *w)
{
    return __atomic_load_n(&w->comm, __ATOMIC_ACQUIRE);
}

static bool is_inside(const struct seen *seen)
{
    return seen->n_passages % 2 == 1;
}

static bool is_stalled(const struct seen *seen, int64_t timeout_ms)
{
    if (seen->has_begun == 0) return seen->silent_ms >= timeout_ms;
    return is_inside(seen) && seen->still_ms >= timeout_ms;
}

/* ---- the end ---- */

static void describe(struct phx_watchdog *w, char *sentence, size_t bytes)
{
    const struct phx_world *world = w->parts.world;
    int64_t silent_ms = (int64_t)w->parts.timeout_s * 1000 / 2; /* half of the stall */
    for (int r = 0; r < world->node_size; r++) {
        uint64_t position = w->seen[r].position;
        w->ranks[r] = (struct phx_stall_rank){
            .rank = (int)get(&w->board->faces[r].rank),
            .silent = w->seen[r].silent_ms >= silent_ms,
            .starts = w->seen[r].has_begun == 0,
            .inside = is_inside(&w->seen[r]),
            .position = {(uint32_t)(position >> 32), (uint32_t)position},
        };
    }
    phx_stall_describe(&(struct phx_stall){.config = w->parts.config,
                                           .ranks = w->ranks,
                                           .n_ranks = world->node_size,
                                           .world_size = world->size,
                                           .seconds = w->parts.timeout_s},
                       sentence, bytes);
}

static void tell_user(struct phx_watchdog *w, const char *sentence)
{
    pthread_mutex_lock(&w->mutex);
    void (*on_stall)(void *, const char *) = w->on_stall;
    void *user = w->on_stall_user;
    pthread_mutex_unlock(&w->mutex);
    if (on_stall != NULL) on_stall(user, sentence);
}

/* The reporter ends last: its peers would report that it is gone. _exit, since the thread that may
 * call MPI is the one that is stuck. */
static void end_job(struct phx_watchdog *w)
{
    struct timespec linger = {.tv_nsec = LINGER_MS * 1000000L};
    char sentence[PHX_SENTENCE_BYTES];
    alarm(END_S);
    describe(w, sentence, sizeof sentence);
    bool first = __atomic_exchange_n(&w->board->reported, 1, __ATOMIC_RELAXED) == 0;
    if (first) phx_log(PHX_LOG_ERROR, "%s (--watchdog-timeout)", sentence);
    tell_user(w, sentence);
    if (first) nanosleep(&linger, NULL);
    nanosleep(&linger, NULL);
    if (comm_of(w) != NULL) phx_comm_abort(comm_of(w));
    _exit(1);
}

/* ---- the watch ---- */

static void show(struct phx_watchdog *w)
{
    struct face *own = own_face(w);
    struct phx_comm_position position = {0};
    if (comm_of(w) != NULL) phx_comm_position(comm_of(w), &position);
    set(&own->position, (uint64_t)position.n_steps << 32 | position.n_begun);
    set(&own->n_ticks, get(&own->n_ticks) + 1);
}

static void look(struct seen *seen, const struct face *face, int64_t passed_ms)
{
    struct seen now = {.n_passages = get(&face->n_passages),
                       .position = get(&face->position),
                       .n_ticks = get(&face->n_ticks),
                       .has_begun = get(&face->has_begun)};
    if (now.n_passages == seen->n_passages && now.position == seen->position)
        now.still_ms = seen->still_ms + passed_ms;
    if (now.n_ticks == seen->n_ticks) now.silent_ms = seen->silent_ms + passed_ms;
    *seen = now;
}

static void tick(struct phx_watchdog *w, int64_t passed_ms)
{
    bool stalled = false;
    show(w);
    for (int r = 0; r < w->parts.world->node_size; r++) {
        look(&w->seen[r], &w->board->faces[r], passed_ms);
        stalled |= is_stalled(&w->seen[r], (int64_t)w->parts.timeout_s * 1000);
    }
    if (stalled || get(&w->board->reported) != 0) end_job(w);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until the next tick; false when there is none. */
static bool sleep_until(struct phx_watchdog *w, int64_t ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    int error = 0;
    pthread_mutex_lock(&w->mutex);
    while (!w->over && error == 0)
        error = pthread_cond_clockwait(&w->changed, &w->mutex, CLOCK_MONOTONIC, &time);
    bool over = w->over;
    pthread_mutex_unlock(&w->mutex);
    return !over;
}

static void *watch(void *user)
{
    struct phx_watchdog *w = user;
    int64_t last_ms = now_ms();
    if (w->parts.world->size > 1) phx_log_rank_set(w->parts.world->rank);
    while (sleep_until(w, last_ms + TICK_MS)) {
        int64_t ms = now_ms(), passed_ms = ms - last_ms;
        tick(w, passed_ms < LONGEST_TICK_MS ? passed_ms : LONGEST_TICK_MS);
        last_ms = ms;
    }
    return NULL;
}

/* ---- making ---- */

static enum phx_status start(struct phx_watchdog *w)
{
    struct phx_world *world = w->parts.world;
    struct phx_shared shared;
    size_t n = (size_t)world->node_size;
    PHX_TRY(phx_world_share(world, sizeof *w->board + n * sizeof(struct face), &shared));
    w->board = shared.address;
    set(&own_face(w)->rank, (uint64_t)world->rank);
    w->seen = calloc(n, sizeof *w->seen);
    w->ranks = calloc(n, sizeof *w->ranks);
    if (w->seen == NULL || w->ranks == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the watchdog");
    int error = pthread_create(&w->thread, NULL, watch, w);
    if (error == 0) return PHX_OK;
    return phx_fail(PHX_OUT_OF_MEMORY, "no thread for the watchdog: %s", strerror(error));
}

static void release(struct phx_watchdog *w)
{
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    free(w->seen);
    free(w->ranks);
    free(w);
}

enum phx_status phx_watchdog_create(const struct phx_watchdog_parts *parts,
                                    struct phx_watchdog **out)
{
    PHX_ASSERT(parts->timeout_s > 0);
    struct phx_watchdog *w = calloc(1, sizeof *w);
    PHX_ASSERT(w != NULL);
    w->parts = *parts;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    enum phx_status status = start(w);
    if (status == PHX_OK)
        *out = w;
    else
        release(w);
    return status;
}

void phx_watchdog_begin(struct phx_watchdog *watchdog, struct phx_comm *comm)
{
    if (watchdog == NULL) return;
    __atomic_store_n(&watchdog->comm, comm, __ATOMIC_RELEASE);
    set(&own_face(watchdog)->has_begun, 1);
}

void phx_watchdog_destroy(struct phx_watchdog *watchdog)
{
    if (watchdog == NULL) return;
    pthread_mutex_lock(&watchdog->mutex);
    watchdog->over = true;
    pthread_cond_signal(&watchdog->changed);
    pthread_mutex_unlock(&watchdog->mutex);
    pthread_join(watchdog->thread, NULL);
    release(watchdog);
}

void phx_watchdog_on_stall(struct phx_watchdog *watchdog,
                           void (*tell)(void *user, const char *sentence), void *user)
{
    if (watchdog == NULL) return;
    pthread_mutex_lock(&watchdog->mutex);
    watchdog->on_stall = tell;
    watchdog->on_stall_user = user;
    pthread_mutex_unlock(&watchdog->mutex);
}

static void pass(struct phx_watchdog *w, uint64_t parity)
{
    if (w == NULL) return;
    uint64_t n_passages = get(&own_face(w)->n_passages);
    PHX_ASSERT(n_passages % 2 == parity);
    set(&own_face(w)->n_passages, n_passages + 1);
}

void phx_watchdog_enter(struct phx_watchdog *watchdog)
{
    pass(watchdog, 0);
}

void phx_watchdog_leave(struct phx_watchdog *watchdog)
{
    pass(watchdog, 1);
}
