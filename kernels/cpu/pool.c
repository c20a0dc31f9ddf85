#include "kernels/cpu/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/* About 100 us where a pause takes 140 cycles: longer than the gaps between the ops of a step, too
 * short to hold others up. */
enum { SPINS = 2000 };

/* What threads wait for: a change of `value`. Alone on its cache lines. */
struct signal {
    _Alignas(128) atomic_uint value;
    atomic_int n_sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
};

/* The pieces of phx_pool_for that fall to one thread first. */
struct share {
    _Alignas(128) atomic_llong next;
    int64_t end;
};

struct worker {
    struct phx_pool *pool;
    pthread_t thread;
    int index;
};

struct phx_pool {
    int n_threads;
    int n_started; /* workers that run */
    int spins;
    void (*body)(void *user, int thread); /* the job; NULL: end */
    void *user;
    struct signal job;     /* value: number of the newest job */
    struct signal pending; /* value: workers that have not finished it */
    struct share *shares;  /* [n_threads] */
    struct worker *workers;
};

static inline void pause_briefly(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void signal_init(struct signal *s)
{
    atomic_init(&s->value, 0);
    atomic_init(&s->n_sleepers, 0);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
}

static void signal_destroy(struct signal *s)
{
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
}

/* To be called after a change of value. Change and look are sequentially consistent, and so are
 * their mirror images in signal_wait: either the sleeper sees the new value or is seen here. */
static void signal_wake(struct signal *s)
{
    if (atomic_load(&s->n_sleepers) == 0) return;
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static bool reached(struct signal *s, unsigned value, bool equal)
{
    return (atomic_load(&s->value) == value) == equal;
}

/* Wait until the signal's value is `value` or, if not `equal`, another one. */
static void signal_wait(struct signal *s, unsigned value, bool equal, int spins)
{
    for (int i = 0; i < spins; i++) {
        if (reached(s, value, equal)) return;
        pause_briefly();
    }
    pthread_mutex_lock(&s->mutex);
    atomic_fetch_add(&s->n_sleepers, 1);
    while (!reached(s, value, equal)) pthread_cond_wait(&s->changed, &s->mutex);
    atomic_fetch_sub(&s->n_sleepers, 1);
    pthread_mutex_unlock(&s->mutex);
}

static void *work(void *argument)
{
    const struct worker *self = argument;
    struct phx_pool *pool = self->pool;
    for (unsigned seen = 0;; seen++) {
        signal_wait(&pool->job, seen, false, pool->spins);
        if (pool->body == NULL) return NULL;
        pool->body(pool->user, self->index);
        if (atomic_fetch_sub(&pool->pending.value, 1) == 1) signal_wake(&pool->pending);
    }
}

/* Give the workers a job; the caller waits on `pending` later. */
static void publish(struct phx_pool *pool, void (*body)(void *, int), void *user)
{
    pool->body = body;
    pool->user = user;
    atomic_store(&pool->pending.value, (unsigned)pool->n_started);
    atomic_fetch_add(&pool->job.value, 1);
    signal_wake(&pool->job);
}

static enum phx_status start_worker(struct phx_pool *pool, int index, const int *cpus)
{
    struct worker *worker = &pool->workers[index];
    *worker = (struct worker){.pool = pool, .index = index};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    int error = 0;
    if (cpus != NULL) {
        cpu_set_t set;
        CPU_ZERO(&set);
        if (cpus[index] >= 0 && cpus[index] < CPU_SETSIZE) CPU_SET(cpus[index], &set);
        error = pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    }
    if (error == 0) error = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_attr_destroy(&attributes);
    if (error == 0) {
        pool->n_started++;
        return PHX_OK;
    }
    if (cpus != NULL && error == EINVAL)
        return phx_fail(
            PHX_UNSUPPORTED,
            "thread %d cannot be pinned to processor %d, which does not exist or is not "
            "given to this process: choose others or no pinning",
            index, cpus[index]);
    return phx_fail(PHX_UNSUPPORTED,
                    "the system refused to start thread %d of %d (%s): use fewer threads", index,
                    pool->n_threads, strerror(error));
}

static bool processors_short(int n_threads)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return false;
    return CPU_COUNT(&set) < n_threads;
}

enum phx_status phx_pool_create(int n_threads, const int *cpus, bool crowded, struct phx_pool **out)
{
    PHX_ASSERT(n_threads >= 1);
    struct phx_pool *pool = aligned_alloc(_Alignof(struct phx_pool), sizeof *pool);
    struct share *shares =
        aligned_alloc(_Alignof(struct share), (size_t)n_threads * sizeof *shares);
    struct worker *workers = calloc((size_t)n_threads, sizeof *workers);
    if (pool == NULL || shares == NULL || workers == NULL) {
        free(pool);
        free(shares);
        free(workers);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a pool of %d threads", n_threads);
    }
    *pool = (struct phx_pool){.n_threads = n_threads, .shares = shares, .workers = workers};
    pool->spins = crowded || processors_short(n_threads) ? 0 : SPINS;
    signal_init(&pool->job);
    signal_init(&pool->pending);
    for (int t = 0; t < n_threads; t++) atomic_init(&shares[t].next, 0);
    for (int t = 1; t < n_threads; t++) {
        enum phx_status status = start_worker(pool, t, cpus);
        if (status == PHX_OK) continue;
        phx_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return PHX_OK;
}

void phx_pool_destroy(struct phx_pool *pool)
{
    if (pool == NULL) return;
    publish(pool, NULL, NULL);
    for (int t = 1; t <= pool->n_started; t++) pthread_join(pool->workers[t].thread, NULL);
    signal_destroy(&pool->pending);
    signal_destroy(&pool->job);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

int phx_pool_size(const struct phx_pool *pool)
{
    return pool->n_threads;
}

void phx_pool_run(struct phx_pool *pool, void (*body)(void *user, int thread), void *user)
{
    if (pool->n_threads > 1) publish(pool, body, user);
    body(user, 0);
    if (pool->n_threads > 1) signal_wait(&pool->pending, 0, true, pool->spins);
}

struct loop {
    struct phx_pool *pool;
    int64_t n, grain;
    void (*body)(void *user, int64_t begin, int64_t end, int thread);
    void *user;
};

static void take_pieces(void *user, int thread)
{
    const struct loop *loop = user;
    int n_threads = loop->pool->n_threads;
    for (int i = 0; i < n_threads; i++) {
        struct share *share = &loop->pool->shares[(thread + i) % n_threads];
        for (;;) {
            int64_t piece = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
            if (piece >= share->end) break;
            int64_t begin = piece * loop->grain;
            int64_t end = begin + loop->grain < loop->n ? begin + loop->grain : loop->n;
            loop->body(loop->user, begin, end, thread);
        }
    }
}

void phx_pool_for(struct phx_pool *pool, int64_t n, int64_t grain,
                  void (*body)(void *user, int64_t begin, int64_t end, int thread), void *user)
{
    PHX_ASSERT(n >= 0 && grain >= 1);
    int64_t n_pieces = (n + grain - 1) / grain;
    int64_t n_threads = pool->n_threads;
    if (n_pieces <= 1 || n_threads == 1) {
        for (int64_t begin = 0; begin < n; begin += grain)
            body(user, begin, begin + grain < n ? begin + grain : n, 0);
        return;
    }
    for (int64_t t = 0; t < n_threads; t++) {
        atomic_store_explicit(&pool->shares[t].next, n_pieces * t / n_threads,
                              memory_order_relaxed);
        pool->shares[t].end = n_pieces * (t + 1) / n_threads;
    }
    struct loop loop = {pool, n, grain, body, user};
    phx_pool_run(pool, take_pieces, &loop);
}
