/* Rotary embedding: the table of a step's angles, and the kernel that norms and rotates heads and
 * appends keys and values to the cache. */
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/layout.cuh"

enum { THREADS = 128, WARPS = THREADS / 32, MAX_HEAD_DIM = 256 };

__global__ void rope_table(const int32_t *positions, const float *inv_freq, float scale, float *out,
                           int64_t out_stride, int64_t half)
{
    const int64_t n = blockIdx.x;
    wait_for_predecessor();
    const float position = (float)positions[n];
    for (int64_t i = threadIdx.x; i < half; i += THREADS) {
        float sine, cosine;
        sincosf(position * inv_freq[i], &sine, &cosine); /* right for large angles too */
        out[n * out_stride + i] = cosine * scale;
        out[n * out_stride + half + i] = sine * scale;
    }
}

extern "C" enum phx_status phx_cuda_rope_table(struct phx_stream *stream,
                                               const struct phx_rope_table *args)
{
    PHX_TRY(phx_cuda_use(stream->device));
    return launch(stream, "rope_table", {(unsigned)args->out.rows, THREADS}, rope_table,
                  address_of<const int32_t>(args->positions),
                  address_of<const float>(args->inv_freq), args->scale,
                  address_of<float>(args->out), args->out.stride, args->inv_freq.cols);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    head_squares(const T *qkv, int64_t stride, int64_t q, int64_t k, float *out)
{
    __shared__ float shared[32];
    const T *x = qkv + blockIdx.x * stride;
    float squares[2] = {};
    wait_for_predecessor();
    for (int64_t i = threadIdx.x; i < q + k; i += THREADS)
        squares[i < q ? 0 : 1] += to_f32(x[i]) * to_f32(x[i]);
    for (int i = 0; i < 2; i++) {
        const float sum = block_reduce(squares[i], add_op(), shared);
        if (threadIdx.x == 0) out[2 * blockIdx.x + i] = sum;
    }
}

extern "C" enum phx_status phx_cuda_head_squares(struct phx_stream *stream,
                                                 const struct phx_head_squares *args)
{
    PHX_TRY(phx_cuda_use(stream->device));
    return with_type(args->qkv.dtype, [&](auto type) {
        using T = decltype(type);
        return launch(stream, "head_squares", {(unsigned)args->qkv.rows, THREADS}, head_squares<T>,
                      address_of<const T>(args->qkv), args->qkv.stride,
                      (int64_t)args->n_heads * args->head_dim,
                      (int64_t)args->n_kv_heads * args->head_dim, address_of<float>(args->out));
    });
}

struct append_args {
    void *qkv;
    int64_t qkv_stride;
    int32_t n_heads, n_kv_heads, head_dim, rotated; /* rotated: R */
    const float *cos_sin;
    int64_t cos_sin_stride;
    const float *q_norm, *k_norm;
    const float *squares; /* NULL: each head is normed by its own */
    float q_full, k_full;
    float epsilon;
    void *k, *v;
    layout_view layout;
};

/* The slot's block that holds the key at `position`, or -1. */
__device__ int32_t find_block(const layout_view &l, int32_t seq, int32_t slot, int32_t position)
{
    if (l.page_position == NULL) return position / PHX_PAGE_TOKENS;
    for (int32_t block = (l.seq_length[seq] - 1) / PHX_PAGE_TOKENS; block >= 0; block--) {
        const int32_t key = position - block_position(l, slot, block);
        if (key >= 0 && key < PHX_PAGE_TOKENS) return block;
    }
    return -1;
}

/* Where a row's key lies in the pages of KV head 0, counted in keys; -1 if not on this rank. */
__device__ int64_t find_place(const struct append_args &a, int32_t seq, int32_t slot,
                              int32_t position)
{
    const int32_t block = find_block(a.layout, seq, slot, position);
    if (block < 0) return -1;
    const int64_t page = page_of(a.layout, slot, block);
    if (page < 0) return -1;
    return page * a.n_kv_heads * PHX_PAGE_TOKENS + position - block_position(a.layout, slot, block);
}

enum { EACH = MAX_HEAD_DIM / 32 }; /* values of a head that a lane has: lane, lane + 32, ... */

/* What rotates and norms a lane's values: all of it is asked for at once. */
struct head_factors {
    float cosine[EACH / 2], sine[EACH / 2], norm[EACH];
    float squares; /* of all heads */
};

__device__ void load_factors(const struct append_args &a, int64_t row, const float *norm,
                             const float *squares, struct head_factors &f)
{
    const int lane = threadIdx.x % 32, half = a.rotated / 2;
    const float *cos_sin = a.cos_sin + row * a.cos_sin_stride;
#pragma unroll
    for (int i = 0; i < EACH / 2; i++) {
        const int d = lane + 32 * i;
        if (d >= half) break;
        f.cosine[i] = cos_sin[d];
        f.sine[i] = cos_sin[d + half];
    }
    if (norm == NULL) return;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i < a.head_dim) f.norm[i] = norm[lane + 32 * i];
    f.squares = squares != NULL ? *squares : 0;
}

/* A warp's head, in shared memory: normed and rotated. */
__device__ void prepare(const struct append_args &a, const struct head_factors &f, bool normed,
                        float full, float *head)
{
    const int lane = threadIdx.x % 32, half = a.rotated / 2;
    if (normed) {
        float squares = 0;
        for (int d = lane; d < a.head_dim; d += 32) squares += head[d] * head[d];
        squares = warp_reduce(squares, add_op());
        const float mean = a.squares != NULL ? f.squares / full : squares / (float)a.head_dim;
        const float scale = 1 / sqrtf(mean + a.epsilon);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (lane + 32 * i < a.head_dim) head[lane + 32 * i] *= scale * f.norm[i];
        __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < EACH / 2; j++) {
        const int i = lane + 32 * j;
        if (i >= half) break;
        const float x = head[i], y = head[i + half], c = f.cosine[j], s = f.sine[j];
        head[i] = x * c - y * s;
        head[i + half] = y * c + x * s;
    }
    __syncwarp();
}

/* A warp for each head of each row. T: activations; KV: the cache. */
template <typename T, typename KV>
__global__ void __launch_bounds__(THREADS) rope_append(struct append_args a)
{
    __shared__ float heads[WARPS][MAX_HEAD_DIM];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t row = blockIdx.x;
    const int32_t index = blockIdx.y * WARPS + warp;
    const bool is_q = index < a.n_heads, is_k = !is_q && index < a.n_heads + a.n_kv_heads;
    const int32_t kv_head = (index - a.n_heads) % a.n_kv_heads;
    T *from = (T *)a.qkv + row * a.qkv_stride + (int64_t)index * a.head_dim;
    const float *norm = is_q ? a.q_norm : is_k ? a.k_norm : NULL, *squares = NULL;
    if (a.squares != NULL && norm != NULL) {
        squares = a.squares + 2 * row + (is_q ? 0 : 1);
        norm += (int64_t)(is_q ? index : kv_head) * a.head_dim;
    }
    prefetch_layout(a.layout, row);
    if (lane * 8 < a.rotated) prefetch(a.cos_sin + row * a.cos_sin_stride + lane * 8);
    if (norm != NULL && lane * 8 < a.head_dim) prefetch(norm + lane * 8);
    wait_for_predecessor();
    if (index >= a.n_heads + 2 * a.n_kv_heads) return;
    const int32_t seq = a.layout.row_seq[row], position = a.layout.positions[row];
    T own[EACH];
    struct head_factors factors;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i < a.head_dim) own[i] = from[lane + 32 * i];
    if (is_q || is_k) load_factors(a, row, norm, squares, factors);
    const int32_t slot = a.layout.seq_slot[seq];
    if (slot < 0) return;
    const int64_t place = is_q ? 0 : find_place(a, seq, slot, position);
    if (place < 0) return;

    float *head = heads[warp];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (lane + 32 * i < a.head_dim) head[lane + 32 * i] = to_f32(own[i]);
    __syncwarp();
    if (is_q || is_k) prepare(a, factors, norm != NULL, is_q ? a.q_full : a.k_full, head);
    if (is_q) {
        for (int d = lane; d < a.head_dim; d += 32) from[d] = from_f32<T>(head[d]);
        return;
    }
    KV *to = (KV *)(is_k ? a.k : a.v) + (place + (int64_t)kv_head * PHX_PAGE_TOKENS) * a.head_dim;
    for (int d = lane; d < a.head_dim; d += 32) to[d] = from_f32<KV>(head[d]);
}

extern "C" enum phx_status phx_cuda_rope_append(struct phx_stream *stream,
                                                const struct phx_rope_append *args)
{
    const struct phx_kv_pages *kv = &args->kv;
    const struct append_args a = {address_of<void>(args->qkv),
                                  args->qkv.stride,
                                  args->n_heads,
                                  kv->n_kv_heads,
                                  kv->head_dim,
                                  phx_tensor_present(args->cos_sin) ? (int32_t)args->cos_sin.cols
                                                                    : 0,
                                  address_of<const float>(args->cos_sin),
                                  args->cos_sin.stride,
                                  address_of<const float>(args->q_norm),
                                  address_of<const float>(args->k_norm),
                                  address_of<const float>(args->squares),
                                  (float)args->q_full,
                                  (float)args->k_full,
                                  args->epsilon,
                                  address_of<void>(kv->k),
                                  address_of<void>(kv->v),
                                  view_of(args->layout)};
    PHX_TRY(phx_cuda_use(stream->device));
    PHX_ASSERT(kv->head_dim <= MAX_HEAD_DIM);
    return with_type(args->qkv.dtype, [&](auto t) {
        return with_type(kv->k.dtype, [&](auto c) {
            const dim3 grid((unsigned)args->layout->n_rows,
                            (unsigned)ceil_div(a.n_heads + 2 * a.n_kv_heads, WARPS));
            return launch(stream, "rope_append", {grid, THREADS},
                          rope_append<decltype(t), decltype(c)>, a);
        });
    });
}
