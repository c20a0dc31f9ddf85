/// \file bench_report.h
/// What `phalanx bench` measured, for its printers. Rank 0.
#ifndef PHX_LAUNCH_VERBS_BENCH_REPORT_H
#define PHX_LAUNCH_VERBS_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "launch/verbs/bench_breakdown.h"
#include "launch/verbs/bench_yardsticks.h"

/// What rows have in common: a run with some number of threads and tokens a step.
struct phx_bench_setup {
    const struct phx_options *options;
    const struct phx_config *config;
    struct phx_device_info device; ///< of rank 0
    const char *model;             ///< its folder, as it was given
    char sums[128];                ///< how ranks add
    const char *hosts;             ///< of all ranks, with commas
    int tp_size, n_threads;
    int32_t step_tokens, part_tokens; ///< -b, -ub
    enum phx_dtype kv_dtype, weight_dtype;
    double n_params, model_bytes;
    double load_s, load_bytes;              ///< most of any rank; made-up weights have no bytes
    struct phx_bench_yardsticks yardsticks; ///< the least of all ranks
};

/// One test, all repetitions of it.
struct phx_bench_row {
    struct phx_bench_test test;
    int n;           ///< repetitions
    double *seconds; ///< [n]
    int64_t n_steps;
    /// In all steps together: of the rank that has most to do, and over all ranks.
    struct phx_step_work work, all_work;
    double floor_s;        ///< the least time for that rank's work: reading or multiplying it
    bool floor_is_reading; ///< the former takes longer
    struct phx_bench_breakdown parts;
    double sum_s, small_sum_s; ///< a sum alone: of this test's rows, of one row
    int32_t sum_rows;
    double peak_bytes; ///< of memory, on the rank that took most
    uint64_t token_hash;
};

double phx_bench_mean(const double *values, int n);
double phx_bench_deviation(const double *values, int n);
/// How far the mean of another run of as many, under the same conditions, may be from this one's:
/// in 95 of 100 cases not further than the larger of the spreads that the two print. t s sqrt(2/n)
/// with Student's t at 0.975 for n - 1 degrees of freedom: the mean of each run varies by
/// s/sqrt(n). 0 for one value, which has none.
double phx_bench_spread(const double *values, int n);

/// What stands before all rows, and after them.
enum phx_status phx_bench_print_begin(enum phx_bench_output form, FILE *file);
enum phx_status phx_bench_print_end(enum phx_bench_output form, FILE *file);
/// `first`: no row was printed before.
enum phx_status phx_bench_print_row(enum phx_bench_output form, FILE *file,
                                    const struct phx_bench_setup *setup,
                                    const struct phx_bench_row *row, bool first);

#endif
