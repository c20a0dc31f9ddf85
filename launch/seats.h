/// \file seats.h
/// Where every rank of a job computes, and whether that goes together. Pure.
#ifndef PHX_LAUNCH_SEATS_H
#define PHX_LAUNCH_SEATS_H

#include <stdbool.h>

#include "kernels/base/status.h"
#include "kernels/device.h"

enum { PHX_HOST_BYTES = 64, PHX_SHORT_UUID = 12 };

/// What a rank tells the others.
struct phx_seat {
    char host[PHX_HOST_BYTES];
    char no_gpu[128];            ///< on the CPU: why not on a GPU
    bool warned;                 ///< its placement has a warning
    int n_gpus;                  ///< that it sees
    int gpu;                     ///< ordinal of the one that it takes; -1: it computes on the CPU
    struct phx_device_info info; ///< of that one, as phx_device_describe() tells
};

/// What is wrong with the job as rank `rank` sees it. Refused (PHX_UNSUPPORTED): a rank on the CPU
/// where others are on GPUs, which that rank alone is told; two ranks on one GPU, known by its
/// UUID, unless `share`, which all ranks are told. `out_sharers`: the most ranks that have the same
/// GPU, at least 1.
enum phx_status phx_seats_check(const struct phx_seat *seats, int size, int rank, bool share,
                                int *out_sharers);

#endif
