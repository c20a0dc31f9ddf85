/* Linear and gate_up of the CPU against sums in double precision: every instruction set, type of
 * weight, odd sizes; and that neither threads nor the rows beside it change a row's bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

enum { GAP = 3, GUARD = 5 }; /* floats between rows of x, of out */
static const float guard = -12345.0f;

struct rig {
    struct phx_device *device;
    struct phx_stream *stream;
    enum phx_dtype compute;
};

/* False where the machine lacks the instruction set. */
static bool rig_open(struct rig *rig, const char *isa, int n_threads, enum phx_dtype compute)
{
    struct phx_device_options options = {
        .kind = PHX_DEVICE_CPU, .n_threads = n_threads, .isa = isa, .compute = compute};
    enum phx_status status = phx_device_create(&options, &rig->device);
    if (status == PHX_UNSUPPORTED) return false;
    assert_int_equal(status, PHX_OK);
    struct phx_limits limits = {.max_rows = 520, .max_in = 700, .max_out = 700};
    assert_int_equal(phx_stream_create(rig->device, &limits, &rig->stream), PHX_OK);
    rig->compute = compute;
    return true;
}

static void rig_close(struct rig *rig)
{
    phx_stream_destroy(rig->stream);
    phx_device_destroy(rig->device);
}

static uint64_t state = 1;

static float random_value(void)
{
    state += 0x9e3779b97f4a7c15ull;
    return (float)(phx_mix64(state) >> 40) * 0x1p-23f - 1.0f;
}

static float *random_values(int64_t n)
{
    float *values = malloc((size_t)(n > 0 ? n : 1) * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < n; i++) values[i] = random_value();
    return values;
}

struct shape {
    int64_t n, in, out;
};

struct problem {
    struct shape shape;
    bool gated;
    enum phx_activation activation;
    struct phx_weight *weight;
    float *w;    /* as the weight has them */
    float *x;    /* [n][in + GAP] */
    float *bias; /* or NULL */
};

static struct problem problem_open(struct rig *rig, struct shape shape, enum phx_dtype dtype,
                                   bool gated, bool bias)
{
    struct problem p = {.shape = shape, .gated = gated};
    struct phx_weight_shape weight_shape = {
        .dtype = dtype, .rows = shape.out * (gated ? 2 : 1), .cols = shape.in};
    p.activation = shape.in % 2 ? PHX_SILU : PHX_GELU_TANH;
    assert_int_equal(phx_weight_create(rig->device, &weight_shape, &p.weight), PHX_OK);
    p.w = random_values(weight_shape.rows * shape.in);
    assert_int_equal(phx_weight_write(rig->stream, p.weight, 0, weight_shape.rows, PHX_F32, p.w,
                                      (size_t)shape.in * sizeof(float)),
                     PHX_OK);
    assert_int_equal(phx_weight_read(rig->stream, p.weight, 0, weight_shape.rows, p.w), PHX_OK);
    p.x = random_values(shape.n * (shape.in + GAP) - GAP); /* nothing after the last row */
    p.bias = bias ? random_values(weight_shape.rows) : NULL;
    return p;
}

static void problem_close(struct problem *p)
{
    phx_weight_destroy(p->weight);
    free(p->w);
    free(p->x);
    free(p->bias);
}

static struct phx_tensor wrapped(struct rig *rig, float *values, int64_t rows, int64_t cols,
                                 int64_t stride)
{
    struct phx_buffer *buffer;
    size_t bytes = (size_t)(rows > 0 ? (rows - 1) * stride + cols : 0) * sizeof(float);
    assert_int_equal(phx_buffer_wrap(rig->device, values, bytes, &buffer), PHX_OK);
    return (struct phx_tensor){buffer, 0, PHX_F32, rows, cols, stride};
}

/* Rows [first, first + rows) of the problem into out[rows][out + GUARD]. */
static void run(struct rig *rig, const struct problem *p, int64_t first, int64_t rows, float *out)
{
    const struct shape *s = &p->shape;
    int64_t out_stride = s->out + GUARD, x_stride = s->in + GAP;
    for (int64_t i = 0; i < rows * out_stride; i++) out[i] = guard;
    const struct phx_cpu_stream *stream = (const struct phx_cpu_stream *)rig->stream;
    size_t packed = (size_t)((rows + 1) * (s->in + 1)) * sizeof(float);
    char *shared = phx_cpu_shared_scratch(rig->stream);
    memset(stream->scratch, 0xff, (size_t)(shared - stream->scratch) + packed); /* no numbers */
    struct phx_tensor x = wrapped(rig, p->x + first * x_stride, rows, s->in, x_stride);
    struct phx_tensor to = wrapped(rig, out, rows, s->out, out_stride);
    struct phx_tensor bias = {0};
    int64_t n_bias = p->gated ? 2 * s->out : s->out;
    if (p->bias) bias = wrapped(rig, p->bias, 1, n_bias, n_bias);
    const struct phx_backend *backend = rig->device->backend;
    if (p->gated) {
        struct phx_gate_up args = {x, p->weight, bias, p->activation, to};
        assert_int_equal(backend->gate_up(rig->stream, &args), PHX_OK);
    } else {
        struct phx_linear args = {.x = x, .weight = p->weight, .bias = bias, .out = to};
        assert_int_equal(backend->linear(rig->stream, &args), PHX_OK);
    }
    phx_buffer_destroy(x.buffer);
    phx_buffer_destroy(to.buffer);
    phx_buffer_destroy(bias.buffer);
}

/* One output row before the activation, and what its rounding is measured by. */
static double dot(const struct problem *p, enum phx_dtype compute, int64_t n, int64_t row,
                  double *size)
{
    const float *x = p->x + n * (p->shape.in + GAP), *w = p->w + row * p->shape.in;
    double sum = p->bias ? (double)p->bias[row] : 0.0;
    *size = fabs(sum);
    for (int64_t k = 0; k < p->shape.in; k++) {
        float value = compute == PHX_BF16 ? phx_f32_from_bf16(phx_bf16_from_f32(x[k])) : x[k];
        sum += (double)value * (double)w[k];
        *size += fabs((double)value * (double)w[k]);
    }
    return sum;
}

static double activated(enum phx_activation activation, double z)
{
    if (activation == PHX_SILU) return z / (1.0 + exp(-z));
    return z / 2.0 * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (z + 0.044715 * z * z * z)));
}

static void check(const struct rig *rig, const struct problem *p, const float *out)
{
    const struct shape *s = &p->shape;
    int64_t stride = s->out + GUARD;
    for (int64_t n = 0; n < s->n; n++) {
        for (int64_t c = s->out; c < stride; c++) assert_true(out[n * stride + c] == guard);
        /* every output of the first and last row, some of the others */
        int64_t step = n == 0 || n == s->n - 1 ? 1 : s->n > 64 ? 41 : 7;
        for (int64_t c = n % step; c < s->out; c += step) {
            double size, up_size = 0.0;
            double expected = dot(p, rig->compute, n, c, &size);
            if (p->gated) {
                double up = dot(p, rig->compute, n, s->out + c, &up_size);
                size = (size + 1.0) * (up_size + 1.0);
                expected = activated(p->activation, expected) * up;
            }
            double error = fabs((double)out[n * stride + c] - expected);
            if (!(error <= 1e-6 * size + 1e-6))
                fail_msg("[%ld x %ld] x %ld, row %ld, output %ld: %g instead of %g", (long)s->n,
                         (long)s->in, (long)s->out, (long)n, (long)c, (double)out[n * stride + c],
                         expected);
        }
    }
}

static const int64_t ins[] = {1, 7, 33, 119, 288};
static const int64_t outs[] = {1, 5, 31, 515};
static const int64_t ns[] = {1, 2, 3, 8, 9, 40};
static const enum phx_dtype dtypes[] = {PHX_F32, PHX_F16, PHX_BF16};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void check_shapes(struct rig *rig)
{
    size_t turn = 0; /* takes gated and bias through their combinations */
    for (size_t i = 0; i < COUNT(ins); i++)
        for (size_t o = 0; o < COUNT(outs); o++)
            for (size_t n = 0; n < COUNT(ns); n++)
                for (size_t d = 0; d < COUNT(dtypes); d++, turn++) {
                    struct shape shape = {ns[n], ins[i], outs[o]};
                    struct problem p = problem_open(rig, shape, dtypes[d], turn % 2, turn / 2 % 2);
                    float *out = random_values(shape.n * (shape.out + GUARD));
                    run(rig, &p, 0, shape.n, out);
                    check(rig, &p, out);
                    free(out);
                    problem_close(&p);
                }
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (int gated = 0; gated < 2; gated++) { /* several blocks of rows, columns, panels */
            struct shape shape = {513, 519, 207};
            struct problem p = problem_open(rig, shape, dtypes[d], gated, true);
            float *out = random_values(shape.n * (shape.out + GUARD));
            run(rig, &p, 0, shape.n, out);
            check(rig, &p, out);
            free(out);
            problem_close(&p);
        }
}

static void check_isa(const char *isa, enum phx_dtype compute)
{
    struct rig rig;
    if (!rig_open(&rig, isa, 2, compute)) {
        print_message("this machine has no %s\n", isa);
        skip();
    }
    check_shapes(&rig);
    rig_close(&rig);
}

static void test_portable(void **unused)
{
    (void)unused;
    check_isa("portable", PHX_F32);
}

static void test_portable_bf16(void **unused)
{
    (void)unused;
    check_isa("portable", PHX_BF16);
}

static void test_avx2(void **unused)
{
    (void)unused;
    check_isa("avx2", PHX_F32);
}

static void test_avx512(void **unused)
{
    (void)unused;
    check_isa("avx512", PHX_F32);
}

static void test_avx512_bf16(void **unused)
{
    (void)unused;
    check_isa("avx512_bf16", PHX_BF16);
}

/* The same bits with 1, 2, 3 and 5 threads, and for each row alone. */
static void check_bits(enum phx_dtype compute, enum phx_dtype dtype, bool gated)
{
    static const int threads[] = {1, 2, 3, 5};
    struct shape shape = {43, 700, 331};
    int64_t stride = shape.out + GUARD;
    size_t row_bytes = (size_t)stride * sizeof(float), bytes = (size_t)shape.n * row_bytes;
    float *first = random_values(shape.n * stride), *out = random_values(shape.n * stride);
    for (size_t t = 0; t < COUNT(threads); t++) {
        struct rig rig;
        assert_true(rig_open(&rig, NULL, threads[t], compute));
        state = 99;
        struct problem p = problem_open(&rig, shape, dtype, gated, true);
        run(&rig, &p, 0, shape.n, out);
        if (t == 0) memcpy(first, out, bytes);
        assert_memory_equal(first, out, bytes);
        for (int64_t n = 0, some = 1; n < shape.n; n += some, some = n % 11 + 1) {
            if (some > shape.n - n) some = shape.n - n;
            run(&rig, &p, n, some, out);
            assert_memory_equal(first + n * stride, out, (size_t)some * row_bytes);
        }
        problem_close(&p);
        rig_close(&rig);
    }
    free(first);
    free(out);
}

static void test_same_bits(void **unused)
{
    (void)unused;
    for (size_t d = 0; d < COUNT(dtypes); d++)
        for (int gated = 0; gated < 2; gated++) {
            check_bits(PHX_F32, dtypes[d], gated);
            check_bits(PHX_BF16, dtypes[d], gated);
        }
}

/* Activations far from zero: no NaN, no infinity, the right limits. */
static void test_extreme_gates(void **unused)
{
    static const float gates[] = {-1e30f, -200.0f, -88.5f, -20.0f, 0.0f, 20.0f, 88.5f, 1e4f};
    (void)unused;
    struct rig rig;
    assert_true(rig_open(&rig, NULL, 1, PHX_F32));
    for (int activation = 0; activation < 2; activation++)
        for (size_t i = 0; i < COUNT(gates); i++) {
            struct shape shape = {1, 1, 1};
            struct problem p = problem_open(&rig, shape, PHX_F32, true, false);
            float out[1 + GUARD], w[2] = {1.0f, 1.0f};
            p.activation = activation ? PHX_GELU_TANH : PHX_SILU;
            p.x[0] = gates[i];
            w[1] = 1.0f / (gates[i] != 0.0f ? gates[i] : 1.0f);
            assert_int_equal(phx_weight_write(rig.stream, p.weight, 0, 2, PHX_F32, w, 4), PHX_OK);
            run(&rig, &p, 0, 1, out);
            double expected =
                activated(p.activation, (double)gates[i]) * (double)gates[i] * (double)w[1];
            assert_true(fabs((double)out[0] - expected) <= 1e-5 * fabs(expected) + 1e-30);
            problem_close(&p);
        }
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_portable),      cmocka_unit_test(test_portable_bf16),
        cmocka_unit_test(test_avx2),          cmocka_unit_test(test_avx512),
        cmocka_unit_test(test_avx512_bf16),   cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_extreme_gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
