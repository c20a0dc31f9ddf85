/// \file world.h
/// The host side of a job: who the ranks are, and how they exchange control values.
///
/// A world is made by launch/ (over MPI), by phx_world_solo(), or by phx_world_threads.h (ranks as
/// threads of one process). Calls marked collective are made by all ranks in the same order. A
/// collective call that cannot complete because a peer left or aborted returns PHX_PEER or does not
/// return; it never hangs.
#ifndef PHX_PARALLEL_WORLD_H
#define PHX_PARALLEL_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_world_ops;

struct phx_world {
    const struct phx_world_ops *ops;
    int rank, size;           ///< in the job
    int node_rank, node_size; ///< among the ranks of this machine
    /// The machine has fewer processors than threads that would spin: waits sleep at once. The
    /// maker counts one thread a rank; launch/ sets it where ranks have more.
    bool crowded;
};

enum { PHX_SHARED_ALIGNMENT = 4096 };

/// Memory that all ranks of a node see; zeroed and aligned. Each rank may map it at another
/// address.
struct phx_shared {
    void *address;
    size_t bytes;
};

/// What a world implements. Others call the functions below, which check arguments.
struct phx_world_ops {
    const char *name;
    enum phx_status (*broadcast)(struct phx_world *, void *data, size_t bytes, int root);
    enum phx_status (*allgather)(struct phx_world *, const void *mine, size_t bytes, void *all);
    enum phx_status (*barrier)(struct phx_world *);
    enum phx_status (*share)(struct phx_world *, size_t bytes, struct phx_shared *out);
    enum phx_status (*send_record)(struct phx_world *, const void *record, size_t bytes);
    enum phx_status (*receive_record)(struct phx_world *, void *record, size_t capacity,
                                      size_t *out_bytes);
    bool (*aborted)(struct phx_world *); ///< NULL: an abort ends the process
    void (*abort)(struct phx_world *, int exit_code);
    void (*finish)(struct phx_world *);
    void (*destroy)(struct phx_world *);
};

/// A job of one rank. Cannot fail; destroy with phx_world_destroy().
struct phx_world *phx_world_solo(void);

/// Collective. `data` of `root` reaches everybody.
enum phx_status phx_world_broadcast(struct phx_world *world, void *data, size_t bytes, int root);
/// Collective. all[r * bytes .. (r + 1) * bytes) is what rank r gave.
enum phx_status phx_world_allgather(struct phx_world *world, const void *mine, size_t bytes,
                                    void *all);
/// Collective.
enum phx_status phx_world_barrier(struct phx_world *world);
/// Collective over the node. `bytes` alike on all its ranks. The world frees the memory when
/// destroyed.
enum phx_status phx_world_share(struct phx_world *world, size_t bytes, struct phx_shared *out);

/// Collective: how every phase of start-up ends. `status` is what this rank's phase came to. If all
/// are PHX_OK, returns PHX_OK. Otherwise the sentence of the lowest failing rank is reported on
/// stderr once, by that rank, and everybody returns: the failing ranks their own status, the others
/// PHX_PEER.
enum phx_status phx_world_agree(struct phx_world *world, enum phx_status status);

/// The channel of step records, rank 0 to all others, in order. Not collective: sending waits only
/// when the channel is full; a waiting receiver sleeps. A record longer than `capacity` is an
/// assertion.
enum phx_status phx_world_send_record(struct phx_world *world, const void *record, size_t bytes);
enum phx_status phx_world_receive_record(struct phx_world *world, void *record, size_t capacity,
                                         size_t *out_bytes);

/// End the whole job now, from any rank, with this exit code. Does not return, except that with
/// ranks as threads it returns and every later or waiting call of any rank returns PHX_PEER.
void phx_world_abort(struct phx_world *world, int exit_code);

/// True once any rank called phx_world_abort() and this process lives on. A wait for a peer asks
/// this now and then.
bool phx_world_aborted(struct phx_world *world);

/// Collective: an orderly end, after everyone agreed. Then destroy.
void phx_world_finish(struct phx_world *world);
/// Frees what this rank holds; accepts NULL; never communicates.
void phx_world_destroy(struct phx_world *world);

#ifdef __cplusplus
}
#endif
#endif
