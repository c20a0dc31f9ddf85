#include "parallel/signal.h"

#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    YIELDS = 10,        /* in a crowded world, before sleeping */
    SPINS = 64,         /* between two yields otherwise */
    ABORT_CHECK_MS = 20 /* how late a sleeper notices an abort */
};

static bool is_past(uint32_t value, uint32_t target)
{
    return (int32_t)(value - target) >= 0;
}

static bool reached(const struct phx_signal *signal, uint32_t target)
{
    return is_past(__atomic_load_n(&signal->value, __ATOMIC_ACQUIRE), target);
}

/* Not FUTEX_PRIVATE: the waiters may be other processes. */
static void wake_all(struct phx_signal *signal)
{
    syscall(SYS_futex, &signal->value, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Until somebody wakes us, or value is not `seen`, or, if `timeout` is given, time is up. */
static void sleep_while(struct phx_signal *signal, uint32_t seen, const struct timespec *timeout)
{
    syscall(SYS_futex, &signal->value, FUTEX_WAIT, seen, timeout, NULL, 0);
}

/* Setting and then looking for sleepers here, announcing oneself and then looking at the value in
 * phx_signal_wait(): all four are sequentially consistent, so one of the two sees the other. */
void phx_signal_set(struct phx_signal *signal, uint32_t value)
{
    __atomic_store_n(&signal->value, value, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&signal->n_sleepers, __ATOMIC_SEQ_CST) != 0) wake_all(signal);
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void pause_briefly(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#else
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Other programs may have the processor that our peer needs, and it queue for ours: yield now and
 * then. */
static bool spin(const struct phx_signal *signal, uint32_t target, int spin_us)
{
    int64_t end_us = 0;
    do {
        for (int i = 0; i < SPINS; i++) {
            if (reached(signal, target)) return true;
            pause_briefly();
        }
        if (end_us == 0) end_us = now_us() + spin_us;
        sched_yield();
    } while (now_us() < end_us);
    return false;
}

/* The peer that we wait for may need our processor. */
static bool yield(const struct phx_signal *signal, uint32_t target)
{
    for (int i = 0; i < YIELDS; i++) {
        if (reached(signal, target)) return true;
        sched_yield();
    }
    return false;
}

bool phx_signal_wait(struct phx_signal *signal, uint32_t target, struct phx_world *world,
                     int spin_us)
{
    if (reached(signal, target)) return true;
    if (world->crowded ? yield(signal, target) : spin(signal, target, spin_us)) return true;
    struct timespec check = {.tv_nsec = ABORT_CHECK_MS * 1000000L};
    const struct timespec *timeout = world->ops->aborted == NULL ? NULL : &check;
    bool arrived = false;
    __atomic_fetch_add(&signal->n_sleepers, 1, __ATOMIC_SEQ_CST);
    while (!arrived && !phx_world_aborted(world)) {
        uint32_t seen = __atomic_load_n(&signal->value, __ATOMIC_SEQ_CST);
        arrived = is_past(seen, target);
        if (!arrived) sleep_while(signal, seen, timeout);
    }
    __atomic_fetch_sub(&signal->n_sleepers, 1, __ATOMIC_RELAXED);
    return arrived;
}
