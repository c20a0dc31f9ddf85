/// \file topology_report.h
/// What `phalanx topology` found, on rank 0: plain data for its two printers.
#ifndef PHX_LAUNCH_VERBS_TOPOLOGY_REPORT_H
#define PHX_LAUNCH_VERBS_TOPOLOGY_REPORT_H

#include <stdbool.h>

#include "kernels/base/status.h"
#include "kernels/device.h"
#include "launch/seats.h"
#include "parallel/comm.h"

enum { PHX_RANK_PROBLEMS = 2, PHX_PROBLEM_BYTES = 1024 };

/// What a rank tells beyond its seat.
struct phx_rank_report {
    int local_rank;
    int n_threads;                     ///< that compute; -1: on a GPU, or its place was refused
    int n_processors, n_cores, n_numa; ///< that its control group allows
    char processors[128];              ///< that it runs on
    int numa;                          ///< of these; -1: several nodes
    /// Sentences, of its place and of what others make of it; "": none.
    char problems[PHX_RANK_PROBLEMS][PHX_PROBLEM_BYTES];
};

struct phx_gpu_report {
    struct phx_device_info info;
    int numa; ///< -1: the machine does not tell
};

/// A GPU, whoever sees it.
struct phx_known_gpu {
    const struct phx_gpu_report *gpu;
    const char *host;
};

struct phx_topology_report {
    int size;                      ///< ranks
    int max_gpus;                  ///< that a rank sees
    struct phx_seat *seats;        ///< [size]
    struct phx_rank_report *ranks; ///< [size]
    struct phx_gpu_report *gpus;   ///< [size][max_gpus]
    struct phx_device_link *links; ///< [size][max_gpus][max_gpus]
    struct phx_known_gpu *known;   ///< [n_known]
    int n_known;
    struct phx_nccl_info nccl;
};

/// How known GPU `from` gets at the memory of `to`; NULL if no rank sees both.
const struct phx_device_link *phx_topology_link(const struct phx_topology_report *report, int from,
                                                int to);

/// The ranks that have problem `which` of `rank`, itself among them; 0 if it has none, or if a
/// lower rank has the same. `ranks` has room for all.
int phx_topology_problem_ranks(const struct phx_topology_report *report, int rank, int which,
                               int *ranks);

/// To standard output, for people or as one JSON object on a line.
enum phx_status phx_topology_print(const struct phx_topology_report *report);
enum phx_status phx_topology_print_json(const struct phx_topology_report *report);

#endif
