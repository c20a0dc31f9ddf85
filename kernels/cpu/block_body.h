/* Panels of a quantised type (cpu.h), for one instruction set: its tiles, and panels expanded to
 * f32. Included after tile_body.h by a file that has also defined
 *   bits_u8, ints_i8(const char *)   as many bytes as a vector has lanes, widened to 32 bits
 * Formats: kernels/base/blocks.h. A value is the same whoever makes it, so that a product is the
 * same whether its weight is expanded or not. */
#include "kernels/base/blocks.h"

typedef uint32_t bits __attribute__((vector_size(64 / VECTORS)));
typedef int32_t ints __attribute__((vector_size(64 / VECTORS)));

enum { LANES = PHX_CPU_PANEL / VECTORS };

INLINE int block_cols(enum phx_dtype type)
{
    return type >= PHX_Q4_K ? 256 : 32;
}

INLINE int block_bytes(enum phx_dtype type)
{
    switch (type) {
    case PHX_Q8_0:
        return 34;
    case PHX_Q4_0:
        return 18;
    case PHX_Q4_1:
        return 20;
    case PHX_Q5_0:
        return 22;
    case PHX_Q5_1:
        return 24;
    case PHX_Q4_K:
        return 144;
    case PHX_Q5_K:
        return 176;
    default:
        return 210;
    }
}

/* Runs of columns that share a scale and which half of a byte they lie in. */
INLINE int block_runs(enum phx_dtype type)
{
    return type == PHX_Q8_0 ? 1 : type == PHX_Q6_K ? 16 : type >= PHX_Q4_K ? 8 : 2;
}

INLINE bool in_high_half(enum phx_dtype type, int run)
{
    return type == PHX_Q6_K ? run / 4 % 2 != 0 : run % 2 != 0;
}

/* Byte `at` of a vector's rows of a block. */
INLINE bits byte_at(const char *block, int v, int at)
{
    return bits_u8(block + PHX_CPU_PANEL * at + LANES * (v % VECTORS));
}

INLINE vector f16_at(const char *block, int v, int at)
{
    return vector_f16(block + PHX_CPU_PANEL * at + 2 * LANES * (v % VECTORS));
}

INLINE vector floats(ints q)
{
    return __builtin_convertvector(q, vector);
}

INLINE void six_bits(const char *block, int v, int run, bits *scale, bits *min)
{
    if (run < 4) {
        *scale = byte_at(block, v, 4 + run) & 63;
        *min = byte_at(block, v, 8 + run) & 63;
    } else {
        bits both = byte_at(block, v, 8 + run);
        *scale = (both & 15) | (byte_at(block, v, run) >> 6 << 4);
        *min = both >> 4 | (byte_at(block, v, 4 + run) >> 6 << 4);
    }
}

/* A run's value is q * scale + low. */
INLINE void run_scale(enum phx_dtype type, const char *block, int v, int run, vector *scale,
                      vector *low)
{
    bits s, m;
    switch (type) {
    case PHX_Q8_0:
        *scale = f16_at(block, v, 0);
        *low = vector_zero();
        break;
    case PHX_Q4_0:
    case PHX_Q5_0:
        *scale = f16_at(block, v, 0);
        *low = *scale * vector_all(type == PHX_Q4_0 ? -8.0f : -16.0f);
        break;
    case PHX_Q4_1:
    case PHX_Q5_1:
        *scale = f16_at(block, v, 0);
        *low = f16_at(block, v, 2);
        break;
    case PHX_Q4_K:
    case PHX_Q5_K:
        six_bits(block, v, run, &s, &m);
        *scale = f16_at(block, v, 0) * floats((ints)s);
        *low = f16_at(block, v, 2) * floats(-(ints)m);
        break;
    default:
        *scale = f16_at(block, v, 208) *
                 floats(ints_i8(block + PHX_CPU_PANEL * (192 + run) + LANES * (v % VECTORS)));
        *low = *scale * vector_all(-32.0f);
    }
}

/* q of column `j` of a run; `high` is in_high_half(). */
INLINE ints run_q(enum phx_dtype type, const char *block, int v, int run, bool high, int j)
{
    int at, top, shift, mask = 1;
    switch (type) {
    case PHX_Q8_0:
        return ints_i8(block + PHX_CPU_PANEL * (2 + j) + LANES * (v % VECTORS));
    case PHX_Q4_0:
        at = 2 + j;
        break;
    case PHX_Q4_1:
        at = 4 + j;
        break;
    case PHX_Q5_0:
    case PHX_Q5_1:
        at = (type == PHX_Q5_0 ? 6 : 8) + j;
        top = (type == PHX_Q5_0 ? 2 : 4) + 2 * run + j / 8;
        shift = j % 8;
        break;
    case PHX_Q4_K:
        at = 16 + run / 2 * 32 + j;
        break;
    case PHX_Q5_K:
        at = 48 + run / 2 * 32 + j;
        top = 16 + j;
        shift = run;
        break;
    default: /* Q6_K: run 8 n + 2 k + i holds columns 16 i to 16 i + 15 of quarter k */
        at = 64 * (run / 8) + 32 * (run / 2 % 2) + 16 * (run % 2) + j;
        top = 128 + 32 * (run / 8) + 16 * (run % 2) + j;
        shift = run / 2 % 4 * 2;
        mask = 3;
    }
    bits q = byte_at(block, v, at);
    q = high ? q >> 4 : q & 15;
    if (type != PHX_Q4_0 && type != PHX_Q4_1 && type != PHX_Q4_K)
        q |= (byte_at(block, v, top) >> shift & (uint32_t)mask) << 4;
    return (ints)q;
}

INLINE void add_run(enum phx_dtype type, bool high, int run, int rows, int n, const float *x,
                    const char *const *blocks, vector sums[][MAX_VECTORS])
{
    vector scale[MAX_VECTORS], low[MAX_VECTORS], w[MAX_VECTORS];
    EACH(v, n) run_scale(type, blocks[v / VECTORS], v, run, &scale[v], &low[v]);
    for (int j = 0; j < block_cols(type) / block_runs(type); j++) {
        EACH(v, n)
        w[v] = vector_multiply_add(floats(run_q(type, blocks[v / VECTORS], v, run, high, j)),
                                   scale[v], low[v]);
        add_products(rows, n, x + j * rows, w, sums);
    }
}

/* A step is a block. */
INLINE void run_blocks(enum phx_dtype type, int rows, int n, const float *x,
                       const char *const *panels, int64_t n_steps, float *c, int64_t c_stride)
{
    const int bytes = PHX_CPU_PANEL * block_bytes(type), runs = block_runs(type);
    const int cols = block_cols(type) / runs;
    vector sums[PHX_TILE_MAX_ROWS][MAX_VECTORS];
    const char *blocks[PHX_TILE_MAX_PANELS];
    clear(rows, n, sums);
    for (int64_t s = 0; s < n_steps; s++) {
        EACH(p, n / VECTORS) blocks[p] = panels[p] + bytes * s;
        for (int run = 0; run < runs; run++, x += cols * rows) {
            for (int ahead = bytes / runs * run; ahead < bytes / runs * (run + 1); ahead += 64)
                EACH(p, n / VECTORS) __builtin_prefetch(blocks[p] + ahead + AHEAD_BYTES);
            if (in_high_half(type, run))
                add_run(type, true, run, rows, n, x, blocks, sums);
            else
                add_run(type, false, run, rows, n, x, blocks, sums);
        }
    }
    add_to_c(rows, n, sums, c, c_stride);
}

INLINE void expand_run(enum phx_dtype type, bool high, int run, const char *block, float *to)
{
    vector scale[VECTORS], low[VECTORS];
    EACH(v, VECTORS) run_scale(type, block, v, run, &scale[v], &low[v]);
    for (int j = 0; j < block_cols(type) / block_runs(type); j++) EACH(v, VECTORS)
    vector_store(
        to + PHX_CPU_PANEL * j + LANES * v,
        vector_multiply_add(floats(run_q(type, block, v, run, high, j)), scale[v], low[v]));
}

INLINE void expand_blocks(enum phx_dtype type, const char *panel, int64_t n_blocks, float *to)
{
    const int runs = block_runs(type), values = PHX_CPU_PANEL * block_cols(type) / runs;
    for (int64_t b = 0; b < n_blocks; b++, panel += PHX_CPU_PANEL * block_bytes(type)) {
        for (int run = 0; run < runs; run++, to += values) {
            if (in_high_half(type, run))
                expand_run(type, true, run, panel, to);
            else
                expand_run(type, false, run, panel, to);
        }
    }
}

#define BLOCK_TILE(type, n_rows, n_panels)                                                         \
    static void type##_##n_rows(const void *x, const char *const *panels, int64_t n_steps,         \
                                float *c, int64_t c_stride)                                        \
    {                                                                                              \
        run_blocks(PHX_##type, n_rows, VECTORS *n_panels, x, panels, n_steps, c, c_stride);        \
    }
#define BLOCK_EXPAND(type)                                                                         \
    static void expand_##type(const char *panel, int64_t n_blocks, float *to)                      \
    {                                                                                              \
        expand_blocks(PHX_##type, panel, n_blocks, to);                                            \
    }

/* For types X(TYPE): the tiles of each and a table of struct phx_block_code by dtype. */
#define EACH_BLOCK_TYPE(X) X(Q8_0) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q4_K) X(Q5_K) X(Q6_K)
