/// \file job.h
/// A whole run with its ranks as threads of the test.
#ifndef PHX_TESTS_SUPPORT_JOB_H
#define PHX_TESTS_SUPPORT_JOB_H

#include "launch/run.h"

struct test_job {
    struct phx_run_settings settings;
    struct phx_run_needs needs;
    /// Rank 0, once everything is loaded: submit requests and step.
    enum phx_status (*lead)(struct phx_run *run, void *user);
    /// Every rank, after the last step; may be NULL.
    enum phx_status (*after)(struct phx_run *run, void *user);
    void *user;
};

/// On the settings' device: the CPU, with `n_threads` (0 counts as 1), or the GPUs that there are,
/// rank by rank, shared if need be.
enum phx_status test_job_run(int size, const struct test_job *job);

/// Step until there is nothing left to do.
enum phx_status test_job_drive(struct phx_engine *engine);

#endif
