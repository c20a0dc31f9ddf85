#include "kernels/weight.h"

#include "kernels/backend.h"
#include "kernels/base/check.h"

static void check_shape(const struct phx_weight_shape *shape)
{
    PHX_ASSERT(phx_dtype_traits(shape->dtype)->is_float);
    PHX_ASSERT(shape->rows >= 0 && shape->cols >= 0);
}

static void check_rows(const struct phx_stream *stream, const struct phx_weight *weight,
                       int64_t row, int64_t rows)
{
    PHX_ASSERT(stream->device == weight->device);
    PHX_ASSERT(row >= 0 && rows >= 0 && rows <= weight->shape.rows - row);
}

size_t phx_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape)
{
    check_shape(shape);
    return device->backend->weight_bytes(device, shape);
}

enum phx_status phx_weight_create(struct phx_device *device, const struct phx_weight_shape *shape,
                                  struct phx_weight **out)
{
    check_shape(shape);
    return device->backend->weight_create(device, shape, out);
}

void phx_weight_destroy(struct phx_weight *weight)
{
    if (weight != NULL) weight->device->backend->weight_destroy(weight);
}

struct phx_weight_shape phx_weight_shape(const struct phx_weight *weight)
{
    return weight->shape;
}

enum phx_status phx_weight_write(struct phx_stream *stream, struct phx_weight *weight, int64_t row,
                                 int64_t rows, enum phx_dtype from_dtype, const void *from,
                                 size_t from_pitch_bytes)
{
    check_rows(stream, weight, row, rows);
    PHX_ASSERT(phx_dtype_traits(from_dtype)->is_float);
    PHX_ASSERT(rows <= 1 || from_pitch_bytes >= phx_dtype_bytes(from_dtype, weight->shape.cols));
    return weight->device->backend->weight_write(stream, weight, row, rows, from_dtype, from,
                                                 from_pitch_bytes);
}

enum phx_status phx_weight_write_dummy(struct phx_stream *stream, struct phx_weight *weight,
                                       int64_t row, int64_t rows, const struct phx_dummy *dummy,
                                       int64_t global_row, int64_t global_col)
{
    check_rows(stream, weight, row, rows);
    PHX_ASSERT(global_row >= 0 && global_col >= 0);
    return weight->device->backend->weight_write_dummy(stream, weight, row, rows, dummy, global_row,
                                                       global_col);
}

enum phx_status phx_weight_read(struct phx_stream *stream, const struct phx_weight *weight,
                                int64_t row, int64_t rows, float *to)
{
    check_rows(stream, weight, row, rows);
    return weight->device->backend->weight_read(stream, weight, row, rows, to);
}
