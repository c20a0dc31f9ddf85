/// \file pool.h
/// A small thread pool: the caller and n - 1 workers run the same function on parts of the work.
///
/// Threads that wait (workers for a job, the caller for the last worker) spin briefly, then sleep;
/// where processors are short they sleep at once. Clean under TSan. One job at a time, from one
/// thread at a time; the caller works too and returns when all parts are done.
#ifndef PHX_KERNELS_CPU_POOL_H
#define PHX_KERNELS_CPU_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct phx_pool;

/// `cpus` (n_threads processor numbers, or NULL) pins the workers; the calling thread is never
/// pinned here. `crowded`: others compute on the same processors, so that a spinning thread would
/// hold them up; it is also true if the caller may run on fewer than n_threads processors.
/// PHX_UNSUPPORTED if the system grants no more threads or refuses to pin one.
enum phx_status phx_pool_create(int n_threads, const int *cpus, bool crowded,
                                struct phx_pool **out);
void phx_pool_destroy(struct phx_pool *pool);
int phx_pool_size(const struct phx_pool *pool);

/// Run body(user, thread) for thread = 0..size-1 (0 is the caller) and wait for all.
void phx_pool_run(struct phx_pool *pool, void (*body)(void *user, int thread), void *user);

/// Run body(user, begin, end, thread) over [0, n) in pieces of at most `grain` items. Pieces start
/// at multiples of grain. A thread takes the pieces of its own contiguous share in order, then
/// pieces that others have not begun: the result must not depend on who takes what.
void phx_pool_for(struct phx_pool *pool, int64_t n, int64_t grain,
                  void (*body)(void *user, int64_t begin, int64_t end, int thread), void *user);

#endif
