#include <stdlib.h>

#include "kernels/base/check.h"
#include "launch/settings.h"
#include "launch/verbs/audit_output.h"
#include "launch/verbs/json_line.h"
#include "launch/verbs/probe.h"
#include "launch/verbs/verbs.h"

struct job {
    const struct phx_options *options;
    bool *layers; /* [n_layers] */
    bool *heads;  /* [H] shown */
    FILE *json;   /* rank 0, --json FILE */
    int32_t *ids; /* rank 0 */
    int32_t n_ids;
    struct phx_audit *audit;
};

/* Unless told, the first query head of each group is shown. */
static enum phx_status choose_heads(struct job *job, const struct phx_config *config)
{
    int32_t most = 0, group = 1;
    for (int32_t l = 0; l < config->n_layers; l++) {
        const struct phx_layer_shape *s = &config->layers[l].shape;
        if (s->n_heads > most) most = s->n_heads;
        if (l == 0) group = s->n_heads / s->n_kv_heads;
    }
    PHX_TRY(phx_probe_choose("--heads", job->options->heads, "query heads", most, &job->heads));
    for (int32_t q = 0; q < most && job->options->heads == NULL; q++)
        job->heads[q] = q % group == 0;
    return PHX_OK;
}

static enum phx_status prepare(struct job *job, const struct phx_run *run)
{
    PHX_TRY(phx_probe_choose("--layers", job->options->layers, "layers", run->config->n_layers,
                             &job->layers));
    PHX_TRY(choose_heads(job, run->config));
    if (run->world->rank != 0) return PHX_OK;
    PHX_TRY(phx_json_file_open(job->options->json_out, &job->json));
    PHX_TRY(phx_probe_prompt(job->options, run, &job->ids, &job->n_ids));
    if (job->n_ids > run->config->context - PHX_AUDIT_NEW)
        return phx_fail(PHX_USAGE,
                        "the prompt has %d tokens: an audit in this context reads at most %lld",
                        job->n_ids, (long long)run->config->context - PHX_AUDIT_NEW);
    return PHX_OK;
}

static enum phx_status make_audit(struct job *job, struct phx_run *run)
{
    struct phx_engine_parts parts = phx_run_parts(run);
    return phx_audit_create(
        &parts, run->engine, &run->memory.stream_limits,
        &(struct phx_audit_options){.prompt_ids = job->ids,
                                    .n_prompt = job->n_ids,
                                    .layers = job->layers,
                                    .tolerance = phx_probe_tolerance(&run->settings, run->config)},
        &job->audit);
}

static enum phx_status print(const struct job *job, const struct phx_run *run)
{
    struct phx_audit_view view = {.audit = job->audit,
                                  .config = run->config,
                                  .layers = job->layers,
                                  .heads = job->heads,
                                  .brief = job->options->brief,
                                  .n_ranks = run->world->size};
    if (job->json != stdout) PHX_TRY(phx_audit_print(&view, stdout));
    if (job->json == NULL) return PHX_OK;
    return phx_json_file_write(job->options->json_out, job->json, phx_audit_json(&view));
}

static enum phx_status run_job(struct job *job, struct phx_run *run)
{
    bool passed;
    PHX_TRY(phx_world_agree(run->world, prepare(job, run)));
    struct phx_run_needs needs = {.max_seqs = 2,
                                  .max_rows = job->options->max_batched_tokens,
                                  .max_length = phx_audit_length(run->config, job->n_ids)};
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(phx_world_agree(run->world, make_audit(job, run)));
    PHX_TRY(phx_audit_run(job->audit));
    PHX_TRY(phx_audit_judge(job->audit, run->checkpoint, &passed));
    PHX_TRY(phx_world_agree(run->world, run->world->rank == 0 ? print(job, run) : PHX_OK));
    phx_run_finish(run);
    return passed ? PHX_OK : PHX_BAD_DATA; /* what was printed says it all */
}

enum phx_status phx_verb_audit(struct phx_world *world, const struct phx_options *options)
{
    struct phx_placement *placement = NULL;
    struct phx_run_settings settings;
    struct phx_run *run = NULL;
    struct job job = {.options = options};
    enum phx_status status = phx_settings_make(world, options, &placement, &settings);
    if (status == PHX_OK) {
        settings.eager = true; /* a recorded step cannot be looked into */
        status = phx_run_open(world, &settings, &run);
    }
    if (status == PHX_OK) status = run_job(&job, run);
    phx_audit_destroy(job.audit);
    phx_json_file_close(job.json);
    free(job.layers);
    free(job.heads);
    free(job.ids);
    phx_run_destroy(run);
    phx_placement_destroy(placement);
    return status;
}
