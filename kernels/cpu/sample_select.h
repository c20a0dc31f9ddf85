/// \file sample_select.h
/// Steps 2 and 3 of the sampling rule (struct phx_sampling), for any list of tokens.
#ifndef PHX_KERNELS_CPU_SAMPLE_SELECT_H
#define PHX_KERNELS_CPU_SAMPLE_SELECT_H

#include "kernels/cpu/loops.h"
#include "kernels/ops.h"

/// The tokens to draw from: a row of adjusted logits, token i at [i], or the records of all ranks.
/// Among equal values, lower ids come first in both.
struct phx_sample_tokens {
    const float *logits;                    ///< [n], or NULL
    const struct phx_candidate *candidates; ///< [n], those with id < 0 are none
    int64_t n;
};

/// z after step 1 as it takes part in the draw: divided by the temperature; NaN counts as
/// -infinity.
float phx_sample_value(float adjusted, float temperature);

/// value + noise of token `id`, if that is above `floor`; otherwise anything not above it.
float phx_sample_noisy(float value, uint64_t key, int32_t id, float floor);

/// The index in `tokens` of the one that the rule draws; -1 without tokens.
int64_t phx_sample_draw(const struct phx_sample_tokens *tokens, const struct phx_sampling *params,
                        uint64_t key);

#endif
