/// \file op_run.h
/// One run of one op on any device: operands with guard zones, comparison with expected values,
/// timing. What op cases are made of.
#ifndef PHX_TESTS_SUPPORT_OP_RUN_H
#define PHX_TESTS_SUPPORT_OP_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

struct op_result {
    double error;      ///< largest |got - expected| over the range of the expected values
    double nmse;       ///< mean squared error over the mean square of the expected values
    double seconds;    ///< a launch, if timed
    uint64_t hash;     ///< of all bytes that were compared
    char failure[256]; ///< "" if all is right
};

/// A matrix on the device. Around it, and between its rows, lie bytes of a pattern.
struct operand {
    struct phx_tensor view;
    struct phx_buffer *buffer;
    unsigned char *image; ///< the whole buffer as it was uploaded
    double *values;       ///< [rows * cols] as they are in the view's type
};

struct op_run {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_device_info info;
    uint64_t random;
    int n_operands;
    struct operand operands[32];
    struct phx_weight *weight;
    struct op_result *result;
    bool recorded; ///< op_launch_once replays a graph
};

void op_run_open(struct op_run *run, struct phx_device *device, const struct phx_limits *limits,
                 uint64_t seed, struct op_result *result);
/// Checks that every byte outside the views is as it was, and frees everything.
void op_run_close(struct op_run *run);

/// The first failure stays.
void op_fail(struct op_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

double op_uniform(struct op_run *run);           ///< in [0, 1)
int64_t op_below(struct op_run *run, int64_t n); ///< in 0..n-1
double op_normal(struct op_run *run);
/// A shuffled 0..n-1; free() it.
int32_t *op_shuffled(struct op_run *run, int32_t n);

/// An operand with these values, rounded to the type. `gap` elements lie between rows.
struct operand *op_values(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                          int64_t gap, const double *values);
struct operand *op_ints(struct op_run *run, int64_t rows, int64_t cols, const int32_t *values);
/// Normal values with this mean and deviation, whose own mean and variance are checked.
struct operand *op_random(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                          int64_t gap, double mean, double deviation);
/// All bytes are the pattern.
struct operand *op_output(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                          int64_t gap);
/// Rows of `bytes` raw bytes each; without `from` the pattern.
struct operand *op_bytes(struct op_run *run, int64_t rows, int64_t bytes, const void *from);
/// The run's weight, random; its values as the device has them, [rows * cols], free() them.
double *op_weight(struct op_run *run, enum phx_dtype dtype, int64_t rows, int64_t cols,
                  double deviation);
/// The same of a shape, whose `lead` counts; of a quantised type.
double *op_weight_of_blocks(struct op_run *run, const struct phx_weight_shape *shape,
                            double deviation);

/// The operand's content now; free() it.
double *op_download(struct op_run *run, const struct operand *operand);
void op_download_bytes(struct op_run *run, const struct operand *operand, void *to);

/// Compares the operand's content with `expected` [rows * cols], where NaN stands for anything.
/// Infinities must agree. Adds to the result; fails above `tolerance`.
void op_compare(struct op_run *run, const char *what, const struct operand *operand,
                const double *expected, double tolerance);
/// The operand's content, gaps included, is still what was uploaded.
void op_unchanged(struct op_run *run, const char *what, const struct operand *operand);
/// The same of a row alone, without the gap.
void op_row_unchanged(struct op_run *run, const char *what, const struct operand *operand,
                      int64_t row);

/// A launch of an op, and of as many more as are to be timed once its result has been compared. A
/// recorded run launches it, records it and replays the graph, on the operands as they are and with
/// other numbers in those of a float type: bit by bit what the launch itself gives.
typedef enum phx_status op_launch(struct phx_stream *stream, const void *args);
void op_launch_once(struct op_run *run, op_launch *launch, const void *args);
void op_launch_timed(struct op_run *run, op_launch *launch, const void *args, int n);

void *op_alloc(int64_t n, size_t bytes); ///< zeroed, never NULL

#endif
