/* A CUDA device against a CPU device: copies, weights and dummy values bit by bit, graphs against
 * the same calls without one. Exit status 77 without a GPU: skipped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/check.h"

enum { SKIPPED = 77, GUARD = 0x5a };

static const enum phx_dtype float_types[] = {PHX_F32, PHX_F16, PHX_BF16};

struct rig {
    struct phx_device *device;
    struct phx_stream *stream;
};

static struct rig open_rig(enum phx_device_kind kind, enum phx_dtype compute)
{
    const struct phx_limits limits = {.max_rows = 64, .max_in = 600, .max_out = 600};
    struct phx_device_options options = {.kind = kind, .n_threads = 1};
    struct rig rig;
    options.compute = kind == PHX_DEVICE_CPU ? PHX_F32 : compute;
    assert_ok(phx_device_create(&options, &rig.device));
    assert_ok(phx_stream_create(rig.device, &limits, &rig.stream));
    return rig;
}

static void close_rig(struct rig rig)
{
    phx_stream_destroy(rig.stream);
    phx_device_destroy(rig.device);
}

static uint64_t counter;

static void fill(void *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)to)[i] = (unsigned char)phx_mix64(counter++);
}

static void *alloc(size_t bytes)
{
    void *memory = calloc(1, bytes);
    assert_non_null(memory);
    return memory;
}

/* A device on paper with its info needs what it needs. */
static void test_on_paper(void **state)
{
    const struct phx_weight_shape shape = {.dtype = PHX_BF16, .rows = 19, .cols = 37};
    const struct phx_limits limits = {.max_rows = 700,
                                      .max_seqs = 3,
                                      .max_length = 777,
                                      .max_in = 70,
                                      .max_out = 90,
                                      .max_heads = 6,
                                      .max_kv_heads = 2,
                                      .max_head_dim = 40};
    struct rig rig = open_rig(PHX_DEVICE_CUDA, PHX_BF16);
    struct phx_device_info info;
    struct phx_device *paper;
    (void)state;
    phx_device_info(rig.device, &info);
    assert_true(info.n_units > 0);
    assert_ok(phx_device_on_paper(&info, &paper));
    assert_int_equal(phx_weight_bytes(paper, &shape), phx_weight_bytes(rig.device, &shape));
    assert_int_equal(phx_stream_scratch_bytes(paper, &limits),
                     phx_stream_scratch_bytes(rig.device, &limits));
    phx_device_destroy(paper);
    close_rig(rig);
}

/* ---- copies ---- */

/* Up to a rectangle of a guarded buffer, the source overwritten at once, and back. */
static void check_rectangle(struct rig rig, size_t row_bytes, int64_t rows, size_t gap)
{
    const size_t pitch = row_bytes + gap, from_pitch = row_bytes + 3, offset = 13;
    const size_t bytes = offset + pitch * (size_t)rows + 7;
    unsigned char *source = alloc(from_pitch * (size_t)rows),
                  *copy = alloc(from_pitch * (size_t)rows);
    unsigned char *expected = alloc(bytes), *got = alloc(bytes);
    struct phx_buffer *buffer;
    fill(source, from_pitch * (size_t)rows);
    memcpy(copy, source, from_pitch * (size_t)rows);
    memset(expected, GUARD, bytes);
    assert_ok(phx_buffer_create(rig.device, bytes, &buffer));
    assert_ok(phx_buffer_upload(rig.stream, buffer, 0, bytes, expected, bytes, bytes, 1));
    assert_ok(
        phx_buffer_upload(rig.stream, buffer, offset, pitch, source, from_pitch, row_bytes, rows));
    memset(source, 0, from_pitch * (size_t)rows);
    for (int64_t r = 0; r < rows; r++)
        memcpy(expected + offset + (size_t)r * pitch, copy + (size_t)r * from_pitch, row_bytes);
    assert_ok(phx_buffer_download(rig.stream, buffer, 0, bytes, got, bytes, bytes, 1));
    assert_ok(phx_stream_synchronize(rig.stream));
    assert_true(memcmp(got, expected, bytes) == 0);
    memset(got, 0, bytes);
    assert_ok(
        phx_buffer_download(rig.stream, buffer, offset, pitch, got, row_bytes, row_bytes, rows));
    assert_ok(phx_stream_synchronize(rig.stream));
    for (int64_t r = 0; r < rows; r++)
        assert_true(memcmp(got + (size_t)r * row_bytes, copy + (size_t)r * from_pitch, row_bytes) ==
                    0);
    phx_buffer_destroy(buffer);
    free(source);
    free(copy);
    free(expected);
    free(got);
}

static void test_copies(void **state)
{
    (void)state;
    struct rig rig = open_rig(PHX_DEVICE_CUDA, PHX_F32);
    check_rectangle(rig, 1, 1, 0);
    check_rectangle(rig, 77, 5, 0);
    check_rectangle(rig, 1000, 300, 24);
    check_rectangle(rig, ((size_t)5 << 20) + 11, 3, 5); /* rows longer than a piece of the ring */
    check_rectangle(rig, 4096, 9000, 0);                /* more than the whole ring */
    for (int i = 0; i < 300; i++) check_rectangle(rig, (size_t)i + 1, 2, 1);
    close_rig(rig);
}

static void test_buffers(void **state)
{
    (void)state;
    struct rig rig = open_rig(PHX_DEVICE_CUDA, PHX_BF16);
    struct phx_buffer *a, *b;
    unsigned char got[1000], expected[1000] = {0};
    assert_ok(phx_buffer_create(rig.device, 1000, &a));
    assert_ok(phx_buffer_create(rig.device, 0, &b));
    phx_buffer_destroy(b);
    assert_ok(phx_buffer_wrap(rig.device, (char *)phx_buffer_address(a) + 100, 500, &b));
    assert_true((uintptr_t)phx_buffer_address(a) % 256 == 0 && phx_buffer_bytes(b) == 500);
    assert_ok(phx_buffer_download(rig.stream, a, 0, 1000, got, 1000, 1000, 1));
    assert_ok(phx_stream_synchronize(rig.stream));
    assert_memory_equal(got, expected, 1000); /* zeroed */
    fill(expected, 100);
    assert_ok(phx_buffer_upload(rig.stream, a, 0, 100, expected, 100, 100, 1));
    assert_ok(phx_buffer_copy(rig.stream, b, 3, a, 1, 90));
    memcpy(expected + 103, expected + 1, 90);
    assert_ok(phx_buffer_zero(rig.stream, b, 10, 20));
    memset(expected + 110, 0, 20);
    assert_ok(phx_buffer_download(rig.stream, a, 0, 1000, got, 1000, 1000, 1));
    assert_ok(phx_stream_synchronize(rig.stream));
    assert_memory_equal(got, expected, 1000);
    phx_buffer_destroy(b);
    phx_buffer_destroy(a);
    assert_fails(phx_buffer_create(rig.device, (size_t)1 << 50, &a), PHX_OUT_OF_MEMORY, "GiB");
    close_rig(rig);
}

/* What is told of a GPU that is not opened is what it says of itself. */
static void test_unopened(void **state)
{
    (void)state;
    struct phx_device_info info, unopened;
    struct phx_device_link link;
    struct rig rig = open_rig(PHX_DEVICE_CUDA, PHX_F32);
    int n = phx_device_count(PHX_DEVICE_CUDA);
    assert_true(n >= 1);
    phx_device_info(rig.device, &info);
    assert_ok(phx_device_describe(PHX_DEVICE_CUDA, 0, &unopened));
    assert_string_equal(unopened.name, info.name);
    assert_string_equal(unopened.pci_id, info.pci_id);
    assert_string_equal(unopened.uuid, info.uuid);
    assert_int_equal(strlen(info.uuid), 40);
    assert_true(unopened.memory_total_bytes >= info.memory_total_bytes / 20 * 19);
    assert_true(info.memory_total_bytes >= unopened.memory_total_bytes / 20 * 19);
    assert_true(unopened.memory_free_bytes == 0 && !unopened.has_graphs);
    for (int to = 0; to < n; to++) assert_ok(phx_device_link(PHX_DEVICE_CUDA, 0, to, &link));
    for (int g = 1; g < n; g++) {
        assert_ok(phx_device_describe(PHX_DEVICE_CUDA, g, &unopened));
        assert_string_not_equal(unopened.uuid, info.uuid);
        assert_string_not_equal(unopened.pci_id, info.pci_id);
    }
    assert_fails(phx_device_describe(PHX_DEVICE_CUDA, n, &unopened), PHX_NOT_FOUND, "no device");
    close_rig(rig);
}

static void test_device(void **state)
{
    (void)state;
    struct rig rig = open_rig(PHX_DEVICE_CUDA, PHX_F16);
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .ordinal = 99, .n_threads = 1};
    struct phx_device_info info;
    struct phx_device *none;
    struct phx_event *begin, *end;
    void *pinned;
    float ms = -1;
    options.compute = PHX_F32;
    phx_device_info(rig.device, &info);
    print_message("%s at %s, %.1f GB, %.1f GB free\n", info.name, info.pci_id,
                  (double)info.memory_total_bytes / 1e9, (double)info.memory_free_bytes / 1e9);
    assert_true(info.kind == PHX_DEVICE_CUDA && info.has_graphs && info.name[0] != '\0');
    assert_true(info.activation == PHX_F16 && info.kv_default == PHX_F16);
    assert_true(info.memory_free_bytes > 0 && info.memory_free_bytes < info.memory_total_bytes);
    assert_fails(phx_device_create(&options, &none), PHX_NOT_FOUND, "no GPU 99");
    assert_ok(phx_host_alloc(rig.device, 1 << 20, &pinned));
    memset(pinned, 1, 1 << 20);
    phx_host_free(rig.device, pinned);
    assert_ok(phx_event_create(rig.device, &begin));
    assert_ok(phx_event_create(rig.device, &end));
    assert_ok(phx_event_wait(begin)); /* nothing recorded */
    assert_ok(phx_event_record(begin, rig.stream));
    assert_ok(phx_event_record(end, rig.stream));
    assert_ok(phx_event_wait(end));
    assert_ok(phx_event_elapsed_ms(begin, end, &ms));
    assert_true(ms >= 0 && ms < 1000);
    phx_event_destroy(begin);
    phx_event_destroy(end);
    close_rig(rig);
}

/* ---- weights ---- */

static float *read_weight(struct rig rig, const struct phx_weight *weight)
{
    struct phx_weight_shape shape = phx_weight_shape(weight);
    float *values = alloc((size_t)(shape.rows * shape.cols) * sizeof *values);
    assert_ok(phx_weight_read(rig.stream, weight, 0, shape.rows, values));
    assert_ok(phx_stream_synchronize(rig.stream));
    return values;
}

/* Some rows dummy, some from values of another type, the rest zeros. */
static float *make_weight(enum phx_device_kind kind, struct phx_weight_shape shape,
                          enum phx_dtype from_dtype, const void *from, size_t from_pitch)
{
    const struct phx_dummy dummy = {phx_dummy_key("model.layers.3.weight"), 0.25f, 0.0371f};
    struct rig rig = open_rig(kind, PHX_BF16);
    struct phx_weight *weight;
    assert_ok(phx_weight_create(rig.device, &shape, &weight));
    assert_ok(phx_weight_write_dummy(rig.stream, weight, 1, 3, &dummy, 1000003, 77));
    assert_ok(
        phx_weight_write(rig.stream, weight, 5, shape.rows - 6, from_dtype, from, from_pitch));
    float *values = read_weight(rig, weight);
    phx_weight_destroy(weight);
    close_rig(rig);
    return values;
}

static void check_weight(enum phx_dtype dtype, enum phx_dtype from_dtype, int64_t rows,
                         int64_t cols)
{
    const struct phx_weight_shape shape = {.dtype = dtype, .rows = rows, .cols = cols};
    const size_t pitch = phx_dtype_bytes(from_dtype, cols) + 6;
    unsigned char *from = alloc(pitch * (size_t)rows + 1);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float value = ldexpf((float)(int32_t)phx_mix64(counter), -31 - (int)(counter % 30));
            counter++;
            uint16_t bits =
                from_dtype == PHX_F16 ? phx_f16_from_f32(value) : phx_bf16_from_f32(value);
            const void *one = from_dtype == PHX_F32 ? (const void *)&value : &bits;
            size_t bytes = phx_dtype_bytes(from_dtype, 1);
            memcpy(from + 1 + (size_t)r * pitch + (size_t)c * bytes, one, bytes);
        }
    float *expected = make_weight(PHX_DEVICE_CPU, shape, from_dtype, from + 1, pitch);
    float *got = make_weight(PHX_DEVICE_CUDA, shape, from_dtype, from + 1, pitch);
    assert_true(memcmp(got, expected, (size_t)(rows * cols) * sizeof *got) == 0);
    free(from);
    free(expected);
    free(got);
}

static void test_weights(void **state)
{
    (void)state;
    for (int i = 0; i < 9; i++) {
        check_weight(float_types[i / 3], float_types[i % 3], 9, 1);
        check_weight(float_types[i / 3], float_types[i % 3], 33, 77);
        check_weight(float_types[i / 3], float_types[i % 3], 8, 4096);
    }
    check_weight(PHX_BF16, PHX_F32, 3000, 4099); /* more than the workspace takes at once */
}

/* ---- graphs ---- */

static struct phx_tensor take(struct phx_buffer *buffer, size_t *used, enum phx_dtype dtype,
                              int64_t rows, int64_t cols)
{
    struct phx_tensor view = phx_tensor_view(buffer, *used, dtype, rows, cols);
    *used += (phx_tensor_span_bytes(view) + 255) & ~(size_t)255;
    return view;
}

/* A few ops: products of both kinds, one of them over packed rows, and a norm. */
struct pass {
    struct phx_weight *w, *gate_up;
    struct phx_tensor x, residual, norm, normed, product, gated;
};

static void run_pass(struct rig rig, const struct pass *p)
{
    assert_ok(phx_op_add_norm(rig.stream, &(struct phx_add_norm){.x = p->x,
                                                                 .residual = p->residual,
                                                                 .weight = p->norm,
                                                                 .epsilon = 1e-5f,
                                                                 .out = p->normed}));
    assert_ok(phx_op_linear(
        rig.stream, &(struct phx_linear){.x = p->normed, .weight = p->w, .out = p->product}));
    assert_ok(phx_op_gate_up(
        rig.stream, &(struct phx_gate_up){.x = p->normed, .weight = p->gate_up, .out = p->gated}));
}

static struct phx_graph *record_pass(struct rig rig, const struct pass *p)
{
    struct phx_graph *graph;
    assert_ok(phx_graph_begin(rig.stream));
    run_pass(rig, p);
    assert_ok(phx_graph_end(rig.stream, &graph));
    return graph;
}

/* `unseen`: what is recorded never ran on this device. */
static void check_graph(enum phx_dtype compute, int64_t n, bool unseen)
{
    enum { IN = 515, OUT = 333, F = 200, BYTES = 1 << 20 };
    struct rig rig = open_rig(PHX_DEVICE_CUDA, compute);
    const struct phx_dummy dummy = {7, 0, 0.5f};
    struct phx_weight_shape w = {.dtype = compute, .rows = OUT, .cols = IN};
    struct phx_weight_shape gate_up = {.dtype = compute, .rows = 2 * F, .cols = IN};
    struct phx_buffer *buffer, *saved;
    struct phx_graph *graph = NULL;
    struct pass p;
    size_t used = 0;
    assert_ok(phx_weight_create(rig.device, &w, &p.w));
    assert_ok(phx_weight_write_dummy(rig.stream, p.w, 0, OUT, &dummy, 0, 0));
    assert_ok(phx_weight_create(rig.device, &gate_up, &p.gate_up));
    assert_ok(phx_weight_write_dummy(rig.stream, p.gate_up, 0, 2 * F, &dummy, OUT, 0));
    assert_ok(phx_buffer_create(rig.device, BYTES, &buffer));
    assert_ok(phx_buffer_create(rig.device, BYTES, &saved));
    p.residual = take(buffer, &used, PHX_F32, n, IN);
    p.norm = take(buffer, &used, PHX_F32, 1, IN);
    float *values = alloc(used);
    for (size_t i = 0; i < used / sizeof *values; i++)
        values[i] = (float)(int32_t)phx_mix32((uint32_t)i + 1) * 0x1p-30f;
    assert_ok(phx_buffer_upload(rig.stream, buffer, 0, used, values, used, used, 1));
    p.x = take(buffer, &used, compute, n, IN);
    p.normed = take(buffer, &used, compute, n, IN);
    p.product = take(buffer, &used, compute, n, OUT);
    p.gated = take(buffer, &used, compute, n, F);
    assert_ok(phx_buffer_copy(rig.stream, saved, 0, buffer, 0, BYTES));

    unsigned char *eager = alloc(BYTES), *recorded = alloc(BYTES);
    if (unseen) graph = record_pass(rig, &p);
    for (int i = 0; i < 3; i++) run_pass(rig, &p);
    assert_ok(phx_buffer_download(rig.stream, buffer, 0, BYTES, eager, BYTES, BYTES, 1));
    assert_ok(phx_stream_synchronize(rig.stream));
    if (!unseen) graph = record_pass(rig, &p);
    assert_ok(phx_buffer_copy(rig.stream, buffer, 0, saved, 0, BYTES));
    for (int i = 0; i < 3; i++) assert_ok(phx_graph_launch(graph, rig.stream));
    assert_ok(phx_buffer_download(rig.stream, buffer, 0, BYTES, recorded, BYTES, BYTES, 1));
    assert_ok(phx_stream_synchronize(rig.stream));
    assert_true(memcmp(eager, recorded, BYTES) == 0);

    phx_graph_destroy(graph);
    phx_weight_destroy(p.w);
    phx_weight_destroy(p.gate_up);
    phx_buffer_destroy(buffer);
    phx_buffer_destroy(saved);
    free(values);
    free(eager);
    free(recorded);
    close_rig(rig);
}

static void test_graphs(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        check_graph(float_types[i], 1, false);
        check_graph(float_types[i], 8, false);
        check_graph(float_types[i], 33, false);
    }
}

static void test_graphs_of_unseen_shapes(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        check_graph(float_types[i], 5, true);
        check_graph(float_types[i], 47, true);
    }
}

/* Copies, zeros and downloads between kernels. */
static void test_recorded_copies(void **state)
{
    enum { ROWS = 6, COLS = 33, PITCH = 40, BYTES = ROWS * COLS * sizeof(float) };
    struct rig rig = open_rig(PHX_DEVICE_CUDA, PHX_F32);
    static const int32_t order[ROWS] = {5, 0, 3, 1, 4, 2};
    struct phx_buffer *buffer;
    struct phx_graph *graph;
    void *pinned;
    size_t used = 0;
    (void)state;
    assert_ok(phx_buffer_create(rig.device, 16384, &buffer));
    assert_ok(phx_host_alloc(rig.device, 2 * ROWS * PITCH * sizeof(float), &pinned));
    struct phx_tensor x = take(buffer, &used, PHX_F32, ROWS, COLS);
    struct phx_tensor copy = take(buffer, &used, PHX_F32, ROWS, COLS);
    struct phx_tensor out = take(buffer, &used, PHX_F32, ROWS, COLS);
    struct phx_tensor rows = take(buffer, &used, PHX_I32, ROWS, 1);
    float values[ROWS * COLS], *gathered = pinned, *all = gathered + ROWS * PITCH;
    assert_ok(phx_tensor_upload(rig.stream, rows, order));

    assert_ok(phx_graph_begin(rig.stream));
    assert_ok(
        phx_buffer_copy(rig.stream, buffer, copy.offset_bytes, buffer, x.offset_bytes, BYTES));
    assert_ok(phx_buffer_zero(rig.stream, buffer, copy.offset_bytes, COLS * sizeof(float)));
    assert_ok(phx_op_gather_rows(rig.stream, &(struct phx_gather_rows){copy, rows, out}));
    assert_ok(phx_buffer_download(rig.stream, buffer, out.offset_bytes, COLS * sizeof(float),
                                  gathered, PITCH * sizeof(float), COLS * sizeof(float), ROWS));
    assert_ok(phx_op_gather_rows(rig.stream, &(struct phx_gather_rows){out, rows, x}));
    assert_ok(phx_tensor_download(rig.stream, x, all));
    assert_ok(phx_graph_end(rig.stream, &graph));

    for (int replay = 0; replay < 5; replay++) {
        for (int i = 0; i < ROWS * COLS; i++) values[i] = (float)(1000 * replay + i);
        assert_ok(phx_tensor_upload(rig.stream, x, values));
        assert_ok(phx_graph_launch(graph, rig.stream));
        assert_ok(phx_stream_synchronize(rig.stream));
        memset(values, 0, COLS * sizeof *values);
        for (int r = 0; r < ROWS; r++) {
            assert_memory_equal(gathered + r * PITCH, values + order[r] * COLS,
                                COLS * sizeof *values);
            assert_memory_equal(all + r * COLS, values + order[order[r]] * COLS,
                                COLS * sizeof *values);
        }
    }
    phx_graph_destroy(graph);
    phx_host_free(rig.device, pinned);
    phx_buffer_destroy(buffer);
    close_rig(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unopened),        cmocka_unit_test(test_device),
        cmocka_unit_test(test_on_paper),        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_buffers),         cmocka_unit_test(test_weights),
        cmocka_unit_test(test_graphs),          cmocka_unit_test(test_graphs_of_unseen_shapes),
        cmocka_unit_test(test_recorded_copies),
    };
    const char *reason = NULL;
    if (!phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        printf("skipped: %s\n", reason);
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("a CUDA device", tests, NULL, NULL);
}
