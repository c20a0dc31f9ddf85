/// \file signal.h
/// A counter in memory that ranks share: one advances it, others wait until it gets somewhere.
///
/// Works between threads and between processes that map the same memory at different addresses.
/// Counting is modulo 2^32: a waiter may lag behind by less than 2^31.
#ifndef PHX_PARALLEL_SIGNAL_H
#define PHX_PARALLEL_SIGNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "parallel/world.h"

/// Zeroed memory is a signal at 0. Two cache lines, since processors fetch them in pairs.
struct phx_signal {
    uint32_t value;
    uint32_t n_sleepers;
    uint32_t padding[30];
};

/// What this thread wrote before is visible to who sees the value.
void phx_signal_set(struct phx_signal *signal, uint32_t value);

/// Wait until the signal is at `target` or past it: spinning for up to `spin_us` microseconds
/// (not at all in a crowded world), then asleep. False if the world was aborted instead.
bool phx_signal_wait(struct phx_signal *signal, uint32_t target, struct phx_world *world,
                     int spin_us);

#endif
