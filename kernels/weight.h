/// \file weight.h
/// A matrix that products multiply by: y = W x, W of rows (outputs) x cols (inputs).
///
/// Stored in its own type, in a layout private to the backend, and built from rectangles of rows:
/// a fused weight (q, k, v; gate, up) is several rectangles, one below the other.
#ifndef PHX_KERNELS_WEIGHT_H
#define PHX_KERNELS_WEIGHT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/base/random.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_weight;

enum { PHX_MAX_BANDS = 3 };

struct phx_weight_band {
    enum phx_dtype dtype;
    int64_t rows;
};

struct phx_weight_shape {
    enum phx_dtype dtype; ///< one that weights may have (phx_dtype_traits)
    int64_t rows, cols;
    /// A quantised type: columns of the first block before column 0. They, and those of the last
    /// block past the last column, are stored and multiplied by nothing.
    int64_t lead;
    /// The last rows may have other types, from above to below: rows 0: not so. Only phx_op_linear
    /// takes such a weight.
    struct phx_weight_band below[PHX_MAX_BANDS - 1];
};

/// Columns that are stored: whole blocks.
static inline int64_t phx_weight_stored_cols(const struct phx_weight_shape *shape)
{
    int64_t block = phx_dtype_traits(shape->dtype)->block_elements;
    return (shape->lead + shape->cols + block - 1) / block * block;
}

/// Device bytes that a weight of this shape takes, padding and scales included.
size_t phx_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape);

/// Zeroed.
enum phx_status phx_weight_create(struct phx_device *device, const struct phx_weight_shape *shape,
                                  struct phx_weight **out);
void phx_weight_destroy(struct phx_weight *weight);
struct phx_weight_shape phx_weight_shape(const struct phx_weight *weight);

/// Rows [row, row + rows) from host memory, all columns, `from_dtype` converted to the weight's
/// type where they differ: to a plain one, of whole blocks without lead. `from` is what holds the
/// row's first column: of a quantised type the block. Consecutive source rows are from_pitch_bytes
/// apart. `from` need not be aligned to its type (files align nothing), and may be reused on
/// return.
enum phx_status phx_weight_write(struct phx_stream *stream, struct phx_weight *weight, int64_t row,
                                 int64_t rows, enum phx_dtype from_dtype, const void *from,
                                 size_t from_pitch_bytes);

/// Rows [row, row + rows) of a plain type made by the rule of phx_dummy, whose global index of
/// (row, 0) is (global_row, global_col).
enum phx_status phx_weight_write_dummy(struct phx_stream *stream, struct phx_weight *weight,
                                       int64_t row, int64_t rows, const struct phx_dummy *dummy,
                                       int64_t global_row, int64_t global_col);

/// Row-major values back as f32, for tests and the audit: to[rows][cols], no gaps.
enum phx_status phx_weight_read(struct phx_stream *stream, const struct phx_weight *weight,
                                int64_t row, int64_t rows, float *to);

#ifdef __cplusplus
}
#endif
#endif
