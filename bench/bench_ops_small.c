/* What lies between the products: norms, rotation, sampling. Their operands have just been written
 * in a real step and come out of the cache there, so they do here: nothing takes turns. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_ops.h"
#include "kernels/base/check.h"

enum { MOST_ROWS = 64, LENGTH = 1024, VOCAB = 128256, TURNS = 64, MOST_CANDIDATES = 64 };
#define EPSILON 1e-5f
#define ANGLE 0.001f /* of dimension i at position p: p * ANGLE / (1 + i) */

/* ---- add_norm ---- */

struct norm {
    int64_t rows, cols;
    float *residual; /* as prepared */
    struct phx_buffer *x, *residual_buffer, *weight, *out;
};

static enum phx_status launch_norm(struct bench *b, void *user, int i)
{
    const struct norm *o = user;
    (void)i;
    const struct phx_add_norm args = {
        .x = phx_tensor_view(o->x, 0, b->info.activation, o->rows, o->cols),
        .residual = phx_tensor_view(o->residual_buffer, 0, PHX_F32, o->rows, o->cols),
        .weight = phx_tensor_view(o->weight, 0, PHX_F32, 1, o->cols),
        .epsilon = EPSILON,
        .out = phx_tensor_view(o->out, 0, b->info.activation, o->rows, o->cols)};
    return phx_op_add_norm(b->stream, &args);
}

static enum phx_status prepare_norm(struct bench *b, void *user)
{
    const struct norm *o = user;
    PHX_TRY(phx_buffer_zero(b->stream, o->out, 0, phx_buffer_bytes(o->out)));
    return phx_tensor_upload(
        b->stream, phx_tensor_view(o->residual_buffer, 0, PHX_F32, o->rows, o->cols), o->residual);
}

/* After n launches the residual has x n times. The weight is the residual's first row. */
static enum phx_status judge_norm(struct bench *b, void *user, int n)
{
    const struct norm *o = user;
    struct phx_tensor out = phx_tensor_view(o->out, 0, b->info.activation, o->rows, o->cols);
    for (int64_t row = 0; row<o->rows; row += o->rows> 1 ? o->rows - 1 : 1) {
        double squares = 0, got;
        for (int64_t c = 0; c < o->cols; c++) {
            const int64_t i = row * o->cols + c;
            const double r = (double)o->residual[i] + n * bench_random(b, i);
            squares += r * r;
        }
        const double rms = sqrt(squares / (double)o->cols + (double)EPSILON);
        for (int64_t c = 0; c < o->cols; c += 97) {
            const int64_t i = row * o->cols + c;
            const double r = (double)o->residual[i] + n * bench_random(b, i);
            const double expected = r / rms * (double)o->residual[c];
            PHX_TRY(bench_value(b, out, row, c, &got));
            if (!(fabs(got - expected) <= bench_rounding(b) * fabs(expected) + 1e-4))
                return phx_fail(PHX_BAD_DATA, "output [%ld, %ld] is %g instead of %g", (long)row,
                                (long)c, got, expected);
        }
    }
    return PHX_OK;
}

static enum phx_status measure_norm(struct bench *b, const struct bench_shape *s, int64_t rows)
{
    struct bench_row row = {.set = "small", .shape = s->name, .tp = 1, .op = "add_norm"};
    struct norm o = {.rows = rows, .cols = s->hidden};
    const size_t n = (size_t)(rows * o.cols);
    enum phx_status status;
    row.rows = rows;
    if (!bench_wants(b, &row)) return PHX_OK;
    o.residual = malloc(n * sizeof *o.residual);
    if (o.residual == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a residual");
    for (size_t i = 0; i < n; i++) o.residual[i] = (float)bench_random(b, (int64_t)i + 31);
    PHX_TRY_GOTO(bench_buffer(b, (int64_t)n, 0, &o.x), done);
    PHX_TRY_GOTO(phx_buffer_create(b->device, n * sizeof(float), &o.residual_buffer), done);
    PHX_TRY_GOTO(phx_buffer_create(b->device, (size_t)o.cols * sizeof(float), &o.weight), done);
    PHX_TRY_GOTO(phx_buffer_create(b->device, n * sizeof(float), &o.out), done);
    PHX_TRY_GOTO(
        phx_tensor_upload(b->stream, phx_tensor_view(o.weight, 0, PHX_F32, 1, o.cols), o.residual),
        done);
    const struct bench_case c = {&o, launch_norm, prepare_norm, judge_norm, 1, 0};
    PHX_TRY_GOTO(bench_measure(b, &c, &row), done);
done:
    phx_buffer_destroy(o.x);
    phx_buffer_destroy(o.residual_buffer);
    phx_buffer_destroy(o.weight);
    phx_buffer_destroy(o.out);
    free(o.residual);
    return status;
}

/* ---- rope_append: every row is a sequence's last ---- */

struct rope {
    const struct bench_shape *shape;
    int32_t rows;
    int64_t values; /* of qkv */
    int32_t n_blocks, ints[6 * MOST_ROWS + 1 + MOST_ROWS * (LENGTH / PHX_PAGE_TOKENS)];
    struct phx_buffer *qkv, *cos_sin, *k, *v, *ints_buffer;
    struct phx_step_layout layout;
};

static int64_t qkv_cols(const struct bench_shape *s)
{
    return ((int64_t)s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
}

static enum phx_status make_layout(struct bench *b, struct rope *o)
{
    const int32_t n = o->rows;
    const int64_t parts[] = {n, n, n + 1, n, n, (int64_t)n * o->n_blocks};
    struct phx_tensor views[6];
    int32_t *at = o->ints;
    PHX_TRY(phx_buffer_create(b->device, sizeof o->ints, &o->ints_buffer));
    for (int k = 0; k < 6; k++) {
        views[k] = phx_tensor_view(o->ints_buffer, (size_t)(at - o->ints) * sizeof *at, PHX_I32,
                                   k == 5 ? n : parts[k], k == 5 ? o->n_blocks : 1);
        for (int32_t i = 0; i < parts[k]; i++)
            at[i] = k == 0 ? LENGTH - 1 - i : k == 4 ? LENGTH - i : i; /* the others count up */
        at += parts[k];
    }
    o->layout = (struct phx_step_layout){n,        n,        1,        views[0], views[1],
                                         views[2], views[3], views[4], views[5], {0}};
    return phx_buffer_upload(b->stream, o->ints_buffer, 0, sizeof o->ints, o->ints, sizeof o->ints,
                             sizeof o->ints, 1);
}

static struct phx_tensor qkv_of(const struct bench *b, const struct rope *o, int turn)
{
    return phx_tensor_view(o->qkv, phx_dtype_bytes(b->info.activation, turn * o->values),
                           b->info.activation, o->rows, qkv_cols(o->shape));
}

static struct phx_tensor cache_of(const struct bench *b, const struct rope *o,
                                  struct phx_buffer *buffer)
{
    return phx_tensor_view(buffer, 0, b->info.activation,
                           (int64_t)o->rows * o->n_blocks * o->shape->n_kv_heads * PHX_PAGE_TOKENS,
                           o->shape->head_dim);
}

static enum phx_status launch_rope(struct bench *b, void *user, int i)
{
    const struct rope *o = user;
    const struct phx_rope_append args = {
        .qkv = qkv_of(b, o, i % TURNS),
        .n_heads = o->shape->n_heads,
        .cos_sin = phx_tensor_view(o->cos_sin, 0, PHX_F32, o->rows, o->shape->head_dim),
        .epsilon = EPSILON,
        .kv = {.k = cache_of(b, o, o->k),
               .v = cache_of(b, o, o->v),
               .n_pages = o->rows * o->n_blocks,
               .n_kv_heads = o->shape->n_kv_heads,
               .head_dim = o->shape->head_dim},
        .layout = &o->layout};
    return phx_op_rope_append(b->stream, &args);
}

static enum phx_status prepare_rope(struct bench *b, void *user)
{
    const struct rope *o = user;
    PHX_TRY(phx_buffer_zero(b->stream, o->k, 0, phx_buffer_bytes(o->k)));
    PHX_TRY(phx_buffer_zero(b->stream, o->v, 0, phx_buffer_bytes(o->v)));
    return bench_refill(b, o->qkv, TURNS * o->values, 0);
}

/* The last turn's value d of head h of a row, rotated unless it is a v. */
static double rotated(const struct bench *b, const struct rope *o, int turn, int32_t row, int32_t h,
                      int32_t d)
{
    const struct bench_shape *s = o->shape;
    const int32_t half = s->head_dim / 2, i = d % half;
    const int64_t at = turn * o->values + row * qkv_cols(s) + (int64_t)h * s->head_dim;
    if (h >= s->n_heads + s->n_kv_heads) return bench_random(b, at + d);
    const double angle = (double)(LENGTH - 1 - row) * (double)ANGLE / (1 + i);
    const double low = bench_random(b, at + i), high = bench_random(b, at + i + half);
    return d < half ? low * cos(angle) - high * sin(angle) : high * cos(angle) + low * sin(angle);
}

static enum phx_status judge_rope(struct bench *b, void *user, int n)
{
    const struct rope *o = user;
    const struct bench_shape *s = o->shape;
    const int turn = (n - 1) % TURNS;
    PHX_ASSERT(n <= TURNS); /* each turn is rotated once */
    for (int k = 0; k < 96; k++) {
        const int32_t row = k % o->rows, h = (7 * k) % (s->n_heads + 2 * s->n_kv_heads);
        const int32_t d = 11 * k % s->head_dim, kv = (h - s->n_heads) % s->n_kv_heads;
        const int32_t position = LENGTH - 1 - row;
        const int64_t page = (int64_t)row * o->n_blocks + position / PHX_PAGE_TOKENS;
        const int64_t at =
            (page * s->n_kv_heads + kv) * PHX_PAGE_TOKENS + position % PHX_PAGE_TOKENS;
        struct phx_buffer *cache = h < s->n_heads + s->n_kv_heads ? o->k : o->v;
        const double expected = rotated(b, o, turn, row, h, d);
        double got;
        if (h < s->n_heads)
            PHX_TRY(bench_value(b, qkv_of(b, o, turn), row, (int64_t)h * s->head_dim + d, &got));
        else
            PHX_TRY(bench_value(b, cache_of(b, o, cache), at, d, &got));
        if (!(fabs(got - expected) <= bench_rounding(b) * fabs(expected) + 1e-4))
            return phx_fail(PHX_BAD_DATA, "row %d, head %d, value %d is %g instead of %g", row, h,
                            d, got, expected);
    }
    return PHX_OK;
}

static enum phx_status open_rope(struct bench *b, struct rope *o)
{
    const struct bench_shape *s = o->shape;
    const int32_t half = s->head_dim / 2;
    const int64_t cached =
        (int64_t)o->rows * o->n_blocks * s->n_kv_heads * PHX_PAGE_TOKENS * s->head_dim;
    float table[MOST_ROWS * 128];
    PHX_ASSERT(s->head_dim <= 128);
    for (int32_t row = 0; row < o->rows; row++) {
        for (int32_t i = 0; i < half; i++) {
            const double angle = (double)(LENGTH - 1 - row) * (double)ANGLE / (1 + i);
            table[row * s->head_dim + i] = (float)cos(angle);
            table[row * s->head_dim + half + i] = (float)sin(angle);
        }
    }
    PHX_TRY(make_layout(b, o));
    PHX_TRY(phx_buffer_create(b->device, sizeof table, &o->cos_sin));
    PHX_TRY(phx_tensor_upload(
        b->stream, phx_tensor_view(o->cos_sin, 0, PHX_F32, o->rows, s->head_dim), table));
    PHX_TRY(bench_buffer(b, cached, 0, &o->k));
    PHX_TRY(bench_buffer(b, cached, 0, &o->v));
    return bench_buffer(b, TURNS * o->values, 0, &o->qkv);
}

static enum phx_status measure_rope(struct bench *b, const struct bench_shape *s, int32_t rows)
{
    struct bench_row row = {.set = "small", .shape = s->name, .tp = 1, .op = "rope_append"};
    row.rows = rows;
    if (!bench_wants(b, &row)) return PHX_OK;
    struct rope *o = calloc(1, sizeof *o);
    if (o == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for operands");
    o->shape = s;
    o->rows = rows;
    o->values = rows * qkv_cols(s);
    o->n_blocks = LENGTH / PHX_PAGE_TOKENS;
    const struct bench_case c = {o, launch_rope, prepare_rope, judge_rope, 1, TURNS};
    enum phx_status status = open_rope(b, o);
    if (status == PHX_OK) status = bench_measure(b, &c, &row);
    phx_buffer_destroy(o->qkv);
    phx_buffer_destroy(o->cos_sin);
    phx_buffer_destroy(o->k);
    phx_buffer_destroy(o->v);
    phx_buffer_destroy(o->ints_buffer);
    free(o);
    return status;
}

/* ---- sampling ---- */

struct way {
    const char *name;
    float temperature, top_p;
    int32_t top_k;
    int32_t n_candidates; /* 0: from the whole vocabulary */
};

static const struct way ways[] = {{"sample greedy", 0.0f, 1.0f, 0, 1},
                                  {"sample top_k 40 top_p", 0.8f, 0.95f, 40, MOST_CANDIDATES},
                                  {"sample top_p", 0.8f, 0.95f, 0, 0}};

struct sampling {
    const struct way *way;
    int64_t rows;
    float *logits; /* host */
    struct phx_buffer *logits_buffer, *slots, *positions, *params, *records, *ids, *logprobs, *last;
};

static struct phx_tensor column(struct phx_buffer *buffer, enum phx_dtype dtype, int64_t rows)
{
    return phx_tensor_view(buffer, 0, dtype, rows, 1);
}

static enum phx_status launch_full(struct bench *b, const struct sampling *o,
                                   struct phx_tensor logits, struct phx_tensor params)
{
    const struct phx_sample_full args = {.logits = logits,
                                         .adjusted = logits,
                                         .slots = column(o->slots, PHX_I32, o->rows),
                                         .positions = column(o->positions, PHX_I32, o->rows),
                                         .params = params,
                                         .ids = column(o->ids, PHX_I32, o->rows),
                                         .logprobs = column(o->logprobs, PHX_F32, o->rows),
                                         .last_ids = column(o->last, PHX_I32, o->rows)};
    return phx_op_sample_full(b->stream, &args);
}

static enum phx_status launch_sample(struct bench *b, void *user, int i)
{
    const struct sampling *o = user;
    const int32_t k = o->way->n_candidates;
    const struct phx_tensor logits = phx_tensor_view(o->logits_buffer, 0, PHX_F32, o->rows, VOCAB);
    const struct phx_tensor params =
        phx_tensor_view(o->params, 0, PHX_U8, o->rows, sizeof(struct phx_sampling));
    (void)i;
    if (k == 0) return launch_full(b, o, logits, params);
    const struct phx_tensor records = phx_tensor_view(
        o->records, 0, PHX_U8, o->rows, (k + 1) * (int64_t)sizeof(struct phx_candidate));
    const struct phx_sample_candidates find = {.logits = logits,
                                               .adjusted = logits,
                                               .slots = column(o->slots, PHX_I32, o->rows),
                                               .positions = column(o->positions, PHX_I32, o->rows),
                                               .params = params,
                                               .n_candidates = k,
                                               .records = records};
    const struct phx_sample_pick pick = {.records = records,
                                         .n_candidates = k,
                                         .n_ranks = 1,
                                         .slots = find.slots,
                                         .params = params,
                                         .ids = column(o->ids, PHX_I32, o->rows),
                                         .logprobs = column(o->logprobs, PHX_F32, o->rows),
                                         .last_ids = column(o->last, PHX_I32, o->rows)};
    PHX_TRY(phx_op_sample_candidates(b->stream, &find));
    return phx_op_sample_pick(b->stream, &pick);
}

static enum phx_status prepare_sample(struct bench *b, void *user)
{
    const struct sampling *o = user;
    return phx_buffer_zero(b->stream, o->ids, 0, phx_buffer_bytes(o->ids));
}

struct token {
    double z;
    int32_t id;
};

static int by_logit(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->z != y->z) return x->z < y->z ? 1 : -1;
    return x->id - y->id;
}

/* The rule of phx_sampling for a row, seed 1 + row, in double precision. */
static int32_t draw(const struct sampling *o, int64_t row, struct token *tokens)
{
    const struct way *way = o->way;
    const float *logits = o->logits + row * VOCAB;
    int32_t n = VOCAB, best = 0;
    double sum = 0, so_far = 0, largest = -INFINITY;
    for (int32_t i = 0; i < VOCAB; i++) tokens[i] = (struct token){(double)logits[i], i};
    qsort(tokens, VOCAB, sizeof *tokens, by_logit);
    if (way->temperature == 0.0f) return tokens[0].id;
    if (way->top_k > 0) n = way->top_k;
    const double top = tokens[0].z, t = (double)way->temperature;
    for (int32_t i = 0; i < n; i++) sum += exp((tokens[i].z - top) / t);
    const uint64_t key = phx_sample_key(1 + (uint64_t)row, 0, LENGTH);
    for (int32_t i = 0; i < n && so_far < (double)way->top_p * sum; i++) {
        const double u = (double)phx_sample_uniform(key, tokens[i].id);
        const double noisy = tokens[i].z / t - log(-log(u));
        if (noisy > largest) {
            largest = noisy;
            best = tokens[i].id;
        }
        so_far += exp((tokens[i].z - top) / t);
    }
    return best;
}

static enum phx_status judge_sample(struct bench *b, void *user, int n)
{
    const struct sampling *o = user;
    int32_t ids[MOST_ROWS];
    struct token *tokens = malloc(VOCAB * sizeof *tokens);
    (void)n;
    if (tokens == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a vocabulary");
    enum phx_status status;
    PHX_TRY_GOTO(phx_tensor_download(b->stream, column(o->ids, PHX_I32, o->rows), ids), done);
    PHX_TRY_GOTO(phx_stream_synchronize(b->stream), done);
    for (int64_t row = 0; row < o->rows; row += 9) {
        const int32_t expected = draw(o, row, tokens);
        if (ids[row] == expected) continue;
        status = phx_fail(PHX_BAD_DATA, "the token of row %ld is %d instead of %d", (long)row,
                          ids[row], expected);
        break;
    }
done:
    free(tokens);
    return status;
}

static enum phx_status fill_sampling(struct bench *b, struct sampling *o)
{
    struct phx_sampling params[MOST_ROWS];
    int32_t slots[MOST_ROWS], positions[MOST_ROWS];
    memset(params, 0, sizeof params);
    for (int32_t i = 0; i < o->rows; i++) {
        slots[i] = i;
        positions[i] = LENGTH;
        params[i].temperature = o->way->temperature;
        params[i].top_p = o->way->top_p;
        params[i].top_k = o->way->top_k;
        params[i].repeat_penalty = 1.0f;
        params[i].seed = 1 + (uint64_t)i;
    }
    for (int64_t i = 0; i < o->rows * VOCAB; i++) /* few large ones, as a model's */
        o->logits[i] = 12.0f * (float)pow(bench_random(b, i), 9.0) + (float)bench_random(b, i + 5);
    PHX_TRY(phx_tensor_upload(b->stream, column(o->slots, PHX_I32, o->rows), slots));
    PHX_TRY(phx_tensor_upload(b->stream, column(o->positions, PHX_I32, o->rows), positions));
    PHX_TRY(phx_tensor_upload(
        b->stream, phx_tensor_view(o->params, 0, PHX_U8, o->rows, sizeof *params), params));
    return phx_tensor_upload(
        b->stream, phx_tensor_view(o->logits_buffer, 0, PHX_F32, o->rows, VOCAB), o->logits);
}

static enum phx_status open_sampling(struct bench *b, struct sampling *o)
{
    const struct {
        struct phx_buffer **buffer;
        size_t row_bytes;
    } buffers[] = {{&o->logits_buffer, VOCAB * sizeof(float)},
                   {&o->slots, sizeof(int32_t)},
                   {&o->positions, sizeof(int32_t)},
                   {&o->params, sizeof(struct phx_sampling)},
                   {&o->records, (MOST_CANDIDATES + 1) * sizeof(struct phx_candidate)},
                   {&o->ids, sizeof(int32_t)},
                   {&o->logprobs, sizeof(float)},
                   {&o->last, sizeof(int32_t)}};
    o->logits = malloc((size_t)o->rows * VOCAB * sizeof *o->logits);
    if (o->logits == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for logits");
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        PHX_TRY(phx_buffer_create(b->device, (size_t)o->rows * buffers[i].row_bytes,
                                  buffers[i].buffer));
    return fill_sampling(b, o);
}

static enum phx_status measure_sampling(struct bench *b, const struct way *way, int64_t rows)
{
    struct bench_row row = {.set = "small", .shape = "vocab 128256", .tp = 1, .op = way->name};
    struct sampling o = {.way = way, .rows = rows};
    row.rows = rows;
    if (!bench_wants(b, &row)) return PHX_OK;
    const struct bench_case c = {&o, launch_sample, prepare_sample, judge_sample, 1, 0};
    enum phx_status status = open_sampling(b, &o);
    if (status == PHX_OK) status = bench_measure(b, &c, &row);
    struct phx_buffer *buffers[] = {o.logits_buffer, o.slots, o.positions, o.params,
                                    o.records,       o.ids,   o.logprobs,  o.last};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) phx_buffer_destroy(buffers[i]);
    free(o.logits);
    return status;
}

enum phx_status bench_small(struct bench *b)
{
    const struct phx_limits limits = {.max_rows = MOST_ROWS,
                                      .max_seqs = MOST_ROWS,
                                      .max_length = LENGTH,
                                      .max_vocab = VOCAB,
                                      .max_heads = 64,
                                      .max_kv_heads = 8,
                                      .max_head_dim = 128};
    PHX_TRY(bench_stream(b, &limits));
    for (int32_t rows = 1; rows <= MOST_ROWS; rows *= MOST_ROWS) {
        for (int s = 0; s < BENCH_SHAPES; s++) {
            PHX_TRY(measure_norm(b, &bench_shapes[s], rows));
            PHX_TRY(measure_rope(b, &bench_shapes[s], rows));
        }
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
            PHX_TRY(measure_sampling(b, &ways[w], rows));
    }
    return PHX_OK;
}
