/* Vectors of AVX-512 for tile_body.h. Up to 24 of the 32 registers are sums, so that a load feeds
 * many products and their latency is hidden. */
#include <immintrin.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

#define VECTORS 1
#define vector __m512
#define vector_zero _mm512_setzero_ps
#define vector_all _mm512_set1_ps
#define vector_load _mm512_loadu_ps
#define vector_store _mm512_storeu_ps
#define vector_add _mm512_add_ps
#define vector_multiply_add _mm512_fmadd_ps

static inline __m512 vector_f16(const char *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

static inline __m512 vector_even(const char *from)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16));
}

static inline __m512 vector_odd(const char *from)
{
    __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from), high));
}

#include "kernels/cpu/tile_body.h"
