#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/base/check.h"
#include "launch/model_path.h"
#include "launch/settings.h"
#include "launch/verbs/json_line.h"
#include "launch/verbs/probe.h"
#include "launch/verbs/verbs.h"
#include "runtime/compare.h"

static const char file_name[] = "activations.safetensors";

struct job {
    const struct phx_options *options;
    FILE *json;                   /* rank 0, --json FILE */
    struct phx_checkpoint *other; /* rank 0, --against DIR */
    char dump[PHX_PATH_BYTES];    /* rank 0, --dump DIR: the file */
    int32_t *ids;                 /* rank 0 */
    int32_t n_ids;
    struct phx_compare *compare;
};

/* DIR/activations.safetensors, or the path itself if it is a file. */
static enum phx_status path_in(const char *directory, char path[PHX_PATH_BYTES])
{
    struct stat about;
    bool is_file = stat(directory, &about) == 0 && S_ISREG(about.st_mode);
    int n = snprintf(path, PHX_PATH_BYTES, "%s%s%s", directory, is_file ? "" : "/",
                     is_file ? "" : file_name);
    if (n >= PHX_PATH_BYTES) return phx_fail(PHX_USAGE, "%.100s...: too long a path", directory);
    return PHX_OK;
}

/* The other side's own prompt, if none is given and it has one. */
static enum phx_status ids_of_other(struct job *job)
{
    const struct phx_file_tensor *t = phx_checkpoint_find(job->other, "input_ids");
    bool known = t != NULL && t->n_dims == 1 && t->shape[0] > 0 && t->shape[0] <= INT32_MAX;
    size_t each = known ? t->bytes / (size_t)t->shape[0] : 0;
    if (each != 4 && each != 8)
        return phx_fail(PHX_USAGE, "--against %s has no list of input_ids: give the prompt",
                        job->options->against);
    job->n_ids = (int32_t)t->shape[0];
    job->ids = malloc((size_t)job->n_ids * sizeof *job->ids);
    if (job->ids == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the prompt");
    for (int32_t i = 0; i < job->n_ids; i++)
        memcpy(&job->ids[i], (const char *)t->data + (size_t)i * each, sizeof *job->ids);
    return PHX_OK;
}

/* What cannot be written fails before the work. */
static enum phx_status open_outputs(struct job *job)
{
    const struct phx_options *o = job->options;
    PHX_TRY(phx_json_file_open(o->json_out, &job->json));
    if (o->dump == NULL) return PHX_OK;
    if (mkdir(o->dump, 0777) != 0 && errno != EEXIST)
        return phx_fail(PHX_IO, "--dump %s: %s", o->dump, strerror(errno));
    PHX_TRY(path_in(o->dump, job->dump));
    return phx_safetensors_can_write(job->dump);
}

static enum phx_status prepare(struct job *job, const struct phx_run *run)
{
    const struct phx_options *o = job->options;
    char path[PHX_PATH_BYTES];
    bool prompt = o->prompts.n > 0 || o->prompt_file != NULL || o->prompt_ids.n > 0;
    PHX_TRY(open_outputs(job));
    if (strcmp(o->against, "solo") != 0) {
        PHX_TRY(path_in(o->against, path));
        PHX_TRY(phx_checkpoint_open(path, &job->other));
        if (!prompt) PHX_TRY(ids_of_other(job));
    }
    if (job->ids == NULL) PHX_TRY(phx_probe_prompt(o, run, &job->ids, &job->n_ids));
    if (job->n_ids < 1) return phx_fail(PHX_USAGE, "the prompt is empty: give at least one token");
    if (job->n_ids > run->config->context)
        return phx_fail(PHX_USAGE, "a prompt of %d tokens: the context holds %lld", job->n_ids,
                        (long long)run->config->context);
    return PHX_OK;
}

static enum phx_status make_compare(struct job *job, struct phx_run *run)
{
    struct phx_engine_parts parts = phx_run_parts(run);
    return phx_compare_create(&parts, run->engine, &run->memory.stream_limits,
                              &(struct phx_compare_options){
                                  .prompt_ids = job->ids,
                                  .n_prompt = job->n_ids,
                                  .quick = job->options->quick,
                                  .tolerance = phx_probe_tolerance(&run->settings, run->config)},
                              &job->compare);
}

static void print_difference(const struct phx_difference *d)
{
    char layer[16] = "-", where[48];
    if (d->layer >= 0) snprintf(layer, sizeof layer, "%d", d->layer);
    if (d->head >= 0)
        snprintf(where, sizeof where, "token %d head %d [%d]", d->token, d->head, d->element);
    else
        snprintf(where, sizeof where, "token %d [%d]", d->token, d->element);
    printf("%5s  %-13s %4d  %5lld x %-6lld %9.2e %9.2e  %-4s %s: %.6g, expected %.6g\n", layer,
           d->name, d->rank, (long long)d->rows, (long long)d->cols, d->max_abs, d->nmse,
           d->ok ? "ok" : "OFF", where, d->live, d->truth);
}

static enum phx_status print_table(const struct job *job)
{
    size_t n;
    const struct phx_difference *all = phx_compare_differences(job->compare, &n);
    const struct phx_difference *first = phx_compare_first(job->compare);
    printf("layer  activation    rank  shape           max abs      nmse        worst element\n");
    for (size_t i = 0; i < n; i++) print_difference(&all[i]);
    if (first == NULL)
        printf("FIRST  none: all %zu activations are within their tolerance\n", n);
    else if (first->layer < 0)
        printf("FIRST  %s on rank %d\n", first->name, first->rank);
    else
        printf("FIRST  %s of layer %d on rank %d\n", first->name, first->layer, first->rank);
    return fflush(stdout) == 0 ? PHX_OK : phx_fail(PHX_IO, "cannot write the result");
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *difference_json(const struct phx_difference *d)
{
    return json_pack("{s:s, s:i, s:i, s:[I, I], s:o, s:o, s:i, s:i, s:i, s:o, s:o, s:b}", "name",
                     d->name, "layer", d->layer, "rank", d->rank, "shape", (json_int_t)d->rows,
                     (json_int_t)d->cols, "max_abs", number(d->max_abs), "nmse", number(d->nmse),
                     "token", d->token, "head", d->head, "element", d->element, "live",
                     number(d->live), "expected", number(d->truth), "ok", d->ok);
}

static enum phx_status print_json(const struct job *job)
{
    size_t n;
    const struct phx_difference *all = phx_compare_differences(job->compare, &n);
    const struct phx_difference *first = phx_compare_first(job->compare);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, difference_json(&all[i]));
    json_t *object =
        json_pack("{s:b, s:o, s:o}", "passed", first == NULL, "first",
                  first == NULL ? json_null() : difference_json(first), "activations", list);
    return phx_json_file_write(job->options->json_out, job->json, object);
}

static enum phx_status print(const struct job *job)
{
    if (job->json != stdout) PHX_TRY(print_table(job));
    return job->json == NULL ? PHX_OK : print_json(job);
}

/* Rank 0. */
static enum phx_status judge(const struct job *job, const struct phx_run *run, bool *out_passed)
{
    if (job->options->dump != NULL) PHX_TRY(phx_compare_dump(job->compare, job->dump));
    if (job->other != NULL)
        PHX_TRY(phx_compare_with_file(job->compare, job->other));
    else
        PHX_TRY(phx_compare_with_reference(job->compare, run->checkpoint));
    *out_passed = phx_compare_first(job->compare) == NULL;
    return print(job);
}

static enum phx_status run_job(struct job *job, struct phx_run *run)
{
    bool leads = run->world->rank == 0, passed = false;
    PHX_TRY(phx_world_agree(run->world, leads ? prepare(job, run) : PHX_OK));
    struct phx_run_needs needs = {.max_seqs = 2,
                                  .max_rows = job->options->max_batched_tokens,
                                  .all_logits = true,
                                  .max_length = job->n_ids};
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(phx_world_agree(run->world, make_compare(job, run)));
    PHX_TRY(phx_compare_run(job->compare));
    PHX_TRY(phx_world_agree(run->world, leads ? judge(job, run, &passed) : PHX_OK));
    PHX_TRY(phx_world_broadcast(run->world, &passed, sizeof passed, 0));
    phx_run_finish(run);
    return passed ? PHX_OK : PHX_BAD_DATA; /* what was printed says it all */
}

enum phx_status phx_verb_compare(struct phx_world *world, const struct phx_options *options)
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
    phx_compare_destroy(job.compare);
    phx_checkpoint_destroy(job.other);
    phx_json_file_close(job.json);
    free(job.ids);
    phx_run_destroy(run);
    phx_placement_destroy(placement);
    return status;
}
