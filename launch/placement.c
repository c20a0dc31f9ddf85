#include "launch/placement.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/// What the table comes to.
struct cores {
    int *first;   ///< [n] a processor of each allowed core
    int n;        ///< allowed cores
    int n_bound;  ///< of these, where this rank may run
    int in_quota; ///< of these, what the quota pays for; n without one
};

static enum phx_status count_cores(const struct phx_topology *t, struct cores *out)
{
    int *first = calloc((size_t)t->n_processors, sizeof *first);
    if (!first) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the placement of threads");
    *out = (struct cores){.first = first};
    for (int i = 0; i < t->n_processors;) {
        const struct phx_processor *core = &t->processors[i];
        bool bound = false;
        for (; i < t->n_processors && t->processors[i].core == core->core; i++) {
            bound = bound || t->processors[i].bound;
        }
        first[out->n++] = core->number;
        out->n_bound += bound;
    }
    out->in_quota = out->n;
    if (t->cpu_quota > 0 && t->cpu_quota < out->n) out->in_quota = (int)fmax(1, t->cpu_quota);
    return PHX_OK;
}

static const char *plural(int n)
{
    return n == 1 ? "" : "s";
}

static enum phx_status choose_threads(const struct cores *c, int node_size, int asked,
                                      struct phx_placement *out)
{
    bool is_bound = c->n_bound < c->n;
    int share = c->in_quota / node_size > 1 ? c->in_quota / node_size : 1;
    int wanted = asked > 0 ? asked : share;
    if (is_bound && c->n_bound == 1 && asked > 1) {
        return phx_fail(PHX_USAGE,
                        "%d threads were asked for, but this rank is bound to one core of %d, by "
                        "mpirun (start it with --bind-to none), taskset or a job manager",
                        asked, c->n);
    }
    out->n_threads = asked > 0 || share < c->n_bound ? wanted : c->n_bound;
    out->crowded = out->n_threads * node_size > c->in_quota;
    if (is_bound && c->n_bound < wanted) {
        snprintf(out->warning, sizeof out->warning,
                 "this rank is bound to %d of %d cores where it could use %d, by mpirun (start it "
                 "with --bind-to none), taskset or a job manager",
                 c->n_bound, c->n, wanted < c->n ? wanted : c->n);
    } else if (out->crowded) {
        snprintf(out->warning, sizeof out->warning,
                 "%d rank%s with %d thread%s each on %d core%s%s: threads will wait for each other",
                 node_size, plural(node_size), out->n_threads, plural(out->n_threads), c->in_quota,
                 plural(c->in_quota), c->in_quota < c->n ? " (the cgroup's quota)" : "");
    }
    return PHX_OK;
}

/// The rank's cores begin at its share, so that ranks spread over the NUMA nodes.
static enum phx_status choose_cpus(const struct cores *c, int node_rank, int node_size,
                                   struct phx_placement *out)
{
    bool fills = out->n_threads == c->n / node_size;
    if (!fills || c->n_bound < c->n || c->in_quota < c->n) return PHX_OK;
    out->cpus = calloc((size_t)out->n_threads, sizeof *out->cpus);
    if (!out->cpus) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the placement of threads");
    int begin = (int)((long long)node_rank * c->n / node_size);
    for (int i = 0; i < out->n_threads; i++) out->cpus[i] = c->first[begin + i];
    return PHX_OK;
}

/// Every visible GPU is somebody's: a rank that sees those of all ranks takes its own, one that
/// sees a single one takes that.
static enum phx_status place_on_gpu(const struct phx_topology *t, const struct cores *c,
                                    int node_rank, struct phx_placement *out)
{
    out->n_threads = 1;
    out->gpu = node_rank % t->n_gpus;
    const struct phx_gpu_site *site = &t->gpus[out->gpu];
    int *bound = calloc((size_t)t->n_processors, sizeof *bound);
    int *near = calloc((size_t)t->n_processors, sizeof *near);
    int n_bound = 0, n_near = 0;
    if (!bound || !near) {
        free(bound);
        free(near);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the placement of threads");
    }
    for (int i = 0; i < t->n_processors; i++) {
        if (!t->processors[i].bound) continue;
        bound[n_bound++] = t->processors[i].number;
        if (site->near[i]) near[n_near++] = t->processors[i].number;
    }
    if (c->n_bound == 1 && c->n > 1) {
        snprintf(out->warning, sizeof out->warning,
                 "this rank is bound to one core of %d, for its own threads, the driver's and "
                 "NCCL's, by mpirun (start it with --bind-to none), taskset or a job manager",
                 c->n);
    } else if (n_near == 0) {
        char where[64];
        phx_processors_text(bound, n_bound, sizeof where, where);
        snprintf(out->warning, sizeof out->warning,
                 "this rank is bound to processors %s, but its GPU is attached to NUMA node %d: "
                 "bind it there, or start it with --bind-to none",
                 where, site->numa);
    }
    free(bound);
    if (n_near > 0 && n_near < n_bound) {
        out->binding = near;
        out->n_binding = n_near;
    } else {
        free(near);
    }
    return PHX_OK;
}

enum phx_status phx_placement_create(const struct phx_topology *topology, int node_rank,
                                     int node_size, int threads, struct phx_placement **out)
{
    PHX_ASSERT(topology->n_processors > 0 && threads >= 0);
    PHX_ASSERT(node_rank >= 0 && node_rank < node_size);
    struct cores cores = {0};
    PHX_TRY(count_cores(topology, &cores));
    enum phx_status status = PHX_OK;
    struct phx_placement *placement = calloc(1, sizeof *placement);
    if (!placement) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for the placement of threads");
        goto done;
    }
    placement->gpu = -1;
    if (topology->n_gpus > 0) {
        PHX_TRY_GOTO(place_on_gpu(topology, &cores, node_rank, placement), done);
    } else {
        PHX_TRY_GOTO(choose_threads(&cores, node_size, threads, placement), done);
        PHX_TRY_GOTO(choose_cpus(&cores, node_rank, node_size, placement), done);
    }
    *out = placement;
    placement = NULL;
done:
    phx_placement_destroy(placement);
    free(cores.first);
    return status;
}

void phx_placement_destroy(struct phx_placement *placement)
{
    if (!placement) return;
    free(placement->cpus);
    free(placement->binding);
    free(placement);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

void phx_processors_text(int *numbers, int n, size_t bytes, char *out)
{
    static const char more[] = "...";
    size_t used = 0;
    PHX_ASSERT(bytes > sizeof more);
    if (n > 0) qsort(numbers, (size_t)n, sizeof *numbers, by_number);
    out[0] = '\0';
    for (int i = 0; i < n;) {
        int first = numbers[i], last = first;
        while (++i < n && numbers[i] == last + 1) last++;
        char range[32], end[16] = "";
        if (last > first) snprintf(end, sizeof end, "-%d", last);
        int length = snprintf(range, sizeof range, "%s%d%s", used > 0 ? "," : "", first, end);
        if (used + (size_t)length + sizeof more > bytes) {
            memcpy(out + used, more, sizeof more);
            return;
        }
        memcpy(out + used, range, (size_t)length + 1);
        used += (size_t)length;
    }
}
