#include "launch/mpirun_stream.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool parent_is_mpirun(void)
{
    static const char *const names[] = {"mpirun\n", "mpiexec\n", "orterun\n", "prterun\n"};
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)getppid());
    FILE *comm = fopen(path, "r");
    if (comm == NULL) return false;
    bool found = false;
    if (fgets(name, sizeof name, comm) != NULL)
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            found = found || strcmp(name, names[i]) == 0;
    fclose(comm);
    return found;
}

int phx_mpirun_stream_open(int fd)
{
    char path[64];
    if (!parent_is_mpirun()) return -1;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getppid(), fd);
    /* Opening a pipe that nobody reads would wait; writing to it may. */
    int own = open(path, O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (own >= 0) fcntl(own, F_SETFL, O_APPEND);
    return own;
}
