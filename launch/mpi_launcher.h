/// \file mpi_launcher.h
/// What the environment tells of how this process was started. Pure: asks the given function only.
#ifndef PHX_LAUNCH_MPI_LAUNCHER_H
#define PHX_LAUNCH_MPI_LAUNCHER_H

#include "kernels/base/status.h"

struct phx_mpi_launcher {
    const char *program;  ///< "mpirun", "srun"; NULL: this process was started on its own
    const char *variable; ///< where the number comes from
    int size;             ///< processes of the job; 0: the launcher does not tell
    int rank;             ///< of this process; 0 where the launcher does not tell
};

/// `look_up` is getenv or a test's stand-in.
struct phx_mpi_launcher phx_mpi_launcher_detect(char *(*look_up)(const char *name));

/// The trap of a program that meets another MPI's launcher: every process is rank 0 of 1.
/// `mpi_size` is what MPI said, `mpi_name` what it calls itself. PHX_USAGE, with a sentence
/// on the launcher's first process only, so that it is told once.
enum phx_status phx_mpi_launcher_check(const struct phx_mpi_launcher *launcher, int mpi_size,
                                       const char *mpi_name);

#endif
