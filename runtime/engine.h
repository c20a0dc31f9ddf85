/// \file engine.h
/// Runs requests: owns the KV cache, the decoder pass, the batch and (on rank 0) the scheduler.
///
/// Rank 0 submits requests and steps; the other ranks follow its records until it stops. Every rank
/// computes the same tokens; rank 0 compares theirs with its own through a running hash in the
/// records.
///
/// Everything here is called from one thread. A server's loop is
///
///     for (;;) {
///         take what other threads handed over: phx_engine_submit(), phx_request_cancel();
///         phx_engine_step(engine, &worked);
///         if (!worked) sleep until something is handed over, for as long as it takes;
///     }
///     phx_engine_stop(engine);
///
/// While rank 0 sleeps so does everybody: the others in the world's channel, with nothing under way
/// on any device, and no watchdog waits for anything. A failed step is the end of the job: there is
/// no way to go on.
#ifndef PHX_RUNTIME_ENGINE_H
#define PHX_RUNTIME_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "parallel/comm.h"
#include "parallel/world.h"
#include "runtime/forward.h"
#include "runtime/request.h"
#include "runtime/scheduler.h"
#include "runtime/watchdog.h"

struct phx_engine;

/// All outlive the engine.
struct phx_engine_parts {
    struct phx_world *world;
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_comm *comm;
    struct phx_watchdog *watchdog; ///< NULL: none
    struct phx_buffer *partials;   ///< as in phx_forward_parts: its allocation is collective
    const struct phx_config *config;
    const struct phx_shard_plan *plan;
    const struct phx_weights *weights;
};

struct phx_engine_options {
    struct phx_scheduler_limits limits;
    enum phx_dtype kv_dtype;
    int n_ahead; ///< steps under way at most, 1..PHX_MAX_AHEAD; more than 1 keeps a device busy
                 ///< that works by itself
    bool logits; ///< requests may want logits: rank 0 has host memory for those of n_ahead steps
    bool graphs; ///< record decode steps and replay them, where device and communicator can
    bool pads;   ///< as in phx_batch_apply; the bits are the same with and without graphs
};

/// What a step came to.
struct phx_step_report {
    int32_t n_seqs, n_rows;
    int32_t n_prompt; ///< rows of these that read prompts
    int32_t n_new;    ///< tokens that texts grew by
    /// From its beginning, or the end of the one before if that was later, to its end.
    double seconds;
    /// From when this rank's device began with it to its end: between steps it has nothing to do.
    double device_seconds;
};

/// The same on all ranks; not collective.
enum phx_status phx_engine_create(const struct phx_engine_parts *parts,
                                  const struct phx_engine_options *options,
                                  struct phx_engine **out);
void phx_engine_destroy(struct phx_engine *engine);

/// Rank 0: as phx_scheduler_submit, between steps or from a request's callbacks; a token id outside
/// the vocabulary is PHX_USAGE. Requests that want logits need an engine made for that.
enum phx_status phx_engine_submit(struct phx_engine *engine, struct phx_request *request);
/// Rank 0: begin a step, or see the oldest one under way to its end, or both. Cancelled requests
/// finish in here. *out_worked = false if there was nothing to do; then nothing is under way and
/// every request has finished. Allocates nothing, but for the first steps of each kind if they are
/// recorded.
enum phx_status phx_engine_step(struct phx_engine *engine, bool *out_worked);
/// Rank 0: see steps under way to their end, then tell the others that it is over; their
/// phx_engine_follow returns. Requests that have not finished are left as they are: to end them
/// first, cancel them and step until there is nothing to do.
enum phx_status phx_engine_stop(struct phx_engine *engine);
/// Other ranks: take part in rank 0's steps until it stops.
enum phx_status phx_engine_follow(struct phx_engine *engine);

/// Every rank, between phx_engine_stop() or phx_engine_follow() and the next step: leave stages out
/// of all steps from now on, as phx_stream_leave_out() does; 0: nothing.
enum phx_status phx_engine_leave_out(struct phx_engine *engine, unsigned stages, bool starts);

struct phx_engine_counters {
    int64_t n_steps;
    int64_t n_replayed;       ///< of these, as recorded graphs
    int64_t prompt_tokens;    ///< positions read in steps that read some prompt
    int64_t generated_tokens; ///< drawn or forced
    int64_t decode_tokens;    ///< of these, in steps in which every sequence only decoded
    double prompt_seconds;    ///< of steps that read some prompt
    double decode_seconds;    ///< of the others
    uint64_t token_hash;      ///< over all tokens drawn; the same on all ranks
};
void phx_engine_counters(const struct phx_engine *engine, struct phx_engine_counters *out);

/// Rank 0: how things stand, and what has come to pass.
struct phx_engine_load {
    int32_t n_running, n_waiting;                 ///< requests
    int32_t n_pages, n_free_pages, n_known_pages; ///< as in runtime/kv_cache.h
    struct phx_scheduler_counters counters;
    double sum_seconds; ///< of this rank in sums over ranks, as phx_comm_seconds(); NaN: not known
};
void phx_engine_load(const struct phx_engine *engine, struct phx_engine_load *out);

/// Of prompt and continuation of a request together: the context, or all pages if they hold less.
int32_t phx_engine_max_tokens(const struct phx_engine *engine);

/// Rank 0: called at the end of each step, after the requests' callbacks; NULL: nobody. Somebody
/// comes while no step is under way: its beginning would be unknown.
void phx_engine_on_step(struct phx_engine *engine,
                        void (*on_step)(void *user, const struct phx_step_report *report),
                        void *user);

/// Collective: a hash of the bits of the last step's last row of logits, all ranks' parts in order.
enum phx_status phx_engine_logits_hash(struct phx_engine *engine, uint64_t *out);

/// A layer's cache on this rank: for tests and the audit.
struct phx_kv_pages phx_engine_kv(const struct phx_engine *engine, int32_t layer);
/// Every rank, before the first step: who looks on during the passes. Not with graphs.
void phx_engine_set_taps(struct phx_engine *engine, const struct phx_forward_taps *taps);

#endif
