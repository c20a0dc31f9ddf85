#include "launch/server/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1};
static int pipe_fds[2];

static void note(int number, siginfo_t *info, void *context)
{
    (void)context;
    int error = errno;
    struct phx_signal message = {number, info->si_pid};
    ssize_t n = write(pipe_fds[1], &message, sizeof message); /* full: enough was said */
    (void)n;
    errno = error;
}

enum phx_status phx_signals_catch(int *out_fd)
{
    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0)
        return phx_fail(PHX_IO, "the system gives no pipe: %s", strerror(errno));
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = note;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &action, NULL);
    *out_fd = pipe_fds[0];
    return PHX_OK;
}

void phx_signals_leave(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) sigaddset(&set, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}
