#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/weight.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
static const enum phx_dtype dtypes[] = {PHX_F32, PHX_F16, PHX_BF16};

struct rig {
    struct phx_device *device;
    struct phx_stream *stream;
};

static int rig_open(void **out)
{
    static struct rig rig;
    struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 3};
    struct phx_limits limits = {.max_rows = 1};
    assert_int_equal(phx_device_create(&options, &rig.device), PHX_OK);
    assert_int_equal(phx_stream_create(rig.device, &limits, &rig.stream), PHX_OK);
    *out = &rig;
    return 0;
}

static int rig_close(void **in)
{
    struct rig *rig = *in;
    phx_stream_destroy(rig->stream);
    phx_device_destroy(rig->device);
    return 0;
}

static struct phx_weight *create(const struct rig *rig, enum phx_dtype dtype, int64_t rows,
                                 int64_t cols)
{
    struct phx_weight_shape shape = {.dtype = dtype, .rows = rows, .cols = cols}, found;
    struct phx_weight *weight;
    assert_int_equal(phx_weight_create(rig->device, &shape, &weight), PHX_OK);
    found = phx_weight_shape(weight);
    assert_true(found.dtype == dtype && found.rows == rows && found.cols == cols);
    assert_true(phx_weight_bytes(rig->device, &shape) >= phx_dtype_bytes(dtype, rows * cols));
    return weight;
}

/* Round to a type by looking for the nearest of its values in double precision, ties to even. */
static double nearest(enum phx_dtype dtype, double value)
{
    if (dtype == PHX_F32) return value;
    int mantissa = dtype == PHX_F16 ? 11 : 8, lowest = dtype == PHX_F16 ? -24 : -133;
    double largest = dtype == PHX_F16 ? 65504.0 : 3.3895313892515355e38;
    int exponent;
    frexp(value, &exponent);
    int unit = exponent - mantissa > lowest ? exponent - mantissa : lowest;
    double rounded = ldexp(nearbyint(ldexp(value, -unit)), unit);
    return fabs(rounded) > largest ? copysign(INFINITY, value) : rounded;
}

static void store(enum phx_dtype dtype, double value, char *to)
{
    float f32 = (float)value;
    uint16_t bits = dtype == PHX_F16 ? phx_f16_from_f32(f32) : phx_bf16_from_f32(f32);
    if (dtype == PHX_F32)
        memcpy(to, &f32, sizeof f32);
    else
        memcpy(to, &bits, sizeof bits);
}

/* Values of one type written row range by row range, from an odd address, as another type. */
static void check_write(const struct rig *rig, enum phx_dtype from_dtype, enum phx_dtype dtype,
                        int64_t rows, int64_t cols)
{
    size_t bytes = phx_dtype_bytes(from_dtype, 1), pitch = bytes * (size_t)(cols + 2);
    char *file = malloc((size_t)rows * pitch + 1), *from = file + 1;
    double *expected = malloc(sizeof *expected * (size_t)(rows * cols));
    float *back = malloc(sizeof *back * (size_t)(rows * cols));
    assert_non_null(file);
    assert_non_null(expected);
    assert_non_null(back);
    for (int64_t i = 0; i < rows * cols; i++) {
        static const double special[] = {1.00390625, 1.01171875, 65519.0, 65520.0,
                                         1e-7,       3e38,       -0.0};
        double value = ldexp((double)phx_dummy_unit(7, (uint32_t)i), (int)(i % 37) - 22);
        if (i % 5 == 0) value = special[i / 5 % (int64_t)COUNT(special)];
        value = nearest(from_dtype, (double)(float)value);
        store(from_dtype, value, from + (size_t)(i / cols) * pitch + (size_t)(i % cols) * bytes);
        expected[i] = nearest(dtype, value);
    }
    struct phx_weight *weight = create(rig, dtype, rows, cols);
    for (int64_t row = 0, some = 1; row < rows; row += some, some = some % 23 + 5) {
        if (some > rows - row) some = rows - row;
        assert_int_equal(phx_weight_write(rig->stream, weight, row, some, from_dtype,
                                          from + (size_t)row * pitch, pitch),
                         PHX_OK);
    }
    assert_int_equal(phx_weight_read(rig->stream, weight, 0, rows, back), PHX_OK);
    for (int64_t i = 0; i < rows * cols; i++)
        if (!((double)back[i] == expected[i]))
            fail_msg("%d to %d, value %ld of %ld: %g instead of %g", (int)from_dtype, (int)dtype,
                     (long)i, (long)(rows * cols), (double)back[i], expected[i]);
    phx_weight_destroy(weight);
    free(back);
    free(expected);
    free(file);
}

static void test_written_values_are_rounded_and_found_again(void **state)
{
    const struct rig *rig = *state;
    for (size_t f = 0; f < COUNT(dtypes); f++)
        for (size_t t = 0; t < COUNT(dtypes); t++) {
            check_write(rig, dtypes[f], dtypes[t], 1, 1);
            check_write(rig, dtypes[f], dtypes[t], 37, 33);
            check_write(rig, dtypes[f], dtypes[t], 16, 256);
            check_write(rig, dtypes[f], dtypes[t], 103, 1031);
        }
}

static void test_nan_and_infinity(void **state)
{
    const struct rig *rig = *state;
    float values[3] = {NAN, INFINITY, -INFINITY}, back[3];
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        struct phx_weight *weight = create(rig, dtypes[d], 1, 3);
        assert_int_equal(
            phx_weight_write(rig->stream, weight, 0, 1, PHX_F32, values, sizeof values), PHX_OK);
        assert_int_equal(phx_weight_read(rig->stream, weight, 0, 1, back), PHX_OK);
        assert_true(isnan(back[0]) && back[1] == INFINITY && back[2] == -INFINITY);
        phx_weight_destroy(weight);
    }
}

static void test_a_new_weight_is_zero(void **state)
{
    const struct rig *rig = *state;
    float back[21 * 5];
    struct phx_weight *weight = create(rig, PHX_BF16, 21, 5);
    assert_int_equal(phx_weight_read(rig->stream, weight, 0, 21, back), PHX_OK);
    for (size_t i = 0; i < COUNT(back); i++) assert_true(back[i] == 0.0f);
    phx_weight_destroy(weight);
    phx_weight_destroy(NULL);
}

static void test_only_the_given_rows_change(void **state)
{
    const struct rig *rig = *state;
    float ones[3 * 7], back[40 * 7];
    for (size_t i = 0; i < COUNT(ones); i++) ones[i] = 1.0f;
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        struct phx_weight *weight = create(rig, dtypes[d], 40, 7);
        assert_int_equal(phx_weight_write(rig->stream, weight, 14, 3, PHX_F32, ones, 7 * 4),
                         PHX_OK);
        assert_int_equal(phx_weight_read(rig->stream, weight, 0, 40, back), PHX_OK);
        for (int i = 0; i < 40 * 7; i++)
            assert_true(back[i] == (i / 7 >= 14 && i / 7 < 17 ? 1.0f : 0.0f));
        float row[7];
        phx_cpu_weight_row(weight, 16, row);
        assert_memory_equal(row, ones, sizeof row);
        phx_weight_destroy(weight);
    }
}

/* The same bits as the formula gives one by one, and as any cut of the tensor gives. */
static void test_dummy_values(void **state)
{
    const struct rig *rig = *state;
    struct phx_dummy dummy = {phx_dummy_key("model.layers.3.mlp.down_proj.weight"), 1.0f, 0.0437f};
    const int64_t rows = 61, cols = 523, row0 = 129000, col0 = 4001;
    float *back = malloc(sizeof *back * (size_t)(rows * cols));
    assert_non_null(back);
    for (size_t d = 0; d < COUNT(dtypes); d++) {
        struct phx_weight *weight = create(rig, dtypes[d], rows, cols);
        for (int64_t row = 0, some = 20; row < rows; row += some) {
            if (some > rows - row) some = rows - row;
            assert_int_equal(
                phx_weight_write_dummy(rig->stream, weight, row, some, &dummy, row0 + row, col0),
                PHX_OK);
        }
        assert_int_equal(phx_weight_read(rig->stream, weight, 0, rows, back), PHX_OK);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++) {
                volatile float scaled =
                    dummy.scale *
                    phx_dummy_unit(phx_dummy_row_key(dummy.key, row0 + r), (uint32_t)(col0 + c));
                volatile float value = dummy.center + scaled;
                assert_true((double)back[r * cols + c] == nearest(dtypes[d], (double)value));
            }
        phx_weight_destroy(weight);
    }
    free(back);
}

static void test_too_large_a_weight(void **state)
{
    const struct rig *rig = *state;
    struct phx_weight_shape shape = {
        .dtype = PHX_BF16, .rows = (int64_t)1 << 30, .cols = (int64_t)1 << 20};
    struct phx_weight *weight;
    assert_int_equal(phx_weight_create(rig->device, &shape, &weight), PHX_OUT_OF_MEMORY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_values_are_rounded_and_found_again),
        cmocka_unit_test(test_nan_and_infinity),
        cmocka_unit_test(test_a_new_weight_is_zero),
        cmocka_unit_test(test_only_the_given_rows_change),
        cmocka_unit_test(test_dummy_values),
        cmocka_unit_test(test_too_large_a_weight),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
