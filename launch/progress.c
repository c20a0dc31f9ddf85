#include "launch/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "launch/mpirun_stream.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool phx_stderr_is_terminal(void)
{
    if (isatty(STDERR_FILENO)) return true;
    int fd = phx_mpirun_stream_open(STDERR_FILENO);
    bool terminal = fd >= 0 && isatty(fd);
    if (fd >= 0) close(fd);
    return terminal;
}

void phx_progress_start(struct phx_progress *bar, bool wanted)
{
    memset(bar, 0, sizeof *bar);
    bar->wanted = wanted && phx_stderr_is_terminal();
    bar->start = bar->last = now();
}

void phx_progress_update(void *user, size_t done_bytes, size_t total_bytes)
{
    struct phx_progress *bar = user;
    double time = now();
    if (!bar->wanted || time - bar->start < 1 || time - bar->last < 0.1) return;
    bar->last = time;
    bar->drawn = true;
    static const char full[] = "##############################";
    int width = (int)sizeof full - 1;
    double share = total_bytes ? (double)done_bytes / (double)total_bytes : 1;
    fprintf(stderr, "\rloading [%-*.*s] %3.0f %%, %.2f GB/s ", width, (int)(share * width), full,
            100 * share, (double)done_bytes / (time - bar->start) / 1e9);
    fflush(stderr);
}

void phx_progress_end(struct phx_progress *bar)
{
    if (bar->drawn) fprintf(stderr, "\r%70s\r", "");
    bar->drawn = false;
}
