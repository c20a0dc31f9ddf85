/// \file attention_mma.cuh
/// Sixteen queries of a warp on tensor cores, for 16-bit types: see attention_mma.cu and
/// attention_decode.cu. Products are mma.sync m16n8k16; a lane holds, of a 16 x 8 result, columns
/// 2 * (lane % 4) + {0, 1} of rows lane / 4 and lane / 4 + 8.
#ifndef PHX_KERNELS_CUDA_ATTENTION_MMA_CUH
#define PHX_KERNELS_CUDA_ATTENTION_MMA_CUH

#include <cuda_pipeline.h>
#include <math_constants.h>

#include "kernels/cuda/attention_tap.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/mma.cuh"

enum { WARP_QUERIES = 16 };

__device__ inline void load_transposed(uint32_t (&to)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

__device__ inline uint32_t pack(phx_f16, float low, float high)
{
    const __half2 pair = __floats2half2_rn(low, high);
    return *(const uint32_t *)&pair;
}

__device__ inline uint32_t pack(phx_bf16, float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&pair;
}

/* Keys and values of a tile in shared memory. */
template <int DIM, int KEYS> struct stage_layout {
    static constexpr int PITCH = DIM * 2 + 16; /* odd in 16 bytes: no bank conflicts */
    static constexpr int KEYS_BYTES = KEYS * PITCH;
    static constexpr int BYTES = 2 * KEYS_BYTES; /* keys, then values */
};

/* A tile's keys and values, by thread `thread` of THREADS; what nobody sees may hold anything:
 * zeros instead. One group of copies, empty from `end` on. */
template <int DIM, int KEYS, int THREADS>
__device__ void load_tile(const attention_args &a, const attention_task &t, int32_t tile,
                          int32_t end, char *stage, int thread)
{
    using layout = stage_layout<DIM, KEYS>;
    constexpr int EACH = DIM * 2 / 16, TILES = PHX_PAGE_TOKENS / KEYS;
    if (tile < end) {
        const key_window w = seen_keys<KEYS>(a, t, tile);
        const int64_t page = page_of(a.layout, t.slot, tile / TILES);
        const int64_t key = key_row(a, t, page, tile % TILES * KEYS);
        for (int i = thread; i < KEYS * EACH; i += THREADS) {
            const int r = i / EACH, offset = i % EACH * 16;
            const bool wanted = r >= w.begin && r < w.end;
            const int64_t from = (key + (wanted ? r : w.begin)) * DIM * 2 + offset;
            char *to = stage + r * layout::PITCH + offset;
            __pipeline_memcpy_async(to, (const char *)a.k + from, 16, wanted ? 0 : 16);
            __pipeline_memcpy_async(to + layout::KEYS_BYTES, (const char *)a.v + from, 16,
                                    wanted ? 0 : 16);
        }
    }
    __pipeline_commit();
}

/* A lane's part of a warp's 16 queries, from number `first` of the task on: rows lane / 4 (index 0)
 * and lane / 4 + 8 (index 1). */
template <typename T, int DIM> struct warp_queries {
    int32_t first;
    uint32_t q[DIM / 16][4];
    int32_t position[2]; /* -1: no such query */
    float max[2], sum[2];
    float out[DIM / 8][4];
};

template <typename T, int DIM>
__device__ inline int32_t lane_query(const warp_queries<T, DIM> &w, int half)
{
    return w.first + threadIdx.x % 32 / 4 + 8 * half;
}

/* Query `query` of the task as 32-bit words of two values; NULL past the last. */
template <typename T>
__device__ inline const uint32_t *query_words(const attention_args &a, const attention_task &t,
                                              int32_t query)
{
    if (query >= t.n) return NULL;
    const int64_t row = a.layout.seq_rows[t.seq] + (t.first + query) / a.group;
    const int64_t head = t.kv_head * a.group + (t.first + query) % a.group;
    return (const uint32_t *)((const T *)a.q + row * a.q_stride + head * a.head_dim);
}

template <typename T, int DIM>
__device__ void load_queries(const attention_args &a, const attention_task &t, int32_t first,
                             warp_queries<T, DIM> &w)
{
    const int lane = threadIdx.x % 32;
    w.first = first;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t query = lane_query(w, half);
        const uint32_t *words = query_words<T>(a, t, query);
        w.position[half] = -1;
        if (words != NULL)
            w.position[half] =
                a.layout.positions[a.layout.seq_rows[t.seq] + (t.first + query) / a.group];
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            w.q[k][half] = words != NULL ? words[8 * k + lane % 4] : 0;
            w.q[k][half + 2] = words != NULL ? words[8 * k + 4 + lane % 4] : 0;
        }
        w.max[half] = -CUDART_INF_F;
        w.sum[half] = 0;
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        for (int i = 0; i < 4; i++) w.out[n][i] = 0;
}

/* Scores of BLOCKS times 8 keys. */
template <typename T, int DIM, int BLOCKS>
__device__ inline void score(const warp_queries<T, DIM> &w, const char *keys, float (&s)[BLOCKS][4])
{
    constexpr int PITCH = stage_layout<DIM, BLOCKS * 8>::PITCH;
    const int lane = threadIdx.x % 32;
    const char *row = keys + lane % 8 * PITCH + lane / 8 * 16;
#pragma unroll
    for (int n = 0; n < BLOCKS; n++) {
        for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll
        for (int k = 0; k < DIM / 32; k++) {
            uint32_t b[4];
            load_matrices(b, row + n * 8 * PITCH + k * 64);
            multiply(T(), s[n], w.q[2 * k], b[0], b[1]);
            multiply(T(), s[n], w.q[2 * k + 1], b[2], b[3]);
        }
    }
}

/* The key of a lane's element i of key block n. */
__device__ inline int32_t lane_key(int n, int i)
{
    return 8 * n + threadIdx.x % 4 * 2 + i % 2;
}

template <typename T, int DIM, int BLOCKS>
__device__ inline void tap_scores(const attention_args &a, const attention_task &t, int32_t tile,
                                  const warp_queries<T, DIM> &w, const float (&s)[BLOCKS][4])
{
    constexpr int KEYS = BLOCKS * 8;
    for (int half = 0; half < 2 && TAPPED; half++) {
        const int64_t entry = tap_entry(a, t, lane_query(w, half));
        if (entry < 0) continue;
        if (threadIdx.x % 4 == 0) tap_read(a, t, entry, tile * KEYS / PHX_PAGE_TOKENS, DIM * 2);
        for (int n = 0; n < BLOCKS; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++)
                tap_score(a, entry, tile * KEYS + lane_key(n, i), s[n][i] * a.scale);
    }
}

template <typename T, int DIM, int BLOCKS>
__device__ inline void tap_weights(const attention_args &a, const attention_task &t, int32_t tile,
                                   const warp_queries<T, DIM> &w, const float (&p)[BLOCKS][4])
{
    for (int half = 0; half < 2 && TAPPED; half++) {
        const int64_t entry = tap_entry(a, t, lane_query(w, half));
        if (entry < 0) continue;
        for (int n = 0; n < BLOCKS; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++)
                tap_weight(a, entry, tile * BLOCKS * 8 + lane_key(n, i), p[n][i], w.max[half]);
    }
}

/* Scaled and capped; minus infinity where a query does not see a key. */
template <typename T, int DIM, int BLOCKS>
__device__ inline void finish_scores(const attention_args &a, const attention_task &t,
                                     const warp_queries<T, DIM> &w, int32_t tile,
                                     float (&s)[BLOCKS][4])
{
    constexpr int KEYS = BLOCKS * 8;
    const key_window seen = seen_keys<KEYS>(a, t, tile);
    const bool all = t.length - tile * KEYS >= KEYS && seen.position + KEYS - 1 <= t.lowest &&
                     (a.window == 0 || seen.position > t.highest - a.window);
    const int32_t n_keys = t.length - tile * KEYS;
#pragma unroll
    for (int n = 0; n < BLOCKS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = soft_capped(s[n][i] * a.scale, a.soft_cap);
            if (all) continue;
            const int32_t key = lane_key(n, i);
            const int32_t position = seen.position + key, own = w.position[i / 2];
            const bool visible =
                key < n_keys && position <= own && (a.window == 0 || position > own - a.window);
            if (!visible) s[n][i] = -CUDART_INF_F;
        }
}

/* Scores to probabilities; what was summed before shrinks with the new maximum. */
template <typename T, int DIM, int BLOCKS>
__device__ inline void softmax(warp_queries<T, DIM> &w, float (&s)[BLOCKS][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = w.max[half], sum = 0;
#pragma unroll
        for (int n = 0; n < BLOCKS; n++)
            largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        const float base = largest == -CUDART_INF_F ? 0 : largest; /* nothing seen yet, or NaN */
#pragma unroll
        for (int n = 0; n < BLOCKS; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = __expf(s[n][i] - base);
                sum += s[n][i];
            }
        const float factor = __expf(w.max[half] - base);
        w.max[half] = largest;
        w.sum[half] = w.sum[half] * factor + sum; /* of this lane's keys */
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            w.out[n][2 * half] *= factor;
            w.out[n][2 * half + 1] *= factor;
        }
    }
}

template <typename T, int DIM, int BLOCKS>
__device__ inline void add_values(warp_queries<T, DIM> &w, const char *values,
                                  const float (&p)[BLOCKS][4])
{
    constexpr int PITCH = stage_layout<DIM, BLOCKS * 8>::PITCH;
    const int lane = threadIdx.x % 32;
    const char *row = values + lane % 16 * PITCH + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < BLOCKS / 2; k++) {
        const uint32_t a[4] = {pack(T(), p[2 * k][0], p[2 * k][1]),
                               pack(T(), p[2 * k][2], p[2 * k][3]),
                               pack(T(), p[2 * k + 1][0], p[2 * k + 1][1]),
                               pack(T(), p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            uint32_t b[4];
            load_transposed(b, row + k * 16 * PITCH + n * 32);
            multiply(T(), w.out[2 * n], a, b[0], b[1]);
            multiply(T(), w.out[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* A tile of BLOCKS times 8 keys that lies in `stage`. */
template <typename T, int DIM, int BLOCKS>
__device__ inline void attend_tile(const attention_args &a, const attention_task &t, int32_t tile,
                                   const char *stage, warp_queries<T, DIM> &w)
{
    float s[BLOCKS][4];
    score(w, stage, s);
    tap_scores(a, t, tile, w, s);
    finish_scores(a, t, w, tile, s);
    softmax(w, s);
    tap_weights(a, t, tile, w, s);
    add_values(w, stage + stage_layout<DIM, BLOCKS * 8>::KEYS_BYTES, s);
}

/* The sum of a lane's query of a half over the lanes that share it. */
template <typename T, int DIM>
__device__ inline float whole_sum(const warp_queries<T, DIM> &w, int half)
{
    float sum = w.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
}

#endif
