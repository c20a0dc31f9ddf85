#include "tests/faults/judged_run.h"

#include <stdlib.h>

#include "kernels/base/check.h"
#include "launch/run.h"
#include "parallel/world_threads.h"

enum { N_IDS = 29, N_COMPARED = 80 };

static enum phx_status audit(struct phx_run *run, const int32_t *ids, const bool *layers,
                             struct test_outcome *out)
{
    struct phx_audit *a = NULL;
    bool passed;
    struct phx_engine_parts parts = phx_run_parts(run);
    PHX_TRY(phx_audit_create(&parts, run->engine, &run->memory.stream_limits,
                             &(struct phx_audit_options){.prompt_ids = ids,
                                                         .n_prompt = N_IDS,
                                                         .layers = layers,
                                                         .tolerance = out->mode->tolerance},
                             &a));
    enum phx_status status = phx_audit_run(a);
    if (status == PHX_OK) status = phx_audit_judge(a, run->checkpoint, &passed);
    if (status == PHX_OK && run->world->rank == 0) {
        const struct phx_audit_check *failure = phx_audit_first_failure(a);
        const struct phx_audit_twins *twins = phx_audit_twins(a, &out->n_twins);
        if (out->n_twins > 0) out->twins = twins[0];
        if (failure != NULL) {
            out->failure = *failure;
            out->id = (enum phx_audit_check_id)(failure - phx_audit_checks(a));
        }
    }
    phx_audit_destroy(a);
    return status;
}

static enum phx_status compare(struct phx_run *run, const int32_t *ids, struct test_outcome *out)
{
    struct phx_compare *c = NULL;
    struct phx_engine_parts parts = phx_run_parts(run);
    PHX_TRY(phx_compare_create(&parts, run->engine, &run->memory.stream_limits,
                               &(struct phx_compare_options){.prompt_ids = ids,
                                                             .n_prompt = N_COMPARED,
                                                             .tolerance = out->mode->tolerance},
                               &c));
    enum phx_status status = phx_compare_run(c);
    if (status == PHX_OK && run->world->rank == 0) {
        status = phx_compare_with_reference(c, run->checkpoint);
        const struct phx_difference *first = phx_compare_first(c);
        if (status == PHX_OK && first != NULL) out->first = *first;
    }
    phx_compare_destroy(c);
    return status;
}

static enum phx_status run_started(struct phx_run *run, struct test_outcome *out)
{
    int32_t ids[N_COMPARED];
    struct phx_run_needs needs = {.max_seqs = 2, .max_rows = 512};
    for (int i = 0; i < N_COMPARED; i++)
        ids[i] = (int32_t)((i * i * 7 + 3 * i + 1) % run->config->vocab);
    needs.all_logits = out->compares;
    needs.max_length = out->compares ? N_COMPARED : phx_audit_length(run->config, N_IDS);
    bool *layers = calloc((size_t)run->config->n_layers, sizeof *layers);
    PHX_ASSERT(layers != NULL);
    for (int l = 0; l < run->config->n_layers; l++) layers[l] = true;
    enum phx_status status = phx_run_start(run, &needs);
    if (status == PHX_OK)
        status = out->compares ? compare(run, ids, out) : audit(run, ids, layers, out);
    free(layers);
    if (status == PHX_OK) phx_run_finish(run);
    return status;
}

static enum phx_status body(struct phx_world *world, void *user)
{
    struct test_outcome *out = user;
    struct phx_run *run = NULL;
    struct phx_run_settings settings = {.model = out->directory,
                                        .load_mode = PHX_LOAD_MODE_MMAP, /* copies lie in no file */
                                        .expert_parallel = out->whole_experts,
                                        .device = out->mode->device,
                                        .compute = out->mode->compute,
                                        .n_threads = 1,
                                        .eager = true,
                                        .overlap = true}; /* padded steps, as on GPUs */
    if (out->mode->device == PHX_DEVICE_CUDA) {
        int n_gpus = phx_device_count(PHX_DEVICE_CUDA);
        settings.gpu = world->rank % n_gpus;
        settings.gpu_sharers = (world->size + n_gpus - 1) / n_gpus;
        if (out->mode->host_sums && settings.gpu_sharers < 2) settings.gpu_sharers = 2;
    }
    PHX_TRY(phx_run_open(world, &settings, &run));
    enum phx_status status = run_started(run, out);
    phx_run_destroy(run);
    return status;
}

enum phx_status test_run_judged(int size, struct test_outcome *out)
{
    out->failure = (struct phx_audit_check){.passed = true};
    out->first = (struct phx_difference){.ok = true};
    out->n_twins = 0;
    return phx_world_threads_run(size, body, out);
}
