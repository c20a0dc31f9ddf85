/// \file blocks.h
/// What is stored, as f32 and back: plain types and the blocks of the quantised ones.
///
/// A block's values are in this order, h a f16, q a whole number, all little-endian; bits of q that
/// lie apart are put together, lowest first. Every product below is exact in f32, so that each
/// value is rounded once at most and is the same on every backend.
///   Q8_0: h d; i8 q[32].                                         value = q d
///   Q4_0: h d; u8 l[16]: low halves q[0..15], high q[16..31].    value = (q - 8) d
///   Q4_1: h d, m; l as in Q4_0.                                  value = q d + m
///   Q5_0: h d; u32 t; l as in Q4_0, bit j of t atop of q[j].     value = (q - 16) d
///   Q5_1: h d, m; u32 t; l; as Q5_0.                             value = q d + m
///   Q4_K: h d, e; u8 s[12]; u8 l[128]: value 64 p + j in the low, 64 p + 32 + j in the high half
///   of
///         l[32 p + j].                                           value = q d S[i] - e M[i],
///         i = index / 32; for i < 4 S[i] = s[i] % 64, M[i] = s[i + 4] % 64; else the low half of
///         s[i + 4] with the top two bits of s[i - 4], its high half with those of s[i].
///   Q5_K: h d, e; u8 s[12]; u8 t[32]; l: as Q4_K, with bit i of t[j] atop of q[32 i + j].
///   Q6_K: u8 l[128]; u8 t[64]; i8 s[16]; h d. For index 128 n + 32 k + j: q has the low (k < 2) or
///         high half of l[64 n + 32 (k % 2) + j], and atop bits 2 k, 2 k + 1 of t[32 n + j].
///                                                                value = (q - 32) d s[index / 16]
/// Source: the quantisation formats of the GGML project, as its gguf package describes them.
#ifndef PHX_KERNELS_BASE_BLOCKS_H
#define PHX_KERNELS_BASE_BLOCKS_H

#include "kernels/base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/// n values, whole blocks, of a type that weights may have. `from` need not be aligned.
void phx_values_widen(enum phx_dtype dtype, const void *from, int64_t n, float *to);

/// The nearest that the type can hold; n whole blocks. Plain float types, Q8_0 and Q4_0: a block's
/// d is the value of largest magnitude over 127 (Q8_0) or, with its sign, over -8 (Q4_0); q are
/// rounded by the reciprocal of that before it becomes a f16, halves away from zero (Q8_0) or
/// upwards (Q4_0), as other writers of these formats do. Source: as above.
void phx_values_narrow(enum phx_dtype dtype, const float *from, int64_t n, void *to);
/// True if phx_values_narrow() can.
bool phx_values_can_narrow(enum phx_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
