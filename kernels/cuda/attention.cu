/* Attention on plain f32 arithmetic, which takes every type and head size, and the choice between
 * it and the tensor cores.
 *
 * A block takes a tile of queries that read the same KV head and passes over their keys, 32 at a
 * time, with the running maximum and sum of the softmax; the next keys and values are on their way
 * meanwhile. Each warp owns some of the queries: scores with a key a lane, sums with a few values
 * of the head a lane, so that nothing but keys and values passes between warps.
 * Sequences with one row are divided over blocks: attention_divide.cuh. */
#include "kernels/cuda/attention_divide.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

enum {
    SHARED_BYTES = 96 << 10, /* of a block, on the GPUs that have least */
};

/* ---- sequences with several rows: results at once ---- */

template <typename KV, int PAIRS, int PER_WARP>
static __global__ void __launch_bounds__(THREADS) attend_rows(attention_args a)
{
    extern __shared__ __align__(16) char shared[];
    constexpr int QUERIES = PER_WARP * WARPS;
    attention_task t;
    t.seq = blockIdx.z;
    t.kv_head = blockIdx.y;
    wait_for_predecessor();
    t.slot = a.layout.seq_slot[t.seq];
    const int32_t row = a.layout.seq_rows[t.seq], rows = a.layout.seq_rows[t.seq + 1] - row;
    t.first = (gridDim.x - 1 - blockIdx.x) * QUERIES; /* the ones with most keys start first */
    if (t.slot < 0 || rows <= 1 || t.first >= rows * a.group) return;
    t.n = min(rows * a.group - t.first, QUERIES);
    t.length = a.layout.seq_length[t.seq];
    attention_tile<KV, PAIRS, PER_WARP> tile(a, shared);
    tile.begin(t);
    const block_range blocks = visible_blocks(a, t.length, t.lowest, t.highest);
    tile.pass(t, blocks.begin * BLOCK_TILES, blocks.end * BLOCK_TILES);

    const int lane = threadIdx.x % 32;
    for (int i = 0; i < PER_WARP; i++) {
        const int query = tile.query_of(i);
        if (query >= t.n) break;
        const int64_t n = row + (t.first + query) / a.group;
        const int h = t.kv_head * a.group + (t.first + query) % a.group;
        const float sum = tile.state.sum[i], factor = sum == 0 ? 0 : 1 / sum; /* NaN stays NaN */
#pragma unroll
        for (int j = 0; j < 2 * PAIRS; j++) {
            const int d = 2 * lane + j / 2 * 64 + j % 2;
            if (d < a.head_dim)
                store_any(a.act, a.out, n * a.out_stride + (int64_t)h * a.head_dim + d,
                          tile.state.acc[i][j] * factor);
        }
        if (lane == 0) tap_sums(a, n, h, tile.state.max[i], sum);
        if (lane == 0 && a.lse != NULL)
            a.lse[n * a.lse_stride + h] = sum == 0 ? -CUDART_INF_F : tile.state.max[i] + logf(sum);
    }
}

/* ---- sequences with one row: divided ---- */

template <typename KV, int PAIRS, int PER_WARP>
__device__ void store_sums(const attention_args &a, const attention_task &t, int64_t place,
                           const attention_tile<KV, PAIRS, PER_WARP> &tile)
{
    const auto &state = tile.state;
#pragma unroll
    for (int i = 0; i < PER_WARP; i++) {
        const int query = tile.query_of(i);
#pragma unroll
        for (int j = 0; j < 2 * PAIRS && query < t.n; j++) {
            const int d = 2 * (threadIdx.x % 32) + j / 2 * 64 + j % 2;
            if (d < a.head_dim)
                store_summed(a, t, place, query, d, state.acc[i][j], state.max[i], state.sum[i]);
        }
    }
}

template <typename KV, int PAIRS, int PER_WARP>
static __global__ void __launch_bounds__(THREADS) attend_divided(attention_args a)
{
    extern __shared__ __align__(16) char shared[];
    wait_for_predecessor();
    attention_tile<KV, PAIRS, PER_WARP> tile(a, shared);
    attend_shares(a, PER_WARP * WARPS, [&](attention_task t, block_range blocks, int64_t place) {
        tile.begin(t);
        tile.pass(t, blocks.begin * BLOCK_TILES, blocks.end * BLOCK_TILES);
        store_sums(a, t, place, tile);
    });
}

/* ---- host ---- */

/* Two tiles in shared memory where a block of any GPU has room for them, else one. */
template <typename Kernel>
static enum phx_status set_shared(Kernel kernel, size_t (*bytes)(int), attention_args *a,
                                  size_t *out)
{
    a->n_stages = bytes(2) <= SHARED_BYTES ? 2 : 1;
    *out = bytes(a->n_stages);
    PHX_CUDA_TRY(cudaFuncSetAttribute,
                 (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)*out));
    return PHX_OK;
}

template <typename KV, int PAIRS, int PER_WARP>
static enum phx_status run_rows(struct phx_stream *stream, attention_args a, int32_t max_seq_rows)
{
    size_t bytes;
    PHX_TRY(set_shared(attend_rows<KV, PAIRS, PER_WARP>,
                       attention_tile<KV, PAIRS, PER_WARP>::shared_bytes, &a, &bytes));
    const dim3 grid((unsigned)ceil_div((int64_t)max_seq_rows * a.group, PER_WARP * WARPS),
                    (unsigned)a.n_kv_heads, (unsigned)a.layout.n_seqs);
    return launch(stream, "attend_rows", {grid, THREADS, bytes}, attend_rows<KV, PAIRS, PER_WARP>,
                  a);
}

template <typename KV, int PAIRS, int PER_WARP>
static enum phx_status run_divided(struct phx_stream *stream, attention_args a)
{
    size_t bytes;
    PHX_TRY(set_shared(attend_divided<KV, PAIRS, PER_WARP>,
                       attention_tile<KV, PAIRS, PER_WARP>::shared_bytes, &a, &bytes));
    const dim3 grid((unsigned)a.n_workers, (unsigned)a.n_kv_heads,
                    (unsigned)ceil_div(a.group, PER_WARP * WARPS));
    return launch(stream, "attend_divided", {grid, THREADS, bytes},
                  attend_divided<KV, PAIRS, PER_WARP>, a);
}

template <typename KV, int PAIRS>
static enum phx_status run_plain(struct phx_stream *stream, const attention_args &a,
                                 int32_t max_seq_rows)
{
    if (max_seq_rows > 1) PHX_TRY((run_rows<KV, PAIRS, 4>(stream, a, max_seq_rows)));
    if (a.group <= WARPS) return run_divided<KV, PAIRS, 1>(stream, a);
    if (a.group <= 2 * WARPS) return run_divided<KV, PAIRS, 2>(stream, a);
    return run_divided<KV, PAIRS, 4>(stream, a);
}

/* What tensor cores take: 16-bit activations and a cache of the same type, heads of 64 or 128, all
 * of it aligned. */
static bool fits_mma(const attention_args &a, enum phx_dtype kv)
{
    return a.act == kv && kv != PHX_F32 && (a.head_dim == 64 || a.head_dim == 128) && a.in_words &&
           ((uintptr_t)a.q | (uintptr_t)a.out) % 4 == 0 && (a.q_stride | a.out_stride) % 2 == 0;
}

extern "C" enum phx_status PHX_ATTENTION(phx_cuda_attention)(struct phx_stream *stream,
                                                             const struct phx_attention *args)
{
    const struct phx_kv_pages *kv = &args->kv;
    attention_args a = {};
    a.q = address_of<const void>(args->q);
    a.q_stride = args->q.stride;
    a.k = address_of<const void>(kv->k);
    a.v = address_of<const void>(kv->v);
    a.out = address_of<void>(args->out);
    a.out_stride = args->out.stride;
    a.lse = address_of<float>(args->lse);
    a.lse_stride = args->lse.stride;
    a.act = args->q.dtype;
    a.n_heads = args->n_heads;
    a.n_kv_heads = kv->n_kv_heads;
    a.group = args->n_heads / kv->n_kv_heads;
    a.head_dim = kv->head_dim;
    a.window = args->window;
    a.scale = args->scale;
    a.soft_cap = args->soft_cap;
    a.in_words = phx_dtype_bytes(kv->k.dtype, kv->head_dim) % 16 == 0 && (uintptr_t)a.k % 16 == 0 &&
                 (uintptr_t)a.v % 16 == 0;
    a.partial = (float *)phx_cuda_stream(stream)->partial;
    a.share_pitch = phx_cuda_share_pitch(kv->head_dim);
    a.tickets = (unsigned *)phx_cuda_stream(stream)->tickets;
    a.n_workers = phx_cuda_attention_workers(stream->device, kv->n_kv_heads);
    a.layout = view_of(args->layout);
    set_tap(&a, args);
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_ASSERT(kv->head_dim <= PHX_CUDA_MAX_HEAD_DIM && a.layout.n_seqs <= PHX_MAX_SEQS);
    PHX_ASSERT(kv->k.rows <= UINT32_MAX); /* attention_decode.cu counts so */
    if (a.layout.n_seqs == 0) return PHX_OK;
    const int32_t rows = args->layout->max_seq_rows;
    if (fits_mma(a, kv->k.dtype)) {
        bool done = rows <= 1;
        if (!done) PHX_TRY(PHX_ATTENTION(phx_cuda_attention_wgmma)(stream, a, *kv, rows, &done));
        if (!done) PHX_TRY(PHX_ATTENTION(phx_cuda_attention_mma)(stream, a, kv->k.dtype, rows));
        return PHX_ATTENTION(phx_cuda_attention_decode)(stream, a, kv->k.dtype);
    }
    return with_type(kv->k.dtype, [&](auto type) {
        using KV = decltype(type);
        if (a.head_dim <= 64) return run_plain<KV, 1>(stream, a, rows);
        if (a.head_dim <= 128) return run_plain<KV, 2>(stream, a, rows);
        if (a.head_dim <= 192) return run_plain<KV, 3>(stream, a, rows);
        return run_plain<KV, 4>(stream, a, rows);
    });
}
