/// \file attention_wgmma_load.cuh
/// How keys and values come to shared memory: see attention_wgmma.cu.
#ifndef PHX_KERNELS_CUDA_ATTENTION_WGMMA_LOAD_CUH
#define PHX_KERNELS_CUDA_ATTENTION_WGMMA_LOAD_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    CONSUMERS = 2, /* warpgroups */
    GROUP_QUERIES = 64,
    QUERIES = CONSUMERS * GROUP_QUERIES,
    THREADS = (CONSUMERS + 1) * 128,
    PAGES = 2, /* of a tile */
    KEYS = PAGES * PHX_PAGE_TOKENS,
    STAGES = 2,
    ROW_BYTES = 128, /* 64 values */
    PAGE_BYTES = PHX_PAGE_TOKENS * ROW_BYTES,
    KEYS_BYTES = KEYS * ROW_BYTES,
    QUERIES_BYTES = GROUP_QUERIES * ROW_BYTES,
    SWIZZLE_BYTES = 1024, /* eight rows */
};

template <int DIM> struct shared_layout {
    static constexpr int PARTS = DIM / 64;
    static constexpr int TILE = PARTS * KEYS_BYTES, GROUP = PARTS * QUERIES_BYTES;
    static constexpr int K = CONSUMERS * GROUP, V = K + STAGES * TILE;
    static constexpr int BYTES = V + STAGES * TILE + SWIZZLE_BYTES; /* with room to align */
};

struct tensor_maps {
    CUtensorMap k, v;
};

/* The blocks of a tile; `n_keys` 0: none. */
struct tile_blocks {
    int32_t n, block[PAGES], position[PAGES], n_keys[PAGES];
};

struct shared_control {
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    tile_blocks tiles[STAGES]; /* with the keys; n 0: no more */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* 16-byte chunk `chunk` of a row. */
static __device__ int chunk_offset(int row, int chunk, int part_bytes)
{
    return chunk / 8 * part_bytes + row * ROW_BYTES + (chunk % 8 ^ row % 8) * 16;
}

/* The values of a page that has keys which nobody of the sequence sees: they may hold anything,
 * and a weight of 0 does not undo a NaN, so zeros instead. */
template <int DIM>
__device__ void copy_seen(const attention_args &a, int64_t row, const key_window &w, char *to)
{
    constexpr int EACH = DIM / 8;
    const uint4 *from = (const uint4 *)a.v + row * EACH;
    for (int i = threadIdx.x % 32; i < PHX_PAGE_TOKENS * EACH; i += 32) {
        const int r = i / EACH;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (r >= w.begin && r < w.end) value = from[i];
        *(uint4 *)(to + chunk_offset(r, i % EACH, KEYS_BYTES)) = value;
    }
    publish_shared();
    __syncwarp();
}

template <int DIM>
__device__ void copy_tile(const CUtensorMap *map, int32_t row, char *to, uint64_t *barrier)
{
#pragma unroll
    for (int part = 0; part < DIM / 64; part++)
        copy_page(map, part * 64, row, to + part * KEYS_BYTES, barrier);
}

/* The next blocks of the task from `from` on. */
static __device__ tile_blocks find_tile(const attention_args &a, const attention_task &t,
                                        int32_t from, int32_t end)
{
    tile_blocks tile = {};
#pragma unroll
    for (int i = 0; i < PAGES; i++) {
        const int32_t block = next_tile<PHX_PAGE_TOKENS>(a, t, from, end);
        from = block + 1;
        tile.block[i] = block;
        if (block >= end) continue;
        tile.position[i] = block_position(a.layout, t.slot, block);
        tile.n_keys[i] = min(t.length - block * PHX_PAGE_TOKENS, (int32_t)PHX_PAGE_TOKENS);
        tile.n = i + 1;
    }
    return tile;
}

template <int DIM>
__device__ void produce(const attention_args &a, const attention_task &t, const tensor_maps &maps,
                        shared_control &c, char *shared)
{
    using layout = shared_layout<DIM>;
    const bool leads = threadIdx.x % 32 == 0;
    const block_range blocks = visible_blocks(a, t.length, t.lowest, t.highest);
    attention_task all = t; /* rows of the sequence: positions never fall from row to row */
    all.lowest = a.layout.positions[a.layout.seq_rows[t.seq]];
    all.highest = a.layout.positions[a.layout.seq_rows[t.seq + 1] - 1];
    int32_t from = blocks.begin;
    for (int i = 0;; i++) {
        const int stage = i % STAGES, parity = i / STAGES % 2;
        const tile_blocks tile = find_tile(a, t, from, blocks.end);
        from = tile.block[PAGES - 1] + 1;
        int32_t row[PAGES];
#pragma unroll
        for (int p = 0; p < PAGES; p++)
            row[p] = p < tile.n
                         ? (int32_t)key_row(a, t, page_of(a.layout, t.slot, tile.block[p]), 0)
                         : -PHX_PAGE_TOKENS;
        await(&c.k_empty[stage], parity ^ 1);
        if (leads) {
            c.tiles[stage] = tile;
            arrive_expecting(&c.k_full[stage], tile.n > 0 ? layout::TILE : 0);
        }
        if (tile.n == 0) return;
        char *k = shared + layout::K + stage * layout::TILE;
        char *v = shared + layout::V + stage * layout::TILE;
        for (int p = 0; p < PAGES && leads; p++)
            copy_tile<DIM>(&maps.k, row[p], k + p * PAGE_BYTES, &c.k_full[stage]);

        await(&c.v_empty[stage], parity ^ 1);
        int bytes = layout::TILE;
        bool whole[PAGES];
#pragma unroll
        for (int p = 0; p < PAGES; p++) {
            whole[p] = true;
            if (p >= tile.n) continue;
            const key_window w = seen_keys<PHX_PAGE_TOKENS>(a, all, tile.block[p]);
            whole[p] = w.begin == 0 && w.end == PHX_PAGE_TOKENS;
            if (whole[p]) continue;
            copy_seen<DIM>(a, row[p], w, v + p * PAGE_BYTES);
            bytes -= layout::TILE / PAGES;
        }
        if (leads) arrive_expecting(&c.v_full[stage], bytes);
        for (int p = 0; p < PAGES && leads; p++)
            if (whole[p]) copy_tile<DIM>(&maps.v, row[p], v + p * PAGE_BYTES, &c.v_full[stage]);
    }
}

#endif

#endif
