/* How fast weights come out of the page cache, beside plain copies by the same threads.
 *
 *   bench_load -m MODEL [-t THREADS] [-r ROUNDS] [--load-mode auto|mmap|read|direct]
 *
 * Under mpirun all ranks do the same at the same time. The first load, which may come from the
 * disk, does not count. Then three things take turns: a load, as a run makes it; memcpy to memory
 * that the process has just asked for, as a load must ask for it, which the system clears before it
 * gives it; and memcpy to the same memory again. Of each the best round counts, of the slowest
 * rank: others may use the machine. For the same reason the processors' own time is told beside the
 * clock's. One JSON object on stdout; rates are bytes of the file, or copied, a second. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/cpu/pool.h"
#include "launch/placement.h"
#include "launch/run.h"
#include "launch/world_mpi.h"

static const size_t huge_page = (size_t)2 << 20;
/* Of each thread: from such lengths on memcpy writes past the caches, which is its best. */
static const size_t thread_bytes = (size_t)256 << 20;

enum { LOAD, COPY_TO_NEW, COPY, N_KINDS };

struct times {
    double clock, processors; /* seconds */
};

struct bench {
    const char *model, *mode_name;
    enum phx_load_mode mode;
    int threads, rounds;
    struct phx_load_report load;
    char *from;
    size_t copied_bytes;
    struct times best[N_KINDS];
};

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static struct times now(void)
{
    return (struct times){seconds(CLOCK_MONOTONIC), seconds(CLOCK_PROCESS_CPUTIME_ID)};
}

static void keep_best(struct times *best, struct times begin)
{
    struct times end = now();
    double clock = end.clock - begin.clock, processors = end.processors - begin.processors;
    if (best->clock == 0 || clock < best->clock) best->clock = clock;
    if (best->processors == 0 || processors < best->processors) best->processors = processors;
}

/* ---- copies ---- */

struct copying {
    char *to;
    const char *from;
};

static void copy_part(void *user, int thread)
{
    const struct copying *c = user;
    size_t begin = (size_t)thread * thread_bytes;
    memcpy(c->to + begin, c->from + begin, thread_bytes);
}

/* In huge pages, where the system has any, as weights lie. */
static enum phx_status take(size_t bytes, char **out)
{
    *out = aligned_alloc(huge_page, bytes);
    if (*out == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a copy of %zu bytes", bytes);
    (void)madvise(*out, bytes, MADV_HUGEPAGE);
    return PHX_OK;
}

static enum phx_status copy(struct phx_world *world, struct phx_pool *pool, struct bench *b)
{
    struct copying c = {.from = b->from};
    enum phx_status status = phx_world_agree(world, take(b->copied_bytes, &c.to));
    for (int kind = COPY_TO_NEW; kind <= COPY && status == PHX_OK; kind++) {
        status = phx_world_barrier(world);
        struct times begin = now();
        phx_pool_run(pool, copy_part, &c);
        keep_best(&b->best[kind], begin);
    }
    free(c.to);
    return status;
}

/* ---- loads ---- */

static enum phx_status load(struct phx_run *run, struct bench *b, struct times *best)
{
    struct phx_load_options options = {.mode = b->mode};
    PHX_TRY(phx_world_barrier(run->world));
    struct times begin = now();
    enum phx_status status = phx_weights_load(run->config, run->plan, run->checkpoint, run->stream,
                                              &options, &run->weights, &b->load);
    keep_best(best, begin);
    PHX_TRY(phx_world_agree(run->world, status));
    phx_weights_destroy(run->weights);
    run->weights = NULL;
    return PHX_OK;
}

static enum phx_status rounds(struct phx_run *run, struct phx_pool *pool, struct bench *b)
{
    struct times ignored = {0, 0};
    PHX_TRY(load(run, b, &ignored));
    for (int i = 0; i < b->rounds; i++) {
        PHX_TRY(load(run, b, &b->best[LOAD]));
        PHX_TRY(copy(run->world, pool, b));
    }
    return PHX_OK;
}

/* ---- the whole ---- */

static enum phx_status slowest_rank(struct phx_world *world, struct bench *b)
{
    struct times *all = calloc((size_t)world->size, sizeof b->best);
    if (all == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the ranks' times");
    enum phx_status status = phx_world_allgather(world, b->best, sizeof b->best, all);
    for (int i = 0; i < world->size * N_KINDS; i++) {
        struct times *best = &b->best[i % N_KINDS];
        if (all[i].clock > best->clock) best->clock = all[i].clock;
        if (all[i].processors > best->processors) best->processors = all[i].processors;
    }
    free(all);
    return status;
}

static void report(const struct phx_run *run, const struct bench *b, int n_threads)
{
    static const char *const names[N_KINDS] = {"load", "copy_to_new", "copy"};
    double clock[N_KINDS], processors[N_KINDS];
    printf("{\"ranks\": %d, \"threads_per_rank\": %d, \"load_mode\": \"%s\", \"file_mb\": %.1f, "
           "\"rank_mb\": %.1f, \"rounds\": %d",
           run->world->size, n_threads, b->mode_name, (double)b->load.file_bytes / 1e6,
           (double)b->load.read_bytes / 1e6, b->rounds);
    for (int kind = 0; kind < N_KINDS; kind++) {
        double gb = (double)(kind == LOAD ? b->load.read_bytes : b->copied_bytes) / 1e9;
        clock[kind] = gb / b->best[kind].clock;
        processors[kind] = gb / b->best[kind].processors;
        printf(", \"%s_gb_s\": %.2f, \"%s_gb_per_processor_s\": %.2f", names[kind], clock[kind],
               names[kind], processors[kind]);
    }
    printf(", \"of_copy_to_new\": %.3f, \"of_copy\": %.3f, "
           "\"of_copy_to_new_by_processors\": %.3f, \"of_copy_by_processors\": %.3f}\n",
           clock[LOAD] / clock[COPY_TO_NEW], clock[LOAD] / clock[COPY],
           processors[LOAD] / processors[COPY_TO_NEW], processors[LOAD] / processors[COPY]);
    fflush(stdout);
}

/* Of a run only what a load needs. */
static enum phx_status make_device(struct phx_run *run, const struct phx_placement *placement)
{
    struct phx_device_options options = {
        .kind = PHX_DEVICE_CPU, .n_threads = placement->n_threads, .cpus = placement->cpus};
    PHX_TRY(phx_device_create(&options, &run->device));
    return phx_stream_create(run->device, &(struct phx_limits){.max_rows = 1}, &run->stream);
}

static enum phx_status run_bench(struct phx_world *world, struct bench *b,
                                 const struct phx_placement *placement)
{
    struct phx_run_settings settings = {.model = b->model, .device = PHX_DEVICE_CPU};
    struct phx_run *run = NULL;
    struct phx_pool *pool = NULL;
    enum phx_status status;
    b->copied_bytes = (size_t)placement->n_threads * thread_bytes;
    PHX_TRY(phx_run_open(world, &settings, &run));
    PHX_TRY_GOTO(phx_world_agree(world, make_device(run, placement)), done);
    PHX_TRY_GOTO(phx_world_agree(
                     world, phx_pool_create(placement->n_threads, placement->cpus, false, &pool)),
                 done);
    PHX_TRY_GOTO(phx_world_agree(world, take(b->copied_bytes, &b->from)), done);
    memset(b->from, 1, b->copied_bytes);
    PHX_TRY_GOTO(rounds(run, pool, b), done);
    PHX_TRY_GOTO(slowest_rank(world, b), done);
    if (world->rank == 0) report(run, b, placement->n_threads);
done:
    free(b->from);
    phx_pool_destroy(pool);
    phx_run_destroy(run);
    return status;
}

static enum phx_status parse(int argc, char **argv, struct bench *b)
{
    static const struct option names[] = {
        {"model", required_argument, NULL, 'm'},
        {"threads", required_argument, NULL, 't'},
        {"rounds", required_argument, NULL, 'r'},
        {"load-mode", required_argument, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    static const char *const modes[] = {"auto", "mmap", "read", "direct"}; /* as in the enum */
    int mode = 0;
    for (int c; (c = getopt_long(argc, argv, "m:t:r:", names, NULL)) != -1;) {
        if (c == 'm') b->model = optarg;
        if (c == 't') b->threads = atoi(optarg);
        if (c == 'r') b->rounds = atoi(optarg);
        if (c == 'l')
            for (mode = 0; mode < 4 && strcmp(modes[mode], optarg) != 0; mode++) continue;
        if (c == '?' || mode == 4) return phx_fail(PHX_USAGE, "see the head of bench_load.c");
    }
    if (b->model == NULL || b->rounds < 1)
        return phx_fail(PHX_USAGE, "-m MODEL is needed, and at least one round");
    b->mode = (enum phx_load_mode)mode;
    b->mode_name = modes[mode];
    return PHX_OK;
}

int main(int argc, char **argv)
{
    struct bench b = {.rounds = 10};
    struct phx_world *world = NULL;
    struct phx_topology *topology = NULL;
    struct phx_placement *placement = NULL;
    enum phx_status status = phx_world_mpi_create(&argc, &argv, &world);
    if (status == PHX_OK) status = phx_world_agree(world, parse(argc, argv, &b));
    if (status == PHX_OK) status = phx_world_agree(world, phx_topology_create(NULL, 0, &topology));
    if (status == PHX_OK)
        status =
            phx_world_agree(world, phx_placement_create(topology, world->node_rank,
                                                        world->node_size, b.threads, &placement));
    if (status == PHX_OK) status = run_bench(world, &b, placement);
    phx_placement_destroy(placement);
    phx_topology_destroy(topology);
    if (status != PHX_OK && phx_fail_sentence()[0] != '\0')
        fprintf(stderr, "bench_load: %s\n", phx_fail_sentence());
    if (world != NULL) phx_world_finish(world);
    phx_world_destroy(world);
    return status == PHX_OK ? 0 : 1;
}
