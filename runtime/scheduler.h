/// \file scheduler.h
/// Which request advances, and by how much, in the next step. Pure: no device, no rank; rank 0 owns
/// it.
///
/// Order: running requests that only decode, oldest first; then running ones that still read their
/// prompt; then waiting ones, first come first served. So while a long prompt is read, others go
/// on: whoever decodes gets a token in every step, and no step has more than max_rows rows. When
/// pages run out the youngest running request gives its pages back and waits at the head of the
/// queue; what it had is computed again later, or found again.
///
/// Pages are shared between requests that begin alike, if the limits say so: full blocks of tokens,
/// from the step on that computes them. A request that joins reads on where the known pages end,
/// but at least its last token, whose logits it needs. One that wants the logits of all positions
/// takes part only with what it has been told already.
///
/// Steps may be scheduled before the ones ahead of them have come to an end: a token that is still
/// being drawn is then the next step's input. Whoever runs the steps does so in order; so pages and
/// slots may change hands in a step that follows one still under way.
#ifndef PHX_RUNTIME_SCHEDULER_H
#define PHX_RUNTIME_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/kv_cache.h"
#include "runtime/request.h"

/// Steps under way at most.
enum { PHX_MAX_AHEAD = 2 };

struct phx_scheduler_limits {
    int32_t max_seqs;    ///< slots: requests that run at the same time
    int32_t max_rows;    ///< tokens in a step, at least max_seqs
    int32_t max_outputs; ///< rows with logits in a step, at least max_seqs
    int32_t max_length;  ///< tokens of one request: the context
    int32_t n_pages;     ///< of the KV cache
    bool share;          ///< requests share pages: the prefix cache
};

/// A request's part in a step: its positions [position, position + n_rows).
struct phx_scheduled {
    struct phx_request *request; ///< NULL: it has ended since
    int32_t position;
    int32_t n_rows;
    int32_t n_outputs;   ///< rows with logits: the last n_outputs ones
    bool samples;        ///< the last row draws a token
    bool joins;          ///< it got its slot for this step
    int32_t n_seen;      ///< if it joins: leading positions that it found in shared pages
    int32_t n_biases;    ///< in effect for the token that the step draws, or that comes next
    bool changes;        ///< not joins, but n_biases is another than the step before
    int32_t first_block; ///< the slot's blocks from this one on were appended for this step
};

struct phx_schedule {
    struct phx_scheduled *entries;
    int32_t n;
    int32_t n_rows, n_outputs; ///< sums over the entries
};

struct phx_scheduler;

enum phx_status phx_scheduler_create(const struct phx_scheduler_limits *limits,
                                     struct phx_scheduler **out);
/// Requests that are still in it are not touched: they are the submitter's.
void phx_scheduler_destroy(struct phx_scheduler *scheduler);

/// Queue a request. It belongs to the submitter, who keeps it until its finish is not NONE. Refused
/// with a sentence, at once, if it can never run: longer than the context, more pages than there
/// are (PHX_USAGE). Its time does not depend on how many are waiting.
enum phx_status phx_scheduler_submit(struct phx_scheduler *scheduler, struct phx_request *request);

/// The next step; before it, cancelled requests finish. With n > 0 it is under way, and valid,
/// until phx_scheduler_complete(); at most PHX_MAX_AHEAD steps are. n = 0: there is nothing to do
/// until one of them is complete, or at all. Allocates nothing.
const struct phx_schedule *phx_scheduler_next(struct phx_scheduler *scheduler);

/// What the step came to, row after row of its outputs. `logits` is NULL, or rows of `vocab`.
struct phx_step_results {
    const int32_t *ids;
    const float *logprobs;
    const float *logits;
    int64_t vocab;
};
/// The oldest step under way has come to this: texts grow, on_output is called, finished requests
/// leave. Returns the number of tokens that texts grew by; what was drawn for a text that had
/// already ended is dropped.
int32_t phx_scheduler_complete(struct phx_scheduler *scheduler,
                               const struct phx_step_results *results);

const struct phx_kv_cache *phx_scheduler_cache(const struct phx_scheduler *scheduler);
int32_t phx_scheduler_running(const struct phx_scheduler *scheduler);
int32_t phx_scheduler_waiting(const struct phx_scheduler *scheduler);

struct phx_scheduler_counters {
    int64_t n_preemptions;                ///< how often a request had to give its pages back
    int64_t prompt_tokens;                ///< of requests that have been admitted, once each
    int64_t cached_tokens;                ///< of these, found in the cache
    int64_t n_finished[PHX_FINISH_COUNT]; ///< requests, by enum phx_finish
};
const struct phx_scheduler_counters *phx_scheduler_counters(const struct phx_scheduler *scheduler);

#endif
