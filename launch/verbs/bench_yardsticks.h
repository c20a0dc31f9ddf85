/// \file bench_yardsticks.h
/// What the devices of a run can do at best, measured beside it, while the ranks do the same;
/// and a cache to measure with.
#ifndef PHX_LAUNCH_VERBS_BENCH_YARDSTICKS_H
#define PHX_LAUNCH_VERBS_BENCH_YARDSTICKS_H

#include "launch/run.h"

/// Of n numbers, of an even n the upper one; puts them in order.
double phx_bench_median(double *values, int n);

/// Collective. The greatest of what each rank gives.
enum phx_status phx_bench_most(struct phx_world *world, double mine, double *out);

/// The least of all ranks, and of start_s the most.
struct phx_bench_yardsticks {
    double read_bytes_s; ///< plain reading of memory that no cache holds
    double operations_s; ///< CPU: with operands in registers; GPU: the best of large products
    double start_s;      ///< of something that does nothing, in a chain of such
};

/// Collective: a started run, between steps. PHX_OUT_OF_MEMORY if the device has too little left.
enum phx_status phx_bench_yardsticks_measure(const struct phx_run *run,
                                             struct phx_bench_yardsticks *out);

/// Collective: the seconds that one sum over the ranks of n_rows rows of the model's width takes,
/// by phx_comm_reduce_norm in a chain, less what the norm takes alone. 0 for one rank.
enum phx_status phx_bench_sum_measure(const struct phx_run *run, int32_t n_rows, double *out);

/// Give this rank's cache made-up keys and values, random numbers in [-1, 1): of a head always the
/// same ones, on whatever rank it is.
enum phx_status phx_bench_noise_fill(const struct phx_run *run);

#endif
