/* All op cases, on the CPU: every instruction set that this machine has, with one thread and with
 * three, whose results must be the same bits; and products that round their activations. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/ops.h"
#include "tests/support/check.h"
#include "tests/support/op_cases.h"
#include "tests/support/op_step.h"

enum { MAX_CASES = 64 };

/* NULL where the machine lacks the instruction set. */
static struct phx_device *open_device(const char *isa, int n_threads, enum phx_dtype compute)
{
    struct phx_device_options options = {
        .kind = PHX_DEVICE_CPU, .n_threads = n_threads, .isa = isa, .compute = compute};
    struct phx_device *device = NULL;
    enum phx_status status = phx_device_create(&options, &device);
    if (status == PHX_UNSUPPORTED) {
        phx_fail_clear();
        return NULL;
    }
    assert_ok(status);
    return device;
}

/* Returns how many cases failed; hashes[i] of case i are filled, or compared if `again`. */
static int run_table(struct phx_device *device, const char *what, const struct op_table *table,
                     double least_tolerance, uint64_t *hashes, bool again)
{
    int failed = 0;
    assert_true(table->n_cases <= MAX_CASES);
    for (size_t i = 0; i < table->n_cases; i++) {
        struct phx_device_info info;
        struct op_case c = {0};
        struct op_result result;
        phx_device_info(device, &info);
        table->describe(i, &info, &c);
        if (c.large) continue;
        op_case_run(device, table, i, least_tolerance, 0, &result);
        if (again && result.hash != hashes[i] && result.failure[0] == '\0')
            snprintf(result.failure, sizeof result.failure,
                     "other bits than with another number of threads");
        hashes[i] = result.hash;
        if (result.failure[0] == '\0') continue;
        failed++;
        print_error("%s, %s case %zu (%s): %s\n", what, table->op, i, c.name, result.failure);
    }
    return failed;
}

static void run_all(const char *isa)
{
#ifdef __SANITIZE_THREAD__ /* one thread races with nobody */
    static const int n_threads[] = {3};
#else
    static const int n_threads[] = {1, 3};
#endif
    static uint64_t hashes[32][MAX_CASES];
    int failed = 0;
    assert_true(n_op_tables <= sizeof hashes / sizeof *hashes);
    for (size_t again = 0; again < sizeof n_threads / sizeof *n_threads; again++) {
        struct phx_device *device = open_device(isa, n_threads[again], PHX_F32);
        if (device == NULL) skip();
        char what[64];
        snprintf(what, sizeof what, "%s, %d threads", isa, n_threads[again]);
        for (size_t t = 0; t < n_op_tables; t++)
            failed += run_table(device, what, op_tables[t], 0, hashes[t], again != 0);
        phx_device_destroy(device);
    }
    assert_int_equal(failed, 0);
}

static void test_portable(void **state)
{
    (void)state;
    run_all("portable");
}

static void test_avx2(void **state)
{
    (void)state;
    run_all("avx2");
}

static void test_avx512(void **state)
{
    (void)state;
    run_all("avx512");
}

static void test_avx512_bf16(void **state)
{
    (void)state;
    run_all("avx512_bf16");
}

static void test_rounded_products(void **state)
{
    static const char *const isas[] = {"portable", "avx2", "avx512", "avx512_bf16"};
    (void)state;
    int failed = 0;
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        uint64_t hashes[MAX_CASES];
        struct phx_device *device = open_device(isas[i], 2, PHX_BF16);
        if (device == NULL) continue;
        failed += run_table(device, isas[i], &op_table_linear, 2e-2, hashes, false);
        failed += run_table(device, isas[i], &op_table_gate_up, 2e-2, hashes, false);
        phx_device_destroy(device);
    }
    assert_int_equal(failed, 0);
}

/* ---- a row's bits depend on its own keys alone ---- */

enum { HQ = 6, HK = 2, DIM = 40, LENGTH = 2300, ROWS = 70 };

struct text {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_buffer *buffer; /* everything below */
    struct phx_tensor q, k, v; /* of the last ROWS positions; of all */
    struct phx_tensor lists;   /* scratch for layouts, i32 */
    struct phx_tensor out;     /* [ROWS, HQ * DIM] */
};

static struct phx_tensor take(struct text *t, size_t *offset, enum phx_dtype dtype, int64_t rows,
                              int64_t cols)
{
    struct phx_tensor view = phx_tensor_view(t->buffer, *offset, dtype, rows, cols);
    *offset += (phx_tensor_span_bytes(view) + 255) / 256 * 256;
    return view;
}

static void text_open(struct text *t, const char *isa, int n_threads)
{
    const int64_t pages = LENGTH / PHX_PAGE_TOKENS + 1;
    const struct phx_limits limits = {.max_rows = ROWS,
                                      .max_seqs = ROWS,
                                      .max_length = LENGTH,
                                      .max_heads = HQ,
                                      .max_kv_heads = HK,
                                      .max_head_dim = DIM};
    size_t offset = 0;
    t->device = open_device(isa, n_threads, PHX_F32);
    if (t->device == NULL) return;
    assert_ok(phx_stream_create(t->device, &limits, &t->stream));
    assert_ok(phx_buffer_create(t->device, 4 << 20, &t->buffer));
    t->q = take(t, &offset, PHX_F32, ROWS, HQ * DIM);
    t->k = take(t, &offset, PHX_F32, pages * HK * PHX_PAGE_TOKENS, DIM);
    t->v = take(t, &offset, PHX_F32, pages * HK * PHX_PAGE_TOKENS, DIM);
    t->lists = take(t, &offset, PHX_I32, 1, 8192);
    t->out = take(t, &offset, PHX_F32, ROWS, HQ * DIM);
    float *floats = phx_buffer_address(t->buffer);
    for (size_t i = 0; i < t->lists.offset_bytes / sizeof *floats; i++)
        floats[i] = (float)((double)(phx_mix64(i + 1) >> 40) * 0x1p-22 - 2);
}

static void text_close(struct text *t)
{
    phx_buffer_destroy(t->buffer);
    phx_stream_destroy(t->stream);
    phx_device_destroy(t->device);
}

static struct phx_tensor list(const struct text *t, int64_t *used, int64_t rows, int64_t cols)
{
    struct phx_tensor view = phx_tensor_cols(t->lists, *used, rows * cols);
    *used += rows * cols;
    view.rows = rows;
    view.cols = view.stride = cols;
    return view;
}

static void set(struct phx_tensor list_view, int64_t i, int32_t value)
{
    ((int32_t *)phx_tensor_address(list_view))[i] = value;
}

/* Attention of the text's rows [from, to), each a sequence of its own over the same pages, or all
 * in one. */
static struct phx_attention attention_args(const struct text *t, int32_t from, int32_t to,
                                           bool apart, int32_t window,
                                           struct phx_step_layout *layout)
{
    const int32_t n = to - from, n_seqs = apart ? n : 1;
    const int64_t n_pages = t->k.rows / HK / PHX_PAGE_TOKENS;
    int64_t used = 0;
    *layout =
        (struct phx_step_layout){.n_rows = n, .n_seqs = n_seqs, .max_seq_rows = apart ? 1 : n};
    layout->positions = list(t, &used, n, 1);
    layout->row_seq = list(t, &used, n, 1);
    layout->seq_rows = list(t, &used, n_seqs + 1, 1);
    layout->seq_slot = list(t, &used, n_seqs, 1);
    layout->seq_length = list(t, &used, n_seqs, 1);
    layout->block_table = list(t, &used, 1, n_pages);
    for (int32_t r = 0; r < n; r++) {
        set(layout->positions, r, LENGTH - ROWS + from + r);
        set(layout->row_seq, r, apart ? r : 0);
    }
    for (int32_t s = 0; s <= n_seqs; s++) set(layout->seq_rows, s, apart ? s : s * n);
    for (int32_t s = 0; s < n_seqs; s++) {
        set(layout->seq_slot, s, 0);
        set(layout->seq_length, s, LENGTH - ROWS + (apart ? from + s + 1 : to));
    }
    for (int32_t b = 0; b < n_pages; b++)
        set(layout->block_table, b, (b * 7 + 3) % (int32_t)n_pages);
    return (struct phx_attention){.q = phx_tensor_rows(t->q, from, n),
                                  .n_heads = HQ,
                                  .kv = {t->k, t->v, (int32_t)n_pages, HK, DIM},
                                  .layout = layout,
                                  .window = window,
                                  .scale = 0.2f,
                                  .out = phx_tensor_rows(t->out, from, n)};
}

static void attend(const struct text *t, int32_t from, int32_t to, bool apart, int32_t window)
{
    struct phx_step_layout layout;
    struct phx_attention args = attention_args(t, from, to, apart, window, &layout);
    assert_ok(phx_op_attention(t->stream, &args));
}

/* The prompt in one step, in uneven steps, row by row, and as sequences side by side. */
static void test_attention_rows_are_independent(void **state)
{
    static const char *const isas[] = {"portable", "avx2", "avx512"};
    static const int32_t windows[] = {0, 100, 1500};
    (void)state;
    for (int i = 0; i < 9; i++) {
        struct text t;
        float whole[ROWS * HQ * DIM];
        text_open(&t, isas[i / 3], 1 + i % 3);
        if (t.device == NULL) continue;
        attend(&t, 0, ROWS, false, windows[i % 3]);
        memcpy(whole, phx_tensor_address(t.out), sizeof whole);
        memset(phx_tensor_address(t.out), 0, sizeof whole);
        for (int32_t from = 0, step = 1; from < ROWS; from += step, step = step % 23 + 5)
            attend(&t, from, from + step < ROWS ? from + step : ROWS, false, windows[i % 3]);
        assert_memory_equal(whole, phx_tensor_address(t.out), sizeof whole);
        memset(phx_tensor_address(t.out), 0, sizeof whole);
        for (int32_t row = 0; row < ROWS; row++) attend(&t, row, row + 1, false, windows[i % 3]);
        assert_memory_equal(whole, phx_tensor_address(t.out), sizeof whole);
        memset(phx_tensor_address(t.out), 0, sizeof whole);
        attend(&t, 0, ROWS, true, windows[i % 3]);
        assert_memory_equal(whole, phx_tensor_address(t.out), sizeof whole);
        text_close(&t);
    }
}

/* ---- wrong arguments end the process ---- */

static void break_attention(const struct text *t, int how, struct phx_attention *args,
                            struct phx_step_layout *layout)
{
    switch (how) {
    case 0:
        args->out = args->q;
        break;
    case 1: /* overlaps q from its second row on */
        args->q.rows = args->out.rows = layout->n_rows = 3;
        layout->positions.rows = layout->row_seq.rows = 3;
        args->out.buffer = args->q.buffer;
        args->out.offset_bytes = args->q.offset_bytes + sizeof(float) * HQ * DIM;
        break;
    case 2:
        args->n_heads = HQ - 1;
        break;
    case 3:
        args->q.dtype = PHX_I32;
        break;
    case 4:
        args->out.stride = args->out.cols - 1;
        break;
    case 5:
        args->out.offset_bytes = phx_buffer_bytes(t->buffer) - 4;
        break;
    case 6:
        args->out.offset_bytes += 2;
        break;
    case 7:
        args->window = -1;
        break;
    case 8:
        args->kv.n_pages++;
        break;
    case 9:
        layout->seq_rows.rows--;
        break;
    case 10:
        args->kv.v.dtype = PHX_BF16;
        break;
    case 11: /* columns side by side, but the last of them are the next row's first */
        args->q.stride = args->out.stride = 2 * args->q.cols;
        args->out.buffer = args->q.buffer;
        args->out.offset_bytes = args->q.offset_bytes + sizeof(float) * (HQ * DIM - 1);
        break;
    default:
        args->scale = (float)NAN;
    }
}

static void test_wrong_arguments_abort(void **state)
{
    (void)state;
    for (int how = 0; how < 13; how++) {
        int status;
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct text t;
            struct phx_step_layout layout;
            assert_true(close(STDERR_FILENO) == 0);
            text_open(&t, "portable", 1);
            struct phx_attention args = attention_args(&t, 0, 5, false, 0, &layout);
            args.q.stride = args.out.stride = 2 * args.q.cols; /* side by side: allowed */
            args.out = args.q;
            args.out.offset_bytes += sizeof(float) * HQ * DIM;
            if (phx_op_attention(t.stream, &args) != PHX_OK) _exit(1);
            args = attention_args(&t, 0, 5, false, 0, &layout);
            break_attention(&t, how, &args, &layout);
            signal(SIGABRT, SIG_DFL);
            phx_op_attention(t.stream, &args);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            fail_msg("wrong argument %d was taken: status %x", how, (unsigned)status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_arguments_abort),
        cmocka_unit_test(test_attention_rows_are_independent),
        cmocka_unit_test(test_portable),
        cmocka_unit_test(test_avx2),
        cmocka_unit_test(test_avx512),
        cmocka_unit_test(test_avx512_bf16),
        cmocka_unit_test(test_rounded_products),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
