#include "launch/int_range.h"

/* Digits from *text on; false: none, or too many. */
static bool read_number(const char **text, const char *end, int64_t *out)
{
    const char *begin = *text;
    *out = 0;
    for (; *text < end && **text >= '0' && **text <= '9'; (*text)++) {
        *out = *out * 10 + (**text - '0');
        if (*out > INT32_MAX) return false;
    }
    return *text > begin;
}

bool phx_int_range_read(const char *text, size_t bytes, struct phx_int_range *out)
{
    const char *end = text + bytes;
    *out = (struct phx_int_range){.step = 1};
    if (!read_number(&text, end, &out->first)) return false;
    out->last = out->first;
    if (text == end) return true;
    if (*text++ != '-' || !read_number(&text, end, &out->last)) return false;
    if (text == end) return true;
    out->times = *text == '*';
    if (*text != '+' && *text != '*') return false;
    text++;
    return read_number(&text, end, &out->step) && text == end;
}

bool phx_int_range_rises(const struct phx_int_range *range)
{
    if (range->times && (range->first == 0 || range->step == 1)) return false;
    return range->last >= range->first && range->step >= 1;
}
