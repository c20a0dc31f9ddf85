/* The kernels that measure what a device does at best, and stages that are left out. Argument
 * `cuda`: on a GPU. */
#include "tests/support/check.h"

#include <string.h>
#include <time.h>

#include "kernels/base/random.h"
#include "kernels/ops.h"
#include "kernels/probe.h"
#include "kernels/stages.h"
#include "kernels/tensor.h"

static enum phx_device_kind kind = PHX_DEVICE_CPU;

struct rig {
    struct phx_device *device;
    struct phx_stream *stream;
};

static int rig_open(void **out)
{
    static struct rig rig;
    struct phx_device_options options = {.kind = kind, .n_threads = 3, .compute = PHX_F32};
    struct phx_limits limits = {.max_rows = 8, .max_in = 64, .max_out = 64};
    assert_ok(phx_device_create(&options, &rig.device));
    assert_ok(phx_stream_create(rig.device, &limits, &rig.stream));
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

/* Every word is read once, wherever the part begins and however it divides. */
static void test_reading(void **state)
{
    const struct rig *rig = *state;
    enum { WORDS = 64 * 1237 };
    struct phx_buffer *words, *result;
    assert_ok(phx_buffer_create(rig->device, WORDS * 4, &words));
    assert_ok(phx_buffer_create(rig->device, 256, &result));
    assert_ok(phx_probe_fill(rig->stream, words));
    static const size_t parts[][2] = {{0, WORDS * 4}, {256, 256}, {512, 0}, {7 * 256, 999 * 256}};
    uint32_t expected = 0, got = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t from = parts[i][0], bytes = parts[i][1];
        assert_ok(phx_probe_read(rig->stream, words, from, bytes, result));
        for (size_t w = from / 4; w < (from + bytes) / 4; w++) expected ^= phx_mix32((uint32_t)w);
        assert_ok(phx_buffer_download(rig->stream, result, 0, 4, &got, 4, 4, 1));
        assert_ok(phx_stream_synchronize(rig->stream));
        assert_int_equal(got, expected); /* of all parts so far */
    }
    assert_ok(phx_probe_empty(rig->stream, false));
    assert_ok(phx_probe_empty(rig->stream, true));
    assert_ok(phx_stream_synchronize(rig->stream));
    phx_buffer_destroy(words);
    phx_buffer_destroy(result);
}

/* out = norm(x), which of x = 3, 4 is 3 and 4 over the root of 12.5. */
static float norm_of(const struct rig *rig, struct phx_buffer *memory)
{
    static const float x[] = {3, 4}, nothing[] = {7, 7};
    struct phx_tensor in = phx_tensor_view(memory, 0, PHX_F32, 1, 2);
    struct phx_tensor residual = phx_tensor_view(memory, 256, PHX_F32, 1, 2);
    struct phx_tensor out = phx_tensor_view(memory, 512, PHX_F32, 1, 2);
    float got[2];
    assert_ok(phx_tensor_upload(rig->stream, in, x));
    assert_ok(phx_tensor_upload(rig->stream, out, nothing));
    assert_ok(phx_op_add_norm(
        rig->stream,
        &(struct phx_add_norm){.x = in, .residual = residual, .start = true, .out = out}));
    assert_ok(phx_tensor_download(rig->stream, out, got));
    assert_ok(phx_stream_synchronize(rig->stream));
    return got[0];
}

static void test_stages(void **state)
{
    const struct rig *rig = *state;
    struct phx_buffer *memory;
    assert_ok(phx_buffer_create(rig->device, 1024, &memory));
    assert_true(norm_of(rig, memory) != 7);
    for (int s = 0; s < PHX_STAGE_COUNT; s++) {
        phx_stream_leave_out(rig->stream, 1u << s, s % 2 == 1);
        for (int other = 0; other < PHX_STAGE_COUNT; other++)
            assert_int_equal(phx_stream_leaves_out(rig->stream, (enum phx_stage)other), other == s);
        assert_int_equal(norm_of(rig, memory) == 7, s == PHX_STAGE_NORMS);
    }
    phx_stream_leave_out(rig->stream, 0, false);
    assert_true(norm_of(rig, memory) != 7);
    phx_buffer_destroy(memory);
}

static void wait_s(double seconds)
{
    struct timespec t = {0, (long)(1e9 * seconds)};
    nanosleep(&t, NULL);
}

/* A sum with a norm within, then something else: what is within counts once, what lies between
 * counts for no stage, and what is before a pass for nothing. */
static void test_stage_times(void **state)
{
    const struct rig *rig = *state;
    struct phx_stream *stream = rig->stream;
    struct phx_stage_times times = {.between_s = 0};
    struct phx_device_info info;
    phx_device_info(rig->device, &info);
    if (info.has_graphs) return; /* what a call takes there is not what its work takes */
    phx_stream_time_stages(stream, &times);
    struct phx_stage_mark sum = phx_stream_stage_begin(stream);
    wait_s(0.01);
    struct phx_stage_mark norm = phx_stream_stage_begin(stream);
    wait_s(0.03);
    phx_stream_stage_end(stream, PHX_STAGE_NORMS, norm);
    phx_stream_stage_end(stream, PHX_STAGE_SUMS, sum);
    wait_s(0.02);
    struct phx_stage_mark product = phx_stream_stage_begin(stream);
    phx_stream_stage_end(stream, PHX_STAGE_PRODUCTS, product);
    phx_stream_begin_pass(stream);
    wait_s(0.02);
    struct phx_stage_mark last = phx_stream_stage_begin(stream);
    phx_stream_stage_end(stream, PHX_STAGE_PRODUCTS, last);
    const double *s = times.stage_s, whole = product.now_s - sum.now_s;
    assert_true(s[PHX_STAGE_SUMS] >= 0.01 && s[PHX_STAGE_NORMS] >= 0.03);
    assert_true(times.between_s >= 0.02);
    double apart = whole - s[PHX_STAGE_SUMS] - s[PHX_STAGE_NORMS] - times.between_s;
    assert_true(apart > -1e-6 && apart < 1e-6);
    assert_true(s[PHX_STAGE_ATTENTION] == 0 && s[PHX_STAGE_SAMPLING] == 0);

    /* An op counts for its stage, and so does what stands in for one. */
    struct phx_buffer *memory;
    assert_ok(phx_buffer_create(rig->device, 1024, &memory));
    for (int left_out = 0; left_out < 2; left_out++) {
        double before = s[PHX_STAGE_NORMS];
        phx_stream_leave_out(stream, left_out ? 1u << PHX_STAGE_NORMS : 0, true);
        norm_of(rig, memory);
        assert_true(s[PHX_STAGE_NORMS] > before);
    }
    phx_stream_leave_out(stream, 0, false);
    phx_stream_time_stages(stream, NULL);
    double before = s[PHX_STAGE_NORMS];
    norm_of(rig, memory);
    assert_true(s[PHX_STAGE_NORMS] == before);
    phx_buffer_destroy(memory);
}

int main(int argc, char **argv)
{
    const char *reason = "";
    if (argc > 1 && strcmp(argv[1], "cuda") == 0) kind = PHX_DEVICE_CUDA;
    if (!phx_device_available(kind, &reason)) {
        print_message("%s\n", reason);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reading),
                                       cmocka_unit_test(test_stages),
                                       cmocka_unit_test(test_stage_times)};
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
