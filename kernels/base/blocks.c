#include "kernels/base/blocks.h"

#include <math.h>

#include "kernels/base/check.h"

static float f16_at(const uint8_t *at)
{
    return phx_f32_from_f16((uint16_t)(at[0] | at[1] << 8));
}

/* ---- blocks of 32 ---- */

static void widen_q8_0(const uint8_t *from, float *to)
{
    float d = f16_at(from);
    for (int i = 0; i < 32; i++) to[i] = (float)(int8_t)from[2 + i] * d;
}

/* Halves of 16 bytes, with a fifth bit of each from `top`; value = q d + m. */
static void widen_halves(const uint8_t *halves, uint32_t top, float d, float m, float *to)
{
    for (int i = 0; i < 16; i++) {
        uint32_t low = (halves[i] & 15u) | (top >> i & 1u) << 4;
        uint32_t high = halves[i] >> 4 | (top >> (i + 16) & 1u) << 4;
        to[i] = (float)low * d + m;
        to[i + 16] = (float)high * d + m;
    }
}

static uint32_t u32_at(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void widen_q4_0(const uint8_t *from, float *to)
{
    float d = f16_at(from);
    widen_halves(from + 2, 0, d, -8 * d, to);
}

static void widen_q4_1(const uint8_t *from, float *to)
{
    widen_halves(from + 4, 0, f16_at(from), f16_at(from + 2), to);
}

static void widen_q5_0(const uint8_t *from, float *to)
{
    float d = f16_at(from);
    widen_halves(from + 6, u32_at(from + 2), d, -16 * d, to);
}

static void widen_q5_1(const uint8_t *from, float *to)
{
    widen_halves(from + 8, u32_at(from + 4), f16_at(from), f16_at(from + 2), to);
}

/* ---- blocks of 256 ---- */

static void six_bits(const uint8_t *s, int i, uint32_t *scale, uint32_t *min)
{
    if (i < 4) {
        *scale = s[i] & 63u;
        *min = s[i + 4] & 63u;
    } else {
        *scale = (s[i + 4] & 15u) | (uint32_t)(s[i - 4] >> 6) << 4;
        *min = (uint32_t)(s[i + 4] >> 4) | (uint32_t)(s[i] >> 6) << 4;
    }
}

/* `top` NULL: Q4_K. */
static void widen_k(const uint8_t *from, const uint8_t *top, const uint8_t *halves, float *to)
{
    float d = f16_at(from), e = f16_at(from + 2);
    for (int i = 0; i < 8; i++) {
        uint32_t scale, min;
        six_bits(from + 4, i, &scale, &min);
        float each = d * (float)scale, low = -(e * (float)min);
        for (int j = 0; j < 32; j++) {
            uint32_t q = halves[i / 2 * 32 + j] >> (i % 2 * 4) & 15u;
            if (top) q |= (uint32_t)(top[j] >> i & 1) << 4;
            to[32 * i + j] = (float)q * each + low;
        }
    }
}

static void widen_q4_k(const uint8_t *from, float *to)
{
    widen_k(from, NULL, from + 16, to);
}

static void widen_q5_k(const uint8_t *from, float *to)
{
    widen_k(from, from + 16, from + 48, to);
}

static void widen_q6_k(const uint8_t *from, float *to)
{
    const uint8_t *halves = from, *top = from + 128, *scales = from + 192;
    float d = f16_at(from + 208);
    for (int i = 0; i < 256; i++) {
        int n = i / 128, k = i % 128 / 32, j = i % 32;
        int q = halves[64 * n + 32 * (k % 2) + j] >> (k / 2 * 4) & 15;
        q |= (top[32 * n + j] >> (2 * k) & 3) << 4;
        to[i] = (float)(q - 32) * (d * (float)(int8_t)scales[i / 16]);
    }
}

/* ---- all types ---- */

static void widen_floats(enum phx_dtype dtype, const uint8_t *from, int64_t n, float *to)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, from + 2 * i, sizeof bits);
        to[i] = dtype == PHX_BF16 ? phx_f32_from_bf16(bits) : phx_f32_from_f16(bits);
    }
}

void phx_values_widen(enum phx_dtype dtype, const void *from, int64_t n, float *to)
{
    static void (*const of_block[PHX_DTYPE_COUNT])(const uint8_t *, float *) = {
        [PHX_Q8_0] = widen_q8_0, [PHX_Q4_0] = widen_q4_0, [PHX_Q4_1] = widen_q4_1,
        [PHX_Q5_0] = widen_q5_0, [PHX_Q5_1] = widen_q5_1, [PHX_Q4_K] = widen_q4_k,
        [PHX_Q5_K] = widen_q5_k, [PHX_Q6_K] = widen_q6_k,
    };
    const struct phx_dtype_traits *traits = phx_dtype_traits(dtype);
    PHX_ASSERT(traits->is_weight && n % traits->block_elements == 0);
    if (dtype == PHX_F32) {
        memcpy(to, from, (size_t)n * sizeof *to);
    } else if (traits->is_float) {
        widen_floats(dtype, from, n, to);
    } else {
        const uint8_t *block = from;
        for (int64_t i = 0; i < n; i += traits->block_elements, block += traits->block_bytes)
            of_block[dtype](block, to + i);
    }
}

/* ---- back ---- */

static void put_f16(float value, uint8_t *to)
{
    uint16_t bits = phx_f16_from_f32(value);
    to[0] = (uint8_t)bits;
    to[1] = (uint8_t)(bits >> 8);
}

static void narrow_q8_0(const float *from, uint8_t *to)
{
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(from[i]));
    float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    put_f16(d, to);
    for (int i = 0; i < 32; i++) to[2 + i] = (uint8_t)(int8_t)roundf(from[i] * inverse);
}

static uint8_t four_bits(float scaled)
{
    int q = (int)(scaled + 8.5f);
    return (uint8_t)(q > 15 ? 15 : q);
}

static void narrow_q4_0(const float *from, uint8_t *to)
{
    float most = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(from[i]) > fabsf(most)) most = from[i];
    float d = most / -8, inverse = d != 0 ? 1 / d : 0;
    put_f16(d, to);
    for (int i = 0; i < 16; i++) {
        uint8_t high = four_bits(from[i + 16] * inverse);
        to[2 + i] = (uint8_t)(four_bits(from[i] * inverse) | high << 4);
    }
}

bool phx_values_can_narrow(enum phx_dtype dtype)
{
    return phx_dtype_traits(dtype)->is_float || dtype == PHX_Q8_0 || dtype == PHX_Q4_0;
}

void phx_values_narrow(enum phx_dtype dtype, const float *from, int64_t n, void *to)
{
    const struct phx_dtype_traits *traits = phx_dtype_traits(dtype);
    PHX_ASSERT(phx_values_can_narrow(dtype) && n % traits->block_elements == 0);
    if (dtype == PHX_F32) memcpy(to, from, (size_t)n * sizeof *from);
    uint8_t *at = to;
    for (int64_t i = 0; dtype != PHX_F32 && i < n; i += traits->block_elements) {
        uint16_t bits = 0;
        if (dtype == PHX_Q8_0) narrow_q8_0(from + i, at);
        if (dtype == PHX_Q4_0) narrow_q4_0(from + i, at);
        if (traits->is_float) {
            bits = dtype == PHX_BF16 ? phx_bf16_from_f32(from[i]) : phx_f16_from_f32(from[i]);
            memcpy(at, &bits, sizeof bits);
        }
        at += traits->block_bytes;
    }
}
