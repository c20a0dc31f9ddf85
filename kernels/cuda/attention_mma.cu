/* Attention of sequences with several rows on tensor cores, for 16-bit types: the queries of a KV
 * head, row by row, in tiles of 64, a warp for 16 of them; the keys and values of a page at a time,
 * the next page on its way meanwhile. */
#include "kernels/cuda/attention_mma.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, QUERIES = WARPS * WARP_QUERIES, KEYS = PHX_PAGE_TOKENS };

template <typename T, int DIM>
__device__ void store_queries(const attention_args &a, const attention_task &t,
                              const warp_queries<T, DIM> &w)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float sum = whole_sum(w, half);
        const int32_t query = t.first + lane_query(w, half);
        if (query >= t.first + t.n) continue;
        const int64_t row = a.layout.seq_rows[t.seq] + query / a.group;
        const int64_t head = t.kv_head * a.group + query % a.group;
        const float factor = sum == 0 ? 0 : 1 / sum;
        uint32_t *out = (uint32_t *)((T *)a.out + row * a.out_stride + head * DIM);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            out[4 * n + lane % 4] =
                pack(T(), w.out[n][2 * half] * factor, w.out[n][2 * half + 1] * factor);
        if (lane % 4 == 0) tap_sums(a, row, (int32_t)head, w.max[half], sum);
        if (lane % 4 == 0 && a.lse != NULL)
            a.lse[row * a.lse_stride + head] = sum == 0 ? -CUDART_INF_F : w.max[half] + logf(sum);
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
    using layout = stage_layout<DIM, KEYS>;
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
    load_queries(a, t, threadIdx.x / 32 * WARP_QUERIES, w);

    const block_range blocks = visible_blocks(a, t.length, t.lowest, t.highest);
    int32_t block = next_tile<KEYS>(a, t, blocks.begin, blocks.end);
    int stage = 0;
    load_tile<DIM, KEYS, THREADS>(a, t, block, blocks.end, stages, threadIdx.x);
    while (block < blocks.end) {
        const int32_t following = next_tile<KEYS>(a, t, block + 1, blocks.end);
        load_tile<DIM, KEYS, THREADS>(a, t, following, blocks.end,
                                      stages + (stage ^ 1) * layout::BYTES, threadIdx.x);
        __pipeline_wait_prior(1);
        __syncthreads();
        attend_tile<T, DIM, KEYS / 8>(a, t, block, stages + stage * layout::BYTES, w);
        __syncthreads();
        block = following;
        stage ^= 1;
    }
    store_queries(a, t, w);
}

template <typename T, int DIM>
static enum phx_status run(struct phx_stream *stream, const attention_args &a, int32_t max_seq_rows)
{
    const int bytes = 2 * stage_layout<DIM, KEYS>::BYTES;
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
                                                      enum phx_dtype kv, int32_t max_seq_rows)
{
    return kv == PHX_F16 ? run_any<phx_f16>(stream, a, max_seq_rows)
                         : run_any<phx_bf16>(stream, a, max_seq_rows);
}
