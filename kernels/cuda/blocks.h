/// \file blocks.h
/// Quantised weights on a GPU: blocks.cu lays them down, takes them apart and looks rows up,
/// blocks_gemv.cu multiplies. Values: kernels/base/blocks.h.
#ifndef PHX_KERNELS_CUDA_BLOCKS_H
#define PHX_KERNELS_CUDA_BLOCKS_H

#include "kernels/cuda/experts.h"

#ifdef __cplusplus
extern "C" {
#endif

/// The planes of a weight of this shape, one behind the other from `address` on.
struct phx_cuda_planes phx_cuda_planes_of(const struct phx_weight_shape *shape,
                                          const void *address);

/// Rows [row, row + rows) from device memory: `blocks` of each, as in files, without gaps.
enum phx_status phx_cuda_blocks_arrange(struct phx_stream *stream, enum phx_dtype dtype,
                                        const struct phx_cuda_planes *planes, int64_t row,
                                        int64_t rows, int64_t blocks, const void *from);
/// to[r][i] = stored column lead + i of row + r for i < cols, rounded to `to_dtype`. `to` lies at a
/// multiple of 16 bytes, to_stride is a multiple of 4.
enum phx_status phx_cuda_blocks_expand(struct phx_stream *stream, enum phx_dtype dtype,
                                       const struct phx_cuda_planes *planes, int64_t row,
                                       int64_t rows, int64_t lead, int64_t cols,
                                       enum phx_dtype to_dtype, void *to, int64_t to_stride);
enum phx_status phx_cuda_blocks_embed(struct phx_stream *stream, const struct phx_embed *args);

/// As phx_cuda_gemv() and phx_cuda_gemv_gated(), of the product's planes; `in` is planes.cols.
enum phx_status phx_cuda_blocks_gemv(struct phx_stream *stream,
                                     const struct phx_cuda_product *product);
enum phx_status phx_cuda_blocks_gemv_gated(struct phx_stream *stream,
                                           const struct phx_cuda_product *product,
                                           enum phx_activation activation);
/// As phx_cuda_experts_many() for a few pairs, each of which reads its expert's weight for itself.
enum phx_status phx_cuda_blocks_experts(struct phx_stream *stream, const struct phx_cuda_experts *e,
                                        bool gated);

#ifdef __cplusplus
}
#endif
#endif
