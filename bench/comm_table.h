/// \file comm_table.h
/// What the two programs that measure sums between ranks share: nccl-tests' options for sizes, and
/// its table.
#ifndef PHX_BENCH_COMM_TABLE_H
#define PHX_BENCH_COMM_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/// Sizes in bytes: smallest, then times factor, at most largest.
struct comm_sizes {
    size_t smallest, largest;
    int factor;
    bool json; ///< an object a line instead of the table
};

/// -b MIN -e MAX -f FACTOR -j, sizes as 8, 64K, 4M or 1G; `sizes` holds the defaults. PHX_USAGE
/// with a sentence.
enum phx_status comm_sizes_parse(int argc, char **argv, struct comm_sizes *sizes);

/// The lines above a table; `more`: a column in microseconds behind the others.
void comm_table_head(const struct comm_sizes *sizes, const char *name, const char *more);

struct comm_row {
    const char *way, *type; ///< who adds; of what elements
    size_t bytes, element_bytes;
    int size; ///< ranks
    double us;
    int64_t n_wrong;
    double norm_us; ///< with residual and norm; 0: not measured
};
/// algbw = bytes / time; busbw = algbw 2 (T - 1) / T, what each rank must send at least.
void comm_table_row(const struct comm_sizes *sizes, const struct comm_row *row);

#endif
