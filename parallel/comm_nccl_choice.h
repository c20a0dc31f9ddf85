/// \file comm_nccl_choice.h
/// Which sums go which way, from what each way took. Pure.
#ifndef PHX_PARALLEL_COMM_NCCL_CHOICE_H
#define PHX_PARALLEL_COMM_NCCL_CHOICE_H

#include <stdbool.h>
#include <stddef.h>

#include "parallel/comm.h"

/// Sums of up to `fused_bytes` are fused, others NCCL's, on symmetric windows or on plain memory:
/// a communicator's buffers are the one or the other.
struct phx_nccl_choice {
    size_t fused_bytes; ///< 0: none
    bool symmetric;
};

/// What a sum of `bytes` took, by phx_allreduce; 0: that way cannot be had.
struct phx_nccl_timing {
    size_t bytes;
    double us[PHX_ALLREDUCE_FUSED + 1];
};

/// The least product of times over all sizes, which are given in ascending order;
/// PHX_ALLREDUCE_NCCL can always be had.
struct phx_nccl_choice phx_nccl_choose(const struct phx_nccl_timing *timings, int n);

/// "fused up to 512 KB, symmetric above", where sums have up to `max_bytes`.
void phx_nccl_describe(const struct phx_nccl_choice *choice, size_t max_bytes, char *text,
                       size_t size);

#endif
