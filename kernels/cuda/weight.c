/* Weights lie row by row, as in files, each row padded with zeros to a multiple of 8 values
 * (sizes.h): every row is aligned, and products have no tails. Quantised ones lie in planes. */
#include <stdlib.h>

#include "kernels/cuda/blocks.h"

static char *row_at(const struct phx_weight *weight, int64_t row)
{
    return (char *)weight->buffer->address +
           phx_dtype_bytes(weight->shape.dtype, row * phx_cuda_pitch(weight->shape.cols));
}

struct phx_cuda_planes phx_cuda_planes_of(const struct phx_weight_shape *shape, const void *address)
{
    const struct phx_cuda_block_pitches pitches = phx_cuda_block_pitches(shape);
    char *quants = (char *)address, *tops = quants + shape->rows * pitches.quants;
    char *scales = tops + shape->rows * pitches.tops;
    char *supers = scales + shape->rows * pitches.scales;
    return (struct phx_cuda_planes){quants, tops,    scales,
                                    supers, pitches, phx_cuda_stored_cols(shape)};
}

enum phx_status phx_cuda_weight_create(struct phx_device *device,
                                       const struct phx_weight_shape *shape,
                                       struct phx_weight **out)
{
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

/* Products load weights before they wait for their predecessor (launch.cuh). So none starts early
 * after a kernel that writes one: a memset starts when all before it is complete, and nothing after
 * it before. */
static enum phx_status settle(struct phx_cuda_stream *stream)
{
    PHX_CUDA_TRY(cudaMemsetAsync, (stream->workspace, 0, 1, stream->native));
    return PHX_OK;
}

/* ---- quantised ---- */

/* Rows that fit `bytes`, of `row_bytes` each. */
static int64_t rows_in(size_t bytes, size_t row_bytes, int64_t rows)
{
    int64_t fit = (int64_t)(bytes / row_bytes);
    PHX_ASSERT(fit >= 1);
    return fit < rows ? fit : rows;
}

/* In pieces: up as they are, then to their places in the planes. */
static enum phx_status write_blocks(struct phx_cuda_stream *stream, struct phx_weight *weight,
                                    int64_t row, int64_t rows, const char *from, size_t from_pitch)
{
    const struct phx_weight_shape *shape = &weight->shape;
    const struct phx_cuda_planes planes = phx_cuda_planes_of(shape, weight->buffer->address);
    const int64_t cols = phx_weight_stored_cols(shape);
    const int64_t blocks = cols / phx_dtype_traits(shape->dtype)->block_elements;
    const size_t row_bytes = phx_dtype_bytes(shape->dtype, cols);
    const int64_t step = rows_in(stream->sizes.workspace_bytes, row_bytes, rows);
    for (int64_t r = 0; r < rows; r += step) {
        const int64_t n = rows - r < step ? rows - r : step;
        PHX_TRY(phx_cuda_upload(stream, stream->workspace, row_bytes, from + (size_t)r * from_pitch,
                                from_pitch, row_bytes, n));
        PHX_TRY(phx_cuda_blocks_arrange(&stream->base, shape->dtype, &planes, row + r, n, blocks,
                                        stream->workspace));
    }
    return PHX_OK;
}

/* Blocks to values of a plain type: up as they are, to planes of their own, from there on. */
static enum phx_status write_widened(struct phx_cuda_stream *stream, struct phx_weight *weight,
                                     int64_t row, int64_t rows, enum phx_dtype from_dtype,
                                     const char *from, size_t from_pitch)
{
    struct phx_weight_shape some = {.dtype = from_dtype, .rows = 1, .cols = weight->shape.cols};
    const int64_t blocks = some.cols / phx_dtype_traits(from_dtype)->block_elements;
    const int64_t pitch = phx_cuda_stored_cols(&weight->shape);
    const size_t row_bytes = phx_dtype_bytes(from_dtype, some.cols),
                 half = stream->sizes.workspace_bytes / 2;
    some.rows = rows_in(half, phx_cuda_weight_bytes(stream->base.device, &some), rows);
    const struct phx_cuda_planes planes = phx_cuda_planes_of(&some, stream->workspace + half);
    for (int64_t r = 0; r < rows; r += some.rows) {
        const int64_t n = rows - r < some.rows ? rows - r : some.rows;
        PHX_TRY(phx_cuda_upload(stream, stream->workspace, row_bytes, from + (size_t)r * from_pitch,
                                from_pitch, row_bytes, n));
        PHX_TRY(phx_cuda_blocks_arrange(&stream->base, from_dtype, &planes, 0, n, blocks,
                                        stream->workspace));
        PHX_TRY(phx_cuda_blocks_expand(&stream->base, from_dtype, &planes, 0, n, 0, some.cols,
                                       weight->shape.dtype, row_at(weight, row + r), pitch));
    }
    return settle(stream);
}

static enum phx_status read_blocks(struct phx_cuda_stream *stream, const struct phx_weight *weight,
                                   int64_t row, int64_t rows, float *to)
{
    const struct phx_weight_shape *shape = &weight->shape;
    const struct phx_cuda_planes planes = phx_cuda_planes_of(shape, weight->buffer->address);
    const int64_t pitch = phx_cuda_pitch(shape->cols);
    const size_t row_bytes = (size_t)shape->cols * sizeof *to;
    const int64_t step = rows_in(stream->sizes.workspace_bytes, (size_t)pitch * sizeof *to, rows);
    for (int64_t r = 0; r < rows; r += step) {
        const int64_t n = rows - r < step ? rows - r : step;
        PHX_TRY(phx_cuda_blocks_expand(&stream->base, shape->dtype, &planes, row + r, n,
                                       shape->lead, shape->cols, PHX_F32, stream->workspace,
                                       pitch));
        PHX_CUDA_TRY(cudaMemcpy2DAsync, (to + r * shape->cols, row_bytes, stream->workspace,
                                         (size_t)pitch * sizeof *to, row_bytes, (size_t)n,
                                         cudaMemcpyDeviceToHost, stream->native));
    }
    return PHX_OK;
}

/* ---- plain ---- */

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
    return settle(stream);
}

enum phx_status phx_cuda_weight_write(struct phx_stream *stream, struct phx_weight *weight,
                                      int64_t row, int64_t rows, enum phx_dtype from_dtype,
                                      const void *from, size_t from_pitch)
{
    const struct phx_weight_shape *shape = &weight->shape;
    PHX_TRY(phx_cuda_use(stream->device));
    if (rows == 0 || shape->cols == 0) return PHX_OK;
    if (!phx_dtype_traits(shape->dtype)->is_float)
        return write_blocks(phx_cuda_stream(stream), weight, row, rows, from, from_pitch);
    if (!phx_dtype_traits(from_dtype)->is_float)
        return write_widened(phx_cuda_stream(stream), weight, row, rows, from_dtype, from,
                             from_pitch);
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
    PHX_TRY(phx_cuda_dummy(stream, weight->shape.dtype, row_at(weight, row),
                           phx_cuda_pitch(weight->shape.cols), rows, weight->shape.cols, dummy,
                           global_row, global_col));
    return settle(phx_cuda_stream(stream));
}

enum phx_status phx_cuda_weight_read(struct phx_stream *base, const struct phx_weight *weight,
                                     int64_t row, int64_t rows, float *to)
{
    struct phx_cuda_stream *stream = phx_cuda_stream(base);
    const struct phx_weight_shape *shape = &weight->shape;
    PHX_TRY(phx_cuda_use(base->device));
    if (rows == 0 || shape->cols == 0) return PHX_OK;
    if (!phx_dtype_traits(shape->dtype)->is_float) {
        PHX_TRY(read_blocks(stream, weight, row, rows, to));
        return phx_cuda_stream_synchronize(base);
    }
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
