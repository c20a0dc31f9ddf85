/// \file interrupt.h
/// Ctrl-C and SIGTERM as a flag, so that what has been made can still be written.
///
/// An interrupted mpirun sends its ranks SIGTERM after a second and SIGKILL after another, or as
/// soon as one of them has ended (results.h tells what becomes of their output). A rank ends by
/// itself 0.7 s after SIGTERM: one whose peer is gone would wait for ever. A second signal of the
/// same kind ends the process at once.
#ifndef PHX_LAUNCH_INTERRUPT_H
#define PHX_LAUNCH_INTERRUPT_H

#include <stdbool.h>

/// From now on the first signal only sets the flag.
void phx_interrupt_catch(void);
bool phx_interrupted(void);

#endif
