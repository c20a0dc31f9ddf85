/// \file comm_nccl_sizes.h
/// How much memory the NCCL communicator takes for what. No NCCL here: memory is also planned by
/// builds without it.
#ifndef PHX_PARALLEL_COMM_NCCL_SIZES_H
#define PHX_PARALLEL_COMM_NCCL_SIZES_H

#include "parallel/comm.h"
#include "parallel/comm_nccl_lines.h"

/// Largest sum that the exchange is given room for; past it the kernels that move every byte once
/// between any two ranks win.
static const size_t phx_nccl_max_fused_bytes = (size_t)1 << 20;

/// What a rank's kernels leave for those that follow; device memory, zeroed at first.
struct phx_fused_state {
    uint32_t epoch;    ///< of the newest sum whose blocks have all begun
    uint32_t given_up; ///< a wait was ended by `abort`: nothing waits any more
    uint32_t n_steps, n_begun;
    uint32_t n_blocks; ///< that have read the epoch of the running sum
};

/// Lines of the largest sum that may be fused.
int64_t phx_nccl_lines_capacity(const struct phx_comm_options *options);
/// Of what a rank gives to a gather at a time: the rows pass through memory of limited size.
size_t phx_nccl_piece_bytes(const struct phx_comm_options *options);
/// A window takes whole granules of ncclMemAlloc().
size_t phx_nccl_window_bytes(size_t bytes);
/// All of it on a rank of `size`, the buffers of phx_comm_buffer() apart.
size_t phx_nccl_bytes(const struct phx_comm_options *options, int size);

#endif
