/* Attention of sequences with several rows on tensor cores, for 16-bit types: the queries of a KV
 * head, row by row, in tiles of 64, a warp for 16 of them; the keys and values of a page at a time,
 * the next page on its way meanwhile. Products are mma.sync m16n8k16; in what follows a lane holds,
 * of a 16 x 8 result, columns 2 * (lane % 4) + {0, 1} of rows lane / 4 and lane / 4 + 8. */
#include <cuda_pipeline.h>
#include <math_constants.h>

#include "kernels/cuda/attention_tap.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/mma.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, WARP_QUERIES = 16, QUERIES = WARPS * WARP_QUERIES };
enum { KEYS = PHX_PAGE_TOKENS, KEY_BLOCKS = KEYS / 8 };

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

template <int DIM> struct stage_layout {
    static constexpr int PITCH = DIM * 2 + 16; /* odd in 16 bytes: no bank conflicts */
    static constexpr int KEYS_BYTES = KEYS * PITCH;
    static constexpr int BYTES = 2 * KEYS_BYTES; /* keys, then values */
};

/* A page's keys and values; what nobody sees may hold anything: zeros instead. One group of copies,
 * empty from `end` on. */
template <int DIM>
__device__ void load_page(const attention_args &a, const attention_task &t, int32_t block,
                          int32_t end, char *stage)
{
    using layout = stage_layout<DIM>;
    constexpr int EACH = DIM * 2 / 16;
    if (block < end) {
        const key_window w = seen_keys<KEYS>(a, t, block);
        const int64_t page = page_of(a.layout, t.slot, block);
        const int64_t key = key_row(a, t, page, 0);
        for (int i = threadIdx.x; i < KEYS * EACH; i += THREADS) {
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

/* A lane's part of a warp's 16 queries: rows lane / 4 (index 0) and lane / 4 + 8 (index 1). */
template <typename T, int DIM> struct warp_queries {
    uint32_t q[DIM / 16][4];
    int32_t position[2]; /* -1: no such query */
    float max[2], sum[2];
    float out[DIM / 8][4];
};

/* Query `query` of the sequence as 32-bit words of two values; NULL past the last. */
template <typename T>
__device__ inline const uint32_t *query_words(const attention_args &a, const attention_task &t,
                                              int32_t query)
{
    if (query >= t.first + t.n) return NULL;
    const int64_t row = a.layout.seq_rows[t.seq] + query / a.group;
    const int64_t head = t.kv_head * a.group + query % a.group;
    return (const uint32_t *)((const T *)a.q + row * a.q_stride + head * a.head_dim);
}

template <typename T, int DIM>
__device__ void load_queries(const attention_args &a, const attention_task &t,
                             warp_queries<T, DIM> &w)
{
    const int lane = threadIdx.x % 32;
    const int32_t own = t.first + threadIdx.x / 32 * WARP_QUERIES + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t query = own + 8 * half;
        const uint32_t *words = query_words<T>(a, t, query);
        w.position[half] = -1;
        if (words != NULL)
            w.position[half] = a.layout.positions[a.layout.seq_rows[t.seq] + query / a.group];
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

template <typename T, int DIM>
__device__ inline void score(const warp_queries<T, DIM> &w, const char *keys,
                             float (&s)[KEY_BLOCKS][4])
{
    const int lane = threadIdx.x % 32;
    const char *row = keys + lane % 8 * stage_layout<DIM>::PITCH + lane / 8 * 16;
#pragma unroll
    for (int n = 0; n < KEY_BLOCKS; n++) {
        for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll
        for (int k = 0; k < DIM / 32; k++) {
            uint32_t b[4];
            load_matrices(b, row + n * 8 * stage_layout<DIM>::PITCH + k * 64);
            multiply(T(), s[n], w.q[2 * k], b[0], b[1]);
            multiply(T(), s[n], w.q[2 * k + 1], b[2], b[3]);
        }
    }
}

/* A lane's query of a half, and the key of its element i of key block n. */
__device__ inline int32_t lane_query(int half)
{
    return threadIdx.x / 32 * WARP_QUERIES + threadIdx.x % 32 / 4 + 8 * half;
}

__device__ inline int32_t lane_key(int n, int i)
{
    return 8 * n + threadIdx.x % 4 * 2 + i % 2;
}

template <int DIM>
__device__ inline void tap_scores(const attention_args &a, const attention_task &t, int32_t block,
                                  const float (&s)[KEY_BLOCKS][4])
{
    for (int half = 0; half < 2 && TAPPED; half++) {
        const int64_t entry = tap_entry(a, t, lane_query(half));
        if (entry < 0) continue;
        if (threadIdx.x % 4 == 0) tap_read(a, t, entry, block, DIM * 2);
        for (int n = 0; n < KEY_BLOCKS; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++)
                tap_score(a, entry, block * KEYS + lane_key(n, i), s[n][i] * a.scale);
    }
}

template <typename T, int DIM>
__device__ inline void tap_weights(const attention_args &a, const attention_task &t, int32_t block,
                                   const warp_queries<T, DIM> &w, const float (&p)[KEY_BLOCKS][4])
{
    for (int half = 0; half < 2 && TAPPED; half++) {
        const int64_t entry = tap_entry(a, t, lane_query(half));
        if (entry < 0) continue;
        for (int n = 0; n < KEY_BLOCKS; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++)
                tap_weight(a, entry, block * KEYS + lane_key(n, i), p[n][i], w.max[half]);
    }
}

/* Scaled and capped; minus infinity where a query does not see a key. */
template <typename T, int DIM>
__device__ inline void finish_scores(const attention_args &a, const attention_task &t,
                                     const warp_queries<T, DIM> &w, int32_t block,
                                     float (&s)[KEY_BLOCKS][4])
{
    const key_window seen = seen_keys<KEYS>(a, t, block);
    const bool all = t.length - block * KEYS >= KEYS && seen.position + KEYS - 1 <= t.lowest &&
                     (a.window == 0 || seen.position > t.highest - a.window);
    const int32_t n_keys = t.length - block * KEYS;
#pragma unroll
    for (int n = 0; n < KEY_BLOCKS; n++)
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
template <typename T, int DIM>
__device__ inline void softmax(warp_queries<T, DIM> &w, float (&s)[KEY_BLOCKS][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = w.max[half], sum = 0;
#pragma unroll
        for (int n = 0; n < KEY_BLOCKS; n++)
            largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        const float base = largest == -CUDART_INF_F ? 0 : largest; /* nothing seen yet */
#pragma unroll
        for (int n = 0; n < KEY_BLOCKS; n++)
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

template <typename T, int DIM>
__device__ inline void add_values(warp_queries<T, DIM> &w, const char *values,
                                  const float (&p)[KEY_BLOCKS][4])
{
    const int lane = threadIdx.x % 32;
    const char *row = values + lane % 16 * stage_layout<DIM>::PITCH + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const uint32_t a[4] = {pack(T(), p[2 * k][0], p[2 * k][1]),
                               pack(T(), p[2 * k][2], p[2 * k][3]),
                               pack(T(), p[2 * k + 1][0], p[2 * k + 1][1]),
                               pack(T(), p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < DIM / 16; n++) {
            uint32_t b[4];
            load_transposed(b, row + k * 16 * stage_layout<DIM>::PITCH + n * 32);
            multiply(T(), w.out[2 * n], a, b[0], b[1]);
            multiply(T(), w.out[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <typename T, int DIM>
__device__ void store_queries(const attention_args &a, const attention_task &t,
                              const warp_queries<T, DIM> &w)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = w.sum[half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const int32_t query = t.first + threadIdx.x / 32 * WARP_QUERIES + lane / 4 + 8 * half;
        if (query >= t.first + t.n) continue;
        const int64_t row = a.layout.seq_rows[t.seq] + query / a.group;
        const int64_t head = t.kv_head * a.group + query % a.group;
        const float factor = sum > 0 ? 1 / sum : 0;
        uint32_t *out = (uint32_t *)((T *)a.out + row * a.out_stride + head * DIM);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            out[4 * n + lane % 4] =
                pack(T(), w.out[n][2 * half] * factor, w.out[n][2 * half + 1] * factor);
        if (lane % 4 == 0) tap_sums(a, row, (int32_t)head, w.max[half], sum);
        if (lane % 4 == 0 && a.lse != NULL)
            a.lse[row * a.lse_stride + head] = sum > 0 ? w.max[half] + logf(sum) : -CUDART_INF_F;
    }
}

/* The lowest and highest position of a tile's rows. */
static __device__ void find_positions(const attention_args &a, attention_task &t)
{
    const int32_t *positions = a.layout.positions + a.layout.seq_rows[t.seq];
    const int32_t begin = t.first / a.group, end = (t.first + t.n - 1) / a.group + 1;
    int32_t highest = -1, opposite = -INT32_MAX;
    for (int32_t r = begin + threadIdx.x % 32; r < end; r += 32) {
        highest = max(highest, positions[r]);
        opposite = max(opposite, -positions[r]);
    }
    t.highest = warp_reduce(highest, max_op());
    t.lowest = -warp_reduce(opposite, max_op());
}

template <typename T, int DIM>
static __global__ void __launch_bounds__(THREADS) attend_mma(attention_args a)
{
    extern __shared__ __align__(16) char stages[]; /* two */
    using layout = stage_layout<DIM>;
    attention_task t;
    t.seq = blockIdx.z;
    t.kv_head = blockIdx.y;
    wait_for_predecessor();
    t.slot = a.layout.seq_slot[t.seq];
    const int32_t rows = a.layout.seq_rows[t.seq + 1] - a.layout.seq_rows[t.seq];
    t.first = (gridDim.x - 1 - blockIdx.x) * QUERIES; /* the ones with most keys start first */
    if (t.slot < 0 || rows <= 1 || t.first >= rows * a.group) return;
    t.n = min(rows * a.group - t.first, (int32_t)QUERIES);
    t.length = a.layout.seq_length[t.seq];
    find_positions(a, t);
    warp_queries<T, DIM> w;
    load_queries(a, t, w);

    const block_range blocks = visible_blocks(a, t.length, t.lowest, t.highest);
    int32_t block = next_tile<KEYS>(a, t, blocks.begin, blocks.end);
    int stage = 0;
    load_page<DIM>(a, t, block, blocks.end, stages);
    while (block < blocks.end) {
        const int32_t following = next_tile<KEYS>(a, t, block + 1, blocks.end);
        load_page<DIM>(a, t, following, blocks.end, stages + (stage ^ 1) * layout::BYTES);
        __pipeline_wait_prior(1);
        __syncthreads();
        const char *keys = stages + stage * layout::BYTES;
        float s[KEY_BLOCKS][4];
        score(w, keys, s);
        tap_scores<DIM>(a, t, block, s);
        finish_scores(a, t, w, block, s);
        softmax(w, s);
        tap_weights(a, t, block, w, s);
        add_values(w, keys + layout::KEYS_BYTES, s);
        __syncthreads();
        block = following;
        stage ^= 1;
    }
    store_queries(a, t, w);
}

template <typename T, int DIM>
static enum phx_status run(struct phx_stream *stream, const attention_args &a, int32_t max_seq_rows)
{
    const int bytes = 2 * stage_layout<DIM>::BYTES;
    PHX_CUDA_TRY(cudaFuncSetAttribute,
                 ((attend_mma<T, DIM>), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const dim3 grid((unsigned)ceil_div((int64_t)max_seq_rows * a.group, QUERIES),
                    (unsigned)a.n_kv_heads, (unsigned)a.layout.n_seqs);
    return launch(stream, "attend_mma", {grid, THREADS, (size_t)bytes}, attend_mma<T, DIM>, a);
}

template <typename T>
static enum phx_status run_any(struct phx_stream *stream, const attention_args &a,
                               int32_t max_seq_rows)
{
    return a.head_dim == 64 ? run<T, 64>(stream, a, max_seq_rows)
                            : run<T, 128>(stream, a, max_seq_rows);
}

enum phx_status PHX_ATTENTION(phx_cuda_attention_mma)(struct phx_stream *stream,
                                                      const struct attention_args &a,
                                                      enum phx_dtype kv, int32_t max_seq_rows,
                                                      bool *done)
{
    const bool words = ((uintptr_t)a.q | (uintptr_t)a.out) % 4 == 0 &&
                       (a.q_stride | a.out_stride) % 2 == 0 && a.in_words;
    *done = a.act == kv && kv != PHX_F32 && (a.head_dim == 64 || a.head_dim == 128) && words;
    if (!*done) return PHX_OK;
    return kv == PHX_F16 ? run_any<phx_f16>(stream, a, max_seq_rows)
                         : run_any<phx_bf16>(stream, a, max_seq_rows);
}
