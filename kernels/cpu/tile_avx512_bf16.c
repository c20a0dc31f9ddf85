/* Dot products of bf16 pairs: what other tiles widen is multiplied as it is. */
#include <string.h>

#include "kernels/cpu/tile_avx512.h"

INLINE void run_dot(int rows, int n, const char *x, const char *const *panels, int64_t n_steps,
                    float *c, int64_t c_stride)
{
    __m512 sums[PHX_TILE_MAX_ROWS][MAX_VECTORS];
    __m512bh w[MAX_VECTORS];
    clear(rows, n, sums);
    for (int64_t s = 0; s < n_steps; s++) {
        prefetch(panels, n, s, 64);
        EACH(v, n) w[v] = (__m512bh)_mm512_loadu_si512(vector_at(panels, v, s, 64));
        EACH(r, rows)
        {
            int32_t pair;
            memcpy(&pair, x + 4 * (s * rows + r), sizeof pair);
            __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            EACH(v, n) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], value, w[v]);
        }
    }
    add_to_c(rows, n, sums, c, c_stride);
}

TILE(dot, 1, 4)
TILE(dot, 2, 4)
TILE(dot, 4, 4)
TILE(dot, 6, 2)
TILE(dot, 8, 2)
TILE(dot, 10, 2)
TILE(dot, 12, 2)

const struct phx_tile *phx_tiles_avx512_bf16(enum phx_tile_kind kind)
{
    static const struct phx_tile dot[] = {{1, 4, dot_1},   {2, 4, dot_2}, {4, 4, dot_4},
                                          {6, 2, dot_6},   {8, 2, dot_8}, {10, 2, dot_10},
                                          {12, 2, dot_12}, {0, 0, NULL}};
    return kind == PHX_TILE_BF16_DOT ? dot : phx_tiles_avx512(kind);
}
