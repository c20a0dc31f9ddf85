/// \file tensor.h
/// A view of a matrix in device memory. Plain data; owns nothing; copied by value.
#ifndef PHX_KERNELS_TENSOR_H
#define PHX_KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Row-major: element (r, c) lies at offset_bytes + (r * stride + c) * size of dtype.
/// A view with buffer NULL is absent: what an optional argument is when it is not given.
struct phx_tensor {
    struct phx_buffer *buffer;
    size_t offset_bytes;
    enum phx_dtype dtype;
    int64_t rows, cols;
    int64_t stride; ///< elements from a row to the next, at least cols
};

/// The whole of `buffer` from `offset_bytes` as rows x cols without gaps; asserts that it fits.
struct phx_tensor phx_tensor_view(struct phx_buffer *buffer, size_t offset_bytes,
                                  enum phx_dtype dtype, int64_t rows, int64_t cols);
/// Rows [row, row + rows) of a view.
struct phx_tensor phx_tensor_rows(struct phx_tensor tensor, int64_t row, int64_t rows);
/// Columns [col, col + cols) of a view.
struct phx_tensor phx_tensor_cols(struct phx_tensor tensor, int64_t col, int64_t cols);
/// Bytes from the first element to past the last, gaps between rows included.
size_t phx_tensor_span_bytes(struct phx_tensor tensor);
/// Where the device sees element (0, 0).
void *phx_tensor_address(struct phx_tensor tensor);

static inline bool phx_tensor_present(struct phx_tensor tensor)
{
    return tensor.buffer != NULL;
}

/// Host to device and back; host rows have no gaps. As phx_buffer_upload / phx_buffer_download.
enum phx_status phx_tensor_upload(struct phx_stream *stream, struct phx_tensor to,
                                  const void *from);
enum phx_status phx_tensor_download(struct phx_stream *stream, struct phx_tensor from, void *to);

#ifdef __cplusplus
}
#endif
#endif
