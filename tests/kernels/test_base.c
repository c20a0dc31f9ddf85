/* kernels/base: statuses, exact conversions over all 16-bit values, random numbers; and views. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/dtype.h"
#include "kernels/base/random.h"
#include "kernels/tensor.h"
#include "tests/support/check.h"

/* ---- status ---- */

static void test_status_texts_differ(void **state)
{
    (void)state;
    for (int a = PHX_OK; a <= PHX_INTERRUPTED; a++)
        for (int b = a + 1; b <= PHX_INTERRUPTED; b++)
            assert_string_not_equal(phx_status_text((enum phx_status)a),
                                    phx_status_text((enum phx_status)b));
    assert_string_equal(phx_status_text(PHX_OUT_OF_MEMORY), "out of memory");
}

static void *sentence_of_another_thread(void *user)
{
    phx_fail(PHX_IO, "of the other thread");
    return user;
}

static void test_fail_keeps_the_last_sentence(void **state)
{
    (void)state;
    phx_fail_clear();
    assert_string_equal(phx_fail_sentence(), "");
    assert_int_equal(phx_fail(PHX_NOT_FOUND, "no %s in %d", "tensor", 7), PHX_NOT_FOUND);
    assert_string_equal(phx_fail_sentence(), "no tensor in 7");
    assert_int_equal(phx_fail(PHX_USAGE, "another"), PHX_USAGE);

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, sentence_of_another_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(phx_fail_sentence(), "another");

    char longest[PHX_SENTENCE_BYTES + 100];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    phx_fail(PHX_IO, "%s", longest);
    assert_int_equal(strlen(phx_fail_sentence()), PHX_SENTENCE_BYTES - 1);
    phx_fail_clear();
    assert_string_equal(phx_fail_sentence(), "");
}

/* ---- types ---- */

static void test_traits(void **state)
{
    static const struct {
        enum phx_dtype dtype;
        const char *name;
        int32_t elements;
        size_t bytes;
        bool is_float, is_weight;
    } expected[] = {
        {PHX_F32, "F32", 1, 4, true, true},        {PHX_F16, "F16", 1, 2, true, true},
        {PHX_BF16, "BF16", 1, 2, true, true},      {PHX_I32, "I32", 1, 4, false, false},
        {PHX_U16, "U16", 1, 2, false, false},      {PHX_U8, "U8", 1, 1, false, false},
        {PHX_Q8_0, "Q8_0", 32, 34, false, true},   {PHX_Q4_0, "Q4_0", 32, 18, false, true},
        {PHX_Q4_1, "Q4_1", 32, 20, false, true},   {PHX_Q5_0, "Q5_0", 32, 22, false, true},
        {PHX_Q5_1, "Q5_1", 32, 24, false, true},   {PHX_Q4_K, "Q4_K", 256, 144, false, true},
        {PHX_Q5_K, "Q5_K", 256, 176, false, true}, {PHX_Q6_K, "Q6_K", 256, 210, false, true},
    };
    (void)state;
    assert_int_equal(sizeof expected / sizeof *expected, PHX_DTYPE_COUNT);
    for (size_t i = 0; i < PHX_DTYPE_COUNT; i++) {
        const struct phx_dtype_traits *traits = phx_dtype_traits(expected[i].dtype);
        assert_string_equal(traits->name, expected[i].name);
        assert_int_equal(traits->is_float, expected[i].is_float);
        assert_int_equal(traits->is_weight, expected[i].is_weight);
        assert_int_equal(traits->block_elements, expected[i].elements);
        assert_int_equal(phx_dtype_bytes(expected[i].dtype, 77 * (int64_t)expected[i].elements),
                         77 * expected[i].bytes);
    }
    assert_true(phx_dtype_bytes(PHX_F32, (int64_t)3 << 31) == (size_t)12 << 31);
}

/* A 16-bit float by its definition. */
static double decode(uint16_t bits, int exponent_bits)
{
    const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    const double sign = bits & 0x8000 ? -1 : 1, fraction = bits & ((1 << fraction_bits) - 1);
    if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? (double)NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

static float from_f16(uint16_t bits)
{
    return phx_f32_from_f16(bits);
}

static float from_bf16(uint16_t bits)
{
    return phx_f32_from_bf16(bits);
}

static uint16_t to_bf16(float value)
{
    return phx_bf16_from_f32(value);
}

static const struct format {
    const char *name;
    int exponent_bits;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
} formats[] = {{"f16", 5, from_f16, phx_f16_from_f32}, {"bf16", 8, from_bf16, to_bf16}};

static void expect_bits(const struct format *f, float value, uint16_t expected)
{
    if (f->narrow(value) != expected)
        fail_msg("%s of %a is 0x%04x, not 0x%04x", f->name, (double)value, f->narrow(value),
                 expected);
}

/* Every value, what lies just beside it, the middle to the next one and what lies beside that. */
static void test_conversions_are_exact(void **state)
{
    (void)state;
    for (const struct format *f = formats; f < formats + 2; f++) {
        for (uint32_t i = 0; i <= 0xffff; i++) {
            const uint16_t bits = (uint16_t)i;
            const float value = f->widen(bits);
            const double expected = decode(bits, f->exponent_bits);
            if (isnan(expected)) {
                assert_true(isnan(value));
                assert_true(isnan(f->widen(f->narrow(value))));
                assert_int_equal(f->narrow(value) & 0x8000, bits & 0x8000);
                continue;
            }
            if ((double)value != expected || !signbit(value) != !signbit(expected))
                fail_msg("%s 0x%04x is %a, not %a", f->name, bits, (double)value, expected);
            expect_bits(f, value, bits);
            if (isinf(expected)) continue;
            const float outwards = signbit(value) ? -INFINITY : INFINITY;
            expect_bits(f, nextafterf(value, outwards), bits);
            /* The last step is as wide as the one before it, though it ends at infinity. */
            const uint16_t next = (uint16_t)(bits + 1), before = (uint16_t)(bits - 1);
            double step = decode(next, f->exponent_bits) - expected;
            if (isinf(step)) step = expected - decode(before, f->exponent_bits);
            const float middle = (float)(expected + step / 2);
            expect_bits(f, middle, bits % 2 == 0 ? bits : next);
            expect_bits(f, nextafterf(middle, -outwards), bits);
            expect_bits(f, nextafterf(middle, outwards), next);
        }
        expect_bits(f, INFINITY, f->narrow(INFINITY));
        assert_true(isinf(f->widen(f->narrow(3.4028234e38f))));
        assert_true(isnan(f->widen(f->narrow(phx_f32_from_bits(0x7f800001u)))));
        assert_true(isnan(f->widen(f->narrow(phx_f32_from_bits(0xff80ffffu)))));
    }
}

/* ---- random numbers ---- */

enum { BINS = 64 };

struct moments {
    double n, sum, squares;
    double bins[BINS]; /* of [0, 1) */
};

static void add(struct moments *m, double value)
{
    m->n++;
    m->sum += value;
    m->squares += value * value;
    m->bins[(int)(value * BINS)]++;
}

/* Mean and variance of a uniform value within five standard errors; evenly spread: chi-square over
 * 63 degrees of freedom beyond 125 has a chance of 6e-6. */
static void check_uniform(const struct moments *m)
{
    const double mean = m->sum / m->n, variance = m->squares / m->n - mean * mean;
    double chi_square = 0;
    assert_true(fabs(mean - 0.5) < 5 * sqrt(1 / 12.0 / m->n));
    assert_true(fabs(variance - 1 / 12.0) < 5 * sqrt(1 / 180.0 / m->n));
    for (int i = 0; i < BINS; i++) chi_square += pow(m->bins[i] - m->n / BINS, 2) / (m->n / BINS);
    assert_true(chi_square < 125 && chi_square > 20);
}

static void test_sample_uniform(void **state)
{
    (void)state;
    struct moments tokens = {0}, positions = {0}, seeds = {0};
    double product = 0, last = 0.5;
    for (int32_t i = 0; i < 1 << 19; i++) {
        const double u = (double)phx_sample_uniform(phx_sample_key(1234, 0, 17), i);
        assert_true(u > 0 && u < 1);
        add(&tokens, u);
        product += (u - 0.5) * (last - 0.5);
        last = u;
        add(&positions, (double)phx_sample_uniform(phx_sample_key(1234, 0, i), 99));
        add(&seeds, (double)phx_sample_uniform(phx_sample_key((uint64_t)i, 1, 5), 3));
    }
    check_uniform(&tokens);
    check_uniform(&positions);
    check_uniform(&seeds);
    assert_true(fabs(product / tokens.n) < 5 / 12.0 / sqrt(tokens.n)); /* of neighbours */
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_sample_keys_differ(void **state)
{
    enum { SEEDS = 20, CHOICES = 8, POSITIONS = 300, N = SEEDS * CHOICES * POSITIONS };
    (void)state;
    uint64_t *keys = malloc(N * sizeof *keys);
    assert_non_null(keys);
    for (int32_t i = 0; i < N; i++)
        keys[i] = phx_sample_key((uint64_t)(i / CHOICES / POSITIONS), i / POSITIONS % CHOICES,
                                 i % POSITIONS);
    qsort(keys, N, sizeof *keys, by_key);
    for (int32_t i = 1; i < N; i++) assert_true(keys[i - 1] != keys[i]);
    free(keys);
}

static void test_dummy_values(void **state)
{
    enum { ROWS = 700, COLS = 900 };
    (void)state;
    const uint64_t key = phx_dummy_key("model.layers.0.mlp.up_proj.weight");
    assert_true(key != phx_dummy_key("model.layers.1.mlp.up_proj.weight"));
    struct moments all = {0}, column = {0};
    double beside = 0, below = 0;
    float *above = calloc(COLS, sizeof *above);
    assert_non_null(above);
    for (int32_t r = 0; r < ROWS; r++) {
        const uint32_t row_key = phx_dummy_row_key(key, r);
        float left = 0;
        for (uint32_t c = 0; c < COLS; c++) {
            const float unit = phx_dummy_unit(row_key, c);
            assert_true(unit >= -1 && unit < 1);
            assert_true(unit * 32768 == floorf(unit * 32768));
            add(&all, ((double)unit + 1) / 2);
            beside += (double)(unit * left);
            below += (double)(unit * above[c]);
            left = above[c] = unit;
        }
    }
    for (int32_t r = 0; r < 1 << 17; r++) /* far down one column of a large tensor */
        add(&column,
            ((double)phx_dummy_unit(phx_dummy_row_key(key, r * (int64_t)40009), 7) + 1) / 2);
    check_uniform(&all);
    check_uniform(&column);
    assert_true(fabs(beside / all.n) < 5 / 3.0 / sqrt(all.n));
    assert_true(fabs(below / all.n) < 5 / 3.0 / sqrt(all.n));
    free(above);
}

/* ---- views ---- */

static void test_views(void **state)
{
    (void)state;
    struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 1};
    struct phx_device *device;
    struct phx_buffer *buffer;
    assert_ok(phx_device_create(&options, &device));
    assert_ok(phx_buffer_create(device, 1000, &buffer));
    char *base = phx_buffer_address(buffer);

    struct phx_tensor t = phx_tensor_view(buffer, 8, PHX_F32, 5, 7);
    assert_true(phx_tensor_present(t) && !phx_tensor_present((struct phx_tensor){0}));
    assert_int_equal(phx_tensor_span_bytes(t), 5 * 7 * 4);
    assert_ptr_equal(phx_tensor_address(t), base + 8);
    struct phx_tensor part = phx_tensor_cols(phx_tensor_rows(t, 1, 3), 2, 4);
    assert_int_equal(part.rows, 3);
    assert_int_equal(part.cols, 4);
    assert_int_equal(part.stride, 7);
    assert_ptr_equal(phx_tensor_address(part), base + 8 + 4 * (7 + 2));
    assert_int_equal(phx_tensor_span_bytes(part), 4 * (2 * 7 + 4));
    assert_int_equal(phx_tensor_span_bytes(phx_tensor_rows(t, 5, 0)), 0);

    phx_buffer_destroy(buffer);
    phx_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_texts_differ),
        cmocka_unit_test(test_fail_keeps_the_last_sentence),
        cmocka_unit_test(test_traits),
        cmocka_unit_test(test_conversions_are_exact),
        cmocka_unit_test(test_sample_uniform),
        cmocka_unit_test(test_sample_keys_differ),
        cmocka_unit_test(test_dummy_values),
        cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
