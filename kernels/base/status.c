#include "kernels/base/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "kernels/base/check.h"

/* Ranks may be threads: each has its own record. */
static _Thread_local char sentence[PHX_SENTENCE_BYTES];

const char *phx_status_text(enum phx_status status)
{
    switch (status) {
#define PHX_STATUS_CASE(name, text)                                                                \
    case PHX_##name:                                                                               \
        return text;
        PHX_STATUS_LIST(PHX_STATUS_CASE)
#undef PHX_STATUS_CASE
    }
    return "unknown status";
}

enum phx_status phx_fail(enum phx_status status, const char *format, ...)
{
    PHX_ASSERT(status != PHX_OK);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return status;
}

const char *phx_fail_sentence(void)
{
    return sentence;
}

void phx_fail_clear(void)
{
    sentence[0] = '\0';
}
