/// \file layout.cuh
/// A step's layout and the KV pages as kernels see them.
#ifndef PHX_KERNELS_CUDA_LAYOUT_CUH
#define PHX_KERNELS_CUDA_LAYOUT_CUH

#include "kernels/cuda/types.cuh"

struct layout_view {
    int32_t n_rows, n_seqs;
    const int32_t *positions, *row_seq, *seq_rows, *seq_slot, *seq_length;
    const int32_t *block_table, *page_position; /* [B, blocks]; the latter may be NULL */
    int64_t table_stride, position_stride;
};

static inline struct layout_view view_of(const struct phx_step_layout *l)
{
    return {l->n_rows,
            l->n_seqs,
            address_of<const int32_t>(l->positions),
            address_of<const int32_t>(l->row_seq),
            address_of<const int32_t>(l->seq_rows),
            address_of<const int32_t>(l->seq_slot),
            address_of<const int32_t>(l->seq_length),
            address_of<const int32_t>(l->block_table),
            address_of<const int32_t>(l->page_position),
            l->block_table.stride,
            l->page_position.stride};
}

/// What a kernel that works on row `row`, most often of the sequence with that number, asks for
/// first.
__device__ inline void prefetch_layout(const layout_view &l, int64_t row)
{
    prefetch(l.positions + row);
    prefetch(l.row_seq + row);
    if (row >= l.n_seqs) return;
    prefetch(l.seq_rows + row);
    prefetch(l.seq_slot + row);
    prefetch(l.seq_length + row);
}

/// Position of the first key of a slot's block.
__device__ inline int32_t block_position(const layout_view &l, int32_t slot, int32_t block)
{
    return l.page_position != NULL ? l.page_position[slot * l.position_stride + block]
                                   : block * PHX_PAGE_TOKENS;
}

__device__ inline int32_t page_of(const layout_view &l, int32_t slot, int32_t block)
{
    return l.block_table[slot * l.table_stride + block];
}

#endif
