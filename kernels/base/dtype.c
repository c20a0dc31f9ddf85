#include "kernels/base/dtype.h"

#include "kernels/base/check.h"

static const struct phx_dtype_traits traits[PHX_DTYPE_COUNT] = {
    [PHX_F32] = {"F32", 1, 4, true, true},        [PHX_F16] = {"F16", 1, 2, true, true},
    [PHX_BF16] = {"BF16", 1, 2, true, true},      [PHX_I32] = {"I32", 1, 4, false, false},
    [PHX_U16] = {"U16", 1, 2, false, false},      [PHX_U8] = {"U8", 1, 1, false, false},
    [PHX_Q8_0] = {"Q8_0", 32, 34, false, true},   [PHX_Q4_0] = {"Q4_0", 32, 18, false, true},
    [PHX_Q4_1] = {"Q4_1", 32, 20, false, true},   [PHX_Q5_0] = {"Q5_0", 32, 22, false, true},
    [PHX_Q5_1] = {"Q5_1", 32, 24, false, true},   [PHX_Q4_K] = {"Q4_K", 256, 144, false, true},
    [PHX_Q5_K] = {"Q5_K", 256, 176, false, true}, [PHX_Q6_K] = {"Q6_K", 256, 210, false, true},
};

const struct phx_dtype_traits *phx_dtype_traits(enum phx_dtype dtype)
{
    PHX_ASSERT((unsigned)dtype < PHX_DTYPE_COUNT);
    return &traits[dtype];
}

size_t phx_dtype_bytes(enum phx_dtype dtype, int64_t n)
{
    const struct phx_dtype_traits *t = phx_dtype_traits(dtype);
    PHX_ASSERT(n >= 0 && n % t->block_elements == 0);
    return (size_t)(n / t->block_elements) * (size_t)t->block_bytes;
}

uint16_t phx_f16_from_f32(float value)
{
    uint32_t bits = phx_bits_from_f32(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above */
    if (magnitude <
        0x38800000u) { /* below 2^-14: adding 1/2 leaves the subnormal in the low bits */
        float shifted = phx_f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (phx_bits_from_f32(shifted) - 0x3f000000u));
    }
    magnitude += 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((magnitude - 0x38000000u) >> 13));
}
