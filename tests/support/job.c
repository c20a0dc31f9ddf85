#include "tests/support/job.h"

#include "kernels/base/check.h"
#include "parallel/world_threads.h"

static enum phx_status run_started(struct phx_run *run, const struct test_job *job)
{
    bool leads = run->world->rank == 0;
    PHX_TRY(phx_run_start(run, &job->needs));
    if (leads) {
        PHX_TRY(job->lead(run, job->user));
        PHX_TRY(phx_engine_stop(run->engine));
    } else {
        PHX_TRY(phx_engine_follow(run->engine));
    }
    if (job->after != NULL) PHX_TRY(job->after(run, job->user));
    phx_run_finish(run);
    return PHX_OK;
}

/* Where there are more ranks than GPUs they share. */
static void take_gpu(const struct phx_world *world, struct phx_run_settings *settings)
{
    int n_gpus = phx_device_count(PHX_DEVICE_CUDA);
    if (n_gpus == 0) return; /* the device will say why */
    settings->gpu = world->rank % n_gpus;
    settings->gpu_sharers = (world->size + n_gpus - 1) / n_gpus;
}

static enum phx_status body(struct phx_world *world, void *user)
{
    const struct test_job *job = user;
    struct phx_run_settings settings = job->settings;
    struct phx_run *run = NULL;
    if (settings.n_threads == 0) settings.n_threads = 1;
    if (settings.device == PHX_DEVICE_CUDA) take_gpu(world, &settings);
    PHX_TRY(phx_run_open(world, &settings, &run));
    enum phx_status status = run_started(run, job);
    phx_run_destroy(run);
    return status;
}

enum phx_status test_job_run(int size, const struct test_job *job)
{
    return phx_world_threads_run(size, body, (void *)job);
}

enum phx_status test_job_drive(struct phx_engine *engine)
{
    for (bool worked = true; worked;) PHX_TRY(phx_engine_step(engine, &worked));
    return PHX_OK;
}
