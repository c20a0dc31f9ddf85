#include "launch/progress.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool phx_stderr_is_terminal(void)
{
    if (isatty(STDERR_FILENO)) return true;
    struct stat own;
    if (fstat(STDERR_FILENO, &own) != 0 || !S_ISFIFO(own.st_mode)) return false;
    char path[64], target[PATH_MAX], parent[64];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)getppid());
    FILE *comm = fopen(path, "r");
    if (comm == NULL) return false;
    bool is_mpirun = fgets(parent, sizeof parent, comm) != NULL &&
                     (!strncmp(parent, "mpirun", 6) || !strncmp(parent, "mpiexec", 7) ||
                      !strncmp(parent, "orterun", 7) || !strncmp(parent, "prterun", 7));
    fclose(comm);
    if (!is_mpirun) return false;
    snprintf(path, sizeof path, "/proc/%d/fd/2", (int)getppid());
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0) return false;
    target[n] = '\0';
    return !strncmp(target, "/dev/pts/", 9) || !strncmp(target, "/dev/tty", 8);
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
