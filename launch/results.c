#include "launch/results.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "launch/interrupt.h"
#include "launch/mpirun_stream.h"

enum {
    PAUSE_MS = 10,
    PATIENCE_MS = 200, /* of an interrupted job, with a reader that takes nothing */
    LIFE_S = 10        /* of the process that waits for mpirun's end: that takes two seconds */
};

static bool keep(struct phx_results *results, const char *data, size_t bytes)
{
    if (results->bytes + bytes > results->capacity) {
        size_t capacity = 2 * (results->bytes + bytes);
        char *grown = realloc(results->rest, capacity);
        if (grown == NULL) return false;
        results->rest = grown;
        results->capacity = capacity;
    }
    memcpy(results->rest + results->bytes, data, bytes);
    results->bytes += bytes;
    return true;
}

/* Once something is left over, all that follows is. */
static ssize_t put(void *cookie, const char *data, size_t bytes)
{
    struct phx_results *results = cookie;
    size_t done = 0;
    int idle_ms = 0;
    while (done < bytes && results->bytes == 0) {
        ssize_t n = write(results->own, data + done, bytes - done);
        if (n > 0) {
            done += (size_t)n;
            idle_ms = 0;
            continue;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) return 0;
        struct pollfd room = {.fd = results->own, .events = POLLOUT};
        poll(&room, 1, PAUSE_MS);
        if (phx_interrupted() && (idle_ms += PAUSE_MS) > PATIENCE_MS) break;
    }
    if (done < bytes && !keep(results, data + done, bytes - done)) return 0;
    return (ssize_t)bytes;
}

void phx_results_open(struct phx_results *out)
{
    *out = (struct phx_results){.file = stdout, .own = -1};
    out->mpirun = phx_mpirun_stream_open(STDOUT_FILENO);
    if (out->mpirun < 0) return;
    /* Opened anew: O_NONBLOCK belongs to what was opened, not to the descriptor. */
    out->own = open("/proc/self/fd/1", O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    FILE *file = out->own < 0 ? NULL : fopencookie(out, "w", (cookie_io_functions_t){.write = put});
    if (file != NULL) {
        out->file = file;
        return;
    }
    if (out->own >= 0) close(out->own);
    close(out->mpirun);
    out->own = out->mpirun = -1;
}

/* What outlives its rank and, for a moment, mpirun. Forked from a process with threads: system
 * calls only. */
static _Noreturn void deliver(const struct phx_results *results)
{
    setpgid(0, 0);
    alarm(LIFE_S);
    signal(SIGTTOU, SIG_IGN);
    dup2(results->own, STDIN_FILENO);
    dup2(results->mpirun, STDOUT_FILENO);
    close_range(STDERR_FILENO, ~0U, 0);
    struct pollfd end = {.fd = STDIN_FILENO}; /* of mpirun: an error or a hang-up */
    while (poll(&end, 1, -1) < 1) continue;
    for (size_t done = 0; done < results->bytes;) {
        ssize_t n = write(STDOUT_FILENO, results->rest + done, results->bytes - done);
        if (n < 0 && errno != EINTR) break;
        if (n > 0) done += (size_t)n;
    }
    _exit(0);
}

static enum phx_status leave_rest(const struct phx_results *results)
{
    pid_t heir = fork();
    if (heir < 0)
        return phx_fail(PHX_IO,
                        "the last %zu bytes are lost: mpirun takes no more, and a process "
                        "that could wait for its end does not start: %s",
                        results->bytes, strerror(errno));
    if (heir == 0) deliver(results);
    setpgid(heir, heir); /* whoever comes first: mpirun kills its rank's group */
    return PHX_OK;
}

enum phx_status phx_results_close(struct phx_results *results)
{
    if (results->file == NULL) return PHX_OK;
    enum phx_status status = PHX_OK;
    bool written = (results->file == stdout ? fflush(stdout) : fclose(results->file)) == 0;
    if (!written) status = phx_fail(PHX_IO, "cannot write to standard output");
    if (written && results->bytes > 0) status = leave_rest(results);
    if (results->own >= 0) close(results->own);
    if (results->mpirun >= 0) close(results->mpirun);
    free(results->rest);
    *results = (struct phx_results){.own = -1, .mpirun = -1};
    return status;
}
