/* Products with the weights of a layer and of the head: few rows (gemv) and many (gemm). */
#include <math.h>
#include <stdlib.h>

#include "bench/bench_ops.h"
#include "kernels/base/check.h"

enum { MAX_WEIGHTS = 512, SAMPLES = 48, X_SHIFT = 12345, FEW = 64, SQUARE = 8192 };

struct product {
    const char *name;
    int64_t in, out; /* out: columns of the result; a gated weight has twice as many rows */
    bool gated, logits;
};

struct operands {
    struct product product;
    struct phx_weight *weights[MAX_WEIGHTS];
    int n_weights;
    struct phx_buffer *x_buffer, *out_buffer;
    struct phx_tensor x, out; /* the rows to use */
};

enum { N_PRODUCTS = 5, LM_HEAD = 4 };

static void products_of(const struct bench_shape *s, int tp, struct product out[N_PRODUCTS])
{
    const int64_t heads = (int64_t)s->n_heads * s->head_dim / tp;
    const int64_t kv = (int64_t)s->n_kv_heads * s->head_dim / tp;
    out[0] = (struct product){"qkv", s->hidden, heads + 2 * kv, false, false};
    out[1] = (struct product){"o", heads, s->hidden, false, false};
    out[2] = (struct product){"gate_up", s->hidden, s->ffn / tp, true, false};
    out[3] = (struct product){"down", s->ffn / tp, s->hidden, false, false};
    out[LM_HEAD] = (struct product){"lm_head", s->hidden, s->vocab / tp, false, true};
}

static int64_t weight_rows(const struct product *p)
{
    return p->gated ? 2 * p->out : p->out;
}

static void close_operands(struct operands *o)
{
    for (int i = 0; i < o->n_weights; i++) phx_weight_destroy(o->weights[i]);
    phx_buffer_destroy(o->x_buffer);
    phx_buffer_destroy(o->out_buffer);
    free(o);
}

/* Logits are f32. Outputs of normal size: 1 / sqrt(in) times the deviations of both factors. */
static enum phx_status fill_operands(struct bench *b, struct operands *o, int64_t max_rows)
{
    const struct product *p = &o->product;
    const struct phx_weight_shape shape = {
        .dtype = PHX_BF16, .rows = weight_rows(p), .cols = p->in};
    const int copies = bench_copies(b, phx_weight_bytes(b->device, &shape));
    for (int i = 0; i < copies; i++) {
        struct phx_dummy dummy = {phx_mix64((uint64_t)i + 1), 0.0f, 3.0f / sqrtf((float)p->in)};
        PHX_TRY(phx_weight_create(b->device, &shape, &o->weights[i]));
        o->n_weights++;
        PHX_TRY(phx_weight_write_dummy(b->stream, o->weights[i], 0, shape.rows, &dummy, 0, 0));
    }
    const size_t out_bytes = phx_dtype_bytes(PHX_F32, max_rows * p->out);
    PHX_TRY(bench_buffer(b, max_rows * p->in, X_SHIFT, &o->x_buffer));
    return phx_buffer_create(b->device, out_bytes, &o->out_buffer);
}

static void use_rows(const struct bench *b, struct operands *o, int64_t rows)
{
    const struct product *p = &o->product;
    o->x = phx_tensor_view(o->x_buffer, 0, b->info.activation, rows, p->in);
    o->out =
        phx_tensor_view(o->out_buffer, 0, p->logits ? PHX_F32 : b->info.activation, rows, p->out);
}

static enum phx_status launch(struct bench *b, void *user, int i)
{
    const struct operands *o = user;
    const struct phx_weight *weight = o->weights[i % o->n_weights];
    if (!o->product.gated)
        return phx_op_linear(b->stream,
                             &(struct phx_linear){.x = o->x, .weight = weight, .out = o->out});
    return phx_op_gate_up(
        b->stream,
        &(struct phx_gate_up){.x = o->x, .weight = weight, .activation = PHX_SILU, .out = o->out});
}

static enum phx_status prepare(struct bench *b, void *user)
{
    const struct operands *o = user;
    return phx_buffer_zero(b->stream, o->out_buffer, 0, phx_tensor_span_bytes(o->out));
}

/* ---- the judge ---- */

/* x[row] times a row of the weight; *error: what rounding of the sum may do. */
static double exact(const struct bench *b, const struct operands *o, const float *w, int64_t row,
                    double *error)
{
    double sum = 0.0, size = 0.0;
    for (int64_t k = 0; k < o->product.in; k++) {
        double term = bench_random(b, X_SHIFT + row * o->product.in + k) * (double)w[k];
        sum += term;
        size += fabs(term);
    }
    *error = 1e-5 * size;
    return sum;
}

/* Gate and up may be rounded to the activations' type before they meet. */
static enum phx_status expect(struct bench *b, const struct operands *o,
                              const struct phx_weight *weight, int64_t row, int64_t col, float *w,
                              double *expected, double *tolerance)
{
    const struct product *p = &o->product;
    const double rounding = bench_rounding(b);
    double gate_error, up_error;
    PHX_TRY(phx_weight_read(b->stream, weight, col, 1, w));
    const double gate = exact(b, o, w, row, &gate_error);
    *expected = gate;
    *tolerance = gate_error + rounding * fabs(gate);
    if (!p->gated) return PHX_OK;
    PHX_TRY(phx_weight_read(b->stream, weight, p->out + col, 1, w));
    const double up = exact(b, o, w, row, &up_error);
    gate_error += rounding * fabs(gate);
    up_error += rounding * fabs(up);
    const double silu = gate / (1.0 + exp(-gate));
    *expected = silu * up;
    *tolerance = 1.1 * gate_error * (fabs(up) + up_error) + fabs(silu) * up_error +
                 rounding * fabs(*expected);
    return PHX_OK;
}

static enum phx_status judge_samples(struct bench *b, const struct operands *o,
                                     const struct phx_weight *weight, float *w)
{
    for (int i = 0; i < SAMPLES; i++) {
        const int64_t row = (int64_t)(phx_mix64((uint64_t)i) % (uint64_t)o->out.rows);
        const int64_t col = i * (o->out.cols - 1) / (SAMPLES - 1);
        double expected, tolerance, got;
        PHX_TRY(expect(b, o, weight, row, col, w, &expected, &tolerance));
        PHX_TRY(bench_value(b, o->out, row, col, &got));
        if (!(fabs(got - expected) <= tolerance))
            return phx_fail(PHX_BAD_DATA, "output [%ld, %ld] is %g instead of %g", (long)row,
                            (long)col, got, expected);
    }
    return PHX_OK;
}

static enum phx_status judge(struct bench *b, void *user, int n)
{
    const struct operands *o = user;
    float *w = malloc((size_t)o->product.in * sizeof *w);
    if (w == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a row of a weight");
    enum phx_status status = judge_samples(b, o, o->weights[(n - 1) % o->n_weights], w);
    free(w);
    return status;
}

/* ---- sets ---- */

struct plan {
    const char *set;
    const int64_t *n_rows;
    int n;
};

static bool wants_any(const struct bench *b, const struct plan *plan, struct bench_row row)
{
    bool any = false;
    for (int i = 0; i < plan->n; i++) {
        row.rows = plan->n_rows[i];
        any |= bench_wants(b, &row);
    }
    return any;
}

/* us[i] becomes the time for plan->n_rows[i], or stays 0. */
static enum phx_status measure_product(struct bench *b, const struct plan *plan,
                                       const struct product *p, struct bench_row row, double *us)
{
    if (!wants_any(b, plan, row)) return PHX_OK;
    struct operands *o = calloc(1, sizeof *o);
    if (o == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for operands");
    o->product = *p;
    enum phx_status status;
    PHX_TRY_GOTO(fill_operands(b, o, plan->n_rows[plan->n - 1]), done);
    for (int i = 0; i < plan->n; i++) {
        const double values = (double)weight_rows(p) * (double)p->in;
        const struct bench_case c = {o, launch, prepare, judge, o->n_weights, 0};
        row.rows = plan->n_rows[i];
        row.bytes = row.rows <= FEW ? 2 * values : 0;
        row.flops = 2 * (double)row.rows * values;
        if (!bench_wants(b, &row)) continue;
        use_rows(b, o, row.rows);
        PHX_TRY_GOTO(bench_measure(b, &c, &row), done);
        us[i] = row.us;
    }
done:
    close_operands(o);
    return status;
}

/* The products of a step, if all were measured. */
static void print_step(const struct bench *b, const struct plan *plan, const struct bench_shape *s,
                       int tp, double (*us)[8])
{
    struct product p[N_PRODUCTS];
    products_of(s, tp, p);
    for (int i = 0; i < plan->n; i++) {
        struct bench_row row = {.set = plan->set, .shape = s->name, .tp = tp, .op = "step"};
        bool all = true;
        row.rows = plan->n_rows[i];
        for (int k = 0; k < N_PRODUCTS; k++) {
            const double times = k == LM_HEAD ? 1 : s->n_layers;
            all &= us[k][i] > 0;
            row.us += times * us[k][i];
            row.bytes += times * 2 * (double)weight_rows(&p[k]) * (double)p[k].in;
        }
        if (all) bench_print(b, &row);
    }
}

static enum phx_status measure_shape(struct bench *b, const struct plan *plan,
                                     const struct bench_shape *s, int tp)
{
    struct product products[N_PRODUCTS];
    double us[N_PRODUCTS][8] = {{0}};
    products_of(s, tp, products);
    const bool few = plan->n_rows[plan->n - 1] <= FEW; /* only few rows of a step have logits */
    for (int k = 0; k < N_PRODUCTS - (few ? 0 : 1); k++) {
        const struct product *p = &products[k];
        struct bench_row row = {.set = plan->set, .shape = s->name, .tp = tp, .op = p->name};
        row.in = p->in;
        row.out = weight_rows(p);
        PHX_TRY(measure_product(b, plan, p, row, us[k]));
    }
    if (few) print_step(b, plan, s, tp, us);
    return PHX_OK;
}

static enum phx_status measure_all(struct bench *b, const struct plan *plan)
{
    for (int k = 0; k < BENCH_SHAPES; k++) {
        const struct bench_shape *s = &bench_shapes[k];
        const struct phx_limits limits = {.max_rows = (int32_t)plan->n_rows[plan->n - 1],
                                          .max_in = s->ffn,
                                          .max_out = 2 * s->ffn};
        PHX_TRY(bench_stream(b, &limits));
        for (int tp = 1; tp <= 2; tp++) PHX_TRY(measure_shape(b, plan, s, tp));
    }
    return PHX_OK;
}

enum phx_status bench_gemv(struct bench *b)
{
    static const int64_t n_rows[] = {1, 2, 4, 8, 16, FEW};
    return measure_all(b, &(struct plan){"gemv", n_rows, 6});
}

/* And what is called the peak: a product of square matrices. */
enum phx_status bench_gemm(struct bench *b)
{
    static const int64_t n_rows[] = {512, 2048, SQUARE}, square_rows[] = {SQUARE};
    const struct product square = {"square", SQUARE, SQUARE, false, false};
    const struct plan plan = {"gemm", square_rows, 1};
    struct bench_row row = {.set = "gemm", .shape = "peak", .tp = 1, .op = "square"};
    double us = 0;
    row.in = row.out = SQUARE;
    PHX_TRY(bench_stream(b, &(struct phx_limits){SQUARE, .max_in = SQUARE, .max_out = SQUARE}));
    PHX_TRY(measure_product(b, &plan, &square, row, &us));
    return measure_all(b, &(struct plan){"gemm", n_rows, 3});
}
