/// \file dtype.h
/// Element types, their blocks, and exact conversions.
///
/// A quantised type stores `block_elements` values in `block_bytes`; plain types have blocks of
/// one. Rows of a matrix are whole blocks.
#ifndef PHX_KERNELS_BASE_DTYPE_H
#define PHX_KERNELS_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

enum phx_dtype {
    PHX_F32,
    PHX_F16,
    PHX_BF16,
    PHX_I32,
    PHX_U16,
    PHX_U8,
    PHX_Q8_0, ///< this and what follows: quantised, of weights only (blocks.h)
    PHX_Q4_0,
    PHX_Q4_1,
    PHX_Q5_0,
    PHX_Q5_1,
    PHX_Q4_K,
    PHX_Q5_K,
    PHX_Q6_K,
    PHX_DTYPE_COUNT
};

enum { PHX_MAX_BLOCK_ELEMENTS = 256 };

struct phx_dtype_traits {
    const char *name;       ///< as in files: "F32", "BF16", "Q4_K", ...
    int32_t block_elements; ///< values in a block
    int32_t block_bytes;    ///< bytes of a block
    bool is_float;          ///< f32, f16, bf16: what activations and vectors may have
    bool is_weight;         ///< a matrix may have this type: the floats and the quantised ones
};

const struct phx_dtype_traits *phx_dtype_traits(enum phx_dtype dtype);

/// Bytes of `n` values; `n` must be whole blocks.
size_t phx_dtype_bytes(enum phx_dtype dtype, int64_t n);

static inline uint32_t phx_bits_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float phx_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float phx_f32_from_bf16(uint16_t value)
{
    return phx_f32_from_bits((uint32_t)value << 16);
}

/// Round to nearest, ties to even; NaN stays NaN.
static inline uint16_t phx_bf16_from_f32(float value)
{
    uint32_t bits = phx_bits_from_f32(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    bits += 0x7fffu + ((bits >> 16) & 1u);
    return (uint16_t)(bits >> 16);
}

static inline float phx_f32_from_f16(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t exponent = (value >> 10) & 0x1fu;
    uint32_t fraction = value & 0x3ffu;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact */
        float magnitude = (float)fraction * 5.9604644775390625e-8f;
        return phx_f32_from_bits(phx_bits_from_f32(magnitude) | sign);
    }
    if (exponent == 31) return phx_f32_from_bits(sign | 0x7f800000u | (fraction << 13));
    return phx_f32_from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
}

/// Round to nearest, ties to even; overflow gives infinity; NaN stays NaN.
uint16_t phx_f16_from_f32(float value);

#ifdef __cplusplus
}
#endif
#endif
