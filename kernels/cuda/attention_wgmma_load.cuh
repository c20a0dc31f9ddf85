/// \file attention_wgmma_load.cuh
/// How keys and values come to shared memory: see attention_wgmma.cu.
#ifndef PHX_KERNELS_CUDA_ATTENTION_WGMMA_LOAD_CUH
#define PHX_KERNELS_CUDA_ATTENTION_WGMMA_LOAD_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    CONSUMERS = 3, /* warpgroups */
    GROUP_QUERIES = 64,
    QUERIES = CONSUMERS * GROUP_QUERIES,
    THREADS = (CONSUMERS + 1) * 128,
    PAGES = 1, /* of a tile */
    KEYS = PAGES * PHX_PAGE_TOKENS,
    STAGES = 4,
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

/* A ring of stages: number i of what passes through is in `stage`, in its turn of that parity. */
struct ring_place {
    int stage, parity;
};

static __device__ void advance(ring_place &r)
{
    r.stage++;
    if (r.stage < STAGES) return;
    r.stage = 0;
    r.parity ^= 1;
}

/* The row of the pages where a tile's page begins; outside, for what the tile does not have. */
static __device__ int32_t page_row(const attention_args &a, const attention_task &t,
                                   const tile_blocks &tile, int p)
{
    if (p >= tile.n) return -PHX_PAGE_TOKENS;
    return (int32_t)key_row(a, t, page_of(a.layout, t.slot, tile.block[p]), 0);
}

template <int DIM>
__device__ void load_keys(const attention_args &a, const attention_task &t, const tile_blocks &tile,
                          const CUtensorMap *map, shared_control &c, ring_place r, char *to)
{
    constexpr int BYTES = shared_layout<DIM>::TILE;
    await(&c.k_empty[r.stage], r.parity ^ 1);
    if (threadIdx.x % 32 != 0) return;
    c.tiles[r.stage] = tile;
    arrive_expecting(&c.k_full[r.stage], tile.n > 0 ? BYTES : 0);
    for (int p = 0; p < PAGES && tile.n > 0; p++)
        copy_tile<DIM>(map, page_row(a, t, tile, p), to + r.stage * BYTES + p * PAGE_BYTES,
                       &c.k_full[r.stage]);
}

/* `all`: of the rows of the whole sequence. */
template <int DIM>
__device__ void load_values(const attention_args &a, const attention_task &t,
                            const attention_task &all, const tile_blocks &tile,
                            const CUtensorMap *map, shared_control &c, ring_place r, char *to)
{
    int bytes = shared_layout<DIM>::TILE;
    char *stage = to + r.stage * bytes;
    int32_t row[PAGES];
    bool whole[PAGES];
    await(&c.v_empty[r.stage], r.parity ^ 1);
#pragma unroll
    for (int p = 0; p < PAGES; p++) {
        row[p] = page_row(a, t, tile, p);
        whole[p] = true;
        if (p >= tile.n) continue;
        const key_window w = seen_keys<PHX_PAGE_TOKENS>(a, all, tile.block[p]);
        whole[p] = w.begin == 0 && w.end == PHX_PAGE_TOKENS;
        if (whole[p]) continue;
        copy_seen<DIM>(a, row[p], w, stage + p * PAGE_BYTES);
        bytes -= shared_layout<DIM>::TILE / PAGES;
    }
    if (threadIdx.x % 32 != 0) return;
    arrive_expecting(&c.v_full[r.stage], bytes);
    for (int p = 0; p < PAGES; p++)
        if (whole[p]) copy_tile<DIM>(map, row[p], stage + p * PAGE_BYTES, &c.v_full[r.stage]);
}

/* The keys of a tile are asked for before the values of the one before: they are needed first. */
template <int DIM>
__device__ void produce(const attention_args &a, const attention_task &t, const tensor_maps &maps,
                        shared_control &c, char *shared)
{
    using layout = shared_layout<DIM>;
    const block_range blocks = visible_blocks(a, t.length, t.lowest, t.highest);
    attention_task all = t; /* positions never fall from row to row */
    all.lowest = a.layout.positions[a.layout.seq_rows[t.seq]];
    all.highest = a.layout.positions[a.layout.seq_rows[t.seq + 1] - 1];
    ring_place keys = {}, values = {};
    tile_blocks tile = find_tile(a, t, blocks.begin, blocks.end);
    load_keys<DIM>(a, t, tile, &maps.k, c, keys, shared + layout::K);
    while (tile.n > 0) {
        const tile_blocks next = find_tile(a, t, tile.block[PAGES - 1] + 1, blocks.end);
        advance(keys);
        load_keys<DIM>(a, t, next, &maps.k, c, keys, shared + layout::K);
        load_values<DIM>(a, t, all, tile, &maps.v, c, values, shared + layout::V);
        advance(values);
        tile = next;
    }
}

#endif

#endif
