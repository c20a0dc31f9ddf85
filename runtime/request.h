/// \file request.h
/// One text to continue: what is asked, and how far it has come. Pure: no device, no rank.
#ifndef PHX_RUNTIME_REQUEST_H
#define PHX_RUNTIME_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "kernels/ops.h"
#include "runtime/config.h"

enum phx_finish {
    PHX_FINISH_NONE,   ///< still going
    PHX_FINISH_STOP,   ///< a stop token or a stop string
    PHX_FINISH_LENGTH, ///< as many tokens as asked for, or the context is full
    PHX_FINISH_CANCELLED,
    PHX_FINISH_ERROR, ///< the model gave nothing to draw from
};

/// "stop", "length", ...
const char *phx_finish_name(enum phx_finish finish);

struct phx_request;

/// What a step says about one row whose logits were wanted.
struct phx_output {
    int32_t position; ///< that the predicted token has in the text
    int32_t id;       ///< the token that now stands there; -1: none was drawn (inside the prompt)
    float logprob;    ///< of id, under the model's raw distribution; NaN if id was given or is -1
    const float *logits; ///< [vocab] as the model gave them, or NULL if they were not asked for
};

/// What to ask for. Arrays are copied by phx_request_create.
struct phx_request_options {
    const int32_t *prompt_ids;
    int32_t n_prompt;          ///< at least 1
    int32_t max_new;           ///< tokens to generate at most; 0: only read the prompt
    const int32_t *forced_ids; ///< the first tokens of the continuation, instead of drawn ones
    int32_t n_forced;
    struct phx_sampling sampling; ///< n_bias is set from the next fields
    int32_t n_bias;
    const int32_t *bias_ids;
    const float *bias_values;
    int32_t n_stop_ids;
    int32_t stop_ids[PHX_MAX_EOS];
    bool want_logits;     ///< of every drawn token
    bool want_all_logits; ///< of every position, the last one of the continuation too
    /// Called on rank 0 for each output, in the order of positions. May call phx_request_cancel.
    void (*on_output)(struct phx_request *request, const struct phx_output *output);
    void *user;
};

struct phx_request {
    struct phx_request_options options; ///< its pointers are the request's own copies
    int32_t *ids;                       ///< prompt, then continuation [n_prompt + max_new]
    int32_t n_ids;                      ///< leading positions whose token is known
    /* What follows counts in the steps under way: the scheduler's view. */
    int32_t n_planned;        ///< leading positions that have a token or will
    int32_t n_computed;       ///< leading positions whose K and V are in the cache
    int32_t n_reported;       ///< leading positions whose outputs have been handed out
    int32_t n_steps;          ///< steps under way that it is part of
    int32_t n_hold;           ///< positions from here on wait, until whoever submitted it raises
                              ///< this; INT32_MAX at first
    int32_t slot;             ///< -1: waiting or finished
    bool cancelled;           ///< ends at once, wanted logits or not
    enum phx_finish ending;   ///< why no further token is drawn; NONE: one is
    enum phx_finish finish;   ///< set when nothing is left to do
    struct phx_request *next; ///< of the scheduler's queue
};

/// What a step is told of the token at a planned position: its id, or -1 - slot where it is still
/// being drawn.
int32_t phx_request_id_at(const struct phx_request *request, int32_t position);

/// Checks every parameter against its range (PHX_USAGE, a sentence).
enum phx_status phx_request_create(const struct phx_request_options *options,
                                   struct phx_request **out);
void phx_request_destroy(struct phx_request *request);

/// For measuring: forget what was drawn and go on at position n_computed of the prompt, as if what
/// lies before were in the cache, be it from an earlier pass or not. 0 <= n_computed < n_prompt.
/// Before it is submitted, or while it is held and nothing of it is under way.
void phx_request_seek(struct phx_request *request, int32_t n_computed);

/// Stop after the current output. The finish is `finish` (STOP for a stop string).
void phx_request_cancel(struct phx_request *request, enum phx_finish finish);

#endif
