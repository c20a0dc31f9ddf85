/// \file comm_nccl_fused.h
/// Sums over ranks in one kernel each, through memory that the ranks' GPUs write for each other.
/// How they exchange data stands in comm_nccl_lines.h. Only parallel/comm_nccl* include this, and
/// tests, which give tables of windows of their own.
///
/// The functions launch in stream order, can be recorded into graphs, and return PHX_DEVICE if a
/// launch fails. Values are added in f32 in rank order and rounded once to their type: the same
/// bits on all ranks.
#ifndef PHX_PARALLEL_COMM_NCCL_FUSED_H
#define PHX_PARALLEL_COMM_NCCL_FUSED_H

#include <nccl.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/cuda/native.h"
#include "parallel/comm_nccl_lines.h"
#include "parallel/comm_nccl_sizes.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Host memory that the device sees.
struct phx_fused_host {
    uint64_t position;                  ///< n_steps << 32 | n_begun, written by the device
    uint32_t abort;                     ///< not 0: whatever waits gives up, within milliseconds
    void *windows[PHX_LINES_MAX_RANKS]; ///< written by phx_fused_find_windows
};

/// A rank's end of the exchange; plain data, copied into each launch.
struct phx_fused {
    int rank, n_ranks; ///< at most PHX_LINES_MAX_RANKS
    int32_t capacity;  ///< lines that a rank may write in a sum; the same on all ranks
    void *windows[PHX_LINES_MAX_RANKS]; ///< [n_ranks] of every rank, as this rank's GPU sees them
    struct phx_fused_state *state;
    struct phx_fused_host *host;
    /// A kernel's blocks wait for other ranks, so all of them must run at once: as many blocks of
    /// 1024 threads as the GPU holds beside what else runs on it (another rank, in tests).
    int max_blocks;
    bool starts_early; ///< kernels start while their predecessor ends, as in kernels/cuda
};

/// Load the kernels for `n_ranks` ranks, so that none has to be loaded while another waits for a
/// peer, and say whether the device's code is such that they may start early.
enum phx_status phx_fused_load(int n_ranks, bool *out_starts_early);

/// A step begins, or a collective that is none of the below: position = (n + 1, 0) or (., n + 1).
/// The functions below mark themselves.
enum phx_status phx_fused_mark(const struct phx_fused *fused, cudaStream_t stream, bool step);

/// x[i] = sum over ranks, in place; x begins at a multiple of its type, n > 0.
/// phx_lines_count(1, n, bytes of a value) is at most the capacity.
enum phx_status phx_fused_all_reduce(const struct phx_fused *fused, cudaStream_t stream,
                                     enum phx_dtype dtype, void *x, int64_t n);

/// As phx_comm_reduce_norm, rows > 0, strides in values; the sum is rounded to `dtype` before it
/// meets the residual. phx_lines_count(rows, cols, ...) is at most the capacity.
struct phx_fused_norm {
    enum phx_dtype dtype;
    const void *partial; ///< [rows, cols] without gaps; left as it is
    float *residual;     ///< [rows, cols]
    const float *weight; ///< [cols]
    void *out;           ///< [rows, cols]
    int64_t rows, residual_stride, out_stride;
    int32_t cols; ///< at most PHX_FUSED_MAX_ROW_LINES lines
    bool start;
    float epsilon;
};
enum { PHX_FUSED_MAX_ROW_LINES = 4096 };
enum phx_status phx_fused_reduce_norm(const struct phx_fused *fused, cudaStream_t stream,
                                      const struct phx_fused_norm *args);

/// Where this rank's GPU sees the memory that the ranks have registered as `window`, into
/// fused->host->windows once the stream has been synchronised. PHX_UNSUPPORTED unless all
/// `n_ranks` ranks can load and store there.
enum phx_status phx_fused_find_windows(const struct phx_fused *fused, cudaStream_t stream,
                                       ncclComm_t comm, ncclWindow_t window);

#ifdef __cplusplus
}
#endif
#endif
