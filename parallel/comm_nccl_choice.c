#include "parallel/comm_nccl_choice.h"

#include <math.h>
#include <stdio.h>

/* Sum of the logarithms with the first `n_fused` sizes fused; infinite if a time is missing. */
static double total(const struct phx_nccl_timing *timings, int n, int n_fused,
                    enum phx_allreduce above)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double us = timings[i].us[i < n_fused ? PHX_ALLREDUCE_FUSED : above];
        sum += us > 0 ? log(us) : INFINITY;
    }
    return sum;
}

struct phx_nccl_choice phx_nccl_choose(const struct phx_nccl_timing *timings, int n)
{
    struct phx_nccl_choice best = {0};
    double least = INFINITY;
    for (int symmetric = 0; symmetric < 2; symmetric++) {
        enum phx_allreduce above = symmetric ? PHX_ALLREDUCE_SYMMETRIC : PHX_ALLREDUCE_NCCL;
        for (int n_fused = 0; n_fused <= n; n_fused++) {
            double sum = total(timings, n, n_fused, above);
            if (sum >= least) continue;
            least = sum;
            best.fused_bytes = n_fused > 0 ? timings[n_fused - 1].bytes : 0;
            best.symmetric = symmetric != 0;
        }
    }
    return best;
}

static void describe_bytes(size_t bytes, char *text, size_t size)
{
    if (bytes % (1 << 20) == 0)
        snprintf(text, size, "%zu MB", bytes >> 20);
    else if (bytes % (1 << 10) == 0)
        snprintf(text, size, "%zu KB", bytes >> 10);
    else
        snprintf(text, size, "%zu bytes", bytes);
}

void phx_nccl_describe(const struct phx_nccl_choice *choice, size_t max_bytes, char *text,
                       size_t size)
{
    const char *above = choice->symmetric ? "symmetric" : "nccl";
    char limit[32];
    if (choice->fused_bytes == 0) {
        snprintf(text, size, "%s", above);
    } else if (choice->fused_bytes >= max_bytes) {
        snprintf(text, size, "fused");
    } else {
        describe_bytes(choice->fused_bytes, limit, sizeof limit);
        snprintf(text, size, "fused up to %s, %s above", limit, above);
    }
}
