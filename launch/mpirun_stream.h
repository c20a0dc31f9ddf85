/// \file mpirun_stream.h
/// The standard streams of the mpirun that started this process.
#ifndef PHX_LAUNCH_MPIRUN_STREAM_H
#define PHX_LAUNCH_MPIRUN_STREAM_H

/// Opens, to append, what mpirun itself has as descriptor `fd`, for the caller to close. -1 if the
/// parent is no mpirun (it is a daemon on all but the first machine), or if that cannot be opened
/// (a socket, another user's file).
int phx_mpirun_stream_open(int fd);

#endif
