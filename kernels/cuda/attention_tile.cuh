/// \file attention_tile.cuh
/// A tile of queries at work on plain f32 arithmetic: see attention.cu.
#ifndef PHX_KERNELS_CUDA_ATTENTION_TILE_CUH
#define PHX_KERNELS_CUDA_ATTENTION_TILE_CUH

#include <cuda_pipeline.h>
#include <math_constants.h>

#include "kernels/cuda/attention_tap.cuh"
#include "kernels/cuda/block.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    KEYS = 32,                            /* of a tile: one a lane */
    BLOCK_TILES = PHX_PAGE_TOKENS / KEYS, /* tiles of a page */
};

/* Pairs of neighbouring values of a head that a lane sums: PAIRS * 64 is the padded head. */
template <typename KV, int PAIRS> struct tile_layout {
    static constexpr int DIM = PAIRS * 64;
    static constexpr int PITCH =
        DIM * (int)sizeof(KV) + 16;            /* odd in 16 bytes: no bank conflicts */
    static constexpr int BYTES = KEYS * PITCH; /* of keys; as many of values follow */
};

template <int QUERIES> struct shared_head {
    int32_t position[QUERIES]; /* -1: no such query */
    float p[QUERIES][KEYS];
};

template <int PER_WARP, int PAIRS> struct running {
    float max[PER_WARP], sum[PER_WARP];
    float acc[PER_WARP][2 * PAIRS];
};

template <typename KV, int PAIRS, int PER_WARP> struct attention_tile {
    static constexpr int QUERIES = PER_WARP * WARPS;
    using layout = tile_layout<KV, PAIRS>;

    const attention_args &a;
    shared_head<QUERIES> *head;
    float *q;     /* [QUERIES][DIM], times scale */
    char *stages; /* [n_stages][keys, values] */

    running<PER_WARP, PAIRS> state;

    static size_t shared_bytes(int n_stages)
    {
        return sizeof(shared_head<QUERIES>) + sizeof(float) * QUERIES * layout::DIM +
               (size_t)n_stages * 2 * layout::BYTES;
    }

    __device__ attention_tile(const attention_args &args, char *shared) : a(args)
    {
        head = (shared_head<QUERIES> *)shared;
        q = (float *)(head + 1);
        stages = (char *)(q + QUERIES * layout::DIM);
        if (a.head_dim == layout::DIM) return;
        for (int i = threadIdx.x * 16; i < a.n_stages * 2 * layout::BYTES; i += THREADS * 16)
            *(uint4 *)(stages + i) = make_uint4(0, 0, 0, 0); /* what pads heads stays so */
    }

    /* Queries and positions to shared memory; the state to nothing seen. */
    __device__ void begin(attention_task &t)
    {
        const int32_t row = a.layout.seq_rows[t.seq];
        __syncthreads();
        for (int i = threadIdx.x; i < QUERIES * layout::DIM; i += THREADS) {
            const int n = i / layout::DIM, d = i % layout::DIM, query = t.first + n;
            float value = 0;
            if (n < t.n && d < a.head_dim)
                value = load_any(a.act, a.q,
                                 (row + query / a.group) * a.q_stride +
                                     (int64_t)(t.kv_head * a.group + query % a.group) * a.head_dim +
                                     d) *
                        a.scale;
            q[i] = value;
        }
        if (threadIdx.x < QUERIES)
            head->position[threadIdx.x] =
                (int)threadIdx.x < t.n ? a.layout.positions[row + (t.first + threadIdx.x) / a.group]
                                       : -1;
        __syncthreads();
        t.lowest = INT32_MAX;
        t.highest = -1;
        for (int i = 0; i < t.n; i++) {
            t.lowest = min(t.lowest, head->position[i]);
            t.highest = max(t.highest, head->position[i]);
        }
#pragma unroll
        for (int i = 0; i < PER_WARP; i++) {
            state.max[i] = -CUDART_INF_F;
            state.sum[i] = 0;
            for (int d = 0; d < 2 * PAIRS; d++) state.acc[i][d] = 0;
        }
    }

    /* Keys of tiles [begin, end) of the sequence. */
    __device__ void pass(const attention_task &t, int32_t begin, int32_t end)
    {
        int stage = 0;
        int32_t tile = next_tile<KEYS>(a, t, begin, end);
        load(t, tile, end, 0);
        while (tile < end) {
            const int32_t following = next_tile<KEYS>(a, t, tile + 1, end);
            if (a.n_stages == 2) {
                load(t, following, end, stage ^ 1);
                __pipeline_wait_prior(1);
            } else {
                __pipeline_wait_prior(0);
            }
            __syncthreads();
            compute(t, tile, stages + stage * 2 * layout::BYTES);
            __syncthreads();
            if (a.n_stages == 2)
                stage ^= 1;
            else
                load(t, following, end, 0);
            tile = following;
        }
    }

    __device__ static int query_of(int i)
    {
        return threadIdx.x / 32 + i * WARPS;
    }

  private:
    /* One group of copies: a tile, or nothing from `end` on. */
    __device__ void load(const attention_task &t, int32_t tile, int32_t end, int stage)
    {
        if (tile < end) copy(t, tile, stage);
        __pipeline_commit();
    }

    /* What nobody sees may hold anything: zeros instead, which may be multiplied by 0. */
    __device__ void copy(const attention_task &t, int32_t tile, int stage)
    {
        const key_window w = seen_keys<KEYS>(a, t, tile);
        const int64_t page = page_of(a.layout, t.slot, tile / BLOCK_TILES);
        const int64_t key = key_row(a, t, page, tile % BLOCK_TILES * KEYS);
        const int row_bytes = a.head_dim * (int)sizeof(KV), step = a.in_words ? 16 : sizeof(KV);
        const int each = row_bytes / step; /* pieces of a row */
        char *to_k = stages + stage * 2 * layout::BYTES, *to_v = to_k + layout::BYTES;
        for (int i = threadIdx.x; i < KEYS * each; i += THREADS) {
            const int r = i / each, offset = i % each * step, to = r * layout::PITCH + offset;
            const bool wanted = r >= w.begin && r < w.end;
            const int64_t from = (key + (wanted ? r : w.begin)) * row_bytes + offset;
            const char *from_k = (const char *)a.k + from, *from_v = (const char *)a.v + from;
            if (a.in_words) {
                __pipeline_memcpy_async(to_k + to, from_k, 16, wanted ? 0 : 16);
                __pipeline_memcpy_async(to_v + to, from_v, 16, wanted ? 0 : 16);
            } else {
                *(KV *)(to_k + to) = wanted ? *(const KV *)from_k : from_f32<KV>(0);
                *(KV *)(to_v + to) = wanted ? *(const KV *)from_v : from_f32<KV>(0);
            }
        }
    }

    __device__ void compute(const attention_task &t, int32_t tile, const char *keys)
    {
        const int lane = threadIdx.x % 32;
        float s[PER_WARP] = {};
        const KV *key = (const KV *)(keys + lane * layout::PITCH);
        for (int d = 0; d < a.head_dim; d += 8) {
            float wide[8];
            widen(*(const eight<KV> *)(key + d), wide);
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) {
                const float4 *query = (const float4 *)(q + query_of(i) * layout::DIM + d);
                const float4 x = query[0], y = query[1];
                s[i] = fmaf(wide[0], x.x, s[i]);
                s[i] = fmaf(wide[1], x.y, s[i]);
                s[i] = fmaf(wide[2], x.z, s[i]);
                s[i] = fmaf(wide[3], x.w, s[i]);
                s[i] = fmaf(wide[4], y.x, s[i]);
                s[i] = fmaf(wide[5], y.y, s[i]);
                s[i] = fmaf(wide[6], y.z, s[i]);
                s[i] = fmaf(wide[7], y.w, s[i]);
            }
        }
        const key_window w = seen_keys<KEYS>(a, t, tile);
        const int32_t position = w.position + lane;
        const bool exists = tile * KEYS + lane < t.length;
#pragma unroll
        for (int i = 0; i < PER_WARP; i++) {
            const int64_t entry = tap_entry(a, t, query_of(i));
            if (entry >= 0 && lane == 0)
                tap_read(a, t, entry, tile / BLOCK_TILES, a.head_dim * (int64_t)sizeof(KV));
            if (entry >= 0) tap_score(a, entry, tile * KEYS + lane, s[i]);
            const int32_t own = head->position[query_of(i)];
            const bool visible =
                exists && position <= own && (a.window == 0 || position > own - a.window);
            s[i] = visible ? soft_capped(s[i], a.soft_cap) : -CUDART_INF_F;
            softmax(i, s[i]);
            if (entry >= 0)
                tap_weight(a, entry, tile * KEYS + lane, head->p[query_of(i)][lane], state.max[i]);
        }
        __syncwarp();
        add_values(keys + layout::BYTES);
        __syncwarp();
    }

    __device__ void softmax(int i, float s)
    {
        const float largest = fmaxf(state.max[i], warp_reduce(s, max_op()));
        const float base = largest == -CUDART_INF_F ? 0 : largest; /* nothing seen yet, or NaN */
        const float p = expf(s - base), factor = expf(state.max[i] - base);
        state.max[i] = largest;
        state.sum[i] = state.sum[i] * factor + warp_reduce(p, add_op());
#pragma unroll
        for (int d = 0; d < 2 * PAIRS; d++) state.acc[i][d] *= factor;
        head->p[query_of(i)][threadIdx.x % 32] = p;
    }

    __device__ void add_values(const char *values)
    {
        const int lane = threadIdx.x % 32;
#pragma unroll 2
        for (int k = 0; k < KEYS; k += 4) {
            float p[PER_WARP][4];
#pragma unroll
            for (int i = 0; i < PER_WARP; i++)
                *(float4 *)p[i] = *(const float4 *)&head->p[query_of(i)][k];
#pragma unroll
            for (int v = 0; v < 4; v++) {
                const KV *value = (const KV *)(values + (k + v) * layout::PITCH) + 2 * lane;
#pragma unroll
                for (int j = 0; j < PAIRS; j++) {
                    const float x = to_f32(value[64 * j]), y = to_f32(value[64 * j + 1]);
#pragma unroll
                    for (int i = 0; i < PER_WARP; i++) {
                        state.acc[i][2 * j] = fmaf(p[i][v], x, state.acc[i][2 * j]);
                        state.acc[i][2 * j + 1] = fmaf(p[i][v], y, state.acc[i][2 * j + 1]);
                    }
                }
            }
        }
    }
};

#endif
