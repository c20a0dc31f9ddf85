#include "kernels/cpu/loops.h"

#include <math.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef float vec4 __attribute__((vector_size(16)));
typedef float vec4_in __attribute__((vector_size(16), aligned(4), may_alias));

#define QUAD(p) ((vec4) * (const vec4_in *)(p))
#define PAIR(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
/* The lanes from `first` on of SHUFFLE_QUADS for vectors of `lanes`. */
#define ONE(lanes, i, first) ((i) < 4 ? (i) + (first) : (i)-4 + (first) + (lanes))
#define FOUR(lanes, i, j, k, l, first)                                                             \
    ONE(lanes, i, first), ONE(lanes, j, first), ONE(lanes, k, first), ONE(lanes, l, first)

#define NAME(x) x##_portable
#define TARGET
#define LANES 4
#define ROWS 6
#define VECS 2
#define FMA(a, b, c) ((a) * (b) + (c))
#define LOAD_QUADS(p, step) QUAD(p)
#define SHUFFLE_QUADS(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#define WIDEN_F16(p) WIDEN_EACH(f16, p)
#define WIDEN_BF16(p) WIDEN_EACH(bf16, p)
#define WIDEN_EACH(type, p)                                                                        \
    ((vec){phx_f32_from_##type((p)[0]), phx_f32_from_##type((p)[1]), phx_f32_from_##type((p)[2]),  \
           phx_f32_from_##type((p)[3])})

#include "kernels/cpu/loops_body.h"

#ifdef __x86_64__

#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define ROWS 6
#define VECS 2
#define FMA(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define LOAD_QUADS(p, step) PAIR(QUAD(p), QUAD((p) + (step)))
#define SHUFFLE_QUADS(a, b, i, j, k, l)                                                            \
    __builtin_shufflevector(a, b, FOUR(8, i, j, k, l, 0), FOUR(8, i, j, k, l, 4))
#define WIDEN_F16(p) ((vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p))))
#define WIDEN_BF16(p)                                                                              \
    ((vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))), 16))

#include "kernels/cpu/loops_body.h"

#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define LANES 16
#define ROWS 6
#define VECS 4
#define FMA(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define LOAD_QUADS(p, step)                                                                        \
    __builtin_shufflevector(PAIR(QUAD(p), QUAD((p) + (step))),                                     \
                            PAIR(QUAD((p) + 2 * (step)), QUAD((p) + 3 * (step))), 0, 1, 2, 3, 4,   \
                            5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define SHUFFLE_QUADS(a, b, i, j, k, l)                                                            \
    __builtin_shufflevector(a, b, FOUR(16, i, j, k, l, 0), FOUR(16, i, j, k, l, 4),                \
                            FOUR(16, i, j, k, l, 8), FOUR(16, i, j, k, l, 12))
#define WIDEN_F16(p) ((vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p))))
#define WIDEN_BF16(p)                                                                              \
    ((vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))

#include "kernels/cpu/loops_body.h"

#endif

const struct phx_cpu_loops *phx_cpu_loops(enum phx_cpu_isa isa)
{
#ifdef __x86_64__
    if (isa >= PHX_ISA_AVX512) return &loops_avx512;
    if (isa >= PHX_ISA_AVX2) return &loops_avx2;
#endif
    (void)isa;
    return &loops_portable;
}
