#include "kernels/tensor.h"

#include "kernels/base/check.h"

struct phx_tensor phx_tensor_view(struct phx_buffer *buffer, size_t offset_bytes,
                                  enum phx_dtype dtype, int64_t rows, int64_t cols)
{
    struct phx_tensor tensor = {buffer, offset_bytes, dtype, rows, cols, cols};
    PHX_ASSERT(buffer != NULL && rows >= 0 && cols >= 0);
    PHX_ASSERT(offset_bytes + phx_tensor_span_bytes(tensor) <= phx_buffer_bytes(buffer));
    return tensor;
}

struct phx_tensor phx_tensor_rows(struct phx_tensor tensor, int64_t row, int64_t rows)
{
    PHX_ASSERT(row >= 0 && rows >= 0 && row + rows <= tensor.rows);
    tensor.offset_bytes += phx_dtype_bytes(tensor.dtype, row * tensor.stride);
    tensor.rows = rows;
    return tensor;
}

struct phx_tensor phx_tensor_cols(struct phx_tensor tensor, int64_t col, int64_t cols)
{
    PHX_ASSERT(col >= 0 && cols >= 0 && col + cols <= tensor.cols);
    tensor.offset_bytes += phx_dtype_bytes(tensor.dtype, col);
    tensor.cols = cols;
    return tensor;
}

size_t phx_tensor_span_bytes(struct phx_tensor tensor)
{
    if (tensor.rows == 0 || tensor.cols == 0) return 0;
    return phx_dtype_bytes(tensor.dtype, (tensor.rows - 1) * tensor.stride + tensor.cols);
}

void *phx_tensor_address(struct phx_tensor tensor)
{
    return (char *)phx_buffer_address(tensor.buffer) + tensor.offset_bytes;
}

enum phx_status phx_tensor_upload(struct phx_stream *stream, struct phx_tensor to, const void *from)
{
    size_t row_bytes = phx_dtype_bytes(to.dtype, to.cols);
    return phx_buffer_upload(stream, to.buffer, to.offset_bytes,
                             phx_dtype_bytes(to.dtype, to.stride), from, row_bytes, row_bytes,
                             to.rows);
}

enum phx_status phx_tensor_download(struct phx_stream *stream, struct phx_tensor from, void *to)
{
    size_t row_bytes = phx_dtype_bytes(from.dtype, from.cols);
    return phx_buffer_download(stream, from.buffer, from.offset_bytes,
                               phx_dtype_bytes(from.dtype, from.stride), to, row_bytes, row_bytes,
                               from.rows);
}
