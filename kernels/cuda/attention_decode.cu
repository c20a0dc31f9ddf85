/* Attention of sequences with one row on tensor cores, for 16-bit types: all heads of a group are
 * the queries of a product, so that a key is read once for all of them. A warp passes over every
 * fourth tile of 16 keys by itself, the next tile on its way meanwhile; nothing passes between
 * warps until their sums are added. Reading keys and values bounds it: of the 16 rows of a product
 * only the group's are used, and the tensor cores still wait for memory. */
#include "kernels/cuda/attention_divide.cuh"
#include "kernels/cuda/attention_mma.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    KEYS = 16, /* of a tile */
    TILES = PHX_PAGE_TOKENS / KEYS,
    STAGES = 2,
    BLOCKS_PER_SM = 2, /* enough bytes are under way; fewer shares are to be merged */
};

/* A warp's shared memory: tiles under way, and then what it has summed. */
template <int DIM> union warp_memory {
    alignas(16) char stages[STAGES][stage_layout<DIM, KEYS>::BYTES];
    struct {
        float out[WARP_QUERIES][DIM];
        float max[WARP_QUERIES], sum[WARP_QUERIES];
    } summed;
};

/* The first tile of this warp from `tile` on that is on this rank and seen; at least `end` if there
 * is none. */
static __device__ int32_t next_of_warp(const attention_args &a, const attention_task &t,
                                       int32_t tile, int32_t end)
{
    for (; tile < end; tile += WARPS) {
        const key_window w = seen_keys<KEYS>(a, t, tile);
        if (w.begin < w.end && page_of(a.layout, t.slot, tile / TILES) >= 0) break;
    }
    return tile;
}

template <typename T, int DIM>
__device__ void pass(const attention_args &a, const attention_task &t, block_range blocks,
                     warp_memory<DIM> &memory, warp_queries<T, DIM> &w)
{
    const int lane = threadIdx.x % 32;
    const int32_t end = blocks.end * TILES;
    int32_t tile = next_of_warp(a, t, blocks.begin * TILES + threadIdx.x / 32, end);
    int stage = 0;
    load_tile<DIM, KEYS, 32>(a, t, tile, end, memory.stages[stage], lane);
    while (tile < end) {
        const int32_t following = next_of_warp(a, t, tile + WARPS, end);
        load_tile<DIM, KEYS, 32>(a, t, following, end, memory.stages[stage ^ 1], lane);
        __pipeline_wait_prior(1);
        __syncwarp();
        attend_tile<T, DIM, KEYS / 8>(a, t, tile, memory.stages[stage], w);
        __syncwarp();
        tile = following;
        stage ^= 1;
    }
    __pipeline_wait_prior(0);
    __syncwarp();
}

template <typename T, int DIM>
__device__ void keep(const warp_queries<T, DIM> &w, warp_memory<DIM> &memory)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = lane / 4 + 8 * half;
        const float sum = whole_sum(w, half);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            *(float2 *)&memory.summed.out[query][8 * n + 2 * (lane % 4)] =
                make_float2(w.out[n][2 * half], w.out[n][2 * half + 1]);
        if (lane % 4 == 0) {
            memory.summed.max[query] = w.max[half];
            memory.summed.sum[query] = sum;
        }
    }
}

/* The warps' sums, added. */
template <int DIM>
__device__ void store_sums(const attention_args &a, const attention_task &t, int64_t place,
                           const warp_memory<DIM> *warps)
{
    for (int i = threadIdx.x; i < t.n * DIM; i += THREADS) {
        const int query = i / DIM, d = i % DIM;
        float largest = -CUDART_INF_F, value = 0, sum = 0;
        for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, warps[w].summed.max[query]);
        const float base = largest == -CUDART_INF_F ? 0 : largest;
        for (int w = 0; w < WARPS; w++) {
            const float weight = expf(warps[w].summed.max[query] - base);
            value = fmaf(warps[w].summed.out[query][d], weight, value);
            sum = fmaf(warps[w].summed.sum[query], weight, sum);
        }
        store_summed(a, t, place, query, d, value, largest, sum);
    }
}

template <typename T, int DIM>
static __global__ void __launch_bounds__(THREADS) attend_decode(attention_args a)
{
    extern __shared__ __align__(16) char shared[];
    warp_memory<DIM> *const warps = (warp_memory<DIM> *)shared;
    wait_for_predecessor();
    attend_shares<THREADS>(a, WARP_QUERIES,
                           [&](const attention_task &t, block_range blocks, int64_t place) {
                               warp_memory<DIM> &own = warps[threadIdx.x / 32];
                               warp_queries<T, DIM> w;
                               load_queries(a, t, 0, w);
                               pass(a, t, blocks, own, w);
                               keep(w, own);
                               __syncthreads();
                               store_sums<DIM>(a, t, place, warps);
                               __syncthreads();
                           });
}

template <typename T, int DIM>
static enum phx_status run(struct phx_stream *stream, const attention_args &a)
{
    const int bytes = WARPS * (int)sizeof(warp_memory<DIM>);
    PHX_CUDA_TRY(cudaFuncSetAttribute,
                 ((attend_decode<T, DIM>), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const int64_t n_workers =
        ceil_div((int64_t)stream->device->info.n_units * BLOCKS_PER_SM, a.n_kv_heads);
    const dim3 grid((unsigned)(n_workers < a.n_workers ? n_workers : a.n_workers),
                    (unsigned)a.n_kv_heads, (unsigned)ceil_div(a.group, WARP_QUERIES));
    return launch(stream, "attend_decode", {grid, THREADS, (size_t)bytes}, attend_decode<T, DIM>,
                  a);
}

template <typename T>
static enum phx_status run_any(struct phx_stream *stream, const attention_args &a)
{
    return a.head_dim == 64 ? run<T, 64>(stream, a) : run<T, 128>(stream, a);
}

enum phx_status PHX_ATTENTION(phx_cuda_attention_decode)(struct phx_stream *stream,
                                                         const struct attention_args &a,
                                                         enum phx_dtype kv)
{
    return kv == PHX_F16 ? run_any<phx_f16>(stream, a) : run_any<phx_bf16>(stream, a);
}
