/// \file comm_table.h
/// What the two programs that measure sums between ranks share: nccl-tests' options for sizes, and
/// its table.
#ifndef PHX_BENCH_COMM_TABLE_H
#define PHX_BENCH_COMM_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/// Sizes in bytes: smallest, then times factor, at most largest.
struct comm_sizes {
    size_t smallest, largest;
    int factor;
};

/// -b MIN -e MAX -f FACTOR, sizes as 8, 64K, 4M or 1G; `sizes` holds the defaults. PHX_USAGE with a
/// sentence.
enum phx_status comm_sizes_parse(int argc, char **argv, struct comm_sizes *sizes);

/// The lines above a table; `more`: a column in microseconds behind the others.
void comm_table_head(const char *name, const char *more);
/// algbw = bytes / time; busbw = algbw 2 (T - 1) / T, what each rank must send at least.
void comm_table_row(size_t bytes, size_t element_bytes, const char *type, int size, double us,
                    int64_t n_wrong, double more_us);

#endif
