/// \file access.h
/// Reading arguments on the host, where a CPU device's memory is. Only kernels/cpu includes this.
#ifndef PHX_KERNELS_CPU_ACCESS_H
#define PHX_KERNELS_CPU_ACCESS_H

#include "kernels/base/check.h"
#include "kernels/ops.h"

static inline int32_t phx_i32_at(struct phx_tensor t, int64_t row, int64_t col)
{
    return ((const int32_t *)phx_tensor_address(t))[row * t.stride + col];
}

/// Entry `row` of an i32 list, to be written.
static inline int32_t *phx_i32_entry(struct phx_tensor list, int64_t row)
{
    return (int32_t *)phx_tensor_address(list) + row * list.stride;
}

/// Row `row` of an f32 matrix; NULL if the matrix is absent.
static inline float *phx_f32_row(struct phx_tensor t, int64_t row)
{
    return phx_tensor_present(t) ? (float *)phx_tensor_address(t) + row * t.stride : NULL;
}

/// Token n of a list whose negative entries stand for the newest token of slot -1 - ids[n].
static inline int32_t phx_token_at(struct phx_tensor ids, struct phx_tensor last_ids, int64_t n)
{
    const int32_t id = phx_i32_at(ids, n, 0);
    if (id >= 0) return id;
    PHX_ASSERT(phx_tensor_present(last_ids) && -1 - (int64_t)id < last_ids.rows);
    return phx_i32_at(last_ids, -1 - (int64_t)id, 0);
}

static inline const struct phx_sampling *phx_sampling_at(struct phx_tensor params, int64_t slot)
{
    PHX_ASSERT(slot >= 0 && slot < params.rows);
    return (const struct phx_sampling *)((const char *)phx_tensor_address(params) +
                                         slot * params.stride);
}

static inline struct phx_candidate *phx_candidates_row(struct phx_tensor records, int64_t row)
{
    return (struct phx_candidate *)((char *)phx_tensor_address(records) + row * records.stride);
}

/// Position of the first key of a slot's block.
static inline int64_t phx_block_position(const struct phx_step_layout *layout, int32_t slot,
                                         int64_t block)
{
    return phx_tensor_present(layout->page_position)
               ? phx_i32_at(layout->page_position, slot, block)
               : block * PHX_PAGE_TOKENS;
}

#endif
