/// \file sizes.h
/// How much memory the CUDA backend takes for what. No CUDA here: memory is also planned for GPUs
/// that are not there, by builds without this backend (phx_device_on_paper).
#ifndef PHX_KERNELS_CUDA_SIZES_H
#define PHX_KERNELS_CUDA_SIZES_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Rows of a weight lie `phx_cuda_pitch` values apart; the values past the last column are zeros.
/// So every row begins at a multiple of 16 bytes and products need no tails.
enum { PHX_CUDA_ALIGN_VALUES = 8 };
static inline int64_t phx_cuda_pitch(int64_t cols)
{
    return (cols + PHX_CUDA_ALIGN_VALUES - 1) / PHX_CUDA_ALIGN_VALUES * PHX_CUDA_ALIGN_VALUES;
}

/// A quantised weight lies in planes, one behind the other, row by row in each: whole numbers, what
/// they have atop of four bits, scales, Q6_K's scales of scales (blocks.cuh). As many bytes as in
/// files, but that rows are filled up with zeros to whole parts.
enum { PHX_CUDA_PART = 128 };
/// Bytes of a row in each plane.
struct phx_cuda_block_pitches {
    uint32_t quants, tops, scales, supers;
};
struct phx_cuda_block_pitches phx_cuda_block_pitches(const struct phx_weight_shape *shape);

/// Columns of a row as it lies, of any type: its lead, its own, zeros.
int64_t phx_cuda_stored_cols(const struct phx_weight_shape *shape);

/// Attention keeps the sums of a head in registers.
enum { PHX_CUDA_MAX_HEAD_DIM = 256 };

/// Parts of a stream's scratch. Ops use them freely; nothing survives an op but the tickets, which
/// are 0 before and after each.
struct phx_cuda_scratch {
    size_t workspace_bytes; ///< cuBLASLt's; also for weights under way
    size_t packed_bytes;    ///< inputs of products that lie askew
    size_t wide_bytes;      ///< gate and up before they meet
    size_t expanded_bytes;  ///< values of some rows of a quantised weight
    size_t partial_bytes;   ///< shares of an attention that is divided over blocks
    size_t tickets_bytes;   ///< how many shares of what is divided so are complete
    size_t best_bytes;      ///< the best candidates of slices of the vocabulary
};
struct phx_cuda_scratch phx_cuda_scratch_sizes(const struct phx_device *device,
                                               const struct phx_limits *limits);

/// Floats of a query's share of an attention that is divided over blocks: its head, in whole
/// groups of four, and two numbers at the beginning of one more.
static inline int64_t phx_cuda_share_pitch(int32_t head_dim)
{
    return (head_dim + 3) / 4 * 4 + 4;
}

/// Among how many blocks attention divides each KV head's keys, so that all of them fill the GPU.
int32_t phx_cuda_attention_workers(const struct phx_device *device, int32_t n_kv_heads);

/// What a slice of the vocabulary leaves beside its best candidates: of the logits, of
/// exp(logit - max).
struct phx_cuda_slice_sum {
    float max, sum;
};
/// Slices at a time, of all rows together.
int64_t phx_cuda_candidate_slices(const struct phx_device *device);

size_t phx_cuda_stream_scratch_bytes(const struct phx_device *, const struct phx_limits *);
size_t phx_cuda_weight_bytes(const struct phx_device *, const struct phx_weight_shape *);

#ifdef __cplusplus
}
#endif
#endif
