/// \file attention_tap.cuh
/// What the attention kernels tell an audit (phx_attention_tap). They call these functions in any
/// case; all of them are empty but in the builds with PHX_TAPPED (attention*_tapped.cu).
#ifndef PHX_KERNELS_CUDA_ATTENTION_TAP_CUH
#define PHX_KERNELS_CUDA_ATTENTION_TAP_CUH

#include "kernels/cuda/attention.cuh"

#ifdef PHX_TAPPED
constexpr bool TAPPED = true;

/// Where query `query` of a task writes; -1: it is not tapped.
__device__ inline int64_t tap_entry(const attention_args &a, const attention_task &t, int32_t query)
{
    if (query >= t.n) return -1;
    const int64_t row = a.layout.seq_rows[t.seq] + (t.first + query) / a.group;
    const int32_t head = t.kv_head * a.group + (t.first + query) % a.group;
    return a.tap.rows[row] < 0 ? -1 : a.tap.rows[row] * (int64_t)a.n_heads + head;
}

/// That a block of keys is read, in rows of `row_bytes`. Of one lane.
__device__ inline void tap_read(const attention_args &a, const attention_task &t, int64_t entry,
                                int32_t block, int64_t row_bytes)
{
    const int64_t page = page_of(a.layout, t.slot, block);
    const int64_t key = key_row(a, t, page, 0) * row_bytes;
    const int64_t next = key_row(a, t, page, 1) * row_bytes;
    struct phx_attention_read *read =
        (struct phx_attention_read *)(a.tap.reads + entry * a.tap.reads_stride) + block;
    read->k = (uint64_t)a.k + key;
    read->v = (uint64_t)a.v + key;
    read->k_next = (uint64_t)a.k + next;
    read->v_next = (uint64_t)a.v + next;
    read->slot = t.slot;
    read->page = (int32_t)page;
    read->kv_head = t.kv_head;
    read->n_keys = min((int32_t)PHX_PAGE_TOKENS, t.length - block * PHX_PAGE_TOKENS);
}

__device__ inline void tap_score(const attention_args &a, int64_t entry, int32_t key, float score)
{
    a.tap.scores[entry * a.tap.scores_stride + key] = score;
}

__device__ inline void tap_weight(const attention_args &a, int64_t entry, int32_t key, float weight,
                                  float max)
{
    a.tap.weights[entry * a.tap.weights_stride + key] = weight;
    a.tap.maxima[entry * a.tap.maxima_stride + key] = max;
}

__device__ inline void tap_sums(const attention_args &a, int64_t row, int32_t head, float max,
                                float sum)
{
    if (a.tap.rows[row] < 0) return;
    const int64_t entry = a.tap.rows[row] * (int64_t)a.n_heads + head;
    a.tap.sums[entry * a.tap.sums_stride] = max;
    a.tap.sums[entry * a.tap.sums_stride + 1] = sum;
}

/// Of one thread of a call.
__device__ inline void tap_call(const attention_args &a)
{
    *a.tap.used = {a.n_heads, a.n_kv_heads,        a.head_dim, a.group,
                   a.window,  a.tap.element_bytes, a.scale,    a.soft_cap};
}

static inline void set_tap(attention_args *a, const struct phx_attention *args)
{
    const struct phx_attention_tap *tap = args->tap;
    a->tap = {address_of<const int32_t>(tap->rows),
              address_of<struct phx_attention_used>(tap->used),
              address_of<char>(tap->reads),
              address_of<float>(tap->scores),
              address_of<float>(tap->weights),
              address_of<float>(tap->maxima),
              address_of<float>(tap->sums),
              tap->reads.stride,
              tap->scores.stride,
              tap->weights.stride,
              tap->maxima.stride,
              tap->sums.stride,
              (int32_t)phx_dtype_bytes(args->kv.k.dtype, 1)};
}
#else
constexpr bool TAPPED = false;

__device__ inline int64_t tap_entry(const attention_args &, const attention_task &, int32_t)
{
    return -1;
}

__device__ inline void tap_read(const attention_args &, const attention_task &, int64_t, int32_t,
                                int64_t)
{
}

__device__ inline void tap_score(const attention_args &, int64_t, int32_t, float)
{
}

__device__ inline void tap_weight(const attention_args &, int64_t, int32_t, float, float)
{
}

__device__ inline void tap_sums(const attention_args &, int64_t, int32_t, float, float)
{
}

__device__ inline void tap_call(const attention_args &)
{
}

static inline void set_tap(attention_args *, const struct phx_attention *)
{
}
#endif

#endif
