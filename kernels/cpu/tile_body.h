/* The tiles of one instruction set, but for the choice of their sizes. Included by a file that has
 * defined:
 *   VECTORS     in a panel: 16 values
 *   vector      that many f32 lanes; on it vector_zero(), vector_all(float),
 *               vector_load(const float *), vector_store(float *, vector), vector_add(a, b),
 *               vector_multiply_add(a, b, to)
 *   vector_f16(const char *)               as many values of f16, widened
 *   vector_even, vector_odd(const char *)  the first, second values of as many pairs of bf16 */

enum {
    MAX_VECTORS = PHX_TILE_MAX_PANELS * VECTORS,
    AHEAD_BYTES = 3072 /* a few rows read weights from memory, their limit: ask early */
};

/* Loops over the rows and vectors of a tile have constant ends where they are inlined; unrolled,
 * they leave sums that are registers. Without being told, one compiler does it too late. */
#ifdef __clang__
#define EACH(i, n) for (int i = 0; i < (n); i++)
#else
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif
#define INLINE static inline __attribute__((always_inline))

/* Where vector v of a step lies, if a panel has `bytes` in a step. */
INLINE const char *vector_at(const char *const *panels, int v, int64_t step, int bytes)
{
    return panels[v / VECTORS] + bytes * step + bytes / VECTORS * (v % VECTORS);
}

INLINE void clear(int rows, int n, vector sums[][MAX_VECTORS])
{
    EACH(r, rows) EACH(v, n) sums[r][v] = vector_zero();
}

/* sums[r][v] += x[r] * w[v] */
INLINE void add_products(int rows, int n, const float *x, const vector *w,
                         vector sums[][MAX_VECTORS])
{
    EACH(r, rows)
    {
        vector value = vector_all(x[r]);
        EACH(v, n) sums[r][v] = vector_multiply_add(value, w[v], sums[r][v]);
    }
}

INLINE void add_to_c(int rows, int n, vector sums[][MAX_VECTORS], float *c, int64_t c_stride)
{
    EACH(r, rows) EACH(v, n)
    {
        float *to = c + r * c_stride + PHX_CPU_PANEL / VECTORS * v;
        vector_store(to, vector_add(vector_load(to), sums[r][v]));
    }
}

INLINE void prefetch(const char *const *panels, int n, int64_t step, int bytes)
{
    EACH(p, n / VECTORS) __builtin_prefetch(panels[p] + bytes * step + AHEAD_BYTES);
}

INLINE void run_f32(int rows, int n, const float *x, const char *const *panels, int64_t n_steps,
                    float *c, int64_t c_stride)
{
    vector sums[PHX_TILE_MAX_ROWS][MAX_VECTORS], w[MAX_VECTORS];
    clear(rows, n, sums);
    for (int64_t s = 0; s < n_steps; s++) {
        prefetch(panels, n, s, 64);
        EACH(v, n) w[v] = vector_load((const float *)vector_at(panels, v, s, 64));
        add_products(rows, n, x + s * rows, w, sums);
    }
    add_to_c(rows, n, sums, c, c_stride);
}

INLINE void run_f16(int rows, int n, const float *x, const char *const *panels, int64_t n_steps,
                    float *c, int64_t c_stride)
{
    vector sums[PHX_TILE_MAX_ROWS][MAX_VECTORS], w[MAX_VECTORS];
    clear(rows, n, sums);
    for (int64_t s = 0; s < n_steps; s++) {
        prefetch(panels, n, s, 32);
        EACH(v, n) w[v] = vector_f16(vector_at(panels, v, s, 32));
        add_products(rows, n, x + s * rows, w, sums);
    }
    add_to_c(rows, n, sums, c, c_stride);
}

INLINE void run_bf16(int rows, int n, const float *x, const char *const *panels, int64_t n_steps,
                     float *c, int64_t c_stride)
{
    vector sums[PHX_TILE_MAX_ROWS][MAX_VECTORS], w[MAX_VECTORS];
    clear(rows, n, sums);
    for (int64_t s = 0; s < n_steps; s++) {
        prefetch(panels, n, s, 64);
        EACH(v, n) w[v] = vector_even(vector_at(panels, v, s, 64));
        add_products(rows, n, x + 2 * s * rows, w, sums);
        EACH(v, n) w[v] = vector_odd(vector_at(panels, v, s, 64));
        add_products(rows, n, x + (2 * s + 1) * rows, w, sums);
    }
    add_to_c(rows, n, sums, c, c_stride);
}

#define TILE(kind, n_rows, n_panels)                                                               \
    static void kind##_##n_rows(const void *x, const char *const *panels, int64_t n_steps,         \
                                float *c, int64_t c_stride)                                        \
    {                                                                                              \
        run_##kind(n_rows, VECTORS *n_panels, x, panels, n_steps, c, c_stride);                    \
    }
