#include "kernels/weight.h"

#include <stdlib.h>

#include "kernels/backend.h"
#include "kernels/base/check.h"

/* A weight of several types is a list of backend's weights, of one type each. */

static void check_shape(const struct phx_weight_shape *shape)
{
    const struct phx_dtype_traits *traits = phx_dtype_traits(shape->dtype);
    PHX_ASSERT(traits->is_weight);
    PHX_ASSERT(shape->rows >= 0 && shape->cols >= 0);
    PHX_ASSERT(shape->lead >= 0 && shape->lead < traits->block_elements);
}

static void check_rows(const struct phx_stream *stream, const struct phx_weight *weight,
                       int64_t row, int64_t rows)
{
    PHX_ASSERT(stream->device == weight->device);
    PHX_ASSERT(row >= 0 && rows >= 0 && rows <= weight->shape.rows - row);
}

/* The shape of band `i` without those around it; rows 0: there is none. */
static struct phx_weight_shape band_shape(const struct phx_weight_shape *shape, int i)
{
    struct phx_weight_shape band = {
        .dtype = shape->dtype, .rows = shape->rows, .cols = shape->cols, .lead = shape->lead};
    for (int b = 0; i == 0 && b < PHX_MAX_BANDS - 1; b++) band.rows -= shape->below[b].rows;
    if (i > 0) {
        band.dtype = shape->below[i - 1].dtype;
        band.rows = shape->below[i - 1].rows;
    }
    if (i == 0 || band.rows > 0) check_shape(&band);
    return band;
}

size_t phx_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape)
{
    size_t bytes = 0;
    for (int i = 0; i < PHX_MAX_BANDS; i++) {
        struct phx_weight_shape band = band_shape(shape, i);
        if (i == 0 || band.rows > 0) bytes += device->backend->weight_bytes(device, &band);
    }
    return bytes;
}

enum phx_status phx_weight_create(struct phx_device *device, const struct phx_weight_shape *shape,
                                  struct phx_weight **out)
{
    struct phx_weight_shape first = band_shape(shape, 0);
    if (first.rows == shape->rows) return device->backend->weight_create(device, &first, out);
    struct phx_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a weight's handle");
    weight->device = device;
    weight->shape = *shape;
    for (int i = 0; i < PHX_MAX_BANDS; i++) {
        struct phx_weight_shape band = band_shape(shape, i);
        if (band.rows == 0) continue;
        enum phx_status status =
            device->backend->weight_create(device, &band, &weight->bands[weight->n_bands]);
        if (status != PHX_OK) {
            phx_weight_destroy(weight);
            return status;
        }
        weight->n_bands++;
    }
    *out = weight;
    return PHX_OK;
}

void phx_weight_destroy(struct phx_weight *weight)
{
    if (weight == NULL) return;
    const struct phx_backend *backend = weight->device->backend;
    for (int i = 0; i < weight->n_bands; i++) backend->weight_destroy(weight->bands[i]);
    if (weight->n_bands > 0)
        free(weight);
    else
        backend->weight_destroy(weight);
}

struct phx_weight_shape phx_weight_shape(const struct phx_weight *weight)
{
    return weight->shape;
}

/* The part of rows [*row, *row + rows) that lies in the weight's piece that holds row *row: a
 * weight of one type. *row becomes the row in it. */
static struct phx_weight *piece_at(const struct phx_weight *weight, int64_t *row, int64_t *rows)
{
    struct phx_weight *piece = (struct phx_weight *)weight;
    for (int i = 0; i < weight->n_bands; i++) {
        piece = weight->bands[i];
        if (*row < piece->shape.rows) break;
        *row -= piece->shape.rows;
    }
    if (*rows > piece->shape.rows - *row) *rows = piece->shape.rows - *row;
    return piece;
}

static void check_source(const struct phx_weight_shape *shape, enum phx_dtype dtype)
{
    const struct phx_dtype_traits *traits = phx_dtype_traits(dtype);
    PHX_ASSERT(traits->is_weight);
    if (dtype == shape->dtype) return;
    PHX_ASSERT(phx_dtype_traits(shape->dtype)->is_float);
    PHX_ASSERT(shape->cols % traits->block_elements == 0);
}

enum phx_status phx_weight_write(struct phx_stream *stream, struct phx_weight *weight, int64_t row,
                                 int64_t rows, enum phx_dtype from_dtype, const void *from,
                                 size_t from_pitch_bytes)
{
    check_rows(stream, weight, row, rows);
    for (int64_t done = 0; done < rows;) {
        int64_t at = row + done, n = rows - done;
        struct phx_weight *piece = piece_at(weight, &at, &n);
        check_source(&piece->shape, from_dtype);
        PHX_TRY(piece->device->backend->weight_write(
            stream, piece, at, n, from_dtype, (const char *)from + (size_t)done * from_pitch_bytes,
            from_pitch_bytes));
        done += n;
    }
    return PHX_OK;
}

enum phx_status phx_weight_write_dummy(struct phx_stream *stream, struct phx_weight *weight,
                                       int64_t row, int64_t rows, const struct phx_dummy *dummy,
                                       int64_t global_row, int64_t global_col)
{
    check_rows(stream, weight, row, rows);
    PHX_ASSERT(global_row >= 0 && global_col >= 0);
    for (int64_t done = 0; done < rows;) {
        int64_t at = row + done, n = rows - done;
        struct phx_weight *piece = piece_at(weight, &at, &n);
        PHX_ASSERT(phx_dtype_traits(piece->shape.dtype)->is_float);
        PHX_TRY(piece->device->backend->weight_write_dummy(stream, piece, at, n, dummy,
                                                           global_row + done, global_col));
        done += n;
    }
    return PHX_OK;
}

enum phx_status phx_weight_read(struct phx_stream *stream, const struct phx_weight *weight,
                                int64_t row, int64_t rows, float *to)
{
    check_rows(stream, weight, row, rows);
    for (int64_t done = 0; done < rows;) {
        int64_t at = row + done, n = rows - done;
        struct phx_weight *piece = piece_at(weight, &at, &n);
        PHX_TRY(piece->device->backend->weight_read(stream, piece, at, n,
                                                    to + done * weight->shape.cols));
        done += n;
    }
    return PHX_OK;
}
