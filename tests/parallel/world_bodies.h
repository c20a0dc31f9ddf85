/// \file world_bodies.h
/// What any world must do, as bodies of a rank: for ranks as threads and as processes alike.
#ifndef PHX_TESTS_PARALLEL_WORLD_BODIES_H
#define PHX_TESTS_PARALLEL_WORLD_BODIES_H

#include <stddef.h>
#include <time.h>

#include "parallel/world.h"

enum { BODY_MAX_SIZE = 8 };

double body_now_s(clockid_t clock);
void body_sleep_ms(int ms);

/// Broadcasts from every root and allgathers; `user` is not used.
enum phx_status body_exchange(struct phx_world *world, void *user);
/// Shared memory: zeroed, aligned, seen by the node and nobody else; `user` is not used.
enum phx_status body_share(struct phx_world *world, void *user);

struct record_stream {
    int n_records;
    size_t longest;
    int slow_rank; ///< dawdles now and then; 0: nobody
};
/// Records of random lengths from rank 0 to all others; `user` is a struct record_stream.
enum phx_status body_records(struct phx_world *world, void *user);

/// Rank 0 keeps the others waiting for a record for 0.4 s; `user` is double [size], where each puts
/// the processor seconds that its wait took.
enum phx_status body_idle(struct phx_world *world, void *user);

#endif
