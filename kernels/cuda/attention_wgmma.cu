/* Attention of sequences with several rows on Hopper's tensor cores (wgmma, sm_90a), for what
 * attention_mma.cu takes otherwise.
 *
 * A block takes 192 queries of a KV head, 64 for each of three warpgroups. One warp of a fourth
 * brings keys and values by bulk tensor copies; in `control` it says which pages they are. The
 * product of one tile's keys runs with that of the tile before's values, and the softmax of one
 * warpgroup beside the products of the others.
 *
 * Shared memory holds 64 values of each row in 128 bytes, rows one after the other, the 16-byte
 * chunks of a row exchanged by row % 8 (the 128-byte swizzle of copies and wgmma); the next 64
 * values of all rows follow. That is K-major for queries and keys and, transposed, MN-major for
 * values. A lane holds of a 64 x N result what it holds of mma.sync's (attention_mma.cuh), for the
 * 16 rows of its warp. */
#include <cudaTypedefs.h>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_wgmma.cuh"
#include "kernels/cuda/attention_wgmma_load.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* ---- the warpgroups that compute ---- */

/* A lane's part of 64 queries: see warp_queries. Maxima are of scores before `factor`. */
template <int DIM> struct group_queries {
    int32_t first;
    int32_t position[2];
    float max[2], sum[2];
    float out[DIM / 8][4];
    float factor; /* of scores to exponents of 2 */
};

/* Queries of the warpgroup to shared memory. */
template <typename T, int DIM>
__device__ void place_queries(const attention_args &a, const attention_task &t,
                              group_queries<DIM> &w, char *queries)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = warp * WARP_QUERIES + lane / 4 + 8 * half;
        const int32_t query = w.first + lane / 4 + 8 * half;
        const uint32_t *words = query_words<T>(a, t, query);
        w.position[half] = -1;
        if (words != NULL)
            w.position[half] =
                a.layout.positions[a.layout.seq_rows[t.seq] + (t.first + query) / a.group];
#pragma unroll
        for (int chunk = 0; chunk < DIM / 8; chunk++)
            *(uint32_t *)(queries + chunk_offset(r, chunk, QUERIES_BYTES) + lane % 4 * 4) =
                words != NULL ? words[4 * chunk + lane % 4] : 0;
        w.max[half] = -CUDART_INF_F;
        w.sum[half] = 0;
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        for (int i = 0; i < 4; i++) w.out[n][i] = 0;
    publish_shared();
}

template <typename T, int DIM>
__device__ inline void issue_scores(uint64_t queries, uint64_t keys, float (&s)[KEYS / 8][4])
{
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
        wgmma(T(), s, further(queries, k / 4 * QUERIES_BYTES + k % 4 * 32),
              further(keys, k / 4 * KEYS_BYTES + k % 4 * 32), k > 0);
    wgmma_commit();
}

template <typename T, int DIM>
__device__ inline void issue_values(const uint32_t (&p)[KEYS / 16][4], uint64_t values,
                                    float (&out)[DIM / 8][4])
{
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
        wgmma(T(), out, p[k], further(values, k * 2 * SWIZZLE_BYTES));
    wgmma_commit();
}

/* What scores before `factor` are multiplied by to be those of the formula. */
static __device__ float score_unit(const attention_args &a)
{
    return a.soft_cap > 0 ? 1 : a.scale;
}

/* A lane's element i of column block n: its key in the tile's page. */
static __device__ int32_t page_key(int n, int i)
{
    return lane_key(n % (PHX_PAGE_TOKENS / 8), i);
}

template <int DIM>
__device__ inline void tap_tile_scores(const attention_args &a, const attention_task &t,
                                       const tile_blocks &tile, const group_queries<DIM> &w,
                                       const float (&s)[KEYS / 8][4])
{
#pragma unroll
    for (int half = 0; half < (TAPPED ? 2 : 0); half++) {
        const int64_t entry = tap_entry(a, t, w.first + threadIdx.x % 32 / 4 + 8 * half);
        if (entry < 0) continue;
        for (int p = 0; p < tile.n && threadIdx.x % 4 == 0; p++)
            tap_read(a, t, entry, tile.block[p], DIM * 2);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                const int p = n / (PHX_PAGE_TOKENS / 8);
                if (p < tile.n)
                    tap_score(a, entry, tile.block[p] * PHX_PAGE_TOKENS + page_key(n, i),
                              s[n][i] * a.scale);
            }
    }
}

template <int DIM>
__device__ inline void tap_tile_weights(const attention_args &a, const attention_task &t,
                                        const tile_blocks &tile, const group_queries<DIM> &w,
                                        const float (&s)[KEYS / 8][4])
{
    const float unit = score_unit(a);
#pragma unroll
    for (int half = 0; half < (TAPPED ? 2 : 0); half++) {
        const int64_t entry = tap_entry(a, t, w.first + threadIdx.x % 32 / 4 + 8 * half);
        if (entry < 0) continue;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                const int p = n / (PHX_PAGE_TOKENS / 8);
                if (p < tile.n)
                    tap_weight(a, entry, tile.block[p] * PHX_PAGE_TOKENS + page_key(n, i), s[n][i],
                               w.max[half] * unit);
            }
    }
}

/* Minus infinity where a query does not see a key. */
template <int DIM>
__device__ inline void mask_scores(const attention_args &a, const tile_blocks &tile,
                                   const group_queries<DIM> &w, float (&s)[KEYS / 8][4])
{
    int32_t begin[PAGES][2], end[PAGES][2]; /* keys of a page that the lane's queries see */
    bool all = true;
#pragma unroll
    for (int p = 0; p < PAGES; p++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int32_t last = w.position[half] - tile.position[p];
            begin[p][half] = a.window > 0 ? last - a.window + 1 : 0;
            end[p][half] = min(last + 1, tile.n_keys[p]);
            all = all && begin[p][half] <= 0 && end[p][half] >= PHX_PAGE_TOKENS;
        }
    if (__all_sync(~0u, all)) return;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int p = n / (PHX_PAGE_TOKENS / 8);
            const int32_t key = page_key(n, i);
            if (key < begin[p][i / 2] || key >= end[p][i / 2]) s[n][i] = -CUDART_INF_F;
        }
}

static __device__ float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Scores to weights; `shrink`: what the sums before are to be multiplied by. */
template <int DIM>
__device__ inline void weigh(group_queries<DIM> &w, float (&s)[KEYS / 8][4], float (&shrink)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float even = w.max[half], odd = w.max[half], sum[2] = {};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            even = fmaxf(even, s[n][2 * half]);
            odd = fmaxf(odd, s[n][2 * half + 1]);
        }
        float largest = fmaxf(even, odd);
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
        const float base = largest == -CUDART_INF_F ? 0 : largest * w.factor; /* or NaN */
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = power_of_2(fmaf(s[n][i], w.factor, -base));
                sum[i % 2] += s[n][i];
            }
        shrink[half] = power_of_2(fmaf(w.max[half], w.factor, -base));
        w.max[half] = largest;
        w.sum[half] = w.sum[half] * shrink[half] + (sum[0] + sum[1]); /* of this lane's keys */
    }
}

template <int DIM>
__device__ inline void finish_tile(const attention_args &a, const attention_task &t,
                                   const tile_blocks &tile, group_queries<DIM> &w,
                                   float (&s)[KEYS / 8][4], float (&shrink)[2])
{
    tap_tile_scores(a, t, tile, w, s);
    if (a.soft_cap > 0) {
        const float inner = a.scale / a.soft_cap;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = a.soft_cap * tanhf(s[n][i] * inner);
    }
    mask_scores(a, tile, w, s);
    weigh(w, s, shrink);
    tap_tile_weights(a, t, tile, w, s);
}

template <typename T>
__device__ inline void round_weights(const float (&s)[KEYS / 8][4], uint32_t (&p)[KEYS / 16][4])
{
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p[k][i] = pack(T(), s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}

template <int DIM>
__device__ inline void shrink_sums(const float (&shrink)[2], group_queries<DIM> &w)
{
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) w.out[n][j] *= shrink[j / 2];
}

template <typename T, int DIM>
__device__ void consume(const attention_args &a, const attention_task &t, shared_control &c,
                        char *shared, int group, group_queries<DIM> &w)
{
    using layout = shared_layout<DIM>;
    char *queries = shared + group * layout::GROUP;
    place_queries<T>(a, t, w, queries);
    sync_threads(1 + group, 128);

    const uint64_t q = describe(shared_address(queries), 0, SWIZZLE_BYTES);
    const uint64_t k = describe(shared_address(shared + layout::K), 0, SWIZZLE_BYTES);
    const uint64_t v = describe(shared_address(shared + layout::V), KEYS_BYTES, SWIZZLE_BYTES);
    float s[KEYS / 8][4], shrink[2];
    uint32_t p[KEYS / 16][4];
    await(&c.k_full[0], 0);
    tile_blocks tile = c.tiles[0];
    if (tile.n == 0) return;
    issue_scores<T, DIM>(q, k, s);
    wgmma_wait<0>();
    pin(s);
    release(&c.k_empty[0]);
    finish_tile(a, t, tile, w, s, shrink);
    round_weights<T>(s, p);

    int stage = 0, parity = 0; /* of the values; the keys are a tile ahead */
    for (;;) {
        const int next = stage + 1 < STAGES ? stage + 1 : 0;
        await(&c.k_full[next], next > stage ? parity : parity ^ 1);
        tile = c.tiles[next];
        if (tile.n == 0) break;
        await(&c.v_full[stage], parity);
        issue_scores<T, DIM>(q, further(k, next * layout::TILE), s);
        shrink_sums(shrink, w);
        issue_values<T, DIM>(p, further(v, stage * layout::TILE), w.out);
        wgmma_wait<1>();
        pin(s);
        release(&c.k_empty[next]);
        finish_tile(a, t, tile, w, s, shrink);
        pin(s);
        stay_above(w.sum[0] < 0 || w.sum[1] < 0); /* beside the values' products */
        wgmma_wait<0>();
        pin(w.out);
        pin(p);
        release(&c.v_empty[stage]);
        round_weights<T>(s, p);
        parity = next > stage ? parity : parity ^ 1;
        stage = next;
    }
    await(&c.v_full[stage], parity);
    shrink_sums(shrink, w);
    issue_values<T, DIM>(p, further(v, stage * layout::TILE), w.out);
    wgmma_wait<0>();
    pin(w.out);
}

template <typename T, int DIM>
__device__ void store_queries(const attention_args &a, const attention_task &t,
                              const group_queries<DIM> &w)
{
    const int lane = threadIdx.x % 32;
    const float unit = score_unit(a);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = w.sum[half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const int32_t own = w.first + lane / 4 + 8 * half, query = t.first + own;
        if (own >= t.n) continue;
        const int64_t row = a.layout.seq_rows[t.seq] + query / a.group;
        const int64_t head = t.kv_head * a.group + query % a.group;
        const float factor = sum == 0 ? 0 : 1 / sum, max = w.max[half] * unit;
        uint32_t *out = (uint32_t *)((T *)a.out + row * a.out_stride + head * DIM);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            out[4 * n + lane % 4] =
                pack(T(), w.out[n][2 * half] * factor, w.out[n][2 * half + 1] * factor);
        if (lane % 4 == 0) tap_sums(a, row, (int32_t)head, max, sum);
        if (lane % 4 == 0 && a.lse != NULL)
            a.lse[row * a.lse_stride + head] = sum == 0 ? -CUDART_INF_F : max + logf(sum);
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

#endif

template <typename T, int DIM>
static __global__ void __launch_bounds__(THREADS, 1)
    attend_wgmma(attention_args a, const __grid_constant__ tensor_maps maps)
{
    wait_for_predecessor();
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char unaligned[];
    __shared__ shared_control control;
    char *shared = unaligned + (-shared_address(unaligned) & (SWIZZLE_BYTES - 1));
    attention_task t;
    t.seq = blockIdx.z;
    t.kv_head = blockIdx.y;
    t.slot = a.layout.seq_slot[t.seq];
    const int32_t rows = a.layout.seq_rows[t.seq + 1] - a.layout.seq_rows[t.seq];
    t.first = (gridDim.x - 1 - blockIdx.x) * QUERIES; /* the ones with most keys start first */
    if (t.slot < 0 || rows <= 1 || t.first >= rows * a.group) return;
    t.n = min(rows * a.group - t.first, (int32_t)QUERIES);
    t.length = a.layout.seq_length[t.seq];
    find_positions(a, t);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&control.k_full[i], 1);
            barrier_init(&control.v_full[i], 1);
            barrier_init(&control.k_empty[i], CONSUMERS * 4); /* warps */
            barrier_init(&control.v_empty[i], CONSUMERS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        publish_shared();
    }
    __syncthreads();

    const int group = (int)threadIdx.x / 128 - 1;
    if (group < 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        if (threadIdx.x < 32) produce<DIM>(a, t, maps, control, shared);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
        group_queries<DIM> w;
        w.first = group * GROUP_QUERIES + threadIdx.x / 32 % 4 * WARP_QUERIES;
        w.factor = score_unit(a) * 1.4426950408889634f;
        consume<T>(a, t, control, shared, group, w);
        store_queries<T>(a, t, w);
    }
#endif
}

/* ---- host ---- */

/* A tensor of pages as copies see it: rows of a head, 64 values of 64 rows at a time. */
static enum phx_status describe_pages(PFN_cuTensorMapEncodeTiled_v12000 encode,
                                      CUtensorMapDataType type, const attention_args &a,
                                      const void *pages, int64_t rows, CUtensorMap *out)
{
    const cuuint64_t sizes[] = {(cuuint64_t)a.head_dim, (cuuint64_t)rows};
    const cuuint64_t pitch[] = {(cuuint64_t)a.head_dim * 2};
    const cuuint32_t box[] = {64, PHX_PAGE_TOKENS}, steps[] = {1, 1};
    const CUresult result =
        encode(out, type, 2, (void *)pages, sizes, pitch, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
               CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return PHX_OK;
    return phx_fail(PHX_DEVICE, "cuTensorMapEncodeTiled failed: error %d", (int)result);
}

/* The driver's function; the program is not linked with the driver. */
static enum phx_status describe_cache(const attention_args &a, const struct phx_kv_pages &kv,
                                      tensor_maps *out)
{
    void *function = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    PHX_CUDA_TRY(cudaGetDriverEntryPointByVersion,
                 ("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
        return phx_fail(PHX_DEVICE, "the CUDA driver has no cuTensorMapEncodeTiled");
    const PFN_cuTensorMapEncodeTiled_v12000 encode = (PFN_cuTensorMapEncodeTiled_v12000)function;
    const CUtensorMapDataType type =
        kv.k.dtype == PHX_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const int64_t rows = (int64_t)kv.n_pages * kv.n_kv_heads * PHX_PAGE_TOKENS;
    PHX_TRY(describe_pages(encode, type, a, a.k, rows, &out->k));
    return describe_pages(encode, type, a, a.v, rows, &out->v);
}

template <typename T, int DIM>
static enum phx_status run(struct phx_stream *stream, const attention_args &a,
                           const struct phx_kv_pages &kv, int32_t max_seq_rows, bool *done)
{
    struct cudaFuncAttributes attributes;
    PHX_CUDA_TRY(cudaFuncGetAttributes, (&attributes, attend_wgmma<T, DIM>));
    *done = attributes.sharedSizeBytes > 0; /* the code for this GPU is not the empty one */
    if (!*done) return PHX_OK;
    tensor_maps maps;
    PHX_TRY(describe_cache(a, kv, &maps));
    const int bytes = shared_layout<DIM>::BYTES;
    PHX_CUDA_TRY(cudaFuncSetAttribute,
                 ((attend_wgmma<T, DIM>), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const dim3 grid((unsigned)ceil_div((int64_t)max_seq_rows * a.group, QUERIES),
                    (unsigned)a.n_kv_heads, (unsigned)a.layout.n_seqs);
    return launch(stream, "attend_wgmma", {grid, THREADS, (size_t)bytes}, attend_wgmma<T, DIM>, a,
                  maps);
}

template <typename T>
static enum phx_status run_any(struct phx_stream *stream, const attention_args &a,
                               const struct phx_kv_pages &kv, int32_t max_seq_rows, bool *done)
{
    return a.head_dim == 64 ? run<T, 64>(stream, a, kv, max_seq_rows, done)
                            : run<T, 128>(stream, a, kv, max_seq_rows, done);
}

enum phx_status PHX_ATTENTION(phx_cuda_attention_wgmma)(struct phx_stream *stream,
                                                        const struct attention_args &a,
                                                        const struct phx_kv_pages &kv,
                                                        int32_t max_seq_rows, bool *done)
{
    /* Few queries fill attention_mma.cu's smaller tiles better; maxima are taken before scaling;
     * coordinates of copies are 32-bit. */
    *done = false;
    if ((int64_t)max_seq_rows * a.group <= GROUP_QUERIES || !(a.scale > 0) ||
        (int64_t)kv.n_pages * kv.n_kv_heads > INT32_MAX / PHX_PAGE_TOKENS)
        return PHX_OK;
    return kv.k.dtype == PHX_F16 ? run_any<phx_f16>(stream, a, kv, max_seq_rows, done)
                                 : run_any<phx_bf16>(stream, a, kv, max_seq_rows, done);
}
