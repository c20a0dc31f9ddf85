/* The loops of loops.h for one instruction set. Included by loops.c, once for each, with
 *   NAME(x)        x with the set's suffix
 *   TARGET         the function attribute that allows its instructions
 *   LANES          floats in a vector
 *   ROWS, VECS     rows and vectors of a product's tile: ROWS * VECS sums must fit its registers
 *   FMA(a, b, c)   a * b + c
 *   LOAD_QUADS(p, step)    fours of floats, at p, p + step, ...
 *   SHUFFLE_QUADS(a, b, i, j, k, l)    each four from the eight that a and b have in its place
 *   WIDEN_F16(p), WIDEN_BF16(p)    a vector from LANES values at p
 */
#define INLINE TARGET static inline __attribute__((always_inline))
#define vec NAME(vec)
#define ints NAME(ints)

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
/* The same in memory: aligned to nothing but their elements. */
typedef float NAME(vec_in) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec NAME(load)(const float *p)
{
    return (vec) * (const NAME(vec_in) *)p;
}

INLINE void NAME(store)(float *p, vec v)
{
    *(NAME(vec_in) *)p = (NAME(vec_in))v;
}

INLINE vec NAME(splat)(float x)
{
    return x - (vec){0};
}

INLINE vec NAME(select)(ints mask, vec yes, vec no)
{
    return (vec)((mask & (ints)yes) | (~mask & (ints)no));
}

/* e^x for x <= 0 to about 1e-7 of its value; 0 below -86; NaN stays NaN. Constants: Cephes expf. */
INLINE vec NAME(exp)(vec x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the integer in the low bits */
    ints in_range = x > -86.0f, none = x != x;
    vec n = FMA(x, NAME(splat)(1.44269504f), NAME(splat)(round));
    ints exponent = (ints)n << 23;
    n = n - round;
    vec r = FMA(n, NAME(splat)(-0.693359375f), x);
    r = FMA(n, NAME(splat)(2.12194440e-4f), r);
    vec p = NAME(splat)(1.9875691500e-4f);
    p = FMA(p, r, NAME(splat)(1.3981999507e-3f));
    p = FMA(p, r, NAME(splat)(8.3334519073e-3f));
    p = FMA(p, r, NAME(splat)(4.1665795894e-2f));
    p = FMA(p, r, NAME(splat)(1.6666665459e-1f));
    p = FMA(p, r, NAME(splat)(5.0000001201e-1f));
    p = FMA(p, r * r, r) + 1.0f;
    return (vec)((((ints)p + exponent) & in_range) | ((ints)x & none));
}

/* c tanh(s / c). */
INLINE vec NAME(cap)(vec s, float c)
{
    const ints sign_bit = (ints)NAME(splat)(-0.0f);
    vec x = s / c;
    vec e = NAME(exp)(-2.0f * (vec)((ints)x & ~sign_bit));
    vec tanh = (1.0f - e) / (1.0f + e);
    return c * (vec)((ints)tanh | ((ints)x & sign_bit));
}

INLINE float NAME(add_lanes)(vec v)
{
    float lanes[LANES];
    NAME(store)(lanes, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

INLINE float NAME(max_lanes)(vec v)
{
    float lanes[LANES];
    NAME(store)(lanes, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
    return lanes[0];
}

TARGET static void NAME(widen)(enum phx_dtype dtype, const void *from, int64_t rows, int64_t cols,
                               float *to, int64_t padded)
{
    for (int64_t r = 0; r < rows; r++, to += padded) {
        const float *f32 = (const float *)from + r * cols;
        const uint16_t *f16 = (const uint16_t *)from + r * cols;
        int64_t c = 0;
        if (dtype == PHX_F32) {
            memcpy(to, f32, (size_t)cols * sizeof *to);
            c = cols;
        } else if (dtype == PHX_BF16) {
            for (; c + LANES <= cols; c += LANES) NAME(store)(to + c, WIDEN_BF16(f16 + c));
            for (; c < cols; c++) to[c] = phx_f32_from_bf16(f16[c]);
        } else {
            for (; c + LANES <= cols; c += LANES) NAME(store)(to + c, WIDEN_F16(f16 + c));
            for (; c < cols; c++) to[c] = phx_f32_from_f16(f16[c]);
        }
        for (; c < padded; c++) to[c] = 0;
    }
}

/* LANES rows and 4 columns at a time: each quad of rows is turned within its own four lanes. */
TARGET static void NAME(transpose)(const float *from, int64_t cols, int64_t from_stride, float *to)
{
    for (int64_t r = 0; r < 64; r += LANES) {
        for (int64_t c = 0; c < cols; c += 4) {
            const float *f = from + r * from_stride + c;
            vec v0 = LOAD_QUADS(f, 4 * from_stride);
            vec v1 = LOAD_QUADS(f + from_stride, 4 * from_stride);
            vec v2 = LOAD_QUADS(f + 2 * from_stride, 4 * from_stride);
            vec v3 = LOAD_QUADS(f + 3 * from_stride, 4 * from_stride);
            vec low01 = SHUFFLE_QUADS(v0, v1, 0, 4, 1, 5),
                high01 = SHUFFLE_QUADS(v0, v1, 2, 6, 3, 7);
            vec low23 = SHUFFLE_QUADS(v2, v3, 0, 4, 1, 5),
                high23 = SHUFFLE_QUADS(v2, v3, 2, 6, 3, 7);
            float *t = to + c * 64 + r;
            NAME(store)(t, SHUFFLE_QUADS(low01, low23, 0, 1, 4, 5));
            NAME(store)(t + 64, SHUFFLE_QUADS(low01, low23, 2, 3, 6, 7));
            NAME(store)(t + 128, SHUFFLE_QUADS(high01, high23, 0, 1, 4, 5));
            NAME(store)(t + 192, SHUFFLE_QUADS(high01, high23, 2, 3, 6, 7));
        }
    }
}

/* rows <= ROWS and vecs <= VECS are constants where this is called: the sums stay in registers. */
INLINE void NAME(tile)(const int rows, const int vecs, int64_t k, const float *a, int64_t a_stride,
                       const float *b, int64_t b_stride, float *c, int64_t c_stride)
{
    vec sum[ROWS][VECS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) sum[i][v] = NAME(load)(c + i * c_stride + v * LANES);
    for (int64_t step = 0; step < k; step++, b += b_stride) {
        vec row[VECS];
        for (int v = 0; v < vecs; v++) row[v] = NAME(load)(b + v * LANES);
        for (int i = 0; i < rows; i++) {
            vec x = NAME(splat)(a[i * a_stride + step]);
            for (int v = 0; v < vecs; v++) sum[i][v] = FMA(x, row[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) NAME(store)(c + i * c_stride + v * LANES, sum[i][v]);
}

/* One column of tiles, VECS or one vector wide. */
INLINE void NAME(strip)(const int vecs, int64_t m, int64_t k, const float *a, int64_t a_stride,
                        const float *b, int64_t b_stride, float *c, int64_t c_stride)
{
    for (; m >= ROWS; m -= ROWS, a += ROWS * a_stride, c += ROWS * c_stride)
        NAME(tile)(ROWS, vecs, k, a, a_stride, b, b_stride, c, c_stride);
    switch (m) {
    case 5:
        NAME(tile)(5, vecs, k, a, a_stride, b, b_stride, c, c_stride);
        break;
    case 4:
        NAME(tile)(4, vecs, k, a, a_stride, b, b_stride, c, c_stride);
        break;
    case 3:
        NAME(tile)(3, vecs, k, a, a_stride, b, b_stride, c, c_stride);
        break;
    case 2:
        NAME(tile)(2, vecs, k, a, a_stride, b, b_stride, c, c_stride);
        break;
    case 1:
        NAME(tile)(1, vecs, k, a, a_stride, b, b_stride, c, c_stride);
        break;
    }
}

TARGET static void NAME(product)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_stride,
                                 const float *b, int64_t b_stride, float *c, int64_t c_stride)
{
    int64_t j = 0;
    for (; j + VECS * LANES <= n; j += VECS * LANES)
        NAME(strip)(VECS, m, k, a, a_stride, b + j, b_stride, c + j, c_stride);
    for (; j < n; j += LANES) NAME(strip)(1, m, k, a, a_stride, b + j, b_stride, c + j, c_stride);
}

TARGET static float NAME(softmax)(float *scores, int64_t begin, int64_t end, float soft_cap,
                                  struct phx_softmax_state *state)
{
    const vec none = NAME(splat)(-INFINITY);
    ints lane, first = (ints){0} + (int32_t)begin, last = (ints){0} + (int32_t)end;
    for (int i = 0; i < LANES; i++) lane[i] = i;

    vec s[64 / LANES], largest = none;
    for (int v = 0; v < 64 / LANES; v++) {
        s[v] = NAME(load)(scores + v * LANES);
        if (soft_cap != 0) s[v] = NAME(cap)(s[v], soft_cap);
        s[v] = NAME(select)((lane >= first) & (lane < last), s[v], none);
        largest = NAME(select)(s[v] > largest, s[v], largest);
        lane += LANES;
    }
    float max = NAME(max_lanes)(largest); /* NaNs are passed over */
    if (!(max > state->max)) max = state->max;
    const float base = max == -INFINITY ? 0 : max; /* without one: the sum is 0, or NaN */

    vec sum = {0};
    for (int v = 0; v < 64 / LANES; v++) {
        vec p = NAME(exp)(s[v] - base);
        NAME(store)(scores + v * LANES, p);
        sum += p;
    }
    float factor = max == state->max ? 1.0f : expf(state->max - max);
    state->sum = state->sum * factor + NAME(add_lanes)(sum);
    state->max = max;
    return factor;
}

TARGET static void NAME(scale)(float *x, int64_t n, float factor)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) NAME(store)(x + i, NAME(load)(x + i) * factor);
    for (; i < n; i++) x[i] *= factor;
}

TARGET static float NAME(max)(const float *x, int64_t n)
{
    vec largest = NAME(splat)(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = NAME(load)(x + i);
        largest = NAME(select)(v > largest, v, largest);
    }
    float max = NAME(max_lanes)(largest);
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

TARGET static float NAME(sum_exp)(const float *x, int64_t n, float max)
{
    vec sum = {0}, rest = NAME(splat)(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sum += NAME(exp)(NAME(load)(x + i) - max);
    for (int lane = 0; i < n; i++, lane++) rest[lane] = x[i];
    return NAME(add_lanes)(sum + NAME(exp)(rest - max));
}

static const struct phx_cpu_loops NAME(loops) = {
    .lanes = LANES,
    .widen = NAME(widen),
    .transpose = NAME(transpose),
    .product = NAME(product),
    .softmax = NAME(softmax),
    .scale = NAME(scale),
    .max = NAME(max),
    .sum_exp = NAME(sum_exp),
};

#undef INLINE
#undef vec
#undef ints
#undef NAME
#undef TARGET
#undef LANES
#undef ROWS
#undef VECS
#undef FMA
#undef LOAD_QUADS
#undef SHUFFLE_QUADS
#undef WIDEN_F16
#undef WIDEN_BF16
