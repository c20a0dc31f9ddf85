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

static double rate(int64_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
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
    fprintf(stderr,
            "prompt %lld tokens, %.1f tok/s | generated %lld tokens, %.1f tok/s | load %.2f s, "
            "%.2f GB/s read per rank | peak memory %.1f MB per rank | last logits %016llx\n",
            (long long)c->prompt_tokens, rate(c->prompt_tokens, c->prompt_seconds),
            (long long)c->generated_tokens, rate(c->decode_tokens, c->decode_seconds), slowest,
            slowest > 0 ? read / slowest / 1e9 : 0, peak / 1e6, (unsigned long long)hash);
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
