/// \file continuation.h
/// One prompt of generate on its way: its request, the text so far, and what is to be reported.
/// Rank 0 only.
#ifndef PHX_LAUNCH_VERBS_CONTINUATION_H
#define PHX_LAUNCH_VERBS_CONTINUATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/base/status.h"
#include "launch/options.h"
#include "runtime/request.h"
#include "runtime/stop_text.h"
#include "runtime/tokenizer/tokenizer.h"

struct phx_ids {
    int32_t *items;
    size_t n;
};

/// The distribution at one place of the text, as far as it is reported.
struct phx_place {
    float logprob; ///< of the token that stands there
    int32_t n_top;
    int32_t *top_ids; ///< [n_top] likeliest first
    float *top_logprobs;
};

struct phx_continuation {
    const struct phx_tokenizer *tokenizer;
    struct phx_ids prompt;
    char *prompt_text;
    size_t prompt_bytes;
    FILE *live;                  ///< text is written and flushed as it comes; NULL: only kept
    struct phx_request *request; ///< NULL: refused, only `error` is set
    struct phx_text_stream *stream;
    struct phx_stop_text *stop;
    char *text; ///< the continuation
    size_t bytes, capacity;
    int32_t n_logprobs;       ///< -1: none
    struct phx_place *places; ///< [max_new]
    float *logits;            ///< of phx_continuation_keep_logits(), or NULL
    int64_t vocab;
    double begin, first, last; ///< seconds: submitted, first token, last token
    enum phx_status *status;   ///< where a callback tells what went wrong and ends the job
    char *error;               ///< why this text failed, and only this one; NULL: it did not
};

/// Makes the request from `options` (its prompt, callbacks and wanted logits are set here).
/// `prompt` and `prompt_text` become the continuation's own, on failure too.
enum phx_status phx_continuation_create(const struct phx_tokenizer *tokenizer,
                                        const struct phx_options *command,
                                        const struct phx_request_options *options, int64_t vocab,
                                        struct phx_ids prompt, char *prompt_text,
                                        size_t prompt_bytes, struct phx_continuation **out);
/// In the place of a prompt that cannot be run, because of the sentence recorded by phx_fail(),
/// which is taken.
enum phx_status phx_continuation_create_refused(struct phx_continuation **out);
void phx_continuation_destroy(struct phx_continuation *continuation);

/// Memory for what phx_continuation_write_logits() will write: [n_prompt + max_new][vocab]. Counted
/// in the memory plan, so not taken before that was agreed.
enum phx_status phx_continuation_keep_logits(struct phx_continuation *continuation);

/// Note the time; write the prompt to `live`, if there is one.
void phx_continuation_begin(struct phx_continuation *continuation, FILE *live);
/// Hand out what the decoder and the stop texts still hold back. Once, when the request is finished
/// or given up.
enum phx_status phx_continuation_end(struct phx_continuation *continuation);

/// One JSON object on one line: prompt_ids, ids, text, finish_reason, logprobs (if asked for),
/// timings, error (if it failed); of a refused one only the error.
enum phx_status phx_continuation_print_json(const struct phx_continuation *continuation,
                                            FILE *file);
/// input_ids [n] and logits [n, vocab], n positions of prompt and continuation.
enum phx_status phx_continuation_write_logits(const struct phx_continuation *continuation,
                                              const char *path);

#endif
