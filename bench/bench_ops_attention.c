/* Attention over a paged cache: one row a sequence (decode), or all rows of one (prefill). */
#include <math.h>
#include <stdlib.h>

#include "bench/bench_ops.h"
#include "kernels/base/check.h"

enum {
    Q_SHIFT = 77777,
    K_SHIFT = 999,
    V_SHIFT = 2222222,
    PAGE_STEP = 7919, /* prime: pages lie in another order than blocks */
    SAMPLES = 8,
    INTS_ALIGNMENT = 64
};

struct heads {
    const char *shape;
    int tp;
    int32_t n_heads, n_kv_heads, head_dim;
};

struct attention {
    struct heads heads;
    int32_t n_seqs, length, rows_each, n_blocks; /* blocks of a sequence */
    int32_t *ints;                               /* as they lie in the buffer */
    struct phx_step_layout layout;
    int32_t *pages; /* in ints: the block table */
    int copies;
    int64_t copy_values; /* of K, and of V */
    struct phx_buffer *ints_buffer, *q, *k, *v, *out;
    float scale;
};

/* ---- the layout ---- */

/* The next `n` numbers of the buffer as an i32 column or table. */
static struct phx_tensor take(const struct attention *a, int64_t *used, int64_t rows, int64_t cols,
                              int32_t **host)
{
    const int64_t at = *used;
    *host = a->ints + at;
    *used += (rows * cols + INTS_ALIGNMENT - 1) / INTS_ALIGNMENT * INTS_ALIGNMENT;
    return phx_tensor_view(a->ints_buffer, phx_dtype_bytes(PHX_I32, at), PHX_I32, rows, cols);
}

static enum phx_status make_layout(struct bench *b, struct attention *a)
{
    const int32_t n_rows = a->n_seqs * a->rows_each, n_pages = a->n_seqs * a->n_blocks;
    const size_t bytes = phx_dtype_bytes(PHX_I32, 2 * (int64_t)n_rows + 3 * a->n_seqs + 1 +
                                                      n_pages + 6 * INTS_ALIGNMENT);
    int32_t *positions, *row_seq, *seq_rows, *seq_slot, *seq_length;
    int64_t used = 0;
    PHX_ASSERT(n_pages % PAGE_STEP != 0);
    a->ints = calloc(1, bytes);
    if (a->ints == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a layout");
    PHX_TRY(phx_buffer_create(b->device, bytes, &a->ints_buffer));
    a->layout = (struct phx_step_layout){
        .n_rows = n_rows, .n_seqs = a->n_seqs, .max_seq_rows = a->rows_each};
    a->layout.positions = take(a, &used, n_rows, 1, &positions);
    a->layout.row_seq = take(a, &used, n_rows, 1, &row_seq);
    a->layout.seq_rows = take(a, &used, a->n_seqs + 1, 1, &seq_rows);
    a->layout.seq_slot = take(a, &used, a->n_seqs, 1, &seq_slot);
    a->layout.seq_length = take(a, &used, a->n_seqs, 1, &seq_length);
    a->layout.block_table = take(a, &used, a->n_seqs, a->n_blocks, &a->pages);
    for (int32_t r = 0; r < n_rows; r++) {
        row_seq[r] = r / a->rows_each;
        positions[r] = a->length - a->rows_each + r % a->rows_each;
    }
    for (int32_t s = 0; s <= a->n_seqs; s++) seq_rows[s] = s * a->rows_each;
    for (int32_t s = 0; s < a->n_seqs; s++) {
        seq_slot[s] = s;
        seq_length[s] = a->length;
    }
    for (int32_t p = 0; p < n_pages; p++) a->pages[p] = (int32_t)((int64_t)p * PAGE_STEP % n_pages);
    return phx_buffer_upload(b->stream, a->ints_buffer, 0, bytes, a->ints, bytes, bytes, 1);
}

/* ---- operands ---- */

static void close_attention(struct attention *a)
{
    phx_buffer_destroy(a->ints_buffer);
    phx_buffer_destroy(a->q);
    phx_buffer_destroy(a->k);
    phx_buffer_destroy(a->v);
    phx_buffer_destroy(a->out);
    free(a->ints);
}

static enum phx_status open_attention(struct bench *b, struct attention *a)
{
    const struct heads *h = &a->heads;
    const int64_t q_values = (int64_t)a->n_seqs * a->rows_each * h->n_heads * h->head_dim;
    const struct phx_limits limits = {.max_rows = a->n_seqs * a->rows_each,
                                      .max_seqs = a->n_seqs,
                                      .max_length = a->length,
                                      .max_heads = h->n_heads,
                                      .max_kv_heads = h->n_kv_heads,
                                      .max_head_dim = h->head_dim};
    PHX_TRY(bench_stream(b, &limits));
    a->n_blocks = (a->length + PHX_PAGE_TOKENS - 1) / PHX_PAGE_TOKENS;
    a->copy_values =
        (int64_t)a->n_seqs * a->n_blocks * h->n_kv_heads * PHX_PAGE_TOKENS * h->head_dim;
    a->copies = bench_copies(b, 2 * phx_dtype_bytes(b->info.activation, a->copy_values));
    a->scale = 6.0f / sqrtf((float)h->head_dim); /* scores that differ, as trained heads' do */
    PHX_TRY(make_layout(b, a));
    PHX_TRY(bench_buffer(b, q_values, Q_SHIFT, &a->q));
    PHX_TRY(bench_buffer(b, a->copies * a->copy_values, K_SHIFT, &a->k));
    PHX_TRY(bench_buffer(b, a->copies * a->copy_values, V_SHIFT, &a->v));
    return phx_buffer_create(b->device, phx_dtype_bytes(b->info.activation, q_values), &a->out);
}

static struct phx_tensor rows_of(const struct bench *b, const struct attention *a,
                                 struct phx_buffer *buffer)
{
    return phx_tensor_view(buffer, 0, b->info.activation, a->layout.n_rows,
                           (int64_t)a->heads.n_heads * a->heads.head_dim);
}

static struct phx_tensor cache_of(const struct bench *b, const struct attention *a,
                                  struct phx_buffer *buffer, int copy)
{
    const enum phx_dtype dtype = b->info.activation;
    return phx_tensor_view(buffer, phx_dtype_bytes(dtype, copy * a->copy_values), dtype,
                           a->copy_values / a->heads.head_dim, a->heads.head_dim);
}

static enum phx_status launch(struct bench *b, void *user, int i)
{
    const struct attention *a = user;
    const int copy = i % a->copies;
    const struct phx_attention args = {
        .q = rows_of(b, a, a->q),
        .n_heads = a->heads.n_heads,
        .kv = {.k = cache_of(b, a, a->k, copy),
               .v = cache_of(b, a, a->v, copy),
               .n_pages = a->n_seqs * a->n_blocks,
               .n_kv_heads = a->heads.n_kv_heads,
               .head_dim = a->heads.head_dim},
        .layout = &a->layout,
        .scale = a->scale,
        .out = rows_of(b, a, a->out),
    };
    return phx_op_attention(b->stream, &args);
}

static enum phx_status prepare(struct bench *b, void *user)
{
    const struct attention *a = user;
    return phx_buffer_zero(b->stream, a->out, 0, phx_buffer_bytes(a->out));
}

/* ---- the judge ---- */

/* Where key j of a sequence and KV head lies in the cache. */
static int64_t place_of(const struct attention *a, int copy, int32_t seq, int32_t kv_head,
                        int32_t j)
{
    const struct heads *h = &a->heads;
    const int64_t page = a->pages[seq * a->n_blocks + j / PHX_PAGE_TOKENS];
    const int64_t head = page * h->n_kv_heads + kv_head;
    return copy * a->copy_values + (head * PHX_PAGE_TOKENS + j % PHX_PAGE_TOKENS) * h->head_dim;
}

/* weights[j] = exp(s_j - max) of the first n keys, for a row and head; their sum. */
static double weigh(const struct bench *b, const struct attention *a, int copy, int32_t row,
                    int32_t head, int32_t n, double *weights)
{
    const int32_t d_head = a->heads.head_dim, group = a->heads.n_heads / a->heads.n_kv_heads;
    const int64_t q = Q_SHIFT + ((int64_t)row * a->heads.n_heads + head) * d_head;
    double largest = -INFINITY, sum = 0;
    for (int32_t j = 0; j < n; j++) {
        const int64_t k = K_SHIFT + place_of(a, copy, row / a->rows_each, head / group, j);
        double score = 0;
        for (int32_t d = 0; d < d_head; d++)
            score += bench_random(b, q + d) * bench_random(b, k + d);
        weights[j] = score * (double)a->scale;
        if (weights[j] > largest) largest = weights[j];
    }
    for (int32_t j = 0; j < n; j++) sum += weights[j] = exp(weights[j] - largest);
    return sum;
}

/* Weights may be rounded to the activations' type before they multiply. */
static enum phx_status judge_head(struct bench *b, const struct attention *a, int copy, int32_t row,
                                  int32_t head, double *weights)
{
    const int32_t d_head = a->heads.head_dim, group = a->heads.n_heads / a->heads.n_kv_heads;
    const int32_t n = a->length - a->rows_each + row % a->rows_each + 1;
    const double total = weigh(b, a, copy, row, head, n, weights);
    for (int32_t d = 0; d < d_head; d += 5) {
        double sum = 0, squares = 0, got;
        for (int32_t j = 0; j < n; j++) {
            const int64_t v = V_SHIFT + place_of(a, copy, row / a->rows_each, head / group, j);
            const double term = weights[j] * bench_random(b, v + d);
            sum += term;
            squares += term * term;
        }
        const double expected = sum / total, spread = sqrt(squares) / total;
        const double tolerance = bench_rounding(b) * (fabs(expected) + 4 * spread) + 2e-6;
        PHX_TRY(bench_value(b, rows_of(b, a, a->out), row, (int64_t)head * d_head + d, &got));
        if (!(fabs(got - expected) <= tolerance))
            return phx_fail(PHX_BAD_DATA, "row %d, head %d, value %d is %g instead of %g", row,
                            head, d, got, expected);
    }
    return PHX_OK;
}

static enum phx_status judge(struct bench *b, void *user, int n)
{
    const struct attention *a = user;
    const int copy = (n - 1) % a->copies, last_row = a->layout.n_rows - 1;
    double *weights = malloc((size_t)a->length * sizeof *weights);
    if (weights == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a row's weights");
    enum phx_status status = PHX_OK;
    for (int i = 0; i < SAMPLES && status == PHX_OK; i++) {
        const int32_t row = (int32_t)((int64_t)i * last_row / (SAMPLES - 1));
        const int32_t head = i * (a->heads.n_heads - 1) / (SAMPLES - 1);
        status = judge_head(b, a, copy, row, head, weights);
    }
    free(weights);
    return status;
}

/* ---- sets ---- */

static enum phx_status measure(struct bench *b, const char *set, const struct heads *h,
                               int32_t n_seqs, int32_t length, int32_t rows_each)
{
    const double keys = rows_each == 1 ? length : 0.5 * length * (length + 1.0);
    struct bench_row row = {.set = set, .shape = h->shape, .tp = h->tp, .op = "attention"};
    struct attention a = {.heads = *h, .n_seqs = n_seqs, .length = length, .rows_each = rows_each};
    row.batch = n_seqs;
    row.context = length;
    if (!bench_wants(b, &row)) return PHX_OK;
    enum phx_status status;
    PHX_TRY_GOTO(open_attention(b, &a), done);
    if (rows_each == 1)
        row.bytes = 2 * (double)n_seqs * length * h->n_kv_heads * h->head_dim *
                    (double)phx_dtype_bytes(b->info.activation, 1);
    else
        row.flops = 4 * keys * n_seqs * h->n_heads * h->head_dim;
    const struct bench_case c = {&a, launch, prepare, judge, a.copies, 0};
    PHX_TRY_GOTO(bench_measure(b, &c, &row), done);
done:
    close_attention(&a);
    return status;
}

static const struct heads heads[] = {
    {"8B", 1, 32, 8, 128}, {"8B", 2, 16, 4, 128}, {"70B", 2, 32, 4, 128}, {"0.5B", 1, 14, 2, 64}};

enum phx_status bench_decode(struct bench *b)
{
    static const int32_t lengths[] = {128, 1 << 10, 8 << 10, 32 << 10, 128 << 10};
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            PHX_TRY(measure(b, "decode", &heads[h], 1, lengths[i], 1));
        PHX_TRY(measure(b, "decode", &heads[h], 64, 1 << 10, 1));
    }
    return PHX_OK;
}

enum phx_status bench_prefill(struct bench *b)
{
    static const int32_t lengths[] = {2 << 10, 8 << 10, 32 << 10};
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            PHX_TRY(measure(b, "prefill", &heads[h], 1, lengths[i], lengths[i]));
    return PHX_OK;
}
