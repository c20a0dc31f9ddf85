#include "launch/interrupt.h"

#include <signal.h>
#include <string.h>
#include <sys/time.h>

static volatile sig_atomic_t interrupted;

/* mpirun tells by what a rank has ended, and an alarm would say nothing to anybody. */
static void end(int number)
{
    (void)number;
    signal(SIGTERM, SIG_DFL);
    raise(SIGTERM);
}

/* A rank that waits for a peer that is gone cannot end in order: then the alarm ends it. */
static void note(int signal)
{
    static const struct itimerval grace = {.it_value = {.tv_usec = 700000}};
    if (signal == SIGTERM) setitimer(ITIMER_REAL, &grace, NULL);
    interrupted = 1;
}

void phx_interrupt_catch(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    action.sa_flags = (int)(SA_RESTART | SA_RESETHAND);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = end;
    sigaction(SIGALRM, &action, NULL);
}

bool phx_interrupted(void)
{
    return interrupted != 0;
}
