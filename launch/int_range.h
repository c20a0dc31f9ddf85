/// \file int_range.h
/// Ranges of whole numbers as llama.cpp's benchmark has them. Pure.
#ifndef PHX_LAUNCH_INT_RANGE_H
#define PHX_LAUNCH_INT_RANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// first, first + step, ... or first, first * step, ..., at most last.
struct phx_int_range {
    int64_t first, last, step;
    bool times;
};

/// "7", "1-4", "1-9+2" (1, 3, 5, 7, 9) or "1-8*2" (1, 2, 4, 8), all `bytes` of the text; numbers
/// without a sign, below 2^31. False: it is none of these.
bool phx_int_range_read(const char *text, size_t bytes, struct phx_int_range *out);

/// False: it does not rise to its end.
bool phx_int_range_rises(const struct phx_int_range *range);

static inline int64_t phx_int_range_next(const struct phx_int_range *range, int64_t i)
{
    return range->times ? i * range->step : i + range->step;
}

#endif
