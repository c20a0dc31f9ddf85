/// \file attention.cuh
/// What the attention kernels share: arguments, and which keys a set of queries can see.
#ifndef PHX_KERNELS_CUDA_ATTENTION_CUH
#define PHX_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/layout.cuh"

#ifdef PHX_TAPPED
#define PHX_ATTENTION(name) name##_tapped

/// struct phx_attention_tap as kernels see it.
struct tap_view {
    const int32_t *rows;
    struct phx_attention_used *used;
    char *reads;
    float *scores, *weights, *maxima, *sums;
    int64_t reads_stride, scores_stride, weights_stride, maxima_stride, sums_stride;
    int32_t element_bytes; ///< of K and V
};
#else
#define PHX_ATTENTION(name) name
#endif

/// A query is one head of one row. The queries of a sequence that read the same KV head are
/// numbered row by row: query i is head i % group of row i / group.
struct attention_args {
    const void *q; ///< act [N, Hq D]
    int64_t q_stride;
    const void *k, *v; ///< [page][kv head][64][D]
    void *out;         ///< act [N, Hq D]
    int64_t out_stride;
    float *lse; ///< [N, Hq] or NULL
    int64_t lse_stride;
    enum phx_dtype act;
    int32_t n_heads, n_kv_heads, group, head_dim;
    int32_t window;
    float scale, soft_cap;
    bool in_words;    ///< keys and values lie at multiples of 16 bytes
    int32_t n_stages; ///< 1 or 2: tiles of keys and values in shared memory
    float *partial;   ///< shares of sequences, [workers + S][Hq][share_pitch]
    int64_t share_pitch;
    unsigned *tickets; ///< [S][kv heads][tiles]: shares of a sequence that are complete; 0 between
    int32_t n_workers; ///< at most, for each KV head
    struct layout_view layout;
#ifdef PHX_TAPPED
    struct tap_view tap;
#endif
};

/// The keys that rows at positions lowest..highest of a sequence can see lie in blocks [begin,
/// end).
struct block_range {
    int32_t begin, end;
};

__device__ inline block_range visible_blocks(const attention_args &a, int32_t length,
                                             int32_t lowest, int32_t highest)
{
    if (a.layout.page_position != NULL)
        return {0, (length + PHX_PAGE_TOKENS - 1) / PHX_PAGE_TOKENS};
    const int32_t last = min(length, highest + 1);
    const int32_t first = a.window > 0 ? max(lowest - a.window + 1, 0) : 0;
    if (first >= last) return {0, 0};
    return {first / PHX_PAGE_TOKENS, (last - 1) / PHX_PAGE_TOKENS + 1};
}

/// A tile of queries of a sequence, and what bounds the keys that they see.
struct attention_task {
    int32_t seq, slot, length;
    int32_t kv_head;
    int32_t first, n;        ///< queries of the sequence
    int32_t lowest, highest; ///< positions among them
};

/// The row of the pages where a key of a page lies.
__device__ inline int64_t key_row(const attention_args &a, const attention_task &t, int64_t page,
                                  int32_t key)
{
    return (page * a.n_kv_heads + t.kv_head) * PHX_PAGE_TOKENS + key;
}

/// Keys [begin, end) of a tile are seen by some query; with the position of its first key.
struct key_window {
    int32_t begin, end, position;
};

/// Tile `tile` of a sequence's keys, KEYS of them.
template <int KEYS>
__device__ inline key_window seen_keys(const attention_args &a, const attention_task &t,
                                       int32_t tile)
{
    constexpr int TILES = PHX_PAGE_TOKENS / KEYS;
    key_window w;
    w.position = block_position(a.layout, t.slot, tile / TILES) + tile % TILES * KEYS;
    w.begin = a.window > 0 ? max(t.lowest - a.window + 1 - w.position, 0) : 0;
    w.end = min(min(t.highest + 1 - w.position, t.length - tile * KEYS), KEYS);
    return w;
}

/// The first tile from `tile` on that is on this rank and seen; `end` if there is none.
template <int KEYS>
__device__ inline int32_t next_tile(const attention_args &a, const attention_task &t, int32_t tile,
                                    int32_t end)
{
    for (; tile < end; tile++) {
        const key_window w = seen_keys<KEYS>(a, t, tile);
        if (w.begin < w.end && page_of(a.layout, t.slot, tile * KEYS / PHX_PAGE_TOKENS) >= 0) break;
    }
    return tile;
}

__device__ inline float soft_capped(float s, float cap)
{
    return cap > 0 ? cap * tanhf(s / cap) : s;
}

/// On tensor cores, for what fits them (fits_mma in attention.cu): sequences with several rows
/// (attention_mma.cu), and those with one (attention_decode.cu).
enum phx_status PHX_ATTENTION(phx_cuda_attention_mma)(struct phx_stream *stream,
                                                      const struct attention_args &args,
                                                      enum phx_dtype kv, int32_t max_seq_rows);
enum phx_status PHX_ATTENTION(phx_cuda_attention_decode)(struct phx_stream *stream,
                                                         const struct attention_args &args,
                                                         enum phx_dtype kv);

#endif
