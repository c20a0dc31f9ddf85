#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/placement.h"
#include "launch/verbs/json_line.h"
#include "launch/verbs/topology_report.h"

static bool is_on(const struct phx_topology_report *t, int rank, const char *host)
{
    return strcmp(t->seats[rank].host, host) == 0;
}

/* True for one rank of each host. */
static bool is_first_of_host(const struct phx_topology_report *t, int rank)
{
    for (int r = 0; r < rank; r++)
        if (is_on(t, r, t->seats[rank].host)) return false;
    return true;
}

static bool is_gpu_on(const struct phx_topology_report *t, int known, const char *host)
{
    return strcmp(t->known[known].host, host) == 0;
}

static const char *plural(int n)
{
    return n == 1 ? "" : "s";
}

/* "-" for what is not known. */
static const char *number(int n, char text[16])
{
    snprintf(text, 16, "%d", n);
    return n < 0 ? "-" : text;
}

/* ---- for people ---- */

static void version_text(int version, char text[32])
{
    snprintf(text, 32, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

static void print_nccl(const struct phx_nccl_info *nccl)
{
    char built[32], loaded[32];
    version_text(nccl->built, built);
    version_text(nccl->loaded, loaded);
    if (nccl->built == 0)
        printf("NCCL: none in this build\n");
    else if (nccl->has_windows)
        printf("NCCL %s, every --allreduce is open\n", loaded);
    else
        printf("NCCL %s, but this program was built with %s: --allreduce symmetric and fused are "
               "off\n",
               loaded, built);
}

static void link_text(const struct phx_device_link *link, size_t bytes, char *out)
{
    if (link == NULL)
        snprintf(out, bytes, "not known, since no rank sees both");
    else if (!link->direct)
        snprintf(out, bytes, "no direct access: data passes through the host");
    else
        snprintf(out, bytes, "direct access, %s, performance rank %d",
                 link->atomics ? "native atomics (as over NVLink)"
                               : "no native atomics (as over PCIe)",
                 link->performance);
}

/* A line for all pairs if they are alike. */
static void print_links(const struct phx_topology_report *t, const char *host)
{
    char text[128], first[128] = "";
    bool alike = true;
    int n_pairs = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int a = 0; a < t->n_known; a++)
            for (int b = a + 1; b < t->n_known; b++) {
                if (!is_gpu_on(t, a, host) || !is_gpu_on(t, b, host)) continue;
                link_text(phx_topology_link(t, a, b), sizeof text, text);
                if (pass == 0) {
                    if (n_pairs++ == 0) memcpy(first, text, sizeof first);
                    alike = alike && strcmp(text, first) == 0;
                } else if (!alike) {
                    printf("  %.*s - %.*s: %s\n", PHX_SHORT_UUID, t->known[a].gpu->info.uuid,
                           PHX_SHORT_UUID, t->known[b].gpu->info.uuid, text);
                }
            }
    if (n_pairs > 0 && alike)
        printf("  %s: %s\n", n_pairs == 1 ? "between the two" : "between any two", first);
}

static void print_gpus(const struct phx_topology_report *t, const char *host)
{
    int n = 0;
    char numa[16];
    for (int k = 0; k < t->n_known; k++) {
        const struct phx_gpu_report *gpu = t->known[k].gpu;
        if (!is_gpu_on(t, k, host)) continue;
        if (n++ == 0) printf("  GPU           PCI id        NUMA     memory  name\n");
        printf("  %-12.*s  %-12s  %4s  %5.1f GiB  %s\n", PHX_SHORT_UUID, gpu->info.uuid,
               gpu->info.pci_id, number(gpu->numa, numa),
               (double)gpu->info.memory_total_bytes / (1024.0 * 1024.0 * 1024.0), gpu->info.name);
    }
    for (int r = 0; r < t->size && n == 0; r++) {
        if (!is_on(t, r, host)) continue;
        printf("  no GPU: %s\n", t->seats[r].no_gpu);
        return;
    }
    print_links(t, host);
}

static void print_ranks(const struct phx_topology_report *t, const char *host)
{
    char numa[16], threads[16];
    printf("  rank  local  computes on          threads  NUMA  processors\n");
    for (int r = 0; r < t->size; r++) {
        const struct phx_rank_report *rank = &t->ranks[r];
        const struct phx_seat *seat = &t->seats[r];
        char place[32] = "CPU";
        if (!is_on(t, r, host)) continue;
        if (seat->gpu >= 0)
            snprintf(place, sizeof place, "GPU %d %.*s", seat->gpu, PHX_SHORT_UUID,
                     seat->info.uuid);
        printf("  %4d  %5d  %-19s  %7s  %4s  %s\n", r, rank->local_rank, place,
               number(rank->n_threads, threads), number(rank->numa, numa), rank->processors);
    }
}

static void print_problems(const struct phx_topology_report *t, int *ranks)
{
    int n_problems = 0;
    for (int r = 0; r < t->size; r++)
        for (int which = 0; which < PHX_RANK_PROBLEMS; which++) {
            char whose[128];
            int n = phx_topology_problem_ranks(t, r, which, ranks);
            if (n == 0) continue;
            if (n_problems++ == 0) printf("what is wrong:\n");
            phx_processors_text(ranks, n, sizeof whose, whose);
            printf("  rank%s %s: %s\n", plural(n), whose, t->ranks[r].problems[which]);
        }
    if (n_problems == 0) printf("nothing wrong is seen\n");
}

enum phx_status phx_topology_print(const struct phx_topology_report *t)
{
    int *ranks = calloc((size_t)t->size, sizeof *ranks);
    if (ranks == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the topology");
    for (int r = 0; r < t->size; r++) {
        const struct phx_rank_report *rank = &t->ranks[r];
        const char *host = t->seats[r].host;
        if (!is_first_of_host(t, r)) continue;
        printf("%s: %d core%s on %d NUMA node%s, %d processor%s\n", host, rank->n_cores,
               plural(rank->n_cores), rank->n_numa, plural(rank->n_numa), rank->n_processors,
               plural(rank->n_processors));
        print_gpus(t, host);
        print_ranks(t, host);
    }
    print_nccl(&t->nccl);
    print_problems(t, ranks);
    free(ranks);
    return fflush(stdout) == 0 ? PHX_OK : phx_fail(PHX_IO, "cannot write the result");
}

/* ---- for scripts ---- */

/* null for what is not known */
static json_t *known_or_null(int n)
{
    return n < 0 ? json_null() : json_integer(n);
}

static json_t *hosts_json(const struct phx_topology_report *t)
{
    json_t *all = json_array();
    for (int r = 0; r < t->size; r++)
        if (is_first_of_host(t, r))
            json_array_append_new(all, json_pack("{s:s, s:i, s:i, s:i}", "name", t->seats[r].host,
                                                 "cores", t->ranks[r].n_cores, "processors",
                                                 t->ranks[r].n_processors, "numa_nodes",
                                                 t->ranks[r].n_numa));
    return all;
}

static json_t *ranks_json(const struct phx_topology_report *t)
{
    json_t *all = json_array();
    for (int r = 0; r < t->size; r++) {
        const struct phx_rank_report *rank = &t->ranks[r];
        const struct phx_seat *seat = &t->seats[r];
        json_t *one =
            json_pack("{s:i, s:s, s:i, s:s, s:o, s:s, s:o}", "rank", r, "host", seat->host,
                      "local_rank", rank->local_rank, "device", seat->gpu >= 0 ? "cuda" : "cpu",
                      "threads", known_or_null(rank->n_threads), "processors", rank->processors,
                      "numa", known_or_null(rank->numa));
        if (seat->gpu >= 0)
            json_object_update_new(one, json_pack("{s:i, s:s, s:i}", "gpu", seat->gpu, "uuid",
                                                  seat->info.uuid, "visible_gpus", seat->n_gpus));
        else
            json_object_set_new(one, "no_gpu", json_string(seat->no_gpu));
        json_array_append_new(all, one);
    }
    return all;
}

static json_t *gpus_json(const struct phx_topology_report *t)
{
    json_t *all = json_array();
    for (int k = 0; k < t->n_known; k++) {
        const struct phx_device_info *info = &t->known[k].gpu->info;
        json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:s, s:I, s:o}", "uuid", info->uuid,
                                             "host", t->known[k].host, "name", info->name, "pci_id",
                                             info->pci_id, "memory_bytes",
                                             (json_int_t)info->memory_total_bytes, "numa",
                                             known_or_null(t->known[k].gpu->numa)));
    }
    return all;
}

static json_t *links_json(const struct phx_topology_report *t)
{
    json_t *all = json_array();
    for (int a = 0; a < t->n_known; a++)
        for (int b = 0; b < t->n_known; b++) {
            const struct phx_device_link *link = phx_topology_link(t, a, b);
            if (a == b || link == NULL) continue;
            json_array_append_new(
                all, json_pack("{s:s, s:s, s:b, s:b, s:i}", "from", t->known[a].gpu->info.uuid,
                               "to", t->known[b].gpu->info.uuid, "direct", link->direct, "atomics",
                               link->atomics, "performance_rank", link->performance));
        }
    return all;
}

static json_t *problems_json(const struct phx_topology_report *t)
{
    json_t *all = json_array();
    int32_t *ranks = calloc((size_t)t->size, sizeof *ranks);
    for (int r = 0; ranks != NULL && r < t->size; r++)
        for (int which = 0; which < PHX_RANK_PROBLEMS; which++) {
            int n = phx_topology_problem_ranks(t, r, which, ranks);
            if (n > 0)
                json_array_append_new(all, json_pack("{s:o, s:s}", "ranks",
                                                     phx_json_ids(ranks, (size_t)n), "sentence",
                                                     t->ranks[r].problems[which]));
        }
    free(ranks);
    return all;
}

enum phx_status phx_topology_print_json(const struct phx_topology_report *t)
{
    json_t *nccl = json_pack("{s:i, s:i, s:b}", "built", t->nccl.built, "loaded", t->nccl.loaded,
                             "windows", t->nccl.has_windows);
    return phx_json_line(json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "hosts", hosts_json(t),
                                   "ranks", ranks_json(t), "gpus", gpus_json(t), "links",
                                   links_json(t), "nccl", nccl, "problems", problems_json(t)),
                         stdout);
}
