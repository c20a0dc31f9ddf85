#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/memory.h"
#include "kernels/device.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

static const size_t mib = (size_t)1 << 20;

struct rig {
    struct phx_device *device;
    struct phx_stream *stream;
};

static int rig_open(void **out)
{
    static struct rig rig;
    struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 3};
    struct phx_limits limits = {.max_rows = 8, .max_in = 64, .max_out = 64};
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

/* ---- devices ---- */

static void test_info(void **state)
{
    const struct rig *rig = *state;
    struct phx_device_info info;
    phx_device_info(rig->device, &info);
    assert_int_equal(info.kind, PHX_DEVICE_CPU);
    assert_non_null(strstr(info.name, "CPU, 3 threads, "));
    assert_string_equal(info.pci_id, "");
    assert_true(info.memory_free_bytes > 0 && info.memory_free_bytes <= info.memory_total_bytes);
    assert_int_equal(info.activation, PHX_F32);
    assert_int_equal(info.kv_default, PHX_F32);
    assert_false(info.has_graphs);
    assert_ptr_equal(phx_stream_device(rig->stream), rig->device);
}

static void test_instruction_sets(void **state)
{
    (void)state;
    for (int isa = PHX_ISA_PORTABLE; isa <= PHX_ISA_AVX512_BF16; isa++) {
        const char *name = phx_isa_name((enum phx_cpu_isa)isa);
        struct phx_device_options options = {
            .kind = PHX_DEVICE_CPU, .n_threads = 1, .isa = name, .compute = PHX_BF16};
        struct phx_device *device;
        enum phx_status status = phx_device_create(&options, &device);
        if (isa > (int)phx_isa_best()) {
            assert_int_equal(status, PHX_UNSUPPORTED);
            assert_non_null(strstr(phx_fail_sentence(), name));
            continue;
        }
        assert_int_equal(status, PHX_OK);
        struct phx_device_info info;
        phx_device_info(device, &info);
        assert_string_equal(info.name + strlen("CPU, 1 thread, "), name);
        phx_device_destroy(device);
    }
    struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 1, .isa = "sse9"};
    struct phx_device *device;
    assert_int_equal(phx_device_create(&options, &device), PHX_USAGE);
    assert_non_null(strstr(phx_fail_sentence(), "'sse9'"));
}

static void test_the_cpu_unopened(void **state)
{
    (void)state;
    struct phx_device_info info;
    struct phx_device_link link;
    assert_true(phx_device_built(PHX_DEVICE_CPU));
    assert_int_equal(phx_device_count(PHX_DEVICE_CPU), 1);
    assert_int_equal(phx_device_describe(PHX_DEVICE_CPU, 0, &info), PHX_OK);
    assert_true(info.kind == PHX_DEVICE_CPU && info.memory_total_bytes > 0);
    assert_true(info.pci_id[0] == '\0' && info.uuid[0] == '\0');
    assert_int_equal(phx_device_describe(PHX_DEVICE_CPU, 1, &info), PHX_NOT_FOUND);
    assert_int_equal(phx_device_link(PHX_DEVICE_CPU, 0, 0, &link), PHX_OK);
    assert_true(link.direct && link.atomics);
    assert_int_equal(phx_device_link(PHX_DEVICE_CPU, 0, 1, &link), PHX_NOT_FOUND);
}

static void test_unavailable_device(void **state)
{
    (void)state;
    const char *reason = NULL;
    assert_true(phx_device_available(PHX_DEVICE_CPU, &reason));
    if (phx_device_available(PHX_DEVICE_CUDA, &reason)) skip();
    assert_true(strlen(reason) > 0);
    assert_int_equal(phx_device_count(PHX_DEVICE_CUDA), 0);
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device *device;
    assert_int_equal(phx_device_create(&options, &device), PHX_UNSUPPORTED);
    assert_string_equal(phx_fail_sentence(), reason);
}

static void test_scratch_is_what_the_plan_says(void **state)
{
    const struct rig *rig = *state;
    struct phx_limits small = {.max_rows = 1, .max_in = 8},
                      large = {.max_rows = 64, .max_in = 4096};
    size_t bytes = phx_stream_scratch_bytes(rig->device, &large);
    assert_true(bytes >= (size_t)64 * 4096 * sizeof(float));
    assert_true(phx_stream_scratch_bytes(rig->device, &small) < bytes);
    struct phx_stream *stream;
    assert_int_equal(phx_stream_create(rig->device, &large, &stream), PHX_OK);
    assert_int_equal(phx_stream_synchronize(stream), PHX_OK);
    phx_stream_destroy(stream);
    phx_stream_destroy(NULL);
    phx_device_destroy(NULL);
}

/* As the real one, and also of a kind that this build may have no backend of. */
static void test_on_paper(void **state)
{
    const struct rig *rig = *state;
    const struct phx_weight_shape shape = {.dtype = PHX_BF16, .rows = 19, .cols = 37};
    const struct phx_limits limits = {.max_rows = 5,
                                      .max_seqs = 3,
                                      .max_length = 777,
                                      .max_in = 70,
                                      .max_out = 90,
                                      .max_heads = 6,
                                      .max_kv_heads = 2,
                                      .max_head_dim = 40};
    struct phx_device_info info;
    struct phx_device *paper;
    phx_device_info(rig->device, &info);
    assert_int_equal(phx_device_on_paper(&info, &paper), PHX_OK);
    assert_int_equal(phx_weight_bytes(paper, &shape), phx_weight_bytes(rig->device, &shape));
    assert_int_equal(phx_stream_scratch_bytes(paper, &limits),
                     phx_stream_scratch_bytes(rig->device, &limits));
    phx_device_info(paper, &info);
    assert_int_equal(info.n_units, 3);
    phx_device_destroy(paper);

    const struct phx_device_info gpu = {
        .kind = PHX_DEVICE_CUDA, .activation = PHX_BF16, .n_units = 100};
    assert_int_equal(phx_device_on_paper(&gpu, &paper), PHX_OK);
    assert_int_equal(phx_weight_bytes(paper, &shape), 19 * 40 * 2); /* rows of whole 16 bytes */
    /* Workspace; rows packed and wide; 400 + 3 places of 6 heads, each of whole 16 bytes; tickets
     * of 3 sequences' heads; 200 slices' candidates. */
    size_t parts[] = {5 * 72 * 2, 5 * 96 * 2, 403 * 6 * 44 * 4, 3 * 6 * 4, 200 * (256 * 8 + 8)};
    size_t expected = 32 * mib;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        expected += (parts[i] + 255) / 256 * 256;
    assert_int_equal(phx_stream_scratch_bytes(paper, &limits), expected);
    phx_device_destroy(paper);
}

/* ---- buffers ---- */

static void test_buffers_are_aligned_and_zeroed(void **state)
{
    const struct rig *rig = *state;
    /* After 12 MB, malloc gives smaller memory again that was freed. */
    const size_t some = 5 * mib + 4099;
    const size_t sizes[] = {0, 1, 255, 257, mib + 3, 12 * mib, some, some, some, 70 * mib};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct phx_buffer *buffer;
        assert_int_equal(phx_buffer_create(rig->device, sizes[i], &buffer), PHX_OK);
        assert_int_equal(phx_buffer_bytes(buffer), sizes[i]);
        char *address = phx_buffer_address(buffer);
        assert_int_equal((uintptr_t)address % 256, 0);
        if (sizes[i] >= 64 * mib) assert_int_equal((uintptr_t)address % (2 * mib), 0);
        size_t sum = 0;
        for (size_t b = 0; b < sizes[i]; b++) sum += (unsigned char)address[b];
        assert_int_equal(sum, 0);
        memset(address, 0x5a, sizes[i]); /* the next one may get the same memory */
        phx_buffer_destroy(buffer);
    }
    phx_buffer_destroy(NULL);
}

static void test_too_large_a_buffer(void **state)
{
    const struct rig *rig = *state;
    struct phx_device_info info;
    phx_device_info(rig->device, &info);
    const size_t sizes[] = {info.memory_total_bytes + 1, (size_t)1 << 60, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct phx_buffer *buffer;
        assert_int_equal(phx_buffer_create(rig->device, sizes[i], &buffer), PHX_OUT_OF_MEMORY);
        assert_non_null(strstr(phx_fail_sentence(), "GiB"));
        void *memory;
        assert_int_equal(phx_host_alloc(rig->device, sizes[i], &memory), PHX_OUT_OF_MEMORY);
    }
}

static void test_wrapped_buffer(void **state)
{
    const struct rig *rig = *state;
    char *memory = malloc(100);
    struct phx_buffer *buffer;
    assert_int_equal(phx_buffer_wrap(rig->device, memory, 100, &buffer), PHX_OK);
    assert_ptr_equal(phx_buffer_address(buffer), memory);
    memory[99] = 7;
    assert_int_equal(phx_buffer_zero(rig->stream, buffer, 98, 2), PHX_OK);
    assert_int_equal(memory[99], 0);
    phx_buffer_destroy(buffer);
    memory[0] = 1; /* still ours */
    free(memory);
}

/* Copies of `rows` rows with gaps, in and out again, against the same done byte by byte. */
static void check_rectangle(const struct rig *rig, size_t row_bytes, int64_t rows, size_t gap)
{
    size_t pitch = row_bytes + gap, n = (size_t)rows * pitch, offset = 3;
    unsigned char *from = malloc(n), *back = calloc(1, n);
    assert_non_null(from);
    assert_non_null(back);
    for (size_t i = 0; i < n; i++) from[i] = (unsigned char)(i * 131 + i / 251);
    struct phx_buffer *buffer, *copy;
    size_t bytes = offset + (size_t)rows * row_bytes + 5;
    assert_int_equal(phx_buffer_create(rig->device, bytes, &buffer), PHX_OK);
    assert_int_equal(phx_buffer_create(rig->device, bytes, &copy), PHX_OK);
    assert_int_equal(
        phx_buffer_upload(rig->stream, buffer, offset, row_bytes, from, pitch, row_bytes, rows),
        PHX_OK);
    assert_int_equal(phx_buffer_copy(rig->stream, copy, 0, buffer, 0, bytes), PHX_OK);
    assert_int_equal(
        phx_buffer_download(rig->stream, copy, offset, row_bytes, back, pitch, row_bytes, rows),
        PHX_OK);
    const unsigned char *inside = phx_buffer_address(buffer);
    for (size_t i = 0; i < offset; i++) assert_int_equal(inside[i], 0);
    for (size_t i = bytes - 5; i < bytes; i++) assert_int_equal(inside[i], 0);
    for (size_t i = 0; i < n; i++) assert_int_equal(back[i], i % pitch < row_bytes ? from[i] : 0);
    phx_buffer_destroy(copy);
    phx_buffer_destroy(buffer);
    free(back);
    free(from);
}

static void test_rectangles(void **state)
{
    const struct rig *rig = *state;
    check_rectangle(rig, 7, 5, 3);
    check_rectangle(rig, 7, 5, 0);
    check_rectangle(rig, 1, 1, 0);
    check_rectangle(rig, 1000, 3001, 24);    /* many pieces of rows */
    check_rectangle(rig, 1100003, 3, 1);     /* rows larger than a piece */
    check_rectangle(rig, 2 * mib + 1, 1, 0); /* one row in pieces */
    struct phx_buffer *buffer;
    assert_int_equal(phx_buffer_create(rig->device, 4, &buffer), PHX_OK);
    assert_int_equal(phx_buffer_upload(rig->stream, buffer, 4, 0, NULL, 0, 0, 0), PHX_OK);
    phx_buffer_destroy(buffer);
}

static void test_tensors(void **state)
{
    const struct rig *rig = *state;
    float values[6] = {1, 2, 3, 4, 5, 6}, back[2];
    struct phx_buffer *buffer;
    assert_int_equal(phx_buffer_create(rig->device, sizeof values, &buffer), PHX_OK);
    struct phx_tensor tensor = phx_tensor_view(buffer, 0, PHX_F32, 2, 3);
    assert_int_equal(phx_tensor_upload(rig->stream, tensor, values), PHX_OK);
    struct phx_tensor column = phx_tensor_cols(tensor, 1, 1);
    assert_int_equal(phx_tensor_download(rig->stream, column, back), PHX_OK);
    assert_true(back[0] == 2.0f && back[1] == 5.0f);
    phx_buffer_destroy(buffer);
}

static void test_host_memory(void **state)
{
    const struct rig *rig = *state;
    void *memory;
    assert_int_equal(phx_host_alloc(rig->device, 1000, &memory), PHX_OK);
    memset(memory, 1, 1000);
    phx_host_free(rig->device, memory);
    phx_host_free(rig->device, NULL);
}

/* ---- events and graphs ---- */

static void test_events(void **state)
{
    const struct rig *rig = *state;
    struct phx_event *from, *to;
    float ms = -1.0f;
    assert_int_equal(phx_event_create(rig->device, &from), PHX_OK);
    assert_int_equal(phx_event_create(rig->device, &to), PHX_OK);
    assert_int_equal(phx_event_wait(from), PHX_OK); /* nothing recorded */
    assert_int_equal(phx_event_record(from, rig->stream), PHX_OK);
    usleep(3000);
    assert_int_equal(phx_event_record(to, rig->stream), PHX_OK);
    assert_int_equal(phx_event_wait(to), PHX_OK);
    assert_int_equal(phx_event_elapsed_ms(from, to, &ms), PHX_OK);
    assert_true(ms >= 3.0f && ms < 3000.0f);
    phx_event_destroy(from);
    phx_event_destroy(to);
    phx_event_destroy(NULL);
}

static void test_no_graphs(void **state)
{
    const struct rig *rig = *state;
    struct phx_graph *graph;
    assert_int_equal(phx_graph_begin(rig->stream), PHX_UNSUPPORTED);
    assert_true(strlen(phx_fail_sentence()) > 0);
    assert_int_equal(phx_graph_end(rig->stream, &graph), PHX_UNSUPPORTED);
    phx_graph_destroy(NULL);
}

/* ---- memory of the machine and of control groups ---- */

static char root[] = "/tmp/phx-memory-XXXXXX";

/* Write a file below the root, its folders too. */
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void open_root(void)
{
    strcpy(root, "/tmp/phx-memory-XXXXXX");
    assert_non_null(mkdtemp(root));
    put("/proc/meminfo", "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    800 kB\n");
}

static void close_root(void)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
}

static void check_memory(size_t total, size_t free_bytes, bool limited)
{
    struct phx_memory memory;
    phx_memory_read(root, &memory);
    assert_int_equal(memory.total_bytes, total);
    assert_int_equal(memory.free_bytes, free_bytes);
    assert_int_equal(memory.limited, limited);
    close_root();
}

static void test_memory_without_groups(void **state)
{
    (void)state;
    open_root();
    check_memory(1024000, 819200, false);
}

static void test_memory_of_group_version_2(void **state)
{
    (void)state;
    open_root();
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/memory.max", "500000\n"); /* the parent's limit holds */
    put("/sys/fs/cgroup/a/memory.current", "300000\n");
    put("/sys/fs/cgroup/a/memory.stat", "anon 100\nfile 90000\ninactive_file 40000\n"
                                        "active_file 30000\n");
    check_memory(500000, 500000 - (300000 - 70000), true);
}

static void test_memory_of_group_version_1(void **state)
{
    (void)state;
    open_root();
    put("/proc/self/cgroup", "9:cpu:/x\n4:hugetlb,memory:/not/mounted/here\n0::/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "600000\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "700000\n"); /* over it: nothing is free */
    check_memory(600000, 0, true);
}

static void test_memory_with_a_generous_group(void **state)
{
    (void)state;
    open_root();
    put("/proc/self/cgroup", "4:memory:/x\n");
    put("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
    check_memory(1024000, 819200, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_instruction_sets),
        cmocka_unit_test(test_the_cpu_unopened),
        cmocka_unit_test(test_unavailable_device),
        cmocka_unit_test(test_scratch_is_what_the_plan_says),
        cmocka_unit_test(test_on_paper),
        cmocka_unit_test(test_buffers_are_aligned_and_zeroed),
        cmocka_unit_test(test_too_large_a_buffer),
        cmocka_unit_test(test_wrapped_buffer),
        cmocka_unit_test(test_rectangles),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_host_memory),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_no_graphs),
        cmocka_unit_test(test_memory_without_groups),
        cmocka_unit_test(test_memory_of_group_version_2),
        cmocka_unit_test(test_memory_of_group_version_1),
        cmocka_unit_test(test_memory_with_a_generous_group),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
