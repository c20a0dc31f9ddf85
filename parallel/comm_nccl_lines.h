/// \file comm_nccl_lines.h
/// The low-latency exchange of comm_nccl_fused.cu: what lies where, and why nothing is mistaken.
/// No CUDA here: tests follow the same rules with threads.
///
/// Sums are numbered by epochs. In a sum every rank writes its data into the memory of every other
/// rank (its window), in lines: 8 bytes of data in two halves, beside each half a flag that is the
/// epoch. Who has written a half wrote its flag in the same store, so the reader, who looks at its
/// own window until all flags are right, needs no barrier and no fence.
///
/// A window is [parity of the epoch][rank that writes][capacity] lines. When rank r writes into
/// rank p's window in epoch e, p may no longer read there what r wrote in e - 2. It does not:
///   - r begins e when its own e - 1 is complete, which took data from p, of p's e - 1;
///   - p sends these after its e - 2 is complete: all it had to read of e - 2 has been read.
/// So no rank is ahead of another by more than one epoch, and two parities are enough. It takes
/// that every sum moves at least a line between any two ranks, and that a rank's sums follow each
/// other in one stream.
///
/// A flag of old content is never that of the epoch awaited: epochs only repeat after 2^32, and
/// before that, in the last two, each rank clears all its lines: of each parity after it has read
/// them, that is before anybody may write them again.
#ifndef PHX_PARALLEL_COMM_NCCL_LINES_H
#define PHX_PARALLEL_COMM_NCCL_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define PHX_LINES_INLINE __host__ __device__ static inline
#else
#define PHX_LINES_INLINE static inline
#endif

enum {
    PHX_LINE_BYTES = 16,
    PHX_LINE_DATA_BYTES = 8,
    PHX_LINES_MAX_RANKS = 8,
};

/// Zeroed memory is a window, and epoch 0 the one before the first.
PHX_LINES_INLINE uint32_t phx_lines_next_epoch(uint32_t epoch)
{
    return epoch == UINT32_MAX ? 2 : epoch + 1; /* parities go on alternating */
}

PHX_LINES_INLINE bool phx_lines_must_clear(uint32_t epoch)
{
    return epoch >= UINT32_MAX - 1;
}

/// Where the lines of rank `writer` begin in a window.
PHX_LINES_INLINE int64_t phx_lines_begin(uint32_t epoch, int writer, int n_ranks, int64_t capacity)
{
    return ((int64_t)(epoch & 1) * n_ranks + writer) * capacity;
}

/// Lines of `rows` rows; each begins with a line of its own.
PHX_LINES_INLINE int64_t phx_lines_count(int64_t rows, int64_t cols, size_t value_bytes)
{
    const int64_t values = PHX_LINE_DATA_BYTES / (int64_t)value_bytes;
    return rows * ((cols + values - 1) / values);
}

PHX_LINES_INLINE size_t phx_lines_window_bytes(int n_ranks, int64_t capacity)
{
    return (size_t)2 * (size_t)n_ranks * (size_t)capacity * PHX_LINE_BYTES;
}

#endif
