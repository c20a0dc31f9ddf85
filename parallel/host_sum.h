/// \file host_sum.h
/// Sums of the ranks' parts in host memory: in f32, in rank order, rounded once to the parts' type.
#ifndef PHX_PARALLEL_HOST_SUM_H
#define PHX_PARALLEL_HOST_SUM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/dtype.h"

/// One array of each rank, all of one float type.
struct phx_host_parts {
    enum phx_dtype dtype;
    int n;             ///< ranks
    char *const *data; ///< [n]
};

/// Elements [begin, begin + n) of the sum into `to`, which may be the same place in one of the
/// parts.
void phx_host_sum(const struct phx_host_parts *parts, int64_t begin, int64_t n, char *to);

/// The same into the same place of every part.
void phx_host_sum_everywhere(const struct phx_host_parts *parts, int64_t begin, int64_t n);

/// residual[i] += element begin + i of the sum, or residual[i] = it when `start`. F32 parts only.
void phx_host_sum_residual(const struct phx_host_parts *parts, int64_t begin, int64_t n,
                           float *residual, bool start);

#endif
