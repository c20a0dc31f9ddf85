/// \file attention_divide.cuh
/// Sequences with one row (decode), divided over a fixed number of workers whatever their lengths:
/// the pages of all such sequences, side by side, are cut into equal runs, a worker's each. A
/// worker leaves a share of the result for each sequence of which it has pages; the one that
/// finishes a sequence last merges its shares, in their order. Worker w and sequence s meet at
/// place w + s, which no other pair has, since both only go up along the cut.
///
/// The grid is [workers, KV heads, tiles of a group's heads].
#ifndef PHX_KERNELS_CUDA_ATTENTION_DIVIDE_CUH
#define PHX_KERNELS_CUDA_ATTENTION_DIVIDE_CUH

#include <math_constants.h>

#include "kernels/cuda/attention_tap.cuh"
#include "kernels/cuda/block.cuh"

/// Where query `query` of a task is summed at a place: D values, the largest score, the sum of
/// exponentials.
__device__ inline float *share_of(const attention_args &a, const attention_task &t, int64_t place,
                                  int32_t query)
{
    const int32_t head = t.kv_head * a.group + t.first + query;
    return a.partial + (place * a.n_heads + head) * (a.head_dim + 2);
}

__device__ inline bool is_decoded(const attention_args &a, int32_t seq)
{
    const struct layout_view &l = a.layout;
    return l.seq_slot[seq] >= 0 && l.seq_rows[seq + 1] - l.seq_rows[seq] == 1;
}

/// Blocks of keys that a sequence's only row can see; none for others.
__device__ inline block_range decode_blocks(const attention_args &a, int32_t seq)
{
    const struct layout_view &l = a.layout;
    if (seq >= l.n_seqs || !is_decoded(a, seq)) return {0, 0};
    const int32_t position = l.positions[l.seq_rows[seq]];
    return visible_blocks(a, l.seq_length[seq], position, position);
}

/// Dividing further would cost more in merging than it saves in reading.
enum { SHARE_BLOCKS = 4 };

__device__ inline int64_t count_workers(int64_t total)
{
    const int64_t most = (total + SHARE_BLOCKS - 1) / SHARE_BLOCKS;
    return most < gridDim.x ? most : gridDim.x;
}

/// Where worker w begins, of `total` blocks.
__device__ inline int64_t worker_begin(int64_t w, int64_t total, int64_t n_workers)
{
    return w * total / n_workers;
}

/// Which worker has a block.
__device__ inline int64_t worker_of(int64_t block, int64_t total, int64_t n_workers)
{
    return ((block + 1) * n_workers - 1) / total;
}

__device__ inline int64_t count_blocks(const attention_args &a, int64_t *shared)
{
    int64_t count = 0;
    for (int32_t s = threadIdx.x; s < a.layout.n_seqs; s += blockDim.x) {
        const block_range r = decode_blocks(a, s);
        count += r.end - r.begin;
    }
    return block_reduce(count, add_op(), shared);
}

/// The sum over threads before this one; all threads call it.
__device__ inline int64_t scan_before(int64_t x, int64_t *shared)
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

__device__ inline void store_result(const attention_args &a, const attention_task &t, int32_t query,
                                    int32_t d, float value)
{
    const int64_t row = a.layout.seq_rows[t.seq];
    const int64_t head = t.kv_head * a.group + t.first + query;
    store_any(a.act, a.out, row * a.out_stride + head * a.head_dim + d, value);
}

__device__ inline void store_sum(const attention_args &a, const attention_task &t, int32_t query,
                                 float max, float sum)
{
    const int64_t row = a.layout.seq_rows[t.seq];
    const int32_t head = t.kv_head * a.group + t.first + query;
    tap_sums(a, row, head, max, sum);
    if (a.lse != NULL)
        a.lse[row * a.lse_stride + head] = sum == 0 ? -CUDART_INF_F : max + logf(sum);
}

/// Value d of what was summed for a query: to its share, or, without a place (-1), the result.
__device__ inline void store_summed(const attention_args &a, const attention_task &t, int64_t place,
                                    int32_t query, int32_t d, float value, float max, float sum)
{
    if (place < 0) {
        store_result(a, t, query, d, sum == 0 ? 0 : value / sum);
        if (d == 0) store_sum(a, t, query, max, sum);
        return;
    }
    float *to = share_of(a, t, place, query);
    to[d] = value;
    if (d == 0) to[a.head_dim] = max;
    if (d == 0) to[a.head_dim + 1] = sum;
}

/// The results of a task from its n shares, from `place` on; a warp for a query.
__device__ inline void merge_shares(const attention_args &a, const attention_task &t, int64_t place,
                                    int32_t n)
{
    constexpr int EACH = PHX_CUDA_MAX_HEAD_DIM / 32; /* values of a lane */
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32, dim = a.head_dim;
    const int64_t step = (int64_t)a.n_heads * (dim + 2);
    for (int query = threadIdx.x / 32; query < t.n; query += n_warps) {
        const float *from = share_of(a, t, place, query);
        float largest = -CUDART_INF_F, sum = 0, value[EACH] = {};
        for (int32_t i = lane; i < n; i += 32)
            largest = fmaxf(largest, __ldcg(from + i * step + dim));
        largest = warp_reduce(largest, max_op());
        const float base = largest == -CUDART_INF_F ? 0 : largest;
#pragma unroll 4
        for (int32_t i = 0; i < n; i++) {
            const float *share = from + i * step;
            const float weight = expf(__ldcg(share + dim) - base);
            sum = fmaf(__ldcg(share + dim + 1), weight, sum);
#pragma unroll
            for (int j = 0; j < EACH; j++)
                if (lane + 32 * j < dim)
                    value[j] = fmaf(__ldcg(share + lane + 32 * j), weight, value[j]);
        }
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (lane + 32 * j < dim)
                store_summed(a, t, -1, query, lane + 32 * j, value[j], largest, sum);
    }
}

/// After all threads have stored their part of a share: whether the sequence is complete with it.
/// The tickets of complete sequences are 0 again for the next launch.
__device__ inline bool is_last(const attention_args &a, const attention_task &t, int32_t n_shares)
{
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        const int64_t tile = (int64_t)t.seq * a.n_kv_heads + t.kv_head;
        unsigned *ticket = a.tickets + tile * gridDim.z + blockIdx.z;
        __threadfence();
        last = atomicAdd(ticket, 1) == (unsigned)n_shares - 1;
        if (last) *ticket = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

/// Sequences that see no key at all, which no worker has.
__device__ inline void store_unseeing(const attention_args &a, attention_task t, int32_t tile)
{
    t.kv_head = blockIdx.y;
    t.first = blockIdx.z * tile;
    t.n = min(a.group - t.first, tile);
    for (t.seq = blockIdx.x; t.seq < a.layout.n_seqs; t.seq += gridDim.x) {
        const block_range blocks = decode_blocks(a, t.seq);
        if (!is_decoded(a, t.seq) || blocks.begin < blocks.end) continue;
        for (int i = threadIdx.x; i < t.n * a.head_dim; i += blockDim.x)
            store_result(a, t, i / a.head_dim, i % a.head_dim, 0);
        if ((int)threadIdx.x < t.n) store_sum(a, t, threadIdx.x, -CUDART_INF_F, 0);
    }
}

/// All of this block's work, for tiles of at most `tile` queries: sum(task, blocks, place) is
/// called by all threads for each sequence of which this worker has blocks, and stores what it sums
/// over them at that place. THREADS: of the block.
template <int THREADS, typename Sum>
__device__ inline void attend_shares(const attention_args &a, int32_t tile, Sum sum)
{
    __shared__ int64_t sums[32];
    __shared__ int64_t before[THREADS + 1]; /* blocks of sequences before each of a batch */
    if (blockIdx.x + blockIdx.y + blockIdx.z == 0 && threadIdx.x == 0) tap_call(a);
    attention_task t = {};
    store_unseeing(a, t, tile);
    const int64_t total = count_blocks(a, sums);
    const int64_t n_workers = count_workers(total), w = blockIdx.x;
    if (w >= n_workers) return;
    const int64_t begin = worker_begin(w, total, n_workers);
    const int64_t end = worker_begin(w + 1, total, n_workers);
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
            t.seq = batch + i;
            t.slot = a.layout.seq_slot[t.seq];
            t.length = a.layout.seq_length[t.seq];
            t.kv_head = blockIdx.y;
            t.first = blockIdx.z * tile;
            t.n = min(a.group - t.first, tile);
            t.lowest = t.highest = a.layout.positions[a.layout.seq_rows[t.seq]];
            const int64_t first = worker_of(before[i], total, n_workers);
            const int64_t last = worker_of(before[i + 1] - 1, total, n_workers);
            const int32_t n_shares = (int32_t)(last - first) + 1;
            const int32_t shift = (int32_t)(decode_blocks(a, t.seq).begin - before[i]);
            sum(t, block_range{(int32_t)low + shift, (int32_t)high + shift},
                n_shares > 1 ? w + t.seq : -1);
            if (n_shares > 1 && is_last(a, t, n_shares))
                merge_shares(a, t, first + t.seq, n_shares);
        }
        passed = before[THREADS];
        __syncthreads();
    }
}

#endif
