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

struct phx_weight_shape {
    enum phx_dtype dtype; ///< a float type (phx_dtype_traits)
    int64_t rows, cols;
};

/// Device bytes that a weight of this shape takes, padding and scales included.
size_t phx_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape);

/// Zeroed.
enum phx_status phx_weight_create(struct phx_device *device, const struct phx_weight_shape *shape,
                                  struct phx_weight **out);
void phx_weight_destroy(struct phx_weight *weight);
struct phx_weight_shape phx_weight_shape(const struct phx_weight *weight);

/// Rows [row, row + rows) from host memory, all columns, `from_dtype` converted to the weight's
/// type where they differ; consecutive source rows are from_pitch_bytes apart. `from` need not be
/// aligned to its type (files align nothing), and may be reused on return.
enum phx_status phx_weight_write(struct phx_stream *stream, struct phx_weight *weight, int64_t row,
                                 int64_t rows, enum phx_dtype from_dtype, const void *from,
                                 size_t from_pitch_bytes);

/// Rows [row, row + rows) made by the rule of phx_dummy, whose global index of (row, 0) is
/// (global_row, global_col).
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
