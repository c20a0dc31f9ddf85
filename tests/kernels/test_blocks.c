/* Quantised types: each dequantiser against the formula of its format in double precision, written
 * from the description and apart from kernels/base/blocks.c; and products of quantised weights
 * against those of the same values in f32, for every instruction set, with columns of blocks that
 * are cut off at both ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/blocks.h"
#include "kernels/ops.h"

static const enum phx_dtype types[] = {PHX_Q8_0, PHX_Q4_0, PHX_Q4_1, PHX_Q5_0,
                                       PHX_Q5_1, PHX_Q4_K, PHX_Q5_K, PHX_Q6_K};
enum { N_TYPES = sizeof types / sizeof *types };

static uint64_t state = 1;

static uint32_t random_bits(void)
{
    state += 0x9e3779b97f4a7c15ull;
    return (uint32_t)(phx_mix64(state) >> 32);
}

static float random_value(void)
{
    return (float)(random_bits() >> 8) * 0x1p-23f - 1.0f;
}

/* ---- the formats, value by value ---- */

static double half(const uint8_t *at)
{
    int bits = at[0] + 256 * at[1], exponent = bits / 1024 % 32, fraction = bits % 1024;
    double magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return bits >= 32768 ? -magnitude : magnitude;
}

static int nibble(const uint8_t *bytes, int index, int period)
{
    int group = index / (2 * period), in = index % (2 * period);
    int byte = bytes[group * period + in % period];
    return in < period ? byte % 16 : byte / 16;
}

static int bit(const uint8_t *bytes, int index)
{
    return bytes[index / 8] / (1 << index % 8) % 2;
}

/* Scale and minimum number i of the twelve bytes that hold eight pairs of six bits. */
static void pair(const uint8_t *s, int i, int *scale, int *min)
{
    if (i < 4) {
        *scale = s[i] % 64;
        *min = s[4 + i] % 64;
    } else {
        *scale = s[4 + i] % 16 + 16 * (s[i - 4] / 64);
        *min = s[4 + i] / 16 + 16 * (s[i] / 64);
    }
}

static double expected(enum phx_dtype type, const uint8_t *b, int i)
{
    int s, m, q, quarter = i % 128 / 32;
    switch (type) {
    case PHX_Q8_0:
        return half(b) * (b[2 + i] < 128 ? b[2 + i] : b[2 + i] - 256);
    case PHX_Q4_0:
        return half(b) * (nibble(b + 2, i, 16) - 8);
    case PHX_Q4_1:
        return half(b) * nibble(b + 4, i, 16) + half(b + 2);
    case PHX_Q5_0:
        return half(b) * (nibble(b + 6, i, 16) + 16 * bit(b + 2, i) - 16);
    case PHX_Q5_1:
        return half(b) * (nibble(b + 8, i, 16) + 16 * bit(b + 4, i)) + half(b + 2);
    case PHX_Q4_K:
        pair(b + 4, i / 32, &s, &m);
        return half(b) * s * nibble(b + 16, i, 32) - half(b + 2) * m;
    case PHX_Q5_K:
        pair(b + 4, i / 32, &s, &m);
        q = nibble(b + 48, i, 32) + 16 * bit(b + 16 + i % 32, i / 32);
        return half(b) * s * q - half(b + 2) * m;
    default:
        q = b[i / 128 * 64 + i % 64];
        q = (quarter < 2 ? q % 16 : q / 16) +
            16 * (b[128 + i / 128 * 32 + i % 32] / (1 << 2 * quarter) % 4) - 32;
        s = b[192 + i / 16];
        return half(b + 208) * (s < 128 ? s : s - 256) * q;
    }
}

/* Blocks of any bits, but for the f16 numbers, which are finite, and in a weight near 1/64. */
static void fill(enum phx_dtype type, uint8_t *blocks, int64_t n, bool tame)
{
    int bytes = phx_dtype_traits(type)->block_bytes;
    int at = type == PHX_Q6_K ? 208 : 0;
    int n_halves = type == PHX_Q8_0 || type == PHX_Q4_0 || type == PHX_Q5_0 || at > 0 ? 1 : 2;
    for (int64_t b = 0; b < n; b++, blocks += bytes) {
        for (int i = 0; i < bytes; i++) blocks[i] = (uint8_t)random_bits();
        for (int h = 0; h < n_halves; h++) {
            uint16_t bits = (uint16_t)(random_bits() % 0x7c00);
            if (tame) bits = (uint16_t)(0x1c00 + random_bits() % 0x800);
            bits |= (uint16_t)(random_bits() % 2 << 15);
            memcpy(blocks + at + 2 * h, &bits, sizeof bits);
        }
    }
}

static void values_are_those_of_the_formats(void **unused)
{
    (void)unused;
    enum { BLOCKS = 500 };
    for (int t = 0; t < N_TYPES; t++) {
        const struct phx_dtype_traits *traits = phx_dtype_traits(types[t]);
        const int n = traits->block_elements;
        uint8_t *blocks = malloc((size_t)(BLOCKS * traits->block_bytes) + 1) /* not aligned */;
        float *values = malloc((size_t)(BLOCKS * n) * sizeof *values);
        fill(types[t], blocks + 1, BLOCKS, false);
        phx_values_widen(types[t], blocks + 1, (int64_t)BLOCKS * n, values);
        for (int i = 0; i < BLOCKS * n; i++) {
            float wanted =
                (float)expected(types[t], blocks + 1 + i / n * traits->block_bytes, i % n);
            if (values[i] != wanted)
                fail_msg("%s, value %d: %g, expected %g", traits->name, i, (double)values[i],
                         (double)wanted);
        }
        free(values);
        free(blocks);
    }
}

/* ---- back ---- */

static void narrowed_values_are_near(void **unused)
{
    (void)unused;
    static const struct {
        enum phx_dtype type;
        double steps; /* the error over the largest magnitude */
    } rows[] = {{PHX_F32, 0},
                {PHX_F16, 0x1p-11},
                {PHX_BF16, 0x1p-8},
                {PHX_Q8_0, 0.5 / 127 + 0x1p-11},
                {PHX_Q4_0, 1.0 / 8 + 0x1p-11}}; /* the side without -8 ends at 7 */
    enum { N = 3200 };
    float from[N], back[N];
    uint8_t stored[4 * N];
    for (int i = 0; i < N; i++) from[i] = random_value() * (float)(1 + i / 32);
    for (int i = 64; i < 96; i++) from[i] = 0;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        assert_true(phx_values_can_narrow(rows[r].type));
        phx_values_narrow(rows[r].type, from, N, stored);
        phx_values_widen(rows[r].type, stored, N, back);
        for (int i = 0; i < N; i++) {
            double most = 0;
            for (int j = i / 32 * 32; j < i / 32 * 32 + 32; j++)
                most = fmax(most, fabs((double)from[j]));
            if (!(fabs((double)back[i] - (double)from[i]) <= rows[r].steps * most * 1.002))
                fail_msg("%s, value %d: %g became %g", phx_dtype_traits(rows[r].type)->name, i,
                         (double)from[i], (double)back[i]);
        }
    }
    assert_false(phx_values_can_narrow(PHX_Q4_K));
}

/* ---- products ---- */

enum { MAX_ROWS = 110, MAX_IN = 1200, MAX_OUT = 90 };

struct rig {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_buffer *x, *out, *bias;
};

static bool rig_open(struct rig *rig, const char *isa)
{
    struct phx_device_options options = {
        .kind = PHX_DEVICE_CPU, .n_threads = 2, .isa = isa, .compute = PHX_F32};
    struct phx_limits limits = {.max_rows = MAX_ROWS, .max_in = MAX_IN, .max_out = MAX_OUT};
    enum phx_status status = phx_device_create(&options, &rig->device);
    if (status == PHX_UNSUPPORTED) return false;
    assert_int_equal(status, PHX_OK);
    assert_int_equal(phx_stream_create(rig->device, &limits, &rig->stream), PHX_OK);
    size_t bytes = sizeof(float) * MAX_ROWS * (MAX_IN + MAX_OUT);
    assert_int_equal(phx_buffer_create(rig->device, bytes, &rig->x), PHX_OK);
    assert_int_equal(phx_buffer_create(rig->device, bytes, &rig->out), PHX_OK);
    return true;
}

static void rig_close(struct rig *rig)
{
    phx_buffer_destroy(rig->x);
    phx_buffer_destroy(rig->out);
    phx_stream_destroy(rig->stream);
    phx_device_destroy(rig->device);
}

static void multiply(struct rig *rig, const struct phx_weight *weight, const float *x, int64_t n,
                     bool gated, float *out)
{
    struct phx_weight_shape shape = phx_weight_shape(weight);
    struct phx_tensor in = phx_tensor_view(rig->x, 0, PHX_F32, n, shape.cols);
    struct phx_tensor to =
        phx_tensor_view(rig->out, 0, PHX_F32, n, gated ? shape.rows / 2 : shape.rows);
    assert_int_equal(phx_tensor_upload(rig->stream, in, x), PHX_OK);
    struct phx_linear linear = {.x = in, .weight = weight, .out = to};
    struct phx_gate_up gate_up = {.x = in, .weight = weight, .out = to};
    assert_int_equal(gated ? phx_op_gate_up(rig->stream, &gate_up)
                           : phx_op_linear(rig->stream, &linear),
                     PHX_OK);
    assert_int_equal(phx_tensor_download(rig->stream, to, out), PHX_OK);
    assert_int_equal(phx_stream_synchronize(rig->stream), PHX_OK);
}

/* The weight of `shape` with made-up blocks, and its values. */
static struct phx_weight *make_weight(struct rig *rig, const struct phx_weight_shape *shape,
                                      float *values)
{
    const struct phx_dtype_traits *traits = phx_dtype_traits(shape->dtype);
    int64_t stored = phx_weight_stored_cols(shape);
    size_t pitch = phx_dtype_bytes(shape->dtype, stored) + 3;
    uint8_t *blocks = malloc((size_t)shape->rows * pitch);
    struct phx_weight *weight = NULL;
    assert_int_equal(phx_weight_create(rig->device, shape, &weight), PHX_OK);
    for (int64_t r = 0; r < shape->rows; r++)
        fill(shape->dtype, blocks + (size_t)r * pitch, stored / traits->block_elements, true);
    int64_t first = shape->rows / 3; /* in two goes, from within a panel */
    assert_int_equal(phx_weight_write(rig->stream, weight, 0, first, shape->dtype, blocks, pitch),
                     PHX_OK);
    assert_int_equal(phx_weight_write(rig->stream, weight, first, shape->rows - first, shape->dtype,
                                      blocks + (size_t)first * pitch, pitch),
                     PHX_OK);
    assert_int_equal(phx_weight_read(rig->stream, weight, 0, shape->rows, values), PHX_OK);
    for (int64_t r = 0; r < shape->rows; r++)
        for (int64_t c = 0; c < shape->cols; c++) {
            int64_t at = shape->lead + c;
            double wanted = expected(shape->dtype,
                                     blocks + (size_t)r * pitch +
                                         at / traits->block_elements * traits->block_bytes,
                                     (int)(at % traits->block_elements));
            assert_true(values[r * shape->cols + c] == (float)wanted);
        }
    free(blocks);
    return weight;
}

/* Of the products that an output sums. */
static double size_of(const float *w, const float *x, int64_t cols, int64_t n, int64_t row)
{
    double size = 0;
    for (int64_t c = 0; c < cols; c++)
        size += fabs((double)w[row * cols + c] * (double)x[n * cols + c]);
    return size;
}

/* Without lead the order of additions is the same, and so is every bit. */
static void check_product(struct rig *rig, enum phx_dtype type, int64_t lead, int64_t cols,
                          int64_t rows)
{
    static float values[MAX_OUT * MAX_IN], x[MAX_ROWS * MAX_IN], sums[MAX_ROWS * MAX_OUT];
    static float plain_sums[MAX_ROWS * MAX_OUT], one[MAX_OUT];
    struct phx_weight_shape shape = {.dtype = type, .rows = rows, .cols = cols, .lead = lead};
    struct phx_weight_shape plain_shape = {.dtype = PHX_F32, .rows = rows, .cols = cols};
    struct phx_weight *weight = make_weight(rig, &shape, values), *plain = NULL;
    assert_int_equal(phx_weight_create(rig->device, &plain_shape, &plain), PHX_OK);
    assert_int_equal(phx_weight_write(rig->stream, plain, 0, rows, PHX_F32, values,
                                      sizeof *values * (size_t)cols),
                     PHX_OK);
    static const int counts[] = {1, 2, 3, 13, MAX_ROWS};
    for (int i = 0; i < MAX_ROWS * MAX_IN; i++) x[i] = random_value();
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        for (int gated = 0; gated < (lead == 0 ? 2 : 1); gated++) { /* gate_up is never cut */
            int64_t n = counts[k], n_out = gated ? rows / 2 : rows;
            multiply(rig, weight, x, n, gated, sums);
            multiply(rig, plain, x, n, gated, plain_sums);
            for (int64_t i = 0; i < n * n_out; i++) {
                if (lead == 0 ? sums[i] != plain_sums[i]
                              : !(fabs((double)sums[i] - (double)plain_sums[i]) <=
                                  1e-6 * size_of(values, x, cols, i / n_out, i % n_out)))
                    fail_msg("%s, lead %lld, %lld columns, %lld rows: output %lld is %.9g, of f32 "
                             "%.9g",
                             phx_dtype_traits(type)->name, (long long)lead, (long long)cols,
                             (long long)n, (long long)i, (double)sums[i], (double)plain_sums[i]);
            }
            multiply(rig, weight, x + (n - 1) * cols, 1, gated, one);
            assert_memory_equal(one, sums + (n - 1) * n_out, sizeof *one * (size_t)n_out);
        }
    }
    phx_weight_destroy(plain);
    phx_weight_destroy(weight);
}

static void products_are_those_of_the_values(void **unused)
{
    (void)unused;
    static const char *const isas[] = {"portable", "avx2", "avx512", "avx512_bf16"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        struct rig rig;
        if (!rig_open(&rig, isas[i])) continue;
        for (int t = 0; t < N_TYPES; t++) {
            int block = phx_dtype_traits(types[t])->block_elements;
            check_product(&rig, types[t], 0, block, 18);
            check_product(&rig, types[t], 0, block * (block == 32 ? 21 : 3), 86);
            check_product(&rig, types[t], block / 2, block * 2 + 24, 34);
            check_product(&rig, types[t], 8, 16, 50);
        }
        rig_close(&rig);
    }
}

/* Rows of three types, one below the other. */
static void bands_are_products_side_by_side(void **unused)
{
    (void)unused;
    struct rig rig;
    assert_true(rig_open(&rig, "portable"));
    const struct phx_weight_shape shape = {
        .dtype = PHX_Q4_K, .rows = 70, .cols = 512, .below = {{PHX_Q6_K, 21}, {PHX_F16, 19}}};
    enum { N = 3 };
    static float w[70 * 512], x[N * 512], out[N * 70];
    struct phx_weight *weight = NULL;
    assert_int_equal(phx_weight_create(rig.device, &shape, &weight), PHX_OK);
    int64_t row = 0;
    size_t bytes = 0;
    for (int b = 0; b < 3; b++) {
        enum phx_dtype type = b == 0 ? shape.dtype : shape.below[b - 1].dtype;
        int64_t rows = b == 0 ? 30 : shape.below[b - 1].rows;
        const struct phx_weight_shape band = {.dtype = type, .rows = rows, .cols = 512};
        size_t pitch = phx_dtype_bytes(type, 512);
        uint8_t *from = malloc((size_t)rows * pitch);
        if (type == PHX_F16)
            for (int64_t i = 0; i < rows * 512; i++) {
                uint16_t bits = phx_f16_from_f32(random_value());
                memcpy(from + 2 * i, &bits, sizeof bits);
            }
        else
            fill(type, from, rows * 2, true);
        assert_int_equal(phx_weight_write(rig.stream, weight, row, rows, type, from, pitch),
                         PHX_OK);
        phx_values_widen(type, from, rows * 512, w + row * 512);
        bytes += phx_weight_bytes(rig.device, &band);
        row += rows;
        free(from);
    }
    assert_int_equal(phx_weight_bytes(rig.device, &shape), bytes);
    float *back = malloc(sizeof w);
    assert_int_equal(phx_weight_read(rig.stream, weight, 0, 70, back), PHX_OK);
    assert_memory_equal(back, w, sizeof w);
    free(back);
    for (int i = 0; i < N * 512; i++) x[i] = random_value();
    multiply(&rig, weight, x, N, false, out);
    for (int n = 0; n < N; n++)
        for (int r = 0; r < 70; r++) {
            double sum = 0, size = 0;
            for (int c = 0; c < 512; c++) {
                sum += (double)x[n * 512 + c] * (double)w[r * 512 + c];
                size += fabs((double)x[n * 512 + c] * (double)w[r * 512 + c]);
            }
            assert_true(fabs((double)out[n * 70 + r] - sum) <= 1e-6 * size);
        }
    phx_weight_destroy(weight);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_formats),
        cmocka_unit_test(narrowed_values_are_near),
        cmocka_unit_test(products_are_those_of_the_values),
        cmocka_unit_test(bands_are_products_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
