#include "kernels/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic int threshold = PHX_LOG_WARN;
static _Thread_local int own_rank = -1;

void phx_log_level_set(enum phx_log_level level)
{
    atomic_store(&threshold, (int)level);
}

void phx_log_rank_set(int rank)
{
    own_rank = rank;
}

void phx_log(enum phx_log_level level, const char *format, ...)
{
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    if ((int)level > atomic_load(&threshold)) return;
    char line[2048];
    int used = own_rank < 0
                   ? snprintf(line, sizeof line, "phalanx: %s", names[level])
                   : snprintf(line, sizeof line, "phalanx[%d]: %s", own_rank, names[level]);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    va_end(arguments);
    size_t length = strlen(line);
    line[length++] = '\n';
    /* One write, so that lines of different ranks do not mix. A failed write to stderr has no
     * reader. */
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
}
