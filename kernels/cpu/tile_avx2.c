/* Tiles for AVX2, FMA and F16C: up to 12 of the 16 registers are sums. */
#include <immintrin.h>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

#define VECTORS 2
#define vector __m256
#define vector_zero _mm256_setzero_ps
#define vector_all _mm256_set1_ps
#define vector_load _mm256_loadu_ps
#define vector_store _mm256_storeu_ps
#define vector_add _mm256_add_ps
#define vector_multiply_add _mm256_fmadd_ps

static inline __m256 vector_f16(const char *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

static inline __m256 vector_even(const char *from)
{
    __m256i pairs = _mm256_loadu_si256((const __m256i *)from);
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

static inline __m256 vector_odd(const char *from)
{
    __m256i pairs = _mm256_loadu_si256((const __m256i *)from);
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)));
}

#define bits_u8(from) (bits) _mm256_cvtepu8_epi32(_mm_loadu_si64(from))
#define ints_i8(from) (ints) _mm256_cvtepi8_epi32(_mm_loadu_si64(from))

#include "kernels/cpu/gate_body.h"
#include "kernels/cpu/tile_body.h"

#define TILES(kind) TILE(kind, 1, 2) TILE(kind, 2, 2) TILE(kind, 4, 1) TILE(kind, 6, 1)
TILES(f32)
TILES(f16)
TILES(bf16)

#define TABLE(kind)                                                                                \
    {                                                                                              \
        {1, 2, kind##_1}, {2, 2, kind##_2}, {4, 1, kind##_4}, {6, 1, kind##_6},                    \
        {                                                                                          \
            0, 0, NULL                                                                             \
        }                                                                                          \
    }

const struct phx_tile *phx_tiles_avx2(enum phx_tile_kind kind)
{
    static const struct phx_tile tiles[][5] = {
        [PHX_TILE_F32] = TABLE(f32), [PHX_TILE_F16] = TABLE(f16), [PHX_TILE_BF16] = TABLE(bf16)};
    PHX_ASSERT(kind < PHX_TILE_BF16_DOT);
    return tiles[kind];
}

#include "kernels/cpu/block_body.h"

#define CODE(type) BLOCK_TILE(type, 1, 2) BLOCK_TILE(type, 2, 2) BLOCK_EXPAND(type)
EACH_BLOCK_TYPE(CODE)

const struct phx_block_code *phx_blocks_avx2(enum phx_dtype dtype)
{
#define ENTRY(type)                                                                                \
    [PHX_##type] = {{{1, 2, type##_1}, {2, 2, type##_2}, {0, 0, NULL}}, expand_##type},
    static const struct phx_block_code codes[PHX_DTYPE_COUNT] = {EACH_BLOCK_TYPE(ENTRY)};
    PHX_ASSERT(codes[dtype].expand != NULL);
    return &codes[dtype];
}

void phx_gate_avx2(enum phx_activation activation, const float *z, const float *up, int64_t n,
                   float *out)
{
    gate_values(activation, z, up, n, out);
}
