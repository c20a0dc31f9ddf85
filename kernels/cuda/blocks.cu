/* Quantised weights: laid down in planes (blocks.cuh), and single rows or many of them as values.
 */
#include "kernels/cuda/blocks.cuh"

enum { THREADS = 128, QUAD = 4 };

/* ---- from blocks as they lie in files ---- */

template <enum phx_dtype Q> struct file_block {
    static constexpr int COLS = block_type<Q>::LARGE ? 256 : 32;
    static constexpr int QUANTS = Q == PHX_Q6_K   ? 0
                                  : Q == PHX_Q4_1 ? 4
                                  : Q == PHX_Q5_0 ? 6
                                  : Q == PHX_Q5_1 ? 8
                                  : Q == PHX_Q4_K ? 16
                                  : Q == PHX_Q5_K ? 48
                                                  : 2;
    static constexpr int TOPS = Q == PHX_Q5_0 ? 2 : Q == PHX_Q5_1 ? 4 : Q == PHX_Q5_K ? 16 : 128;
    static constexpr int SCALES = Q == PHX_Q6_K ? 192 : 0, SUPER = 208;
    static constexpr int SCALE_BYTES = block_type<Q>::LARGE ? 16 : block_type<Q>::LOW ? 4 : 2;
    static constexpr int BYTES =
        Q == PHX_Q6_K ? SUPER + 2 : QUANTS + COLS / (block_type<Q>::BYTES ? 1 : 2);
};

/* Number i of a block as it is stored there, all its bits put together. */
template <enum phx_dtype Q> __device__ inline uint32_t stored_q(const uint8_t *block, int i)
{
    using type = block_type<Q>;
    const uint8_t *quants = block + file_block<Q>::QUANTS, *tops = block + file_block<Q>::TOPS;
    if (type::BYTES) return quants[i];
    if (Q == PHX_Q6_K) {
        const int quarter = i % 128 / 32;
        return (quants[i / 128 * 64 + i % 64] >> (quarter / 2 * 4) & 15) |
               (tops[i / 128 * 32 + i % 32] >> (2 * quarter) & 3) << 4;
    }
    const int half = type::LARGE ? 32 : 16;
    const uint32_t low = quants[i / (2 * half) * half + i % half] >> (i / half % 2 * 4) & 15;
    if (type::TOP == 0) return low;
    const int top = type::LARGE ? tops[i % 32] >> (i / 32) & 1 : tops[i / 8] >> (i % 8) & 1;
    return low | top << 4;
}

template <enum phx_dtype Q>
__device__ inline void gather_part(const uint8_t *row, int64_t blocks, int64_t index, int t,
                                   part<Q> *p)
{
    using type = block_type<Q>;
    for (int i = 0; i < 32; i++) { /* group i / 8, pair i / 2 % 4 of it */
        const int j = i / 8, v = i % 8;
        const int64_t col = index * PHX_CUDA_PART + 32 * j + v / 4 * 16 + 4 * t + v % 4;
        const int64_t block = col / file_block<Q>::COLS;
        if (block >= blocks) break;
        const uint32_t q =
            stored_q<Q>(row + block * file_block<Q>::BYTES, (int)(col % file_block<Q>::COLS));
        if (type::BYTES) {
            p->quants[i / 4 % type::QUANTS] |= q << (i % 4 * 8);
            continue;
        }
        p->quants[j] |= (q & 15) << (v / 2 * 4 + v % 2 * 16);
        if (type::TOP == 1) p->tops[0] |= q >> 4 << (j * 4 + v / 2 + v % 2 * 16);
        if (type::TOP == 2) p->tops[j / 2] |= q >> 4 << (j % 2 * 8 + v / 2 * 2 + v % 2 * 16);
    }
}

__device__ inline void copy_pairs(const uint8_t *from, char *to, int bytes)
{
    for (int i = 0; i < bytes; i += 2) *(uint16_t *)(to + i) = from[i] | from[i + 1] << 8;
}

/* The scales that begin in a part. */
template <enum phx_dtype Q>
__device__ inline void arrange_scales(const uint8_t *row, int64_t blocks, int64_t index,
                                      const struct phx_cuda_planes &planes, uint32_t to_row)
{
    using file = file_block<Q>;
    char *scales = row_of(planes.scales, planes.pitches.scales, to_row);
    if (block_type<Q>::LARGE) {
        const uint8_t *block = row + index / 2 * file::BYTES;
        if (index % 2 != 0 || index / 2 >= blocks) return;
        copy_pairs(block + file::SCALES, scales + index / 2 * 16, file::SCALE_BYTES);
        if (Q == PHX_Q6_K)
            copy_pairs(block + file::SUPER,
                       row_of(planes.supers, planes.pitches.supers, to_row) + index / 2 * 2, 2);
    } else {
        for (int64_t b = index * 4; b < index * 4 + 4 && b < blocks; b++)
            copy_pairs(row + b * file::BYTES, scales + b * file::SCALE_BYTES, file::SCALE_BYTES);
    }
}

/* A thread for each lane's share of a part of a row. */
template <enum phx_dtype Q>
__global__ void arrange(struct phx_cuda_planes planes, int64_t first_row, int64_t rows,
                        int64_t blocks, const uint8_t *from)
{
    using type = block_type<Q>;
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, index = i / QUAD;
    const int t = i % QUAD;
    wait_for_predecessor();
    if (index >= planes.cols / PHX_CUDA_PART) return;
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
        const uint8_t *row = from + r * blocks * file_block<Q>::BYTES;
        const uint32_t to_row = (uint32_t)(first_row + r);
        part<Q> p = {};
        gather_part<Q>(row, blocks, index, t, &p);
        char *quants = quants_at<Q>(planes, to_row, index, t);
        for (int w = 0; w < type::QUANTS; w++)
            *(uint32_t *)(quants + w / 4 * 64 + w % 4 * 4) = p.quants[w];
        char *tops = row_of(planes.tops, planes.pitches.tops, to_row);
        for (int w = 0; w < type::TOP; w++)
            *(uint32_t *)(tops + ((index * QUAD + t) * type::TOP + w) * 4) = p.tops[w];
        if (t == 0) arrange_scales<Q>(row, blocks, index, planes, to_row);
    }
}

extern "C" enum phx_status phx_cuda_blocks_arrange(struct phx_stream *stream, enum phx_dtype dtype,
                                                   const struct phx_cuda_planes *planes,
                                                   int64_t row, int64_t rows, int64_t blocks,
                                                   const void *from)
{
    const int64_t threads = planes->cols / PHX_CUDA_PART * QUAD;
    if (rows == 0 || threads == 0) return PHX_OK;
    return with_block_type(dtype, [&](auto tag) {
        return launch(stream, "arrange_blocks", {grid_of(rows, threads, THREADS), THREADS},
                      arrange<decltype(tag)::value>, *planes, row, rows, blocks,
                      (const uint8_t *)from);
    });
}

/* ---- to values ---- */

/* lead: columns that are left out in front. */
template <enum phx_dtype Q, typename T>
__global__ void expand(struct phx_cuda_planes planes, int64_t first_row, int64_t rows, int64_t lead,
                       int64_t cols, T *to, int64_t to_stride)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, index = i / QUAD;
    const int t = i % QUAD;
    wait_for_predecessor();
    if (index * PHX_CUDA_PART >= lead + cols) return;
    const bool whole = lead % 4 == 0 && cols % 4 == 0;
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
        part<Q> p = load_part<Q>(planes, (uint32_t)(first_row + r), index, t);
        unpack_scales(&p, index);
#pragma unroll
        for (int run = 0; run < PHX_CUDA_PART / 16; run++) {
            const int64_t col = index * PHX_CUDA_PART + run * 16 + 4 * t - lead;
            float values[4];
            four<T> narrow;
            T *out = to + r * to_stride + col;
            values_of(p, run / 2, run % 2, values);
#pragma unroll
            for (int v = 0; v < 4; v++) narrow.values[v] = from_f32<T>(values[v]);
            if (whole && col >= 0 && col < cols) *(four<T> *)out = narrow;
#pragma unroll
            for (int v = 0; v < 4; v++)
                if (!whole && col + v >= 0 && col + v < cols) out[v] = narrow.values[v];
        }
    }
}

extern "C" enum phx_status phx_cuda_blocks_expand(struct phx_stream *stream, enum phx_dtype dtype,
                                                  const struct phx_cuda_planes *planes, int64_t row,
                                                  int64_t rows, int64_t lead, int64_t cols,
                                                  enum phx_dtype to_dtype, void *to,
                                                  int64_t to_stride)
{
    const int64_t threads = ceil_div(lead + cols, PHX_CUDA_PART) * QUAD;
    if (rows == 0 || cols == 0) return PHX_OK;
    return with_block_type(dtype, [&](auto tag) {
        return with_type(to_dtype, [&](auto type) {
            using T = decltype(type);
            return launch(stream, "expand_blocks", {grid_of(rows, threads, THREADS), THREADS},
                          expand<decltype(tag)::value, T>, *planes, row, rows, lead, cols, (T *)to,
                          to_stride);
        });
    });
}

/* ---- embed ---- */

struct embed_args {
    struct phx_cuda_planes table;
    int64_t share, lead;
    int32_t vocab_begin;
    const int32_t *ids, *last_ids;
    float scale;
    void *out;
    int64_t out_stride, cols;
};

template <enum phx_dtype Q, typename T> __global__ void embed(struct embed_args a)
{
    const int64_t n = blockIdx.x;
    wait_for_predecessor();
    const int64_t row = (int64_t)token_at(a.ids, a.last_ids, n) - a.vocab_begin;
    const bool ours = row >= 0 && row < a.share;
    T *out = (T *)a.out + n * a.out_stride;
    for (int64_t i = threadIdx.x; i / QUAD * PHX_CUDA_PART < a.lead + a.cols; i += THREADS) {
        const int64_t index = i / QUAD;
        const int t = i % QUAD;
        part<Q> p = {};
        if (ours) p = load_part<Q>(a.table, (uint32_t)row, index, t);
        unpack_scales(&p, index);
        for (int run = 0; run < PHX_CUDA_PART / 16; run++) {
            float values[4];
            values_of(p, run / 2, run % 2, values);
            for (int v = 0; v < 4; v++) {
                const int64_t col = index * PHX_CUDA_PART + run * 16 + 4 * t + v - a.lead;
                if (col >= 0 && col < a.cols)
                    out[col] = from_f32<T>(ours ? values[v] * a.scale : 0);
            }
        }
    }
}

extern "C" enum phx_status phx_cuda_blocks_embed(struct phx_stream *stream,
                                                 const struct phx_embed *args)
{
    const struct phx_weight_shape *shape = &args->table->shape;
    const struct embed_args a = {phx_cuda_planes_of(shape, args->table->buffer->address),
                                 shape->rows,
                                 shape->lead,
                                 args->vocab_begin,
                                 address_of<const int32_t>(args->ids),
                                 address_of<const int32_t>(args->last_ids),
                                 args->scale,
                                 address_of<void>(args->out),
                                 args->out.stride,
                                 args->out.cols};
    return with_block_type(shape->dtype, [&](auto tag) {
        return with_type(args->out.dtype, [&](auto type) {
            return launch(stream, "embed_blocks", {(unsigned)args->out.rows, THREADS},
                          embed<decltype(tag)::value, decltype(type)>, a);
        });
    });
}
