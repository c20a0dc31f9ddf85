/* Weights lie row by row, as in files, each row padded with zeros to a multiple of 8 values
 * (sizes.h): every row is aligned, and products have no tails. */
#include <stdlib.h>

#include "kernels/cuda/cuda.h"

static char *row_at(const struct phx_weight *weight, int64_t row)
{
    return (char *)weight->buffer->address +
           phx_dtype_bytes(weight->shape.dtype, row * phx_cuda_pitch(weight->shape.cols));
}

enum phx_status phx_cuda_weight_create(struct phx_device *device,
                                       const struct phx_weight_shape *shape,
                                       struct phx_weight **out)
{
    if (!phx_dtype_traits(shape->dtype)->is_float) {
        return phx_fail(PHX_UNSUPPORTED,
                        "weights of type %s are not computed with on a GPU: use --device cpu, or "
                        "phalanx convert to f16 or bf16",
                        phx_dtype_traits(shape->dtype)->name);
    }
    struct phx_weight *weight = malloc(sizeof *weight);
    if (weight == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a weight's handle");
    *weight = (struct phx_weight){.device = device, .shape = *shape};
    enum phx_status status =
        phx_cuda_buffer_create(device, phx_cuda_weight_bytes(device, shape), &weight->buffer);
    if (status != PHX_OK) {
        free(weight);
        return status;
    }
    *out = weight;
    return PHX_OK;
}

void phx_cuda_weight_destroy(struct phx_weight *weight)
{
    phx_cuda_buffer_destroy(weight->buffer);
    free(weight);
}

/* Columns [*col, + *cols) and as many rows as the workspace takes in `dtype`. */
static int64_t fit_workspace(const struct phx_cuda_stream *stream, enum phx_dtype dtype,
                             int64_t rows, int64_t *cols)
{
    int64_t values = (int64_t)(stream->sizes.workspace_bytes / phx_dtype_bytes(dtype, 1));
    if (*cols > values) *cols = values;
    return rows < values / *cols ? rows : values / *cols;
}

/* In pieces: up as they are, then converted where they belong. */
static enum phx_status write_converted(struct phx_cuda_stream *stream, struct phx_weight *weight,
                                       int64_t row, int64_t rows, enum phx_dtype from_dtype,
                                       const char *from, size_t from_pitch)
{
    const struct phx_weight_shape *shape = &weight->shape;
    int64_t cols = shape->cols, step = fit_workspace(stream, from_dtype, rows, &cols);
    for (int64_t r = 0; r < rows; r += step)
        for (int64_t c = 0; c < shape->cols; c += cols) {
            int64_t n_rows = rows - r < step ? rows - r : step;
            int64_t n_cols = shape->cols - c < cols ? shape->cols - c : cols;
            size_t row_bytes = phx_dtype_bytes(from_dtype, n_cols);
            PHX_TRY(phx_cuda_upload(stream, stream->workspace, row_bytes,
                                    from + (size_t)r * from_pitch + phx_dtype_bytes(from_dtype, c),
                                    from_pitch, row_bytes, n_rows));
            PHX_TRY(phx_cuda_convert(&stream->base, from_dtype, stream->workspace, n_cols,
                                     shape->dtype,
                                     row_at(weight, row + r) + phx_dtype_bytes(shape->dtype, c),
                                     phx_cuda_pitch(shape->cols), n_rows, n_cols));
        }
    return PHX_OK;
}

enum phx_status phx_cuda_weight_write(struct phx_stream *stream, struct phx_weight *weight,
                                      int64_t row, int64_t rows, enum phx_dtype from_dtype,
                                      const void *from, size_t from_pitch)
{
    const struct phx_weight_shape *shape = &weight->shape;
    PHX_TRY(phx_cuda_use(stream->device));
    if (rows == 0 || shape->cols == 0) return PHX_OK;
    if (from_dtype != shape->dtype)
        return write_converted(phx_cuda_stream(stream), weight, row, rows, from_dtype, from,
                               from_pitch);
    return phx_cuda_upload(phx_cuda_stream(stream), row_at(weight, row),
                           phx_dtype_bytes(shape->dtype, phx_cuda_pitch(shape->cols)), from,
                           from_pitch, phx_dtype_bytes(shape->dtype, shape->cols), rows);
}

enum phx_status phx_cuda_weight_write_dummy(struct phx_stream *stream, struct phx_weight *weight,
                                            int64_t row, int64_t rows,
                                            const struct phx_dummy *dummy, int64_t global_row,
                                            int64_t global_col)
{
    PHX_TRY(phx_cuda_use(stream->device));
    return phx_cuda_dummy(stream, weight->shape.dtype, row_at(weight, row),
                          phx_cuda_pitch(weight->shape.cols), rows, weight->shape.cols, dummy,
                          global_row, global_col);
}

enum phx_status phx_cuda_weight_read(struct phx_stream *base, const struct phx_weight *weight,
                                     int64_t row, int64_t rows, float *to)
{
    struct phx_cuda_stream *stream = phx_cuda_stream(base);
    const struct phx_weight_shape *shape = &weight->shape;
    PHX_TRY(phx_cuda_use(base->device));
    if (rows == 0 || shape->cols == 0) return PHX_OK;
    int64_t cols = shape->cols, step = fit_workspace(stream, PHX_F32, rows, &cols);
    for (int64_t r = 0; r < rows; r += step)
        for (int64_t c = 0; c < shape->cols; c += cols) {
            int64_t n_rows = rows - r < step ? rows - r : step;
            int64_t n_cols = shape->cols - c < cols ? shape->cols - c : cols;
            size_t row_bytes = (size_t)n_cols * sizeof *to;
            PHX_TRY(phx_cuda_convert(
                base, shape->dtype, row_at(weight, row + r) + phx_dtype_bytes(shape->dtype, c),
                phx_cuda_pitch(shape->cols), PHX_F32, stream->workspace, n_cols, n_rows, n_cols));
            PHX_CUDA_TRY(cudaMemcpy2DAsync,
                         (to + r * shape->cols + c, (size_t)shape->cols * sizeof *to,
                          stream->workspace, row_bytes, row_bytes, (size_t)n_rows,
                          cudaMemcpyDeviceToHost, stream->native));
        }
    return phx_cuda_stream_synchronize(base);
}
