/// \file planted_attention.cuh
/// The faults of the CUDA attention kernels, for attention_args with a member `fault`: what
/// plant_cuda.cmake calls in the places that it edits.
#ifndef PHX_TESTS_FAULTS_PLANTED_ATTENTION_CUH
#define PHX_TESTS_FAULTS_PLANTED_ATTENTION_CUH

/// The i-th query head that reads a KV head.
__device__ inline int32_t planted_head(const attention_args &a, int32_t kv_head, int32_t i)
{
    return a.fault == FAULT_Q_MODULO_K ? kv_head + a.n_kv_heads * i : kv_head * a.group + i;
}

/// The row of the pages where a key lies.
__device__ inline int64_t planted_row(const attention_args &a, int64_t page, int32_t kv_head,
                                      int32_t key)
{
    if (a.fault == FAULT_STRIDES_SWAPPED)
        return (page * PHX_PAGE_TOKENS + key) * a.n_kv_heads + kv_head;
    const int32_t apart = a.fault == FAULT_KV_HEAD_STRIDE ? a.n_heads : PHX_PAGE_TOKENS;
    return page * a.n_kv_heads * PHX_PAGE_TOKENS + kv_head * apart + key;
}

/// Rows from one key to the next.
__device__ inline int32_t planted_step(const attention_args &a)
{
    return a.fault == FAULT_STRIDES_SWAPPED ? a.n_kv_heads : 1;
}

/// Where a row of the pages lies in the tensors that bulk copies see, whose rows are planted_step()
/// of those; negative: outside, as it was.
__device__ inline int32_t planted_map_row(const attention_args &a, int32_t row)
{
    return row < 0 ? row : row / planted_step(a);
}

__device__ inline int32_t planted_map_column(const attention_args &a, int32_t row)
{
    return row < 0 ? 0 : row % planted_step(a) * a.head_dim;
}

/// Rows from where a KV head's keys are read to where its values are.
__device__ inline int64_t planted_v(const attention_args &a, int32_t kv_head)
{
    if (a.fault != FAULT_V_OF_NEIGHBOUR) return 0;
    return ((kv_head + 1) % a.n_kv_heads - kv_head) * PHX_PAGE_TOKENS;
}

/// The row of the block table that a sequence uses. Sequences without one are padding.
__device__ inline int32_t planted_slot(const attention_args &a, int32_t seq)
{
    const layout_view &l = a.layout;
    if (a.fault != FAULT_BLOCK_TABLE_ROW || l.seq_slot[seq] < 0) return l.seq_slot[seq];
    int32_t other = seq;
    do other = (other + 1) % l.n_seqs;
    while (l.seq_slot[other] < 0);
    return l.seq_slot[other];
}

/// Whether a row at position `own` sees all of the block of keys from `first` on.
__device__ inline bool planted_tail(const attention_args &a, int32_t first, int32_t own)
{
    return a.fault == FAULT_TAIL && own >= first && own - first < PHX_PAGE_TOKENS;
}

__device__ inline float planted_scale(const attention_args &a)
{
    if (a.fault == FAULT_SCALE_MISSING) return 1;
    return a.fault == FAULT_SCALE_TWICE ? a.scale * a.scale : a.scale;
}

#endif
