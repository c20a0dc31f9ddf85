/* Every rank finds its place as a run would, and tells rank 0 instead of running. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/site.h"
#include "launch/verbs/topology_report.h"
#include "launch/verbs/verbs.h"

static void *get(size_t n, size_t bytes)
{
    void *memory = calloc(n > 0 ? n : 1, bytes);
    PHX_ASSERT(memory != NULL);
    return memory;
}

/* ---- a rank ---- */

/* Numbers of the processors that the rank will run on. */
static int find_processors(const struct phx_topology *t, const struct phx_placement *placement,
                           int *numbers)
{
    int n = 0;
    if (placement != NULL && placement->binding != NULL) {
        for (; n < placement->n_binding; n++) numbers[n] = placement->binding[n];
    } else if (placement != NULL && placement->cpus != NULL) {
        for (; n < placement->n_threads; n++) numbers[n] = placement->cpus[n];
    } else {
        for (int i = 0; i < t->n_processors; i++)
            if (t->processors[i].bound) numbers[n++] = t->processors[i].number;
    }
    return n;
}

static bool contains(const int *numbers, int n, int number)
{
    for (int i = 0; i < n; i++)
        if (numbers[i] == number) return true;
    return false;
}

static void describe_processors(const struct phx_topology *t, const struct phx_placement *placement,
                                struct phx_rank_report *out)
{
    int *numbers = get((size_t)t->n_processors, sizeof *numbers);
    int n = find_processors(t, placement, numbers), n_nodes = 0;
    for (int i = 0; i < t->n_processors; i++) {
        const struct phx_processor *p = &t->processors[i];
        bool first = i == 0;
        out->n_cores += first || p->core != p[-1].core;
        out->n_numa += first || p->numa != p[-1].numa;
        if (!contains(numbers, n, p->number) || (n_nodes > 0 && p->numa == out->numa)) continue;
        n_nodes++;
        out->numa = p->numa;
    }
    if (n_nodes != 1) out->numa = -1;
    out->n_processors = t->n_processors;
    phx_processors_text(numbers, n, sizeof out->processors, out->processors);
    free(numbers);
}

/* A refusal is what a user wants to know of here: it is no failure. */
static void take_sentence(enum phx_status status, const char *warning, char *out)
{
    snprintf(out, PHX_PROBLEM_BYTES, "%s", status == PHX_OK ? warning : phx_fail_sentence());
    phx_fail_clear();
}

/* Its seat is known to all afterwards. */
static enum phx_status describe_rank(struct phx_world *world, const struct phx_options *options,
                                     const struct phx_site *site, struct phx_seat **seats,
                                     struct phx_rank_report *out)
{
    struct phx_placement *placement = NULL;
    int sharers;
    enum phx_status status = phx_placement_create(site->topology, world->node_rank,
                                                  world->node_size, options->threads, &placement);
    take_sentence(status, placement != NULL ? placement->warning : "", out->problems[0]);
    out->local_rank = world->node_rank;
    out->n_threads = placement != NULL && placement->gpu < 0 ? placement->n_threads : -1;
    describe_processors(site->topology, placement, out);
    status = phx_site_gather(site, placement, world, seats);
    phx_placement_destroy(placement);
    PHX_TRY(status);
    status = phx_seats_check(*seats, world->size, world->rank, options->share_gpu, &sharers);
    take_sentence(status, "", out->problems[1]);
    return PHX_OK;
}

/* ---- all ranks ---- */

static enum phx_status gather_gpus(struct phx_world *world, const struct phx_site *site,
                                   struct phx_topology_report *report)
{
    size_t most = (size_t)report->max_gpus, size = (size_t)world->size;
    struct phx_gpu_report *gpus = get(most, sizeof *gpus);
    struct phx_device_link *links = get(most * most, sizeof *links);
    report->gpus = get(size * most, sizeof *gpus);
    report->links = get(size * most * most, sizeof *links);
    enum phx_status status = PHX_OK;
    for (int g = 0; g < site->n_gpus; g++) {
        gpus[g] = (struct phx_gpu_report){site->gpus[g], site->topology->gpus[g].numa};
        for (int to = 0; to < site->n_gpus && status == PHX_OK; to++)
            status = phx_device_link(site->device, g, to, &links[g * report->max_gpus + to]);
    }
    status = phx_world_agree(world, status);
    if (status == PHX_OK)
        status = phx_world_allgather(world, gpus, most * sizeof *gpus, report->gpus);
    if (status == PHX_OK)
        status = phx_world_allgather(world, links, most * most * sizeof *links, report->links);
    free(gpus);
    free(links);
    return status;
}

static enum phx_status gather(struct phx_world *world, const struct phx_options *options,
                              const struct phx_site *site, struct phx_topology_report *report)
{
    struct phx_rank_report mine = {0};
    report->size = world->size;
    report->ranks = get((size_t)world->size, sizeof mine);
    PHX_TRY(describe_rank(world, options, site, &report->seats, &mine));
    PHX_TRY(phx_world_allgather(world, &mine, sizeof mine, report->ranks));
    for (int r = 0; r < world->size; r++)
        if (report->seats[r].n_gpus > report->max_gpus) report->max_gpus = report->seats[r].n_gpus;
    return gather_gpus(world, site, report);
}

/* ---- what follows from it ---- */

static int find_known(const struct phx_topology_report *report, const char *uuid)
{
    for (int k = 0; k < report->n_known; k++)
        if (strcmp(report->known[k].gpu->info.uuid, uuid) == 0) return k;
    return -1;
}

static const struct phx_gpu_report *gpu_of(const struct phx_topology_report *report, int rank,
                                           int ordinal)
{
    return &report->gpus[rank * report->max_gpus + ordinal];
}

static void find_all_known(struct phx_topology_report *report)
{
    report->known = get((size_t)(report->size * report->max_gpus), sizeof *report->known);
    for (int r = 0; r < report->size; r++)
        for (int g = 0; g < report->seats[r].n_gpus; g++) {
            const struct phx_gpu_report *gpu = gpu_of(report, r, g);
            if (find_known(report, gpu->info.uuid) < 0)
                report->known[report->n_known++] =
                    (struct phx_known_gpu){gpu, report->seats[r].host};
        }
}

static int ordinal_of(const struct phx_topology_report *report, int rank, const char *uuid)
{
    for (int g = 0; g < report->seats[rank].n_gpus; g++)
        if (strcmp(gpu_of(report, rank, g)->info.uuid, uuid) == 0) return g;
    return -1;
}

const struct phx_device_link *phx_topology_link(const struct phx_topology_report *report, int from,
                                                int to)
{
    int most = report->max_gpus;
    for (int r = 0; r < report->size; r++) {
        int a = ordinal_of(report, r, report->known[from].gpu->info.uuid);
        int b = ordinal_of(report, r, report->known[to].gpu->info.uuid);
        if (a >= 0 && b >= 0) return &report->links[(r * most + a) * most + b];
    }
    return NULL;
}

int phx_topology_problem_ranks(const struct phx_topology_report *report, int rank, int which,
                               int *ranks)
{
    const char *sentence = report->ranks[rank].problems[which];
    int n = 0;
    if (sentence[0] == '\0') return 0;
    for (int r = 0; r < report->size; r++) {
        bool same = false;
        for (int w = 0; w < PHX_RANK_PROBLEMS; w++)
            same = same || strcmp(sentence, report->ranks[r].problems[w]) == 0;
        if (same && r < rank) return 0;
        if (same) ranks[n++] = r;
    }
    return n;
}

static void free_report(struct phx_topology_report *report)
{
    free(report->seats);
    free(report->ranks);
    free(report->gpus);
    free(report->links);
    free(report->known);
}

enum phx_status phx_verb_topology(struct phx_world *world, const struct phx_options *options)
{
    struct phx_topology_report report = {0};
    struct phx_site *site = NULL;
    PHX_TRY(phx_world_agree(world, phx_site_create(options, &site)));
    enum phx_status status = gather(world, options, site, &report);
    if (status == PHX_OK && world->rank == 0) {
        find_all_known(&report);
        phx_nccl_info(&report.nccl);
        status = options->json ? phx_topology_print_json(&report) : phx_topology_print(&report);
    }
    free_report(&report);
    phx_site_destroy(site);
    return status;
}
