/// \file request.h
/// One text to continue: what is asked, and how far it has come. Pure: no device, no rank.
#ifndef PHX_RUNTIME_REQUEST_H
#define PHX_RUNTIME_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "kernels/ops.h"

enum phx_finish {
    PHX_FINISH_NONE,   ///< still going
    PHX_FINISH_STOP,   ///< a stop token or a stop string
    PHX_FINISH_LENGTH, ///< as many tokens as asked for, or the context is full
    PHX_FINISH_CANCELLED,
    PHX_FINISH_ERROR, ///< the model gave nothing to draw from
    PHX_FINISH_COUNT
};

/// "stop", "length", ...
const char *phx_finish_name(enum phx_finish finish);

struct phx_request;

/// What a step says about one row whose logits were wanted.
struct phx_output {
    int32_t position; ///< that the predicted token has in the text
    int32_t id;       ///< the token that now stands there; -1: none was drawn (inside the prompt)
    float logprob;    ///< of id, under the model's raw distribution; NaN if id was given or is -1;
                      ///< NaN of a drawn one: the logits hold NaN or infinity, give the request up
    const float
        *logits; ///< [vocab] as the model gave them, or NULL if they were not asked for; of a
                 ///< drawn token logits[id] - logprob is the log of their sum of exponentials
};

/// What to ask for. Arrays are copied by phx_request_create.
struct phx_request_options {
    const int32_t *prompt_ids;
    int32_t n_prompt;          ///< at least 1
    int32_t max_new;           ///< tokens to generate at most; 0: only read the prompt
    const int32_t *forced_ids; ///< the first tokens of the continuation, instead of drawn ones
    int32_t n_forced;
    struct phx_sampling sampling; ///< its n_bias is ignored
    int32_t n_bias;
    const int32_t *bias_ids;
    const float *bias_values;
    int32_t n_stop_ids;
    const int32_t *stop_ids; ///< drawing one of these ends the text; it is the text's last token
    int32_t min_new;      ///< no stop id among the first min_new tokens: each has a bias of minus
                          ///< infinity there; n_bias + n_stop_ids <= PHX_MAX_BIAS if it is not 0
    bool want_logits;     ///< of every drawn token
    bool want_all_logits; ///< of every position, the last one of the continuation too; its outputs
                          ///< begin with position 1, and it reads nobody else's pages
    /// Both are called on rank 0, between steps or in one, from the thread that steps; NULL: nobody
    /// is told. Either may submit requests and cancel any.
    ///
    /// For each output, in the order of positions; not after phx_request_cancel().
    void (*on_output)(struct phx_request *request, const struct phx_output *output);
    /// Once, when `finish` has been set. The scheduler has let go of the request: it may be
    /// destroyed in here.
    void (*on_finish)(struct phx_request *request);
    void *user;
};

struct phx_request {
    struct phx_request_options options; ///< its pointers are the request's own copies
    int32_t *ids;                       ///< prompt, then continuation [n_prompt + max_new]
    int32_t n_ids;                      ///< leading positions whose token is known
    int32_t n_cached; ///< of the prompt, found in the cache when it was first admitted
    /* What follows counts in the steps under way: the scheduler's view. */
    int32_t n_planned;                ///< leading positions that have a token or will
    int32_t n_computed;               ///< leading positions whose K and V are in the cache
    int32_t n_reported;               ///< leading positions whose outputs have been handed out
    int32_t n_steps;                  ///< steps under way that it is part of
    int32_t n_biases;                 ///< that the device has for its slot
    int32_t n_hold;                   ///< positions from here on wait, until whoever submitted it
                                      ///< raises this; INT32_MAX at first
    int32_t slot;                     ///< -1: waiting or finished
    bool admitted;                    ///< has run, though it may have had to wait again
    bool cancelled;                   ///< ends at once, wanted logits or not
    enum phx_finish ending;           ///< why no further token is drawn; NONE: one is
    enum phx_finish finish;           ///< set when nothing is left to do
    uint64_t scheduled;               ///< number of the newest step that it is part of, from 1
    struct phx_request *next, **link; ///< of the scheduler's queue; link points at what points here
    struct phx_request **cancels;     ///< the scheduler's list of cancelled requests
    struct phx_request *next_cancelled;
};

/// There are penalties, which depend on what the text holds.
bool phx_sampling_counts(const struct phx_sampling *sampling);
/// Biases in effect for the token at `position`: those asked for, before min_new those against the
/// stop ids as well.
int32_t phx_request_biases_at(const struct phx_request *request, int32_t position);
/// Number i of these.
void phx_request_bias(const struct phx_request *request, int32_t i, int32_t *out_id,
                      float *out_value);

/// What a step is told of the token at a planned position: its id, or -1 - slot where it is still
/// being drawn.
int32_t phx_request_id_at(const struct phx_request *request, int32_t position);

/// Checks every parameter against its range (PHX_USAGE, a sentence).
enum phx_status phx_request_create(const struct phx_request_options *options,
                                   struct phx_request **out);
void phx_request_destroy(struct phx_request *request);

/// For measuring: forget what was drawn and go on at position n_computed of the prompt, as if what
/// lies before were in the cache, be it from an earlier pass or not. 0 <= n_computed < n_prompt.
/// Before it is submitted, or while it is held and nothing of it is under way; not where pages are
/// shared.
void phx_request_seek(struct phx_request *request, int32_t n_computed);

/// Stop after the current output. The finish is `finish` (STOP for a stop string). At any time
/// until on_finish, waiting or running, from the thread that steps; nothing happens if it has
/// finished. It finishes, and others can have its pages, at the end of the step whose callback this
/// is called from, or else with the next phx_engine_step(). What steps under way draw for it is
/// dropped.
void phx_request_cancel(struct phx_request *request, enum phx_finish finish);

#endif
