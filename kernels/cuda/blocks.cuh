/// \file blocks.cuh
/// A quantised weight as kernels read it. Four lanes, a quad, read PHX_CUDA_PART columns of a row:
/// lane t has columns 32 j + 16 m + 4 t + {0, 1, 2, 3} for j < 4, m < 2. These are pairs 2 m and
/// 2 m + 1 of group j, as a tensor core takes them of both of its operands.
///
/// A lane's share of a part, little-endian words; q as in kernels/base/blocks.h:
///   quants  Q8_0: 8 words, two a group, bytes in the order of columns; the first four of all lanes
///           lie before the other four. Else 4 words, one a group: pair i has its low four bits at
///           bit 4 i and, of the second column, 4 i + 16.
///   tops    what is atop of four bits. One bit: a word, pair i of group j at bits 4 j + i and
///           + 16. Two bits: a word for every two groups, at 8 (j % 2) + 2 i and + 16.
///   scales  of all lanes alike. Blocks of 32: their f16 numbers, block by block. Q4_K, Q5_K: the
///           first 16 bytes of a block, which are of two parts. Q6_K: s, 8 of a part, and in a
///           plane of its own d.
#ifndef PHX_KERNELS_CUDA_BLOCKS_CUH
#define PHX_KERNELS_CUDA_BLOCKS_CUH

#include "kernels/cuda/blocks.h"
#include "kernels/cuda/types.cuh"

template <enum phx_dtype Q> struct block_type {
    static constexpr bool BYTES = Q == PHX_Q8_0;
    static constexpr bool LARGE = Q >= PHX_Q4_K;                   /* blocks of 256 */
    static constexpr bool MINIMA = Q == PHX_Q4_K || Q == PHX_Q5_K; /* pairs of six bits */
    static constexpr bool LOW = MINIMA || Q == PHX_Q4_1 || Q == PHX_Q5_1;
    static constexpr int TOP = Q == PHX_Q6_K                                     ? 2
                               : Q == PHX_Q5_0 || Q == PHX_Q5_1 || Q == PHX_Q5_K ? 1
                                                                                 : 0;
    static constexpr int ZERO = Q == PHX_Q4_0 ? 8 : Q == PHX_Q5_0 ? 16 : Q == PHX_Q6_K ? 32 : 0;
    static constexpr int RUN = Q == PHX_Q6_K ? 16 : 32; /* columns of one scale */
    static constexpr int QUANTS = BYTES ? 8 : 4, SCALES = Q == PHX_Q6_K ? 3 : LOW ? 4 : 2;
    static constexpr int WORDS = QUANTS + TOP + SCALES; /* of a lane's share */
    static constexpr int PART_BYTES = 16 * QUANTS;
};

/// value = (q - ZERO) scale + low.
struct block_scale {
    float scale, low;
};

/// A lane's share of a part of a row.
template <enum phx_dtype Q> struct part {
    uint32_t quants[block_type<Q>::QUANTS], tops[2], scales[block_type<Q>::SCALES];
};

/// Four values that lie side by side, aligned where they are read or written together.
template <typename T> struct alignas(4 * sizeof(T)) four {
    T values[4];
};

template <enum phx_dtype Q> struct block_tag {
    static constexpr enum phx_dtype value = Q;
};

/// Call f with the tag of a quantised type.
template <typename F> static enum phx_status with_block_type(enum phx_dtype dtype, F f)
{
    switch (dtype) {
    case PHX_Q8_0:
        return f(block_tag<PHX_Q8_0>());
    case PHX_Q4_0:
        return f(block_tag<PHX_Q4_0>());
    case PHX_Q4_1:
        return f(block_tag<PHX_Q4_1>());
    case PHX_Q5_0:
        return f(block_tag<PHX_Q5_0>());
    case PHX_Q5_1:
        return f(block_tag<PHX_Q5_1>());
    case PHX_Q4_K:
        return f(block_tag<PHX_Q4_K>());
    case PHX_Q5_K:
        return f(block_tag<PHX_Q5_K>());
    default:
        PHX_ASSERT(dtype == PHX_Q6_K);
        return f(block_tag<PHX_Q6_K>());
    }
}

/* ---- reading ---- */

__device__ inline char *row_of(char *plane, uint32_t pitch, uint32_t row)
{
    return plane + (uint64_t)row * pitch;
}

__device__ inline void load_words(const char *from, uint32_t *to, int n)
{
    if (n == 4) {
        const uint4 words = __ldcs((const uint4 *)from);
        to[0] = words.x;
        to[1] = words.y;
        to[2] = words.z;
        to[3] = words.w;
    } else if (n == 2) {
        const uint2 words = __ldcs((const uint2 *)from);
        to[0] = words.x;
        to[1] = words.y;
    } else {
        to[0] = __ldcs((const uint32_t *)from);
    }
}

template <enum phx_dtype Q>
__device__ inline char *quants_at(const struct phx_cuda_planes &planes, uint32_t row, int64_t index,
                                  int t)
{
    return row_of(planes.quants, planes.pitches.quants, row) + index * block_type<Q>::PART_BYTES +
           16 * t;
}

/// Lane t's share of part `index` of a row.
template <enum phx_dtype Q>
__device__ inline part<Q> load_part(const struct phx_cuda_planes &planes, uint32_t row,
                                    int64_t index, int t)
{
    using type = block_type<Q>;
    part<Q> p;
    const char *quants = quants_at<Q>(planes, row, index, t);
    load_words(quants, p.quants, 4);
    if constexpr (type::BYTES) load_words(quants + 64, p.quants + 4, 4);
    if constexpr (type::TOP > 0)
        load_words(row_of(planes.tops, planes.pitches.tops, row) + (index * 4 + t) * 4 * type::TOP,
                   p.tops, type::TOP);
    const char *scales = row_of(planes.scales, planes.pitches.scales, row);
    if constexpr (type::MINIMA) {
        load_words(scales + index / 2 * 16, p.scales, 4);
    } else if constexpr (type::LOW) {
        load_words(scales + index * 16, p.scales, 4);
    } else {
        load_words(scales + index * 8, p.scales, 2);
    }
    if constexpr (Q == PHX_Q6_K)
        p.scales[2] =
            __ldcs((const uint16_t *)row_of(planes.supers, planes.pitches.supers, row) + index / 2);
    return p;
}

/* ---- values ---- */

__device__ inline float f16_low(uint32_t word)
{
    return __half2float(__ushort_as_half((uint16_t)word));
}

__device__ inline float f16_high(uint32_t word)
{
    return f16_low(word >> 16);
}

/// Once before scale_of(): what part `index` needs of the twelve bytes that hold eight pairs of six
/// bits, as two words of four bytes.
template <enum phx_dtype Q> __device__ inline void unpack_scales(part<Q> *p, int64_t index)
{
    if constexpr (block_type<Q>::MINIMA) {
        const uint32_t a = p->scales[1], b = p->scales[2], c = p->scales[3];
        const bool second = index % 2 != 0;
        p->scales[1] = second ? (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030) : a & 0x3f3f3f3f;
        p->scales[2] = second ? (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030) : b & 0x3f3f3f3f;
    }
}

/// Of run `r` of group j.
template <enum phx_dtype Q> __device__ inline block_scale scale_of(const part<Q> &p, int j, int r)
{
    using type = block_type<Q>;
    if constexpr (type::MINIMA) {
        const uint32_t scale = p.scales[1] >> (8 * j) & 255, low = p.scales[2] >> (8 * j) & 255;
        return {f16_low(p.scales[0]) * (float)scale, -(f16_high(p.scales[0]) * (float)low)};
    } else if constexpr (type::LOW) {
        return {f16_low(p.scales[j]), f16_high(p.scales[j])};
    } else if constexpr (Q == PHX_Q6_K) {
        const int8_t scale = (int8_t)(p.scales[j / 2] >> (8 * (j % 2 * 2 + r)));
        return {f16_low(p.scales[2]) * (float)scale, 0};
    } else {
        return {f16_low(p.scales[j / 2] >> (16 * (j % 2))), 0};
    }
}

__device__ inline uint32_t shifted(uint32_t word, int left)
{
    return left >= 0 ? word << left : word >> -left;
}

/// Pair i of group j with ZERO added, as two whole numbers of 16 bits; BYTES: q's eight bits.
template <enum phx_dtype Q> __device__ inline uint32_t bits_of(const part<Q> &p, int j, int i)
{
    using type = block_type<Q>;
    if constexpr (type::BYTES)
        return __byte_perm(p.quants[2 * j + i / 2], 0, i % 2 == 0 ? 0x4140 : 0x4342);
    uint32_t bits = p.quants[j % type::QUANTS] >> (4 * i) & 0x000f000f;
    if constexpr (type::TOP == 1) bits |= shifted(p.tops[0], 4 - (4 * j + i)) & 0x00100010;
    if constexpr (type::TOP == 2)
        bits |= shifted(p.tops[j / 2], 4 - (8 * (j % 2) + 2 * i)) & 0x00300030;
    return bits;
}

__device__ inline uint32_t subtract(uint32_t a, uint32_t b, phx_f16)
{
    const __half2 d = __hsub2(*(const __half2 *)&a, *(const __half2 *)&b);
    return *(const uint32_t *)&d;
}

__device__ inline uint32_t subtract(uint32_t a, uint32_t b, phx_bf16)
{
    const __nv_bfloat162 d = __hsub2(*(const __nv_bfloat162 *)&a, *(const __nv_bfloat162 *)&b);
    return *(const uint32_t *)&d;
}

/// q - ZERO of pair i of group j, exact. Numbers from 1024 to 2047 are 0x6400 and what is above
/// 1024 in f16, those from 128 to 255 are 0x4300 and what is above 128 in bf16.
template <enum phx_dtype Q>
__device__ inline uint32_t pair_of(const part<Q> &p, int j, int i, phx_f16)
{
    const uint32_t bits = bits_of(p, j, i);
    const uint32_t zero = 0x6400 + (block_type<Q>::BYTES ? 128 : block_type<Q>::ZERO);
    return subtract((block_type<Q>::BYTES ? bits ^ 0x00800080 : bits) | 0x64006400,
                    zero * 0x00010001, phx_f16());
}

template <enum phx_dtype Q>
__device__ inline uint32_t pair_of(const part<Q> &p, int j, int i, phx_bf16)
{
    const uint32_t bits = bits_of(p, j, i);
    if constexpr (block_type<Q>::BYTES) /* 128 + low seven bits, less 256 where negative, or 128 */
        return subtract((bits & 0x007f007f) | 0x43004300, (bits & 0x00800080) | 0x43004300,
                        phx_bf16());
    const uint32_t zero = 0x4300 + block_type<Q>::ZERO;
    return subtract(bits | 0x43004300, zero * 0x00010001, phx_bf16());
}

/// Columns 32 j + 16 m + 4 t + {0, 1, 2, 3}, the same bits as everywhere.
template <enum phx_dtype Q>
__device__ inline void values_of(const part<Q> &p, int j, int m, float (&to)[4])
{
    const block_scale s = scale_of(p, j, block_type<Q>::RUN == 16 ? m : 0);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float q[2];
        widen_word(pair_of(p, j, 2 * m + i, phx_f16()), phx_f16(), q);
        to[2 * i] = fmaf(q[0], s.scale, s.low);
        to[2 * i + 1] = fmaf(q[1], s.scale, s.low);
    }
}

#endif
