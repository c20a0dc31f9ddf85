/* Tiles for any processor, in vectors of four that compilers know how to make. */
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

#define VECTORS 4
typedef float vector __attribute__((vector_size(16)));
typedef uint32_t vector_bits __attribute__((vector_size(16)));

static inline vector vector_all(float value)
{
    return (vector){value, value, value, value};
}

static inline vector vector_zero(void)
{
    return vector_all(0.0f);
}

static inline vector vector_load(const float *from)
{
    vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vector_store(float *to, vector v)
{
    memcpy(to, &v, sizeof v);
}

static inline vector vector_add(vector a, vector b)
{
    return a + b;
}

static inline vector vector_multiply_add(vector a, vector b, vector to)
{
    return to + a * b;
}

/* Exponent and fraction moved to their places and the difference of the biases, 2^112, multiplied
 * in: that also makes subnormals right. Infinity and NaN keep their exponent of ones. */
static inline vector vector_f16(const char *from)
{
    uint16_t f16[4];
    memcpy(f16, from, sizeof f16);
    vector_bits bits = {f16[0], f16[1], f16[2], f16[3]};
    vector_bits sign = (bits & 0x8000u) << 16;
    vector_bits special = (vector_bits)((bits & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    vector magnitude = (vector)((bits & 0x7fffu) << 13) * 0x1p112f;
    return (vector)((vector_bits)magnitude | special | sign);
}

static inline vector_bits load_pairs(const char *from)
{
    vector_bits pairs;
    memcpy(&pairs, from, sizeof pairs);
    return pairs;
}

static inline vector vector_even(const char *from)
{
    return (vector)(load_pairs(from) << 16);
}

static inline vector vector_odd(const char *from)
{
    return (vector)(load_pairs(from) & 0xffff0000u);
}

static inline vector_bits bits_u8(const char *from)
{
    uint8_t u[4];
    memcpy(u, from, sizeof u);
    return (vector_bits){u[0], u[1], u[2], u[3]};
}

typedef int32_t vector_ints __attribute__((vector_size(16)));

static inline vector_ints ints_i8(const char *from)
{
    int8_t i[4];
    memcpy(i, from, sizeof i);
    return (vector_ints){i[0], i[1], i[2], i[3]};
}

#include "kernels/cpu/gate_body.h"
#include "kernels/cpu/tile_body.h"

#define TILES(kind) TILE(kind, 1, 1) TILE(kind, 2, 1)
TILES(f32)
TILES(f16)
TILES(bf16)

#define TABLE(kind)                                                                                \
    {                                                                                              \
        {1, 1, kind##_1}, {2, 1, kind##_2},                                                        \
        {                                                                                          \
            0, 0, NULL                                                                             \
        }                                                                                          \
    }

const struct phx_tile *phx_tiles_portable(enum phx_tile_kind kind)
{
    static const struct phx_tile tiles[][3] = {
        [PHX_TILE_F32] = TABLE(f32), [PHX_TILE_F16] = TABLE(f16), [PHX_TILE_BF16] = TABLE(bf16)};
    PHX_ASSERT(kind < PHX_TILE_BF16_DOT);
    return tiles[kind];
}

#include "kernels/cpu/block_body.h"

#define CODE(type) BLOCK_TILE(type, 1, 1) BLOCK_TILE(type, 2, 1) BLOCK_EXPAND(type)
EACH_BLOCK_TYPE(CODE)

const struct phx_block_code *phx_blocks_portable(enum phx_dtype dtype)
{
#define ENTRY(type)                                                                                \
    [PHX_##type] = {{{1, 1, type##_1}, {2, 1, type##_2}, {0, 0, NULL}}, expand_##type},
    static const struct phx_block_code codes[PHX_DTYPE_COUNT] = {EACH_BLOCK_TYPE(ENTRY)};
    PHX_ASSERT(codes[dtype].expand != NULL);
    return &codes[dtype];
}

void phx_gate_portable(enum phx_activation activation, const float *z, const float *up, int64_t n,
                       float *out)
{
    gate_values(activation, z, up, n, out);
}
