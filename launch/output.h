/// \file output.h
/// Results on standard output, when mpirun is in between.
#ifndef PHX_LAUNCH_OUTPUT_H
#define PHX_LAUNCH_OUTPUT_H

/// Flush standard output and wait until its reader has taken everything, half a second at most:
/// mpirun forwards stdout and stderr apart, so that a line on the one could overtake the other.
void phx_output_drain(void);

#endif
