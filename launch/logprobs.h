/// \file logprobs.h
/// Log-probabilities out of a row of logits.
#ifndef PHX_LAUNCH_LOGPROBS_H
#define PHX_LAUNCH_LOGPROBS_H

#include <stdbool.h>
#include <stdint.h>

/// log of the sum of exp(logits[i]), i < vocab; NaN if there is nothing to draw from (NaN, plus
/// infinity).
double phx_logprobs_sum(const float *logits, int64_t vocab);

/// The n largest, likeliest first, lower ids first among equals: ids[n] and their
/// log-probabilities. Returns how many there are: n, or vocab if it is less.
int32_t phx_logprobs_top(const float *logits, int64_t vocab, double log_sum, int32_t n,
                         int32_t *ids, float *logprobs);

/// JSON has no infinity: a token that the model rules out gets what other servers give it.
double phx_logprobs_json(float logprob);

#endif
