#include "launch/output.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* A pseudo-terminal does not tell what of its output was not read; a file holds nothing back. */
static int unread_bytes(void)
{
    int n = 0;
    if (isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, FIONREAD, &n) != 0) return 0;
    return n;
}

void phx_output_drain(void)
{
    enum { ROUNDS = 100 };
    static const struct timespec pause = {.tv_nsec = 5000000};
    fflush(stdout);
    for (int i = 0; i < ROUNDS && unread_bytes() > 0; i++) nanosleep(&pause, NULL);
    /* What the reader has taken it has not yet passed on. */
    nanosleep(&pause, NULL);
}
