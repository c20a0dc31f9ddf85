#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/options.h"
#include "launch/verbs/verbs.h"
#include "launch/world_mpi.h"

static enum phx_status printed(struct phx_world *world)
{
    bool failed = world->rank == 0 && fflush(stdout) != 0;
    return phx_world_agree(world,
                           failed ? phx_fail(PHX_IO, "cannot write to standard output") : PHX_OK);
}

static enum phx_status help(struct phx_world *world, const struct phx_options *options)
{
    if (world->rank == 0) phx_options_help(stdout, options->help_about);
    return printed(world);
}

static enum phx_status version(struct phx_world *world, const struct phx_options *options)
{
    (void)options;
    const char *reason = "";
    bool cuda = phx_device_available(PHX_DEVICE_CUDA, &reason);
    if (world->rank == 0)
        printf("phalanx %s\ndevices: cpu%s%s%s\n", PHX_VERSION, cuda ? ", cuda" : "",
               cuda ? "" : "; no cuda: ", cuda ? "" : reason);
    return printed(world);
}

static enum phx_status (*const verbs[PHX_VERB_COUNT])(struct phx_world *,
                                                      const struct phx_options *) = {
    [PHX_VERB_GENERATE] = phx_verb_generate,
    [PHX_VERB_CHAT] = phx_verb_chat,
    [PHX_VERB_SERVE] = phx_verb_serve,
    [PHX_VERB_PERPLEXITY] = phx_verb_perplexity,
    [PHX_VERB_TOKENIZE] = phx_verb_tokenize,
    [PHX_VERB_TOPOLOGY] = phx_verb_topology,
    [PHX_VERB_PLAN] = phx_verb_plan,
    [PHX_VERB_AUDIT] = phx_verb_audit,
    [PHX_VERB_COMPARE] = phx_verb_compare,
    [PHX_VERB_BENCH] = phx_verb_bench,
    [PHX_VERB_CONVERT] = phx_verb_convert,
    [PHX_VERB_HELP] = help,
    [PHX_VERB_VERSION] = version,
};

static int exit_code(enum phx_status status)
{
    switch (status) {
    case PHX_OK:
        return 0;
    case PHX_USAGE:
        return 2;
    case PHX_INTERRUPTED:
        return 130;
    default:
        return 1;
    }
}

/* Collective: that of the lowest rank that says more than that another failed. Ranks of one job
 * with codes of their own would leave it to chance which of them mpirun gives. */
static int job_exit_code(struct phx_world *world, enum phx_status status)
{
    int mine = (int)status, code = exit_code(status);
    int *statuses = calloc((size_t)world->size, sizeof *statuses);
    PHX_ASSERT(statuses != NULL);
    if (phx_world_allgather(world, &mine, sizeof mine, statuses) == PHX_OK)
        for (int r = world->size - 1; r >= 0; r--)
            if (statuses[r] != PHX_OK && statuses[r] != PHX_PEER) code = exit_code(statuses[r]);
    free(statuses);
    return code;
}

int main(int argc, char **argv)
{
    struct phx_world *world = NULL;
    struct phx_options *options = NULL;
    enum phx_status status = phx_world_mpi_create(&argc, &argv, &world);
    if (status != PHX_OK) {
        if (phx_fail_sentence()[0] != '\0') phx_log(PHX_LOG_ERROR, "%s", phx_fail_sentence());
        return exit_code(status);
    }
    status = phx_world_agree(world, phx_options_create(argc, argv, getenv, &options));
    if (status == PHX_OK) {
        if (options->verbose) phx_log_level_set(PHX_LOG_INFO);
        status = verbs[options->verb](world, options);
    }
    phx_options_destroy(options);
    if (status != PHX_OK && phx_fail_sentence()[0] != '\0') {
        /* Nobody else knows of it: the others must not wait for this rank. */
        phx_log(PHX_LOG_ERROR, "%s", phx_fail_sentence());
        phx_world_abort(world, exit_code(status));
    }
    int code = job_exit_code(world, status);
    phx_world_finish(world);
    phx_world_destroy(world);
    return code;
}
