#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/pool.h"

static const int sizes[] = {1, 2, 3, 5};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct phx_pool *create(int n_threads, bool crowded)
{
    struct phx_pool *pool;
    assert_int_equal(phx_pool_create(n_threads, NULL, crowded, &pool), PHX_OK);
    assert_int_equal(phx_pool_size(pool), n_threads);
    return pool;
}

static void sleep_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* ---- run ---- */

enum { MAX_THREADS = 5 };

struct visits {
    int count[MAX_THREADS]; /* plain: each belongs to one thread, and the caller reads them after */
};

static void visit(void *user, int thread)
{
    struct visits *visits = user;
    visits->count[thread]++;
}

static void check_runs(int n_threads, bool crowded, int n_runs, long pause_ms)
{
    struct phx_pool *pool = create(n_threads, crowded);
    struct visits visits = {{0}};
    for (int i = 1; i <= n_runs; i++) {
        phx_pool_run(pool, visit, &visits);
        for (int t = 0; t < n_threads; t++) assert_int_equal(visits.count[t], i);
        if (pause_ms > 0) sleep_ms(pause_ms);
    }
    phx_pool_destroy(pool);
}

static void test_every_thread_runs_each_job_once(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        check_runs(sizes[i], false, 3000, 0);
        check_runs(sizes[i], true, 300, 0);
    }
}

/* Long enough apart that the workers are asleep when a job comes. */
static void test_sleeping_workers_wake(void **unused)
{
    (void)unused;
    check_runs(2, false, 20, 2);
    check_runs(3, true, 20, 2);
}

static double cpu_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return 1e3 * (double)time.tv_sec + 1e-6 * (double)time.tv_nsec;
}

static void test_idle_workers_leave_the_processors_alone(void **unused)
{
    (void)unused;
    for (int crowded = 0; crowded < 2; crowded++) {
        struct phx_pool *pool = create(3, crowded);
        struct visits visits = {{0}};
        phx_pool_run(pool, visit, &visits);
        sleep_ms(20);
        double before = cpu_ms();
        sleep_ms(100);
        assert_true(cpu_ms() - before < 10.0);
        phx_pool_destroy(pool);
    }
}

static void test_destroy_without_a_job(void **unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) phx_pool_destroy(create(sizes[(size_t)i % COUNT(sizes)], i % 2));
    struct phx_pool *pool = create(3, false);
    sleep_ms(5);
    phx_pool_destroy(pool);
    phx_pool_destroy(NULL);
}

static void caller_is_0(void *user, int thread)
{
    if (thread == 0) *(pthread_t *)user = pthread_self();
}

static void test_the_caller_is_thread_0(void **unused)
{
    (void)unused;
    struct phx_pool *pool = create(3, false);
    pthread_t thread;
    memset(&thread, 0, sizeof thread);
    phx_pool_run(pool, caller_is_0, &thread);
    assert_true(pthread_equal(thread, pthread_self()));
    phx_pool_destroy(pool);
}

/* ---- for ---- */

struct cover {
    int64_t n, grain;
    int n_threads;
    int *times; /* [n] that each item was taken */
    _Atomic bool bad_piece;
};

static void cover(void *user, int64_t begin, int64_t end, int thread)
{
    struct cover *c = user;
    bool good = thread >= 0 && thread < c->n_threads && begin % c->grain == 0 && begin < end &&
                end == (c->n - begin < c->grain ? c->n : begin + c->grain);
    if (!good) atomic_store(&c->bad_piece, true);
    for (int64_t i = begin; i < end; i++) c->times[i]++;
}

static void test_pieces_cover_all_items_once(void **unused)
{
    static const int64_t ns[] = {0, 1, 2, 7, 64, 1000}, grains[] = {1, 3, 64, 5000};
    (void)unused;
    for (size_t s = 0; s < COUNT(sizes); s++) {
        struct phx_pool *pool = create(sizes[s], false);
        for (size_t n = 0; n < COUNT(ns); n++)
            for (size_t g = 0; g < COUNT(grains); g++) {
                struct cover c = {.n = ns[n], .grain = grains[g], .n_threads = sizes[s]};
                c.times = calloc((size_t)c.n + 1, sizeof *c.times);
                assert_non_null(c.times);
                phx_pool_for(pool, c.n, c.grain, cover, &c);
                assert_false(atomic_load(&c.bad_piece));
                for (int64_t i = 0; i < c.n; i++) assert_int_equal(c.times[i], 1);
                assert_int_equal(c.times[c.n], 0);
                free(c.times);
            }
        phx_pool_destroy(pool);
    }
}

struct uneven {
    _Atomic int by_thread[2];
};

/* The first piece ends only when all others are done: the other thread must have taken them. */
static void wait_in_the_first(void *user, int64_t begin, int64_t end, int thread)
{
    struct uneven *u = user;
    (void)end;
    if (begin == 0)
        while (atomic_load(&u->by_thread[0]) + atomic_load(&u->by_thread[1]) < 15) sched_yield();
    else
        atomic_fetch_add(&u->by_thread[thread], 1);
}

static void test_idle_threads_take_what_others_have_not_begun(void **unused)
{
    (void)unused;
    struct phx_pool *pool = create(2, false);
    struct uneven u = {0};
    phx_pool_for(pool, 16, 1, wait_in_the_first, &u);
    assert_int_equal(atomic_load(&u.by_thread[0]) + atomic_load(&u.by_thread[1]), 15);
    assert_true(atomic_load(&u.by_thread[1]) >= 8); /* its own half at least */
    phx_pool_destroy(pool);
}

/* ---- pinning ---- */

static void find_cpu(void *user, int thread)
{
    int *cpus = user;
    cpus[thread] = sched_getcpu();
}

static void test_workers_stay_on_their_processors(void **unused)
{
    (void)unused;
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    int last = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set)) last = cpu;
    int wanted[3] = {last, last, last}, found[3];
    struct phx_pool *pool;
    assert_int_equal(phx_pool_create(3, wanted, true, &pool), PHX_OK);
    for (int i = 0; i < 20; i++) {
        phx_pool_run(pool, find_cpu, found);
        assert_int_equal(found[1], last);
        assert_int_equal(found[2], last);
    }
    phx_pool_destroy(pool);
}

static void test_a_processor_that_is_not_there(void **unused)
{
    static const int missing[] = {CPU_SETSIZE - 1, CPU_SETSIZE + 7, -1};
    (void)unused;
    for (size_t i = 0; i < COUNT(missing); i++) {
        int cpus[2] = {0, missing[i]};
        struct phx_pool *pool;
        assert_int_equal(phx_pool_create(2, cpus, false, &pool), PHX_UNSUPPORTED);
        assert_non_null(strstr(phx_fail_sentence(), "pinned to processor"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_thread_runs_each_job_once),
        cmocka_unit_test(test_sleeping_workers_wake),
        cmocka_unit_test(test_idle_workers_leave_the_processors_alone),
        cmocka_unit_test(test_destroy_without_a_job),
        cmocka_unit_test(test_the_caller_is_thread_0),
        cmocka_unit_test(test_pieces_cover_all_items_once),
        cmocka_unit_test(test_idle_threads_take_what_others_have_not_begun),
        cmocka_unit_test(test_workers_stay_on_their_processors),
        cmocka_unit_test(test_a_processor_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
