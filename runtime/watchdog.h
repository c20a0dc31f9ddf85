/// \file watchdog.h
/// Ends a job whose start or step gets nowhere, with a sentence that names who holds it up and
/// where.
///
/// Each rank has one: a thread that wakes ten times a second, shows the other ranks of the machine
/// where this one is, and counts for how long each of them has not moved. Until
/// phx_watchdog_begin() only a process that does not run at all is one that stalls: nobody knows
/// how long a load may take. After that a rank is watched from phx_watchdog_enter() to
/// phx_watchdog_leave(): while it launches a step or waits for one. Outside (between requests,
/// while a reader is slow to take the text, waiting for rank 0's next record) nothing is due, and a
/// rank that is stopped there holds nobody up. To move is to begin a collective, to enter or to
/// leave; the longest way is, on a CPU, the MLP of a layer with all rows of a step.
///
/// Time is counted in wake-ups, so that a job that was stopped as a whole (Ctrl-Z, a suspended
/// machine) goes on where it was. A process whose watchdog does not wake is told from one that runs
/// but whose device, or step, is stuck.
///
/// The end: the first rank of a machine that notices writes the sentence; the watchdogs of all its
/// ranks abort their communicators and end their processes with _exit(1), within half a second of
/// the time-out (a few seconds where an abort, or who is told, hangs); the launcher ends those that
/// cannot. Deaths are not waited for here: mpirun notices them at once.
#ifndef PHX_RUNTIME_WATCHDOG_H
#define PHX_RUNTIME_WATCHDOG_H

#include "parallel/comm.h"
#include "parallel/world.h"
#include "runtime/config.h"

struct phx_watchdog;

/// All outlive it. Where a watchdog is taken, NULL is none: nothing happens.
struct phx_watchdog_parts {
    struct phx_world *world;
    const struct phx_config *config;
    int timeout_s; ///< > 0, the same on all ranks
};

/// Collective over the node.
enum phx_status phx_watchdog_create(const struct phx_watchdog_parts *parts,
                                    struct phx_watchdog **out);
/// The start is over; the communicator outlives the watchdog. Before the first step.
void phx_watchdog_begin(struct phx_watchdog *watchdog, struct phx_comm *comm);
/// Before phx_comm_finish().
void phx_watchdog_destroy(struct phx_watchdog *watchdog);

/// Of this rank: before its end `tell` is called with the sentence, from the watchdog's thread.
/// Nobody may call phx_watchdog_destroy() from there. NULL watchdog: nothing happens.
void phx_watchdog_on_stall(struct phx_watchdog *watchdog,
                           void (*tell)(void *user, const char *sentence), void *user);

/// Around what launches a step or waits for one: from the first to the last moment of a wait, not
/// between looks. Not nested, always from the same thread; a store each.
void phx_watchdog_enter(struct phx_watchdog *watchdog);
void phx_watchdog_leave(struct phx_watchdog *watchdog);

#endif
