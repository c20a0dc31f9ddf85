/* Attention of sequences with one row on tensor cores, for 16-bit types. Keys, and then values of
 * the head, are the rows of products whose columns are all heads of a group, so that a key is read
 * once for all of them: straight from memory to the registers that a product takes it from. A warp
 * passes over every WARPS-th tile of 16 keys by itself, the next tile on its way as soon as this
 * one's registers are free; nothing passes between warps until their sums are added. Reading keys
 * and values bounds it. */
#include "kernels/cuda/attention_divide.cuh"
#include "kernels/cuda/attention_mma.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    KEYS = 16, /* of a tile */
    TILES = PHX_PAGE_TOKENS / KEYS,
    BLOCKS_PER_SM = 1, /* has enough under way; fewer shares are to be merged */
};

/* A lane is number c = lane % 4 of four that share row or column g = lane / 4 of a product. In
 * which order a product takes the values of a head is free: a lane takes eight neighbours. */
template <int DIM> struct tile_words {
    uint4 k[2][DIM / 32]; /* of keys g + 8 i: values 32 j + 8 c + {0 .. 7} */
    uint4 v[4][DIM / 64]; /* of keys 2 c + {0, 1, 8, 9}: values 64 j + 8 g + {0 .. 7} */
};

/* NB times 8 queries. */
template <int DIM, int NB> struct decode_state {
    float max[NB][2], sum[NB][2];  /* of queries 8 b + 2 c + {0, 1}; sums of this lane's keys */
    float out[NB][DIM / 64][4][4]; /* value 64 j + 8 g + 2 i + {0, 0, 1, 1} of these two */
};

/* In shared memory: the queries as lanes take them, values 32 j + 8 c + {0 .. 7} of query 8 b + g.
 */
template <int DIM, int NB> struct lane_queries {
    uint4 words[NB][DIM / 32][32];
};

/* In shared memory: what a warp has summed for a query. */
template <int DIM> struct warp_sums {
    float max, sum;
    float out[DIM];
};

__device__ inline uint32_t transposed(uint32_t row)
{
    uint32_t column;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(column) : "r"(row));
    return column;
}

/* A tile, which of its keys are seen, and the row of the pages where its first key lies. */
struct tile_place {
    int32_t tile, begin, end;
    uint32_t row;
};

/* The next tile of this warp from `tile` on that is on this rank and seen; at least `end` if there
 * is none. */
__device__ inline tile_place find_tile(const attention_args &a, const attention_task &t,
                                       int32_t tile, int32_t end)
{
    tile_place p = {tile, 0, 0, 0};
    for (; p.tile < end; p.tile += WARPS) {
        const key_window w = seen_keys<KEYS>(a, t, p.tile);
        const int64_t page = page_of(a.layout, t.slot, p.tile / TILES);
        if (w.begin >= w.end || page < 0) continue;
        p.begin = w.begin;
        p.end = w.end;
        p.row = (uint32_t)key_row(a, t, page, p.tile % TILES * KEYS);
        break;
    }
    return p;
}

/* Key `key` of a tile among keys or values, eight values a word. What nobody sees may hold
 * anything: a key that is seen instead, whose weight there is 0. */
template <int DIM>
__device__ inline const uint4 *words_of(const void *pages, const tile_place &p, int key)
{
    const int seen = min(max(key, p.begin), p.end - 1);
    return (const uint4 *)pages + (uint64_t)(p.row + seen) * (DIM / 8);
}

template <int DIM>
__device__ inline void load_keys(const attention_args &a, const tile_place &p, tile_words<DIM> &x)
{
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 *from = words_of<DIM>(a.k, p, g + 8 * i) + c;
#pragma unroll
        for (int j = 0; j < DIM / 32; j++) x.k[i][j] = __ldcs(from + 4 * j);
    }
}

template <int DIM>
__device__ inline void load_values(const attention_args &a, const tile_place &p, tile_words<DIM> &x)
{
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 *from = words_of<DIM>(a.v, p, 2 * c + i % 2 + i / 2 * 8) + g;
#pragma unroll
        for (int j = 0; j < DIM / 64; j++) x.v[i][j] = __ldcs(from + 8 * j);
    }
}

/* By one warp. */
template <typename T, int DIM, int NB>
__device__ void load_queries(const attention_args &a, const attention_task &t,
                             lane_queries<DIM, NB> &q)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int b = 0; b < NB; b++) {
        const uint32_t *words = query_words<T>(a, t, 8 * b + lane / 4);
#pragma unroll
        for (int j = 0; j < DIM / 32; j++) {
            const uint32_t *from = words + 16 * j + lane % 4 * 4;
            q.words[b][j][lane] = words != NULL ? make_uint4(from[0], from[1], from[2], from[3])
                                                : make_uint4(0, 0, 0, 0);
        }
    }
}

/* s[b][i]: key g + i / 2 * 8 and query 8 b + 2 c + i % 2. */
template <typename T, int DIM, int NB>
__device__ inline void score(const lane_queries<DIM, NB> &q, const tile_words<DIM> &x,
                             float (&s)[NB][4])
{
#pragma unroll
    for (int b = 0; b < NB; b++) {
        float even[4] = {}, odd[4] = {}; /* two chains are done sooner than one */
#pragma unroll
        for (int j = 0; j < DIM / 32; j++) {
            const uint4 low = x.k[0][j], high = x.k[1][j], query = q.words[b][j][threadIdx.x % 32];
            const uint32_t first[4] = {low.x, high.x, low.y, high.y};
            const uint32_t second[4] = {low.z, high.z, low.w, high.w};
            multiply(T(), even, first, query.x, query.y);
            multiply(T(), odd, second, query.z, query.w);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) s[b][i] = even[i] + odd[i];
    }
}

/* For taps: the number of a lane's element i of block b among queries, and its key. */
__device__ inline int32_t query_of(int b, int i)
{
    return 8 * b + threadIdx.x % 4 * 2 + i % 2;
}

__device__ inline int32_t key_of(int i)
{
    return threadIdx.x % 32 / 4 + i / 2 * 8;
}

template <int DIM, int NB>
__device__ inline void tap_scores(const attention_args &a, const attention_task &t, int32_t tile,
                                  const float (&s)[NB][4])
{
    for (int b = 0; b < NB && TAPPED; b++)
        for (int i = 0; i < 4; i++) {
            const int64_t entry = tap_entry(a, t, query_of(b, i));
            if (entry < 0) continue;
            if (key_of(i) == 0) tap_read(a, t, entry, tile / TILES, DIM * 2);
            tap_score(a, entry, tile * KEYS + key_of(i), s[b][i] * a.scale);
        }
}

template <int DIM, int NB>
__device__ inline void tap_weights(const attention_args &a, const attention_task &t, int32_t tile,
                                   const decode_state<DIM, NB> &w, const float (&p)[NB][4])
{
    for (int b = 0; b < NB && TAPPED; b++)
        for (int i = 0; i < 4; i++) {
            const int64_t entry = tap_entry(a, t, query_of(b, i));
            if (entry < 0) continue;
            tap_weight(a, entry, tile * KEYS + key_of(i), p[b][i], w.max[b][i % 2]);
        }
}

/* Scores to weights; what was summed before shrinks with the new maximum. */
template <int DIM, int NB>
__device__ inline void softmax(const attention_args &a, const tile_place &p,
                               decode_state<DIM, NB> &w, float (&s)[NB][4])
{
#pragma unroll
    for (int b = 0; b < NB; b++) {
        float largest[2], factor[2];
#pragma unroll
        for (int i = 0; i < 4; i++) s[b][i] *= a.scale;
        if (a.soft_cap > 0)
#pragma unroll
            for (int i = 0; i < 4; i++) s[b][i] = soft_capped(s[b][i], a.soft_cap);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (key_of(i) < p.begin || key_of(i) >= p.end) s[b][i] = -CUDART_INF_F;
#pragma unroll
        for (int i = 0; i < 2; i++) largest[i] = fmaxf(w.max[b][i], fmaxf(s[b][i], s[b][i + 2]));
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2)
#pragma unroll
            for (int i = 0; i < 2; i++)
                largest[i] = fmaxf(largest[i], __shfl_xor_sync(~0u, largest[i], offset));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float base = largest[i] == -CUDART_INF_F ? 0 : largest[i]; /* only NaN seen */
            factor[i] = __expf(w.max[b][i] - base);
            w.max[b][i] = largest[i];
            s[b][i] = __expf(s[b][i] - base);
            s[b][i + 2] = __expf(s[b][i + 2] - base);
            w.sum[b][i] = w.sum[b][i] * factor[i] + (s[b][i] + s[b][i + 2]);
        }
#pragma unroll
        for (int j = 0; j < DIM / 64; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int v = 0; v < 4; v++) w.out[b][j][i][v] *= factor[v % 2];
    }
}

__device__ inline uint32_t word_of(const uint4 &x, int i)
{
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

template <typename T, int DIM, int NB>
__device__ inline void add_values(decode_state<DIM, NB> &w, const tile_words<DIM> &x,
                                  const float (&p)[NB][4])
{
    constexpr unsigned LOW = 0x5410, HIGH = 0x7632; /* halves of two words */
    uint32_t weights[NB][2];
#pragma unroll
    for (int b = 0; b < NB; b++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            weights[b][i] = transposed(pack(T(), p[b][2 * i], p[b][2 * i + 1]));
#pragma unroll
    for (int j = 0; j < DIM / 64; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t words[4], v[4];
#pragma unroll
            for (int key = 0; key < 4; key++) words[key] = word_of(x.v[key][j], i);
            v[0] = __byte_perm(words[0], words[1], LOW);
            v[1] = __byte_perm(words[0], words[1], HIGH);
            v[2] = __byte_perm(words[2], words[3], LOW);
            v[3] = __byte_perm(words[2], words[3], HIGH);
#pragma unroll
            for (int b = 0; b < NB; b++)
                multiply(T(), w.out[b][j][i], v, weights[b][0], weights[b][1]);
        }
}

template <typename T, int DIM, int NB>
__device__ void pass(const attention_args &a, const attention_task &t, block_range blocks,
                     lane_queries<DIM, NB> &q, decode_state<DIM, NB> &w)
{
    const int32_t end = blocks.end * TILES;
    tile_place here = find_tile(a, t, blocks.begin * TILES + threadIdx.x / 32, end);
    tile_words<DIM> x;
    if (here.tile < end) {
        load_keys(a, here, x);
        load_values(a, here, x);
    }
    if (threadIdx.x < 32) load_queries<T>(a, t, q);
    __syncthreads();
    while (here.tile < end) {
        const tile_place next = find_tile(a, t, here.tile + WARPS, end);
        float s[NB][4];
        score<T>(q, x, s);
        if (next.tile < end) load_keys(a, next, x);
        tap_scores<DIM>(a, t, here.tile, s);
        softmax(a, here, w, s);
        tap_weights(a, t, here.tile, w, s);
        add_values<T>(w, x, s);
        if (next.tile < end) load_values(a, next, x);
        here = next;
    }
}

/* To sums[query], of this warp. */
template <int DIM, int NB>
__device__ void keep(const decode_state<DIM, NB> &w, int n_queries, warp_sums<DIM> *sums)
{
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int b = 0; b < NB; b++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int query = query_of(b, i);
            float sum = w.sum[b][i];
            for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
            if (query >= n_queries) continue;
            if (g == 0) sums[query].max = w.max[b][i];
            if (g == 0) sums[query].sum = sum;
#pragma unroll
            for (int j = 0; j < DIM / 64; j++)
#pragma unroll
                for (int pair = 0; pair < 4; pair++)
                    *(float2 *)&sums[query].out[64 * j + 8 * g + 2 * pair] =
                        make_float2(w.out[b][j][pair][i], w.out[b][j][pair][i + 2]);
        }
}

/* The warps' sums, added. sums: [WARPS][n] */
template <int DIM>
__device__ void store_sums(const attention_args &a, const attention_task &t, int64_t place,
                           const warp_sums<DIM> *sums)
{
    for (int i = threadIdx.x; i < t.n * DIM; i += THREADS) {
        const int query = i / DIM, d = i % DIM;
        float largest = -CUDART_INF_F, value = 0, sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, sums[w * t.n + query].max);
        const float base = largest == -CUDART_INF_F ? 0 : largest;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const warp_sums<DIM> &part = sums[w * t.n + query];
            const float weight = __expf(part.max - base);
            value = fmaf(part.out[d], weight, value);
            sum = fmaf(part.sum, weight, sum);
        }
        store_summed(a, t, place, query, d, value, largest, sum);
    }
}

template <typename T, int DIM, int NB>
static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) attend_decode(attention_args a)
{
    extern __shared__ __align__(16) char shared[];
    __shared__ lane_queries<DIM, NB> q;
    warp_sums<DIM> *const sums = (warp_sums<DIM> *)shared;
    wait_for_predecessor();
    attend_shares(a, 8 * NB, [&](const attention_task &t, block_range blocks, int64_t place) {
        decode_state<DIM, NB> w = {};
        for (int b = 0; b < NB; b++) w.max[b][0] = w.max[b][1] = -CUDART_INF_F;
        pass<T>(a, t, blocks, q, w);
        keep(w, t.n, sums + threadIdx.x / 32 * t.n);
        __syncthreads();
        store_sums(a, t, place, sums);
        __syncthreads();
    });
}

template <typename T, int DIM, int NB>
static enum phx_status run(struct phx_stream *stream, const attention_args &a)
{
    const int queries = a.group < 8 * NB ? a.group : 8 * NB; /* of a tile */
    const int bytes = WARPS * queries * (int)sizeof(warp_sums<DIM>);
    PHX_CUDA_TRY(cudaFuncSetAttribute,
                 ((attend_decode<T, DIM, NB>), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const int n_workers = stream->device->info.n_units * BLOCKS_PER_SM / a.n_kv_heads;
    const dim3 grid((unsigned)(n_workers > 1 ? n_workers : 1), (unsigned)a.n_kv_heads,
                    (unsigned)ceil_div(a.group, 8 * NB));
    return launch(stream, "attend_decode", {grid, THREADS, (size_t)bytes},
                  attend_decode<T, DIM, NB>, a);
}

template <typename T>
static enum phx_status run_any(struct phx_stream *stream, const attention_args &a)
{
    if (a.group <= 8)
        return a.head_dim == 64 ? run<T, 64, 1>(stream, a) : run<T, 128, 1>(stream, a);
    return a.head_dim == 64 ? run<T, 64, 2>(stream, a) : run<T, 128, 2>(stream, a);
}

enum phx_status PHX_ATTENTION(phx_cuda_attention_decode)(struct phx_stream *stream,
                                                         const struct attention_args &a,
                                                         enum phx_dtype kv)
{
    return kv == PHX_F16 ? run_any<phx_f16>(stream, a) : run_any<phx_bf16>(stream, a);
}
