/* Attention on plain f32 arithmetic: every type and head size.
 *
 * A block takes a tile of queries that read the same KV head and passes over their keys, 32 at a
 * time, with the running maximum and sum of the softmax; the next keys and values are on their way
 * meanwhile. Each warp owns some of the queries: scores with a key a lane, sums with a few values
 * of the head a lane, so that nothing but keys and values passes between warps.
 *
 * Sequences with one row (decode) are divided over a fixed number of workers, whatever their
 * lengths: the pages of all such sequences, side by side, are cut into equal runs. A worker leaves
 * a partial result for each sequence that it touches; a second kernel merges them. Worker w and
 * sequence s meet at place w + s, which no other pair has, since both only go up along the cut. */
#include "kernels/cuda/attention_tile.cuh"

enum {
    MAX_HEAD_DIM = 256,
    MAX_GRID_Z = 65535,
    MERGE_THREADS = 128,
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
        const float sum = tile.state.sum[i], factor = sum > 0 ? 1 / sum : 0;
#pragma unroll
        for (int j = 0; j < 2 * PAIRS; j++) {
            const int d = 2 * lane + j / 2 * 64 + j % 2;
            if (d < a.head_dim)
                store_any(a.act, a.out, n * a.out_stride + (int64_t)h * a.head_dim + d,
                          tile.state.acc[i][j] * factor);
        }
        if (lane == 0) tap_sums(a, n, h, tile.state.max[i], sum);
        if (lane == 0 && a.lse != NULL)
            a.lse[n * a.lse_stride + h] = sum > 0 ? tile.state.max[i] + logf(sum) : -CUDART_INF_F;
    }
}

/* ---- sequences with one row: divided, then merged ---- */

/* Blocks of keys that a sequence's only row can see; none for others. */
static __device__ block_range decode_blocks(const attention_args &a, int32_t seq)
{
    const struct layout_view &l = a.layout;
    if (seq >= l.n_seqs || l.seq_slot[seq] < 0) return {0, 0};
    const int32_t row = l.seq_rows[seq];
    if (l.seq_rows[seq + 1] - row != 1) return {0, 0};
    return visible_blocks(a, l.seq_length[seq], l.positions[row], l.positions[row]);
}

/* Where worker w begins, of `total` blocks. */
static __device__ int64_t worker_begin(int64_t w, int64_t total, int64_t n_workers)
{
    return w * total / n_workers;
}

/* Which worker has a block. */
static __device__ int64_t worker_of(int64_t block, int64_t total, int64_t n_workers)
{
    return ((block + 1) * n_workers - 1) / total;
}

static __device__ int64_t count_blocks(const attention_args &a, int32_t n_seqs, int64_t *shared)
{
    int64_t count = 0;
    for (int32_t s = threadIdx.x; s < n_seqs; s += blockDim.x) {
        const block_range r = decode_blocks(a, s);
        count += r.end - r.begin;
    }
    return block_reduce(count, add_op(), shared);
}

/* The sum over threads before this one; all threads call it. */
static __device__ int64_t scan_before(int64_t x, int64_t *shared)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t sum = x;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int64_t other = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += other;
    }
    __syncthreads();
    if (lane == 31) shared[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warp; w++) sum += shared[w];
    return sum - x;
}

template <typename KV, int PAIRS, int PER_WARP>
__device__ void store_partial(const attention_args &a, const attention_task &t, int64_t place,
                              const attention_tile<KV, PAIRS, PER_WARP> &tile)
{
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < PER_WARP; i++) {
        const int query = tile.query_of(i);
        if (query >= t.n) break;
        const int h = t.kv_head * a.group + t.first + query;
        float *to = a.partial + (place * a.n_heads + h) * (a.head_dim + 2);
#pragma unroll
        for (int j = 0; j < 2 * PAIRS; j++) {
            const int d = 2 * lane + j / 2 * 64 + j % 2;
            if (d < a.head_dim) to[d] = tile.state.acc[i][j];
        }
        if (lane == 0) {
            to[a.head_dim] = tile.state.max[i];
            to[a.head_dim + 1] = tile.state.sum[i];
        }
    }
}

template <typename KV, int PAIRS, int PER_WARP>
static __global__ void __launch_bounds__(THREADS) attend_divided(attention_args a)
{
    extern __shared__ __align__(16) char shared[];
    __shared__ int64_t sums[32];
    __shared__ int64_t before[THREADS + 1]; /* blocks of sequences before each of a batch */
    wait_for_predecessor();
    const int64_t total = count_blocks(a, a.layout.n_seqs, sums);
    const int64_t n_workers = total < a.n_workers ? total : a.n_workers;
    const int64_t w = blockIdx.x;
    if (w >= n_workers) return;
    const int64_t begin = worker_begin(w, total, n_workers);
    const int64_t end = worker_begin(w + 1, total, n_workers);
    attention_tile<KV, PAIRS, PER_WARP> tile(a, shared);
    int64_t passed = 0;
    for (int32_t batch = 0; batch < a.layout.n_seqs && passed < end; batch += THREADS) {
        const block_range own = decode_blocks(a, batch + threadIdx.x);
        const int64_t n = own.end - own.begin, mine = passed + scan_before(n, sums);
        before[threadIdx.x] = mine;
        if (threadIdx.x == THREADS - 1) before[THREADS] = mine + n;
        __syncthreads();
        for (int i = 0; i < THREADS && batch + i < a.layout.n_seqs; i++) {
            const int64_t low = max(begin, before[i]), high = min(end, before[i + 1]);
            if (low >= high) continue;
            const block_range blocks = decode_blocks(a, batch + i);
            const int32_t shift = (int32_t)(blocks.begin - before[i]);
            attention_task t;
            t.seq = batch + i;
            t.slot = a.layout.seq_slot[t.seq];
            t.length = a.layout.seq_length[t.seq];
            t.kv_head = blockIdx.y;
            t.first = blockIdx.z * PER_WARP * WARPS;
            t.n = min(a.group - t.first, PER_WARP * WARPS);
            tile.begin(t);
            tile.pass(t, (int32_t)(low + shift) * BLOCK_TILES,
                      (int32_t)(high + shift) * BLOCK_TILES);
            store_partial(a, t, w + t.seq, tile);
        }
        passed = before[THREADS];
        __syncthreads();
    }
}

/* A block for each sequence and head. */
static __global__ void __launch_bounds__(MERGE_THREADS) merge(attention_args a)
{
    __shared__ int64_t sums[32];
    const int32_t seq = blockIdx.x, h = blockIdx.y;
    wait_for_predecessor();
    if (seq == 0 && h == 0 && threadIdx.x == 0) tap_call(a);
    const int64_t total = count_blocks(a, a.layout.n_seqs, sums);
    const int64_t first = count_blocks(a, seq, sums);
    const block_range own = decode_blocks(a, seq);
    const int64_t n_workers = total < a.n_workers ? total : a.n_workers;
    const int64_t row = a.layout.seq_rows[seq];
    if (a.layout.seq_slot[seq] < 0 || a.layout.seq_rows[seq + 1] - row != 1) return;

    int64_t w_begin = 0, w_end = 0;
    if (own.begin < own.end) {
        w_begin = worker_of(first, total, n_workers);
        w_end = worker_of(first + own.end - own.begin - 1, total, n_workers) + 1;
    }
    const int64_t pitch = a.head_dim + 2, step = a.n_heads * pitch;
    const float *from = a.partial + ((w_begin + seq) * a.n_heads + h) * pitch;
    float largest = -CUDART_INF_F, sum = 0;
    for (int64_t i = 0; i < w_end - w_begin; i++)
        largest = fmaxf(largest, from[i * step + a.head_dim]);
    const bool none = largest == -CUDART_INF_F;
    for (int64_t i = 0; !none && i < w_end - w_begin; i++)
        sum += from[i * step + a.head_dim + 1] * expf(from[i * step + a.head_dim] - largest);
    for (int d = threadIdx.x; d < a.head_dim; d += MERGE_THREADS) {
        float value = 0;
        for (int64_t i = 0; !none && i < w_end - w_begin; i++)
            value += from[i * step + d] * expf(from[i * step + a.head_dim] - largest);
        store_any(a.act, a.out, row * a.out_stride + (int64_t)h * a.head_dim + d,
                  none ? 0 : value / sum);
    }
    if (threadIdx.x == 0) tap_sums(a, row, h, largest, sum);
    if (threadIdx.x == 0 && a.lse != NULL)
        a.lse[row * a.lse_stride + h] = none ? -CUDART_INF_F : largest + logf(sum);
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
    PHX_TRY(launch(stream, "attend_divided", {grid, THREADS, bytes},
                   attend_divided<KV, PAIRS, PER_WARP>, a));
    const dim3 heads((unsigned)a.layout.n_seqs, (unsigned)a.n_heads);
    return launch(stream, "merge", {heads, MERGE_THREADS}, merge, a);
}

template <typename KV, int PAIRS>
static enum phx_status run(struct phx_stream *stream, const attention_args &a, enum phx_dtype kv,
                           int32_t max_seq_rows)
{
    bool done = max_seq_rows <= 1;
    if (!done) PHX_TRY(PHX_ATTENTION(phx_cuda_attention_mma)(stream, a, kv, max_seq_rows, &done));
    if (!done) PHX_TRY((run_rows<KV, PAIRS, 4>(stream, a, max_seq_rows)));
    if (a.group <= WARPS) return run_divided<KV, PAIRS, 1>(stream, a);
    if (a.group <= 2 * WARPS) return run_divided<KV, PAIRS, 2>(stream, a);
    return run_divided<KV, PAIRS, 4>(stream, a);
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
    a.n_workers = phx_cuda_attention_workers(stream->device, kv->n_kv_heads);
    a.layout = view_of(args->layout);
    set_tap(&a, args);
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_ASSERT(kv->head_dim <= MAX_HEAD_DIM && a.layout.n_seqs <= MAX_GRID_Z);
    if (a.layout.n_seqs == 0) return PHX_OK;
    return with_type(kv->k.dtype, [&](auto type) {
        using KV = decltype(type);
        const int32_t rows = args->layout->max_seq_rows;
        if (a.head_dim <= 64) return run<KV, 1>(stream, a, kv->k.dtype, rows);
        if (a.head_dim <= 128) return run<KV, 2>(stream, a, kv->k.dtype, rows);
        if (a.head_dim <= 192) return run<KV, 3>(stream, a, kv->k.dtype, rows);
        return run<KV, 4>(stream, a, kv->k.dtype, rows);
    });
}
