#include "launch/mpi_launcher.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Variables that a launcher sets for its processes. */
struct sign {
    const char *program;
    const char *condition; /* NULL: none; otherwise a variable that must be set too */
    const char *size, *rank;
};

/* The first that is there counts: launchers nest, mpirun inside a Slurm step. A Slurm script is not
 * a step: it may have SLURM_NTASKS and SLURM_PROCID without being one of several processes. */
static const struct sign signs[] = {
    {"mpirun", NULL, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}, /* Open MPI */
    {"mpirun", NULL, "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},   /* MVAPICH */
    {"mpirun", NULL, "PMI_SIZE", "PMI_RANK"},                         /* MPICH, Intel MPI */
    {"srun", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
    {"srun", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID"},
};

/* -1 if the variable is not set to a number. */
static int number_of(char *(*look_up)(const char *name), const char *name)
{
    const char *text = look_up(name);
    if (text == NULL || *text == '\0') return -1;
    char *end;
    long value = strtol(text, &end, 10);
    return *end != '\0' || value < 0 || value > INT_MAX ? -1 : (int)value;
}

struct phx_mpi_launcher phx_mpi_launcher_detect(char *(*look_up)(const char *name))
{
    for (size_t s = 0; s < sizeof signs / sizeof signs[0]; s++) {
        const struct sign *sign = &signs[s];
        int size = number_of(look_up, sign->size), rank = number_of(look_up, sign->rank);
        if (size < 1 || (sign->condition != NULL && look_up(sign->condition) == NULL)) continue;
        return (struct phx_mpi_launcher){sign->program, sign->size, size, rank > 0 ? rank : 0};
    }
    int rank = number_of(look_up, "PMIX_RANK"); /* any PMIx launcher; tells no size */
    if (rank >= 0) return (struct phx_mpi_launcher){"the launcher", "PMIX_RANK", 0, rank};
    return (struct phx_mpi_launcher){0};
}

enum phx_status phx_mpi_launcher_check(const struct phx_mpi_launcher *launcher, int mpi_size,
                                       const char *mpi_name)
{
    if (mpi_size != 1 || launcher->size <= 1) return PHX_OK;
    if (launcher->rank != 0) return PHX_USAGE;
    int name_length = (int)strcspn(mpi_name, ",\n"); /* the rest is about its build */
    if (strcmp(launcher->program, "srun") == 0)
        return phx_fail(PHX_USAGE,
                        "srun started %d processes (%s), but for MPI each of them is rank 0 of 1: "
                        "srun and the MPI of this program (%.*s) do not know each other. Use "
                        "mpirun -np %d inside the allocation, or try srun --mpi=pmix",
                        launcher->size, launcher->variable, name_length, mpi_name, launcher->size);
    return phx_fail(PHX_USAGE,
                    "mpirun started %d processes (%s), but for MPI each of them is rank 0 of 1: "
                    "this program was built with another MPI (%.*s) than this mpirun belongs to. "
                    "Use the mpirun of that MPI, or build again with the mpicc beside this mpirun",
                    launcher->size, launcher->variable, name_length, mpi_name);
}
