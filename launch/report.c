#include "launch/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "kernels/base/check.h"
#include "launch/output.h"

struct rank_facts {
    double load_seconds;
    double read_bytes;
    double peak_bytes;
};

/* "3 tokens, 5566.9 tok/s", `what` before them. A rate of nothing is left out. */
static void print_tokens(const char *what, int64_t n, int64_t n_timed, double seconds)
{
    fprintf(stderr, "%s %lld token%s", what, (long long)n, n == 1 ? "" : "s");
    if (n_timed > 0 && seconds > 0) fprintf(stderr, ", %.1f tok/s", (double)n_timed / seconds);
    fprintf(stderr, " | ");
}

static void print(const struct phx_engine_counters *c, const struct rank_facts *all, int size,
                  uint64_t hash)
{
    double slowest = 0, read = 0, peak = 0;
    for (int r = 0; r < size; r++) {
        if (all[r].load_seconds > slowest) slowest = all[r].load_seconds;
        if (all[r].peak_bytes > peak) peak = all[r].peak_bytes;
        read += all[r].read_bytes / size;
    }
    /* The first token of a text comes with its prompt: decoding is counted from the second. */
    print_tokens("prompt", c->prompt_tokens, c->prompt_tokens, c->prompt_seconds);
    print_tokens("generated", c->generated_tokens, c->decode_tokens, c->decode_seconds);
    fprintf(stderr,
            "load %.2f s, %.2f GB/s read per rank | peak memory %.1f MB per rank | last logits "
            "%016llx\n",
            slowest, slowest > 0 ? read / slowest / 1e9 : 0, peak / 1e6, (unsigned long long)hash);
}

enum phx_status phx_report_run(struct phx_run *run)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    struct rank_facts own = {.load_seconds = run->load.seconds,
                             .read_bytes = (double)run->load.read_bytes,
                             .peak_bytes = 1024.0 * (double)usage.ru_maxrss};
    struct rank_facts *all = calloc((size_t)run->world->size, sizeof *all);
    enum phx_status status = PHX_OK;
    uint64_t hash = 0;
    if (all == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the report");
    PHX_TRY_GOTO(phx_engine_logits_hash(run->engine, &hash), done);
    PHX_TRY_GOTO(phx_world_allgather(run->world, &own, sizeof own, all), done);
    if (run->world->rank == 0) {
        struct phx_engine_counters counters;
        phx_output_drain(); /* so that the line comes after the text */
        phx_engine_counters(run->engine, &counters);
        print(&counters, all, run->world->size, hash);
    }
done:
    free(all);
    return status;
}
