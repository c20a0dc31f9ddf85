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

/// Where query `query` of a task is summed at a place: D values, then from a multiple of 4 on the
/// largest score and the sum of exponentials.
__device__ inline float *share_of(const attention_args &a, const attention_task &t, int64_t place,
                                  int32_t query)
{
    const int32_t head = t.kv_head * a.group + t.first + query;
    return a.partial + (place * a.n_heads + head) * a.share_pitch;
}

/// The largest score and the sum of exponentials of a share.
__device__ inline float2 *share_stats(const attention_args &a, float *share)
{
    return (float2 *)(share + a.share_pitch - 4);
}

/// A sequence as the division sees it.
struct decode_sequence {
    bool is_decoded; ///< it has one row
    int32_t slot, length, position;
    block_range blocks; ///< of keys that its row can see
};

/// Sequence `seq`, or nothing past the last. All is asked for at once: most often the sequences
/// have a row each, so that the row of the position is known before seq_rows is.
__device__ inline decode_sequence read_sequence(const attention_args &a, int32_t seq)
{
    const struct layout_view &l = a.layout;
    decode_sequence s = {};
    if (seq >= l.n_seqs) return s;
    const int32_t row = l.seq_rows[seq], end = l.seq_rows[seq + 1];
    s.slot = l.seq_slot[seq];
    s.length = l.seq_length[seq];
    s.position = l.positions[min(seq, l.n_rows - 1)];
    s.is_decoded = s.slot >= 0 && end - row == 1;
    if (!s.is_decoded) return s;
    if (row != seq) s.position = l.positions[row];
    s.blocks = visible_blocks(a, s.length, s.position, s.position);
    return s;
}

__device__ inline int32_t count_blocks(const decode_sequence &s)
{
    return s.blocks.end - s.blocks.begin;
}

/// A share of fewer blocks costs more in merging than it saves in reading; and so does a second
/// share of a sequence of at most WHOLE_BLOCKS.
enum { SHARE_BLOCKS = 2, WHOLE_BLOCKS = 4 };

/// How blocks are divided over workers: runs of `each`, the first `longer` ones with a block more.
struct division {
    int32_t n_workers, each, longer;

    /// Where worker w begins.
    __device__ int32_t begin(int32_t w) const
    {
        return w * each + min(w, longer);
    }

    /// Which worker has a block.
    __device__ int32_t worker_of(int32_t block) const
    {
        const int32_t passed = longer * (each + 1);
        return block < passed ? block / (each + 1) : longer + (block - passed) / each;
    }
};

/// `total` blocks, at most `most` of a sequence.
__device__ inline division divide(int32_t total, int32_t most)
{
    const int32_t share = most <= WHOLE_BLOCKS ? max(most, 1) : (int32_t)SHARE_BLOCKS;
    division d;
    d.n_workers = min((total + share - 1) / share, (int32_t)gridDim.x);
    d.each = d.n_workers > 1 ? total / d.n_workers : total;
    d.longer = total - d.each * d.n_workers;
    return d;
}

/// The sum over lanes up to this one.
__device__ inline int32_t scan(int32_t x)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int32_t other = __shfl_up_sync(~0u, x, offset);
        if (lane >= offset) x += other;
    }
    return x;
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
    if (d == 0) *share_stats(a, to) = make_float2(max, sum);
}

/// The results of a task from its n shares, from `place` on: a warp for 128 values of a query, a
/// lane for four of them. Shares are asked for several at a time; what was summed before shrinks
/// with the new maximum.
__device__ inline void merge_shares(const attention_args &a, const attention_task &t, int64_t place,
                                    int32_t n)
{
    constexpr int AT_ONCE = 16;
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const int turns = (a.head_dim + 127) / 128; /* of a query */
    const int64_t step = a.n_heads * a.share_pitch;
    for (int i = threadIdx.x / 32; i < t.n * turns; i += n_warps) {
        const int query = i / turns, d = i % turns * 128 + lane * 4;
        const int column = min(d, a.head_dim - 1) / 4 * 4; /* lanes past the end: any */
        float *const from = share_of(a, t, place, query);
        float largest = -CUDART_INF_F, sum = 0, value[4] = {};
#pragma unroll 1
        for (int32_t first = 0; first < n; first += AT_ONCE) {
            float4 values[AT_ONCE]; /* past the last: that again, with weight 0 */
            float2 stats[AT_ONCE];
            float most = largest;
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++) {
                float *share = from + min(first + s, n - 1) * step;
                stats[s] = __ldcg(share_stats(a, share));
                values[s] = __ldcg((const float4 *)(share + column));
            }
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++) most = fmaxf(most, stats[s].x);
            const float base = most == -CUDART_INF_F ? 0 : most;
            const float factor = expf(largest - base);
            largest = most;
            sum *= factor;
#pragma unroll
            for (int v = 0; v < 4; v++) value[v] *= factor;
#pragma unroll
            for (int s = 0; s < AT_ONCE; s++) {
                const float weight = first + s < n ? expf(stats[s].x - base) : 0;
                sum = fmaf(stats[s].y, weight, sum);
                value[0] = fmaf(values[s].x, weight, value[0]);
                value[1] = fmaf(values[s].y, weight, value[1]);
                value[2] = fmaf(values[s].z, weight, value[2]);
                value[3] = fmaf(values[s].w, weight, value[3]);
            }
        }
#pragma unroll
        for (int v = 0; v < 4; v++)
            if (d + v < a.head_dim) store_summed(a, t, -1, query, d + v, value[v], largest, sum);
    }
}

/// One more ticket, with all that this block wrote and others wrote before theirs.
__device__ inline unsigned take_ticket(unsigned *ticket)
{
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(__cvta_generic_to_global(ticket))
                 : "memory");
    return before;
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
        last = take_ticket(ticket) == (unsigned)n_shares - 1;
        if (last) *ticket = 0;
    }
    __syncthreads();
    return last;
}

/// A sequence that sees no key at all, which no worker has.
__device__ inline void store_unseeing(const attention_args &a, const attention_task &t)
{
    for (int i = threadIdx.x; i < t.n * a.head_dim; i += blockDim.x)
        store_result(a, t, i / a.head_dim, i % a.head_dim, 0);
    if ((int)threadIdx.x < t.n) store_sum(a, t, threadIdx.x, -CUDART_INF_F, 0);
}

/// What all sequences have, a lane a sequence; those that see no key are done with.
__device__ inline division divide_all(const attention_args &a, attention_task t)
{
    int32_t total = 0, most = 0;
    for (int32_t batch = 0; batch < a.layout.n_seqs; batch += 32) {
        const decode_sequence s = read_sequence(a, batch + threadIdx.x % 32);
        total += count_blocks(s);
        most = max(most, count_blocks(s));
        unsigned unseeing = __ballot_sync(~0u, s.is_decoded && count_blocks(s) == 0);
        for (; unseeing != 0; unseeing &= unseeing - 1) {
            t.seq = batch + __ffs(unseeing) - 1;
            if (t.seq % gridDim.x == blockIdx.x) store_unseeing(a, t);
        }
    }
    return divide(warp_reduce(total, add_op()), warp_reduce(most, max_op()));
}

/// The sequence that has block `block` of all, a lane a sequence; `before`: blocks before its own.
__device__ inline int32_t find_sequence(const attention_args &a, int32_t block, int32_t *before)
{
    int32_t passed = 0;
    for (int32_t batch = 0;; batch += 32) {
        const int32_t n = count_blocks(read_sequence(a, batch + threadIdx.x % 32));
        const int32_t end = passed + scan(n);
        const unsigned reached = __ballot_sync(~0u, end > block);
        if (reached != 0) {
            *before = __shfl_sync(~0u, end - n, __ffs(reached) - 1);
            return batch + __ffs(reached) - 1;
        }
        passed = __shfl_sync(~0u, end, 31);
    }
}

/// All of this block's work, for tiles of at most `tile` queries: sum(task, blocks, place) is
/// called by all threads for each sequence of which this worker has blocks, and stores what it sums
/// over them at that place. Every warp finds the work for itself.
template <typename Sum>
__device__ inline void attend_shares(const attention_args &a, int32_t tile, Sum sum)
{
    if (blockIdx.x + blockIdx.y + blockIdx.z == 0 && threadIdx.x == 0) tap_call(a);
    const bool alone = a.layout.n_seqs == 1;
    attention_task t = {};
    t.kv_head = blockIdx.y;
    t.first = blockIdx.z * tile;
    t.n = min(a.group - t.first, tile);
    decode_sequence s;
    division shares;
    if (alone) {
        s = read_sequence(a, 0);
        const int32_t n = count_blocks(s);
        shares = divide(n, n);
        if (s.is_decoded && n == 0 && blockIdx.x == 0) store_unseeing(a, t);
    } else {
        shares = divide_all(a, t);
    }
    const int32_t w = blockIdx.x;
    if (w >= shares.n_workers) return;
    const int32_t begin = shares.begin(w), end = shares.begin(w + 1);
    int32_t before = 0;
    if (!alone) t.seq = find_sequence(a, begin, &before);
    for (; before < end; t.seq++) {
        if (!alone) s = read_sequence(a, t.seq);
        const int32_t n = count_blocks(s), shift = s.blocks.begin - before;
        if (n == 0) continue;
        t.slot = s.slot;
        t.length = s.length;
        t.lowest = t.highest = s.position;
        const int32_t first = alone ? 0 : shares.worker_of(before);
        const int32_t last = alone ? shares.n_workers - 1 : shares.worker_of(before + n - 1);
        const int32_t n_shares = last - first + 1;
        sum(t, block_range{max(begin, before) + shift, min(end, before + n) + shift},
            n_shares > 1 ? (int64_t)w + t.seq : -1);
        if (n_shares > 1 && is_last(a, t, n_shares))
            merge_shares(a, t, (int64_t)first + t.seq, n_shares);
        before += n;
    }
}

#endif
