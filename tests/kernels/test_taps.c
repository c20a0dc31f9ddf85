/* What attention's taps say against the truth: where keys and values lie, which scores and weights
 * they get; and the output, which taps may not change by a bit.
 *
 *   test_taps            on the CPU, each instruction set
 *   test_taps cuda       on a GPU, with activations of each type; exit status 77 without one */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"
#include "kernels/ops.h"

enum {
    SKIPPED = 77,
    HQ = 6,
    HK = 2,
    G = HQ / HK,
    DIM = 64,
    BLOCKS = 4,
    PAGES = 9,
    SLOTS = 3,
    PAGE = PHX_PAGE_TOKENS,
    KEYS = BLOCKS * PAGE,
    MAX_ROWS = 80,
    ENTRIES = MAX_ROWS * HQ
};

/* A sequence of a step: `n_rows` rows that end its `length` keys. */
struct seq {
    int slot, length, n_rows;
};

static const struct step {
    const char *name;
    int n_seqs;
    struct seq seqs[2];
    int window;
    float soft_cap;
} steps[] = {
    {"a prompt's second piece beside a decoding text", 2, {{2, 150, 70}, {0, 90, 1}}, 0, 0},
    {"two decoding texts", 2, {{0, 91, 1}, {2, 151, 1}}, 0, 0},
    {"with a window", 2, {{2, 150, 70}, {0, 90, 1}}, 40, 0},
    {"decoding with a window", 1, {{2, 151, 1}}, 40, 0},
    {"with a soft cap", 2, {{2, 150, 70}, {0, 90, 1}}, 0, 5},
};

static const int32_t table[SLOTS][BLOCKS] = {{4, 7, -1, -1}, {1, -1, -1, -1}, {8, 0, 3, -1}};

struct bench {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_device_info info;
    struct phx_buffer *memory;
    struct phx_tensor q, k, v, out, lists, blocks;
    struct phx_attention_tap tap;
    double tolerance;
    float host_q[MAX_ROWS][HQ][DIM];
    float host_k[PAGES * HK * PAGE][DIM], host_v[PAGES * HK * PAGE][DIM];
};

/* What came back of a step. */
struct seen {
    struct phx_attention_used used;
    struct phx_attention_read reads[ENTRIES][BLOCKS];
    float scores[ENTRIES][KEYS], weights[ENTRIES][KEYS], maxima[ENTRIES][KEYS];
    float sums[ENTRIES][2];
    float out[MAX_ROWS][HQ][DIM];
};

static struct phx_tensor take(struct bench *b, size_t *used, enum phx_dtype dtype, int64_t rows,
                              int64_t cols)
{
    struct phx_tensor t = phx_tensor_view(b->memory, *used, dtype, rows, cols);
    *used += (phx_tensor_span_bytes(t) + 255) & ~(size_t)255;
    return t;
}

/* Random values, as the device's type can hold them. */
static void fill(struct bench *b, struct phx_tensor t, float *host, uint64_t seed)
{
    const int64_t n = t.rows * t.cols;
    uint16_t *half = malloc((size_t)n * sizeof *half);
    assert_non_null(half);
    for (int64_t i = 0; i < n; i++) {
        host[i] = (float)((double)(phx_mix64(seed + (uint64_t)i) >> 40) * 0x1p-23 - 1);
        if (t.dtype == PHX_BF16) host[i] = phx_f32_from_bf16(half[i] = phx_bf16_from_f32(host[i]));
        if (t.dtype == PHX_F16) host[i] = phx_f32_from_f16(half[i] = phx_f16_from_f32(host[i]));
    }
    assert_ok(phx_tensor_upload(b->stream, t, t.dtype == PHX_F32 ? (void *)host : (void *)half));
    free(half);
}

static struct bench *bench_open(const struct phx_device_options *options, double tolerance)
{
    struct bench *b = calloc(1, sizeof *b);
    size_t used = 0;
    assert_non_null(b);
    assert_ok(phx_device_create(options, &b->device));
    phx_device_info(b->device, &b->info);
    b->tolerance = tolerance;
    const struct phx_limits limits = {.max_rows = MAX_ROWS,
                                      .max_seqs = 4,
                                      .max_length = KEYS,
                                      .max_in = HQ * DIM,
                                      .max_out = HQ * DIM,
                                      .max_vocab = 64,
                                      .max_heads = HQ,
                                      .max_kv_heads = HK,
                                      .max_head_dim = DIM};
    assert_ok(phx_stream_create(b->device, &limits, &b->stream));
    assert_ok(phx_buffer_create(b->device, 16 << 20, &b->memory));
    const enum phx_dtype act = b->info.activation, kv = b->info.kv_default;
    b->q = take(b, &used, act, MAX_ROWS, HQ * DIM);
    b->out = take(b, &used, act, MAX_ROWS, HQ * DIM);
    b->k = take(b, &used, kv, PAGES * HK * PAGE, DIM);
    b->v = take(b, &used, kv, PAGES * HK * PAGE, DIM);
    b->lists = take(b, &used, PHX_I32, 1, 64 * 16);
    b->blocks = take(b, &used, PHX_I32, SLOTS, BLOCKS);
    b->tap.rows = take(b, &used, PHX_I32, MAX_ROWS, 1);
    b->tap.used = take(b, &used, PHX_U8, 1, sizeof(struct phx_attention_used));
    b->tap.reads =
        take(b, &used, PHX_U8, ENTRIES, BLOCKS * (int64_t)sizeof(struct phx_attention_read));
    b->tap.scores = take(b, &used, PHX_F32, ENTRIES, KEYS);
    b->tap.weights = take(b, &used, PHX_F32, ENTRIES, KEYS);
    b->tap.maxima = take(b, &used, PHX_F32, ENTRIES, KEYS);
    b->tap.sums = take(b, &used, PHX_F32, ENTRIES, 2);
    fill(b, b->q, &b->host_q[0][0][0], 1);
    fill(b, b->k, &b->host_k[0][0], 1 << 20);
    fill(b, b->v, &b->host_v[0][0], 2 << 20);
    assert_ok(phx_tensor_upload(b->stream, b->blocks, table));
    return b;
}

static void bench_close(struct bench *b)
{
    phx_buffer_destroy(b->memory);
    phx_stream_destroy(b->stream);
    phx_device_destroy(b->device);
    free(b);
}

static struct phx_tensor upload_list(struct bench *b, int *used, const int32_t *values, int n)
{
    struct phx_tensor t = {
        b->lists.buffer, b->lists.offset_bytes + (size_t)*used * 4, PHX_I32, n, 1, 1};
    assert_ok(phx_tensor_upload(b->stream, t, values));
    *used += (n + 63) / 64 * 64;
    return t;
}

static int rows_of(const struct step *s)
{
    int n = 0;
    for (int i = 0; i < s->n_seqs; i++) n += s->seqs[i].n_rows;
    return n;
}

/* Every third row is tapped, and the last one of each sequence. */
static void lay_out(struct bench *b, const struct step *s, struct phx_step_layout *layout,
                    int32_t *positions, int32_t *seq_of, int32_t *tapped)
{
    int32_t begin[3] = {0}, slots[2], lengths[2];
    int n = 0, n_tapped = 0, used = 0;
    *layout = (struct phx_step_layout){.n_seqs = s->n_seqs, .block_table = b->blocks};
    for (int i = 0; i < s->n_seqs; i++) {
        const struct seq *q = &s->seqs[i];
        slots[i] = q->slot;
        lengths[i] = q->length;
        if (q->n_rows > layout->max_seq_rows) layout->max_seq_rows = q->n_rows;
        for (int r = 0; r < q->n_rows; r++, n++) {
            positions[n] = q->length - q->n_rows + r;
            seq_of[n] = i;
            tapped[n] = r % 3 == 0 || r == q->n_rows - 1 ? n_tapped++ : -1;
        }
        begin[i + 1] = n;
    }
    layout->n_rows = n;
    layout->positions = upload_list(b, &used, positions, n);
    layout->row_seq = upload_list(b, &used, seq_of, n);
    layout->seq_rows = upload_list(b, &used, begin, s->n_seqs + 1);
    layout->seq_slot = upload_list(b, &used, slots, s->n_seqs);
    layout->seq_length = upload_list(b, &used, lengths, s->n_seqs);
    assert_ok(phx_tensor_upload(b->stream, phx_tensor_rows(b->tap.rows, 0, n), tapped));
}

static void get_out(struct bench *b, int n, float out[][HQ][DIM])
{
    const int64_t count = (int64_t)n * HQ * DIM;
    uint16_t *half = malloc((size_t)count * sizeof(float));
    assert_non_null(half);
    assert_ok(phx_tensor_download(b->stream, phx_tensor_rows(b->out, 0, n), half));
    assert_ok(phx_stream_synchronize(b->stream));
    float *to = &out[0][0][0];
    if (b->out.dtype == PHX_F32) memcpy(to, half, (size_t)count * sizeof *to);
    for (int64_t i = 0; i < count && b->out.dtype == PHX_BF16; i++)
        to[i] = phx_f32_from_bf16(half[i]);
    for (int64_t i = 0; i < count && b->out.dtype == PHX_F16; i++)
        to[i] = phx_f32_from_f16(half[i]);
    free(half);
}

static void run(struct bench *b, const struct step *s, const struct phx_step_layout *layout,
                bool taps, struct seen *seen)
{
    const int n = rows_of(s);
    struct phx_attention_tap tap = b->tap;
    tap.rows = phx_tensor_rows(tap.rows, 0, n);
    assert_ok(
        phx_buffer_zero(b->stream, b->memory, b->out.offset_bytes, phx_tensor_span_bytes(b->out)));
    assert_ok(phx_buffer_zero(b->stream, b->memory, b->tap.used.offset_bytes,
                              b->tap.sums.offset_bytes + phx_tensor_span_bytes(b->tap.sums) -
                                  b->tap.used.offset_bytes));
    assert_ok(
        phx_op_attention(b->stream, &(struct phx_attention){.q = phx_tensor_rows(b->q, 0, n),
                                                            .n_heads = HQ,
                                                            .kv = {b->k, b->v, PAGES, HK, DIM},
                                                            .layout = layout,
                                                            .window = s->window,
                                                            .scale = 0.3f,
                                                            .soft_cap = s->soft_cap,
                                                            .out = phx_tensor_rows(b->out, 0, n),
                                                            .tap = taps ? &tap : NULL}));
    get_out(b, n, seen->out);
    if (!taps) return;
    assert_ok(phx_tensor_download(b->stream, tap.used, &seen->used));
    assert_ok(phx_tensor_download(b->stream, tap.reads, seen->reads));
    assert_ok(phx_tensor_download(b->stream, tap.scores, seen->scores));
    assert_ok(phx_tensor_download(b->stream, tap.weights, seen->weights));
    assert_ok(phx_tensor_download(b->stream, tap.maxima, seen->maxima));
    assert_ok(phx_tensor_download(b->stream, tap.sums, seen->sums));
    assert_ok(phx_stream_synchronize(b->stream));
}

static void check_reads(const struct bench *b, const struct step *s, const struct seq *q, int entry,
                        int head, int first, int position, const struct seen *seen)
{
    const size_t row_bytes = phx_dtype_bytes(b->k.dtype, DIM);
    for (int block = first / PAGE; block <= position / PAGE; block++) {
        const struct phx_attention_read *r = &seen->reads[entry][block];
        const int page = table[q->slot][block];
        const size_t at = (size_t)((page * HK + head / G) * PAGE) * row_bytes;
        const int left = q->length - block * PAGE;
        if (r->k != (uintptr_t)phx_tensor_address(b->k) + at || r->k_next != r->k + row_bytes ||
            r->v != (uintptr_t)phx_tensor_address(b->v) + at || r->v_next != r->v + row_bytes ||
            r->slot != q->slot || r->page != page || r->kv_head != head / G ||
            r->n_keys != (left < PAGE ? left : PAGE))
            fail_msg("%s: head %d, position %d, block %d: slot %d, page %d, kv head %d, %d keys",
                     s->name, head, position, block, r->slot, r->page, r->kv_head, r->n_keys);
    }
}

static double cap(double x, double limit)
{
    return limit > 0 ? limit * tanh(x / limit) : x;
}

static void check_head(const struct bench *b, const struct step *s, const struct seq *q, int row,
                       int entry, int head, int position, const struct seen *seen)
{
    const int first = s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
    double sum = 0, out[DIM] = {0};
    check_reads(b, s, q, entry, head, first, position, seen);
    for (int j = 0; j < KEYS; j++) {
        const double weight = (double)seen->weights[entry][j];
        if (j < first || j > position) {
            if (weight != 0)
                fail_msg("%s: head %d, position %d: key %d has weight %g", s->name, head, position,
                         j, weight);
            continue;
        }
        const int at = (table[q->slot][j / PAGE] * HK + head / G) * PAGE + j % PAGE;
        const double scaled =
            weight * exp((double)seen->maxima[entry][j] - (double)seen->sums[entry][0]);
        double score = 0;
        for (int d = 0; d < DIM; d++) {
            score += 0.3 * (double)b->host_q[row][head][d] * (double)b->host_k[at][d];
            out[d] += scaled * (double)b->host_v[at][d];
        }
        if (!(fabs((double)seen->scores[entry][j] - score) <= b->tolerance * 5))
            fail_msg("%s: head %d, position %d, key %d: score %g, expected %g", s->name, head,
                     position, j, (double)seen->scores[entry][j], score);
        const double expected =
            exp(cap((double)seen->scores[entry][j], s->soft_cap) - (double)seen->maxima[entry][j]);
        if (!(fabs(weight - expected) <= b->tolerance))
            fail_msg("%s: head %d, position %d, key %d: weight %g, expected %g", s->name, head,
                     position, j, weight, expected);
        sum += scaled;
    }
    if (!(fabs(sum / (double)seen->sums[entry][1] - 1) <= b->tolerance))
        fail_msg("%s: head %d, position %d: the weights add up to %g, divided by %g", s->name, head,
                 position, sum, (double)seen->sums[entry][1]);
    for (int d = 0; d < DIM; d++)
        if (!(fabs(out[d] / sum - (double)seen->out[row][head][d]) <= b->tolerance))
            fail_msg("%s: head %d, position %d: output %g, its weights say %g", s->name, head,
                     position, (double)seen->out[row][head][d], out[d] / sum);
}

static void check_step(struct bench *b, const struct step *s)
{
    static struct seen plain, seen;
    int32_t positions[MAX_ROWS], seq_of[MAX_ROWS], tapped[MAX_ROWS];
    struct phx_step_layout layout;
    const int n = rows_of(s);
    lay_out(b, s, &layout, positions, seq_of, tapped);
    run(b, s, &layout, false, &plain);
    run(b, s, &layout, true, &seen);
    assert_memory_equal(plain.out, seen.out, sizeof plain.out[0] * (size_t)n);
    const struct phx_attention_used *u = &seen.used;
    assert_true(u->n_heads == HQ && u->n_kv_heads == HK && u->head_dim == DIM && u->group == G);
    assert_true(u->window == s->window && u->scale == 0.3f && u->soft_cap == s->soft_cap);
    assert_true(u->element_bytes == (int)phx_dtype_bytes(b->k.dtype, 1));
    for (int row = 0; row < n; row++)
        for (int head = 0; head < HQ && tapped[row] >= 0; head++)
            check_head(b, s, &s->seqs[seq_of[row]], row, tapped[row] * HQ + head, head,
                       positions[row], &seen);
}

static void check_device(const struct phx_device_options *options, double tolerance)
{
    struct bench *b = bench_open(options, tolerance);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) check_step(b, &steps[i]);
    bench_close(b);
}

static void test_cpu(void **state)
{
    static const char *const isas[] = {"portable", "avx2", "avx512"};
    (void)state;
    for (int i = 0; i < 3; i++)
        check_device(
            &(struct phx_device_options){
                .kind = PHX_DEVICE_CPU, .n_threads = 1 + i % 2, .isa = isas[i], .compute = PHX_F32},
            1e-5);
}

static void test_cuda(void **state)
{
    static const enum phx_dtype types[] = {PHX_F32, PHX_BF16, PHX_F16};
    (void)state;
    for (int i = 0; i < 3; i++)
        check_device(&(struct phx_device_options){.kind = PHX_DEVICE_CUDA, .compute = types[i]},
                     types[i] == PHX_F32 ? 1e-5 : 1e-2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest cpu[] = {cmocka_unit_test(test_cpu)};
    const struct CMUnitTest cuda[] = {cmocka_unit_test(test_cuda)};
    const char *reason;
    if (argc < 2 || strcmp(argv[1], "cuda") != 0) return cmocka_run_group_tests(cpu, NULL, NULL);
    if (!phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        printf("skipped: %s\n", reason);
        return SKIPPED;
    }
    return cmocka_run_group_tests(cuda, NULL, NULL);
}
