#include "parallel/comm_nccl_sizes.h"

static const size_t gather_piece_bytes = (size_t)8 << 20;
static const size_t window_granularity = (size_t)2 << 20;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

int64_t phx_nccl_lines_capacity(const struct phx_comm_options *options)
{
    return phx_lines_count(
        1, (int64_t)min_size(options->max_reduce_bytes, phx_nccl_max_fused_bytes), 1);
}

size_t phx_nccl_piece_bytes(const struct phx_comm_options *options)
{
    return min_size(options->max_gather_bytes, gather_piece_bytes);
}

size_t phx_nccl_window_bytes(size_t bytes)
{
    return (bytes + window_granularity - 1) / window_granularity * window_granularity;
}

size_t phx_nccl_bytes(const struct phx_comm_options *options, int size)
{
    const size_t pieces = ((size_t)size + 1) * phx_nccl_piece_bytes(options);
    const bool fuses =
        size > 1 && size <= PHX_LINES_MAX_RANKS &&
        (options->allreduce == PHX_ALLREDUCE_AUTO || options->allreduce == PHX_ALLREDUCE_FUSED);
    const size_t window =
        fuses ? phx_lines_window_bytes(size, phx_nccl_lines_capacity(options)) : 0;
    return pieces + phx_nccl_window_bytes(window) + sizeof(struct phx_fused_state);
}
