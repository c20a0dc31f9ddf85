/// \file bench_breakdown.h
/// Where the time of a test goes.
///
/// Every part is measured by itself, and the whole too, in turns with them: how far the parts do
/// not add up to the whole is a figure of its own, which tells how far to believe them.
#ifndef PHX_LAUNCH_VERBS_BENCH_BREAKDOWN_H
#define PHX_LAUNCH_VERBS_BENCH_BREAKDOWN_H

#include "kernels/stages.h"
#include "launch/verbs/bench_steps.h"

/// Seconds of the whole test; 0 where nothing was measured.
struct phx_bench_breakdown {
    double whole_s;
    /// CPU: what the stage's operations took, on rank 0. GPU, where work may overlap: what the test
    /// takes less with operations in their place that do nothing; of norms with the sums replaced
    /// too, since a norm may be fused with a sum.
    double stage_s[PHX_STAGE_COUNT];
    double gaps_s; ///< CPU: between operations that do nothing; GPU: if all of them do nothing,
                   ///< less host_s
    double host_s; ///< what remains if nothing is started, less the CPU's gaps
};

/// Of the whole, what no part accounts for; negative if they are more. Of a full breakdown.
double phx_bench_breakdown_difference(const struct phx_bench_breakdown *parts);

/// What sums take where there are several ranks, and if options->breakdown all parts.
enum phx_status phx_bench_break_down(struct phx_bench_steps *steps,
                                     struct phx_bench_breakdown *out);

/// The first of several is the whole test.
struct phx_bench_variant {
    unsigned left_out;            ///< stages
    bool starts;                  ///< something starts in their place
    bool timed;                   ///< stage by stage
    double seconds;               ///< of the test: the median over turns
    struct phx_stage_times times; ///< likewise
};
enum { PHX_BENCH_VARIANTS = PHX_STAGE_COUNT + 3 };
/// What is to be measured for a breakdown, a full one or that of sums; returns how many variants.
int phx_bench_variants(bool has_graphs, int n_ranks, bool full,
                       struct phx_bench_variant variants[PHX_BENCH_VARIANTS]);
/// And what it comes to, once it was.
void phx_bench_parts(const struct phx_bench_variant *variants, int n,
                     struct phx_bench_breakdown *out);

#endif
