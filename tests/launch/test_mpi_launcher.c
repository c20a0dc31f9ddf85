/* What started this process, from made-up environments. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include <string.h>

#include "launch/mpi_launcher.h"

static const char *environment; /* "NAME=value NAME=value" */

static char *look_up(const char *name)
{
    static char value[64];
    size_t name_length = strlen(name);
    for (const char *entry = environment; *entry != '\0';) {
        size_t length = strcspn(entry, " ");
        if (strncmp(entry, name, name_length) == 0 && entry[name_length] == '=') {
            size_t value_length = length - name_length - 1;
            memcpy(value, entry + name_length + 1, value_length);
            value[value_length] = '\0';
            return value;
        }
        entry += length + (entry[length] == ' ');
    }
    return NULL;
}

struct start {
    const char *environment;
    const char *program, *variable;
    int size, rank;
};

static const struct start starts[] = {
    {"", NULL, NULL, 0, 0},
    {"HOME=/root SLURM_NTASKS=8 SLURM_PROCID=0", NULL, NULL, 0, 0}, /* a batch script */
    {"OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=3", "mpirun", "OMPI_COMM_WORLD_SIZE", 4, 3},
    {"OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0", "mpirun", "OMPI_COMM_WORLD_SIZE", 1, 0},
    {"PMI_SIZE=2 PMI_RANK=1", "mpirun", "PMI_SIZE", 2, 1},
    {"MV2_COMM_WORLD_SIZE=2 MV2_COMM_WORLD_RANK=1", "mpirun", "MV2_COMM_WORLD_SIZE", 2, 1},
    {"PMIX_RANK=5", "the launcher", "PMIX_RANK", 0, 5},
    {"SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=3 SLURM_NTASKS=8 SLURM_PROCID=2", "srun",
     "SLURM_STEP_NUM_TASKS", 3, 2},
    {"SLURM_STEP_ID=0 SLURM_NTASKS=8 SLURM_PROCID=2", "srun", "SLURM_NTASKS", 8, 2},
    {"SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=8", "srun", "SLURM_STEP_NUM_TASKS", 1, 0},
    /* mpirun inside a step of one */
    {"SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=1",
     "mpirun", "OMPI_COMM_WORLD_SIZE", 4, 1},
    {"OMPI_COMM_WORLD_SIZE=many PMI_SIZE=-3", NULL, NULL, 0, 0},
};

static void test_detection(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        const struct start *start = &starts[i];
        environment = start->environment;
        struct phx_mpi_launcher launcher = phx_mpi_launcher_detect(look_up);
        assert_int_equal(launcher.size, start->size);
        assert_int_equal(launcher.rank, start->rank);
        assert_true((launcher.program == NULL) == (start->program == NULL));
        if (start->program == NULL) continue;
        assert_string_equal(launcher.program, start->program);
        assert_string_equal(launcher.variable, start->variable);
    }
}

static void expect_trap(const char *variables, int mpi_size, enum phx_status expected,
                        const char *sentence)
{
    environment = variables;
    struct phx_mpi_launcher launcher = phx_mpi_launcher_detect(look_up);
    phx_fail_clear();
    assert_int_equal(
        phx_mpi_launcher_check(&launcher, mpi_size, "Open MPI v4.1.4, package: Debian"), expected);
    assert_string_equal(phx_fail_sentence(), sentence);
}

static void test_trap(void **state)
{
    (void)state;
    expect_trap("", 1, PHX_OK, "");
    expect_trap("PMIX_RANK=0", 1, PHX_OK, "");
    expect_trap("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0", 4, PHX_OK, "");
    expect_trap("OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0", 1, PHX_OK, "");
    expect_trap("PMI_SIZE=2 PMI_RANK=1", 1, PHX_USAGE, "");
    expect_trap("PMI_SIZE=2 PMI_RANK=0", 1, PHX_USAGE,
                "mpirun started 2 processes (PMI_SIZE), but for MPI each of them is rank 0 of 1: "
                "this program was built with another MPI (Open MPI v4.1.4) than this mpirun "
                "belongs to. Use the mpirun of that MPI, or build again with the mpicc beside "
                "this mpirun");
    expect_trap("SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=3 SLURM_PROCID=0", 1, PHX_USAGE,
                "srun started 3 processes (SLURM_STEP_NUM_TASKS), but for MPI each of them is "
                "rank 0 of 1: srun and the MPI of this program (Open MPI v4.1.4) do not know each "
                "other. Use mpirun -np 3 inside the allocation, or try srun --mpi=pmix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_detection),
        cmocka_unit_test(test_trap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
