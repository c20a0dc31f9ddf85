/* The kernels that measure what a device does at best, and stages that are left out. Argument
 * `cuda`: on a GPU. */
#include "tests/support/check.h"

#include <string.h>

#include "kernels/base/random.h"
#include "kernels/ops.h"
#include "kernels/probe.h"
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
        phx_stream_leave_out(rig->stream, 1u << s);
        for (int other = 0; other < PHX_STAGE_COUNT; other++)
            assert_int_equal(phx_stream_leaves_out(rig->stream, (enum phx_stage)other), other == s);
        assert_int_equal(norm_of(rig, memory) == 7, s == PHX_STAGE_NORMS);
    }
    phx_stream_leave_out(rig->stream, 0);
    assert_true(norm_of(rig, memory) != 7);
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
                                       cmocka_unit_test(test_stages)};
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
