/// \file blocks.h
/// Quantised weights on a GPU: blocks.cu lays them down, takes them apart and looks rows up,
/// blocks_gemv.cu multiplies. Values: kernels/base/blocks.h.
#ifndef PHX_KERNELS_CUDA_BLOCKS_H
#define PHX_KERNELS_CUDA_BLOCKS_H

#include "kernels/cuda/cuda.h"

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
/// to[r][i] = stored column i < cols of row + r, rounded to `to_dtype`. cols and to_stride are
/// multiples of 4, `to` of 16 bytes.
enum phx_status phx_cuda_blocks_expand(struct phx_stream *stream, enum phx_dtype dtype,
                                       const struct phx_cuda_planes *planes, int64_t row,
                                       int64_t rows, int64_t cols, enum phx_dtype to_dtype,
                                       void *to, int64_t to_stride);
enum phx_status phx_cuda_blocks_embed(struct phx_stream *stream, const struct phx_embed *args);

/// As phx_cuda_gemv() and phx_cuda_gemv_gated(), of the product's planes.
enum phx_status phx_cuda_blocks_gemv(struct phx_stream *stream,
                                     const struct phx_cuda_product *product);
enum phx_status phx_cuda_blocks_gemv_gated(struct phx_stream *stream,
                                           const struct phx_cuda_product *product,
                                           enum phx_activation activation);

#ifdef __cplusplus
}
#endif
#endif
