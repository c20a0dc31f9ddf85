/* The rules of the low-latency exchange (comm_nccl_lines.h), followed by threads in the place of
 * GPUs: every half of a line is one atomic store without any order, as much as a GPU promises. Each
 * rank looks at all that it receives. */
#include "tests/support/check.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "parallel/comm_nccl_lines.h"

enum { CAPACITY = 24, MAX_RANKS = 8 };

struct exchange {
    int n_ranks, n_sums;
    uint32_t first_epoch;         /* the one before the first sum */
    uint32_t old_flag;            /* 0: none; see test_epochs_repeat */
    uint64_t *windows[MAX_RANKS]; /* [lines][2] halves: flag << 32 | data */
};

struct rank {
    struct exchange *exchange;
    int rank;
    int64_t n_wrong;
};

/* Sums are told apart by how many there were before, epochs may repeat. */
static uint32_t data_of(int writer, int sum, int64_t half)
{
    return (uint32_t)phx_mix64((uint64_t)writer << 56 ^ (uint64_t)sum << 24 ^ (uint64_t)half);
}

static int64_t lines_of(const struct exchange *x, uint32_t epoch, int sum)
{
    if (x->old_flag != 0) return epoch == x->old_flag ? CAPACITY : 1;
    return 1 + (int64_t)(phx_mix64((uint64_t)sum) % CAPACITY);
}

static void maybe_yield(uint64_t draw)
{
    if (phx_mix64(draw) % 7 == 0) sched_yield();
}

static void send(const struct rank *r, uint32_t epoch, int sum)
{
    const struct exchange *x = r->exchange;
    const int64_t at = phx_lines_begin(epoch, r->rank, x->n_ranks, CAPACITY);
    const int64_t n_halves = 2 * lines_of(x, epoch, sum);
    /* The others have the time to take old data for new. */
    if (epoch == x->old_flag) usleep(3000 * (unsigned)r->rank);
    for (int p = 0; p < x->n_ranks; p++) {
        maybe_yield((uint64_t)sum << 8 | (uint64_t)(p * 16 + r->rank));
        for (int64_t h = 0; h < n_halves && p != r->rank; h++)
            __atomic_store_n(&x->windows[p][2 * at + h],
                             (uint64_t)epoch << 32 | data_of(r->rank, sum, h), __ATOMIC_RELAXED);
    }
}

static int64_t receive(const struct rank *r, uint32_t epoch, int sum)
{
    const struct exchange *x = r->exchange;
    const int64_t n_halves = 2 * lines_of(x, epoch, sum);
    int64_t n_wrong = 0;
    for (int w = 0; w < x->n_ranks; w++) {
        const int64_t at = phx_lines_begin(epoch, w, x->n_ranks, CAPACITY);
        for (int64_t h = n_halves - 1; h >= 0 && w != r->rank; h--) { /* the last come last */
            uint64_t half;
            while ((uint32_t)((half = __atomic_load_n(&x->windows[r->rank][2 * at + h],
                                                      __ATOMIC_RELAXED)) >>
                              32) != epoch)
                sched_yield();
            n_wrong += (uint32_t)half != data_of(w, sum, h);
        }
    }
    return n_wrong;
}

static void clear(const struct rank *r, uint32_t epoch)
{
    const struct exchange *x = r->exchange;
    const int64_t at = phx_lines_begin(epoch, 0, x->n_ranks, CAPACITY);
    for (int64_t h = 0; h < (int64_t)2 * x->n_ranks * CAPACITY; h++)
        __atomic_store_n(&x->windows[r->rank][2 * at + h], 0, __ATOMIC_RELAXED);
}

static void *run_rank(void *argument)
{
    struct rank *r = argument;
    uint32_t epoch = r->exchange->first_epoch;
    for (int sum = 0; sum < r->exchange->n_sums; sum++) {
        epoch = phx_lines_next_epoch(epoch);
        send(r, epoch, sum);
        r->n_wrong += receive(r, epoch, sum);
        if (phx_lines_must_clear(epoch)) clear(r, epoch);
    }
    return NULL;
}

static void run(int n_ranks, int n_sums, uint32_t first_epoch, uint32_t old_flag)
{
    struct exchange x = {n_ranks, n_sums, first_epoch, old_flag, {0}};
    struct rank ranks[MAX_RANKS];
    pthread_t threads[MAX_RANKS];
    const size_t bytes = phx_lines_window_bytes(n_ranks, CAPACITY);
    for (int r = 0; r < n_ranks; r++) {
        x.windows[r] = calloc(1, bytes);
        assert_non_null(x.windows[r]);
        for (size_t h = 0; h < bytes / 8; h++) x.windows[r][h] = (uint64_t)old_flag << 32;
        ranks[r] = (struct rank){&x, r, 0};
    }
    for (int r = 0; r < n_ranks; r++)
        assert_int_equal(pthread_create(&threads[r], NULL, run_rank, &ranks[r]), 0);
    for (int r = 0; r < n_ranks; r++) {
        assert_int_equal(pthread_join(threads[r], NULL), 0);
        assert_int_equal(ranks[r].n_wrong, 0);
    }
    for (int r = 0; r < n_ranks; r++) free(x.windows[r]);
}

static void test_many_sums(void **state)
{
    (void)state;
    for (int n_ranks = 2; n_ranks <= MAX_RANKS; n_ranks++) run(n_ranks, 3000 / n_ranks, 0, 0);
}

/* All lines lie there as if written 2^32 sums ago, with data that nobody sends. The sums since
 * moved one line each, but the one that has this flag again moves all. */
static void test_epochs_repeat(void **state)
{
    (void)state;
    for (uint32_t flag = 2; flag < 6; flag++) run(3, 10, UINT32_MAX - 3, flag);
}

static void test_parities_alternate(void **state)
{
    (void)state;
    uint32_t epoch = UINT32_MAX - 5;
    for (int i = 0; i < 12; i++) {
        uint32_t next = phx_lines_next_epoch(epoch);
        assert_int_not_equal(next & 1, epoch & 1);
        assert_int_not_equal(next, 0);
        epoch = next;
    }
}

/* Every line has one writer and one place, and there is no room for more. */
static void test_layout(void **state)
{
    (void)state;
    for (int n_ranks = 1; n_ranks <= MAX_RANKS; n_ranks++) {
        const int64_t capacity = 5 + n_ranks;
        int64_t end = 0;
        for (uint32_t epoch = 2; epoch < 4; epoch++)
            for (int w = 0; w < n_ranks; w++, end += capacity)
                assert_int_equal(phx_lines_begin(epoch, w, n_ranks, capacity), end);
        assert_int_equal(phx_lines_window_bytes(n_ranks, capacity), (size_t)end * PHX_LINE_BYTES);
    }
    assert_int_equal(phx_lines_count(1, 1, 2), 1);
    assert_int_equal(phx_lines_count(1, 4, 2), 1);
    assert_int_equal(phx_lines_count(3, 5, 2), 6);
    assert_int_equal(phx_lines_count(3, 5, 4), 9);
    assert_int_equal(phx_lines_count(1, 15, 1), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_sums),
        cmocka_unit_test(test_epochs_repeat),
        cmocka_unit_test(test_parities_alternate),
        cmocka_unit_test(test_layout),
    };
    return cmocka_run_group_tests_name("lines", tests, NULL, NULL);
}
