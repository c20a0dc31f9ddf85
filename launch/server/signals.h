/// \file signals.h
/// Signals as messages on a descriptor, whichever thread gets them.
#ifndef PHX_LAUNCH_SERVER_SIGNALS_H
#define PHX_LAUNCH_SERVER_SIGNALS_H

#include <sys/types.h>

#include "kernels/base/status.h"

/// What the descriptor gives, one a signal.
struct phx_signal {
    int number;
    pid_t sender;
};

/// From now on SIGTERM, SIGINT and SIGUSR1 are readable from *out_fd, which stays open. Once in a
/// process.
enum phx_status phx_signals_catch(int *out_fd);
/// The calling thread, and those that it makes from now on, leave them to others.
void phx_signals_leave(void);

#endif
