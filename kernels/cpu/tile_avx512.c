#include "kernels/cpu/tile_avx512.h"

#include "kernels/base/check.h"
#include "kernels/cpu/gate_body.h"

#define TILES(kind)                                                                                \
    TILE(kind, 1, 4)                                                                               \
    TILE(kind, 2, 4)                                                                               \
    TILE(kind, 4, 4) TILE(kind, 6, 2) TILE(kind, 8, 2) TILE(kind, 10, 2) TILE(kind, 12, 2)
TILES(f32)
TILES(f16)
TILES(bf16)

#define TABLE(kind)                                                                                \
    {                                                                                              \
        {1, 4, kind##_1}, {2, 4, kind##_2}, {4, 4, kind##_4}, {6, 2, kind##_6}, {8, 2, kind##_8},  \
            {10, 2, kind##_10}, {12, 2, kind##_12},                                                \
        {                                                                                          \
            0, 0, NULL                                                                             \
        }                                                                                          \
    }

const struct phx_tile *phx_tiles_avx512(enum phx_tile_kind kind)
{
    static const struct phx_tile tiles[][8] = {
        [PHX_TILE_F32] = TABLE(f32), [PHX_TILE_F16] = TABLE(f16), [PHX_TILE_BF16] = TABLE(bf16)};
    PHX_ASSERT(kind < PHX_TILE_BF16_DOT);
    return tiles[kind];
}

#define bits_u8(from) (bits) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define ints_i8(from) (ints) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from)))

#include "kernels/cpu/block_body.h"

#define CODE(type) BLOCK_TILE(type, 1, 4) BLOCK_TILE(type, 2, 4) BLOCK_EXPAND(type)
EACH_BLOCK_TYPE(CODE)

const struct phx_block_code *phx_blocks_avx512(enum phx_dtype dtype)
{
#define ENTRY(type)                                                                                \
    [PHX_##type] = {{{1, 4, type##_1}, {2, 4, type##_2}, {0, 0, NULL}}, expand_##type},
    static const struct phx_block_code codes[PHX_DTYPE_COUNT] = {EACH_BLOCK_TYPE(ENTRY)};
    PHX_ASSERT(codes[dtype].expand != NULL);
    return &codes[dtype];
}

void phx_gate_avx512(enum phx_activation activation, const float *z, const float *up, int64_t n,
                     float *out)
{
    gate_values(activation, z, up, n, out);
}
